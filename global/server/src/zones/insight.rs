//! What is shown of a zone's links: Kuma's ZoneInsight. In memory only; a link that ends with the process ended there.
use serde_json::{Value, json};
use shared_model::Timestamp;
use std::collections::VecDeque;

/// Links that are remembered per zone.
const KEPT: usize = 5;

#[derive(Clone, Debug)]
struct Subscription {
    id: u64,
    zone_instance: String,
    version: String,
    connected: Timestamp,
    disconnected: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub struct Insight {
    subscriptions: VecDeque<Subscription>,
    heard: Option<Timestamp>,
}

impl Insight {
    pub fn connected(&mut self, id: u64, zone_instance: &str, version: &str, now: Timestamp) {
        let (zone_instance, version) = (zone_instance.to_owned(), version.to_owned());
        self.subscriptions.push_back(Subscription {
            id,
            zone_instance,
            version,
            connected: now,
            disconnected: None,
        });
        // Those that are open are shown, however many.
        while self.subscriptions.len() > KEPT
            && let Some(ended) = self.subscriptions.iter().position(|link| link.disconnected.is_some())
        {
            self.subscriptions.remove(ended);
        }
        self.heard = Some(now);
    }

    pub fn disconnected(&mut self, id: u64, now: Timestamp) {
        let open = self.subscriptions.iter_mut().find(|link| link.id == id && link.disconnected.is_none());
        if let Some(open) = open {
            open.disconnected = Some(now);
        }
    }

    pub fn heard(&mut self, now: Timestamp) {
        self.heard = Some(now);
    }

    pub fn show(&self, global_instance: &str) -> Value {
        let show = |link: &Subscription| {
            let mut shown = json!({
                "id": format!("{}-{}", link.zone_instance, link.id),
                "globalInstanceId": global_instance,
                "zoneInstanceId": link.zone_instance,
                "connectTime": time(link.connected),
                "authTokenProvided": true,
                "version": {"kumaCp": {"version": link.version, "kumaCpGlobalCompatible": true}},
                "status": {"lastUpdateTime": time(self.heard.unwrap_or(link.connected)), "total": {}},
            });
            if let Some(end) = link.disconnected {
                shown["disconnectTime"] = time(end).into();
            }
            shown
        };
        let mut shown = json!({"subscriptions": self.subscriptions.iter().map(show).collect::<Vec<_>>()});
        if let Some(heard) = self.heard {
            shown["healthCheck"] = json!({"time": time(heard)});
        }
        shown
    }
}

pub fn time(at: Timestamp) -> String {
    at.to_rfc3339()
}
