//! A port that the proxy serves: the listener that others reach, and the cluster of the application behind it.
//!
//! Policies fill in a [`Draft`]; all of it but the address is a [`Role`], which proxies that serve the same share. An inbound has one chain for each way in:
//!
//! ```text
//!   strict       TLS ──▶ authorisation ──▶ faults ──▶ application
//!   permissive   the same for callers of the mesh (by their protocol name)
//!                plain text ──▶ faults ──▶ application
//!                any other TLS ──▶ application, as it is
//!   off          plain text ──▶ faults ──▶ application
//! ```
//!
//! A listener that changes is replaced as a whole, and the old one drains: that is how a permission that was withdrawn
//! reaches connections that are open.
use crate::{
    envoy::{duration, socket, yes},
    http,
    memo::Same,
    names,
    peer::Asked,
    policies::{fault_injection, timeout, tls, traffic_permission},
    snapshot::{Encoded, Set, Type},
    transport::{ALPN, Transport},
};
use envoy_types::pb::envoy::{
    config::{
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType},
        },
        core::v3::{HttpProtocolOptions, TrafficDirection, TransportSocket},
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
        },
        listener::v3::{
            Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, listener_filter::ConfigType,
        },
        rbac::v3::Rbac,
        route::v3::Route,
    },
    extensions::filters::{
        http::rbac::v3::Rbac as HttpRbac,
        listener::tls_inspector::v3::TlsInspector,
        network::{
            http_connection_manager::v3::{HttpFilter, http_connection_manager::RouteSpecifier},
            rbac::v3::Rbac as NetworkRbac,
            tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
        },
    },
};
use prost::Message;
use shared_model::{Duration, core::dataplane::Protocol};
use shared_policy::{
    Policy,
    kinds::tls::{Mode, Parameters},
};
use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};
use zone_index::{InboundView, ProxyView};

/// Who gets in, and who would not if it were up to shadow policies.
#[derive(Clone, Debug)]
pub(crate) struct Authorization {
    pub rules: Rbac,
    pub shadow_rules: Option<Rbac>,
}

/// How callers may come in.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    Plain,
    Permissive(TransportSocket),
    Strict(TransportSocket),
}

/// All that from which an inbound follows, but for its address: proxies that serve the same share it.
#[derive(Debug, PartialEq)]
pub(crate) struct Duty {
    mesh: String,
    /// What metrics and routes call it.
    service: String,
    protocol: Protocol,
    cluster: String,
    mode: Option<Mode>,
    parameters: Option<Parameters>,
    policies: Vec<Same<Policy>>,
}

impl Hash for Duty {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.mesh, &self.service, &self.cluster).hash(state);
        self.policies.hash(state);
    }
}

impl Duty {
    /// `None`: the proxy should be known to others by a certificate and has none, so nobody is served.
    pub fn of(view: &ProxyView, inbound: &InboundView, parameters: Option<&Parameters>) -> Option<Duty> {
        let mode = tls::inbound(view, inbound);
        if mode.is_some() && parameters.is_none() {
            return None;
        }
        Some(Duty {
            mesh: view.id.mesh.clone(),
            service: service(inbound),
            protocol: inbound.protocol,
            cluster: local_cluster(view, inbound),
            mode,
            parameters: parameters.cloned(),
            policies: view.policies.about_inbound(&inbound.facts).cloned().map(Same).collect(),
        })
    }
}

/// An inbound, but for its address.
#[derive(Debug)]
pub(crate) struct Role {
    /// The fields of the listener behind its name and address, encoded.
    listener: Vec<u8>,
    connect_timeout: Duration,
    local_http: HttpProtocolOptions,
}

