//! What this program counts: each metric declared once.
use global_consensus::Consensus;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Zone {
    zone: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    method: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Handles to the metrics that are counted where things happen; clones count into the same.
#[derive(Clone)]
pub struct Metrics {
    apply_to_ack: Family<Zone, Histogram>,
    zones_connected: Gauge,
    api_requests: Family<Answer, Counter>,
    links_refused: Family<Reason, Counter>,
    submissions: Counter,
    submissions_refused: Counter,
}

/// From 1 ms to about 65 s.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            apply_to_ack: Family::new_with_constructor(latency),
            zones_connected: Gauge::default(),
            api_requests: Family::default(),
            links_refused: Family::default(),
            submissions: Counter::default(),
            submissions_refused: Counter::default(),
        };
        let m = metrics.clone();
        registry.register(
            "weft_apply_to_ack_seconds",
            "From the commit of a revision to a zone's report that every proxy it touches has acknowledged it",
            m.apply_to_ack,
        );
        registry.register("weft_zones_connected", "Zones with an open link", m.zones_connected);
        registry.register(
            "weft_api_requests",
            "Answers of the REST API, by method and status code",
            m.api_requests,
        );
        registry.register(
            "weft_links_refused",
            "Zone links that were not opened, by reason",
            m.links_refused,
        );
        registry.register(
            "weft_submissions",
            "Resources that zones brought and that were stored",
            m.submissions,
        );
        registry.register(
            "weft_submissions_refused",
            "Resources of zones that were refused",
            m.submissions_refused,
        );
        metrics
    }

    pub fn acknowledged(&self, zone: &str, took: Duration) {
        self.apply_to_ack.get_or_create(&Zone { zone: zone.to_owned() }).observe(took.as_secs_f64());
    }

    pub fn zones_connected(&self, zones: usize) {
        self.zones_connected.set(i64::try_from(zones).unwrap_or(i64::MAX));
    }

    /// Methods that HTTP does not know are counted as one: a client must not be able to make labels.
    pub fn answered(&self, method: &str, code: u16) {
        let known = ["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH"].contains(&method);
        let method = if known { method } else { "other" }.to_owned();
        self.api_requests.get_or_create(&Answer { method, code }).inc();
    }

    pub fn link_refused(&self, reason: &'static str) {
        self.links_refused.get_or_create(&Reason { reason }).inc();
    }

    pub fn submitted(&self, stored: bool) {
        match stored {
            true => self.submissions.inc(),
            false => self.submissions_refused.inc(),
        };
    }
}

/// Read from consensus when somebody looks.
pub struct Raft(pub Consensus);

impl std::fmt::Debug for Raft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raft")
    }
}

impl Collector for Raft {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let catalog = self.0.catalog();
        let (revision, resources) = {
            let catalog = catalog.borrow();
            (catalog.revision().0, catalog.len())
        };
        let gauges = [
            ("weft_revision", "Newest revision of the catalog", revision),
            ("weft_resources", "Resources in the catalog", resources as u64),
            ("weft_raft_leader", "1 while this node leads", u64::from(self.0.is_leader())),
        ];
        let room = self.0.space().room().ok();
        let disk = room.map(|room| {
            [
                ("weft_disk_free_bytes", "Free on the file system of the Raft log", room.free),
                ("weft_disk_reserve_bytes", "With less free than this, writes are refused", room.reserve),
            ]
        });
        for (name, help, value) in gauges.into_iter().chain(disk.into_iter().flatten()) {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
