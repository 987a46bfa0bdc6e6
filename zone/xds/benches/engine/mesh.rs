//! A zone to measure: P proxies in S services, a scope of 20 services each, mutual TLS, a permission and timeouts.
use serde_json::json;
use shared_model::Resource;
use std::sync::Arc;
use zone_index::{Change, Index, ProxyId, Source};
use zone_xds::Identity;

pub const MESH: &str = "default";
pub const SCOPE: usize = 20;

pub struct Zone {
    pub index: Index,
    pub proxies: usize,
    pub services: usize,
}

impl Zone {
    pub fn new(proxies: usize, services: usize) -> Zone {
        let mut zone = Zone { index: Index::new("east"), proxies, services };
        let backend = json!({"name": "ca", "type": "builtin", "mode": "STRICT"});
        let mesh = json!({"mtls": {"enabledBackend": "ca", "backends": [backend]}});
        let trust = json!({"trustDomain": MESH, "caBundles": [{"type": "Pem", "pem": {"value": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"}}]});
        let permission = json!({"targetRef": {"kind": "Mesh"}, "from": [{"targetRef": {"kind": "Mesh"}, "default": {"action": "Allow"}}]});
        let mut changes = vec![
            Change::Put(Source::Followed, Arc::new(Resource::new("Mesh", "", MESH, mesh))),
            Change::Put(Source::Owned, Arc::new(Resource::new("MeshTrust", MESH, "trust", trust))),
            Change::Put(
                Source::Followed,
                Arc::new(Resource::new("MeshTrafficPermission", MESH, "all", permission)),
            ),
            zone.timeout(1),
        ];
        changes.extend((0..proxies).map(|i| zone.dataplane(i, 1)));
        zone.index.apply(changes);
        zone
    }

    /// A policy for the whole mesh.
    pub fn timeout(&self, seconds: u32) -> Change {
        let conf = json!({"http": {"requestTimeout": format!("{seconds}s")}});
        let spec =
            json!({"targetRef": {"kind": "Mesh"}, "to": [{"targetRef": {"kind": "Mesh"}, "default": conf}]});
        Change::Put(Source::Followed, Arc::new(Resource::new("MeshTimeout", MESH, "timeout", spec)))
    }

    /// The `i`th proxy; another `place` is another address of it.
    pub fn dataplane(&self, i: usize, place: usize) -> Change {
        let service = i % self.services;
        let outbounds: Vec<_> = (1..=SCOPE.min(self.services - 1))
            .map(|k| {
                let to = format!("svc-{}", (service + k) % self.services);
                json!({"port": 20_000 + k, "tags": {"kuma.io/service": to}})
            })
            .collect();
        let tags = json!({"kuma.io/service": format!("svc-{service}"), "kuma.io/protocol": "http"});
        let spec = json!({"networking": {
            "address": format!("10.{place}.{}.{}", i / 250, i % 250 + 1),
            "inbound": [{"port": 8080, "servicePort": 80, "serviceAddress": "127.0.0.1", "tags": tags}],
            "outbound": outbounds,
        }});
        Change::Put(Source::Owned, Arc::new(Resource::new("Dataplane", MESH, &format!("dp-{i}"), spec)))
    }

    pub fn id(&self, i: usize) -> ProxyId {
        ProxyId::new(MESH, format!("dp-{i}"))
    }

    pub fn ids(&self) -> Vec<ProxyId> {
        (0..self.proxies).map(|i| self.id(i)).collect()
    }
}

pub fn identity() -> Identity {
    Identity { chain_pem: "c".repeat(900), key_pem: "k".repeat(240), version: "1".into() }
}
