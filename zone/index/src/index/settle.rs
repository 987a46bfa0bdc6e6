//! Computes anew what is marked, in the order in which one depends on the other. A value that comes out the same marks
//! nothing further.
use super::lookups::{Watcher, watching_proxies};
use super::mesh::MeshIndex;
use crate::identity::{Identified, Subject, authority_of, authority_of_mtls, identify};
use crate::lookup::Lookup;
use crate::problems::{Found, Problems};
use crate::proxy::{Proxy, Reach};
use crate::view::OutboundView;
use crate::{Destination, DestinationKey, Source, service};
use shared_model::core::Mesh;
use shared_model::{Kri, Problem, ResourceKey, kind, labels};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub touched: BTreeSet<Arc<str>>,
    /// Proxies that were not touched, but for the endpoints of these destinations.
    pub moved: BTreeMap<Arc<str>, Vec<Arc<Destination>>>,
    /// Other MeshServices are wanted than before.
    pub services: bool,
    /// Other authorities are wanted than before.
    pub authorities: bool,
}

/// What came of the services.
#[derive(Debug, Default)]
struct Services {
    /// Other MeshServices are wanted than before.
    wanted: bool,
    /// Destinations that say something else, or are gone.
    changed: Vec<DestinationKey>,
    /// Destinations that have other endpoints, and else say the same.
    moved: Vec<DestinationKey>,
}

impl MeshIndex {
    pub fn settle(&mut self, problems: &mut Problems) -> Settled {
        let existed = self.room.exists;
        self.settle_mesh();
        self.settle_identities();
        self.settle_trust();
        let authorities = self.settle_authorities();
        self.settle_selections();
        let Services { wanted: services, changed, moved } = self.settle_services(problems);
        self.settle_reaches();
        for key in &changed {
            self.marks.touched.extend(watching_proxies(&self.lookups, key).cloned());
        }
        self.state_problems(problems);
        let moved = self.clients_of(&moved);
        let marks = std::mem::take(&mut self.marks);
        let flipped = existed != self.room.exists;
        let (services, authorities) = (services || flipped, authorities || flipped);
        Settled { touched: marks.touched, moved, services, authorities }
    }

    /// The proxies that reach destinations whose endpoints alone are other than before, unless they are touched anyway.
    fn clients_of(&self, moved: &[DestinationKey]) -> BTreeMap<Arc<str>, Vec<Arc<Destination>>> {
        let mut clients: BTreeMap<Arc<str>, Vec<Arc<Destination>>> = BTreeMap::new();
        for destination in moved.iter().filter_map(|key| self.room.destination(key)) {
            let watching: BTreeSet<_> = watching_proxies(&self.lookups, &destination.key).collect();
            for name in watching.into_iter().filter(|name| !self.marks.touched.contains(*name)) {
                clients.entry(name.clone()).or_default().push(destination.clone());
            }
        }
        clients
    }

    /// Takes back all that a proxy that is gone had a part in.
    pub(super) fn leave(&mut self, name: &Arc<str>, proxy: &Proxy) {
        let watcher = Watcher::Proxy(name.clone());
        for lookup in &proxy.reach.lookups {
            self.lookups.unwatch(lookup, &watcher);
        }
        for held in proxy.selection.iter() {
            *self.marks.matched.entry(held.id.clone()).or_default() -= 1;
        }
        self.count_authority(&proxy.identified, false);
    }

    fn count_authority(&mut self, identified: &Identified, is_in: bool) {
        let Some(spec) = &identified.spec else { return };
        let count = self.authorities.entry(spec.authority.clone()).or_default();
        *count = if is_in { *count + 1 } else { *count - 1 };
        let (unused, first) = (*count == 0, *count == 1 && is_in);
        if unused {
            self.authorities.remove(&spec.authority);
        }
        self.marks.authorities |= unused || first;
    }

    fn mesh(&self) -> Option<&Arc<Mesh>> {
        self.meshes.values().next().and_then(Option::as_ref)
    }

    fn settle_mesh(&mut self) {
        if !self.marks.mesh {
            return;
        }
        let exists = self.mesh().is_some();
        if exists != self.room.exists {
            self.room.exists = exists;
            self.marks.touched.extend(self.room.proxies.keys().cloned());
        }
        self.marks.identities = true;
    }

