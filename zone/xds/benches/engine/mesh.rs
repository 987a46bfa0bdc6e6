//! A zone to measure: P proxies in S services, a scope of 20 services each, mutual TLS, a permission and timeouts,
//! written in the one or the other generation of documents.
use serde_json::{Value, json};
use shared_model::Resource;
use std::sync::Arc;
use zone_index::{Change, Index, ProxyId, Source};
use zone_xds::Identity;

pub const MESH: &str = "default";
pub const SCOPE: usize = 20;

/// A certificate of nobody.
const AUTHORITY: &str = include_str!("authority.pem");

/// How the documents are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Kuma 2.x: service tags, outbounds by tag, `Mesh.mtls`, permissions with `from`.
    Tags,
    /// Kuma 3.0: labels, outbounds by `backendRef`, a MeshIdentity, permissions with `rules`.
    Labels,
}

pub struct Zone {
    pub index: Index,
    pub proxies: usize,
    pub services: usize,
    style: Style,
}

fn put(source: Source, kind: &str, mesh: &str, name: &str, spec: Value) -> Change {
    Change::Put(source, Arc::new(Resource::new(kind, mesh, name, spec)))
}

impl Zone {
    pub fn new(proxies: usize, services: usize) -> Zone {
        Zone::styled(Style::Tags, proxies, services)
    }

    pub fn styled(style: Style, proxies: usize, services: usize) -> Zone {
        let mut zone = Zone { index: Index::new("east"), proxies, services, style };
        let mut mesh = json!({});
        let mut trust_domain = MESH.to_owned();
        let mut changes = Vec::new();
        let everybody = match style {
            Style::Tags => {
                let backend = json!({"name": "ca", "type": "builtin", "mode": "STRICT"});
                mesh = json!({"mtls": {"enabledBackend": "ca", "backends": [backend]}});
                json!({"targetRef": {"kind": "Mesh"}, "from": [{"targetRef": {"kind": "Mesh"}, "default": {"action": "Allow"}}]})
            }
            Style::Labels => {
                trust_domain = format!("{MESH}.east.mesh.local");
                let identity = json!({
                    "selector": {"dataplane": {"matchLabels": {}}},
                    "spiffeID": {"path": "/workload/{{ .Workload }}", "trustDomain": trust_domain},
                    "provider": {"type": "Bundled"},
                });
                changes.push(put(Source::Followed, "MeshIdentity", MESH, "everyone", identity));
                json!({"targetRef": {"kind": "Mesh"},
                    "rules": [{"default": {"allow": [{"spiffeID": {"type": "Prefix", "value": format!("spiffe://{MESH}.")}}]}}]})
            }
        };
        let trust =
            json!({"trustDomain": trust_domain, "caBundles": [{"type": "Pem", "pem": {"value": AUTHORITY}}]});
        changes.extend([
            put(Source::Followed, "Mesh", "", MESH, mesh),
            put(Source::Owned, "MeshTrust", MESH, "trust", trust),
            put(Source::Followed, "MeshTrafficPermission", MESH, "all", everybody),
            zone.timeout(1),
        ]);
        changes.extend((0..proxies).map(|i| zone.dataplane(i, 1)));
        zone.index.apply(changes);
        zone
    }

    /// A policy for the whole mesh.
    pub fn timeout(&self, seconds: u32) -> Change {
        timeout("timeout", json!({"kind": "Mesh"}), seconds)
    }

    /// A timeout of the requests to one service.
    pub fn timeout_of(&self, service: usize, seconds: u32) -> Change {
        timeout("one-service", json!({"kind": "MeshService", "name": format!("svc-{service}")}), seconds)
    }

    /// One caller is refused by one service.
    pub fn withdrawal(&self, name: &str, service: usize, caller: usize) -> Change {
        let (called, caller) = (format!("svc-{service}"), format!("svc-{caller}"));
        let spec = match self.style {
            Style::Tags => json!({
                "targetRef": {"kind": "MeshSubset", "tags": {"kuma.io/service": called}},
                "from": [{"targetRef": {"kind": "MeshSubset", "tags": {"kuma.io/service": caller}}, "default": {"action": "Deny"}}]}),
            Style::Labels => json!({
                "targetRef": {"kind": "Dataplane", "labels": {"kuma.io/workload": called}},
                "rules": [{"default": {"deny": [{"spiffeID": {"type": "Exact",
                    "value": format!("spiffe://{MESH}.east.mesh.local/workload/{caller}")}}]}}]}),
        };
        put(Source::Followed, "MeshTrafficPermission", MESH, name, spec)
    }

    /// A route for requests to one service, which it answers itself.
    pub fn route(&self, name: &str, service: usize, path: &str) -> Change {
        let backend =
            json!({"kind": "MeshService", "name": format!("svc-{service}"), "port": 8080, "weight": 1});
        let rule = json!({"matches": [{"path": {"type": "PathPrefix", "value": path}}], "default": {"backendRefs": [backend]}});
        let to = json!({"kind": "MeshService", "name": format!("svc-{service}")});
        let spec = json!({"targetRef": {"kind": "Mesh"}, "to": [{"targetRef": to, "rules": [rule]}]});
        put(Source::Followed, "MeshHTTPRoute", MESH, name, spec)
    }

    /// The `i`th proxy; another `place` is another address of it.
    pub fn dataplane(&self, i: usize, place: usize) -> Change {
        let service = i % self.services;
        let outbounds: Vec<_> = (1..=SCOPE.min(self.services - 1))
            .map(|k| {
                let (port, to) = (20_000 + k, format!("svc-{}", (service + k) % self.services));
                match self.style {
                    Style::Tags => json!({"port": port, "tags": {"kuma.io/service": to}}),
                    Style::Labels => {
                        json!({"port": port, "backendRef": {"kind": "MeshService", "name": to, "port": 8080}})
                    }
                }
            })
            .collect();
        let own = format!("svc-{service}");
        let mut inbound = json!({"port": 8080, "servicePort": 80, "serviceAddress": "127.0.0.1"});
        match self.style {
            Style::Tags => inbound["tags"] = json!({"kuma.io/service": own, "kuma.io/protocol": "http"}),
            Style::Labels => inbound["protocol"] = json!("http"),
        }
        let spec = json!({"networking": {
            "address": format!("10.{place}.{}.{}", i / 250, i % 250 + 1),
            "inbound": [inbound],
            "outbound": outbounds,
        }});
        let mut resource = Resource::new("Dataplane", MESH, &format!("dp-{i}"), spec);
        if self.style == Style::Labels {
            resource = resource.with_label("kuma.io/workload", &own);
        }
        Change::Put(Source::Owned, Arc::new(resource))
    }

    pub fn id(&self, i: usize) -> ProxyId {
        ProxyId::new(MESH, format!("dp-{i}"))
    }

    pub fn ids(&self) -> Vec<ProxyId> {
        (0..self.proxies).map(|i| self.id(i)).collect()
    }
}

fn timeout(name: &str, to: Value, seconds: u32) -> Change {
    let conf = json!({"http": {"requestTimeout": format!("{seconds}s")}});
    let spec = json!({"targetRef": {"kind": "Mesh"}, "to": [{"targetRef": to, "default": conf}]});
    put(Source::Followed, "MeshTimeout", MESH, name, spec)
}

pub fn identity() -> Identity {
    Identity { chain_pem: "c".repeat(900), key_pem: "k".repeat(240), version: "1".into() }
}
