//! The services of a mesh: which of several definitions of one counts, how references find it, and what depends on whom.
use super::pairs::ByPair;
use crate::lookup::{By, Lookup, Ports, pick};
use crate::proxy::{Body, effective_labels};
use crate::service::{Definition, GENERATED_BY, generated_labels};
use crate::{Destination, DestinationKey, Source};
use shared_model::core::mesh_service::MeshService;
use shared_model::{Kri, Resource, kind, labels, labels::Labels, names};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Services {
    mesh: String,
    zone: String,
    stored: BTreeMap<Place, Stored>,
    by_kri: BTreeMap<Kri, BTreeSet<Place>>,
    /// Those that count.
    defined: BTreeMap<Kri, Defined>,
    /// What the Dataplanes call for, by name.
    wanted: BTreeMap<String, Arc<MeshService>>,
    by_name: BTreeMap<String, BTreeSet<Kri>>,
    by_tag: BTreeMap<String, BTreeSet<Kri>>,
    selecting_tag: ByPair<Kri>,
    selecting_label: ByPair<Kri>,
    selecting_proxy: BTreeMap<String, BTreeSet<Kri>>,
}

/// The name of a resource and its source.
pub(super) type Place = (String, Source);

/// A MeshService as it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    definition: Definition,
}

#[derive(Debug)]
struct Defined {
    definition: Definition,
    destinations: Vec<Arc<Destination>>,
}

/// What a new definition or new destinations of a service change.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Destinations that are new or say something else, and those that are gone.
    pub changed: Vec<Arc<Destination>>,
    /// Those of the changed of which nothing but the endpoints is other than before.
    pub moved: Vec<DestinationKey>,
    pub gone: Vec<DestinationKey>,
    /// What the service is and was called, when references may find something else now.
    pub renamed: Vec<Calling>,
}

/// How references find a service.
#[derive(Debug)]
pub(super) struct Calling {
    pub name: String,
    pub tag: Option<String>,
    pub labels: Labels,
}

impl Stored {
    pub fn of(source: Source, zone: &str, resource: &Resource, service: Arc<MeshService>) -> Stored {
        let owned = source == Source::Owned;
        let zone = if owned { zone } else { resource.zone().unwrap_or_default() };
        let kri = Kri { zone: zone.to_owned(), ..Kri::of(resource).unwrap_or_default() };
        let generated = owned && resource.labels.get(labels::MANAGED_BY).is_some_and(|by| by == GENERATED_BY);
        let labels = effective_labels(resource, zone);
        Stored { definition: Definition { kri, service, labels, generated, local: owned } }
    }
}

