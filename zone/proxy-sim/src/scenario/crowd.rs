//! One permission and one route are edited: alone, and again among thousands that concern others. What an edit costs must
//! not grow with those.
use super::Stage;
use super::policy::{Write, rounds};
use crate::documents;
use crate::graph::Graph;
use crate::report::Phase;
use anyhow::Result;

pub async fn run(stage: &Stage<'_>) -> Result<Vec<Phase>> {
    let settings = stage.settings;
    let mut phases = edits(stage, "alone", 0).await?;
    let meter = stage.meter("the crowd is written");
    let pairs = pairs(stage.graph);
    let permissions = pairs.iter().cycle().take(settings.permissions).enumerate();
    let permissions =
        permissions.map(|(number, pair)| documents::permission(settings.style, stage.graph, number, *pair));
    let routes = pairs.iter().cycle().take(settings.routes).enumerate().map(|(number, pair)| {
        documents::route(settings.style, stage.graph, &format!("route-{number:05}"), *pair, 0)
    });
    stage.target.api.put_all(permissions.chain(routes)).await?;
    stage.settle("the crowd", |_| true).await?;
    let mut written = stage.measured(meter);
    written.figures.insert("documents", (settings.permissions + settings.routes) as f64);
    phases.push(written);
    // Other editions than before: the first one must change something too.
    phases.extend(edits(stage, "in the crowd", settings.rounds).await?);
    Ok(phases)
}

async fn edits(stage: &Stage<'_>, where_: &str, first: u32) -> Result<Vec<Phase>> {
    let (graph, style) = (stage.graph, stage.settings.style);
    let called = graph.busiest();
    let caller = graph.services[called].called_by.first().copied().unwrap_or(called);
    let permission = |round: u32| match round % 2 {
        0 => Write::Put(documents::withdrawal(style, graph, called)),
        _ => Write::Delete(documents::withdrawal(style, graph, called)),
    };
    let route =
        |round: u32| Write::Put(documents::route(style, graph, "edited", (caller, called), first + round));
    let instances = |service: usize| graph.services[service].instances.len();
    let phases = vec![
        rounds(stage, &format!("a permission {where_}"), instances(called), permission).await?,
        rounds(stage, &format!("a route {where_}"), instances(caller), route).await?,
    ];
    // An odd number of rounds leaves the permission withdrawn.
    if stage.settings.rounds % 2 == 1 {
        stage.target.api.delete(&documents::withdrawal(style, graph, called).path).await?;
        stage.settle("the permission is back", |_| true).await?;
    }
    Ok(phases)
}

/// Every caller with every service that it calls, but the pair that is edited.
fn pairs(graph: &Graph) -> Vec<(usize, usize)> {
    let edited = graph.busiest();
    let all = graph.services.iter().enumerate();
    let pairs = all.flat_map(|(caller, service)| service.calls.iter().map(move |called| (caller, *called)));
    pairs.filter(|(_, called)| *called != edited).collect()
}
