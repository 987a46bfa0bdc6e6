//! What the application reaches: the listener at which it asks, the routes of its requests, and the clusters with their
//! endpoints where these may lead.
//!
//! Routes and endpoints are resources of their own, so that a route or an endpoint that changes touches no listener
//! and no connection.
use crate::{
    envoy::{ads, ads_without_limit, duration, socket},
    http, names,
    snapshot::Set,
};
use envoy_types::pb::envoy::{
    config::{
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
        },
        core::v3::{HttpProtocolOptions, Locality, TrafficDirection, TransportSocket},
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints,
            lb_endpoint::HostIdentifier,
        },
        listener::v3::{FilterChain, Listener},
        route::v3::Route,
    },
    extensions::filters::network::{
        http_connection_manager::v3::{Rds, http_connection_manager::RouteSpecifier},
        tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
    },
};
use shared_model::{Duration, Kri};
use shared_policy::Target;
use std::collections::BTreeMap;
use zone_index::{Destination, Endpoint, OutboundView};

/// A destination as policies see it.
pub(crate) fn target(destination: &Destination) -> Target<'_> {
    destination.target()
}

/// A listener of the application, and what happens to what comes in there.
pub(crate) struct Draft<'a> {
    pub view: &'a OutboundView,
    pub destination: &'a Destination,
    /// With the MeshHTTPRoute that asked for each, if one did.
    pub routes: Vec<(Option<Kri>, Route)>,
    pub request_headers_timeout: Duration,
    pub tcp_idle_timeout: Duration,
}

impl<'a> Draft<'a> {
    pub fn new(view: &'a OutboundView, destination: &'a Destination) -> Self {
        Draft {
            view,
            destination,
            routes: Vec::new(),
            request_headers_timeout: Duration::ZERO,
            tcp_idle_timeout: Duration::ZERO,
        }
    }

    pub fn finish(self, resources: &mut Set) {
        let stat_prefix = names::stat_prefix(&self.destination.name);
        let filter = if self.destination.protocol.is_http() {
            let name = names::routes(self.destination);
            let rds = Rds { config_source: Some(ads_without_limit()), route_config_name: name.clone() };
            let specifier = RouteSpecifier::Rds(rds);
            let mut manager = http::manager(stat_prefix, Vec::new(), specifier, self.request_headers_timeout);
            http::normalize_paths(&mut manager);
            let routes = self.routes.into_iter().map(|(_, route)| route).collect();
            resources.insert(&http::route_configuration(name, &self.destination.name, routes));
            http::network_filter("envoy.filters.network.http_connection_manager", &manager)
        } else {
            let config = TcpProxy {
                stat_prefix,
                cluster_specifier: Some(ClusterSpecifier::Cluster(names::cluster(self.destination))),
                idle_timeout: Some(duration(self.tcp_idle_timeout)),
                ..TcpProxy::default()
            };
            http::network_filter("envoy.filters.network.tcp_proxy", &config)
        };
        let OutboundView { address, port, .. } = self.view;
        resources.insert(&Listener {
            name: names::outbound(address, *port),
            address: Some(socket(address, *port)),
            traffic_direction: TrafficDirection::Outbound.into(),
            filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
            ..Listener::default()
        });
    }
}

/// A destination as a cluster.
pub(crate) struct ClusterDraft<'a> {
    pub destination: &'a Destination,
    pub connect_timeout: Duration,
    pub http: HttpProtocolOptions,
    pub transport_socket: Option<TransportSocket>,
}

impl<'a> ClusterDraft<'a> {
    pub fn new(destination: &'a Destination) -> Self {
        ClusterDraft {
            destination,
            connect_timeout: Duration::ZERO,
            http: HttpProtocolOptions::default(),
            transport_socket: None,
        }
    }

    pub fn finish(self, resources: &mut Set) {
        let mut cluster = Cluster {
            name: names::cluster(self.destination),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
            // The name of the assignment is the cluster's own.
            eds_cluster_config: Some(EdsClusterConfig {
                eds_config: Some(ads()),
                ..EdsClusterConfig::default()
            }),
            connect_timeout: Some(duration(self.connect_timeout)),
            transport_socket: self.transport_socket,
            ..Cluster::default()
        };
        http::speak(&mut cluster, self.destination.protocol, self.http);
        resources.insert(&cluster);
    }
}

/// The endpoints of a cluster that are ready. One that is not is left out, since Envoy sends to the unhealthy too when they are many.
pub(crate) fn assignment(cluster_name: String, endpoints: &[Endpoint]) -> ClusterLoadAssignment {
    let mut zones: BTreeMap<&str, Vec<LbEndpoint>> = BTreeMap::new();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.healthy) {
        let address = Some(socket(&endpoint.address, endpoint.port));
        let host = HostIdentifier::Endpoint(EnvoyEndpoint { address, ..EnvoyEndpoint::default() });
        let host = LbEndpoint { host_identifier: Some(host), ..LbEndpoint::default() };
        zones.entry(&endpoint.zone).or_default().push(host);
    }
    let locality = |(zone, lb_endpoints): (&str, _)| LocalityLbEndpoints {
        locality: Some(Locality { zone: zone.to_owned(), ..Locality::default() }),
        lb_endpoints,
        ..LocalityLbEndpoints::default()
    };
    let endpoints = zones.into_iter().map(locality).collect();
    ClusterLoadAssignment { cluster_name, endpoints, ..ClusterLoadAssignment::default() }
}
