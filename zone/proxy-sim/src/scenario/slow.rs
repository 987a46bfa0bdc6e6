//! Whether the others suffer: an endpoint moves, first with everybody well, then with one proxy in a hundred that never
//! reads, one that refuses everything, and one that connects anew each second.
use super::{Stage, endpoint};
use crate::proxy::Order;
use crate::report::Phase;
use anyhow::Result;
use std::sync::Arc;
use std::time::Duration;

const RATE: f64 = 10.0;

pub async fn run(stage: &mut Stage<'_>) -> Result<Vec<Phase>> {
    stage.fleet.count_moves(true);
    endpoint::arrive(stage).await?;
    let well = endpoint::at_rate(stage, "all well", RATE).await?;
    let [frozen, refusing, restless] = chosen(stage);
    for index in &frozen {
        stage.fleet.proxies[*index].order(Order::Freeze);
    }
    for index in &refusing {
        stage.fleet.proxies[*index].envoy().refusing = true;
    }
    stage.spoilt = [&frozen, &refusing, &restless].into_iter().flatten().copied().collect();
    let restless: Vec<_> = restless.iter().map(|index| Arc::clone(&stage.fleet.proxies[*index])).collect();
    let restless = tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        for round in 0.. {
            every.tick().await;
            restless.iter().for_each(|proxy| proxy.order(Order::Reconnect(round)));
        }
    });
    let spoilt = endpoint::at_rate(stage, "some misbehave", RATE).await;
    restless.abort();
    let mut spoilt = spoilt?;
    stage.fleet.count_moves(false);
    let p99 = |phase: &Phase| phase.spreads.get("each_client_ms").map_or(0.0, |spread| spread.p99);
    if p99(&well) > 0.0 {
        spoilt.figures.insert("p99_ratio", p99(&spoilt) / p99(&well));
    }
    spoilt.figures.insert("refusals", spoilt.fleet.refusals as f64);
    Ok(vec![well, spoilt])
}

/// Three times one proxy in a hundred, of those that the endpoint concerns as long as there are some.
fn chosen(stage: &Stage<'_>) -> [Vec<usize>; 3] {
    let clients: Vec<usize> = stage.graph.clients_of(stage.graph.busiest()).collect();
    let others = (0..stage.graph.proxies()).filter(|index| !clients.contains(index));
    let mut order = clients.iter().copied().chain(others);
    let share = (stage.graph.proxies() / 100).max(1);
    [(); 3].map(|()| order.by_ref().take(share).collect())
}
