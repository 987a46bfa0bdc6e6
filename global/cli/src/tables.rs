//! What a table shows of each kind.
use crate::{exit::Failure, out};
use comfy_table::Cell;
use serde_json::Value;
use shared_model::{Kind, Timestamp, kind, labels};
use std::{collections::BTreeSet, time::SystemTime};

/// Prints resources of one kind, page by page. Proxies and zones come as overviews.
pub struct Table {
    kind: &'static Kind,
    now: Timestamp,
    printed: out::Printed,
}

impl Table {
    pub fn of(kind: &'static Kind) -> Table {
        Table { kind, now: Timestamp::from(SystemTime::now()), printed: out::Printed::default() }
    }

    pub fn page(&mut self, items: &[Value]) -> Result<(), Failure> {
        let kind = self.kind;
        let mut header = if kind.is_mesh_scoped() { vec!["MESH", "NAME"] } else { vec!["NAME"] };
        header.extend(own_columns(kind));
        header.extend(["REVISION", "AGE"]);
        let rows = items.iter().map(|item| {
            let mut row = if kind.is_mesh_scoped() { vec![text(&item["mesh"])] } else { Vec::new() };
            row.push(text(&item["name"]));
            row.extend(own_cells(kind, item, self.now));
            row.push(revision(&item["revision"]));
            row.push(Cell::new(age(&item["creationTime"], self.now)));
            row
        });
        out::page(&header, rows.collect(), &mut self.printed)
    }
}

/// The state of a proxy, and how old that is: global hears of a proxy through its zone.
pub fn proxy_state(item: &Value, now: Timestamp) -> [Cell; 2] {
    let insight = &item["dataplaneInsight"];
    let state = match insight["stale"] == true {
        true => out::verdict("stale", false),
        false => Connection::of(insight).cell(),
    };
    [state, Cell::new(age(&insight["lastSeen"], now))]
}

fn own_columns(kind: &Kind) -> &'static [&'static str] {
    match kind.name {
        kind::MESH => &["MTLS"],
        kind::DATAPLANE => &["STATUS", "ADDRESS", "SERVICES", "PORTS", "ZONE", "SEEN"],
        kind::ZONE => &["STATUS", "ENABLED"],
        kind::MESH_SERVICE => &["PORTS", "STATE", "ZONE"],
        kind::MESH_IDENTITY => &["SELECTS", "PROVIDER"],
        kind::MESH_TRUST => &["TRUST DOMAIN", "CERTIFICATES", "ZONE"],
        _ if kind.policy => &["TARGET", "ORIGIN"],
        _ => &[],
    }
}

fn own_cells(kind: &Kind, item: &Value, now: Timestamp) -> Vec<Cell> {
    let spec = &item["spec"];
    match kind.name {
        kind::MESH => vec![text(&item["mtls"]["enabledBackend"])],
        kind::DATAPLANE => {
            let networking = &item["dataplane"]["networking"];
            let [state, seen] = proxy_state(item, now);
            vec![
                state,
                text(&networking["address"]),
                Cell::new(services(item, networking)),
                Cell::new(list(&networking["inbound"], inbound)),
                Cell::new(zone(item)),
                seen,
            ]
        }
        kind::ZONE => {
            let enabled = item["zone"]["enabled"].as_bool().unwrap_or(true);
            vec![Connection::of(&item["zoneInsight"]).cell(), Cell::new(if enabled { "yes" } else { "no" })]
        }
        kind::MESH_SERVICE => {
            let port = |port: &Value| {
                format!("{}/{}", plain(&port["port"]), port["appProtocol"].as_str().unwrap_or("tcp"))
            };
            vec![Cell::new(list(&spec["ports"], port)), text(&spec["state"]), Cell::new(zone(item))]
        }
        kind::MESH_IDENTITY => {
            let selects = match &spec["selector"]["dataplane"] {
                Value::Object(selector) => {
                    labels_of(selector.get("matchLabels").unwrap_or(&Value::Null), "all proxies")
                }
                _ => "no proxy".to_owned(),
            };
            vec![Cell::new(selects), text(&spec["provider"]["type"])]
        }
        kind::MESH_TRUST => {
            let bundles = spec["caBundles"].as_array().map_or(0, Vec::len);
            vec![text(&spec["trustDomain"]), Cell::new(bundles), Cell::new(zone(item))]
        }
        _ if kind.policy => vec![Cell::new(target(spec)), Cell::new(origin(item))],
        _ => Vec::new(),
    }
}

