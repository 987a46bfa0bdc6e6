//! Programs are killed with SIGKILL, at the worst moments; what was promised holds.
use anyhow::{Context, Result, bail, ensure};
use chaos_tests_process::{
    Cluster, Load, documents, http, in_cluster,
    scene::{ZONES, until_answered, with_services},
    series, until,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_write_survives_the_sigkill_of_global_under_writes() -> Result<()> {
    in_cluster(&[], async |cluster: &mut Cluster| {
        let acknowledged: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
        for round in 0..3 {
            let before = acknowledged.lock().expect("no writer panics").len();
            let writers: Vec<_> = (0..3)
                .map(|writer| {
                    let (api, acknowledged) = (cluster.global.api, acknowledged.clone());
                    tokio::spawn(async move { write_until_refused(api, round, writer, &acknowledged).await })
                })
                .collect();
            until("30 writes to be acknowledged", || async {
                let count = acknowledged.lock().expect("no writer panics").len() - before;
                ensure!(count >= 30, "{count}");
                Ok(())
            })
            .await?;
            cluster.global.kill()?;
            for writer in writers {
                writer.await?;
            }
            cluster.global.start().await?;
            let acknowledged = acknowledged.lock().expect("no writer panics").clone();
            for (name, revision) in acknowledged {
                let found: Value =
                    cluster.global.get(&format!("/meshes/default/meshtimeouts/{name}")).await?.json()?;
                ensure!(
                    found["revision"] == revision,
                    "{name} was acknowledged at {revision}, found {found}"
                );
            }
        }
        Ok(())
    })
    .await
}

/// Writes one policy after the other, and notes what was acknowledged; ends when global answers no more.
async fn write_until_refused(
    api: SocketAddr,
    round: u32,
    writer: u32,
    acknowledged: &Mutex<BTreeMap<String, u64>>,
) {
    for number in 0.. {
        let name = format!("t-{round}-{writer}-{number}");
        let spec = json!({"targetRef": {"kind": "Mesh"}, "to": [{"targetRef": {"kind": "Mesh"}, "default": {"idleTimeout": "1h"}}]});
        let document = json!({"type": "MeshTimeout", "mesh": "default", "name": name, "spec": spec});
        let path = format!("/meshes/default/meshtimeouts/{name}");
        let Ok(body) = serde_json::to_vec(&document) else { return };
        let answer = http::call(api, hyper::Method::PUT, &path, body.into()).await;
        let Some(revision) = answer
            .ok()
            .and_then(|answer| answer.good().ok())
            .and_then(|answer| answer.json::<Value>().ok().and_then(|reply| reply["revision"].as_u64()))
        else {
            return;
        };
        acknowledged.lock().expect("no writer panics").insert(name, revision);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_global_a_zone_serves_restarts_and_admits_new_proxies() -> Result<()> {
    in_cluster(&ZONES, async |cluster: &mut Cluster| {
        with_services(cluster).await?;
        cluster.make_token("zone-1-web-new").await?;
        let loads: Vec<Load> =
            ZONES.iter().map(|zone| Ok(Load::start(cluster.road(zone, "web")?))).collect::<Result<_>>()?;

        cluster.global.kill()?;
        cluster.zone_mut("zone-1")?.control_plane.kill()?;
        for zone in ZONES {
            let tally = series(cluster.road(zone, "web")?, "/", 200).await;
            ensure!(tally.all_are(200), "{zone} without control planes: {tally}");
        }
        cluster.zone_mut("zone-1")?.control_plane.start().await?;
        cluster.join("zone-1", "web-new", "web", "v1", Some("backend")).await?;
        until_answered(cluster.road("zone-1", "web-new")?, "v1").await.context("through the new proxy")?;

        cluster.global.start().await?;
        cluster.until_zones_are_online().await?;
        cluster.apply(&documents::route(&[("backend-v2", 1)])).await?;
        for (zone, proxy) in [("zone-1", "web"), ("zone-1", "web-new"), ("zone-2", "web")] {
            let road = cluster.road(zone, proxy)?;
            until_answered(road, "v2").await.with_context(|| format!("{proxy} of {zone}, with the route"))?;
        }
        for load in loads {
            let tally = load.stop().await;
            ensure!(tally.all_are(200), "the traffic all the while: {tally}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_that_was_dead_gets_what_was_written_and_deleted_meanwhile() -> Result<()> {
    in_cluster(&ZONES, async |cluster: &mut Cluster| {
        with_services(cluster).await?;
        cluster.apply(&documents::route(&[("backend-v2", 1)])).await?;
        until_answered(cluster.road("zone-1", "web")?, "v2").await?;

        cluster.zone_mut("zone-1")?.control_plane.kill()?;
        let path = format!("/meshes/default/meshhttproutes/{}", documents::ROUTE);
        let deleted =
            http::call(cluster.global.api, hyper::Method::DELETE, &path, Default::default()).await?;
        let revision =
            deleted.good()?.json::<Value>()?["revision"].as_u64().context("a deletion has a revision")?;
        until_answered(cluster.road("zone-2", "web")?, "v1").await.context("in zone-2, which lives")?;
        let status = cluster.status(revision).await?;
        let dead = status.zone("zone-1").context("zone-1 is in the status")?;
        ensure!(!dead.done, "zone-1 is dead and done: {status:?}");
        let tally = series(cluster.road("zone-1", "web")?, "/", 50).await;
        ensure!(tally.version("v2") == 50, "zone-1 goes on with what it has: {tally}");

        cluster.zone_mut("zone-1")?.control_plane.start().await?;
        until_answered(cluster.road("zone-1", "web")?, "v1").await.context("in zone-1, which is back")?;
        let status = cluster.until_done(revision).await?;
        ensure!(status.refusals().is_empty(), "{status:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_on_an_empty_disk_gets_everything_again_once_an_operator_says_that_it_is_the_same()
-> Result<()> {
    in_cluster(&ZONES[..1], async |cluster: &mut Cluster| {
        for number in 0..20 {
            cluster.apply(&documents::timeout(&format!("{}s", number + 1))).await?;
        }
        let path = format!("/meshes/default/meshtimeouts/{}", documents::TIMEOUT);
        let at_global: Value = cluster.global.get(&path).await?.json()?;
        cluster.zone_mut("zone-1")?.control_plane.kill()?;
        std::fs::remove_dir_all(&cluster.zone("zone-1")?.control_plane.data_dir)?;
        cluster.zone_mut("zone-1")?.control_plane.spawn()?;
        // Another disk under a known name may be anybody's.
        let log = cluster.zone("zone-1")?.control_plane.log().to_owned();
        until("the zone to be told what is to be done", || async {
            let said = std::fs::read_to_string(&log)?;
            ensure!(said.contains("weftctl zone rebind zone-1"), "{said}");
            Ok(())
        })
        .await?;
        cluster.weftctl(&["zone", "rebind", "zone-1"]).await?;
        cluster.zone_mut("zone-1")?.control_plane.until_ready().await?;
        let zone = &cluster.zone("zone-1")?.control_plane;
        until("the zone to have the policy", || async {
            let there: Value = zone.get(&path).await?.json()?;
            match there["spec"] == at_global["spec"] {
                true => Ok(()),
                false => bail!("{there}"),
            }
        })
        .await
    })
    .await
}
