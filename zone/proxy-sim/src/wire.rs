//! xDS on the wire, with as little work as a client can do with it: responses are walked and not decoded, and of a
//! resource only what names another one is read.
//!
//! A fleet of thousands of proxies shares its machine with the control plane under test, so what it costs falsifies
//! what is measured. A full decode of one proxy's configuration is thousands of allocations; a walk is none.
pub mod fields;
pub mod references;
pub mod request;
pub mod response;

/// The types of resources that a proxy gets, in the order in which it asks for them after a reconnection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Cluster,
    Listener,
    Endpoint,
    Route,
    Secret,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Cluster, Kind::Listener, Kind::Endpoint, Kind::Route, Kind::Secret];

    pub fn type_url(self) -> &'static str {
        match self {
            Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Kind::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Kind::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Kind::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    pub fn of_url(type_url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// The short name for reports: `cds`, `lds`, `eds`, `rds`, `sds`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cluster => "cds",
            Kind::Listener => "lds",
            Kind::Endpoint => "eds",
            Kind::Route => "rds",
            Kind::Secret => "sds",
        }
    }

    /// True for the types that Envoy subscribes to as a whole, by no name.
    pub fn is_wildcard(self) -> bool {
        matches!(self, Kind::Cluster | Kind::Listener)
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Kind::Cluster => 0,
            Kind::Listener => 1,
            Kind::Endpoint => 2,
            Kind::Route => 3,
            Kind::Secret => 4,
        }
    }
}

/// Which of the two forms of the protocol a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Delta,
    /// State of the world.
    Sotw,
}

impl Protocol {
    pub fn path(self) -> &'static str {
        match self {
            Protocol::Delta => {
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
            }
            Protocol::Sotw => {
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
            }
        }
    }
}

/// Bytes that are no protobuf message of the expected form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub &'static str);