    fn settle_identities(&mut self) {
        let of_all = std::mem::take(&mut self.marks.identities);
        let mut names = std::mem::take(&mut self.marks.identity_of);
        if of_all {
            self.marks.authorities = true;
            names.extend(self.room.proxies.keys().cloned());
            let selects = |identity: &shared_model::core::MeshIdentity| {
                identity.selector.as_ref().is_some_and(|selector| selector.dataplane.is_some())
            };
            let has_identities = self.mesh().is_some_and(|mesh| mesh.enabled_backend().is_some())
                || self.identities.values().any(|identity| selects(identity));
            if has_identities != self.has_identities {
                self.has_identities = has_identities;
                self.marks.services.extend(self.services.all().cloned());
            }
        }
        for name in names {
            let Some(proxy) = self.room.proxies.get(&name) else { continue };
            let subject = Subject {
                mesh: &self.name,
                zone: &self.zone,
                name: &name,
                labels: &proxy.body.labels,
                dataplane: &proxy.body.dataplane,
            };
            let identities = self.identities.iter().map(|((name, _), identity)| (name.as_str(), identity));
            let identified = identify(&subject, self.mesh().map(|mesh| &**mesh), identities);
            if *proxy.identified == identified {
                continue;
            }
            let identified = Arc::new(identified);
            self.marks.services.extend(self.services.about(&proxy.body));
            let before = proxy.identified.clone();
            self.count_authority(&identified, true);
            self.count_authority(&before, false);
            self.update(&name, |proxy| proxy.identified = identified);
        }
    }

    /// Replaces a part of a proxy that its view shows.
    fn update(&mut self, name: &Arc<str>, part: impl FnOnce(&mut Proxy)) {
        if let Some(proxy) = self.room.proxies.get_mut(name) {
            part(Arc::make_mut(proxy));
            self.marks.touched.insert(name.clone());
            self.marks.problems_of.insert(name.clone());
        }
    }

    fn settle_trust(&mut self) {
        if !self.marks.trusts {
            return;
        }
        let mut domains: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for trust in self.trusts.values() {
            let bundles = trust.ca_bundles.iter().map(|bundle| bundle.pem.value.clone());
            domains.entry(trust.trust_domain.clone()).or_default().extend(bundles);
        }
        let trust = domains.into_iter().map(|(domain, pems)| (domain, pems.into_iter().collect())).collect();
        if *self.room.trust != trust {
            self.room.trust = Arc::new(trust);
            let trusting = self.room.proxies.iter().filter(|(_, proxy)| proxy.identified.spec.is_some());
            self.marks.touched.extend(trusting.map(|(name, _)| name.clone()));
        }
    }

    fn settle_authorities(&mut self) -> bool {
        if !self.marks.authorities {
            return false;
        }
        let of_identities = self
            .identities
            .iter()
            .filter_map(|((name, _), identity)| authority_of(&self.name, &self.zone, name, identity));
        let of_mesh = self.mesh().and_then(|mesh| mesh.enabled_backend());
        let of_mesh = of_mesh.map(|backend| authority_of_mtls(&self.name, &backend.name));
        let wanted: BTreeSet<_> =
            of_identities.chain(of_mesh).chain(self.authorities.keys().cloned()).collect();
        let differ = *self.room.authorities != wanted;
        if differ {
            self.room.authorities = Arc::new(wanted);
        }
        differ
    }

    /// Computes the marked services and the lookups that may find something else for it.
    fn settle_services(&mut self, problems: &mut Problems) -> Services {
        let mut wanted_differ = false;
        let (mut changed, mut moved) = (Vec::new(), Vec::new());
        let mut lookups = BTreeSet::new();
        for kri in std::mem::take(&mut self.marks.services) {
            wanted_differ |= self.want(&kri);
            let (definition, unused) = self.services.define(&kri);
            let reason = || format!("another MeshService is {kri} already: this one does not count");
            let stated: Vec<(ResourceKey, Source, Vec<Problem>)> = self
                .services
                .places(&kri)
                .map(|place| {
                    let key = ResourceKey::new(kind::MESH_SERVICE, &self.name, &place.0);
                    let held_back = unused.contains(&place).then(|| Problem::new("name", reason()));
                    (key, place.1, held_back.into_iter().collect())
                })
                .collect();
            for (key, source, found) in stated {
                problems.set(&key, Found::Relating(source), found);
            }
            let offers = definition.map(|definition| {
                let proxies = self.candidates(&definition.service);
                let offers = service::destinations(&definition, &self.zone, &proxies, self.has_identities);
                (definition, offers)
            });
            let difference = self.services.set(&kri, offers);
            if !difference.renamed.is_empty() {
                // Routes may speak of it otherwise now.
                let keys =
                    difference.changed.iter().map(|destination| &destination.key).chain(&difference.gone);
                for key in keys {
                    self.routes.forget(key);
                    self.marks.reach_of.extend(watching_proxies(&self.lookups, key).cloned());
                }
            }
            for destination in difference.changed {
                let has_moved = difference.moved.contains(&destination.key);
                match has_moved {
                    true => moved.push(destination.key.clone()),
                    false => changed.push(destination.key.clone()),
                }
                self.place(destination, has_moved);
            }
            for key in difference.gone {
                self.displace(&key);
                changed.push(key);
            }
            for called in &difference.renamed {
                let tags = called.tag.as_deref().into_iter().collect();
                lookups.extend(self.lookups.about(&called.name, &tags, &[&called.labels]));
            }
        }
        for lookup in lookups {
            let found = self.services.resolve(&lookup);
            if !self.lookups.set(&lookup, found) {
                continue;
            }
            for watcher in self.lookups.get(&lookup).into_iter().flat_map(|watched| &watched.watchers) {
                match watcher {
                    Watcher::Proxy(name) => self.marks.reach_of.insert(name.clone()),
                    Watcher::Policy(id) => self.marks.problems_of_policies.insert(id.clone()),
                };
            }
        }
        Services { wanted: wanted_differ, changed, moved }
    }

