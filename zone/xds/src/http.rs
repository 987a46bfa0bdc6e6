//! HTTP connection managers, and how HTTP is spoken with clusters.
use crate::envoy::{any, duration, no, number, yes};
use envoy_types::pb::envoy::{
    config::{
        cluster::v3::Cluster,
        core::v3::{
            CidrRange, Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions,
        },
        listener::v3::{Filter, filter::ConfigType},
        route::v3::{Route, RouteConfiguration, VirtualHost},
    },
    extensions::{
        filters::{
            http::router::v3::Router,
            network::http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter,
                http_connection_manager::{
                    ForwardClientCertDetails, InternalAddressConfig, RouteSpecifier,
                    SetCurrentClientCertDetails,
                },
                http_filter,
            },
        },
        upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
            },
        },
    },
};
use prost::{Message, Name};
use shared_model::{Duration, core::dataplane::Protocol};

/// What both directions have in common; the route specifier and the rest come from the caller.
pub(crate) fn manager(
    stat_prefix: String,
    mut filters: Vec<HttpFilter>,
    routes: RouteSpecifier,
    request_headers_timeout: Duration,
) -> HttpConnectionManager {
    filters.push(filter("envoy.filters.http.router", &Router::default()));
    let cidr = |address: &str, len| CidrRange { address_prefix: address.to_owned(), prefix_len: number(len) };
    HttpConnectionManager {
        stat_prefix,
        http_filters: filters,
        route_specifier: Some(routes),
        // How long a caller keeps a connection is its own affair.
        common_http_protocol_options: Some(CommonOptions {
            idle_timeout: Some(duration(Duration::ZERO)),
            ..CommonOptions::default()
        }),
        request_headers_timeout: Some(duration(request_headers_timeout)),
        internal_address_config: Some(InternalAddressConfig {
            cidr_ranges: vec![cidr("127.0.0.1", 32), cidr("::1", 128)],
            ..InternalAddressConfig::default()
        }),
        ..HttpConnectionManager::default()
    }
}

/// Tells the application who called, and lets nobody else say so.
pub(crate) fn show_caller(manager: &mut HttpConnectionManager) {
    manager.forward_client_cert_details = ForwardClientCertDetails::SanitizeSet.into();
    manager.set_current_client_cert_details =
        Some(SetCurrentClientCertDetails { uri: true, ..SetCurrentClientCertDetails::default() });
}

/// Paths are compared as the destination will read them.
pub(crate) fn normalize_paths(manager: &mut HttpConnectionManager) {
    manager.normalize_path = yes();
}

pub(crate) fn filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..HttpFilter::default()
    }
}

pub(crate) fn network_filter<M: Message + Name>(name: &str, config: &M) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(any(config))) }
}

/// Routes for every host. A route to a cluster that is not there answers 503 until it is.
pub(crate) fn route_configuration(name: String, host: &str, routes: Vec<Route>) -> RouteConfiguration {
    let host = VirtualHost {
        name: host.to_owned(),
        domains: vec!["*".to_owned()],
        routes,
        ..VirtualHost::default()
    };
    RouteConfiguration {
        name,
        virtual_hosts: vec![host],
        validate_clusters: no(),
        ..RouteConfiguration::default()
    }
}

/// HTTP/2 where the protocol is made of it, HTTP/1.1 for plain HTTP; nothing for what is no HTTP.
pub(crate) fn speak(cluster: &mut Cluster, protocol: Protocol, common: CommonOptions) {
    let config = match protocol {
        Protocol::Http => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
        Protocol::Http2 | Protocol::Grpc => {
            ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())
        }
        Protocol::Tcp | Protocol::Tls | Protocol::Kafka | Protocol::Mysql => return,
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(common),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(config),
        })),
        ..HttpProtocolOptions::default()
    };
    let name = HttpProtocolOptions::full_name();
    cluster.typed_extension_protocol_options.insert(name, any(&options));
}