/// Asks the policies. It may look at nothing of the inbound that is not part of its [`Duty`].
pub(crate) fn role(view: &ProxyView, inbound: &InboundView, transport: Option<&Transport>) -> Role {
    let way = match (tls::inbound(view, inbound), transport) {
        (Some(Mode::Permissive), Some(transport)) => Way::Permissive(transport.downstream()),
        (Some(Mode::Strict), Some(transport)) => Way::Strict(transport.downstream()),
        _ => Way::Plain,
    };
    let mut draft = Draft::new(inbound, way, local_cluster(view, inbound));
    traffic_permission::inbound(&mut draft, view);
    fault_injection::inbound(&mut draft, view);
    timeout::inbound(&mut draft, view);
    Role {
        listener: draft.listener().encode_to_vec(),
        connect_timeout: draft.connect_timeout,
        local_http: draft.local_http,
    }
}

/// The resources of an inbound that has this role.
pub(crate) fn finish(view: &ProxyView, inbound: &InboundView, role: &Role, resources: &mut Set) {
    let InboundView { address, port, .. } = inbound;
    let name = names::inbound(address, *port);
    let head = Listener { name: name.clone(), address: Some(socket(address, *port)), ..Listener::default() };
    let mut listener = Vec::with_capacity(head.encoded_len() + role.listener.len());
    // Name and address are the first fields, and fields one after the other are a message.
    head.encode(&mut listener).expect("a vector grows");
    listener.extend_from_slice(&role.listener);
    resources.put(Arc::new(Encoded::from_bytes(Type::Listener, &name, listener)));
    resources.insert(&application(inbound, local_cluster(view, inbound), role));
}

/// The application's cluster bears its port. Of several inbounds in front of one port, all but the first bear their own
/// too, since policies may differ.
fn local_cluster(view: &ProxyView, inbound: &InboundView) -> String {
    let first = view.inbounds.iter().find(|other| other.service_port == inbound.service_port);
    let name = names::local_cluster(inbound.service_port);
    match first.is_none_or(|first| (&first.address, first.port) == (&inbound.address, inbound.port)) {
        true => name,
        false => format!("{name}:{}", names::inbound(&inbound.address, inbound.port)),
    }
}

fn application(inbound: &InboundView, name: String, role: &Role) -> Cluster {
    let InboundView { service_address, service_port, .. } = inbound;
    let endpoint = Endpoint { address: Some(socket(service_address, *service_port)), ..Endpoint::default() };
    let endpoint =
        LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..LbEndpoint::default() };
    let mut cluster = Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        connect_timeout: Some(duration(role.connect_timeout)),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name,
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![endpoint],
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        }),
        ..Cluster::default()
    };
    http::speak(&mut cluster, inbound.protocol, role.local_http);
    cluster
}

/// What metrics and routes call it.
fn service(inbound: &InboundView) -> String {
    inbound.service.clone().unwrap_or_else(|| inbound.facts.section.clone())
}

pub(crate) struct Draft<'a> {
    pub view: &'a InboundView,
    pub way: Way,
    pub authorization: Option<Authorization>,
    /// In front of the router.
    pub http_filters: Vec<HttpFilter>,
    pub routes: Vec<Route>,
    pub request_headers_timeout: Duration,
    pub tcp_idle_timeout: Duration,
    pub connect_timeout: Duration,
    pub local_http: HttpProtocolOptions,
    pub asked: Asked,
    /// The application's cluster.
    pub cluster: String,
}

impl<'a> Draft<'a> {
    pub fn new(view: &'a InboundView, way: Way, cluster: String) -> Self {
        Draft {
            view,
            way,
            authorization: None,
            http_filters: Vec::new(),
            routes: Vec::new(),
            request_headers_timeout: Duration::ZERO,
            tcp_idle_timeout: Duration::ZERO,
            connect_timeout: Duration::ZERO,
            local_http: HttpProtocolOptions::default(),
            asked: Asked::default(),
            cluster,
        }
    }

    fn stat_prefix(&self) -> String {
        names::stat_prefix(&format!("inbound_{}", service(self.view)))
    }

