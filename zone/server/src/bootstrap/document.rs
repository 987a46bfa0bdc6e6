//! Envoy's bootstrap as JSON, which is YAML too.
use base64::Engine as _;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use zone_index::ProxyId;

pub struct Admin {
    pub port: u16,
}

/// All that a bootstrap is made of.
pub struct Facts<'a> {
    pub id: &'a ProxyId,
    pub cluster: &'a str,
    pub token: &'a str,
    /// The Dataplane as the agent sent it; empty when it is in the store already.
    pub resource: &'a str,
    pub admin: Admin,
    pub version: &'a Value,
    pub dynamic_metadata: Option<&'a Value>,
    pub features: &'a [String],
    pub workdir: &'a str,
    pub system_ca_path: &'a str,
    pub readiness_port: Option<u16>,
    pub xds_host: &'a str,
    pub xds_port: u16,
    pub ca_pem: &'a str,
}

impl Facts<'_> {
    pub fn document(&self) -> Value {
        json!({
            "node": {
                "id": format!("{}.{}", self.id.mesh, self.id.name),
                "cluster": self.cluster,
                "metadata": self.metadata(),
            },
            // On loopback and in TCP, so that the control plane can ask it when they share a host.
            "admin": {
                "address": {"socketAddress": {"address": "127.0.0.1", "portValue": self.admin.port}},
                "accessLog": [{
                    "name": "envoy.access_loggers.file",
                    "typedConfig": {
                        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                        "path": "/dev/null",
                    },
                }],
            },
            "defaultRegexEngine": {
                "name": "envoy.regex_engines.google_re2",
                "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.regex_engines.v3.GoogleRE2"},
            },
            "dynamicResources": self.dynamic_resources(),
            "layeredRuntime": {"layers": [{
                "name": "weft",
                "staticLayer": {
                    "re2.max_program_size.error_level": 4_294_967_295_u32,
                    "re2.max_program_size.warn_level": 1000,
                },
            }]},
            "staticResources": {"secrets": [self.validation()], "clusters": [self.ads_cluster()]},
        })
    }

    /// Scalars are strings, as Kuma's control plane and agents expect them.
    fn metadata(&self) -> Value {
        let mut fields = Map::new();
        let mut set = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
        set("dataplane.proxyType", "dataplane".into());
        if !self.resource.is_empty() {
            set("dataplane.resource", self.resource.into());
        }
        set("dataplane.admin.port", self.admin.port.to_string().into());
        set("dataplane.admin.address", "127.0.0.1".into());
        if let Some(port) = self.readiness_port {
            set("dataplane.readinessReporter.port", port.to_string().into());
        }
        set("features", json!(self.features));
        set("workdir", self.workdir.into());
        set("systemCaPath", self.system_ca_path.into());
        if self.version.is_object() {
            set("version", self.version.clone());
        }
        if let Some(dynamic) =
            self.dynamic_metadata.filter(|value| value.as_object().is_some_and(|map| !map.is_empty()))
        {
            set("dynamicMetadata", dynamic.clone());
        }
        Value::Object(fields)
    }

    fn dynamic_resources(&self) -> Value {
        // No time-out: an Envoy that waits for its first configuration must not go live with none.
        let from_ads = json!({"ads": {}, "initialFetchTimeout": "0s", "resourceApiVersion": "V3"});
        let mut service = json!({"envoyGrpc": {"clusterName": "ads_cluster"}});
        if !self.token.is_empty() {
            service["initialMetadata"] = json!([{"key": "authorization", "value": self.token}]);
        }
        json!({
            "ldsConfig": from_ads,
            "cdsConfig": from_ads,
            "adsConfig": {
                "apiType": "DELTA_GRPC",
                "transportApiVersion": "V3",
                "setNodeOnFirstMessageOnly": true,
                "grpcServices": [service],
            },
        })
    }

    fn validation(&self) -> Value {
        let san = |kind: &str| json!({"sanType": kind, "matcher": {"exact": self.xds_host}});
        let kind = if self.host_is_ip() { "IP_ADDRESS" } else { "DNS" };
        json!({
            "name": "cp_validation_ctx",
            "validationContext": {
                "trustedCa": {"inlineBytes": base64::engine::general_purpose::STANDARD.encode(self.ca_pem)},
                "matchTypedSubjectAltNames": [san(kind)],
            },
        })
    }

    fn ads_cluster(&self) -> Value {
        let mut tls = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "commonTlsContext": {
                "tlsParams": {"tlsMinimumProtocolVersion": "TLSv1_2", "tlsMaximumProtocolVersion": "TLSv1_3"},
                "alpnProtocols": ["h2"],
                "validationContextSdsSecretConfig": {"name": "cp_validation_ctx"},
            },
        });
        // A server's name is never an address.
        if !self.host_is_ip() {
            tls["sni"] = self.xds_host.into();
        }
        let address = json!({"socketAddress": {"address": self.xds_host, "portValue": self.xds_port}});
        json!({
            "name": "ads_cluster",
            // A name may stand for addresses of both families, and the control plane may listen on one: try them all.
            "type": if self.host_is_ip() { "STATIC" } else { "LOGICAL_DNS" },
            "dnsLookupFamily": "ALL",
            "connectTimeout": "5s",
            "loadAssignment": {
                "clusterName": "ads_cluster",
                "endpoints": [{"lbEndpoints": [{"endpoint": {"address": address}}]}],
            },
            // Without pings Envoy does not notice that a control plane has stopped to answer.
            "typedExtensionProtocolOptions": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicitHttpConfig": {"http2ProtocolOptions": {
                    "connectionKeepalive": {"interval": "15s", "timeout": "5s"},
                }},
            }},
            "upstreamConnectionOptions": {"tcpKeepalive": {"keepaliveProbes": 3, "keepaliveTime": 10, "keepaliveInterval": 10}},
            "transportSocket": {"name": "envoy.transport_sockets.tls", "typedConfig": tls},
        })
    }

    fn host_is_ip(&self) -> bool {
        self.xds_host.parse::<IpAddr>().is_ok()
    }
}
