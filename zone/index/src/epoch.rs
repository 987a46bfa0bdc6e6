//! What the index publishes: an immutable picture of the zone. Epochs share all that did not change between them.
use crate::destination::{Destination, DestinationKey};
use crate::outlook::{Held, Place};
use crate::proxy::Proxy;
use crate::view::{AuthoritySpec, ProxyId, ProxyView};
use imbl::OrdMap;
use shared_model::{Problem, Resource, ResourceKey};
use shared_policy::Policy;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The zone at one moment.
#[derive(Clone, Debug, Default)]
pub struct Epoch {
    pub(crate) number: u64,
    pub(crate) zone: String,
    pub(crate) meshes: OrdMap<String, Room>,
    pub(crate) problems: Arc<BTreeMap<ResourceKey, Vec<Problem>>>,
    pub(crate) services_changed_at: u64,
    pub(crate) authorities_changed_at: u64,
}

/// One mesh.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    /// The Mesh is there and can be read.
    pub exists: bool,
    pub proxies: OrdMap<Arc<str>, Arc<Proxy>>,
    /// The numbers of the destinations. One that is gone and comes again has another.
    pub destinations: OrdMap<DestinationKey, u64>,
    pub places: OrdMap<u64, Place>,
    /// Another one with every change of the places.
    pub stamp: u64,
    pub policies: OrdMap<ResourceKey, Arc<Held>>,
    /// How many proxies each policy selects.
    pub matched: OrdMap<ResourceKey, usize>,
    pub services: OrdMap<String, Arc<Resource>>,
    pub trust: Arc<BTreeMap<String, Vec<String>>>,
    pub authorities: Arc<BTreeSet<AuthoritySpec>>,
}

impl Room {
    /// The proxy has a view.
    pub fn shows(&self, proxy: &str) -> bool {
        self.exists && self.proxies.contains_key(proxy)
    }

    pub fn destination(&self, key: &DestinationKey) -> Option<&Arc<Destination>> {
        Some(&self.places.get(self.destinations.get(key)?)?.destination)
    }
}

impl Epoch {
    /// Counts the applications of changes; 0 before the first.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// What configures the proxy. `None` when its Dataplane is not there or cannot be read, or its mesh is not: such a
    /// proxy keeps what it has.
    pub fn view_of(&self, id: &ProxyId) -> Option<ProxyView> {
        let room = self.meshes.get(&id.mesh).filter(|room| room.exists)?;
        let proxy = room.proxies.get(id.name.as_str())?;
        let body = &proxy.body;
        let outlook = proxy.reach.outlook.get(&self.zone, room, &proxy.reach.scope, &proxy.selection);
        Some(ProxyView {
            id: id.clone(),
            zone: self.zone.clone(),
            epoch: self.number,
            dataplane: body.dataplane.clone(),
            labels: body.labels.clone(),
            identity: proxy.identified.spec.clone(),
            trust: if proxy.identified.spec.is_some() { room.trust.clone() } else { Arc::default() },
            inbounds: body.inbounds.clone(),
            outbounds: proxy.reach.outbounds.clone(),
            destinations: outlook.destinations.clone(),
            policies: outlook.matched(&body.facts(&self.zone)),
            mtls: proxy.identified.mode,
            problems: proxy.problems(),
        })
    }

    /// The proxies of a mesh, or of all, whether they have a view or not.
    pub fn proxies(&self, mesh: Option<&str>) -> impl Iterator<Item = ProxyId> {
        let rooms = self.meshes.iter().filter(move |(name, _)| mesh.is_none_or(|mesh| mesh == name.as_str()));
        rooms.flat_map(|(_, room)| room.proxies.values().map(|proxy| proxy.body.id.clone()))
    }

    pub fn dataplane(&self, id: &ProxyId) -> Option<&Arc<Resource>> {
        Some(&self.meshes.get(&id.mesh)?.proxies.get(id.name.as_str())?.body.resource)
    }

    /// True when the mesh is there and can be read.
    pub fn has_mesh(&self, mesh: &str) -> bool {
        self.meshes.get(mesh).is_some_and(|room| room.exists)
    }

    /// The MeshServices that the zone's Dataplanes call for, ready to be stored as the zone's own. A name under which a
    /// user has stored a MeshService is not among them. One that is stored with `kuma.io/managed-by` =
    /// [`GENERATED_BY`](crate::GENERATED_BY) and is not among them any more is nobody's.
    pub fn services_wanted(&self) -> Vec<Resource> {
        self.existing().flat_map(|room| room.services.values()).map(|service| (**service).clone()).collect()
    }

    /// The number of the epoch at which [`Epoch::services_wanted`] last gave another answer.
    pub fn services_changed_at(&self) -> u64 {
        self.services_changed_at
    }

    /// The certificate authorities that this zone needs: those of its proxies, and those whose trust domain is known
    /// before the first proxy comes.
    pub fn authorities_wanted(&self) -> Vec<AuthoritySpec> {
        self.existing().flat_map(|room| room.authorities.iter()).cloned().collect()
    }

    /// The number of the epoch at which [`Epoch::authorities_wanted`] last gave another answer.
    pub fn authorities_changed_at(&self) -> u64 {
        self.authorities_changed_at
    }

    /// The certificates trusted in a mesh, by trust domain.
    pub fn trust(&self, mesh: &str) -> Arc<BTreeMap<String, Vec<String>>> {
        self.meshes.get(mesh).map(|room| room.trust.clone()).unwrap_or_default()
    }

    /// Resources that are held back, wholly or in part, and why.
    pub fn problems(&self) -> &BTreeMap<ResourceKey, Vec<Problem>> {
        &self.problems
    }

    /// The policies of a mesh, or of all, that are not held back.
    pub fn policies(&self, mesh: Option<&str>) -> impl Iterator<Item = &Arc<Policy>> {
        let rooms = self.meshes.iter().filter(move |(name, _)| mesh.is_none_or(|mesh| mesh == name.as_str()));
        rooms.flat_map(|(_, room)| room.policies.values().map(|held| &held.policy))
    }

    /// How many proxies of this zone a policy selects.
    pub fn matched(&self, policy: &ResourceKey) -> usize {
        let room = self.meshes.get(&policy.mesh);
        room.and_then(|room| room.matched.get(policy)).copied().unwrap_or_default()
    }

    /// All destinations of a mesh, in the order of their keys.
    pub fn destinations(&self, mesh: &str) -> impl Iterator<Item = &Arc<Destination>> {
        let rooms = self.meshes.get(mesh).into_iter();
        let places = rooms
            .flat_map(|room| room.destinations.values().filter_map(move |number| room.places.get(number)));
        places.map(|place| &place.destination)
    }

    fn existing(&self) -> impl Iterator<Item = &Room> {
        self.meshes.values().filter(|room| room.exists)
    }
}