    /// Without its name and address.
    fn listener(&self) -> Listener {
        let secure = |socket: &TransportSocket, matches: Option<FilterChainMatch>| FilterChain {
            filter_chain_match: matches,
            filters: self.filters(true),
            transport_socket: Some(socket.clone()),
            name: "tls".to_owned(),
            ..FilterChain::default()
        };
        let protocol = |transport: &str| FilterChainMatch {
            transport_protocol: transport.to_owned(),
            ..FilterChainMatch::default()
        };
        let filter_chains = match &self.way {
            Way::Strict(socket) => vec![secure(socket, None)],
            Way::Plain => vec![self.chain("plain", self.filters(false), None)],
            Way::Permissive(socket) => {
                let ours =
                    FilterChainMatch { application_protocols: vec![ALPN.to_owned()], ..protocol("tls") };
                vec![
                    self.chain("plain", self.filters(false), Some(protocol("raw_buffer"))),
                    secure(socket, Some(ours)),
                    self.chain("foreign_tls", vec![self.tcp_proxy()], Some(protocol("tls"))),
                ]
            }
        };
        let inspect = self.asked.inspection || matches!(self.way, Way::Permissive(_));
        let inspector = ListenerFilter {
            name: "envoy.filters.listener.tls_inspector".to_owned(),
            config_type: Some(ConfigType::TypedConfig(crate::envoy::any(&TlsInspector::default()))),
            ..ListenerFilter::default()
        };
        Listener {
            traffic_direction: TrafficDirection::Inbound.into(),
            listener_filters: inspect.then_some(inspector).into_iter().collect(),
            filter_chains,
            ..Listener::default()
        }
    }

    fn chain(
        &self,
        name: &str,
        filters: Vec<Filter>,
        filter_chain_match: Option<FilterChainMatch>,
    ) -> FilterChain {
        FilterChain { filter_chain_match, filters, name: name.to_owned(), ..FilterChain::default() }
    }

    fn filters(&self, secure: bool) -> Vec<Filter> {
        let authorization = self.authorization.as_ref().filter(|_| secure);
        let mut filters: Vec<Filter> = self.asked.filter().filter(|_| secure).into_iter().collect();
        if self.view.protocol.is_http() {
            let mut http_filters: Vec<HttpFilter> = Vec::new();
            http_filters.extend(authorization.map(|Authorization { rules, shadow_rules }| {
                let config = HttpRbac {
                    rules: Some(rules.clone()),
                    shadow_rules: shadow_rules.clone(),
                    ..HttpRbac::default()
                };
                http::filter("envoy.filters.http.rbac", &config)
            }));
            http_filters.extend(self.http_filters.iter().cloned());
            let service = service(self.view);
            let routes =
                http::route_configuration(format!("inbound:{service}"), &service, self.routes.clone());
            let mut manager = http::manager(
                self.stat_prefix(),
                http_filters,
                RouteSpecifier::RouteConfig(routes),
                self.request_headers_timeout,
            );
            http::show_caller(&mut manager);
            filters.push(http::network_filter("envoy.filters.network.http_connection_manager", &manager));
        } else {
            filters.extend(authorization.map(|Authorization { rules, shadow_rules }| {
                let config = NetworkRbac {
                    rules: Some(rules.clone()),
                    shadow_rules: shadow_rules.clone(),
                    stat_prefix: format!("{}.", self.stat_prefix()),
                    ..NetworkRbac::default()
                };
                http::network_filter("envoy.filters.network.rbac", &config)
            }));
            filters.push(self.tcp_proxy());
        }
        filters
    }

    fn tcp_proxy(&self) -> Filter {
        let config = TcpProxy {
            stat_prefix: self.stat_prefix(),
            cluster_specifier: Some(ClusterSpecifier::Cluster(self.cluster.clone())),
            idle_timeout: Some(duration(self.tcp_idle_timeout)),
            // A connection ends when the listener that let it in drains, not only when the drain is over.
            check_drain_close: yes(),
            ..TcpProxy::default()
        };
        http::network_filter("envoy.filters.network.tcp_proxy", &config)
    }
}
