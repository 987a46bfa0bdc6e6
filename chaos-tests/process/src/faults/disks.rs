//! Faults 13 and 14 of the design: disks that lie and disks that are full.
use super::{Scene, kills::until_busy, partitions::write_one};
use crate::{
    client::path_of,
    device::{self, Disk},
    globals::Globals,
    http,
    process::last_lines,
    stage::Stage,
    wait::until,
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What is done to a node's files while it is down.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// One bit at this part of the file's length.
    Flip(f64),
    /// The file ends at this part of its length.
    Truncate(f64),
}

impl Damage {
    fn apply(self, file: &Path) -> Result<()> {
        let open = OpenOptions::new().read(true).write(true).open(file);
        let open = open.with_context(|| format!("cannot open {}", file.display()))?;
        let length = open.metadata()?.len();
        match self {
            Damage::Flip(part) => {
                let place = (length as f64 * part) as u64;
                let mut byte = [0];
                open.read_exact_at(&mut byte, place)?;
                byte[0] ^= 1 << rand::random_range(0..8);
                open.write_all_at(&byte, place)?;
            }
            Damage::Truncate(part) => open.set_len((length as f64 * part) as u64)?,
        }
        Ok(())
    }
}

pub async fn damaged(stage: &mut Stage) -> Result<Scene> {
    let quick = stage.quick;
    let globals = stage.globals(3).await?;
    let mut cases: Vec<(&str, Damage)> = vec![
        ("raft/db/db", Damage::Flip(rand::random_range(0.0..0.2))),
        ("raft/db/db", Damage::Truncate(rand::random_range(0.05..0.3))),
        ("raft/durable", Damage::Flip(0.05)),
        ("raft/identity.json", Damage::Truncate(0.5)),
    ];
    if !quick {
        for _ in 0..15 {
            cases.push(("raft/db/db", Damage::Flip(rand::random_range(0.0..1.0))));
            cases.push(("raft/db/db", Damage::Truncate(rand::random_range(0.0..1.0))));
        }
        for _ in 0..5 {
            cases.push(("raft/snapshot", Damage::Flip(rand::random_range(0.0..1.0))));
            cases.push(("raft/snapshot", Damage::Truncate(rand::random_range(0.0..1.0))));
        }
    }
    let load = globals.load();
    let (mut refused, mut harmless, mut absent) = (0, 0, 0);
    for (file, damage) in cases {
        until_busy(globals, 15).await?;
        let leader = globals.leader().await?;
        let at = (leader + rand::random_range(0..3)) % 3;
        globals.kill_node(at)?;
        let path = globals.nodes[at].data_dir().join(file);
        if !path.exists() {
            absent += 1;
            globals.start_node(at).await?;
            globals.until_whole().await?;
            continue;
        }
        damage.apply(&path)?;
        globals.spawn_node(at)?;
        match ends_or_is_ready(globals, at).await? {
            // What it answers from now on is judged like all else.
            None => harmless += 1,
            Some(said) => {
                let names_it = ["damaged", "checksum", "cannot read", "is lost", "cannot be recovered"];
                ensure!(
                    names_it.iter().any(|word| said.contains(word)),
                    "{damage:?} of {file}: the node ended and its reason is not clear: {said}"
                );
                refused += 1;
                fs::remove_dir_all(globals.nodes[at].data_dir().join("raft"))?;
                globals.rejoin(at).await?;
            }
        }
        globals.until_whole().await?;
    }
    load.stop().await;
    let mut said =
        format!("{refused} refused with a reason and replaced, {harmless} hit nothing that counts");
    if absent > 0 {
        said += &format!(", {absent} had no snapshot yet");
    }
    ensure!(refused > 0, "no damage was noticed at all: {said}");
    Ok(Scene::Played(said))
}