/// Whom a policy is for: `Mesh`, `Dataplane app=web`, `MeshService backend`.
pub fn target(spec: &Value) -> String {
    let target = &spec["targetRef"];
    let mut said = target["kind"].as_str().unwrap_or("Mesh").to_owned();
    if let Some(name) = target["name"].as_str() {
        said += &format!(" {name}");
    }
    for field in ["labels", "tags"] {
        let chosen = labels_of(&target[field], "");
        if !chosen.is_empty() {
            said += &format!(" {chosen}");
        }
    }
    if let Some(section) = target["sectionName"].as_str() {
        said += &format!(" section {section}");
    }
    said
}

/// Where a policy was written.
pub fn origin(item: &Value) -> String {
    match item["labels"][labels::ZONE].as_str() {
        Some(zone) if item["labels"][labels::ORIGIN] == labels::ORIGIN_ZONE => format!("zone {zone}"),
        _ => labels::ORIGIN_GLOBAL.to_owned(),
    }
}

/// When a proxy or a zone was last connected, from the subscriptions of its insight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    Online {
        since: Option<Timestamp>,
    },
    Offline {
        since: Option<Timestamp>,
    },
    /// Nothing is known of it: it never came.
    Unknown,
    /// A zone that does not follow, because it has seen what a restored global does not hold.
    Diverged {
        since: Option<Timestamp>,
    },
}

impl Connection {
    pub fn of(insight: &Value) -> Connection {
        let subscriptions = insight["subscriptions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let time = |subscription: &Value, field: &str| {
            subscription[field].as_str().and_then(|text| text.parse().ok())
        };
        let open = subscriptions.iter().rev().find(|subscription| {
            subscription["connectTime"].is_string() && time(subscription, "disconnectTime").is_none()
        });
        if insight["divergence"].is_object() {
            return Connection::Diverged { since: time(&insight["divergence"], "time") };
        }
        match (open, subscriptions.last()) {
            (Some(open), _) => Connection::Online { since: time(open, "connectTime") },
            (None, Some(_)) => {
                let ends =
                    subscriptions.iter().filter_map(|subscription| time(subscription, "disconnectTime"));
                Connection::Offline { since: ends.max() }
            }
            (None, None) => Connection::Unknown,
        }
    }

    pub fn cell(&self) -> Cell {
        match self {
            Connection::Online { .. } => out::verdict("online", true),
            Connection::Offline { .. } | Connection::Unknown => out::verdict("offline", false),
            Connection::Diverged { .. } => out::verdict("waits for accept-restore", false),
        }
    }

    pub fn since(&self) -> Option<Timestamp> {
        match self {
            Connection::Online { since } | Connection::Offline { since } | Connection::Diverged { since } => {
                *since
            }
            Connection::Unknown => None,
        }
    }
}

/// The services that a proxy is part of: its tags in documents of Kuma 2.x, else its workload.
fn services(item: &Value, networking: &Value) -> String {
    let inbounds = networking["inbound"].as_array().into_iter().flatten();
    let tags: BTreeSet<&str> =
        inbounds.filter_map(|inbound| inbound["tags"][labels::SERVICE].as_str()).collect();
    match tags.is_empty() {
        true => item["labels"][labels::WORKLOAD].as_str().unwrap_or("-").to_owned(),
        false => tags.into_iter().collect::<Vec<_>>().join(","),
    }
}

