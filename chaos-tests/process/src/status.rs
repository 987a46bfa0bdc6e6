//! What global says of a revision, as its API words it.
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    pub revision: u64,
    pub current: u64,
    pub done: bool,
    pub zones: Vec<ZoneStatus>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ZoneStatus {
    pub zone: String,
    pub online: bool,
    pub applied: bool,
    pub touched: u32,
    pub acknowledged: u32,
    pub pending: u32,
    pub refused: Vec<Refusal>,
    pub done: bool,
    pub apply_to_ack_ms: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Refusal {
    pub mesh: String,
    pub proxy: String,
    pub reason: String,
}

impl RevisionStatus {
    pub fn zone(&self, name: &str) -> Option<&ZoneStatus> {
        self.zones.iter().find(|zone| zone.zone == name)
    }

    /// From the command to the last proxy's acknowledgement, per zone.
    pub fn apply_to_ack_ms(&self) -> BTreeMap<String, Option<f64>> {
        self.zones.iter().map(|zone| (zone.zone.clone(), zone.apply_to_ack_ms)).collect()
    }

    /// Every refusal as one line.
    pub fn refusals(&self) -> Vec<String> {
        let line =
            |zone: &str, r: &Refusal| format!("{zone}: {}/{} refused it: {}", r.mesh, r.proxy, r.reason);
        self.zones.iter().flat_map(|zone| zone.refused.iter().map(|r| line(&zone.zone, r))).collect()
    }
}
