//! Policies change one at a time: the timeout of one service, the timeout of the mesh, the permission of one caller.
use super::Stage;
use crate::documents::{self, Document};
use crate::report::{Phase, Spread};
use anyhow::Result;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Nothing came for so long after everybody had the change: nothing more will.
const QUIET: Duration = Duration::from_millis(200);

/// A write of one round.
pub enum Write {
    Put(Document),
    Delete(Document),
}

pub async fn run(stage: &Stage<'_>) -> Result<Vec<Phase>> {
    let (graph, style) = (stage.graph, stage.settings.style);
    let service = graph.busiest();
    // What nobody has had before: the first round must change something too.
    let timeout = |round: u32| 21 + round;
    let one = |round| Write::Put(documents::timeout_of_service(graph, service, timeout(round)));
    let all = |round| Write::Put(documents::timeout_of_mesh(timeout(round)));
    let permission = |round: u32| match round % 2 {
        0 => Write::Put(documents::withdrawal(style, graph, service)),
        _ => Write::Delete(documents::withdrawal(style, graph, service)),
    };
    let clients = stage.zones * graph.clients_of(service).count();
    let instances = stage.zones * graph.services[service].instances.len();
    Ok(vec![
        rounds(stage, "timeout of one service", clients, one).await?,
        rounds(stage, "timeout of the mesh", stage.fleet.proxies.len(), all).await?,
        rounds(stage, "permission withdrawn", instances, permission).await?,
    ])
}

/// Changes a policy in rounds, each after the one before has reached `affected` proxies.
pub async fn rounds(
    stage: &Stage<'_>,
    name: &str,
    affected: usize,
    write: impl Fn(u32) -> Write,
) -> Result<Phase> {
    let (fleet, deadline) = (&stage.fleet, stage.settings.deadline);
    let meter = stage.meter(name);
    let (mut each, mut last, mut stored) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..stage.settings.rounds {
        let since = fleet.now();
        match write(round) {
            Write::Put(document) => stage.target.api.put(&document).await?,
            Write::Delete(document) => stage.target.api.delete(&document.path).await?,
        }
        stored.push(fleet.now() - since);
        let changed =
            || fleet.proxies.iter().filter(|proxy| proxy.stats.last_change.load(Relaxed) >= since).count();
        fleet.settle(name, QUIET, deadline, |_| changed() >= affected).await?;
        let delays = stage.delays(since, |stats| stats.last_change.load(Relaxed));
        last.push(delays.iter().copied().max().unwrap_or_default());
        each.extend(delays);
    }
    let mut phase = stage.measured(meter);
    let rounds = f64::from(stage.settings.rounds.max(1));
    let reached = each.len() as f64 / rounds;
    phase.spreads.insert("api_ms", Spread::of_nanos(stored));
    phase.spreads.insert("each_proxy_ms", Spread::of_nanos(each));
    phase.spreads.insert("last_proxy_ms", Spread::of_nanos(last));
    phase.figures.insert("proxies_changed", reached);
    phase.figures.insert("proxies_expected", affected as f64);
    phase.figures.insert("cpu_ms_per_change", phase.cpu_s() * 1e3 / rounds);
    phase.figures.insert("kb_per_change", phase.fleet.bytes as f64 / 1e3 / rounds);
    phase.figures.insert("resources_per_change", phase.fleet.resources as f64 / rounds);
    phase.figures.insert("responses_per_change", phase.fleet.responses as f64 / rounds);
    Ok(phase)
}
