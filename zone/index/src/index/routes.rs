//! Which policies route requests to a destination elsewhere, and where. A proxy reaches the backends of a route only
//! when it reaches what the route is about, so a route for one service leaves the clients of the others alone.
//!
//! What a policy says of a destination does not depend on the proxy once it selects one, so it is asked once for each
//! policy and destination.
use crate::lookup::{Lookup, Ports};
use crate::outlook::{Held, Scope};
use crate::{Destination, DestinationKey};
use shared_model::{ResourceKey, kind};
use shared_policy::kinds::http_route::{self, Filter};
use shared_policy::{Matched, ProxyFacts};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Policies with routes that select some proxy, each as if it were alone.
    routing: BTreeMap<ResourceKey, Matched>,
    /// The destinations that were asked for, and what each policy's routes make of them. Those that say nothing are not
    /// in the inner map.
    known: BTreeMap<DestinationKey, BTreeMap<ResourceKey, BTreeSet<Lookup>>>,
}

impl Routes {
    /// Drops what a policy said, and answers it, by destination.
    pub fn remove(&mut self, id: &ResourceKey) -> BTreeMap<DestinationKey, BTreeSet<Lookup>> {
        if self.routing.remove(id).is_none() {
            return BTreeMap::new();
        }
        let said = self.known.iter_mut().filter_map(|(key, said)| Some((key.clone(), said.remove(id)?)));
        said.collect()
    }

    /// What a policy says, by destination.
    pub fn said(&self, id: &ResourceKey) -> BTreeMap<DestinationKey, BTreeSet<Lookup>> {
        if !self.routing.contains_key(id) {
            return BTreeMap::new();
        }
        let said = self.known.iter().filter_map(|(key, said)| Some((key.clone(), said.get(id)?.clone())));
        said.collect()
    }

    /// Takes in a policy, given a proxy that it selects.
    pub fn add<'a>(
        &mut self,
        held: &Held,
        facts: &ProxyFacts,
        destination: impl Fn(&DestinationKey) -> Option<&'a Arc<Destination>>,
    ) {
        if held.lookups.is_empty() || held.scope == Scope::Nothing || self.routing.contains_key(&held.id) {
            return;
        }
        let alone = Matched::of([&held.policy], facts);
        for (key, said) in &mut self.known {
            let lookups =
                destination(key).map(|destination| backends(&alone, destination)).unwrap_or_default();
            if !lookups.is_empty() {
                said.insert(held.id.clone(), lookups);
            }
        }
        self.routing.insert(held.id.clone(), alone);
    }

    /// What each policy's routes make of a destination.
    pub fn of(&mut self, destination: &Destination) -> &BTreeMap<ResourceKey, BTreeSet<Lookup>> {
        let routing = &self.routing;
        self.known.entry(destination.key.clone()).or_insert_with(|| {
            let said = routing.iter().map(|(id, alone)| (id.clone(), backends(alone, destination)));
            said.filter(|(_, lookups)| !lookups.is_empty()).collect()
        })
    }

    /// The destination is gone, or policies may see it otherwise now.
    pub fn forget(&mut self, key: &DestinationKey) {
        self.known.remove(key);
    }
}

fn backends(matched: &Matched, destination: &Destination) -> BTreeSet<Lookup> {
    let mut lookups = BTreeSet::new();
    for rule in http_route::outbound(matched, &destination.target()) {
        let mirrored = rule.filters.iter().filter_map(|filter| match filter {
            Filter::Mirror(mirror) => Some(&mirror.backend),
            _ => None,
        });
        let all = rule.backends.iter().map(|weighted| &weighted.backend).chain(mirrored);
        lookups.extend(all.filter(|b| b.kind == kind::MESH_SERVICE).map(|b| Lookup::of(b, Ports::All)));
    }
    lookups
}
