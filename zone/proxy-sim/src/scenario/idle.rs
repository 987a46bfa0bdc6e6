//! Nothing that concerns a proxy happens: nothing at all, writes of status, the same document again.
use super::Stage;
use crate::documents::{self, Document, MESH};
use crate::report::Phase;
use anyhow::{Context as _, Result};
use serde_json::json;
use std::time::{Duration, Instant};

/// Writes in a second.
const RATE: f64 = 100.0;

pub async fn run(stage: &Stage<'_>) -> Result<Vec<Phase>> {
    let nothing = measure(stage, "idle", async || {
        tokio::time::sleep(stage.settings.rest).await;
        Ok(0)
    });
    let mut phases = vec![nothing.await?];
    if let Some(service) = service(stage).await {
        let mut written = 0u32;
        let document = |count: u32| {
            let mut document = service.clone();
            document.body["status"] =
                json!({"dataplaneProxies": {"connected": count, "healthy": count, "total": count}});
            document
        };
        let status = measure(stage, "status writes", async || {
            written = at_rate(stage, document).await?;
            Ok(written)
        });
        phases.push(status.await.context("writes of status")?);
    }
    let same = documents::timeout_of_mesh(20);
    stage.target.api.put(&same).await?;
    stage.settle("the timeout", |_| true).await?;
    let again = measure(stage, "same document", async || at_rate(stage, |_| same.clone()).await);
    phases.push(again.await?);
    Ok(phases)
}

/// The MeshService of the busiest service, without what the API adds; absent where there are none.
async fn service(stage: &Stage<'_>) -> Option<Document> {
    let name = &stage.graph.services[stage.graph.busiest()].name;
    let path = format!("/meshes/{MESH}/meshservices/{name}");
    let mut body = stage.target.api.get(&path).await.ok()?;
    let fields = body.as_object_mut()?;
    for added in ["creationTime", "modificationTime", "revision", "kri", "snis"] {
        fields.remove(added);
    }
    Some(Document { path, body })
}

async fn at_rate(stage: &Stage<'_>, document: impl Fn(u32) -> Document) -> Result<u32> {
    let started = Instant::now();
    let total = ((stage.settings.duration.as_secs_f64() * RATE) as u32).max(1);
    for count in 0..total {
        tokio::time::sleep_until((started + Duration::from_secs_f64(f64::from(count) / RATE)).into()).await;
        stage.target.api.put(&document(count)).await?;
    }
    Ok(total)
}

async fn measure(stage: &Stage<'_>, name: &str, work: impl AsyncFnOnce() -> Result<u32>) -> Result<Phase> {
    let generations = stage.target.generations().await?;
    let meter = stage.meter(name);
    let writes = work().await?;
    let mut phase = stage.measured(meter);
    if let (Some(before), Some(now)) = (generations, stage.target.generations().await?) {
        phase.figures.insert("regenerations", now - before);
    }
    phase.figures.insert("pushes", phase.fleet.responses as f64);
    phase.figures.insert("writes", f64::from(writes));
    phase.figures.insert("cpu_share_of_a_core", phase.cpu_s() / phase.seconds);
    if writes > 0 {
        phase.figures.insert("cpu_us_per_write", phase.cpu_s() * 1e6 / f64::from(writes));
    }
    Ok(phase)
}
