//! The replicas of a service are replaced one by one: a new one comes, then the old one goes. While a client still has the
//! address of one that has gone, its requests fail: that time is summed up over clients and replicas. Proxies that are no
//! clients must not hear of it.
use super::Stage;
use crate::documents::{self, Replica};
use crate::proxy::Sighting;
use crate::report::{Phase, Spread};
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

pub async fn run(stage: &Stage<'_>) -> Result<Phase> {
    let (fleet, graph, settings) = (&stage.fleet, stage.graph, stage.settings);
    let (service, style) = (graph.busiest(), settings.style);
    let clients: BTreeSet<usize> = graph.clients_of(service).collect();
    let replica = |generation: u8, number: u8| Replica { generation, number };
    let document = |one: Replica| documents::replica(style, graph, service, one);
    fleet.sight_replicas(true);
    stage.target.api.put_all((0..settings.replicas).map(|number| document(replica(0, number)))).await?;
    // All of the old ones and nothing else, or of the new ones later.
    let all_have = |generation: u8| {
        let wanted: Vec<Replica> = (0..settings.replicas).map(|number| replica(generation, number)).collect();
        clients.iter().all(|client| {
            let sightings = fleet.proxies[*client].sightings();
            sightings
                .last()
                .is_some_and(|(seen, _)| seen.iter().collect::<BTreeSet<_>>() == wanted.iter().collect())
        })
    };
    stage.settle("the replicas are known", |_| all_have(0)).await?;
    clients.iter().for_each(|client| fleet.proxies[*client].sightings().clear());
    let others = || -> u64 {
        let others = fleet.proxies.iter().filter(|proxy| !clients.contains(&proxy.index));
        others.map(|proxy| proxy.stats.responses.load(Relaxed)).sum()
    };
    let before = others();
    let meter = stage.meter("rollout");
    let started = Instant::now();
    let step = settings.duration / u32::from(settings.replicas);
    let mut gone = Vec::new();
    for number in 0..settings.replicas {
        tokio::time::sleep_until((started + step * u32::from(number)).into()).await;
        stage.target.api.put(&document(replica(1, number))).await?;
        let old = replica(0, number);
        gone.push((old, fleet.now()));
        stage.target.api.delete(&document(old).path).await?;
    }
    stage.settle("the rollout is known", |_| all_have(1)).await?;
    fleet.sight_replicas(false);
    let mut phase = stage.measured(meter);
    let mut stale = Vec::new();
    for client in &clients {
        let sightings = std::mem::take(&mut *fleet.proxies[*client].sightings());
        for (old, at) in &gone {
            let time = held(&sightings, *old, *at);
            stale.push(time.with_context(|| format!("the proxy {client} was never without {old:?}"))?);
        }
    }
    let seconds: f64 = stale.iter().map(|time| time.as_secs_f64()).sum();
    let nanos = stale.iter().map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    phase.spreads.insert("stale_ms", Spread::of_nanos(nanos));
    phase.figures.insert("stale_endpoint_seconds", seconds);
    phase.figures.insert("clients", clients.len() as f64);
    phase.figures.insert("replicas", f64::from(settings.replicas));
    phase.figures.insert("pushes_to_others", (others() - before) as f64);
    let pushes = phase.fleet.responses as f64 / clients.len().max(1) as f64;
    phase.figures.insert("pushes_per_client", pushes);
    phase.figures.insert("cpu_ms", phase.cpu_s() * 1e3);
    Ok(phase)
}

/// How long a replica was held after it had gone; `None` when it was never seen to be away.
fn held(sightings: &[Sighting], old: Replica, gone: u64) -> Option<Duration> {
    let without = sightings.iter().find(|(seen, at)| *at >= gone && !seen.contains(&old));
    without.map(|(_, at)| Duration::from_nanos(at - gone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_held_until_an_assignment_comes_without_it() {
        let [old, new] = [0, 1].map(|generation| Replica { generation, number: 3 });
        let sightings = [(vec![old], 100), (vec![old, new], 200), (vec![new], 350)];
        assert_eq!(held(&sightings, old, 220), Some(Duration::from_nanos(130)));
        assert_eq!(held(&sightings[..2], old, 220), None);
    }
}
