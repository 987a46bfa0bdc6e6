//! Resources of a given size, as simple as an Envoy would take them.
use crate::documents::PORT;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

pub const IDENTITY: &str = "identity_cert:secret:default";
pub const LOCAL: &str = "localhost:80";
pub const TRUST: &str = "system_trust_bundle";

/// What is missing to a message of `size` bytes, to be put into a text of it.
fn padding(message: &impl Message, size: usize) -> String {
    // The text's own tag and length take three bytes or so.
    "x".repeat(size.saturating_sub(message.encoded_len() + 3))
}

pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn by_ads() -> Option<core::ConfigSource> {
    let ads = core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource::default());
    Some(core::ConfigSource {
        config_source_specifier: Some(ads),
        resource_api_version: 2,
        ..Default::default()
    })
}

fn common_tls() -> Option<tls::CommonTlsContext> {
    let secret = |name: &str| tls::SdsSecretConfig { name: name.into(), sds_config: by_ads() };
    let combined = tls::common_tls_context::CombinedCertificateValidationContext {
        validation_context_sds_secret_config: Some(secret(TRUST)),
        ..Default::default()
    };
    Some(tls::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![secret(IDENTITY)],
        validation_context_type: Some(
            tls::common_tls_context::ValidationContextType::CombinedValidationContext(combined),
        ),
        ..Default::default()
    })
}

fn transport_socket<M: Message + Name>(context: &M) -> Option<core::TransportSocket> {
    Some(core::TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack(context))),
    })
}

/// A cluster whose assignment has its name.
pub fn cluster(name: &str, size: usize) -> Cluster {
    let context =
        tls::UpstreamTlsContext { common_tls_context: common_tls(), sni: name.into(), ..Default::default() };
    let mut cluster = Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: by_ads(), service_name: String::new() }),
        transport_socket: transport_socket(&context),
        ..Default::default()
    };
    cluster.alt_stat_name = padding(&cluster, size);
    cluster
}

/// The application behind a proxy: a cluster that needs no discovery.
pub fn local_cluster(size: usize) -> Cluster {
    let mut cluster = Cluster { name: LOCAL.into(), ..Default::default() };
    cluster.alt_stat_name = padding(&cluster, size);
    cluster
}

pub fn assignment(name: &str, addresses: &[String], size: usize) -> ClusterLoadAssignment {
    let endpoint = |address: &String| {
        let port = core::socket_address::PortSpecifier::PortValue(u32::from(PORT));
        let socket = core::SocketAddress {
            address: address.clone(),
            port_specifier: Some(port),
            ..Default::default()
        };
        let address = core::Address { address: Some(core::address::Address::SocketAddress(socket)) };
        let endpoint = Endpoint { address: Some(address), ..Default::default() };
        LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() }
    };
    let locality =
        LocalityLbEndpoints { lb_endpoints: addresses.iter().map(endpoint).collect(), ..Default::default() };
    let mut assignment =
        ClusterLoadAssignment { cluster_name: name.into(), endpoints: vec![locality], ..Default::default() };
    let sub_zone = padding(&assignment, size.saturating_sub(4));
    assignment.endpoints[0].locality = Some(core::Locality { sub_zone, ..Default::default() });
    assignment
}

fn listener(
    name: &str,
    config: hcm::HttpConnectionManager,
    socket: Option<core::TransportSocket>,
    size: usize,
) -> Listener {
    let build = |config: &hcm::HttpConnectionManager| {
        let filter = Filter {
            name: "envoy.filters.network.http_connection_manager".into(),
            config_type: Some(filter::ConfigType::TypedConfig(pack(config))),
        };
        let chain =
            FilterChain { filters: vec![filter], transport_socket: socket.clone(), ..Default::default() };
        Listener { name: name.into(), filter_chains: vec![chain], ..Default::default() }
    };
    let mut config = config;
    config.stat_prefix = padding(&build(&config), size.saturating_sub(4));
    build(&config)
}

pub fn outbound_listener(name: &str, routes: &str, size: usize) -> Listener {
    let rds = hcm::Rds { config_source: by_ads(), route_config_name: routes.into() };
    let route_specifier = Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds));
    listener(name, hcm::HttpConnectionManager { route_specifier, ..Default::default() }, None, size)
}

pub fn inbound_listener(name: &str, size: usize) -> Listener {
    let context = tls::DownstreamTlsContext { common_tls_context: common_tls(), ..Default::default() };
    listener(name, hcm::HttpConnectionManager::default(), transport_socket(&context), size)
}

/// Routes to one cluster; `edition` makes them differ.
pub fn routes(name: &str, cluster: &str, edition: u32, size: usize) -> RouteConfiguration {
    let mut routes = RouteConfiguration { name: name.into(), ..Default::default() };
    routes.internal_only_headers = vec![format!("{edition:08}"), cluster.to_owned()];
    let padding = padding(&routes, size);
    routes.internal_only_headers.push(padding);
    routes
}

pub fn secret(name: &str, size: usize) -> tls::Secret {
    let bytes = core::data_source::Specifier::InlineBytes(vec![b'x'; size]);
    let trusted_ca = Some(core::DataSource { specifier: Some(bytes), ..Default::default() });
    let context = tls::CertificateValidationContext { trusted_ca, ..Default::default() };
    tls::Secret { name: name.into(), r#type: Some(tls::secret::Type::ValidationContext(context)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_have_the_size_that_was_asked_for() {
        let near =
            |len: usize, wanted: usize| assert!(len.abs_diff(wanted) <= 8, "{len} instead of {wanted}");
        near(cluster("web", 1200).encoded_len(), 1200);
        near(assignment("web", &["10.0.0.1".into()], 700).encoded_len(), 700);
        near(outbound_listener("l", "r", 900).encoded_len(), 900);
        near(inbound_listener("l", 1500).encoded_len(), 1500);
        near(routes("r", "web", 1, 500).encoded_len(), 500);
    }
}
