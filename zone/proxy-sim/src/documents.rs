//! The documents of a fleet, as users of two generations write them.
//!
//! * [`Style::Tags`]: Kuma 2.x: `kuma.io/service` tags, outbounds by tag, `Mesh.mtls`, permissions with `from`.
//! * [`Style::Labels`]: Kuma 3.0: labels, outbounds by `backendRef`, a MeshIdentity, permissions with `rules`.
use crate::graph::Graph;
use serde_json::{Value, json};

pub const MESH: &str = "default";
pub const PORT: u16 = 8080;
/// The first local port of the outbounds.
const OUTBOUNDS: usize = 20_000;
/// Addresses of an endpoint that moves begin with this; what follows counts the moves.
pub const MOVED: &str = "10.250.";
/// Addresses of the replicas of a rollout begin with this; generation and replica follow.
pub const ROLLED: &str = "10.251.";
/// An address has two bytes for the count, of which the last is never 0 or 255.
const PER_BYTE: u32 = 250;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
pub enum Style {
    #[value(name = "2.x")]
    #[serde(rename = "2.x")]
    Tags,
    #[value(name = "3.0")]
    #[serde(rename = "3.0")]
    Labels,
}

/// One document, and where the API keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub path: String,
    pub body: Value,
}

impl Document {
    fn of(kind: &str, collection: &str, name: &str, rest: Value) -> Document {
        let mut body = json!({"type": kind, "mesh": MESH, "name": name});
        if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), rest) {
            body.extend(rest);
        }
        Document { path: format!("/meshes/{MESH}/{collection}/{name}"), body }
    }
}

/// What every fleet has beside its Dataplanes: identities, and a permission for everybody.
pub fn common(style: Style) -> Vec<Document> {
    let mut mesh = json!({"type": "Mesh", "name": MESH});
    let everybody = match style {
        Style::Tags => {
            mesh["mtls"] = json!({"enabledBackend": "ca", "backends": [{"name": "ca", "type": "builtin"}]});
            json!({"spec": {"targetRef": {"kind": "Mesh"},
                "from": [{"targetRef": {"kind": "Mesh"}, "default": {"action": "Allow"}}]}})
        }
        Style::Labels => json!({"spec": {"targetRef": {"kind": "Mesh"},
            "rules": [{"default": {"allow": [{"spiffeID": {"type": "Prefix", "value": format!("spiffe://{MESH}.")}}]}}]}}),
    };
    let mut all = vec![Document { path: format!("/meshes/{MESH}"), body: mesh }];
    if style == Style::Labels {
        let spec = json!({"spec": {"selector": {"dataplane": {"matchLabels": {}}}, "provider": {"type": "Bundled",
            "bundled": {"meshTrustCreation": "Enabled", "insecureAllowSelfSigned": true, "autogenerate": {"enabled": true}}}}});
        all.push(Document::of("MeshIdentity", "meshidentities", "everyone", spec));
    }
    all.push(Document::of("MeshTrafficPermission", "meshtrafficpermissions", "everybody", everybody));
    all
}

/// The Dataplane of a proxy of the graph.
pub fn dataplane(style: Style, graph: &Graph, proxy: usize) -> Document {
    let service = &graph.services[graph.service_of(proxy)];
    let mut document = bare(style, &graph.name_of(proxy), &service.name, &graph.address_of(proxy));
    let outbound: Vec<Value> = service
        .calls
        .iter()
        .map(|called| {
            let (port, name) = (OUTBOUNDS + called, &graph.services[*called].name);
            match style {
                Style::Tags => json!({"port": port, "tags": {"kuma.io/service": name}}),
                Style::Labels => {
                    json!({"port": port, "backendRef": {"kind": "MeshService", "name": name, "port": PORT}})
                }
            }
        })
        .collect();
    document.body["networking"]["outbound"] = outbound.into();
    document
}

fn bare(style: Style, name: &str, service: &str, address: &str) -> Document {
    let inbound = match style {
        Style::Tags => {
            json!({"port": PORT, "servicePort": 80, "tags": {"kuma.io/service": service, "kuma.io/protocol": "http"}})
        }
        Style::Labels => json!({"port": PORT, "servicePort": 80, "protocol": "http"}),
    };
    let mut rest = json!({"networking": {"address": address, "inbound": [inbound]}});
    if style == Style::Labels {
        rest["labels"] = json!({"kuma.io/workload": service});
    }
    Document::of("Dataplane", "dataplanes", name, rest)
}

/// An instance of a service without a proxy here: the endpoint that moves. Its address tells how often it has moved.
pub fn mover(style: Style, graph: &Graph, service: usize, moves: u32) -> Document {
    let address = format!("{MOVED}{}.{}", moves / PER_BYTE % PER_BYTE, 1 + moves % PER_BYTE);
    bare(style, &format!("mover-{service:04}"), &graph.services[service].name, &address)
}

