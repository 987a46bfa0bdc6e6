//! The inventory of a large zone, over a real link and on a real disk. `WEFT_PROXIES` says how many proxies; 100,000 are
//! what one node of global is made for, and take some time without optimisation.
mod house;

use house::{House, Zone, within};
use proto::link::{Inventory, ProxyEntry, from_zone::Kind as Up};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const PROXIES: usize = 10_000;
/// Proxies of one message, about a megabyte.
const MESSAGE: usize = 300;
/// A page takes some milliseconds; this is for a debug build on a machine with much else to do.
const PAGE_MAX: Duration = Duration::from_secs(2);

fn entry(i: usize) -> ProxyEntry {
    let (mesh, name) = (if i % 10 == 9 { "payments" } else { "default" }, format!("dp-{i:06}"));
    let inbound = json!([{"port": 8080, "tags": {"kuma.io/service": format!("service-{}", i % 1_000),
        "kuma.io/protocol": "http", "version": format!("v{}", i % 3)}}]);
    let dataplane = json!({"type": "Dataplane", "mesh": mesh, "name": name,
        "labels": {"team": format!("team-{}", i % 50), "kuma.io/workload": format!("service-{}", i % 1_000)},
        "networking": {"address": "10.0.0.1", "inbound": inbound}});
    let version = json!({"kumaDp": {"version": "2.9.0"}, "envoy": {"version": format!("1.30.{}", i % 2)}});
    let mut link = json!({"id": "1", "connectTime": "2026-01-01T00:00:00Z", "version": version,
        "controlPlaneInstanceId": "east-cp-1", "status": {"total": {"responsesSent": "12"}, "padding": "x".repeat(1_500)}});
    if i % 20 == 3 {
        link["disconnectTime"] = "2026-01-02T00:00:00Z".into();
    }
    let bytes = |value: Value| value.to_string().into_bytes().into();
    let insight = json!({"subscriptions": [link], "mTLS": {"issuedBackend": "ca"}});
    ProxyEntry { mesh: mesh.into(), name, dataplane: bytes(dataplane), insight: bytes(insight) }
}

