//! What is known of each proxy's streams: Kuma's DataplaneInsight, kept in memory. Status is not configuration, so
//! nothing here ever reaches the index or a disk.
use serde_json::{Value, json};
use shared_model::Timestamp;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use zone_index::ProxyId;

/// Streams that are remembered per proxy.
const SUBSCRIPTIONS_KEPT: usize = 5;

/// Responses of one type, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub sent: u64,
    pub acknowledged: u64,
    pub rejected: u64,
}

/// One stream of a proxy.
#[derive(Clone, Debug)]
struct Subscription {
    id: String,
    connected: Timestamp,
    disconnected: Option<Timestamp>,
    updated: Option<Timestamp>,
    counts: Vec<(&'static str, Counts)>,
    version: Arc<str>,
}

/// The certificate that a proxy was given last.
#[derive(Clone, Debug)]
struct Certificate {
    expires: Timestamp,
    issued: Timestamp,
    regenerations: u64,
    backend: String,
}

#[derive(Clone, Debug, Default)]
struct Insight {
    subscriptions: VecDeque<Subscription>,
    metadata: Option<Arc<str>>,
    certificate: Option<Certificate>,
    problems: Vec<String>,
    /// Counts up with each change, so that a reader sees what it has not sent yet.
    generation: u64,
}

/// Texts that many proxies say alike: each is kept once, as the JSON that it is.
#[derive(Default)]
struct Texts {
    known: BTreeSet<Arc<str>>,
    sweep_at: usize,
}

/// Below this many texts nothing is swept.
const SWEPT_FROM: usize = 256;

impl Texts {
    fn of(&mut self, value: &Value) -> Arc<str> {
        let text = value.to_string();
        if let Some(known) = self.known.get(text.as_str()) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at.max(SWEPT_FROM) {
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = self.known.len() * 2;
        }
        let text: Arc<str> = text.into();
        self.known.insert(text.clone());
        text
    }
}

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// The insights of all proxies of the zone.
pub struct Insights {
    instance: String,
    texts: Mutex<Texts>,
    proxies: Mutex<BTreeMap<ProxyId, Insight>>,
    changed: watch::Sender<u64>,
}

impl Insights {
    /// `instance` names this run of the control plane.
    pub fn new(instance: &str) -> Insights {
        let (texts, proxies) = Default::default();
        Insights { instance: instance.to_owned(), texts, proxies, changed: watch::Sender::new(0) }
    }

    /// Counts up with every change of any insight.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A stream was opened. Older ones that were not seen to end have ended.
    pub fn connected(&self, proxy: &ProxyId, stream: &str, metadata: &Value, now: Timestamp) {
        let mut texts = self.texts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let version = texts.of(metadata.get("version").unwrap_or(&Value::Null));
        let metadata = texts.of(metadata);
        drop(texts);
        self.change(proxy, |insight| {
            for older in insight.subscriptions.iter_mut().filter(|older| older.disconnected.is_none()) {
                older.disconnected = Some(now);
            }
            insight.metadata = Some(metadata);
            insight.subscriptions.push_back(Subscription {
                id: stream.to_owned(),
                connected: now,
                disconnected: None,
                updated: None,
                counts: Vec::new(),
                version,
            });
            while insight.subscriptions.len() > SUBSCRIPTIONS_KEPT {
                insight.subscriptions.pop_front();
            }
        });
    }

    pub fn disconnected(&self, proxy: &ProxyId, stream: &str, now: Timestamp) {
        self.change(proxy, |insight| {
            if let Some(subscription) = insight.subscription(stream) {
                subscription.disconnected.get_or_insert(now);
            }
        });
    }

