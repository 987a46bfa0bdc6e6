//! `Dataplane`: a proxy, the ports that it serves and the destinations that it reaches.
use crate::{labels, labels::Labels, problem::Problem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dataplane {
    pub networking: Networking,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Networking {
    /// Where other proxies reach this one.
    pub address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertised_address: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inbound: Vec<Inbound>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outbound: Vec<Outbound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Admin {
    #[serde(default)]
    pub port: u16,
}

/// A port that the proxy serves for the application behind it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inbound {
    pub port: u16,
    /// The application's port; the same as `port` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_port: Option<u16>,
    /// The application's address; `127.0.0.1` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_address: Option<String>,
    /// The proxy's address for this port; that of `networking` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    pub state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    #[serde(default)]
    pub ready: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    #[default]
    Ready,
    NotReady,
    Ignored,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Tls,
    Http,
    Http2,
    Grpc,
    Kafka,
    Mysql,
}

impl Protocol {
    /// True when a proxy can read requests, and HTTP policies apply.
    pub fn is_http(self) -> bool {
        matches!(self, Protocol::Http | Protocol::Http2 | Protocol::Grpc)
    }

    pub fn parse(text: &str) -> Option<Protocol> {
        serde_json::from_value(serde_json::Value::from(text.to_ascii_lowercase())).ok()
    }
}

/// A destination that the application reaches at an address and port of the proxy's host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outbound {
    /// `127.0.0.1` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    pub port: u16,
    /// The destination as 2.x documents name it, by the tag `kuma.io/service`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_ref: Option<BackendRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The service's port; its only one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

impl Inbound {
    /// The name of the service that this port belongs to, as 2.x documents give it.
    pub fn service(&self) -> Option<&str> {
        self.tags.get(labels::SERVICE).map(String::as_str)
    }

    pub fn protocol(&self) -> Protocol {
        let tag = || self.tags.get(labels::PROTOCOL).and_then(|text| Protocol::parse(text));
        self.protocol.or_else(tag).unwrap_or_default()
    }

    pub fn service_port(&self) -> u16 {
        self.service_port.unwrap_or(self.port)
    }

    pub fn service_address(&self) -> &str {
        self.service_address.as_deref().unwrap_or("127.0.0.1")
    }

    /// The name of the port as policies and KRIs use it: its own, else its number.
    pub fn section(&self) -> String {
        if self.name.is_empty() { self.port.to_string() } else { self.name.clone() }
    }

    pub fn is_ready(&self) -> bool {
        self.state == State::Ready && self.health.as_ref().is_none_or(|health| health.ready)
    }
}

impl Outbound {
    pub fn address(&self) -> &str {
        self.address.as_deref().unwrap_or("127.0.0.1")
    }
}

impl Dataplane {
    /// The address at which other proxies reach an inbound.
    pub fn inbound_address<'a>(&'a self, inbound: &'a Inbound) -> &'a str {
        inbound.address.as_deref().unwrap_or(&self.networking.address)
    }

    /// Every value that each tag has on any inbound.
    pub fn tags(&self) -> BTreeMap<String, Vec<String>> {
        let mut tags: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in self.networking.inbound.iter().flat_map(|inbound| &inbound.tags) {
            let values = tags.entry(key.clone()).or_default();
            if !values.contains(value) {
                values.push(value.clone());
            }
        }
        tags
    }

    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let net = &self.networking;
        let mut address = |path: String, text: &str| match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => {
                problems.push(Problem::new(path, format!("{text:?} is no address of one host")))
            }
            Ok(_) => {}
            Err(_) => problems.push(Problem::new(path, format!("{text:?} is not an IP address"))),
        };
        address("networking.address".into(), &net.address);
        for (i, inbound) in net.inbound.iter().enumerate() {
            if let Some(text) = &inbound.address {
                address(format!("networking.inbound[{i}].address"), text);
            }
            if let Some(text) = &inbound.service_address {
                address(format!("networking.inbound[{i}].serviceAddress"), text);
            }
        }
        for (i, outbound) in net.outbound.iter().enumerate() {
            address(format!("networking.outbound[{i}].address"), outbound.address());
        }
        for (i, inbound) in net.inbound.iter().enumerate() {
            let path = format!("networking.inbound[{i}]");
            if inbound.port == 0 {
                problems.push(Problem::new(format!("{path}.port"), "must be between 1 and 65535"));
            }
            if inbound.service_port == Some(0) {
                problems.push(Problem::new(format!("{path}.servicePort"), "must be between 1 and 65535"));
            }
            if let Some(text) =
                inbound.tags.get(labels::PROTOCOL).filter(|text| Protocol::parse(text).is_none())
            {
                let reason =
                    format!("{text:?} is not a protocol: tcp, tls, http, http2, grpc, kafka or mysql");
                problems.push(Problem::new(format!("{path}.tags[{:?}]", labels::PROTOCOL), reason));
            }
            let same = |other: &Inbound| {
                other.port == inbound.port && self.inbound_address(other) == self.inbound_address(inbound)
            };
            if net.inbound[..i].iter().any(same) {
                problems
                    .push(Problem::new(format!("{path}.port"), format!("{} is served twice", inbound.port)));
            }
        }
        for (i, outbound) in net.outbound.iter().enumerate() {
            let path = format!("networking.outbound[{i}]");
            if outbound.port == 0 {
                problems.push(Problem::new(format!("{path}.port"), "must be between 1 and 65535"));
            }
            match (&outbound.backend_ref, outbound.tags.get(labels::SERVICE)) {
                (Some(backend), _) if backend.kind != crate::kind::MESH_SERVICE => {
                    let reason = format!("{:?} is not supported: MeshService", backend.kind);
                    problems.push(Problem::new(format!("{path}.backendRef.kind"), reason));
                }
                (Some(backend), _) if backend.name.is_empty() && backend.labels.is_empty() => {
                    problems.push(Problem::new(format!("{path}.backendRef"), "needs a name or labels"));
                }
                (None, None) => {
                    let reason = "needs a backendRef, or the tag kuma.io/service";
                    problems.push(Problem::new(path.clone(), reason));
                }
                _ => {}
            }
            let same =
                |other: &Outbound| other.port == outbound.port && other.address() == outbound.address();
            if net.outbound[..i].iter().any(same) {
                problems.push(Problem::new(
                    format!("{path}.port"),
                    format!("{} is listened on twice", outbound.port),
                ));
            }
        }
        problems
    }
}
