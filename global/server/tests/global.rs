//! The control plane as a whole, on real sockets and a real disk.
mod house;

use global_server::{app::App, config::Config};
use house::{House, Zone, hello, within};
use proto::link::{
    CallReply, Inventory, Key, Progress, ProxyEntry, ProxyName, Refusal, RevisionProgress, Submit,
    from_zone::Kind as Up, submit::Change, to_zone::Kind as Down,
};
use serde_json::{Value, json};
use shared_identity::token::SigningKey;
use shared_model::ResourceKey;
use std::{os::unix::fs::PermissionsExt as _, time::Duration};
use tokio_util::sync::CancellationToken;

fn timeout(name: &str, value: &str) -> Value {
    json!({"type": "MeshTimeout", "mesh": "default", "name": name, "spec": {
        "targetRef": {"kind": "Mesh"},
        "to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": {"requestTimeout": value}}}],
    }})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart_and_the_admin_token_opens_https() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path()).await;
    assert_eq!(house.get("/meshes/default").await.0, 200);
    let (status, reply) = house.put("/meshes/default/meshtimeouts/slow", timeout("slow", "5s")).await;
    assert_eq!(status, 201);
    let revision = reply["revision"].as_u64().expect("a revision");
    let mode =
        |path: &str| std::fs::metadata(dir.path().join(path)).expect(path).permissions().mode() & 0o777;
    assert_eq!((mode("admin-token"), mode("seal.key"), mode("tls/ca.key")), (0o600, 0o600, 0o600));
    let token = std::fs::read_to_string(dir.path().join("admin-token")).expect("the admin token");
    house.stop().await;

    let house = House::start(dir.path()).await;
    let (status, stored) = house.get("/meshes/default/meshtimeouts/slow").await;
    assert_eq!((status, stored["revision"].as_u64()), (200, Some(revision)));
    assert_eq!(house.https("/meshes", None).await.0, 401);
    assert_eq!(house.https("/who-am-i", Some(&token)).await.1["name"], "mesh-system:admin");
    assert_eq!(house.https("/global-secrets", Some(&token)).await.0, 200);
    assert_eq!(std::fs::read_to_string(dir.path().join("admin-token")).expect("the admin token"), token);
    let (status, metrics) = house.text(&format!("http://{}/metrics", house.addresses.diagnostics)).await;
    assert_eq!(status, 200);
    for metric in
        ["weft_revision ", "weft_zones_connected 0", "weft_raft_leader 1", "weft_api_requests_total{"]
    {
        assert!(metrics.contains(metric), "{metric} in {metrics}");
    }
    assert_eq!(house.text(&format!("http://{}/readyz", house.addresses.diagnostics)).await.0, 200);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrators_secret_reaches_no_zone() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path()).await;
    let disk = tempfile::tempdir().expect("a directory");
    let zone = Zone::follow(&house, disk.path(), "east", &house.zone_token("east", &["cp"]).await).await;
    let data = shared_model::core::Secret::of(b"hunter2").data;
    let body = json!({"type": "GlobalSecret", "name": "backup", "data": data});
    let (status, reply) = house.put("/global-secrets/backup", body.clone()).await;
    assert_eq!(status, 201);
    let revision = reply["revision"].as_u64().expect("a revision");
    zone.holds(revision).await;
    let catalog = zone.learner.catalog().borrow().clone();
    let key = ResourceKey::new("GlobalSecret", "", "backup");
    assert!(!catalog.get(&key).expect("replicated").spec.to_string().contains(&data));
    // Who wrote it reads it, and the same content again is no change.
    assert_eq!(house.get("/global-secrets/backup").await.1["data"], data);
    assert_eq!(house.put("/global-secrets/backup", body).await.1["revision"], revision);
    // Nobody else on the host reads it from the disk.
    let mode = std::fs::metadata(dir.path().join("raft")).expect("a directory").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    zone.leave().await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_a_revision_do_not_hold_up_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path()).await;
    // A zone that is away: its revision is never done.
    assert_eq!(house.put("/zones/east", json!({"type": "Zone", "name": "east"})).await.0, 201);
    let (_, reply) = house.put("/meshes/default/meshtimeouts/slow", timeout("slow", "5s")).await;
    let waiting = house.api(&format!("/_revisions/{}?wait=60s", reply["revision"]));
    let waiting = tokio::spawn(async move {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        client.get(waiting).send().await.map(|answer| answer.status().as_u16())
    });
    let metrics = format!("http://{}/metrics", house.addresses.diagnostics);
    // Another question that came after it is answered: so it waits.
    assert_eq!(house.text(&metrics).await.0, 200);
    let begin = std::time::Instant::now();
    house.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert!(matches!(waiting.await.expect("no panic"), Ok(200) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_default_mesh_stays_deleted() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path()).await;
    assert_eq!(house.delete("/meshes/default").await.0, 200);
    house.stop().await;
    let house = House::start(dir.path()).await;
    assert_eq!(house.get("/meshes/default").await.0, 404);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_of_a_start_is_one_sentence() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path()).await;
    let other = tempfile::tempdir().expect("a directory");
    let config = |data_dir: &std::path::Path, api_bind| Config {
        data_dir: data_dir.to_owned(),
        api_bind,
        api_https_bind: ([127, 0, 0, 1], 0).into(),
        link_bind: ([127, 0, 0, 1], 0).into(),
        diagnostics_bind: ([127, 0, 0, 1], 0).into(),
        peer_bind: ([127, 0, 0, 1], 0).into(),
        ..Config::default()
    };
    let free = ([127, 0, 0, 1], 0).into();
    for (config, wanted) in [
        (config(other.path(), house.addresses.api), "in use by another program"),
        (config(dir.path(), free), "in use by another process"),
    ] {
        let error = App::start(config, CancellationToken::new()).await.err().expect("refused");
        let sentence = format!("{error:#}");
        assert!(sentence.contains(wanted) && !sentence.contains('\n'), "{sentence}");
    }
    house.stop().await;
    let zones = tempfile::tempdir().expect("a directory");
    drop(
        shared_raft::Storage::open(&zones.path().join("raft"), "zone east", || shared_raft::learner_id(1))
            .expect("a disk"),
    );
    let error =
        App::start(config(zones.path(), free), CancellationToken::new()).await.err().expect("refused");
    assert!(format!("{error:#}").contains("zone east"), "{error:#}");
    for damage in [None, Some([7; 32])] {
        match damage {
            None => std::fs::remove_file(dir.path().join("seal.key")).expect("removed"),
            Some(other) => std::fs::write(dir.path().join("seal.key"), other).expect("written"),
        }
        let error =
            App::start(config(dir.path(), free), CancellationToken::new()).await.err().expect("refused");
        let wanted = damage.map_or("seal.key is missing", |_| "is not the right key");
        assert!(error.to_string().contains(wanted), "{error:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_zone_itself_opens_its_link() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path()).await;
    house.trust().await;
    let now = shared_node::time::now();
    let good = house.zone_token("east", &["cp"]).await;
    let proxies = house.zone_token("east", &["ingress", "egress"]).await;
    let other_key = SigningKey::generate("99").expect("a key");
    let unknown_key = SigningKey::generate("777").expect("a key");
    let expired = house.sign(&house.key, "old", now - 2 * Duration::from_secs(3600));
    let early = house.sign(&house.key, "early", now + Duration::from_secs(3600));
    let admin = std::fs::read_to_string(dir.path().join("admin-token")).expect("the admin token");
    let cases = [
        (None, hello("east", 1), "a zone token is needed"),
        (Some("rubbish".to_owned()), hello("east", 1), "it is not a token"),
        (Some(proxies), hello("east", 1), "its scope is ingress, egress"),
        (Some(good.clone()), hello("west", 1), "for zone \"east\", not for \"west\""),
        (Some(house.sign(&other_key, "forged", now)), hello("east", 1), "its signature is wrong"),
        (Some(house.sign(&unknown_key, "unknown", now)), hello("east", 1), "unknown key"),
        (Some(expired), hello("east", 1), "it expired"),
        (Some(early), hello("east", 1), "not valid before"),
        (Some(admin), hello("east", 1), "the zone token is refused"),
        (
            Some(good.clone()),
            proto::link::Hello { node_id: 1, ..hello("east", 1) },
            "not the id of a zone's replica",
        ),
        (
            Some(good.clone()),
            proto::link::Hello { cluster_id: "x".into(), ..hello("east", 1) },
            "follows cluster x",
        ),
        (Some(good.clone()), proto::link::Hello { revision: 9_999, ..hello("east", 1) }, "restored"),
    ];
    for (token, hello, wanted) in cases {
        let reason = house.refused(token.as_deref(), hello).await;
        assert!(reason.contains(wanted), "{reason:?} should say {wanted:?}");
        assert!(token.is_none_or(|token| !reason.contains(&token)), "a token in {reason:?}");
    }
    assert_eq!(house.get("/zones/west").await.0, 404);
    let opened =
        house.dial(Some(&house.sign(&house.key, "good", now)), hello("east", 1)).await.expect("a link");
    assert!(!opened.welcome.cluster_id.is_empty());
    assert_eq!(house.get("/zones/east").await.1["enabled"], true);
    // A zone token is no user token.
    assert_eq!(house.https("/meshes", Some(&good)).await.0, 401);
    // The replica of one zone is not that of another.
    let west = house.zone_token("west", &["cp"]).await;
    let reason = house.refused(Some(&west), hello("west", 1)).await;
    assert!(reason.contains("belongs to zone \"east\""), "{reason}");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_is_followed_from_the_write_to_the_last_proxy() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path()).await;
    let disk = tempfile::tempdir().expect("a directory");
    let token = house.zone_token("east", &["cp"]).await;
    let zone = Zone::follow(&house, disk.path(), "east", &token).await;
    let (_, reply) = house.put("/meshes/default/meshtimeouts/slow", timeout("slow", "5s")).await;
    let revision = reply["revision"].as_u64().expect("a revision");
    zone.holds(revision).await;
    let key = ResourceKey::new("MeshTimeout", "default", "slow");
    assert!(zone.learner.catalog().borrow().get(&key).is_some());
    // What must not leave global leaves it sealed only.
    let catalog = zone.learner.catalog().borrow().clone();
    assert!(catalog.iter().all(|resource| !resource.spec.to_string().contains("UFJJVkFURSBLRVk")));

    let path = format!("/_revisions/{revision}");
    let report = |acknowledged: u32, pending: u32, refused: Vec<Refusal>| {
        let applied_unix_ms = shared_node::time::now().timestamp_millis();
        let touched = acknowledged + pending + u32::try_from(refused.len()).expect("few");
        let one = RevisionProgress {
            revision,
            applied_unix_ms,
            touched,
            acknowledged,
            pending,
            refused,
            ..Default::default()
        };
        Up::Progress(Progress { revisions: vec![one] })
    };
    zone.say(report(0, 2, vec![])).await;
    let status = house.until(&path, |status| status["zones"][0]["pending"] == 2).await;
    assert_eq!((&status["done"], &status["zones"][0]["applied"]), (&json!(false), &json!(true)));
    let polled = format!("{path}?wait=20s");
    let (poll, ()) = tokio::join!(house.get(&polled), async {
        let refused =
            Refusal { mesh: "default".into(), proxy: "web-2".into(), reason: "no such filter".into() };
        zone.say(report(1, 0, vec![refused])).await;
    });
    let east = &poll.1["zones"][0];
    assert_eq!(
        (&poll.1["done"], &east["online"], &east["acknowledged"]),
        (&json!(true), &json!(true), &json!(1))
    );
    assert_eq!(east["refused"], json!([{"mesh": "default", "proxy": "web-2", "reason": "no such filter"}]));
    assert!(east["applyToAckMs"].as_f64().is_some_and(|ms| (0.0..30_000.0).contains(&ms)), "{east}");
    let (_, metrics) = house.text(&format!("http://{}/metrics", house.addresses.diagnostics)).await;
    assert!(metrics.contains("weft_apply_to_ack_seconds_count{zone=\"east\"} 1"), "{metrics}");
    assert!(metrics.contains("weft_zones_connected 1"), "{metrics}");

    // The zone goes: it is shown offline, and a newer revision is not done there.
    zone.leave().await;
    house.until(&path, |status| status["zones"][0]["online"] == false).await;
    let (_, reply) = house.put("/meshes/default/meshtimeouts/slow", timeout("slow", "6s")).await;
    let next = reply["revision"].as_u64().expect("a revision");
    let (_, status) = house.get(&format!("/_revisions/{next}")).await;
    assert_eq!(
        (&status["done"], &status["zones"][0]["online"], &status["zones"][0]["done"]),
        (&json!(false), &json!(false), &json!(false))
    );
    let overview = house.get("/zones/_overview").await.1;
    let subscription = &overview["items"][0]["zoneInsight"]["subscriptions"][0];
    assert!(subscription["disconnectTime"].is_string(), "{overview}");

    // It comes back from its disk, catches up, and beats alone say that nothing was to do.
    let zone = Zone::follow(&house, disk.path(), "east", &token).await;
    zone.holds(next).await;
    house.until(&format!("/_revisions/{next}"), |status| status["done"] == true).await;
    zone.leave().await;
    house.stop().await;
}

