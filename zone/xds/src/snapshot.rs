//! What one proxy should run: its Envoy resources, each encoded once and named by the hash of its bytes.
//!
//! The version of a resource is a hash and no counter, so that every replica of a zone says the same of the same
//! resource, and a proxy that reconnects to another one gets nothing again that it has.
mod name;

pub use name::Name;

use crate::{
    inbound::{Duty, Role},
    manifest::Manifest,
    memo::Made,
    pool::Pool,
};
use bytes::Bytes;
use envoy_types::pb::envoy::{
    config::{
        cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
        route::v3::RouteConfiguration,
    },
    extensions::transport_sockets::tls::v3::Secret,
    service::discovery::v3::Resource,
};
use envoy_types::pb::google::protobuf::Any;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use std::{cmp::Ordering, fmt, sync::Arc};

/// The types of resources that a proxy gets, in the order in which they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    Secret,
    Cluster,
    Endpoint,
    Listener,
    Route,
}

impl Type {
    /// Trust before the clusters that need it, clusters before the listeners and routes that use them.
    pub const ALL: [Type; 5] = [Type::Secret, Type::Cluster, Type::Endpoint, Type::Listener, Type::Route];

    pub fn type_url(self) -> &'static str {
        match self {
            Type::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Type::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Type::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Type::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Type::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    pub fn of_url(type_url: &str) -> Option<Type> {
        Type::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// The short name for logs and metrics: `cds`, `eds`, `lds`, `rds`, `sds`.
    pub fn name(self) -> &'static str {
        match self {
            Type::Secret => "sds",
            Type::Cluster => "cds",
            Type::Endpoint => "eds",
            Type::Listener => "lds",
            Type::Route => "rds",
        }
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Type::Secret => 0,
            Type::Cluster => 1,
            Type::Endpoint => 2,
            Type::Listener => 3,
            Type::Route => 4,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A message that is one of the [`Type`]s, with the name under which Envoy knows it.
///
/// Envoy tracks a resource under the outer name and creates it under the inner one, so the two must be equal: the
/// outer one is always read from the message.
pub trait Named: Message + prost::Name {
    const TYPE: Type;
    fn resource_name(&self) -> &str;
}

impl Named for Cluster {
    const TYPE: Type = Type::Cluster;
    fn resource_name(&self) -> &str {
        &self.name
    }
}
impl Named for ClusterLoadAssignment {
    const TYPE: Type = Type::Endpoint;
    fn resource_name(&self) -> &str {
        &self.cluster_name
    }
}
impl Named for Listener {
    const TYPE: Type = Type::Listener;
    fn resource_name(&self) -> &str {
        &self.name
    }
}
impl Named for RouteConfiguration {
    const TYPE: Type = Type::Route;
    fn resource_name(&self) -> &str {
        &self.name
    }
}
impl Named for Secret {
    const TYPE: Type = Type::Secret;
    fn resource_name(&self) -> &str {
        &self.name
    }
}

/// The field `resources` of a `DeltaDiscoveryResponse`.
const RESOURCES: u32 = 2;

/// The hash of a resource's bytes; written in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    pub fn of(bytes: &[u8]) -> Version {
        Version(xxhash_rust::xxh3::xxh3_64(bytes))
    }

    /// Reads a version of ours; `None` for any other text.
    pub fn parse(text: &str) -> Option<Version> {
        let ours = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        u64::from_str_radix(text, 16).ok().filter(|_| ours).map(Version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A resource as it goes on the wire: shared, never encoded again.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    pub kind: Type,
    pub name: Name,
    pub version: Version,
    /// The field `resources` of a response with one element: tag, length, and the discovery `Resource`.
    pub chunk: Bytes,
}

impl Encoded {
    pub fn of<M: Named>(message: &M) -> Encoded {
        Encoded::from_bytes(M::TYPE, message.resource_name(), message.encode_to_vec())
    }

    pub fn from_bytes(kind: Type, name: &str, value: Vec<u8>) -> Encoded {
        let version = Version::of(&value);
        let resource = Resource {
            name: name.to_owned(),
            version: version.to_string(),
            resource: Some(Any { type_url: kind.type_url().to_owned(), value }),
            ..Resource::default()
        };
        let len = resource.encoded_len();
        let head = key_len(RESOURCES) + encoded_len_varint(len as u64);
        let mut chunk = Vec::with_capacity(head + len);
        encode_key(RESOURCES, WireType::LengthDelimited, &mut chunk);
        encode_varint(len as u64, &mut chunk);
        resource.encode(&mut chunk).expect("a vector grows");
        // A full vector becomes shared bytes without a header of its own.
        Encoded { kind, name: name.into(), version, chunk: chunk.into() }
    }
}

/// The bytes may hold a private key, so they are not printed.
impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.version, self.chunk.len())
    }
}

/// Resources by type, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set {
    types: [Vec<Arc<Encoded>>; 5],
}

impl Set {
    /// Adds a resource; of two with one name, the later stays.
    pub fn insert<M: Named>(&mut self, message: &M) {
        self.put(Arc::new(Encoded::of(message)));
    }

