//! One mesh as the index works on it: what is published, what is behind it, and what is marked to be computed anew.
use super::lookups::Lookups;
use super::pairs::ByPair;
use super::routes::Routes;
use super::services::Services;
use super::shared::Shared;
use crate::Source;
use crate::epoch::Room;
use crate::outlook::{Held, Selection};
use crate::proxy::{Body, Contest, Proxy, Reach};
use crate::view::AuthoritySpec;
use shared_model::core::mesh_service::MeshService;
use shared_model::core::{Mesh, MeshIdentity, MeshTrust};
use shared_model::{Kri, Resource, ResourceKey, labels};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct MeshIndex {
    pub name: String,
    pub zone: String,
    pub room: Room,
    /// The Mesh itself; `None` when it cannot be read. What is followed counts before what is owned.
    pub meshes: BTreeMap<Source, Option<Arc<Mesh>>>,
    pub identities: BTreeMap<(String, Source), Arc<MeshIdentity>>,
    pub trusts: BTreeMap<(String, Source), Arc<MeshTrust>>,
    /// Those that compile. Of two with one key the followed one counts, and only it is published.
    pub policies: BTreeMap<(ResourceKey, Source), Arc<Held>>,
    /// Some proxy could have an identity.
    pub has_identities: bool,
    /// How many proxies have a certificate of each authority.
    pub authorities: BTreeMap<AuthoritySpec, usize>,
    pub services: Services,
    pub lookups: Lookups,
    pub routes: Routes,
    pub reaches: Shared<Reach>,
    pub selections: Shared<Selection>,
    /// The policies in force that speak of certain destinations only, by number.
    pub speaking_of_some: BTreeMap<u64, Arc<Held>>,
    /// How many numbers were given.
    numbers: u64,
    pub marks: Marks,
    /// Proxies by tag of an inbound and by label.
    tagged: ByPair<Arc<str>>,
    labelled: ByPair<Arc<str>>,
}

/// What is to be computed anew.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub mesh: bool,
    pub identities: bool,
    pub trusts: bool,
    pub authorities: bool,
    pub identity_of: BTreeSet<Arc<str>>,
    pub selection_of: BTreeSet<Arc<str>>,
    /// With what counted before.
    pub policies: BTreeMap<ResourceKey, Option<Arc<Held>>>,
    pub services: BTreeSet<Kri>,
    pub reach_of: BTreeSet<Arc<str>>,
    /// Whose problems are to be stated anew.
    pub problems_of: BTreeSet<Arc<str>>,
    pub problems_of_policies: BTreeSet<ResourceKey>,
    /// By how much the number of proxies that a policy selects differs.
    pub matched: BTreeMap<ResourceKey, i64>,
    pub touched: BTreeSet<Arc<str>>,
}

impl MeshIndex {
    pub fn new(name: &str, zone: &str) -> MeshIndex {
        MeshIndex {
            name: name.to_owned(),
            zone: zone.to_owned(),
            room: Room::default(),
            meshes: BTreeMap::new(),
            identities: BTreeMap::new(),
            trusts: BTreeMap::new(),
            policies: BTreeMap::new(),
            has_identities: false,
            authorities: BTreeMap::new(),
            services: Services::new(name, zone),
            lookups: Lookups::default(),
            routes: Routes::default(),
            reaches: Shared::default(),
            selections: Shared::default(),
            speaking_of_some: BTreeMap::new(),
            numbers: 0,
            marks: Marks::default(),
            tagged: ByPair::default(),
            labelled: ByPair::default(),
        }
    }

    /// A number that nothing else has.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Nothing is known of it any more.
    pub fn is_empty(&self) -> bool {
        let documents = self.meshes.is_empty() && self.identities.is_empty() && self.trusts.is_empty();
        documents && self.room.proxies.is_empty() && self.room.policies.is_empty() && self.services.is_empty()
    }

    pub fn body(&self, proxy: &str) -> Option<&Arc<Body>> {
        self.room.proxies.get(proxy).map(|proxy| &proxy.body)
    }