impl Services {
    pub fn new(mesh: &str, zone: &str) -> Services {
        Services {
            mesh: mesh.to_owned(),
            zone: zone.to_owned(),
            stored: BTreeMap::new(),
            by_kri: BTreeMap::new(),
            defined: BTreeMap::new(),
            wanted: BTreeMap::new(),
            by_name: BTreeMap::new(),
            by_tag: BTreeMap::new(),
            selecting_tag: ByPair::default(),
            selecting_label: ByPair::default(),
            selecting_proxy: BTreeMap::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.stored.is_empty() && self.defined.is_empty()
    }

    /// The identifier of a service of this zone.
    pub fn local(&self, name: &str) -> Kri {
        let short = kind::by_name(kind::MESH_SERVICE).map_or("msvc", |kind| kind.short);
        Kri {
            short: short.to_owned(),
            mesh: self.mesh.clone(),
            zone: self.zone.clone(),
            namespace: String::new(),
            name: name.to_owned(),
            section: String::new(),
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Kri> {
        self.defined.keys()
    }

    /// Takes in a MeshService or its absence; answers the services to be computed anew.
    pub fn put(&mut self, place: Place, stored: Option<Stored>) -> BTreeSet<Kri> {
        // Whether its name is free for a generated one.
        let mut concerned = BTreeSet::from([self.local(&place.0)]);
        if let Some(before) = self.stored.remove(&place) {
            let kri = before.definition.kri;
            remove(&mut self.by_kri, &kri, &place);
            concerned.insert(kri);
        }
        if let Some(stored) = stored {
            let kri = stored.definition.kri.clone();
            self.by_kri.entry(kri.clone()).or_default().insert(place.clone());
            self.stored.insert(place, stored);
            concerned.insert(kri);
        }
        concerned
    }

    /// The name of a service that the Dataplanes of this zone may call for.
    pub fn local_name<'a>(&self, kri: &'a Kri) -> Option<&'a str> {
        (kri.zone == self.zone && kri.namespace.is_empty()).then_some(kri.name.as_str())
    }

    /// Puts down what the Dataplanes call for; true when it is something else than before.
    pub fn want(&mut self, name: &str, wanted: Option<MeshService>) -> bool {
        if self.wanted.get(name).map(|before| &**before) == wanted.as_ref() {
            return false;
        }
        match wanted {
            Some(wanted) => self.wanted.insert(name.to_owned(), Arc::new(wanted)),
            None => self.wanted.remove(name),
        };
        true
    }

    /// The MeshService that is to be stored under a name, if the Dataplanes call for one and no user has taken the name.
    pub fn wanted(&self, name: &str) -> Option<&MeshService> {
        let of_a_user =
            |place: &Place| self.stored.get(place).is_some_and(|stored| !stored.definition.generated);
        let name_taken = of_a_user(&(name.to_owned(), Source::Owned));
        let kri_taken = self.by_kri.get(&self.local(name)).is_some_and(|places| places.iter().any(of_a_user));
        let free = !name_taken && !kri_taken && names::check_name("name", name).is_none();
        self.wanted.get(name).filter(|_| free).map(|wanted| &**wanted)
    }

    /// The definition that counts: a user's, else what the Dataplanes call for, else what was generated earlier and
    /// serves nobody now. And the other users' definitions of the same, which do not count.
    pub fn define(&self, kri: &Kri) -> (Option<Definition>, Vec<&Place>) {
        let places = || self.by_kri.get(kri).into_iter().flatten();
        let stored = |place: &Place| self.stored.get(place).map(|stored| &stored.definition);
        let is_users = |place: &&Place| stored(place).is_some_and(|definition| !definition.generated);
        let mut of_users: Vec<&Place> = places().filter(is_users).collect();
        of_users.sort_by_key(|(name, source)| (*source != Source::Owned, name));
        if let Some((first, rest)) = of_users.split_first() {
            return (stored(first).cloned(), rest.to_vec());
        }
        let wanted = self.local_name(kri).and_then(|name| self.wanted.get(name));
        let definition = match wanted {
            Some(service) => Some(Definition {
                kri: kri.clone(),
                service: service.clone(),
                labels: generated_labels(&self.mesh, &self.zone, &kri.name),
                generated: true,
                local: true,
            }),
            None => places().find_map(stored).cloned(),
        };
        (definition, Vec::new())
    }

    /// Every user's definition of a service, whether it counts or not.
    pub fn places(&self, kri: &Kri) -> impl Iterator<Item = &Place> {
        self.by_kri.get(kri).into_iter().flatten()
    }

    /// Puts down a service with what it offers, or that it is none any more.
    pub fn set(&mut self, kri: &Kri, now: Option<(Definition, Vec<Destination>)>) -> Difference {
        let before = self.defined.remove(kri);
        if let Some(before) = &before {
            self.file(&before.definition, false);
        }
        let mut difference = Difference::default();
        let now = now.map(|(definition, offers)| {
            let old = before.as_ref().map(|before| before.destinations.as_slice()).unwrap_or_default();
            let destinations = offers.into_iter().map(|mut offer| {
                let Some(known) = old.iter().find(|known| known.key == offer.key) else {
                    difference.changed.push(Arc::new(offer));
                    return difference.changed.last().expect("it was pushed just now").clone();
                };
                if **known == offer {
                    return known.clone();
                }
                if known.endpoints == offer.endpoints {
                    offer.endpoints = known.endpoints.clone();
                }
                if known.front == offer.front {
                    offer.front = known.front.clone();
                    difference.moved.push(offer.key.clone());
                }
                difference.changed.push(Arc::new(offer));
                difference.changed.last().expect("it was pushed just now").clone()
            });
            let destinations = destinations.collect();
            Defined { definition, destinations }
        });
        fn keys(defined: &Option<Defined>) -> Vec<(&DestinationKey, u16)> {
            defined.iter().flat_map(|defined| &defined.destinations).map(|d| (&d.key, d.port)).collect()
        }
        let (old_keys, new_keys) = (keys(&before), keys(&now));
        let is_new = |key: &DestinationKey| new_keys.iter().any(|(new, _)| *new == key);
        difference.gone =
            old_keys.iter().filter(|(key, _)| !is_new(key)).map(|(key, _)| (*key).clone()).collect();
        let called =
            |defined: &Option<Defined>| defined.as_ref().map(|defined| Calling::of(&defined.definition));
        let (was, is) = (called(&before), called(&now));
        let same_calling = match (&was, &is) {
            (Some(was), Some(is)) => was.tag == is.tag && was.labels == is.labels,
            (was, is) => was.is_none() && is.is_none(),
        };
        if !same_calling || old_keys != new_keys {
            difference.renamed = was.into_iter().chain(is).collect();
        }
        if let Some(now) = now {
            self.file(&now.definition, true);
            self.defined.insert(kri.clone(), now);
        }
        difference
    }

    /// Services that may count this proxy among theirs.
    pub fn about(&self, body: &Body) -> BTreeSet<Kri> {
        let tags = || body.inbounds.iter().flat_map(|inbound| &inbound.facts.tags);
        let by_tag = tags().flat_map(|(key, value)| self.selecting_tag.iter(key, value));
        let by_label = body.labels.iter().flat_map(|(key, value)| self.selecting_label.iter(key, value));
        let by_name = self.selecting_proxy.get(&body.id.name).into_iter().flatten();
        let workload = body.labels.get(labels::WORKLOAD).map(String::as_str);
        let generated = body.services().chain(workload).map(|name| self.local(name));
        by_tag.chain(by_label).chain(by_name).cloned().chain(generated).collect()
    }

    /// The destinations that a lookup means, the best first.
    pub fn resolve(&self, lookup: &Lookup) -> Vec<DestinationKey> {
        let of = |kris: Option<&BTreeSet<Kri>>| -> Vec<&Arc<Destination>> {
            let defined = kris.into_iter().flatten().filter_map(|kri| self.defined.get(kri));
            defined.flat_map(|defined| &defined.destinations).collect()
        };
        let port = match lookup.port {
            Ports::Number(port) => Some(port),
            Ports::Any | Ports::All => None,
        };
        let pick = |candidates: Vec<&Arc<Destination>>| {
            pick(&self.zone, candidates.into_iter(), port, None).cloned()
        };
        let best = match &lookup.by {
            By::Name(name) => pick(of(self.by_name.get(name))),
            By::Labels { name, labels } => {
                let fits = |defined: &&Defined| {
                    let definition = &defined.definition;
                    (name.is_empty() || definition.kri.name == *name)
                        && shared_model::selector::is_subset(labels, &definition.labels)
                };
                pick(self.defined.values().filter(fits).flat_map(|defined| &defined.destinations).collect())
            }
            By::Tag(tag) => {
                let (tagged, named) = (of(self.by_tag.get(tag)), of(self.by_name.get(tag)));
                let in_zone = |all: &[&'_ Arc<Destination>], own: bool| {
                    pick(all.iter().copied().filter(|d| (d.key.zone == self.zone) == own).collect())
                };
                let own = in_zone(&tagged, true).or_else(|| in_zone(&named, true));
                own.or_else(|| in_zone(&tagged, false)).or_else(|| in_zone(&named, false))
            }
        };
        let Some(best) = best else { return Vec::new() };
        let mut found = vec![best.key.clone()];
        if lookup.port == Ports::All {
            let service = self.defined.get(&best.key.with_section(""));
            let keys = service.into_iter().flat_map(|service| &service.destinations).map(|d| d.key.clone());
            found.extend(keys.filter(|key| *key != best.key));
        }
        found
    }

    /// Files a service under its names and under what it selects, or takes it out.
    fn file(&mut self, definition: &Definition, is_in: bool) {
        let kri = &definition.kri;
        let put = |sets: &mut BTreeMap<String, BTreeSet<Kri>>, key: &str| match is_in {
            true => {
                sets.entry(key.to_owned()).or_default().insert(kri.clone());
            }
            false => remove(sets, key, kri),
        };
        put(&mut self.by_name, &kri.name);
        if let Some(tag) = definition.tag() {
            put(&mut self.by_tag, tag);
        }
        if !definition.local {
            return;
        }
        let selector = &definition.service.selector;
        let (pairs, wanted) = match (&selector.dataplane_ref, &selector.dataplane_labels) {
            (Some(reference), _) => return put(&mut self.selecting_proxy, &reference.name),
            (None, Some(labels)) => (&mut self.selecting_label, &labels.match_labels),
            (None, None) => (&mut self.selecting_tag, &selector.dataplane_tags),
        };
        // One pair is enough to be found by; the service's tag tells most.
        let pair = wanted.get_key_value(labels::SERVICE).or_else(|| wanted.first_key_value());
        if let Some((key, value)) = pair {
            match is_in {
                true => pairs.insert(key, value, kri.clone()),
                false => pairs.remove(key, value, kri),
            }
        }
    }
}

impl Calling {
    fn of(definition: &Definition) -> Calling {
        Calling {
            name: definition.kri.name.clone(),
            tag: definition.tag().map(str::to_owned),
            labels: definition.labels.clone(),
        }
    }
}

fn remove<K: Ord + std::borrow::Borrow<Q>, Q: Ord + ?Sized, T: Ord>(
    sets: &mut BTreeMap<K, BTreeSet<T>>,
    key: &Q,
    item: &T,
) {
    let Some(set) = sets.get_mut(key) else { return };
    set.remove(item);
    if set.is_empty() {
        sets.remove(key);
    }
}
