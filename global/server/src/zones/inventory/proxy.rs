//! One proxy as its zone tells it: the two documents as they came, and what of them can be asked for.
use crate::zones::naming;
use proto::link::{Inventory as Message, ProxyEntry};
use serde::Deserialize;
use serde_json::{Value, json};
use shared_api::proxies::Status;
use shared_model::{Resource, Timestamp, kind, labels, names, resource::DEPTH_MAX};
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use super::terms::About;

/// The largest proxy that is taken, in bytes of its two documents. A usual one has two or three thousand.
pub const PROXY_MAX: usize = 256 << 10;

/// Mesh and name.
pub type Name = (String, String);

/// The documents, kept as their bytes: a tree of values is five times as large.
#[derive(Debug, PartialEq)]
pub struct Documents {
    pub dataplane: Box<[u8]>,
    /// Empty when nothing is known.
    pub insight: Box<[u8]>,
}

impl Documents {
    pub fn size(&self) -> usize {
        self.dataplane.len() + self.insight.len()
    }

    /// What they can be asked for, read once more.
    pub fn facts(&self, zone: &str, mesh: &str, name: &str) -> Vec<Fact> {
        read(zone, mesh, name, &self.dataplane, &self.insight).map(|(facts, _)| facts).unwrap_or_default()
    }
}

pub type Fact = (About, String, String);

/// A proxy whose documents are read.
#[derive(Debug)]
pub struct Proxy {
    pub documents: Arc<Documents>,
    pub facts: Vec<Fact>,
    /// As its zone sees it.
    pub status: Status,
}

/// A message whose documents are read: the work that is done before anybody is kept waiting.
#[derive(Debug)]
pub struct Update {
    pub sequence: u64,
    pub complete: bool,
    pub more: bool,
    pub removed: Vec<Name>,
    pub entries: Vec<(Name, Result<Proxy, String>)>,
}

impl Update {
    pub fn read(zone: &str, message: Message) -> Update {
        let Message { sequence, complete, removed, upserts, more } = message;
        let entry = |entry: ProxyEntry| {
            let ProxyEntry { mesh, name, dataplane, insight } = entry;
            let proxy = read(zone, &mesh, &name, &dataplane, &insight).map(|(facts, status)| {
                let documents = Documents { dataplane: (*dataplane).into(), insight: (*insight).into() };
                Proxy { documents: Arc::new(documents), facts, status }
            });
            ((mesh, name), proxy)
        };
        Update {
            sequence,
            complete,
            more,
            removed: removed.into_iter().map(|gone| (gone.mesh, gone.name)).collect(),
            entries: upserts.into_iter().map(entry).collect(),
        }
    }
}

/// What is read of a Dataplane; the rest stays bytes until somebody looks.
#[derive(Deserialize)]
struct Dataplane<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    mesh: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(borrow, default)]
    networking: Networking<'a>,
}

#[derive(Default, Deserialize)]
struct Networking<'a> {
    #[serde(borrow, default)]
    inbound: Vec<Inbound<'a>>,
}

#[derive(Deserialize)]
struct Inbound<'a> {
    #[serde(borrow, default)]
    tags: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(borrow, default)]
    state: Option<Cow<'a, str>>,
    #[serde(default)]
    health: Option<Health>,
}

#[derive(Deserialize)]
struct Health {
    #[serde(default)]
    ready: bool,
}

impl Inbound<'_> {
    fn is_ready(&self) -> bool {
        self.state.as_deref().is_none_or(|state| state != "NotReady")
            && self.health.as_ref().is_none_or(|health| health.ready)
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Insight<'a> {
    #[serde(borrow, default)]
    subscriptions: Vec<Subscription<'a>>,
    #[serde(borrow, default, rename = "mTLS")]
    mtls: Option<Mtls<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscription<'a> {
    #[serde(borrow, default)]
    connect_time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    disconnect_time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    version: Option<Versions<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions<'a> {
    #[serde(borrow, default)]
    kuma_dp: Option<Version<'a>>,
    #[serde(borrow, default)]
    envoy: Option<Version<'a>>,
}

#[derive(Deserialize)]
struct Version<'a> {
    #[serde(borrow, default)]
    version: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mtls<'a> {
    #[serde(borrow, default)]
    issued_backend: Option<Cow<'a, str>>,
}