/// Resident memory of this process, in kB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_zone_is_listed_page_by_page_and_shown_as_stale_after_a_restart() {
    let proxies: usize =
        std::env::var("WEFT_PROXIES").ok().and_then(|text| text.parse().ok()).unwrap_or(PROXIES);
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path()).await;
    assert_eq!(house.put("/meshes/payments", json!({"type": "Mesh", "name": "payments"})).await.0, 201);
    let disk = tempfile::tempdir().expect("a directory");
    let zone = Zone::follow(&house, disk.path(), "east", &house.zone_token("east", &["cp"]).await).await;
    let (before, begin) = (resident(), Instant::now());
    let mut documents = 0;
    let mut sequence = 0;
    for first in (0..proxies).step_by(MESSAGE) {
        sequence += 1;
        let upserts: Vec<_> = (first..proxies.min(first + MESSAGE)).map(entry).collect();
        documents += upserts.iter().map(|entry| entry.dataplane.len() + entry.insight.len()).sum::<usize>();
        let (complete, more) = (first == 0, first + MESSAGE < proxies);
        zone.say(Up::Inventory(Inventory { sequence, complete, more, upserts, ..Inventory::default() }))
            .await;
    }
    let list = "/dataplanes?size=1";
    // Each step is waited for by itself: there may be many.
    for part in 1..=10 {
        let online = (proxies * 19 / 200 * part) as u64;
        let is_told = |page: &Value| page["total"].as_u64().is_some_and(|total| total >= online);
        house.until("/dataplanes?size=1&status=online", is_told).await;
    }
    let told = begin.elapsed();
    let beside = (resident().saturating_sub(before) as usize * 1_024).saturating_sub(documents);
    println!(
        "{proxies} proxies told in {told:.1?}; documents {} MB, beside them {:.2} kB a proxy, resident {} MB",
        documents >> 20,
        beside as f64 / 1_024.0 / proxies as f64,
        resident() >> 10
    );

    let of_service = proxies / 1_000;
    for (path, total) in [
        ("/dataplanes?size=1000".to_owned(), proxies),
        (format!("/dataplanes/_overview?offset={}", proxies - 100), proxies),
        ("/meshes/payments/dataplanes?size=100".to_owned(), proxies / 10),
        ("/meshes/default/dataplanes+insights?name=dp-00007".to_owned(), 9),
        ("/dataplanes?tag=kuma.io/service:service-777".to_owned(), of_service),
        ("/dataplanes?tag=kuma.io/service:service-777&tag=version:v0".to_owned(), proxies.div_ceil(3_000)),
        ("/dataplanes?filter%5Blabels.team%5D=team-7".to_owned(), proxies / 50),
        ("/dataplanes?zone=east&size=10".to_owned(), proxies),
        ("/dataplanes?zone=west".to_owned(), 0),
        ("/dataplanes?status=offline".to_owned(), proxies / 20),
        ("/dataplanes?status=stale".to_owned(), 0),
    ] {
        let begin = Instant::now();
        let (status, page) = house.get(&path).await;
        let took = begin.elapsed();
        println!("{took:>10.1?} {path}");
        // The version is counted in steps of three: which of them has one more is of no interest here.
        let counted = page["total"].as_u64().unwrap_or_default().abs_diff(total as u64);
        assert!(status == 200 && counted <= u64::from(path.contains("version")), "{path}: {}", page["total"]);
        assert!(took < PAGE_MAX, "{path} took {took:?}");
    }
    let (_, page) = house.get("/meshes/payments/dataplanes/_overview?size=2&offset=2&status=online").await;
    assert_eq!(page["items"][0]["name"], "dp-000029");
    assert_eq!(page["items"][0]["dataplaneInsight"]["stale"], false);
    let next = page["next"].as_str().expect("a next page");
    assert!(next.contains("offset=4") && next.contains("status=online"), "{next}");

    let begin = Instant::now();
    let (_, insight) = house.get("/mesh-insights/payments").await;
    let (_, all) = house.get("/global-insight").await;
    println!("{:>10.1?} both insights", begin.elapsed());
    assert_eq!(insight["dataplanes"]["total"], proxies / 10);
    assert_eq!(insight["dpVersions"]["kumaDp"]["2.9.0"]["total"], proxies / 10);
    assert_eq!(all["dataplanes"]["standard"]["offline"], proxies / 20);
    assert_eq!(all["zones"]["controlPlanes"], json!({"online": 1, "total": 1}));
    assert_eq!(house.get("/mesh-insights").await.1["total"], 2);
    assert_eq!(house.delete("/meshes/payments").await.0, 400);

    // A gap closes the link.
    zone.say(Up::Inventory(Inventory { sequence: sequence + 2, ..Inventory::default() })).await;
    let Zone { learner, pump, .. } = zone;
    let reason = within(pump).await.expect("no panic");
    assert!(reason.contains(&format!("inventory {} came after {sequence}", sequence + 2)), "{reason}");
    learner.shutdown().await;
    drop(learner);
    house.stop().await;

    let begin = Instant::now();
    let house = House::start(dir.path()).await;
    println!("{:>10.1?} to start again", begin.elapsed());
    let (_, page) = house.get("/dataplanes/_overview?status=stale&size=1").await;
    assert_eq!(page["total"], proxies);
    let insight = &page["items"][0]["dataplaneInsight"];
    assert_eq!(insight["staleSince"], insight["lastSeen"]);
    assert!(insight["subscriptions"][0]["disconnectTime"].is_string(), "{insight}");
    assert_eq!(house.get("/global-insight").await.1["dataplanes"]["standard"]["online"], 0);
    // The zone goes on behind what was told: one message, and all is as new as ever.
    let zone = Zone::follow(&house, disk.path(), "east", &house.zone_token("east", &["cp"]).await).await;
    let changed = ProxyEntry { insight: Default::default(), ..entry(0) };
    zone.say(Up::Inventory(Inventory {
        sequence: sequence + 1,
        upserts: vec![changed],
        ..Inventory::default()
    }))
    .await;
    house.until("/dataplanes?status=stale&size=1", |page| page["total"] == 0).await;
    let (_, page) = house.get("/dataplanes?status=offline&size=1").await;
    assert_eq!((&page["total"], &page["items"][0]["name"]), (&json!(proxies / 20 + 1), &json!("dp-000000")));
    zone.leave().await;
    house.until("/dataplanes?status=stale&size=1", |page| page["total"] == proxies).await;
    // What a deleted zone has told goes with it.
    assert_eq!(house.delete("/zones/east").await.0, 200);
    assert_eq!(house.get(list).await.1["total"], 0);
    house.stop().await;
}
