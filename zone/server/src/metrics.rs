//! What the zone counts, each metric declared once.
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::time::Duration;

/// Labels of the metrics per xDS type: `cds`, `eds`, `lds`, `rds`, `sds`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByType {
    pub r#type: &'static str,
}

/// Labels of the API's answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByAnswer {
    pub method: String,
    pub status: u16,
}

/// Why a proxy was not let in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByReason {
    pub reason: &'static str,
}

#[derive(Clone)]
pub struct Metrics {
    pub apply_to_ack: Histogram,
    pub apply_to_settled: Histogram,
    pub assemble: Histogram,
    pub index_apply: Histogram,
    pub proxies: Gauge,
    pub streams_refused: Family<ByReason, Counter>,
    pub responses_sent: Family<ByType, Counter>,
    pub responses_acknowledged: Family<ByType, Counter>,
    pub responses_refused: Family<ByType, Counter>,
    pub bootstraps: Counter,
    pub certificates_issued: Counter,
    pub followed_revision: Gauge,
    pub owned_revision: Gauge,
    pub link_up: Gauge,
    pub link_dials: Counter,
    pub submitted: Counter,
    pub api_answers: Family<ByAnswer, Counter>,
    pub verify_mismatches: Counter,
}

/// From 1 ms to about 65 s.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

/// From 10 us to about 2.6 s, for work of one core.
fn work() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 4.0, 10))
}

impl Metrics {
    /// Makes the metrics and registers them, prefixed `weft_zone_`.
    pub fn new() -> (Metrics, Registry) {
        let metrics = Metrics {
            apply_to_ack: latency(),
            apply_to_settled: latency(),
            assemble: work(),
            index_apply: work(),
            proxies: Gauge::default(),
            streams_refused: Family::default(),
            responses_sent: Family::default(),
            responses_acknowledged: Family::default(),
            responses_refused: Family::default(),
            bootstraps: Counter::default(),
            certificates_issued: Counter::default(),
            followed_revision: Gauge::default(),
            owned_revision: Gauge::default(),
            link_up: Gauge::default(),
            link_dials: Counter::default(),
            submitted: Counter::default(),
            api_answers: Family::default(),
            verify_mismatches: Counter::default(),
        };
        let mut all = Registry::default();
        let m = metrics.clone();
        all.register(
            "weft_verify_mismatches",
            "With WEFT_VERIFY=1: what was carried from change to change and is not what it would be from scratch",
            m.verify_mismatches,
        );
        let registry = all.sub_registry_with_prefix("weft_zone");
        registry.register(
            "apply_to_ack_seconds",
            "From the command of a revision to a proxy's acknowledgement of it",
            m.apply_to_ack,
        );
        registry.register(
            "apply_to_settled_seconds",
            "From the command of a revision to the last proxy's acknowledgement of it",
            m.apply_to_settled,
        );
        registry.register("assemble_seconds", "Time to build the Envoy resources of one proxy", m.assemble);
        registry.register(
            "index_apply_seconds",
            "Time to apply the changes of one revision to the index",
            m.index_apply,
        );
        registry.register("proxies", "Proxies that are connected", m.proxies);
        registry.register(
            "streams_refused",
            "Streams of proxies that were not let in, by reason",
            m.streams_refused,
        );
        registry.register("xds_responses_sent", "Responses sent to proxies, by type", m.responses_sent);
        registry.register(
            "xds_responses_acknowledged",
            "Responses that proxies acknowledged, by type",
            m.responses_acknowledged,
        );
        registry.register(
            "xds_responses_refused",
            "Responses that proxies refused, by type",
            m.responses_refused,
        );
        registry.register("bootstraps", "Bootstrap configurations given out", m.bootstraps);
        registry.register("certificates_issued", "Certificates issued to proxies", m.certificates_issued);
        registry.register(
            "followed_revision",
            "Newest revision of global that the zone holds",
            m.followed_revision,
        );
        registry.register("owned_revision", "Newest revision of the zone's own store", m.owned_revision);
        registry.register("link_up", "1 while the link to global is open", m.link_up);
        registry.register("link_dials", "Attempts to open the link to global", m.link_dials);
        registry.register("submitted", "Resources that were submitted to global", m.submitted);
        registry.register("api_answers", "Answers of the API, by method and status", m.api_answers);
        (metrics, all)
    }
}

/// Observes a duration in seconds.
pub fn observe(histogram: &Histogram, duration: Duration) {
    histogram.observe(duration.as_secs_f64());
}