fn read(
    zone: &str,
    mesh: &str,
    name: &str,
    dataplane: &[u8],
    insight: &[u8],
) -> Result<(Vec<Fact>, Status), String> {
    let size = dataplane.len() + insight.len();
    if size > PROXY_MAX {
        return Err(format!("it has {size} bytes, {PROXY_MAX} are allowed"));
    }
    if depth(dataplane).max(depth(insight)) > DEPTH_MAX {
        return Err(format!("it is nested deeper than {DEPTH_MAX} levels"));
    }
    let dataplane: Dataplane<'_> =
        serde_json::from_slice(dataplane).map_err(|error| format!("it is no Dataplane: {error}"))?;
    if (&*dataplane.kind, &*dataplane.mesh, &*dataplane.name) != (kind::DATAPLANE, mesh, name) {
        return Err(format!("the entry holds {} {}/{}", dataplane.kind, dataplane.mesh, dataplane.name));
    }
    let mut own = dataplane.labels.unwrap_or_default();
    let mut problems: Vec<_> = names::check_mesh("mesh", mesh).into_iter().collect();
    problems.extend(names::check_name("name", name));
    problems.extend(labels::check(&own));
    if !problems.is_empty() {
        return Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    }
    place(&mut own, zone, mesh, name);
    let mut facts: Vec<Fact> = own.into_iter().map(|(key, value)| (About::Label, key, value)).collect();
    let inbounds = &dataplane.networking.inbound;
    let tags = inbounds.iter().flat_map(|inbound| &inbound.tags);
    facts.extend(tags.map(|(key, value)| (About::Tag, key.to_string(), value.to_string())));
    // What cannot be read of an insight is not known.
    let insight: Insight<'_> = serde_json::from_slice(insight).unwrap_or_default();
    let mut fact = |about, value: &str| facts.push((about, String::new(), value.to_owned()));
    if let Some(versions) = insight.subscriptions.last().and_then(|last| last.version.as_ref()) {
        let version = |version: &Option<Version<'_>>| version.as_ref().map(|known| known.version.to_string());
        version(&versions.kuma_dp).inspect(|known| fact(About::KumaDp, known));
        version(&versions.envoy).inspect(|known| fact(About::Envoy, known));
    }
    if let Some(backend) = insight.mtls.as_ref().and_then(|mtls| mtls.issued_backend.as_deref()) {
        fact(About::Backend, backend);
    }
    facts.sort();
    facts.dedup();
    let open = |link: &Subscription<'_>| link.connect_time.is_some() && link.disconnect_time.is_none();
    let ready = inbounds.iter().filter(|inbound| inbound.is_ready()).count();
    let status = Status::of(insight.subscriptions.iter().any(open), ready, inbounds.len());
    Ok((facts, status))
}

/// The labels of a resource that came from a zone.
fn place(own: &mut BTreeMap<String, String>, zone: &str, mesh: &str, name: &str) {
    for (key, value) in [(labels::ZONE, zone), (labels::ORIGIN, labels::ORIGIN_ZONE), (labels::MESH, mesh)] {
        own.insert(key.to_owned(), value.to_owned());
    }
    own.entry(labels::DISPLAY_NAME.to_owned()).or_insert_with(|| name.to_owned());
}

/// How deep brackets go, without reading more than that.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// A proxy as it is shown.
#[derive(Clone, Debug)]
pub struct Found {
    pub zone: String,
    pub mesh: String,
    /// What its zone calls it.
    pub name: String,
    /// Another zone has one of this name in this mesh.
    pub shared: bool,
    pub documents: Arc<Documents>,
    pub age: Age,
}

/// How old what is known of a proxy may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// When its zone was heard last.
    pub seen: Timestamp,
    /// Since when nothing new can come.
    pub stale_since: Option<Timestamp>,
}

impl Found {
    /// Under the name at global, with the labels of a resource that came from a zone.
    pub fn dataplane(&self) -> Resource {
        let document: Value = serde_json::from_slice(&self.documents.dataplane).unwrap_or_default();
        let mut dataplane = Resource::from_json(&document)
            .unwrap_or_else(|_| Resource::new(kind::DATAPLANE, &self.mesh, &self.name, json!({})));
        let time = |field: &str| document[field].as_str().and_then(|text| text.parse().ok());
        dataplane.creation_time = time("creationTime").unwrap_or_default();
        dataplane.modification_time = time("modificationTime").unwrap_or_default();
        place(&mut dataplane.labels, &self.zone, &self.mesh, &self.name);
        if self.shared {
            dataplane.name = naming::hashed(&dataplane);
        }
        dataplane
    }

    /// As it must be read now: nothing is online in a zone that is not.
    pub fn insight(&self) -> Value {
        let read = serde_json::from_slice(&self.documents.insight).ok().filter(Value::is_object);
        let mut insight = read.unwrap_or_else(|| json!({"subscriptions": []}));
        let Age { seen, stale_since } = self.age;
        insight["lastSeen"] = seen.to_rfc3339().into();
        insight["stale"] = stale_since.is_some().into();
        if let Some(since) = stale_since {
            let since = since.to_rfc3339();
            let subscriptions = insight["subscriptions"].as_array_mut().into_iter().flatten();
            for open in subscriptions.filter_map(Value::as_object_mut) {
                open.entry("disconnectTime").or_insert_with(|| since.clone().into());
            }
            insight["staleSince"] = since.into();
        }
        insight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dataplane: Value, insight: Value) -> Result<Proxy, String> {
        let text = |value: Value| value.to_string().into_bytes().into();
        let name = dataplane["name"].as_str().unwrap_or("a").to_owned();
        let entry =
            ProxyEntry { mesh: "default".into(), name, dataplane: text(dataplane), insight: text(insight) };
        let mut update = Update::read("east", Message { upserts: vec![entry], ..Message::default() });
        update.entries.remove(0).1
    }