    pub fn put(&mut self, resource: Arc<Encoded>) {
        put(&mut self.types[resource.kind.index()], resource);
    }

    pub fn of(&self, kind: Type) -> &[Arc<Encoded>] {
        &self.types[kind.index()]
    }

    pub fn is_empty(&self) -> bool {
        self.types.iter().all(Vec::is_empty)
    }

    pub fn into_iter(self) -> impl Iterator<Item = Arc<Encoded>> {
        self.types.into_iter().flatten()
    }

    /// Replaces each resource by the one that everybody shares.
    pub fn intern(&mut self, pool: &Pool) {
        for resource in self.types.iter_mut().flatten() {
            *resource = pool.intern(resource.clone());
        }
        self.types.iter_mut().for_each(Vec::shrink_to_fit);
    }
}

fn find<'a>(list: &'a [Arc<Encoded>], name: &Name) -> Option<&'a Arc<Encoded>> {
    let place = list.binary_search_by(|resource| resource.name.cmp(name)).ok()?;
    list.get(place)
}

fn find_text<'a>(list: &'a [Arc<Encoded>], text: &str, hash: u64) -> Option<&'a Arc<Encoded>> {
    let place = list.binary_search_by(|resource| resource.name.place(text, hash)).ok()?;
    list.get(place)
}

fn put(list: &mut Vec<Arc<Encoded>>, resource: Arc<Encoded>) {
    match list.binary_search_by(|other| other.name.cmp(&resource.name)) {
        Ok(place) => list[place] = resource,
        Err(place) => list.insert(place, resource),
    }
}

/// All resources of one proxy, in three parts that change apart: those that it shares with every proxy of the same
/// effective configuration, its own, and where its clusters' endpoints are.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    manifest: Option<Arc<Manifest>>,
    /// From which its own resources were made. While somebody holds them, others that do the same find them.
    _roles: Vec<Arc<Made<Duty, Role>>>,
    own: Arc<Set>,
    endpoints: Vec<Arc<Encoded>>,
}

impl Snapshot {
    pub fn empty() -> Snapshot {
        Snapshot::default()
    }

    pub(crate) fn new(
        manifest: Arc<Manifest>,
        roles: Vec<Arc<Made<Duty, Role>>>,
        own: Arc<Set>,
        mut endpoints: Vec<Arc<Encoded>>,
    ) -> Snapshot {
        endpoints.sort_by(|a, b| a.name.cmp(&b.name));
        endpoints.dedup_by(|a, b| a.name == b.name);
        Snapshot { manifest: Some(manifest), _roles: roles, own, endpoints }
    }

    /// Adds a resource to the proxy's own; of two with one name, the later stays.
    pub fn insert<M: Named>(&mut self, message: &M) {
        self.put(Arc::new(Encoded::of(message)));
    }

    pub fn insert_encoded(&mut self, kind: Type, name: &str, resource: Encoded) {
        self.put(Arc::new(Encoded { kind, name: name.into(), ..resource }));
    }

    fn put(&mut self, resource: Arc<Encoded>) {
        match resource.kind {
            Type::Endpoint => put(&mut self.endpoints, resource),
            _ => Arc::make_mut(&mut self.own).put(resource),
        }
    }

    /// Puts another assignment in the place of one that is there. False when there is none of this name, or it says the
    /// same.
    pub(crate) fn reassign(&mut self, assignment: &Arc<Encoded>) -> bool {
        let place = self.endpoints.binary_search_by(|other| other.name.cmp(&assignment.name));
        let Some(before) = place.ok().and_then(|place| self.endpoints.get_mut(place)) else { return false };
        let differs = before.version != assignment.version;
        *before = assignment.clone();
        differs
    }

    fn shared(&self, kind: Type) -> &[Arc<Encoded>] {
        match &self.manifest {
            Some(manifest) => manifest.result().map_or(&[], |outwards| outwards.resources.of(kind)),
            None => &[],
        }
    }

    pub fn get(&self, kind: Type, name: &str) -> Option<&Arc<Encoded>> {
        let hash = Name::hash_of(name);
        match kind {
            Type::Endpoint => find_text(&self.endpoints, name, hash),
            _ => {
                find_text(self.shared(kind), name, hash).or_else(|| find_text(self.own.of(kind), name, hash))
            }
        }
    }

    pub(crate) fn named(&self, kind: Type, name: &Name) -> Option<&Arc<Encoded>> {
        match kind {
            Type::Endpoint => find(&self.endpoints, name),
            _ => find(self.shared(kind), name).or_else(|| find(self.own.of(kind), name)),
        }
    }

    pub fn names(&self, kind: Type) -> impl Iterator<Item = &Name> {
        self.iter(kind).map(|resource| &resource.name)
    }

    /// In the order of their names, which is not that of the alphabet.
    pub fn iter(&self, kind: Type) -> impl Iterator<Item = &Arc<Encoded>> {
        let (shared, own): (&[Arc<Encoded>], &[Arc<Encoded>]) = match kind {
            Type::Endpoint => (&self.endpoints, &[]),
            _ => (self.shared(kind), self.own.of(kind)),
        };
        Merged { shared, own }
    }

