//! Proxies as a list asks for them: there may be a hundred thousand, so a control plane selects and counts them itself.
use serde_json::Value;
use shared_model::Resource;
use std::{collections::BTreeMap, sync::Arc};

/// Kuma's states of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Online,
    /// It is connected, and some of its ports are not ready.
    PartiallyDegraded,
    Offline,
}

impl Status {
    /// Of a proxy that is connected or not, with so many ports ready.
    pub fn of(connected: bool, ready: usize, ports: usize) -> Status {
        match connected {
            true if ready == ports => Status::Online,
            true if ready > 0 => Status::PartiallyDegraded,
            _ => Status::Offline,
        }
    }
}

/// What a list is asked for beside the pages. Empty texts ask for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub mesh: Option<String>,
    /// Stands somewhere in the name.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Some inbound has this tag, and the value stands somewhere in its own.
    pub tags: Vec<(String, String)>,
    pub gateways: Option<bool>,
    pub zone: String,
    pub status: Option<Wanted>,
}

/// A state that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Is(Status),
    /// Of a zone that is away.
    Stale,
}

impl Wanted {
    pub const ALL: [(&str, Wanted); 4] = [
        ("online", Wanted::Is(Status::Online)),
        ("partially_degraded", Wanted::Is(Status::PartiallyDegraded)),
        ("offline", Wanted::Is(Status::Offline)),
        ("stale", Wanted::Stale),
    ];
}

/// One page of a selection.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Of the whole selection.
    pub total: usize,
    pub items: Vec<(Arc<Resource>, Option<Value>)>,
}

/// How many, by what runs there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub total: u64,
    pub online: u64,
    pub partially_degraded: u64,
    /// Of zones that are away; they count as offline.
    pub stale: u64,
    /// By version: all, and those that are connected.
    pub kuma_dp: BTreeMap<String, (u64, u64)>,
    pub envoy: BTreeMap<String, (u64, u64)>,
    /// By the backend that issued the certificate.
    pub backends: BTreeMap<String, (u64, u64)>,
}

impl Tally {
    pub fn offline(&self) -> u64 {
        self.total - self.online - self.partially_degraded
    }

    pub fn add(&mut self, other: &Tally) {
        self.total += other.total;
        self.online += other.online;
        self.partially_degraded += other.partially_degraded;
        self.stale += other.stale;
        let pairs = [
            (&mut self.kuma_dp, &other.kuma_dp),
            (&mut self.envoy, &other.envoy),
            (&mut self.backends, &other.backends),
        ];
        for (own, others) in pairs {
            for (key, (total, online)) in others {
                let counted = own.entry(key.clone()).or_default();
                *counted = (counted.0 + total, counted.1 + online);
            }
        }
    }
}

/// Counts one proxy by its documents.
pub fn tally_of(dataplane: &Resource, insight: Option<&Value>) -> Tally {
    let status = status_of(dataplane, insight);
    let insight = insight.unwrap_or(&Value::Null);
    let last = insight["subscriptions"].as_array().and_then(|all| all.last()).unwrap_or(&Value::Null);
    let connected = u64::from(status != Status::Offline);
    let counted = |known: &Value| match known.as_str() {
        Some(known) => BTreeMap::from([(known.to_owned(), (1, connected))]),
        None => BTreeMap::new(),
    };
    Tally {
        total: 1,
        online: u64::from(status == Status::Online),
        partially_degraded: u64::from(status == Status::PartiallyDegraded),
        stale: u64::from(insight["stale"] == true),
        kuma_dp: counted(&last["version"]["kumaDp"]["version"]),
        envoy: counted(&last["version"]["envoy"]["version"]),
        backends: counted(&insight["mTLS"]["issuedBackend"]),
    }
}

/// The state of a proxy by its documents.
pub fn status_of(dataplane: &Resource, insight: Option<&Value>) -> Status {
    let subscriptions = insight.and_then(|insight| insight["subscriptions"].as_array());
    let open = |link: &Value| link["connectTime"].is_string() && link["disconnectTime"].is_null();
    let connected = subscriptions.is_some_and(|all| all.iter().any(open));
    let inbounds = dataplane.spec["networking"]["inbound"].as_array().map_or(&[][..], Vec::as_slice);
    let is_ready =
        |inbound: &&Value| inbound["state"] != "NotReady" && inbound["health"]["ready"] != Value::Bool(false);
    Status::of(connected, inbounds.iter().filter(is_ready).count(), inbounds.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn proxies_are_counted_by_what_runs_there() {
        let dataplane = |inbound: Value| {
            let spec = json!({"networking": {"address": "10.0.0.1", "inbound": inbound}});
            Resource::new("Dataplane", "default", "a", spec)
        };
        let version = json!({"kumaDp": {"version": "2.9.0"}, "envoy": {"version": "1.30.1"}});
        let open = json!({"subscriptions": [{"connectTime": "2026-01-01T00:00:00Z", "version": version}],
            "mTLS": {"issuedBackend": "ca"}});
        let both = json!([{"port": 80}, {"port": 81, "state": "NotReady"}]);
        let mut tally = tally_of(&dataplane(json!([{"port": 80}])), Some(&open));
        tally.add(&tally_of(&dataplane(both), Some(&open)));
        tally.add(&tally_of(&dataplane(json!([])), None));
        assert_eq!((tally.total, tally.online, tally.partially_degraded, tally.offline()), (3, 1, 1, 1));
        assert_eq!(tally.envoy, BTreeMap::from([("1.30.1".to_owned(), (2, 2))]));
        assert_eq!(tally.backends["ca"], (2, 2));
    }
}