/// A replica of a service without a proxy here, of a generation below 250. Its address tells which it is.
pub fn replica(style: Style, graph: &Graph, service: usize, replica: Replica) -> Document {
    let Replica { generation, number } = replica;
    let address = format!("{ROLLED}{generation}.{}", 1 + u16::from(number));
    bare(style, &format!("roll-{generation:03}-{number:03}"), &graph.services[service].name, &address)
}

/// One replica of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    pub generation: u8,
    pub number: u8,
}

/// The replicas that an assignment has.
pub fn replicas_in(assignment: &[u8]) -> Vec<Replica> {
    let prefix = ROLLED.as_bytes();
    let starts = assignment.windows(prefix.len()).enumerate().filter(|(_, bytes)| *bytes == prefix);
    let read = |(start, _): (usize, &[u8])| {
        let mut rest = assignment[start + prefix.len()..].iter();
        let mut number = || {
            let digits = rest.by_ref().take_while(|byte| byte.is_ascii_digit());
            digits.fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'))
        };
        let generation = u8::try_from(number()).ok()?;
        let number = u8::try_from(number().checked_sub(1)?).ok()?;
        Some(Replica { generation, number })
    };
    starts.filter_map(read).collect()
}

/// How often the endpoint had moved when this assignment was made; `None` without it.
pub fn moves_in(assignment: &[u8]) -> Option<u32> {
    let prefix = MOVED.as_bytes();
    let start = assignment.windows(prefix.len()).position(|bytes| bytes == prefix)? + prefix.len();
    let mut rest = assignment[start..].iter();
    let mut number = |end: fn(&u8) -> bool| {
        rest.by_ref()
            .take_while(|byte| !end(byte))
            .fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'))
    };
    let high = number(|byte| *byte == b'.');
    let low = number(|byte| !byte.is_ascii_digit());
    Some(high * PER_BYTE + low.checked_sub(1)?)
}

/// The service of a Dataplane of ours, and its address.
pub fn service_and_address(dataplane: &Value) -> Option<(&str, &str)> {
    let networking = &dataplane["networking"];
    let tag = networking["inbound"][0]["tags"]["kuma.io/service"].as_str();
    let service = tag.or(dataplane["labels"]["kuma.io/workload"].as_str())?;
    Some((service, networking["address"].as_str()?))
}

/// A timeout of every request in the mesh.
pub fn timeout_of_mesh(seconds: u32) -> Document {
    timeout("everything", json!({"kind": "Mesh"}), seconds)
}

/// A timeout of the requests to one service.
pub fn timeout_of_service(graph: &Graph, service: usize, seconds: u32) -> Document {
    timeout("one-service", json!({"kind": "MeshService", "name": graph.services[service].name}), seconds)
}

/// A timeout of proxies that do not exist.
pub fn bystander(style: Style, number: usize) -> Document {
    let mut document = timeout(&format!("bystander-{number:06}"), json!({"kind": "Mesh"}), 30);
    document.body["spec"]["targetRef"] = match style {
        Style::Tags => json!({"kind": "MeshSubset", "tags": {"kuma.io/service": format!("nobody-{number}")}}),
        Style::Labels => {
            json!({"kind": "Dataplane", "labels": {"kuma.io/workload": format!("nobody-{number}")}})
        }
    };
    document
}

fn timeout(name: &str, to: Value, seconds: u32) -> Document {
    let request = json!({"http": {"requestTimeout": format!("{seconds}s")}});
    let spec =
        json!({"spec": {"targetRef": {"kind": "Mesh"}, "to": [{"targetRef": to, "default": request}]}});
    Document::of("MeshTimeout", "meshtimeouts", name, spec)
}

/// A permission that every pair of a caller and a service may have, beside the one for everybody.
pub fn permission(style: Style, graph: &Graph, number: usize, (caller, called): (usize, usize)) -> Document {
    let [caller, called] = [caller, called].map(|service| &graph.services[service].name);
    let spec = match style {
        Style::Tags => json!({"spec": {
            "targetRef": {"kind": "MeshSubset", "tags": {"kuma.io/service": called}},
            "from": [{"targetRef": {"kind": "MeshSubset", "tags": {"kuma.io/service": caller}}, "default": {"action": "Allow"}}]}}),
        Style::Labels => json!({"spec": {
            "targetRef": {"kind": "Dataplane", "labels": {"kuma.io/workload": called}},
            "rules": [{"default": {"allow": [{"spiffeID": {"type": "Exact",
                "value": format!("spiffe://{MESH}.z.mesh.local/workload/{caller}")}}]}}]}}),
    };
    Document::of("MeshTrafficPermission", "meshtrafficpermissions", &format!("pair-{number:05}"), spec)
}