    /// What a stream has sent and been told so far, by type.
    pub fn counted(
        &self,
        proxy: &ProxyId,
        stream: &str,
        counts: impl Iterator<Item = (&'static str, Counts)>,
        now: Timestamp,
    ) {
        self.change(proxy, |insight| {
            if let Some(subscription) = insight.subscription(stream) {
                subscription.counts.clear();
                subscription.counts.extend(counts);
                subscription.updated = Some(now);
            }
        });
    }

    pub fn certified(&self, proxy: &ProxyId, backend: &str, issued: Timestamp, expires: Timestamp) {
        self.change(proxy, |insight| {
            let regenerations = insight.certificate.as_ref().map_or(0, |c| c.regenerations) + 1;
            let backend = backend.to_owned();
            insight.certificate = Some(Certificate { expires, issued, regenerations, backend });
        });
    }

    /// What could not be built for the proxy.
    pub fn problems(&self, proxy: &ProxyId, problems: Vec<String>) {
        let same = self.lock().get(proxy).is_some_and(|insight| insight.problems == problems);
        if !same {
            self.change(proxy, |insight| insight.problems = problems);
        }
    }

    /// The proxy has left for good.
    pub fn forget(&self, proxy: &ProxyId) {
        self.lock().remove(proxy);
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// The insight as the API shows it.
    pub fn json(&self, proxy: &ProxyId) -> Option<Value> {
        self.lock().get(proxy).map(|insight| insight.json(&self.instance))
    }

    /// A number that differs when the insight does; 0 when there is none.
    pub fn generation(&self, proxy: &ProxyId) -> u64 {
        self.lock().get(proxy).map_or(0, |insight| insight.generation)
    }

    fn change(&self, proxy: &ProxyId, change: impl FnOnce(&mut Insight)) {
        let apply = |insight: &mut Insight| {
            change(insight);
            insight.generation += 1;
        };
        let mut proxies = self.lock();
        match proxies.get_mut(proxy) {
            Some(insight) => apply(insight),
            None => apply(proxies.entry(proxy.clone()).or_default()),
        }
        drop(proxies);
        self.changed.send_modify(|changes| *changes += 1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ProxyId, Insight>> {
        self.proxies.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Insight {
    fn subscription(&mut self, stream: &str) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.id == stream)
    }

    fn json(&self, instance: &str) -> Value {
        let subscriptions: Vec<Value> = self.subscriptions.iter().map(|one| one.json(instance)).collect();
        let mut out =
            json!({ "subscriptions": subscriptions, "metadata": self.metadata.as_deref().map(read) });
        if let Some(certificate) = &self.certificate {
            out["mTLS"] = json!({
                "certificateExpirationTime": time(certificate.expires),
                "lastCertificateRegeneration": time(certificate.issued),
                "certificateRegenerations": certificate.regenerations,
                "issuedBackend": certificate.backend,
                "supportedBackends": [certificate.backend],
            });
        }
        if !self.problems.is_empty() {
            out["problems"] = json!(self.problems);
        }
        out
    }
}

impl Subscription {
    fn json(&self, instance: &str) -> Value {
        // Counters are strings, as uint64 are in proto JSON.
        let counts = |counts: Counts| {
            json!({
                "responsesSent": counts.sent.to_string(),
                "responsesAcknowledged": counts.acknowledged.to_string(),
                "responsesRejected": counts.rejected.to_string(),
            })
        };
        let total = self.counts.iter().map(|(_, counts)| counts).fold(Counts::default(), |sum, one| Counts {
            sent: sum.sent + one.sent,
            acknowledged: sum.acknowledged + one.acknowledged,
            rejected: sum.rejected + one.rejected,
        });
        let mut status = json!({ "total": counts(total) });
        for name in ["cds", "eds", "lds", "rds"] {
            let of_type = self.counts.iter().find(|(kind, _)| *kind == name);
            status[name] = counts(of_type.map(|(_, counts)| *counts).unwrap_or_default());
        }
        if let Some(updated) = self.updated {
            status["lastUpdateTime"] = time(updated);
        }
        let mut out = json!({
            "id": self.id,
            "controlPlaneInstanceId": instance,
            "connectTime": time(self.connected),
            "status": status,
            "version": read(&self.version),
        });
        if let Some(disconnected) = self.disconnected {
            out["disconnectTime"] = time(disconnected);
        }
        out
    }
}

fn time(at: Timestamp) -> Value {
    Value::from(at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy() -> ProxyId {
        ProxyId { mesh: "default".into(), name: "web-1".into() }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_new_stream_ends_the_older_one_and_few_are_kept() {
        let insights = Insights::new("cp-1");
        for i in 0..8 {
            insights.connected(&proxy(), &format!("s{i}"), &json!({"version": {"envoy": {}}}), at(i));
        }
        let insight = insights.json(&proxy()).unwrap();
        let subscriptions = insight["subscriptions"].as_array().unwrap();
        assert_eq!(subscriptions.len(), SUBSCRIPTIONS_KEPT);
        let open = subscriptions.iter().filter(|one| one.get("disconnectTime").is_none()).count();
        assert_eq!((open, &subscriptions[4]["id"]), (1, &json!("s7")));
    }

    #[test]
    fn what_proxies_say_alike_is_kept_once_and_shown_as_it_was() {
        let insights = Insights::new("cp-1");
        let metadata = json!({"version": {"kumaDp": {"version": "2.14.3"}}, "features": ["a", "b"]});
        let ids: Vec<ProxyId> = (0..5).map(|i| ProxyId::new("default", format!("web-{i}"))).collect();
        for id in &ids {
            insights.connected(id, "s", &metadata, at(0));
        }
        assert_eq!(insights.texts.lock().unwrap().known.len(), 2);
        let insight = insights.json(&ids[4]).unwrap();
        assert_eq!(insight["metadata"], metadata);
        assert_eq!(insight["subscriptions"][0]["version"], metadata["version"]);
        for i in 0..10 * SWEPT_FROM {
            insights.connected(&ids[0], "s", &json!({ "i": i }), at(0));
        }
        assert!(insights.texts.lock().unwrap().known.len() <= 2 * SWEPT_FROM);
    }

    #[test]
    fn every_change_shows_in_the_generation_and_counts_add_up() {
        let insights = Insights::new("cp-1");
        assert_eq!(insights.generation(&proxy()), 0);
        insights.connected(&proxy(), "s", &Value::Null, at(0));
        let before = insights.generation(&proxy());
        let one = Counts { sent: 3, acknowledged: 2, rejected: 1 };
        insights.counted(&proxy(), "s", [("cds", one), ("sds", one)].into_iter(), at(1));
        assert!(insights.generation(&proxy()) > before);
        let status = insights.json(&proxy()).unwrap()["subscriptions"][0]["status"].clone();
        assert_eq!(status["total"]["responsesSent"], "6");
        assert_eq!(status["cds"]["responsesRejected"], "1");
        assert_eq!(status["lds"]["responsesSent"], "0");
        insights.forget(&proxy());
        assert_eq!(insights.json(&proxy()), None);
    }
}