fn inbound(inbound: &Value) -> String {
    let protocol = inbound["protocol"].as_str().or(inbound["tags"][labels::PROTOCOL].as_str());
    format!("{}/{}", plain(&inbound["port"]), protocol.unwrap_or("tcp"))
}

pub fn zone(item: &Value) -> &str {
    item["labels"][labels::ZONE].as_str().unwrap_or("-")
}

fn list(items: &Value, show: impl Fn(&Value) -> String) -> String {
    let shown: Vec<String> = items.as_array().into_iter().flatten().map(show).collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(",") }
}

fn labels_of(map: &Value, empty: &str) -> String {
    let pairs: Vec<String> =
        map.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", plain(value))).collect();
    if pairs.is_empty() { empty.to_owned() } else { pairs.join(",") }
}

/// A value as text, `-` when it is not there.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// 0 is of what was not written: global knows a zone's proxies without a revision of its own.
pub fn revision(value: &Value) -> Cell {
    if value.as_u64() == Some(0) { Cell::new("-") } else { text(value) }
}

pub fn text(value: &Value) -> Cell {
    Cell::new(plain(value))
}

/// How long ago, in one unit: `12s`, `5m`, `3h`, `2d`.
pub fn age(time: &Value, now: Timestamp) -> String {
    time.as_str().and_then(|text| text.parse().ok()).map_or("-".to_owned(), |time| ago(time, now))
}

pub fn ago(time: Timestamp, now: Timestamp) -> String {
    match (now - time).num_seconds().max(0) {
        secs if secs < 120 => format!("{secs}s"),
        secs if secs < 2 * 3600 => format!("{}m", secs / 60),
        secs if secs < 2 * 86_400 => format!("{}h", secs / 3600),
        secs => format!("{}d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_proxy_is_online_while_a_subscription_is_open() {
        let closed = json!({"connectTime": "2026-01-01T00:00:00Z", "disconnectTime": "2026-01-01T01:00:00Z"});
        let open = json!({"connectTime": "2026-01-01T02:00:00Z"});
        let of = |subscriptions: Value| Connection::of(&json!({ "subscriptions": subscriptions }));
        assert!(matches!(of(json!([closed, open])), Connection::Online { since: Some(_) }));
        assert!(matches!(of(json!([open, closed])), Connection::Online { .. }));
        assert!(matches!(of(json!([closed])), Connection::Offline { since: Some(_) }));
        assert_eq!(of(json!([])), Connection::Unknown);
        let diverged = json!({"subscriptions": [closed], "divergence": {"time": "2026-01-01T00:00:00Z"}});
        assert!(matches!(Connection::of(&diverged), Connection::Diverged { since: Some(_) }));
        assert_eq!(Connection::of(&Value::Null), Connection::Unknown);
    }

    #[test]
    fn a_target_is_told_in_a_few_words() {
        assert_eq!(target(&json!({})), "Mesh");
        let spec =
            json!({"targetRef": {"kind": "Dataplane", "labels": {"app": "web"}, "sectionName": "http"}});
        assert_eq!(target(&spec), "Dataplane app=web section http");
        assert_eq!(
            target(&json!({"targetRef": {"kind": "MeshService", "name": "backend"}})),
            "MeshService backend"
        );
    }

    #[test]
    fn an_age_has_one_unit() {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().expect("a time");
        for (then, expected) in [
            ("2026-01-09T23:59:48Z", "12s"),
            ("2026-01-09T23:55:00Z", "5m"),
            ("2026-01-09T21:00:00Z", "3h"),
            ("2026-01-08T00:00:00Z", "2d"),
            ("2026-01-11T00:00:00Z", "0s"),
        ] {
            assert_eq!(age(&json!(then), now), expected);
        }
    }

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        let now = Timestamp::UNIX_EPOCH;
        for kind in kind::KINDS {
            let cells = own_cells(kind, &json!({"spec": {}}), now);
            assert_eq!(own_columns(kind).len(), cells.len(), "{}", kind.name);
        }
    }
}