/// A route of one caller to one service: a prefix of its own, which the service sees as another one.
pub fn route(
    style: Style,
    graph: &Graph,
    name: &str,
    (caller, called): (usize, usize),
    edition: u32,
) -> Document {
    let [caller, called] = [caller, called].map(|service| &graph.services[service].name);
    let target = match style {
        Style::Tags => json!({"kind": "MeshSubset", "tags": {"kuma.io/service": caller}}),
        Style::Labels => json!({"kind": "Dataplane", "labels": {"kuma.io/workload": caller}}),
    };
    let rewrite = json!({"type": "URLRewrite", "urlRewrite":
        {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": format!("/edition-{edition}")}}});
    let rule = json!({"matches": [{"path": {"type": "PathPrefix", "value": format!("/{name}")}}],
        "default": {"filters": [rewrite]}});
    let to = json!([{"targetRef": {"kind": "MeshService", "name": called}, "rules": [rule]}]);
    Document::of("MeshHTTPRoute", "meshhttproutes", name, json!({"spec": {"targetRef": target, "to": to}}))
}

/// The permission of one caller for one service, withdrawn.
pub fn withdrawal(style: Style, graph: &Graph, service: usize) -> Document {
    let called = &graph.services[service];
    let caller = called.called_by.first().map_or("nobody", |caller| &graph.services[*caller].name);
    let spec = match style {
        Style::Tags => json!({"spec": {
            "targetRef": {"kind": "MeshSubset", "tags": {"kuma.io/service": called.name}},
            "from": [{"targetRef": {"kind": "MeshSubset", "tags": {"kuma.io/service": caller}}, "default": {"action": "Deny"}}]}}),
        Style::Labels => json!({"spec": {
            "targetRef": {"kind": "Dataplane", "labels": {"kuma.io/workload": called.name}},
            "rules": [{"default": {"deny": [{"spiffeID": {"type": "Exact",
                "value": format!("spiffe://{MESH}.z.mesh.local/workload/{caller}")}}]}}]}}),
    };
    Document::of("MeshTrafficPermission", "meshtrafficpermissions", "withdrawn", spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moves_of_an_endpoint_can_be_read_from_its_address() {
        let graph = Graph::generate(1, 10, 5, 2);
        for moves in [0, 1, 9, 249, 250, 251, 12_345, 62_499] {
            for style in [Style::Tags, Style::Labels] {
                let document = mover(style, &graph, 2, moves).body;
                let (service, address) = service_and_address(&document).unwrap();
                assert_eq!(service, "svc-0002");
                let address: std::net::Ipv4Addr = address.parse().unwrap();
                assert_eq!(moves_in(format!("xx\u{1}{address}\u{10}").as_bytes()), Some(moves));
            }
        }
        assert_eq!(moves_in(b"10.1.2.3"), None);
    }

    #[test]
    fn the_replicas_of_an_assignment_can_be_read_from_its_addresses() {
        let graph = Graph::generate(1, 10, 5, 2);
        let all = [(0, 0), (0, 49), (249, 7)].map(|(generation, number)| Replica { generation, number });
        let mut assignment = b"xx\n10.1.2.3\x10".to_vec();
        for one in all {
            let document = replica(Style::Tags, &graph, 2, one).body;
            let (_, address) = service_and_address(&document).unwrap();
            assert!(address.parse::<std::net::Ipv4Addr>().is_ok(), "{address}");
            assignment.extend_from_slice(address.as_bytes());
            assignment.push(0x10);
        }
        assert_eq!(replicas_in(&assignment), all);
        assert!(replicas_in(b"10.250.1.1").is_empty());
    }

    #[test]
    fn every_document_is_valid() {
        let graph = Graph::generate(1, 10, 5, 2);
        for style in [Style::Tags, Style::Labels] {
            let mut all = common(style);
            all.extend((0..10).map(|proxy| dataplane(style, &graph, proxy)));
            all.extend([mover(style, &graph, 0, 3), withdrawal(style, &graph, 1)]);
            all.extend([permission(style, &graph, 7, (0, 1)), route(style, &graph, "edited", (0, 1), 3)]);
            all.push(bystander(style, 7));
            all.push(replica(style, &graph, 1, Replica { generation: 1, number: 2 }));
            all.extend([timeout_of_mesh(3), timeout_of_service(&graph, 1, 4)]);
            for document in all {
                let read = shared_model::Resource::from_json(&document.body);
                let resource = read.unwrap_or_else(|problems| panic!("{document:?}: {problems:?}"));
                let kind = shared_model::kind::by_name(&resource.kind).unwrap();
                assert_eq!(document.path, format!("/{}/{}", kind.collection(&resource.mesh), resource.name));
            }
        }
    }
}
