//! Faults 2 to 4 of the design: nodes that do not hear each other.
use super::{
    Scene,
    kills::{is_acknowledged, until_busy},
};
use crate::{
    client::path_of,
    globals::Globals,
    history::{ReadKind, Written},
    http::{self, Answer},
    network::Loss,
    stage::Stage,
    wait::until,
};
use anyhow::{Result, bail, ensure};
use hyper::Method;
use std::time::{Duration, Instant};

/// More elections than this in one disturbance are a storm.
const TERMS_MAX: u64 = 12;

/// What a node that hears no majority says: of a default read, of a stale one, of a write.
struct Alone {
    read: Answer,
    stale: Answer,
    write: Answer,
}

async fn ask_alone(globals: &Globals, at: usize) -> Result<Alone> {
    let door = globals.nodes[at].door();
    let path = path_of("register-0");
    let stale_path = format!("{path}?consistency=stale");
    // Neither value nor key of the clients: what becomes of it is not judged, only what is answered.
    let body = serde_json::json!({"type": "Mesh", "name": "never"}).to_string().into();
    let (read, stale, write) = tokio::join!(
        http::get(door.api, &path),
        http::get(door.api, &stale_path),
        http::call(door.api, Method::PUT, "/meshes/never", body),
    );
    Ok(Alone { read: read?, stale: stale?, write: write? })
}

impl Alone {
    fn check(&self) -> Result<()> {
        let Alone { read, stale, write } = self;
        ensure!(
            read.status == 503 && read.text().contains("consistency=stale"),
            "a default read without a majority was answered {}: {}",
            read.status,
            read.text()
        );
        // The register may never have been written.
        ensure!(
            matches!(stale.status, 200 | 404),
            "a stale read was answered {}: {}",
            stale.status,
            stale.text()
        );
        ensure!(
            write.status == 503 && write.text().contains("detail"),
            "a write without a majority was answered {}: {}",
            write.status,
            write.text()
        );
        Ok(())
    }
}

/// The term in which the leader leads.
pub async fn term(globals: &Globals) -> Result<u64> {
    let leader = globals.leader().await?;
    let view = globals.view(leader).await?;
    Ok(view.nodes.iter().filter_map(|node| node.term).max().unwrap_or_default())
}

pub async fn isolated_leader(stage: &mut Stage) -> Result<Scene> {
    let globals = stage.globals(3).await?;
    isolate_leader_of(globals, 0).await
}

/// The leader and another one on the one side, three on the other.
pub async fn isolated_two_of_five(stage: &mut Stage) -> Result<Scene> {
    let globals = stage.globals(5).await?;
    isolate_leader_of(globals, 1).await
}

async fn isolate_leader_of(globals: &Globals, with: usize) -> Result<Scene> {
    let load = globals.load();
    until_busy(globals, 10).await?;
    let leader = globals.leader().await?;
    let count = globals.nodes.len();
    let minority: Vec<usize> = (0..=with).map(|step| (leader + step) % count).collect();
    let majority: Vec<usize> = (0..count).filter(|at| !minority.contains(at)).collect();
    for one in &minority {
        for other in &majority {
            globals.network.cut(&globals.nodes[*one].name, &globals.nodes[*other].name);
        }
    }
    let resumed = globals.until_written(Instant::now(), &majority).await?;
    let alone = ask_alone(globals, leader).await?;
    globals.network.heal();
    alone.check()?;
    let view = until("the old leader to follow", || async {
        let view = globals.view(leader).await?;
        let leads = view.nodes.iter().filter(|node| node.role == "leader").count();
        ensure!(leads == 1, "{view:?}");
        Ok(view)
    })
    .await?;
    globals.until_whole().await?;
    until_busy(globals, 10).await?;
    load.stop().await;
    let term = view.nodes.iter().filter_map(|node| node.term).max().unwrap_or_default();
    Ok(Scene::Played(format!(
        "{} of {count} cut off; a write resumed after {} ms; the minority refused reads and writes; term {term} after it",
        minority.len(),
        resumed.as_millis()
    )))
}

pub async fn lost_majority(stage: &mut Stage) -> Result<Scene> {
    let globals = stage.globals(3).await?;
    with_zones(globals, &["east"]).await?;
    let load = globals.load();
    until_busy(globals, 10).await?;
    let mut client = globals.client();
    let key = client.new_key();
    let before = write_one(globals, &key).await?;
    globals.until_zone_has("east", &key).await?;
    globals.kill_node(1)?;
    globals.kill_node(2)?;
    // The clients go on; none of their writes may be acknowledged while it is so.
    until("no majority to be noticed", || async {
        match http::get(globals.nodes[0].control_plane.api, &path_of("register-0")).await?.status {
            503 => Ok(()),
            status => bail!("a default read was answered {status}"),
        }
    })
    .await?;
    let count = globals.recorder.count(is_acknowledged);
    ask_alone(globals, 0).await?.check()?;
    ensure!(globals.recorder.count(is_acknowledged) == count, "a write was acknowledged without a majority");
    // The zone serves what it has, and does so after a restart too.
    globals.zone_mut("east")?.kill()?;
    globals.start_zone("east").await?;
    let door = globals.zone_door("east")?;
    let found = client.get(&key, ReadKind::Stale, &door).await?;
    ensure!(found.is_some_and(|found| found.revision == before), "the zone does not serve what it had");
    globals.spawn_node(1)?;
    globals.spawn_node(2)?;
    globals.until_whole().await?;
    until_busy(globals, 10).await?;
    load.stop().await;
    let key = client.new_key();
    write_one(globals, &key).await?;
    globals.until_zone_has("east", &key).await?;
    Ok(Scene::Played(
        "503 names ?consistency=stale, stale reads answer, writes are refused; the zone serves and restarts"
            .into(),
    ))
}

