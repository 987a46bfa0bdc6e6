//! Random changes to a zone of two meshes, small enough that they often meet.
use serde_json::{Value, json};
use shared_model::{Resource, Timestamp};
use std::sync::Arc;
use zone_index::{Change, Source};

pub const MESHES: &[&str] = &["m1", "m2"];
const SERVICES: &[&str] = &["web", "api", "db", "Odd_Name"];

/// A source of small choices.
struct Dice<'a>(&'a [u8]);

impl Dice<'_> {
    fn roll(&mut self, sides: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % sides
    }

    fn pick<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.roll(of.len())]
    }
}

fn inbound(dice: &mut Dice) -> Value {
    let port = 80 + dice.roll(2);
    let state = dice.pick(&["Ready", "Ready", "NotReady", "Ignored"]);
    let name = dice.pick(&["", "http"]);
    let protocol = dice.pick(&["tcp", "http", "grpc"]);
    let mut inbound = json!({"port": port, "state": state, "name": name, "protocol": protocol});
    if dice.roll(3) > 0 {
        inbound["tags"] =
            json!({"kuma.io/service": dice.pick(SERVICES), "version": dice.pick(&["v1", "v2", "a/b"])});
    }
    inbound
}

fn outbound(dice: &mut Dice, port: usize) -> Value {
    let name = dice.pick(&["web", "api", "db", "all", "none"]);
    let to = match dice.roll(6) {
        0 | 1 => return json!({"port": port, "tags": {"kuma.io/service": name}}),
        2 => return json!({"port": port, "tags": {"kuma.io/service": name, "version": "v1"}}),
        3 => json!({"kind": "MeshService", "name": name}),
        4 => json!({"kind": "MeshService", "name": name, "port": 80 + dice.roll(2)}),
        _ => json!({"kind": "MeshService", "labels": {"team": dice.pick(&["a", "b"])}}),
    };
    json!({"port": port, "backendRef": to})
}

fn labelled(mut resource: Resource, dice: &mut Dice) -> Resource {
    if dice.roll(2) == 0 {
        resource = resource.with_label("team", dice.pick(&["a", "b"]));
    }
    resource
}

fn dataplane(dice: &mut Dice, mesh: &str) -> Resource {
    let name = dice.pick(&["a", "b", "c", "d"]);
    let address = dice.pick(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "nonsense"]);
    let inbounds: Vec<Value> = (0..dice.roll(3)).map(|_| inbound(dice)).collect();
    let outbounds: Vec<Value> = (0..dice.roll(4)).map(|i| outbound(dice, 1000 + i)).collect();
    let spec = json!({"networking": {"address": address, "inbound": inbounds, "outbound": outbounds}});
    let mut resource = labelled(Resource::new("Dataplane", mesh, name, spec), dice);
    if dice.roll(2) == 0 {
        resource = resource.with_label("kuma.io/workload", dice.pick(SERVICES));
    }
    resource.creation_time = Timestamp::from_timestamp(dice.roll(3) as i64, 0).expect("a time");
    resource
}

fn mesh_service(dice: &mut Dice, mesh: &str) -> Resource {
    let name = dice.pick(&["web", "api", "all", "web-2"]);
    let selector = match dice.roll(4) {
        0 => json!({"dataplaneTags": {"kuma.io/service": dice.pick(SERVICES)}}),
        1 => json!({"dataplaneTags": {"kuma.io/service": dice.pick(SERVICES), "version": "v1"}}),
        2 => json!({"dataplaneLabels": {"matchLabels": {"team": "a"}}}),
        _ => json!({"dataplaneRef": {"name": "a"}}),
    };
    let ports: Vec<Value> = (0..1 + dice.roll(2))
        .map(|i| {
            let target = [json!(80), json!(81), json!("http"), Value::Null];
            let mut port = json!({"port": 80 + i, "name": dice.pick(&["", "http"])});
            if let target @ (Value::Number(_) | Value::String(_)) = &target[dice.roll(4)] {
                port["targetPort"] = target.clone();
            }
            port
        })
        .collect();
    let mut spec = json!({"selector": selector, "ports": ports});
    if dice.roll(2) == 0 {
        spec["identities"] = json!([{"type": "SpiffeID", "value": "spiffe://td/x"}]);
    }
    if dice.roll(8) == 0 {
        spec["selector"] = json!({});
    }
    let mut resource = labelled(Resource::new("MeshService", mesh, name, spec), dice);
    match dice.roll(5) {
        0 => resource = resource.with_label("kuma.io/zone", "other"),
        1 => resource = resource.with_label("kuma.io/zone", "here"),
        2 => resource = resource.with_label("kuma.io/managed-by", zone_index::GENERATED_BY),
        3 => resource = resource.with_label("kuma.io/display-name", "web"),
        _ => {}
    }
    resource
}

fn mesh(dice: &mut Dice, mesh: &str) -> Resource {
    let backend = |mode| json!({"mtls": {"enabledBackend": "ca", "backends": [{"name": "ca", "type": "builtin", "mode": mode}]}});
    let spec = match dice.roll(5) {
        0 | 1 => json!({}),
        2 => backend("STRICT"),
        3 => backend("PERMISSIVE"),
        _ => json!({"mtls": {"enabledBackend": "gone"}}),
    };
    Resource::new("Mesh", "", mesh, spec)
}

