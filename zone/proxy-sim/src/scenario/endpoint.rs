//! One endpoint of the service with the most clients moves at a rate. Its address counts the moves, so that every client
//! tells which of them it knows, even when several come at once.
use super::Stage;
use crate::documents;
use crate::proxy::Receipt;
use crate::report::{Phase, Spread};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long after the last move every client must have it.
const PATIENCE: Duration = Duration::from_secs(30);

/// When the move with this count was asked for.
struct Move {
    count: u32,
    asked: u64,
    /// When the API had answered.
    stored: u64,
}

pub async fn run(stage: &mut Stage<'_>) -> Result<Vec<Phase>> {
    stage.fleet.count_moves(true);
    arrive(stage).await?;
    let mut phases = Vec::new();
    for rate in stage.settings.rates.clone() {
        phases.push(at_rate(stage, &format!("endpoint {rate}/s"), rate).await?);
    }
    stage.fleet.count_moves(false);
    Ok(phases)
}

/// Puts the endpoint there for the first time.
pub async fn arrive(stage: &mut Stage<'_>) -> Result<()> {
    let service = stage.graph.busiest();
    stage.moves += 1;
    let document = documents::mover(stage.settings.style, stage.graph, service, stage.moves);
    stage.target.api.put(&document).await?;
    wait(stage, stage.moves).await?;
    stage.settle("the endpoint is known", |_| true).await
}

/// Moves it at a rate, for as long as a phase lasts.
pub async fn at_rate(stage: &mut Stage<'_>, name: &str, rate: f64) -> Result<Phase> {
    let (fleet, graph) = (&stage.fleet, stage.graph);
    let service = graph.busiest();
    fleet.proxies.iter().for_each(|proxy| drop(proxy.take_receipts()));
    let meter = stage.meter(name);
    let started = Instant::now();
    let total = ((stage.settings.duration.as_secs_f64() * rate).round() as u32).max(1);
    let mut moves = Vec::with_capacity(total as usize);
    for index in 0..total {
        let due = started + Duration::from_secs_f64(f64::from(index) / rate);
        tokio::time::sleep_until(due.into()).await;
        let count = stage.moves + 1 + index;
        let document = documents::mover(stage.settings.style, graph, service, count);
        let asked = fleet.now();
        stage.target.api.put(&document).await?;
        moves.push(Move { count, asked, stored: fleet.now() });
    }
    tokio::time::sleep_until((started + Duration::from_secs_f64(f64::from(total) / rate)).into()).await;
    let seconds = started.elapsed().as_secs_f64();
    stage.moves += total;
    wait(stage, stage.moves).await?;
    let mut phase = stage.measured(meter);
    let (mut each, mut last) = (Vec::new(), vec![0u64; moves.len()]);
    let mut clients = 0usize;
    for client in graph.clients_of(service).filter(|client| !stage.spoilt.contains(client)) {
        clients += 1;
        let receipts = fleet.proxies[client].take_receipts();
        for (at, delay) in delays(&moves, &receipts).into_iter().enumerate() {
            each.push(delay);
            last[at] = last[at].max(delay);
        }
    }
    let stored = moves.iter().map(|done| done.stored - done.asked);
    phase.spreads.insert("api_ms", Spread::of_nanos(stored));
    phase.spreads.insert("each_client_ms", Spread::of_nanos(each));
    phase.spreads.insert("last_client_ms", Spread::of_nanos(last));
    let cpu_us = phase.cpu_s() * 1e6 / f64::from(total);
    phase.figures.insert("cpu_us_per_change", cpu_us);
    phase.figures.insert("cpu_us_per_change_and_proxy", cpu_us / clients.max(1) as f64);
    phase.figures.insert("changes_per_second", f64::from(total) / seconds);
    phase.figures.insert("changes", f64::from(total));
    phase.figures.insert("clients", clients as f64);
    phase.figures.insert("responses_per_change", phase.fleet.responses as f64 / f64::from(total));
    Ok(phase)
}

/// How long each move took until this client knew of it or of a later one.
fn delays(moves: &[Move], receipts: &[Receipt]) -> Vec<u64> {
    let mut receipts = receipts.iter().peekable();
    let mut delay = |asked: &Move| {
        while receipts.next_if(|(count, _)| *count < asked.count).is_some() {}
        receipts.peek().map(|(_, at)| at.saturating_sub(asked.asked))
    };
    moves.iter().map_while(&mut delay).collect()
}

/// Waits until every client but the spoilt knows of this move.
async fn wait(stage: &Stage<'_>, count: u32) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let knows = |client: usize| {
        let receipts = stage.fleet.proxies[client].receipts.lock();
        receipts.is_ok_and(|receipts| receipts.last().is_some_and(|(last, _)| *last >= count))
    };
    loop {
        let clients = stage.graph.clients_of(stage.graph.busiest());
        let mut missing = clients.filter(|client| !stage.spoilt.contains(client) && !knows(*client));
        let Some(first) = missing.next() else { return Ok(()) };
        if Instant::now() > end {
            let (name, others) = (&stage.fleet.proxies[first].name, missing.count());
            bail!("{name} and {others} others do not know of the move {count} after {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_known_with_a_later_one() {
        let moves = [(1, 100), (2, 200), (3, 300)].map(|(count, asked)| Move { count, asked, stored: asked });
        assert_eq!(delays(&moves, &[(1, 150), (3, 390)]), [50, 190, 90]);
        assert_eq!(delays(&moves, &[(2, 250)]), [150, 50], "the last one never came");
        assert!(delays(&moves, &[]).is_empty());
    }
}
