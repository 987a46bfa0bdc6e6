//! Resident memory of the control plane: at rest, and after an endpoint has moved many times.
use super::{Stage, endpoint};
use crate::report::Phase;
use anyhow::Result;
use std::time::Duration;

/// Buffers of the storm are given back, if they ever are.
const REST: Duration = Duration::from_secs(5);

pub async fn run(stage: &mut Stage<'_>) -> Result<Vec<Phase>> {
    let rest = at_rest(stage, "memory at rest").await;
    stage.fleet.count_moves(true);
    endpoint::arrive(stage).await?;
    let mut churn = endpoint::at_rate(stage, "memory, endpoint 100/s", 100.0).await?;
    stage.fleet.count_moves(false);
    let after = at_rest(stage, "memory after the churn").await;
    let kb = |phase: &Phase| phase.control_plane.map_or(0.0, |usage| usage.rss_kb as f64);
    churn.figures.insert("grown_kb", kb(&after) - kb(&rest));
    Ok(vec![rest, churn, after])
}

/// What it is when nothing has happened for a while.
pub async fn at_rest(stage: &Stage<'_>, name: &str) -> Phase {
    let meter = stage.meter(name);
    tokio::time::sleep(REST).await;
    let mut phase = stage.measured(meter);
    if let Some(usage) = phase.control_plane {
        let proxies = stage.fleet.proxies.len().max(1) as f64;
        phase.figures.insert("baseline_mb", stage.baseline_kb as f64 / 1e3);
        phase.figures.insert("rss_mb", usage.rss_kb as f64 / 1e3);
        phase.figures.insert("peak_mb", usage.peak_kb as f64 / 1e3);
        phase.figures.insert("kb_per_proxy", usage.rss_kb.saturating_sub(stage.baseline_kb) as f64 / proxies);
    }
    phase
}
