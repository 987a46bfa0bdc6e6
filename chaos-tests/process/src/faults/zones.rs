//! Faults 7 to 9, 11 and 12 of the design: the links of zones.
use super::{
    Scene,
    kills::until_busy,
    partitions::{with_zones, write_one},
};
use crate::{
    globals::Globals,
    history::ReadKind,
    http,
    process::{Launch, last_lines},
    stage::Stage,
    wait::{until, until_within},
    workload::{Plan, Workload},
};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use std::{
    fmt, fs,
    time::{Duration, Instant},
};

/// A link without a sign of life for longer is found dead: two beats of a second, and a look every half.
const FOUND_WITHIN: Duration = Duration::from_secs(6);

pub async fn cut_off_and_restarted(stage: &mut Stage) -> Result<Scene> {
    let globals = stage.globals(3).await?;
    with_zones(globals, &["east"]).await?;
    let seconds = cut_and_return(globals, 40).await?;
    Ok(Scene::Played(format!(
        "40 writes and a restart behind, by entries; it had all {seconds:.1} s after the healing"
    )))
}

/// More was written than the log keeps: what is missing comes as a snapshot. The zone, and then a new node, are killed
/// while they take it.
pub async fn snapshots(stage: &mut Stage) -> Result<Scene> {
    let globals = stage.globals(3).await?;
    with_zones(globals, &["east"]).await?;
    globals.cut_zone("east", true);
    write_until_the_log_is_cut(globals).await?;
    let last = globals.client().new_key();
    write_one(globals, &last).await?;
    globals.cut_zone("east", false);
    for _ in 0..CRASHES {
        some_moment().await;
        globals.zone_mut("east")?.kill()?;
        globals.spawn_zone("east")?;
    }
    globals.until_zone_has("east", &last).await?;
    let door = globals.zone_door("east")?;
    globals.client().audit(ReadKind::Stale, &door).await?;

    let load = globals.load();
    let leader = globals.leader().await?;
    let at = (leader + 1) % 3;
    globals.kill_node(at)?;
    fs::remove_dir_all(globals.nodes[at].data_dir().join("raft")).context("cannot wipe a disk")?;
    globals.rejoin(at).await?;
    for _ in 0..CRASHES {
        some_moment().await;
        globals.kill_node(at)?;
        globals.spawn_node(at)?;
    }
    globals.until_whole().await?;
    load.stop().await;
    Ok(Scene::Played(format!(
        "a zone and a node that was wiped got a snapshot, killed {CRASHES} times each while they took it"
    )))
}

const CRASHES: u32 = 5;

/// A snapshot takes some time on its way, and nobody tells when it comes.
async fn some_moment() {
    tokio::time::sleep(Duration::from_millis(rand::random_range(50..700))).await;
}

/// Entries after which the log has been cut behind whoever was away: one snapshot is made, and fewer are kept.
const BEYOND_THE_LOG: u64 = 8_000;

const LONG: Duration = Duration::from_secs(300);

async fn write_until_the_log_is_cut(globals: &Globals) -> Result<()> {
    let index = async || {
        let leader = globals.leader().await?;
        let view = globals.view(leader).await?;
        let last = view.nodes.iter().filter_map(|node| node.last_index).max();
        last.context("no node tells how long its log is")
    };
    let goal = index().await? + BEYOND_THE_LOG;
    // One entry per write: those that come together would be one.
    let load = Workload::start(
        Plan { writers: 6, readers: 1, pause: Duration::ZERO },
        &globals.doors,
        &globals.recorder,
    );
    until_within(LONG, "the log to grow", || async {
        let index = index().await?;
        ensure!(index >= goal, "{index} of {goal}");
        Ok(())
    })
    .await?;
    load.stop().await;
    Ok(())
}

async fn cut_and_return(globals: &mut Globals, writes: usize) -> Result<f64> {
    let mut client = globals.client();
    let key = client.new_key();
    let before = write_one(globals, &key).await?;
    globals.until_zone_has("east", &key).await?;
    globals.cut_zone("east", true);
    let load = globals.load();
    until_busy(globals, writes).await?;
    globals.zone_mut("east")?.kill()?;
    globals.start_zone("east").await?;
    let door = globals.zone_door("east")?;
    let found = client.get(&key, ReadKind::Stale, &door).await?;
    ensure!(found.is_some_and(|found| found.revision == before), "east does not serve what it had");
    load.stop().await;
    let last = client.new_key();
    write_one(globals, &last).await?;
    ensure!(client.get(&last, ReadKind::Stale, &door).await?.is_none(), "east was not cut off");
    globals.cut_zone("east", false);
    let begin = Instant::now();
    globals.until_zone_has("east", &last).await?;
    let seconds = begin.elapsed().as_secs_f64();
    globals.client().audit(ReadKind::Stale, &door).await?;
    Ok(seconds)
}

