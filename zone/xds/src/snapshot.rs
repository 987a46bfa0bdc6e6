//! What one proxy should run: its Envoy resources, each encoded once and named by the hash of its bytes.
//!
//! The version of a resource is a hash and no counter, so that every replica of a zone says the same of the same
//! resource, and a proxy that reconnects to another one gets nothing again that it has.
use bytes::{BufMut, Bytes, BytesMut};
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
    Message, Name,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use std::{collections::BTreeMap, fmt, sync::Arc};

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
pub trait Named: Message + Name {
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

/// A resource as it goes on the wire: shared, never encoded again.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The hash of the resource's bytes, in hexadecimal.
    pub version: Arc<str>,
    /// The field `resources` of a response with one element: tag, length, and the discovery `Resource`.
    pub chunk: Bytes,
}

impl Encoded {
    pub fn of<M: Named>(message: &M) -> Encoded {
        Encoded::from_bytes(M::TYPE, message.resource_name(), message.encode_to_vec())
    }

    pub fn from_bytes(kind: Type, name: &str, value: Vec<u8>) -> Encoded {
        let version = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&value));
        let resource = Resource {
            name: name.to_owned(),
            version: version.clone(),
            resource: Some(Any { type_url: kind.type_url().to_owned(), value }),
            ..Resource::default()
        };
        let len = resource.encoded_len();
        let head = key_len(RESOURCES) + encoded_len_varint(len as u64);
        let mut chunk = BytesMut::with_capacity(head + len);
        encode_key(RESOURCES, WireType::LengthDelimited, &mut chunk);
        encode_varint(len as u64, &mut chunk);
        chunk.put_slice(&resource.encode_to_vec());
        Encoded { version: version.into(), chunk: chunk.freeze() }
    }
}

/// The bytes may hold a private key, so they are not printed.
impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.version, self.chunk.len())
    }
}

/// All resources of one proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    types: [BTreeMap<Arc<str>, Encoded>; 5],
}

impl Snapshot {
    pub fn empty() -> Snapshot {
        Snapshot::default()
    }

    /// Adds a resource; of two with one name, the later stays.
    pub fn insert<M: Named>(&mut self, message: &M) {
        self.insert_encoded(M::TYPE, message.resource_name(), Encoded::of(message));
    }

    pub fn insert_encoded(&mut self, kind: Type, name: &str, resource: Encoded) {
        self.types[kind.index()].insert(name.into(), resource);
    }

    pub fn get(&self, kind: Type, name: &str) -> Option<&Encoded> {
        self.types[kind.index()].get(name)
    }

    pub fn names(&self, kind: Type) -> impl Iterator<Item = &Arc<str>> {
        self.types[kind.index()].keys()
    }

    pub fn iter(&self, kind: Type) -> impl Iterator<Item = (&Arc<str>, &Encoded)> {
        self.types[kind.index()].iter()
    }

    pub fn len(&self, kind: Type) -> usize {
        self.types[kind.index()].len()
    }

    pub fn is_empty(&self) -> bool {
        self.types.iter().all(BTreeMap::is_empty)
    }

    /// The resources as messages, for a person who looks at them; private keys are left out.
    pub fn decode<M: Named + Default>(&self) -> Vec<M> {
        let body = |chunk: &Bytes| {
            let response = Chunks::decode(chunk.clone()).ok()?;
            let any = response.resources.into_iter().next()?.resource?;
            M::decode(any.value.as_slice()).ok()
        };
        self.iter(M::TYPE).filter_map(|(_, resource)| body(&resource.chunk)).collect()
    }
}

/// As much of a `DeltaDiscoveryResponse` as a chunk holds.
type Chunks = envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(response.resources[0].version, *encoded.version);
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
