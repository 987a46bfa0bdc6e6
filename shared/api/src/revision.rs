//! How far a revision has come: the JSON of `GET /_revisions/{n}`, and what a write answers.
use serde::{Deserialize, Serialize};
use shared_model::Timestamp;

/// A revision, seen over all zones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    pub revision: u64,
    /// The newest revision.
    pub current: u64,
    /// When its command was applied here; `None` once that is forgotten.
    pub applied_at: Option<Timestamp>,
    /// Every zone is done.
    pub done: bool,
    pub zones: Vec<ZoneStatus>,
}

/// A revision in one zone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ZoneStatus {
    pub zone: String,
    /// The zone's link is open and beats.
    pub online: bool,
    pub applied: bool,
    /// By the zone's clock.
    pub applied_at: Option<Timestamp>,
    /// Proxies that the revision gave something new to.
    pub touched: u32,
    pub acknowledged: u32,
    pub pending: u32,
    pub refused: Vec<ProxyRefusal>,
    /// Applied, and no proxy pending. A refusal is not pending.
    pub done: bool,
    /// From the command to the zone's complete report, by the clock of the one who answers.
    pub apply_to_ack_ms: Option<f64>,
}

/// A proxy that refused what a revision gave it, with Envoy's reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyRefusal {
    pub mesh: String,
    pub proxy: String,
    pub reason: String,
}

/// The body of an answered write. `warnings` is left out when there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteReply {
    /// The revision that holds the write; of an unchanged resource, the one that wrote it. Absent in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