/// How many times the link of a zone was opened, as a global node counts it.
async fn subscriptions(globals: &Globals, zone: &str) -> Result<usize> {
    let overview: Value =
        http::get(globals.nodes[0].control_plane.api, "/zones/_overview").await?.good()?.json()?;
    let items = overview["items"].as_array().context("an overview has items")?;
    let mine = items.iter().find(|item| item["name"] == zone).context("the zone is in the overview")?;
    Ok(mine["zoneInsight"]["subscriptions"].as_array().map_or(0, Vec::len))
}

pub async fn one_link_breaks(stage: &mut Stage) -> Result<Scene> {
    let rounds = if stage.quick { 3 } else { 15 };
    let globals = stage.globals(3).await?;
    with_zones(globals, &["east", "west"]).await?;
    let before = subscriptions(globals, "west").await?;
    let load = globals.load();
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds {
        globals.cut_zone("east", true);
        globals.network.break_all_of(["east"]);
        let key = globals.client().new_key();
        write_one(globals, &key).await?;
        let begin = Instant::now();
        globals.until_zone_has("west", &key).await?;
        slowest = slowest.max(begin.elapsed());
        globals.cut_zone("east", false);
        globals.until_zone_has("east", &key).await?;
    }
    load.stop().await;
    let after = subscriptions(globals, "west").await?;
    ensure!(before == after, "the link of west was opened {after} times, {before} before");
    Ok(Scene::Played(format!(
        "{rounds} breaks of east; west kept its one link and had each write within {} ms",
        slowest.as_millis()
    )))
}

pub async fn half_open(stage: &mut Stage) -> Result<Scene> {
    let globals = stage.globals(3).await?;
    with_zones(globals, &["east"]).await?;
    let is_online = async |online: bool| {
        until_within(Duration::from_secs(30), &format!("east to be online: {online}"), || async {
            let zones = globals.online_zones(0).await?;
            ensure!(zones.contains("east") == online, "{zones:?}");
            Ok(())
        })
        .await
    };
    is_online(true).await?;
    // Nothing is closed and nothing arrives.
    globals.cut_zone("east", true);
    let begin = Instant::now();
    is_online(false).await?;
    let found = begin.elapsed();
    ensure!(found <= FOUND_WITHIN, "a dead link was shown as online for {} ms", found.as_millis());
    globals.cut_zone("east", false);
    let begin = Instant::now();
    is_online(true).await?;
    let back = begin.elapsed();
    stage.figures.insert("half_open_link_found_ms".to_owned(), found.as_millis() as f64);
    Ok(Scene::Played(format!(
        "found after {} ms, dialled again after {} ms",
        found.as_millis(),
        back.as_millis()
    )))
}

pub async fn two_of_one_name(stage: &mut Stage) -> Result<Scene> {
    let globals = stage.globals(3).await?;
    with_zones(globals, &["east"]).await?;
    // Another zone, with a disk of its own, that was given the first one's name and token.
    let mut launch = globals.zone_mut("east")?.launch_mut().clone();
    let impostor_dir = globals.dir.join("impostor");
    let mut ports = Vec::new();
    for at in 1..launch.args.len() {
        let flag = launch.args[at - 1].to_string_lossy().into_owned();
        if flag == "--data-dir" {
            launch.args[at] = impostor_dir.clone().into_os_string();
        }
        if matches!(flag.as_str(), "--api-bind" | "--xds-bind" | "--diagnostics-bind") {
            let address = format!("127.0.0.1:{}", crate::ports::free(&["127.0.0.1".parse()?]));
            launch.args[at] = address.clone().into();
            ports.push(address);
        }
    }
    "impostor".clone_into(&mut launch.name);
    launch.log = globals.dir.join("impostor.log");
    let impostor = launch.start()?;
    globals.network.owns("impostor", impostor.id());
    let said = until("the second zone to be told", || async {
        let log = fs::read_to_string(&launch.log)?;
        let line = log.lines().find(|line| line.contains("east") && is_refusal(line));
        line.map(str::to_owned).context("its log tells nothing yet")
    })
    .await?;
    let at_global = until("global to tell it too", || async {
        let logs = globals.nodes.iter().map(|node| fs::read_to_string(node.control_plane.log()));
        let logs: Vec<String> = logs.collect::<Result<_, _>>()?;
        let mut lines = logs.iter().flat_map(|log| log.lines());
        lines
            .find(|line| line.contains("refused") && line.contains("east"))
            .map(str::to_owned)
            .context("no log of global tells it")
    })
    .await?;
    let key = globals.client().new_key();
    write_one(globals, &key).await?;
    globals.until_zone_has("east", &key).await?;
    ensure!(!at_global.is_empty());
    drop(impostor);
    let reason = said.split_once("reason=").map_or(said.as_str(), |(_, reason)| reason);
    Ok(Scene::Played(format!("the second is told: {}", reason.chars().take(160).collect::<String>())))
}

