//! Faults 1 and 17 of the design: processes die or stop.
use super::Scene;
use crate::{
    history::{Operation, Written},
    stage::{Stage, percentile},
    wait::until,
};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// The promise of R1: a write resumes within this, at the 99th percentile.
const RESUMES: Duration = Duration::from_secs(1);

/// What a few kills may take at most on a machine that also compiles: eight values have no 99th percentile.
const RESUMES_WHEN_QUICK: Duration = Duration::from_secs(3);

pub fn is_acknowledged(operation: &Operation) -> bool {
    use crate::history::Did;
    matches!(operation.did, Did::Wrote { outcome: Written::Acknowledged(_), .. })
}

/// Waits until so many more writes have been acknowledged: the clients are at work.
pub async fn until_busy(globals: &crate::globals::Globals, more: usize) -> Result<()> {
    let before = globals.recorder.count(is_acknowledged);
    until(&format!("{more} writes to be acknowledged"), || async {
        let count = globals.recorder.count(is_acknowledged) - before;
        ensure!(count >= more, "{count}");
        Ok(())
    })
    .await
}

pub async fn leaders(stage: &mut Stage) -> Result<Scene> {
    let rounds = if stage.quick { 8 } else { 50 };
    let limit = if stage.quick { RESUMES_WHEN_QUICK } else { RESUMES };
    let globals = stage.globals(3).await?;
    let load = globals.load();
    let mut resumed = Vec::new();
    for _ in 0..rounds {
        until_busy(globals, 10).await?;
        let leader = globals.leader().await?;
        globals.kill_node(leader)?;
        let survivors: Vec<usize> = (0..globals.nodes.len()).filter(|at| *at != leader).collect();
        resumed.push(globals.until_written(Instant::now(), &survivors).await?);
        globals.start_node(leader).await?;
        globals.until_whole().await?;
    }
    load.stop().await;
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(&resumed, share).as_secs_f64() * 1e3);
    for (name, value) in [("p50", p50), ("p99", p99), ("max", max)] {
        stage.figures.insert(format!("resume_after_leader_death_{name}_ms"), value.round());
    }
    stage.figures.insert("leader_kills".to_owned(), f64::from(rounds));
    let said =
        format!("{rounds} kills; a write resumed after p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms");
    ensure!(p99 <= limit.as_secs_f64() * 1e3, "{said}: more than {} ms", limit.as_millis());
    Ok(Scene::Played(said))
}

pub async fn everybody(stage: &mut Stage) -> Result<Scene> {
    let rounds = if stage.quick { 2 } else { 10 };
    let globals = stage.globals(3).await?;
    for _ in 0..rounds {
        let load = globals.load();
        until_busy(globals, 30).await?;
        for at in 0..3 {
            globals.kill_node(at)?;
        }
        for at in 0..3 {
            globals.spawn_node(at)?;
        }
        globals.until_whole().await?;
        until_busy(globals, 5).await?;
        load.stop().await;
        globals.audit().await?;
    }
    Ok(Scene::Played(format!("{rounds} times all three at once")))
}

pub async fn paused_leader(stage: &mut Stage) -> Result<Scene> {
    let rounds = if stage.quick { 2 } else { 10 };
    let globals = stage.globals(3).await?;
    let load = globals.load();
    let mut resumed = Vec::new();
    for _ in 0..rounds {
        until_busy(globals, 10).await?;
        let leader = globals.leader().await?;
        globals.nodes[leader].control_plane.pause()?;
        let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
        resumed.push(globals.until_written(Instant::now(), &others).await?);
        globals.nodes[leader].control_plane.resume()?;
        // It hears of the new term before it is trusted again; a linearizable read at once is the trap.
        let door = globals.nodes[leader].door();
        for register in 0..4 {
            let key = format!("register-{register}");
            globals.client().get(&key, crate::history::ReadKind::Linearizable, &door).await.ok();
        }
        globals.until_whole().await?;
    }
    load.stop().await;
    let longest = percentile(&resumed, 1.0).as_millis();
    Ok(Scene::Played(format!("{rounds} pauses; a write resumed after at most {longest} ms")))
}
