//! A proxy, a destination and policies, made of a few words.
use serde_json::Value;
use shared_model::{Kri, Resource, core::dataplane::Protocol, labels::Labels};
use shared_policy::{InboundFacts, Matched, Policy, ProxyFacts, Target};
use std::{collections::BTreeMap, sync::Arc};

pub struct Proxy {
    pub zone: String,
    pub labels: Labels,
    pub inbounds: Vec<InboundFacts>,
}

impl Proxy {
    pub fn web() -> Proxy {
        let inbound = |port: u16, section: &str, version: &str| InboundFacts {
            address: "10.0.0.1".into(),
            port,
            section: section.into(),
            protocol: Protocol::Http,
            tags: map(&[("kuma.io/service", "web"), ("version", version)]),
        };
        Proxy {
            zone: "east".into(),
            labels: map(&[("app", "web")]),
            inbounds: vec![inbound(80, "main", "v1"), inbound(81, "81", "v2")],
        }
    }

    pub fn facts(&self) -> ProxyFacts<'_> {
        ProxyFacts {
            mesh: "default",
            name: "web-1",
            zone: &self.zone,
            labels: &self.labels,
            inbounds: &self.inbounds,
        }
    }

    pub fn matched(&self, policies: &[Resource]) -> Matched {
        Matched::of(&compile(policies), &self.facts())
    }
}

pub fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn compile(policies: &[Resource]) -> Vec<Arc<Policy>> {
    policies
        .iter()
        .map(|policy| Arc::new(Policy::compile(policy).expect("a policy without problems")))
        .collect()
}

pub fn policy(kind: &str, name: &str, spec: Value) -> Resource {
    Resource::new(kind, "default", name, spec)
}

/// Calls `ask` with the port 8080, named `http`, of the service `backend` in the zone `east`.
pub fn with_backend<T>(ask: impl FnOnce(&Target) -> T) -> T {
    let kri = Kri::parse("kri_msvc_default_east__backend_http").expect("a KRI");
    let labels = map(&[("team", "a")]);
    ask(&Target { kri: &kri, port: 8080, labels: &labels, service_tag: Some("backend_tag") })
}
