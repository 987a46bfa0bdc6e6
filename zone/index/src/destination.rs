//! Where traffic can go: one port of one service, with the endpoints that the zone knows for it.
use crate::lookup;
use shared_model::core::dataplane::{BackendRef, Protocol};
use shared_model::{Kri, kind, labels::Labels};
use shared_policy::Target;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The KRI of the MeshService with the port's name or number as section. The section is empty for a service of 2.x
/// documents taken as a whole, see [`Destination::port`].
pub type DestinationKey = Kri;

/// Two parts that change apart: what a client is told of it, and the endpoints behind it, which come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub(crate) front: Arc<Front>,
    /// Sorted by address and port, each once.
    pub endpoints: Arc<Vec<Endpoint>>,
}

/// A destination without its endpoints. As long as it says the same it is the same `Arc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    pub key: DestinationKey,
    /// What the user calls the service.
    pub name: String,
    pub zone: String,
    /// The value of `kuma.io/service` when the service is all that carries this tag.
    pub service_tag: Option<String>,
    pub labels: Labels,
    /// 0 for a service tag whose Dataplanes serve it on several ports, when it is asked for without a port: its
    /// endpoints are those of all ports, as in 2.x.
    pub port: u16,
    pub protocol: Protocol,
    /// Present when all proxies behind it have an identity.
    pub tls: Option<DestinationTls>,
}

impl Front {
    /// The destination as policies see it.
    pub fn target(&self) -> Target<'_> {
        Target {
            kri: &self.key,
            port: self.port,
            labels: &self.labels,
            service_tag: self.service_tag.as_deref(),
        }
    }
}

impl Destination {
    pub fn front(&self) -> &Arc<Front> {
        &self.front
    }
}

impl std::ops::Deref for Destination {
    type Target = Front;

    fn deref(&self) -> &Front {
        &self.front
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationTls {
    pub sni: String,
    /// Who may answer; never empty.
    pub spiffe_ids: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub address: String,
    pub port: u16,
    pub zone: String,
    pub healthy: bool,
}

/// The destinations that one proxy reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations(Arc<Reachable>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Reachable {
    /// The zone whose services come first.
    zone: String,
    /// Sorted by key.
    list: Vec<Arc<Destination>>,
}

impl Destinations {
    /// The given destinations as a proxy of `zone` sees them.
    pub fn of(zone: &str, destinations: impl IntoIterator<Item = Arc<Destination>>) -> Destinations {
        let mut list: Vec<_> = destinations.into_iter().collect();
        list.sort_by(|a, b| a.key.cmp(&b.key));
        list.dedup_by(|a, b| a.key == b.key);
        Destinations(Arc::new(Reachable { zone: zone.to_owned(), list }))
    }

    /// The same, of destinations that are in the order of their keys, each once.
    pub(crate) fn sorted(
        zone: &str,
        destinations: impl IntoIterator<Item = Arc<Destination>>,
    ) -> Destinations {
        let list = destinations.into_iter().collect();
        Destinations(Arc::new(Reachable { zone: zone.to_owned(), list }))
    }

    pub fn get(&self, key: &DestinationKey) -> Option<&Arc<Destination>> {
        self.0.list.get(self.position(key)?)
    }

    /// Where it stands in the order of the keys.
    pub fn position(&self, key: &DestinationKey) -> Option<usize> {
        self.0.list.binary_search_by(|destination| destination.key.cmp(key)).ok()
    }

    /// In the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.0.list.iter()
    }

    /// The destination that a reference names: by display name or by labels, the own zone's first. Without a port in
    /// the reference it is that service's `default_port`, or all of it, or its lowest port.
    pub fn resolve(&self, backend: &BackendRef, default_port: Option<u16>) -> Option<&Arc<Destination>> {
        if backend.kind != kind::MESH_SERVICE {
            return None;
        }
        let named = self.0.list.iter().filter(|destination| lookup::is_named(destination, backend));
        lookup::pick(&self.0.zone, named, backend.port, default_port)
    }
}