    pub fn len(&self, kind: Type) -> usize {
        self.iter(kind).count()
    }

    pub fn is_empty(&self) -> bool {
        Type::ALL.into_iter().all(|kind| self.iter(kind).next().is_none())
    }

    /// The names under which the two differ, with their types. Parts that are one and the same are not looked at.
    pub(crate) fn differences<'a>(&'a self, other: &'a Snapshot) -> Vec<&'a Arc<Encoded>> {
        let mut found = Vec::new();
        let same_manifest = match (&self.manifest, &other.manifest) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let same_own = Arc::ptr_eq(&self.own, &other.own);
        for kind in Type::ALL {
            if kind == Type::Endpoint {
                differences(&self.endpoints, &other.endpoints, &mut found);
                continue;
            }
            if !same_manifest {
                differences(self.shared(kind), other.shared(kind), &mut found);
            }
            if !same_own {
                differences(self.own.of(kind), other.own.of(kind), &mut found);
            }
        }
        found
    }

    /// The resources as messages, sorted by name, for a person who looks at them.
    pub fn decode<M: Named + Default>(&self) -> Vec<M> {
        let body = |chunk: &Bytes| {
            let response = Chunks::decode(chunk.clone()).ok()?;
            let any = response.resources.into_iter().next()?.resource?;
            M::decode(any.value.as_slice()).ok()
        };
        let mut resources: Vec<_> = self.iter(M::TYPE).collect();
        resources.sort_by_key(|resource| resource.name.to_string());
        resources.into_iter().filter_map(|resource| body(&resource.chunk)).collect()
    }
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Snapshot) -> bool {
        Type::ALL.into_iter().all(|kind| self.iter(kind).eq(other.iter(kind)))
    }
}

impl Eq for Snapshot {}

/// Two lists in the order of names as one; what is shared stands for both of one name.
struct Merged<'a> {
    shared: &'a [Arc<Encoded>],
    own: &'a [Arc<Encoded>],
}

impl<'a> Iterator for Merged<'a> {
    type Item = &'a Arc<Encoded>;

    fn next(&mut self) -> Option<&'a Arc<Encoded>> {
        let order = match (self.shared.first(), self.own.first()) {
            (Some(shared), Some(own)) => shared.name.cmp(&own.name),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        if order != Ordering::Less {
            let (own, rest) = self.own.split_first()?;
            self.own = rest;
            if order == Ordering::Greater {
                return Some(own);
            }
        }
        let (shared, rest) = self.shared.split_first()?;
        self.shared = rest;
        Some(shared)
    }
}

/// What only one of two sorted lists has, or each in another version.
fn differences<'a>(a: &'a [Arc<Encoded>], b: &'a [Arc<Encoded>], found: &mut Vec<&'a Arc<Encoded>>) {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(x), Some(y)) if Arc::ptr_eq(x, y) => {
                a.next();
                b.next();
                continue;
            }
            (Some(x), Some(y)) => x.name.cmp(&y.name),
        };
        match order {
            Ordering::Less => found.extend(a.next()),
            Ordering::Greater => found.extend(b.next()),
            Ordering::Equal => {
                let (x, y) = (a.next(), b.next());
                found.extend(x.filter(|x| y.is_some_and(|y| x.version != y.version)));
            }
        }
    }
}

/// As much of a `DeltaDiscoveryResponse` as a chunk holds.
type Chunks = envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Name as _;

    #[test]
    fn type_urls_are_those_of_the_messages() {
        assert_eq!(Type::Secret.type_url(), Secret::type_url());
        assert_eq!(Type::Cluster.type_url(), Cluster::type_url());
        assert_eq!(Type::Endpoint.type_url(), ClusterLoadAssignment::type_url());
        assert_eq!(Type::Listener.type_url(), Listener::type_url());
        assert_eq!(Type::Route.type_url(), RouteConfiguration::type_url());
        for (index, kind) in Type::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index);
            assert_eq!(Type::of_url(kind.type_url()), Some(kind));
        }
    }

    #[test]
    fn a_chunk_is_the_resources_field_of_a_response() {
        let cluster = Cluster { name: "web".into(), alt_stat_name: "x".into(), ..Cluster::default() };
        let encoded = Encoded::of(&cluster);
        let response = Chunks::decode(encoded.chunk.clone()).expect("a response");
        assert_eq!(response.resources.len(), 1);
        assert_eq!(response.resources[0].name, "web");
        assert_eq!(response.resources[0].version, encoded.version.to_string());
        assert_eq!(Version::parse(&response.resources[0].version), Some(encoded.version));
        let mut snapshot = Snapshot::empty();
        snapshot.insert(&cluster);
        assert_eq!(snapshot.decode::<Cluster>(), [cluster]);
    }

    #[test]
    fn the_version_follows_the_bytes() {
        let of = |name: &str, stat: &str| {
            Encoded::of(&Cluster { name: name.into(), alt_stat_name: stat.into(), ..Cluster::default() })
                .version
        };
        assert_eq!(of("a", "x"), of("a", "x"));
        assert_ne!(of("a", "x"), of("a", "y"));
    }
}
