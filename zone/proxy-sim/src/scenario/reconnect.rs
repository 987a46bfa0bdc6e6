//! The whole fleet connects anew at once with `initial_resource_versions`: once because its connections break, and once
//! because the control plane is killed and started again.
use super::Stage;
use crate::report::{Phase, Spread};
use anyhow::Result;
use std::sync::atomic::Ordering::Relaxed;

pub async fn run(stage: &mut Stage<'_>) -> Result<Vec<Phase>> {
    let mut phases = vec![all_at_once(stage, "reconnect").await?];
    if stage.target.launched.is_some() {
        stage.fleet.disconnect();
        if let Some(launched) = &mut stage.target.launched {
            launched.restart().await?;
        }
        phases.push(all_at_once(stage, "restart").await?);
    }
    Ok(phases)
}

async fn all_at_once(stage: &Stage<'_>, name: &str) -> Result<Phase> {
    let fleet = &stage.fleet;
    let answers: Vec<u64> = fleet.proxies.iter().map(|proxy| proxy.stats.responses.load(Relaxed)).collect();
    let meter = stage.meter(name);
    let since = fleet.now();
    fleet.reconnect(0..fleet.proxies.len());
    // Clusters and listeners are answered even when nothing is new.
    let answered = |index: usize| fleet.proxies[index].stats.responses.load(Relaxed) >= answers[index] + 2;
    stage
        .settle("all connect anew", |fleet| {
            (0..fleet.proxies.len()).all(answered) && fleet.is_complete(stage.graph)
        })
        .await?;
    let mut phase = stage.measured(meter);
    let last = Spread::of_nanos(stage.delays(since, |stats| stats.last_response.load(Relaxed)));
    phase.spreads.insert("last_response_ms", last);
    phase.figures.insert("last_response_s", last.max / 1e3);
    phase
        .figures
        .insert("bytes_per_proxy_sent", phase.fleet.bytes as f64 / fleet.proxies.len().max(1) as f64);
    phase.figures.insert("resources_sent", phase.fleet.resources as f64);
    Ok(phase)
}
