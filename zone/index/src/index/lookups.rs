//! The lookups that someone watches, and what they resolve to.
use crate::DestinationKey;
use crate::lookup::{By, Lookup, Ports};
use shared_model::ResourceKey;
use shared_model::labels::Labels;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Lookups {
    watched: BTreeMap<By, BTreeMap<Ports, Watched>>,
    /// Which lookups lead to a destination.
    reached: BTreeMap<Arc<DestinationKey>, BTreeSet<Arc<Lookup>>>,
}

#[derive(Debug)]
pub(super) struct Watched {
    pub lookup: Arc<Lookup>,
    /// The best first.
    pub found: Vec<Arc<DestinationKey>>,
    pub watchers: BTreeSet<Watcher>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Watcher {
    Proxy(Arc<str>),
    Policy(ResourceKey),
}

impl Lookups {
    pub fn get(&self, lookup: &Lookup) -> Option<&Watched> {
        self.watched.get(&lookup.by)?.get(&lookup.port)
    }

    /// Adds a watcher; `resolve` answers a lookup that nobody has watched so far.
    pub fn watch(
        &mut self,
        lookup: &Lookup,
        watcher: Watcher,
        resolve: impl FnOnce(&Lookup) -> Vec<DestinationKey>,
    ) -> &Watched {
        if self.get(lookup).is_none() {
            let ports = self.watched.entry(lookup.by.clone()).or_default();
            let lookup = Arc::new(lookup.clone());
            let fresh = Watched { lookup: lookup.clone(), found: Vec::new(), watchers: BTreeSet::new() };
            ports.insert(lookup.port, fresh);
            let found = resolve(&lookup);
            self.set(&lookup, found);
        }
        let ports = self.watched.get_mut(&lookup.by);
        let watched =
            ports.and_then(|ports| ports.get_mut(&lookup.port)).expect("it was put there if it was absent");
        watched.watchers.insert(watcher);
        watched
    }

    pub fn unwatch(&mut self, lookup: &Lookup, watcher: &Watcher) {
        let Some(ports) = self.watched.get_mut(&lookup.by) else { return };
        let Some(watched) = ports.get_mut(&lookup.port) else { return };
        watched.watchers.remove(watcher);
        if !watched.watchers.is_empty() {
            return;
        }
        let gone = ports.remove(&lookup.port);
        if ports.is_empty() {
            self.watched.remove(&lookup.by);
        }
        for key in gone.into_iter().flat_map(|watched| watched.found) {
            self.forget(&key, lookup);
        }
    }

    /// Puts down what a watched lookup resolves to; true when it is something else than before.
    pub fn set(&mut self, lookup: &Lookup, found: Vec<DestinationKey>) -> bool {
        let Some(watched) = self.watched.get_mut(&lookup.by).and_then(|ports| ports.get_mut(&lookup.port))
        else {
            return false;
        };
        if watched.found.iter().map(|key| &**key).eq(&found) {
            return false;
        }
        let lookup = watched.lookup.clone();
        let interned = |key: DestinationKey| match self.reached.get_key_value(&key) {
            Some((known, _)) => known.clone(),
            None => Arc::new(key),
        };
        let found: Vec<_> = found.into_iter().map(interned).collect();
        let before = std::mem::replace(&mut watched.found, found.clone());
        for key in before.iter().filter(|key| !found.contains(key)) {
            self.forget(key, &lookup);
        }
        for key in found {
            self.reached.entry(key).or_default().insert(lookup.clone());
        }
        true
    }

    fn forget(&mut self, key: &DestinationKey, lookup: &Lookup) {
        if let Some(lookups) = self.reached.get_mut(key) {
            lookups.remove(lookup);
            if lookups.is_empty() {
                self.reached.remove(key);
            }
        }
    }

    /// Everyone whose lookups lead to a destination.
    pub fn watchers_of(&self, key: &DestinationKey) -> impl Iterator<Item = &Watcher> {
        let lookups = self.reached.get(key).into_iter().flatten();
        lookups.filter_map(|lookup| self.get(lookup)).flat_map(|watched| &watched.watchers)
    }

    /// The lookups whose answer may change when a service comes, goes, or is called otherwise.
    pub fn about(&self, name: &str, tags: &BTreeSet<&str>, labels: &[&Labels]) -> Vec<Arc<Lookup>> {
        let by_name = self.watched.get(&By::Name(name.to_owned()));
        let by_tag = tags.iter().chain([&name]).map(|tag| self.watched.get(&By::Tag((*tag).to_owned())));
        let start = By::Labels { name: String::new(), labels: Labels::new() };
        let labelled = self.watched.range(start..=By::Tag(String::new())).filter(|(by, _)| match by {
            By::Labels { name: asked, labels: wanted } => {
                (asked.is_empty() || asked == name)
                    && labels.iter().any(|labels| shared_model::selector::is_subset(wanted, labels))
            }
            By::Name(_) | By::Tag(_) => false,
        });
        let groups = by_name.into_iter().chain(by_tag.flatten()).chain(labelled.map(|(_, ports)| ports));
        groups.flat_map(|ports| ports.values().map(|watched| watched.lookup.clone())).collect()
    }
}

/// The proxies that reach a destination.
pub(super) fn watching_proxies<'a>(
    lookups: &'a Lookups,
    key: &DestinationKey,
) -> impl Iterator<Item = &'a Arc<str>> {
    lookups.watchers_of(key).filter_map(|watcher| match watcher {
        Watcher::Proxy(name) => Some(name),
        Watcher::Policy(_) => None,
    })
}