fn is_refusal(line: &str) -> bool {
    ["another zone", "rebind", "refused", "bound to"].iter().any(|word| line.contains(word))
}

/// In a quick run, and in a long one: as many as two cores carry beside three nodes when nothing is optimized. A hundred
/// come at once in the bench of zones.
const ZONES: (u32, u32) = (20, 40);

/// Time for that on a slow machine.
const STORM_PATIENCE: Duration = Duration::from_secs(300);

/// What `write-load zones` tells of the storms, as far as it is judged here.
#[derive(Deserialize)]
struct Storm {
    zones: u32,
    following_s: f64,
    before: Writes,
    during: Writes,
}

#[derive(Deserialize)]
struct Writes {
    count: u32,
    mean_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Writes { count, mean_ms, p50_ms, p99_ms } = self;
        write!(f, "{count} writes: mean {mean_ms:.0} ms, p50 {p50_ms:.0} ms, p99 {p99_ms:.0} ms")
    }
}

/// The zones are simulated, all in one process, but for their disks and their links.
pub async fn all_reconnect(stage: &mut Stage) -> Result<Scene> {
    let count = if stage.quick { ZONES.0 } else { ZONES.1 };
    let globals = stage.globals(3).await?;
    let leader = globals.leader().await?;
    let term = async |globals: &Globals| -> Result<Option<u64>> {
        Ok(globals.view(leader).await?.nodes.iter().filter_map(|node| node.term).max())
    };
    let before = term(globals).await?;
    let seed = &globals.nodes[leader];
    let first = globals.nodes.iter().map(|node| node.data_dir().join("admin-token"));
    let token_file = first.into_iter().find(|file| file.exists()).context("no node has the first token")?;
    let launch = Launch::new("simulated", &globals.programs.write_load, &globals.dir)
        .arg("zones")
        .flag("--target", format!("http://{}", seed.control_plane.api))
        .flag("--link", seed.link_url())
        .flag("--ca-file", seed.data_dir().join("tls").join("ca.crt"))
        .flag("--token-file", token_file)
        .flag("--dir", globals.dir.join("simulated"))
        .flag("--name", "simulated")
        .flag("--count", count.to_string())
        .flag("--reconnect", "3")
        .flag("--calm", "2");
    // Some clients whose reads and writes are judged, all the while.
    let plan = Plan { writers: 1, readers: 1, pause: Duration::from_millis(100) };
    let load = Workload::start(plan, &globals.doors, &globals.recorder);
    let mut zones = launch.start()?;
    globals.network.owns("simulated", zones.id());
    let begin = Instant::now();
    let ended = loop {
        if let Some(ended) = zones.ended() {
            break ended;
        }
        ensure!(
            begin.elapsed() < STORM_PATIENCE,
            "the zones are not through: {}",
            last_lines(&launch.log, 2)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    ensure!(ended.success(), "the zones ended with {ended}: {}", last_lines(&launch.log, 4));
    load.stop().await;
    let log = fs::read_to_string(&launch.log)?;
    let told = log.lines().find(|line| line.contains(r#""what":"reconnect""#));
    let storm: Storm = serde_json::from_str(told.context("the zones tell nothing of a storm")?)?;
    let after = term(globals).await?;
    let Storm { zones, following_s, before: calm, during } = storm;
    let slowdown = during.mean_ms / calm.mean_ms;
    stage.figures.insert("zones_reconnecting_at_once".to_owned(), f64::from(zones));
    stage.figures.insert("zones_follow_again_s".to_owned(), following_s);
    stage
        .figures
        .insert("write_slowdown_while_zones_reconnect".to_owned(), (slowdown * 100.0).round() / 100.0);
    let said = format!(
        "{zones} zones follow again after {following_s:.1} s; before, {calm}; meanwhile, {during}: {slowdown:.2} times"
    );
    ensure!(slowdown <= 2.0, "{said}");
    ensure!(before == after, "an election: term {before:?} became {after:?}; {said}");
    Ok(Scene::Played(said))
}