/// Waits until a node that was just started serves, or has ended: then with its last words.
async fn ends_or_is_ready(globals: &mut Globals, at: usize) -> Result<Option<String>> {
    let begin = Instant::now();
    loop {
        let control_plane = &mut globals.nodes[at].control_plane;
        if let Some(status) = control_plane.ended() {
            ensure!(!status.success(), "a node with a damaged disk ended as if all were well");
            return Ok(Some(last_lines(control_plane.log(), 2)));
        }
        let ready = http::get(control_plane.diagnostics, "/readyz").await;
        if ready.is_ok_and(|answer| answer.status == 200) {
            return Ok(None);
        }
        if begin.elapsed() > Duration::from_secs(40) {
            bail!(
                "a node with a damaged disk neither serves nor ends: {}",
                last_lines(control_plane.log(), 3)
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Room of each node's disk: some for its data, and the reserve that it keeps.
const SMALL_DISK_MEGABYTES: u64 = 192;

/// A file that takes what is left of a disk.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(disk: &Disk) -> Result<Ballast> {
        let path = disk.place.join("ballast");
        let mut file = fs::File::create(&path)?;
        let zeros = vec![0; 1 << 20];
        // Until it is full: large pieces first, then single ones.
        for piece in [zeros.len(), 4096, 1] {
            while file.write_all(&zeros[..piece]).is_ok() {}
        }
        Ok(Ballast(path))
    }
}

pub async fn full(stage: &mut Stage) -> Result<Scene> {
    if let Some(why) = device::missing() {
        return Ok(Scene::Skipped(why));
    }
    stage.clear();
    let dir = stage.new_dir()?;
    let place = |name: &str| dir.join("disks").join(name);
    let disks: BTreeMap<String, Disk> = ["one", "two", "three"]
        .into_iter()
        .map(|name| Ok((name.to_owned(), Disk::in_memory(&place(name), SMALL_DISK_MEGABYTES)?)))
        .collect::<Result<_>>()?;
    let programs = stage.programs.clone();
    let globals =
        Globals::start(&programs, &dir, 3, |name| place(name).join("data"), BTreeMap::new()).await?;
    let globals = stage.keep(globals);
    globals.hold(disks);
    let load = globals.load();
    until_busy(globals, 20).await?;

    // One follower's disk: the other two go on.
    let leader = globals.leader().await?;
    let follower = (leader + 1) % 3;
    let ballast = Ballast::fill(&globals.disks()[&globals.nodes[follower].name])?;
    until_busy(globals, 30).await?;
    fs::remove_file(&ballast.0)?;
    until("the follower to catch up", || async { globals.until_whole().await }).await?;

    // All of them: nothing is acknowledged, all goes on to be served, nobody ends.
    let ballasts: Vec<Ballast> = globals.disks().values().map(Ballast::fill).collect::<Result<_>>()?;
    let refusal = until("a write to be refused", || async {
        let body = serde_json::json!({"type": "Mesh", "name": "never"}).to_string().into();
        let api = globals.nodes[leader].control_plane.api;
        let answer = http::call(api, hyper::Method::PUT, "/meshes/never", body).await?;
        ensure!(answer.status >= 500, "a write was answered {}", answer.status);
        Ok(answer)
    })
    .await?;
    for node in &globals.nodes {
        let path = format!("{}?consistency=stale", path_of("register-0"));
        let read = http::get(node.control_plane.api, &path).await?;
        ensure!(matches!(read.status, 200 | 404), "{} does not serve: {}", node.name, read.status);
    }
    for ballast in ballasts {
        fs::remove_file(&ballast.0)?;
    }
    let begin = Instant::now();
    let key = globals.client().new_key();
    write_one(globals, &key).await.context("after there was room again")?;
    let seconds = begin.elapsed().as_secs_f64();
    for node in &mut globals.nodes {
        ensure!(node.control_plane.is_running(), "{} has ended: it was to wait for room", node.name);
    }
    globals.until_whole().await?;
    until_busy(globals, 20).await?;
    load.stop().await;
    Ok(Scene::Played(format!(
        "a full follower disturbs nobody; with all full a write is answered {}: {}; {seconds:.1} s after there was room a \
         write was taken, no process was restarted",
        refusal.status,
        refusal.text().chars().take(200).collect::<String>()
    )))
}