/// One acknowledged write of a key; its revision.
pub async fn write_one(globals: &Globals, key: &str) -> Result<u64> {
    use crate::{client::Wish, history::Expected};
    let wish = Wish { expected: Expected::Any, once: true, patience: Duration::from_secs(30) };
    match globals.client().put(key, wish, None).await {
        Written::Acknowledged(revision) => Ok(revision),
        other => bail!("a write of {key} was answered {other:?}"),
    }
}

/// The cluster has these zones, and they follow.
pub async fn with_zones(globals: &mut Globals, zones: &[&str]) -> Result<()> {
    for zone in zones {
        if !globals.zones.contains_key(*zone) {
            globals.add_zone(zone).await?;
        }
    }
    let key = globals.client().new_key();
    write_one(globals, &key).await?;
    for zone in zones {
        globals.until_zone_has(zone, &key).await?;
    }
    Ok(())
}

pub async fn one_way(stage: &mut Stage) -> Result<Scene> {
    let globals = stage.globals(3).await?;
    let load = globals.load();
    until_busy(globals, 10).await?;
    let mut said = Vec::new();
    for case in [
        "a follower is not heard by the leader",
        "a follower does not hear the leader",
        "nobody hears the leader",
    ] {
        let leader = globals.leader().await?;
        let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let name = |at: usize| globals.nodes[at].name.as_str();
        let before = term(globals).await?;
        match case {
            "a follower is not heard by the leader" => {
                globals.network.cut_direction(name(follower), name(leader))
            }
            "a follower does not hear the leader" => {
                globals.network.cut_direction(name(leader), name(follower))
            }
            _ => {
                globals.network.cut_direction(name(leader), name(follower));
                globals.network.cut_direction(name(leader), name(other));
            }
        }
        globals.until_written(Instant::now(), &[other]).await?;
        until_busy(globals, 15).await?;
        globals.network.heal();
        globals.until_whole().await?;
        let terms = term(globals).await?.saturating_sub(before);
        ensure!(terms <= TERMS_MAX, "{case}: {terms} terms passed");
        said.push(format!("{case}: {terms} new terms"));
    }
    load.stop().await;
    Ok(Scene::Played(said.join(", ")))
}

pub async fn bad_wires(stage: &mut Stage) -> Result<Scene> {
    let lasts = if stage.quick { 3 } else { 15 };
    let globals = stage.globals(3).await?;
    let load = globals.load();
    until_busy(globals, 10).await?;
    let before = term(globals).await?;
    // A wire between the leader and one follower comes and goes: the other two are a majority all the while.
    let leader = globals.leader().await?;
    let (flapping, steady) = ((leader + 1) % 3, (leader + 2) % 3);
    let name = |at: usize| globals.nodes[at].name.as_str();
    let count = globals.recorder.count(is_acknowledged);
    let mut beat = tokio::time::interval(Duration::from_millis(200));
    for turn in 0..lasts * 5 {
        beat.tick().await;
        match turn % 2 {
            0 => globals.network.cut(name(leader), name(flapping)),
            _ => globals.network.mend(name(leader), name(flapping)),
        }
    }
    globals.network.heal();
    let flapped = globals.recorder.count(is_acknowledged) - count;
    ensure!(flapped > 0, "no write was acknowledged while a wire was flapping");
    globals.until_written(Instant::now(), &[steady]).await?;
    let terms = term(globals).await?.saturating_sub(before);
    ensure!(terms <= TERMS_MAX, "a flapping wire: {terms} terms passed");

    let (count, before) = (globals.recorder.count(is_acknowledged), term(globals).await?);
    globals.network.lose(Loss { percent: 5, delay: Duration::from_millis(60) });
    for _ in 0..lasts * 5 {
        beat.tick().await;
    }
    globals.network.heal();
    let lossy = globals.recorder.count(is_acknowledged) - count;
    ensure!(lossy > 0, "no write was acknowledged over lossy wires");
    globals.until_whole().await?;
    let lossy_terms = term(globals).await?.saturating_sub(before);
    ensure!(lossy_terms <= TERMS_MAX, "lossy wires: {lossy_terms} terms passed");
    load.stop().await;
    Ok(Scene::Played(format!(
        "flapping for {lasts} s: {flapped} writes, {terms} new terms; 5 % of packets late for {lasts} s: {lossy} writes, \
         {lossy_terms} new terms"
    )))
}
