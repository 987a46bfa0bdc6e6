//! The power cut: what is not on the disk is gone. And the disk that hangs (fault 17 of the design).
//!
//! Each node has an ext4 of its own in a loop-mounted file. The processes are stopped where they stand and the files are
//! copied: what the programs wrote and did not flush is in the page cache of those file systems, not in the files. The
//! copies are mounted in the place of the originals, and the nodes are started on them.
use super::{
    Scene,
    kills::{is_acknowledged, until_busy},
    partitions::term,
};
use crate::{
    device::{self, Disk},
    globals::Globals,
    history::check,
    stage::Stage,
};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

const NODES: [&str; 3] = ["one", "two", "three"];

const DISK_MEGABYTES: u64 = 128;

/// Understood by the programs' storage: for this test only.
const NO_FSYNC: &str = "WEFT_UNSAFE_NO_FSYNC";

struct Places {
    dir: PathBuf,
}

impl Places {
    fn image(&self, node: &str, cut: u32) -> PathBuf {
        self.dir.join(format!("{node}.{cut}.img"))
    }

    fn mount(&self, node: &str) -> PathBuf {
        self.dir.join("disks").join(node)
    }

    fn all(&self, disk: impl Fn(&str, &Path) -> Result<Disk>) -> Result<BTreeMap<String, Disk>> {
        NODES.into_iter().map(|node| Ok((node.to_owned(), disk(node, &self.mount(node))?))).collect()
    }
}

/// A cluster on disks that can lose power.
async fn start(stage: &mut Stage, env: BTreeMap<String, String>) -> Result<Places> {
    stage.clear();
    let places = Places { dir: stage.new_dir()? };
    let disks = places.all(|node, place| Disk::ext4(&places.image(node, 0), place, DISK_MEGABYTES))?;
    let programs = stage.programs.clone();
    let home = |node: &str| places.mount(node).join("data");
    let mut globals = Globals::start(&programs, &places.dir, NODES.len(), home, env).await?;
    globals.hold(disks);
    stage.keep(globals);
    Ok(places)
}

/// Under writes, at a random moment. The nodes are down after it, and their disks are what the power cut left.
async fn lose_power(globals: &mut Globals, places: &Places, cut: u32) -> Result<usize> {
    let load = globals.load();
    until_busy(globals, 20).await?;
    let until_cut = Duration::from_millis(rand::random_range(0..700));
    // The moment is the test's own choice: there is nothing to wait for.
    tokio::time::sleep(until_cut).await;
    for node in &mut globals.nodes {
        node.control_plane.pause()?;
    }
    let acknowledged = globals.recorder.count(is_acknowledged);
    for node in NODES {
        globals.disks()[node].copy_to(&places.image(node, cut))?;
    }
    for at in 0..NODES.len() {
        globals.kill_node(at)?;
    }
    // Its clients find nobody any more, and what they wait for is open.
    drop(load);
    drop(globals.release());
    let disks = places.all(|node, place| Disk::mount_image(&places.image(node, cut), place))?;
    for node in NODES {
        std::fs::remove_file(places.image(node, cut - 1)).context("cannot remove the disk of before")?;
    }
    globals.hold(disks);
    Ok(acknowledged)
}

pub async fn cut(stage: &mut Stage) -> Result<Scene> {
    if let Some(why) = device::missing() {
        return Ok(Scene::Skipped(why));
    }
    let rounds = if stage.quick { 3 } else { 20 };
    let places = start(stage, BTreeMap::new()).await?;
    let globals = stage.current()?;
    let mut acknowledged = 0;
    for cut in 1..=rounds {
        acknowledged = lose_power(globals, &places, cut).await?;
        for at in 0..NODES.len() {
            globals.spawn_node(at)?;
        }
        globals.until_whole().await.with_context(|| format!("after power cut {cut}"))?;
        globals.audit().await?;
        let verdict = check(&globals.recorder.so_far());
        ensure!(verdict.is_good(), "after power cut {cut}: {verdict}");
    }
    Ok(Scene::Played(format!("{rounds} power cuts; {acknowledged} acknowledged writes are all there")))
}

pub async fn stalled_disk(stage: &mut Stage) -> Result<Scene> {
    if let Some(why) = device::missing() {
        return Ok(Scene::Skipped(why));
    }
    let stall = Duration::from_secs(if stage.quick { 2 } else { 5 });
    start(stage, BTreeMap::new()).await?;
    let globals = stage.current()?;
    let load = globals.load();
    let mut said = Vec::new();
    for (who, elections_max) in [("a follower", 0), ("the leader", 1)] {
        until_busy(globals, 20).await?;
        let leader = globals.leader().await?;
        let before = term(globals).await?;
        let at = if who == "the leader" { leader } else { (leader + 1) % NODES.len() };
        let count = globals.recorder.count(is_acknowledged);
        let stalled = globals.disks()[&globals.nodes[at].name].stall()?;
        // So long the disk hangs, whatever comes.
        tokio::time::sleep(stall).await;
        let meanwhile = globals.recorder.count(is_acknowledged) - count;
        drop(stalled);
        until_busy(globals, 20).await?;
        globals.until_whole().await?;
        let elections = term(globals).await? - before;
        said.push(format!(
            "the disk of {who} hung for {} s: {meanwhile} writes meanwhile, {elections} elections",
            stall.as_secs()
        ));
        ensure!(elections <= elections_max, "{}", said.join(", "));
        ensure!(who == "the leader" || meanwhile > 0, "a follower's disk held up all writes");
    }
    load.stop().await;
    Ok(Scene::Played(said.join(", ")))
}

pub async fn cut_without_fsync(stage: &mut Stage) -> Result<Scene> {
    if let Some(why) = device::missing() {
        return Ok(Scene::Skipped(why));
    }
    let env = BTreeMap::from([(NO_FSYNC.to_owned(), "1".to_owned())]);
    let places = start(stage, env).await?;
    let globals = stage.current()?;
    // The cluster itself is to survive: only what comes from now on is at risk.
    for disk in globals.disks().values() {
        disk.sync()?;
    }
    let acknowledged = lose_power(globals, &places, 1).await?;
    for at in 0..NODES.len() {
        globals.spawn_node(at)?;
    }
    let caught = match globals.until_whole().await {
        // That the nodes do not come back at all is as good a sign.
        Err(error) => format!("the nodes do not come back: {error:#}").chars().take(400).collect(),
        Ok(()) => {
            globals.audit().await?;
            let verdict = check(&globals.recorder.so_far());
            ensure!(
                verdict.lost() > 0,
                "without fsync nothing was lost of {acknowledged} acknowledged writes: the test cannot notice it"
            );
            format!("{} of {acknowledged} acknowledged writes are lost, and the test says so", verdict.lost())
        }
    };
    // What is lost here was to be lost: it is no verdict on the programs as they run.
    stage.clear();
    Ok(Scene::Played(caught))
}