    /// What the Dataplanes call for under a name; true when something else is to be stored than before.
    fn want(&mut self, kri: &Kri) -> bool {
        let Some(name) = self.services.local_name(kri) else { return false };
        let wanted = service::from_tag(name, &self.tagged(labels::SERVICE, name))
            .or_else(|| service::from_workload(name, &self.of_workload(name)));
        let differs = self.services.want(name, wanted);
        let wanted = self.services.wanted(name);
        if !differs && wanted.is_some() == self.room.services.contains_key(name) {
            return false;
        }
        let before = match wanted.map(|wanted| service::resource(&self.name, &self.zone, name, wanted)) {
            Some(resource) => self.room.services.insert(name.to_owned(), Arc::new(resource)),
            None => self.room.services.remove(name),
        };
        before.is_some() || self.room.services.contains_key(name)
    }

    fn settle_reaches(&mut self) {
        for name in std::mem::take(&mut self.marks.reach_of) {
            let Some(proxy) = self.room.proxies.get(&name).cloned() else { continue };
            let watcher = Watcher::Proxy(name.clone());
            let (mut reach, mut outbounds) = (Reach::default(), Vec::new());
            let mut scope: BTreeSet<Arc<DestinationKey>> = BTreeSet::new();
            for (i, (outbound, ask)) in proxy.body.asks().enumerate() {
                let watched = match ask {
                    Ok(ask) => {
                        self.lookups.watch(&ask, watcher.clone(), |lookup| self.services.resolve(lookup))
                    }
                    Err(problem) => {
                        reach.problems.push(problem);
                        continue;
                    }
                };
                reach.lookups.insert(watched.lookup.clone());
                match watched.found.first() {
                    Some(key) => outbounds.push(OutboundView {
                        address: outbound.address().to_owned(),
                        port: outbound.port,
                        destination: key.clone(),
                    }),
                    None => {
                        let path = format!("networking.outbound[{i}]");
                        reach.problems.push(Problem::new(path, format!("leads nowhere: {}", watched.lookup)));
                    }
                }
                scope.extend(watched.found.iter().cloned());
            }
            let mut routed = BTreeSet::new();
            for OutboundView { destination, .. } in &outbounds {
                let Some(destination) = self.room.destination(destination) else { continue };
                let said = self.routes.of(destination).iter();
                let selected = |id: &ResourceKey| {
                    self.room.policies.get(id).is_some_and(|held| proxy.selection.has(held.number))
                };
                routed.extend(said.filter(|(id, _)| selected(id)).flat_map(|(_, lookups)| lookups).cloned());
            }
            for lookup in &routed {
                let watched =
                    self.lookups.watch(lookup, watcher.clone(), |lookup| self.services.resolve(lookup));
                reach.lookups.insert(watched.lookup.clone());
                scope.extend(watched.found.iter().cloned());
            }
            for lookup in proxy.reach.lookups.difference(&reach.lookups) {
                self.lookups.unwatch(lookup, &watcher);
            }
            reach.outbounds = Arc::new(outbounds);
            reach.scope =
                scope.iter().filter_map(|key| self.room.destinations.get(&**key)).copied().collect();
            if *proxy.reach != reach {
                let place = Arc::as_ptr(&proxy.body.outbounds) as usize as u64;
                let reach = self.reaches.of(place, reach);
                self.update(&name, |proxy| proxy.reach = reach);
            }
        }
    }

    fn state_problems(&mut self, problems: &mut Problems) {
        for name in &self.marks.problems_of {
            let key = ResourceKey::new(kind::DATAPLANE, &self.name, &**name);
            let proxy = self.room.proxies.get(name);
            let found = proxy.map(|proxy| [proxy.problems(), proxy.body.remarks.clone()].concat());
            problems.set(&key, Found::Relating(Source::Owned), found.unwrap_or_default());
        }
        for key in &self.marks.problems_of_policies {
            let mut counts = true;
            for source in [Source::Followed, Source::Owned] {
                let lost = |lookup: &&Lookup| {
                    self.lookups.get(lookup).is_none_or(|watched| watched.found.is_empty())
                };
                let found = match self.policies.get(&(key.clone(), source)) {
                    Some(held) if std::mem::take(&mut counts) => {
                        let lost = held.lookups.iter().filter(lost);
                        lost.map(|lookup| Problem::new("", format!("a route leads nowhere: {lookup}")))
                            .collect()
                    }
                    Some(_) => {
                        vec![Problem::new(
                            "name",
                            "global has a policy of this kind and name: this one does not count",
                        )]
                    }
                    None => Vec::new(),
                };
                problems.set(key, Found::Relating(source), found);
            }
        }
    }
}
