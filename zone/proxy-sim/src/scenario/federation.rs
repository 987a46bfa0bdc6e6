//! A global control plane and zones that follow it. Documents are written to global; every zone has proxies of the same
//! graph.
use super::{Federation, Settings, Stage};
use crate::documents;
use crate::fleet::Door;
use crate::graph::Graph;
use crate::launch::{Launched, Program};
use crate::report::Phase;
use crate::target::{Address, Api, Entry, Target};
use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often it is looked whether a zone is as far as it should be.
const LOOK: Duration = Duration::from_millis(5);
/// The newest revision of global that a zone holds.
const FOLLOWED: &str = "weft_zone_followed_revision";

/// Starts all, and returns when the proxies of every zone can get in.
pub async fn attach(
    settings: &Settings,
    federation: &Federation,
    zone_cp: &Path,
    graph: &Graph,
) -> Result<(Target, Vec<Door>)> {
    let global = Launched::start(Program::Global(federation.global.clone())).await?;
    let at_global = global.address();
    let mut target = Target::attach(at_global.clone(), Some(global)).await?;
    for document in documents::common(settings.style) {
        target.api.put(&document).await?;
    }
    let mut doors = Vec::new();
    for number in 0..federation.zones {
        let zone = follow(&target.api, &at_global, zone_cp, number).await?;
        // What a proxy needs is of its zone; its token is of global.
        let address = Address { api: at_global.api.clone(), ..zone.address() };
        target.zones.push(zone);
        let door = Target::attach(address, None).await?;
        let entry = until_open(settings, &door, &graph.in_zone(number)).await?;
        doors.push(Door { dial: door.dial, entry });
    }
    Ok((target, doors))
}

async fn follow(api: &Api, global: &Address, zone_cp: &Path, number: usize) -> Result<Launched> {
    let zone = format!("zone-{number:03}");
    let token = api.zone_token(&zone).await?.to_string();
    let ca_file = global.ca_file.clone().context("global has no authority")?;
    let global = global.xds.clone();
    Launched::start(Program::Follower { path: zone_cp.to_owned(), zone, global, ca_file, token }).await
}

/// A zone lets nobody in before it has the mesh.
async fn until_open(settings: &Settings, door: &Target, graph: &Graph) -> Result<Entry> {
    let end = Instant::now() + settings.deadline;
    loop {
        match door.enter(settings.style, graph, settings.protocol).await {
            Ok(entry) => return Ok(entry),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Returns when every zone holds what was written to global.
pub async fn level(target: &Target, patience: Duration) -> Result<()> {
    for zone in &target.zones {
        until_holds(zone, target.api.revision() as f64, patience).await?;
    }
    Ok(())
}

async fn until_holds(zone: &Launched, revision: f64, patience: Duration) -> Result<()> {
    let end = Instant::now() + patience;
    while zone.metric(FOLLOWED).await? < revision {
        if Instant::now() > end {
            bail!("a zone does not hold revision {revision} within {patience:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Writes documents that concern no proxy, starts one more zone, and measures until it holds all of them.
pub async fn newcomer(stage: &Stage<'_>) -> Result<Phase> {
    let settings = stage.settings;
    let (Some(federation), Some(zone_cp)) = (&settings.federation, &settings.launch) else {
        bail!("there is no global control plane that a zone could join")
    };
    let many = (0..federation.documents).map(|number| documents::bystander(settings.style, number));
    stage.target.api.put_all(many).await?;
    level(&stage.target, settings.deadline).await?;
    let revision = stage.target.api.revision() as f64;
    let meter = stage.meter("newcomer");
    let begun = Instant::now();
    let zone = follow(&stage.target.api, &stage.target.address, zone_cp.as_ref(), stage.zones).await?;
    let started = begun.elapsed();
    until_holds(&zone, revision, settings.deadline).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut phase = stage.measured(meter);
    phase.figures.insert("process_up_s", started.as_secs_f64());
    phase.figures.insert("holds_all_s", seconds);
    phase.figures.insert("documents", federation.documents as f64);
    if let Ok(usage) = crate::usage::Usage::of(zone.pid()) {
        phase.figures.insert("new_zone_cpu_s", usage.cpu_s);
        phase.figures.insert("new_zone_mb", usage.rss_kb as f64 / 1e3);
    }
    Ok(phase)
}
