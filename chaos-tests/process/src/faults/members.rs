//! Fault 5 of the design: the set of nodes changes while other things go wrong.
use super::{Scene, kills::until_busy};
use crate::{
    globals::Globals,
    http,
    stage::Stage,
    wait::{until, until_within},
};
use anyhow::{Context, Result, bail, ensure};
use hyper::Method;
use std::{
    fs,
    time::{Duration, Instant},
};

/// The id under which the cluster knows a node.
async fn id_of(globals: &Globals, at: usize) -> Result<String> {
    let leader = globals.leader().await?;
    let view = globals.view(leader).await?;
    let address = globals.nodes[at].peers.to_string();
    let found = view.nodes.into_iter().find(|node| node.address == address);
    found.map(|node| node.node).with_context(|| format!("{} is no member", globals.nodes[at].name))
}

/// A leader is not removed: it hands over to whoever takes it.
async fn hand_over(globals: &Globals, from: usize, to: &[usize]) -> Result<()> {
    let mut why = String::new();
    for target in to {
        let path = format!("/_cluster/nodes/{}/transfer-leadership", id_of(globals, *target).await?);
        let api = globals.nodes[from].control_plane.api;
        match http::call(api, Method::POST, &path, Default::default()).await {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) => why = format!("status {}: {}", answer.status, answer.text()),
            Err(error) => why = format!("{error:#}"),
        }
    }
    bail!("nobody takes the leadership over: {why}")
}

/// Takes a node out of the cluster and ends it.
pub async fn remove_node(globals: &mut Globals, at: usize) -> Result<()> {
    let id = id_of(globals, at).await?;
    until_within(Duration::from_secs(30), "the removal of a node", || async {
        let leader = globals.leader().await?;
        // The leader, or whoever lives beside it: what it is asked it passes on.
        let mut others: Vec<usize> = (0..globals.nodes.len()).filter(|other| *other != at).collect();
        if leader == at {
            hand_over(globals, at, &others).await?;
        }
        others.sort_by_key(|other| *other != leader);
        let path = format!("/_cluster/nodes/{id}");
        let mut why = String::new();
        for other in others {
            let api = globals.nodes[other].control_plane.api;
            match http::call(api, Method::DELETE, &path, Default::default()).await {
                Ok(answer) if matches!(answer.status, 200..300 | 404) => return Ok(()),
                Ok(answer) => why = format!("status {}: {}", answer.status, answer.text()),
                Err(error) => why = format!("{error:#}"),
            }
        }
        bail!("{why}")
    })
    .await?;
    globals.kill_node(at)?;
    globals.nodes.remove(at);
    globals.publish_doors();
    Ok(())
}

pub async fn change_under_faults(stage: &mut Stage) -> Result<Scene> {
    let globals = stage.globals(3).await?;
    let load = globals.load();
    until_busy(globals, 10).await?;
    // Two come, and the leader dies while they are taken in. A fourth alone would not get a vote: four bear no more
    // failures than three.
    for name in ["four", "five"] {
        let home = globals.dir.join(format!("{name}-{}", globals.recorder.count(|_| true)));
        globals.spawn_joining(name, &home).await?;
    }
    until("the two to be known", || async {
        let leader = globals.leader().await?;
        let view = globals.view(leader).await?;
        ensure!(view.nodes.len() == 5, "{view:?}");
        Ok(())
    })
    .await?;
    let leader = globals.leader().await?;
    globals.kill_node(leader)?;
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    globals.until_written(Instant::now(), &others).await?;
    globals.start_node(leader).await?;
    for at in [3, 4] {
        globals.nodes[at].control_plane.until_ready().await?;
    }
    globals.until_whole().await?;
    until_busy(globals, 10).await?;
    // They go again, while one of the others is down.
    let leader = globals.leader().await?;
    let down = (0..3).find(|at| *at != leader).context("three nodes have a follower")?;
    globals.kill_node(down)?;
    remove_node(globals, 4).await?;
    remove_node(globals, 3).await?;
    until_busy(globals, 10).await?;
    globals.start_node(down).await?;
    globals.until_whole().await?;
    // The leadership is handed over under writes.
    let leader = globals.leader().await?;
    let target = (leader + 1) % 3;
    let path = format!("/_cluster/nodes/{}/transfer-leadership", id_of(globals, target).await?);
    let answer =
        http::call(globals.nodes[leader].control_plane.api, Method::POST, &path, Default::default()).await?;
    ensure!(answer.status == 200, "a transfer was answered {}: {}", answer.status, answer.text());
    until("the leadership to be handed over", || async {
        ensure!(globals.leader().await? == target, "another one leads");
        Ok(())
    })
    .await?;
    until_busy(globals, 10).await?;
    load.stop().await;
    Ok(Scene::Played(
        "two joined while the leader died, and left while another was down; the leadership was handed over"
            .into(),
    ))
}

pub async fn wiped_node(stage: &mut Stage) -> Result<Scene> {
    let globals = stage.globals(3).await?;
    let load = globals.load();
    until_busy(globals, 20).await?;
    let leader = globals.leader().await?;
    let wiped = (leader + 1) % 3;
    let before = id_of(globals, wiped).await?;
    globals.kill_node(wiped)?;
    fs::remove_dir_all(globals.nodes[wiped].data_dir().join("raft")).context("cannot wipe a disk")?;
    // It is no member any more, and does not take itself for one or for a cluster of its own.
    globals.spawn_node(wiped)?;
    let control_plane = &mut globals.nodes[wiped].control_plane;
    let begin = Instant::now();
    let ended = loop {
        if let Some(ended) = control_plane.ended() {
            break Some(ended);
        }
        if begin.elapsed() > Duration::from_secs(25) {
            break None;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let ended = ended.context("a node without its disk goes on without a new token")?;
    ensure!(!ended.success(), "a node without its disk ended well");
    globals.rejoin(wiped).await?;
    globals.until_whole().await?;
    let after = id_of(globals, wiped).await?;
    ensure!(before != after, "the node came back under its old id {before}");
    until_busy(globals, 10).await?;
    load.stop().await;
    Ok(Scene::Played(format!("{before} lost its disk and came back as {after}")))
}