    fn dataplane(inbound: Value) -> Value {
        json!({"type": "Dataplane", "mesh": "default", "name": "a", "labels": {"team": "shop"},
            "networking": {"address": "10.0.0.1", "inbound": inbound}})
    }

    #[test]
    fn what_can_be_asked_for_is_read_from_both_documents() {
        let inbound =
            json!([{"port": 80, "tags": {"kuma.io/service": "web"}}, {"port": 81, "state": "NotReady"}]);
        let insight = json!({"subscriptions": [{"connectTime": "2026-01-01T00:00:00Z", "version":
            {"kumaDp": {"version": "2.9.0"}, "envoy": {"version": "1.30.1"}}}], "mTLS": {"issuedBackend": "ca"}});
        let read = read(dataplane(inbound), insight).expect("good");
        assert_eq!(read.status, Status::PartiallyDegraded);
        let has = |about, key: &str, value: &str| read.facts.contains(&(about, key.into(), value.into()));
        assert!(has(About::Label, "team", "shop") && has(About::Label, "kuma.io/zone", "east"));
        assert!(has(About::Label, "kuma.io/display-name", "a") && has(About::Tag, "kuma.io/service", "web"));
        assert!(has(About::KumaDp, "", "2.9.0") && has(About::Envoy, "", "1.30.1"));
        assert!(has(About::Backend, "", "ca"));
    }

    #[test]
    fn a_status_is_that_of_the_stream_and_of_the_ports() {
        let open = || json!({"subscriptions": [{"connectTime": "2026-01-01T00:00:00Z"}]});
        let ended = json!({"subscriptions": [{"connectTime": "x", "disconnectTime": "y"}]});
        let down = json!([{"port": 80, "health": {"ready": false}}]);
        for (inbound, insight, wanted) in [
            (json!([{"port": 80}]), open(), Status::Online),
            (json!([]), open(), Status::Online),
            (down, open(), Status::Offline),
            (json!([{"port": 80}]), ended, Status::Offline),
            (json!([{"port": 80}]), json!(7), Status::Offline),
        ] {
            let read = read(dataplane(inbound), insight).expect("good");
            assert_eq!(read.status, wanted);
        }
    }

    #[test]
    fn what_is_no_proxy_is_told_why() {
        let bad = |dataplane: Value| read(dataplane, Value::Null).expect_err("refused");
        assert!(
            bad(json!({"type": "Mesh", "mesh": "default", "name": "a"})).contains("holds Mesh default/a")
        );
        assert!(bad(json!({"type": "Dataplane", "mesh": "default", "name": "A!"})).contains("is not a name"));
        let mut labelled = dataplane(json!([]));
        labelled["labels"] = json!({"a b": "c"});
        assert!(bad(labelled).contains("labels"));
        let deep = (0..DEPTH_MAX).fold(json!(1), |inner, _| json!([inner]));
        assert!(bad(dataplane(deep)).contains("nested deeper"));
        let large = read(dataplane(json!([])), json!(" ".repeat(PROXY_MAX)));
        assert!(large.expect_err("refused").contains("262144 are allowed"));
        assert_eq!(depth(br#"{"a\"[{": ["]", [1]], "b": {}}"#), 3);
    }

    #[test]
    fn a_proxy_of_a_zone_that_is_away_is_offline_and_says_since_when() {
        let insight = json!({"subscriptions": [{"connectTime": "2026-01-01T00:00:00Z"}]});
        let read = read(dataplane(json!([])), insight).expect("good");
        let at = |seconds: i64| Timestamp::from_timestamp(1_800_000_000 + seconds, 0).expect("a time");
        let found = |stale_since: Option<Timestamp>| Found {
            zone: "east".into(),
            mesh: "default".into(),
            name: "a".into(),
            shared: stale_since.is_some(),
            documents: read.documents.clone(),
            age: Age { seen: at(0), stale_since },
        };
        let here = found(None);
        assert_eq!((here.insight()["stale"].clone(), here.dataplane().name), (json!(false), "a".to_owned()));
        assert!(here.insight()["subscriptions"][0]["disconnectTime"].is_null());
        let away = found(Some(at(1)));
        let insight = away.insight();
        assert_eq!(insight["subscriptions"][0]["disconnectTime"], insight["staleSince"]);
        assert_eq!((&insight["stale"], &insight["lastSeen"]), (&json!(true), &json!(at(0).to_rfc3339())));
        assert!(away.dataplane().name.starts_with("a-") && away.dataplane().zone() == Some("east"));
    }
}