fn entry(name: &str) -> ProxyEntry {
    let dataplane = json!({"type": "Dataplane", "mesh": "default", "name": name, "networking": {
        "address": "10.0.0.1", "inbound": [{"port": 80, "tags": {"kuma.io/service": "web"}}]}});
    let insight = json!({"subscriptions": [{"id": "1", "connectTime": "2026-01-01T00:00:00Z"}]});
    let bytes = |value: Value| value.to_string().into_bytes().into();
    ProxyEntry {
        mesh: "default".into(),
        name: name.into(),
        dataplane: bytes(dataplane),
        insight: bytes(insight),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_zones_are_seen_and_asked_at_global() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path()).await;
    let (east_disk, west_disk) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let mut east =
        Zone::follow(&house, east_disk.path(), "east", &house.zone_token("east", &["cp"]).await).await;
    let whole = |names: &[&str]| {
        let upserts = names.iter().map(|name| entry(name)).collect();
        Up::Inventory(Inventory { sequence: 1, complete: true, upserts, ..Inventory::default() })
    };
    east.say(whole(&["web-1", "web-2"])).await;
    let list = house.until("/meshes/default/dataplanes/_overview", |list| list["total"] == 2).await;
    assert_eq!(list["items"][0]["name"], "web-1");
    assert_eq!(list["items"][0]["labels"]["kuma.io/zone"], "east");
    assert!(list["items"][0]["dataplaneInsight"]["subscriptions"][0]["disconnectTime"].is_null());
    let removed = vec![ProxyName { mesh: "default".into(), name: "web-2".into() }];
    east.say(Up::Inventory(Inventory { sequence: 2, removed, ..Inventory::default() })).await;
    house.until("/dataplanes", |list| list["total"] == 1).await;
    // A mesh with proxies is not deleted.
    let (status, refused) = house.delete("/meshes/default").await;
    assert_eq!(status, 400, "{refused}");

    let asked = house.api("/meshes/default/dataplanes/web-1/stats?format=json");
    let (answer, ()) = tokio::join!(house.text(&asked), async {
        let Down::Call(call) = east.hear().await else { panic!("not a call") };
        assert_eq!(
            (call.name.as_str(), call.what.as_str(), call.query.as_str()),
            ("web-1", "stats", "format=json")
        );
        let body = b"{}".as_slice().into();
        east.say(Up::Reply(CallReply {
            id: call.id,
            status: 200,
            content_type: "application/json".into(),
            body,
        }))
        .await;
    });
    assert_eq!(answer, (200, "{}".to_owned()));
    assert_eq!(house.get("/meshes/default/dataplanes/none/xds").await.0, 404);

    // Two zones with a proxy of one name: both are there, under names that tell them apart.
    let west = Zone::follow(&house, west_disk.path(), "west", &house.zone_token("west", &["cp"]).await).await;
    west.say(whole(&["web-1"])).await;
    let list = house.until("/dataplanes", |list| list["total"] == 2).await;
    let names: Vec<&str> =
        list["items"].as_array().expect("items").iter().filter_map(|i| i["name"].as_str()).collect();
    assert!(names.iter().all(|name| name.starts_with("web-1-")) && names[0] != names[1], "{names:?}");
    assert_eq!(house.get(&format!("/meshes/default/dataplanes/{}", names[0])).await.0, 200);

    west.leave().await;
    house
        .until("/zones/west/_overview", |zone| {
            zone["zoneInsight"]["subscriptions"][0]["disconnectTime"].is_string()
        })
        .await;
    let (_, overview) = house.get("/dataplanes/_overview?filter[labels.kuma.io/zone]=west").await;
    let insight = &overview["items"][0]["dataplaneInsight"];
    assert!(
        insight["subscriptions"][0]["disconnectTime"].is_string(),
        "a proxy of an offline zone: {insight}"
    );
    east.leave().await;
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_brings_its_services_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path()).await;
    let disk = tempfile::tempdir().expect("a directory");
    let token = house.zone_token("east", &["cp"]).await;
    let mut zone = Zone::follow(&house, disk.path(), "east", &token).await;
    let submit = |id, document: Value| {
        Up::Submit(Submit { id, change: Some(Change::Put(document.to_string().into_bytes().into())) })
    };
    let service = json!({"type": "MeshService", "mesh": "default", "name": "web", "spec": {
        "selector": {"dataplaneTags": {"kuma.io/service": "web"}},
        "ports": [{"port": 80, "targetPort": 80, "appProtocol": "http"}]}});
    zone.say(submit(1, service.clone())).await;
    let Down::Submitted(stored) = zone.hear().await else { panic!("not an answer") };
    assert_eq!((stored.id, stored.error.as_str()), (1, ""));
    let (_, list) = house.get("/meshes/default/meshservices").await;
    let item = &list["items"][0];
    assert_eq!(
        (&item["labels"]["kuma.io/zone"], &item["labels"]["kuma.io/display-name"]),
        (&json!("east"), &json!("web"))
    );
    let name = item["name"].as_str().expect("a name").to_owned();
    // Nobody at global changes it.
    assert_eq!(house.delete(&format!("/meshes/default/meshservices/{name}")).await.0, 405);

    for (id, document, wanted) in [
        (2, json!({"type": "Mesh", "name": "mine"}), "may not write a Mesh"),
        (3, timeout("slow", "5s"), "may not write a MeshTimeout"),
        (4, json!({"type": "GlobalSecret", "name": "x", "data": ""}), "may not write a GlobalSecret"),
        (
            5,
            {
                let mut elsewhere = service.clone();
                elsewhere["mesh"] = "nowhere".into();
                elsewhere
            },
            "nowhere",
        ),
        (
            6,
            {
                let mut foreign = service.clone();
                foreign["labels"] = json!({"kuma.io/zone": "west"});
                foreign
            },
            "kuma.io/zone",
        ),
    ] {
        zone.say(submit(id, document)).await;
        let Down::Submitted(refused) = zone.hear().await else { panic!("not an answer") };
        assert!(refused.id == id && refused.revision == 0 && refused.error.contains(wanted), "{refused:?}");
    }
    let key = Key { kind: "MeshService".into(), mesh: "default".into(), name: "web".into() };
    zone.say(submit(7, service.clone())).await;
    zone.say(Up::Submit(Submit { id: 8, change: Some(Change::Delete(key)) })).await;
    let answers = [zone.hear().await, zone.hear().await];
    assert!(
        answers.iter().all(|answer| matches!(answer, Down::Submitted(s) if s.error.is_empty())),
        "{answers:?}"
    );
    assert_eq!(house.get("/meshes/default/meshservices").await.1["total"], 0);

    // The Zone cannot be deleted while it is here; once it has gone, all that it brought goes with it.
    zone.say(submit(9, service)).await;
    zone.hear().await;
    assert_eq!(house.delete("/zones/east").await.0, 409);
    zone.leave().await;
    let path = "/zones/east/_overview";
    house.until(path, |zone| zone["zoneInsight"]["subscriptions"][0]["disconnectTime"].is_string()).await;
    let (status, reply) = house.delete("/zones/east").await;
    assert_eq!(status, 200);
    assert_eq!(house.get("/meshes/default/meshservices").await.1["total"], 0);
    // The Zone goes last: its revision holds the whole deletion.
    assert_eq!(
        house.get(&format!("/_revisions/{}", reply["revision"])).await.1["current"],
        reply["revision"]
    );
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_ends_by_silence_by_a_newer_one_and_by_revocation() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = House::start(dir.path()).await;
    house.trust().await;
    let token = house.sign(&house.key, "revoke-me", shared_node::time::now());
    // Never beats.
    let mut silent = house.dial(Some(&token), hello("east", 1)).await.expect("a link");
    let reason = within(async {
        loop {
            match silent.down.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("an end without a reason"),
                Err(status) => return status.message().to_owned(),
            }
        }
    })
    .await;
    assert!(reason.contains("no beat"), "{reason}");
    house.until("/_revisions/1", |status| status["zones"][0]["online"] == false).await;

    let (first_disk, second_disk) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    // Two replicas beside each other, and a newer link of one of them.
    let first = Zone::follow(&house, first_disk.path(), "east", &token).await;
    let second = Zone::follow(&house, second_disk.path(), "east", &token).await;
    let (_, reply) = house.put("/meshes/default/meshtimeouts/slow", timeout("slow", "5s")).await;
    for zone in [&first, &second] {
        zone.holds(reply["revision"].as_u64().expect("a revision")).await;
    }
    let again = proto::link::Hello { node_id: first.learner.identity().node_id, ..hello("east", 1) };
    let again = house.dial(Some(&token), again).await.expect("a link");
    let reason = within(first.pump).await.expect("no panic");
    assert!(reason.contains("has dialled"), "{reason}");
    drop(again);

    let secret = shared_model::core::Secret::of(b"other,revoke-me\n");
    let body = json!({"type": "GlobalSecret", "name": "zone-token-revocations", "data": secret.data});
    assert_eq!(house.put("/global-secrets/zone-token-revocations", body).await.0, 201);
    let reason = within(second.pump).await.expect("no panic");
    assert!(reason.contains("it was revoked"), "{reason}");
    assert!(house.refused(Some(&token), hello("east", 1)).await.contains("revoked"));
    house.stop().await;
}
