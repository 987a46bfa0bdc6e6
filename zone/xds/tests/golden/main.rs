//! Documents in, Envoy's YAML out: `tests/cases/<case>/{input,expected}.yaml`. The first Dataplane of the input is the
//! proxy. `UPDATE_EXPECT=1` writes the expectations anew.
//!
//! Where an Envoy is at hand (`WEFT_ENVOY`, or `target/tools/envoy` of the workspace), it reads each case too.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod envoy;
mod print;

use serde_json::{Value, json};
use shared_identity::ca::Authority;
use shared_model::{document, kind, resource::Timestamp};
use std::{fmt::Write, path::Path, sync::Arc};
use zone_index::{Change, Index, ProxyId, Source};
use zone_xds::{Identity, Snapshot, assemble};

const YEAR: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);

#[test]
fn check() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases: Vec<_> =
        std::fs::read_dir(dir).expect("the cases").map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(!cases.is_empty());
    let pool = print::descriptors();
    let keys = Keys::make();
    let mut wrong = String::new();
    for case in cases {
        let name = case.file_name().expect("a folder").to_string_lossy().into_owned();
        let input = std::fs::read_to_string(case.join("input.yaml"))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let assembled = render(&pool, &keys, &input);
        let text = print::yaml(&keys.hide(&assembled));
        let expected = case.join("expected.yaml");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&expected, &text).expect("the expectation is written");
        } else if std::fs::read_to_string(&expected).ok().as_ref() != Some(&text) {
            writeln!(wrong, "{name}: expected.yaml differs; what came out:\n{text}").unwrap();
        }
        if let Err(reason) = envoy::validate(&assembled) {
            writeln!(wrong, "{name}: Envoy refuses it:\n{reason}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A real authority, for Envoy reads certificates; what changes with every run is hidden in the expectations.
struct Keys {
    authority: Authority,
    now: Timestamp,
}

impl Keys {
    fn make() -> Keys {
        let now = Timestamp::from(std::time::SystemTime::now());
        Keys {
            authority: Authority::generate("weft", Some("default"), now, YEAR).expect("an authority"),
            now,
        }
    }

    fn documents(&self, text: &str) -> String {
        let pem = serde_json::to_string(self.authority.cert_pem()).expect("a string");
        text.replace("\"{{authority}}\"", &pem)
    }

    fn identity(&self, uris: &[String]) -> Identity {
        let issued = self.authority.issue_workload(uris, self.now, YEAR).expect("a certificate");
        Identity { chain_pem: issued.chain_pem, key_pem: issued.key_pem, version: issued.serial }
    }

    fn hide(&self, value: &Value) -> Value {
        match value {
            Value::String(text) if text.contains("BEGIN CERTIFICATE") => {
                let authority = text.trim_end() == self.authority.cert_pem().trim_end();
                json!(if authority { "(the authority)" } else { "(the certificate)" })
            }
            Value::String(text) if text.contains("PRIVATE KEY") => json!("(the key)"),
            Value::Array(items) => items.iter().map(|item| self.hide(item)).collect(),
            Value::Object(fields) => {
                Value::Object(fields.iter().map(|(key, value)| (key.clone(), self.hide(value))).collect())
            }
            other => other.clone(),
        }
    }
}

fn render(pool: &prost_reflect::DescriptorPool, keys: &Keys, input: &str) -> Value {
    let mut index = Index::new("east");
    let mut proxy = None;
    let mut changes = Vec::new();
    for document in document::read_all(&keys.documents(input)) {
        let resource =
            document.content.unwrap_or_else(|problems| panic!("line {}: {problems:?}", document.line));
        let problems = shared_policy::validate(&resource);
        assert!(problems.is_empty(), "line {}: {problems:?}", document.line);
        if proxy.is_none() && resource.kind == kind::DATAPLANE {
            proxy = Some(ProxyId::new(&resource.mesh, &resource.name));
        }
        let source = if resource.kind == kind::DATAPLANE { Source::Owned } else { Source::Followed };
        changes.push(Change::Put(source, Arc::new(resource)));
    }
    index.apply(changes);
    let view = index.epoch().view_of(&proxy.expect("a Dataplane")).expect("its view");
    let identity = view.identity.as_ref().map(|identity| keys.identity(&identity.uris));
    let (snapshot, problems) = assemble(&view, identity.as_ref());
    let again = assemble(&view, identity.as_ref());
    assert_eq!((&snapshot, &problems), (&again.0, &again.1), "the same view gives the same bytes");
    let mut value = resources(pool, &snapshot);
    let problems: Vec<Value> = problems.iter().map(|problem| json!(problem.to_string())).collect();
    if !problems.is_empty() {
        value["problems"] = json!(problems);
    }
    value
}

fn resources(pool: &prost_reflect::DescriptorPool, snapshot: &Snapshot) -> Value {
    json!({
        "clusters": print::messages(pool, snapshot.decode::<envoy_types::pb::envoy::config::cluster::v3::Cluster>()),
        "endpoints": print::messages(pool, snapshot.decode::<envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment>()),
        "listeners": print::messages(pool, snapshot.decode::<envoy_types::pb::envoy::config::listener::v3::Listener>()),
        "routes": print::messages(pool, snapshot.decode::<envoy_types::pb::envoy::config::route::v3::RouteConfiguration>()),
        "secrets": print::messages(pool, snapshot.decode::<envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret>()),
    })
}