fn mesh_identity(dice: &mut Dice, mesh: &str) -> Resource {
    let labels = [json!({}), json!({"team": "a"}), json!({"team": "b"})][dice.roll(3)].clone();
    let path = dice.pick(&["/ns/{{ .Zone }}", "/team/{{ label \"team\" }}", "/workload/{{ .Workload }}"]);
    let trust_domain = dice.pick(&["{{ .Mesh }}.{{ .Zone }}", "{{ label \"team\" }}.x"]);
    let spec = json!({
        "selector": {"dataplane": {"matchLabels": labels}},
        "spiffeID": {"path": path, "trustDomain": trust_domain},
        "provider": {"type": "Bundled"},
    });
    Resource::new("MeshIdentity", mesh, dice.pick(&["one", "two"]), spec)
}

fn mesh_trust(dice: &mut Dice, mesh: &str) -> Resource {
    let pems = [include_str!("one.pem"), include_str!("two.pem"), "-----BEGIN CERTIFICATE-----\nbad\n"];
    let bundles: Vec<Value> =
        (0..1 + dice.roll(2)).map(|_| json!({"type": "Pem", "pem": {"value": dice.pick(&pems)}})).collect();
    let spec = json!({"trustDomain": dice.pick(&["a", "b"]), "caBundles": bundles});
    Resource::new("MeshTrust", mesh, dice.pick(&["t1", "t2"]), spec)
}

/// One that speaks of what comes in, or of every destination.
fn permission(dice: &mut Dice, mesh: &str, top: Value) -> Resource {
    let name = dice.pick(&["p", "q"]);
    let everything = json!({"kind": "Mesh"});
    match dice.roll(3) {
        0 => {
            let conf = json!({"idleTimeout": format!("{}s", 1 + dice.roll(2))});
            let spec = json!({"targetRef": top, "to": [{"targetRef": everything, "default": conf}]});
            Resource::new("MeshTimeout", mesh, name, spec)
        }
        1 => {
            let tags = json!({"kuma.io/service": dice.pick(SERVICES)});
            let top = json!({"kind": "MeshSubset", "tags": tags});
            let conf = json!({"action": dice.pick(&["Allow", "Deny"])});
            let spec = json!({"targetRef": top, "from": [{"targetRef": everything, "default": conf}]});
            Resource::new("MeshTrafficPermission", mesh, name, spec)
        }
        _ => {
            let id = json!({"type": "Prefix", "value": dice.pick(&["spiffe://a", "spiffe://b"])});
            let spec = json!({"targetRef": top, "rules": [{"default": {"allow": [{"spiffeID": id}]}}]});
            Resource::new("MeshTrafficPermission", mesh, name, spec)
        }
    }
}

fn policy(dice: &mut Dice, mesh: &str) -> Resource {
    let top = match dice.roll(4) {
        0 => json!({"kind": "Mesh"}),
        1 => json!({"kind": "Dataplane", "labels": {"team": "a"}}),
        2 => json!({"kind": "Dataplane", "name": "a"}),
        _ => json!({"kind": "Dataplane", "labels": {"team": "b"}}),
    };
    let to = match dice.roll(4) {
        0 => json!({"kind": "MeshService", "labels": {"team": "a"}}),
        3 => return permission(dice, mesh, top),
        1 => json!({"kind": "MeshService", "name": dice.pick(&["web", "api"]), "sectionName": "80"}),
        _ => json!({"kind": "MeshService", "name": dice.pick(&["web", "api"])}),
    };
    let name = dice.pick(&["p", "q"]);
    let (kind, spec) = if dice.roll(3) == 0 {
        let seconds = format!("{}s", 1 + dice.roll(2));
        (
            "MeshTimeout",
            json!({"targetRef": top, "to": [{"targetRef": to, "default": {"connectionTimeout": seconds}}]}),
        )
    } else {
        let mut backend =
            json!({"kind": "MeshService", "name": dice.pick(&["db", "api", "all"]), "weight": 1});
        if dice.roll(2) == 0 {
            backend["port"] = json!(80 + dice.roll(2));
        }
        let rule = json!({"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "default": {"backendRefs": [backend]}});
        ("MeshHTTPRoute", json!({"targetRef": top, "to": [{"targetRef": to, "rules": [rule]}]}))
    };
    let mut resource = Resource::new(kind, mesh, name, spec);
    match dice.roll(6) {
        0 => resource = resource.with_label("kuma.io/effect", "shadow"),
        1 => resource.spec["nonsense"] = json!(true),
        _ => {}
    }
    resource
}

pub fn change(choices: &[u8]) -> Change {
    let dice = &mut Dice(choices);
    let (source, gone) = ([Source::Owned, Source::Owned, Source::Followed][dice.roll(3)], dice.roll(4) == 0);
    let name = dice.pick(MESHES);
    let resource = match dice.roll(12) {
        0 => mesh(dice, name),
        1 => mesh_identity(dice, name),
        2 => mesh_trust(dice, name),
        3 | 4 => mesh_service(dice, name),
        5 | 6 => policy(dice, name),
        _ => dataplane(dice, name),
    };
    if gone { Change::Delete(source, resource.key()) } else { Change::Put(source, Arc::new(resource)) }
}
