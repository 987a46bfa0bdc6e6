//! Everything that the floor says, built before anybody asks.
use super::Shape;
use super::build;
use crate::documents::PORT;
use crate::graph::Graph;
use crate::wire::{Kind, Protocol};
use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::Resource;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

/// The field `resources` of a response with one element, in both protocols.
#[derive(Clone, Debug)]
pub struct Chunk([Bytes; 2]);

impl Chunk {
    pub fn of(kind: Kind, name: &str, message: &impl Message) -> Chunk {
        let any = Any { type_url: kind.type_url().into(), value: message.encode_to_vec() };
        let version = format!("{:016x}", xxh3_64(&any.value));
        let sotw = field(&any);
        let resource = Resource { name: name.into(), version, resource: Some(any), ..Default::default() };
        Chunk([field(&resource), sotw])
    }

    fn bytes(&self, protocol: Protocol) -> &Bytes {
        match protocol {
            Protocol::Delta => &self.0[0],
            Protocol::Sotw => &self.0[1],
        }
    }
}

fn field(message: &impl Message) -> Bytes {
    let mut bytes = Vec::with_capacity(message.encoded_len() + 5);
    encode_key(2, WireType::LengthDelimited, &mut bytes);
    encode_varint(message.encoded_len() as u64, &mut bytes);
    message.encode(&mut bytes).expect("a vector grows");
    bytes.into()
}

/// A whole response in both protocols. The nonce is always the same: nobody looks at it here.
#[derive(Clone, Debug)]
pub struct Body([Bytes; 2]);

impl Body {
    pub fn of<'a>(kind: Kind, chunks: impl Iterator<Item = &'a Chunk> + Clone) -> Body {
        let build = |protocol: Protocol| {
            let mut bytes = Vec::new();
            for (tag, text) in [(1, "1"), (4, kind.type_url()), (5, "1")] {
                prost::encoding::string::encode(tag, &text.to_owned(), &mut bytes);
            }
            chunks.clone().for_each(|chunk| bytes.extend_from_slice(chunk.bytes(protocol)));
            Bytes::from(bytes)
        };
        Body([build(Protocol::Delta), build(Protocol::Sotw)])
    }

    pub fn bytes(&self, protocol: Protocol) -> Bytes {
        match protocol {
            Protocol::Delta => self.0[0].clone(),
            Protocol::Sotw => self.0[1].clone(),
        }
    }
}

/// What the instances of one service get.
#[derive(Debug)]
struct OfService {
    clusters: Body,
    listeners: Body,
    /// All routes, in two editions: a change of the mesh goes from one to the other.
    routes: [Body; 2],
    /// The inbound listener, in two editions.
    inbound: [Body; 2],
}

#[derive(Debug)]
pub struct Prebuilt {
    services: Vec<OfService>,
    /// Assignments, routes and secrets by name.
    named: BTreeMap<(usize, String), Chunk>,
    empty: Vec<Body>,
    /// The routes to one service, in two editions.
    routes_to: Vec<[Body; 2]>,
}

pub fn routes_name(service: &str) -> String {
    format!("outbound:{service}")
}

impl Prebuilt {
    pub fn new(graph: &Graph, shape: &Shape) -> Prebuilt {
        let mut named = BTreeMap::new();
        let (mut clusters, mut outbound, mut routes) = (Vec::new(), Vec::new(), Vec::new());
        for (index, service) in graph.services.iter().enumerate() {
            let (name, routes_name) = (&service.name, routes_name(&service.name));
            clusters.push(Chunk::of(Kind::Cluster, name, &build::cluster(name, shape.cluster_bytes)));
            let listener = format!("outbound:127.0.0.1:{}", 20_000 + index);
            let message = build::outbound_listener(&listener, &routes_name, shape.listener_bytes);
            outbound.push(Chunk::of(Kind::Listener, &listener, &message));
            let edition = |edition| {
                let message = build::routes(&routes_name, name, edition, shape.route_bytes);
                Chunk::of(Kind::Route, &routes_name, &message)
            };
            // Those of the mesh, and those of a change of this service alone.
            let editions = [edition(0), edition(1), edition(2), edition(3)];
            named.insert((Kind::Route.index(), routes_name.clone()), editions[0].clone());
            routes.push(editions);
            let addresses: Vec<String> =
                service.instances.clone().map(|proxy| graph.address_of(proxy)).collect();
            let message = build::assignment(name, &addresses, shape.assignment_bytes);
            named.insert((Kind::Endpoint.index(), name.clone()), Chunk::of(Kind::Endpoint, name, &message));
        }
        for name in [build::IDENTITY, build::TRUST] {
            let chunk = Chunk::of(Kind::Secret, name, &build::secret(name, shape.secret_bytes));
            named.insert((Kind::Secret.index(), name.to_owned()), chunk);
        }
        // One name for all proxies: the address of each would be three letters more or less.
        let inbound = format!("inbound:10.1.1.1:{PORT}");
        let inbound = [0, 64].map(|more| {
            let message = build::inbound_listener(&inbound, shape.listener_bytes + more);
            Chunk::of(Kind::Listener, &inbound, &message)
        });
        let local = Chunk::of(Kind::Cluster, build::LOCAL, &build::local_cluster(shape.cluster_bytes));
        let services = graph.services.iter().map(|service| {
            let called = service.calls.iter();
            let reached = std::iter::once(&local).chain(called.clone().map(|index| &clusters[*index]));
            let of_edition =
                |at: usize| Body::of(Kind::Route, called.clone().map(|index| &routes[*index][at]));
            let listeners = std::iter::once(&inbound[0]).chain(called.clone().map(|index| &outbound[*index]));
            OfService {
                clusters: Body::of(Kind::Cluster, reached),
                listeners: Body::of(Kind::Listener, listeners),
                routes: [of_edition(0), of_edition(1)],
                inbound: [0, 1].map(|at| Body::of(Kind::Listener, std::iter::once(&inbound[at]))),
            }
        });
        let one = |chunk: &Chunk| Body::of(Kind::Route, std::iter::once(chunk));
        Prebuilt {
            services: services.collect(),
            named,
            empty: Kind::ALL.into_iter().map(|kind| Body::of(kind, std::iter::empty())).collect(),
            routes_to: routes.iter().map(|editions| [one(&editions[2]), one(&editions[3])]).collect(),
        }
    }

    /// The answer to a subscription as a whole.
    pub fn whole(&self, service: usize, kind: Kind) -> &Body {
        match kind {
            Kind::Cluster => &self.services[service].clusters,
            _ => &self.services[service].listeners,
        }
    }

    pub fn empty(&self, kind: Kind) -> &Body {
        &self.empty[kind.index()]
    }

    /// The answer to a subscription by names: what of them there is.
    pub fn by_name(&self, kind: Kind, names: &[String]) -> Body {
        let chunks = names.iter().filter_map(|name| self.named.get(&(kind.index(), name.clone())));
        Body::of(kind, chunks)
    }

    pub fn routes(&self, service: usize, edition: usize) -> &Body {
        &self.services[service].routes[edition % 2]
    }

    pub fn routes_to(&self, service: usize, edition: usize) -> &Body {
        &self.routes_to[service][edition % 2]
    }

    pub fn inbound(&self, service: usize, edition: usize) -> &Body {
        &self.services[service].inbound[edition % 2]
    }
}