    pub fn put_dataplane(&mut self, name: &str, body: Option<Arc<Body>>) {
        let before = self.room.proxies.get(name).cloned();
        if before.is_none() && body.is_none() {
            return;
        }
        let name: Arc<str> = Arc::from(name);
        let old = before.as_ref().map(|proxy| &*proxy.body);
        let same_offer = old.zip(body.as_deref()).is_some_and(|(old, new)| old.same_offer(new));
        if !same_offer {
            for body in old.into_iter().chain(body.as_deref()) {
                self.marks.services.extend(self.services.about(body));
            }
        }
        if let Some(old) = old.filter(|_| !same_offer) {
            self.file(old, |pairs, key, value| pairs.remove(key, value, &*old.id.name));
        }
        self.marks.problems_of.insert(name.clone());
        let Some(body) = body else {
            return self.drop_proxy(name, before);
        };
        if !same_offer {
            self.file(&body, |pairs, key, value| pairs.insert(key, value, name.clone()));
        }
        let marks = &mut self.marks;
        let same_outbounds = old.is_some_and(|old| old.outbounds == body.outbounds);
        if !old
            .is_some_and(|old| same_outbounds && old.dataplane == body.dataplane && old.labels == body.labels)
        {
            marks.touched.insert(name.clone());
        }
        if !same_offer {
            marks.identity_of.insert(name.clone());
        }
        if !old.is_some_and(|old| old.same_facts(&body)) {
            marks.selection_of.insert(name.clone());
        }
        if !same_outbounds {
            marks.reach_of.insert(name.clone());
        }
        let proxy = match before {
            Some(before) => Proxy { body, ..Proxy::clone(&before) },
            None => Proxy {
                body,
                identified: Arc::default(),
                selection: Arc::default(),
                reach: Arc::default(),
                contest: Arc::default(),
            },
        };
        self.room.proxies.insert(name, Arc::new(proxy));
    }

    fn drop_proxy(&mut self, name: Arc<str>, before: Option<Arc<Proxy>>) {
        self.room.proxies.remove(&name);
        if let Some(proxy) = before {
            self.leave(&name, &proxy);
        }
        self.marks.touched.insert(name);
    }

    /// Files a proxy under its tags and labels, or takes it out.
    fn file(&mut self, body: &Body, mut put: impl FnMut(&mut ByPair<Arc<str>>, &str, &str)) {
        for inbound in body.inbounds.iter() {
            for (key, value) in &inbound.facts.tags {
                put(&mut self.tagged, key, value);
            }
        }
        for (key, value) in &body.labels {
            put(&mut self.labelled, key, value);
        }
    }

    /// The same Dataplane with other times or another revision.
    pub fn reword(&mut self, resource: Arc<Resource>) {
        let Some(proxy) = self.room.proxies.get_mut(resource.name.as_str()) else { return };
        let Body { id, dataplane, outbounds, labels, facts, inbounds, remarks, .. } = &*proxy.body;
        let body = Body {
            id: id.clone(),
            resource,
            dataplane: dataplane.clone(),
            outbounds: outbounds.clone(),
            labels: labels.clone(),
            facts: facts.clone(),
            inbounds: inbounds.clone(),
            remarks: remarks.clone(),
        };
        Arc::make_mut(proxy).body = Arc::new(body);
    }

    pub fn contest(&mut self, name: &str, contest: Contest) {
        let Some(proxy) = self.room.proxies.get_mut(name).filter(|proxy| *proxy.contest != contest) else {
            return;
        };
        Arc::make_mut(proxy).contest = Arc::new(contest);
        let name: Arc<str> = Arc::from(name);
        self.marks.services.extend(self.services.about(&proxy.body));
        self.marks.problems_of.insert(name.clone());
        self.marks.touched.insert(name);
    }

    /// The proxies that carry a tag on an inbound, by name.
    pub fn tagged(&self, key: &str, value: &str) -> Vec<&Proxy> {
        self.tagged
            .iter(key, value)
            .filter_map(|name| self.room.proxies.get(name))
            .map(|proxy| &**proxy)
            .collect()
    }

    /// The proxies that a MeshService may select, by name; all that it does select are among them.
    pub fn candidates(&self, service: &MeshService) -> Vec<&Proxy> {
        let selector = &service.selector;
        let (pairs, wanted) = match (&selector.dataplane_ref, &selector.dataplane_labels) {
            (Some(reference), _) => {
                return self
                    .room
                    .proxies
                    .get(reference.name.as_str())
                    .map(|proxy| &**proxy)
                    .into_iter()
                    .collect();
            }
            (None, Some(labels)) => (&self.labelled, &labels.match_labels),
            (None, None) => (&self.tagged, &selector.dataplane_tags),
        };
        let fewest = wanted.iter().min_by_key(|(key, value)| pairs.get(key, value).map_or(0, BTreeSet::len));
        let names = fewest.into_iter().flat_map(|(key, value)| pairs.iter(key, value));
        names.filter_map(|name| self.room.proxies.get(name)).map(|proxy| &**proxy).collect()
    }

    pub fn of_workload(&self, workload: &str) -> Vec<&Proxy> {
        let names = self.labelled.iter(labels::WORKLOAD, workload);
        names.filter_map(|name| self.room.proxies.get(name)).map(|proxy| &**proxy).collect()
    }
}
