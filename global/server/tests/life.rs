//! The life of a zone: enrolled, bound to its name, renewed, refused, rebound, drained, deleted.
mod house;

use house::{Dialled, House, Zone, enrolment, hello, within};
use proto::link::{Beat, Enrolment, FromZone, Hello, ToZone, from_zone::Kind as Up};
use serde_json::{Value, json};
use shared_api::{Keyring, signing};
use shared_identity::{ca, names::Purpose, seal::SealKey};
use shared_model::{ResourceKey, core::Secret, kind};
use std::{path::Path, time::Duration};
use tempfile::TempDir;
use tonic::{Code, Streaming};

const OTHER: &str = "22222222-2222-4222-8222-222222222222";

async fn ended(down: &mut Streaming<ToZone>) -> String {
    within(async {
        loop {
            match down.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return String::new(),
                Err(status) => return status.message().to_owned(),
            }
        }
    })
    .await
}

/// Beats as long as it is read, and gives the reason of the end.
async fn beats(Dialled { up, mut down, .. }: Dialled) -> String {
    let beating = tokio::spawn(async move {
        let mut beats = tokio::time::interval(Duration::from_secs(1));
        loop {
            beats.tick().await;
            if up.send(FromZone { kind: Some(Up::Beat(Beat { revision: 0 })) }).await.is_err() {
                return;
            }
        }
    });
    let reason = ended(&mut down).await;
    beating.abort();
    reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_belongs_to_the_first_store_until_a_rebind() {
    let dir = TempDir::new().expect("a directory");
    let house = House::start(dir.path()).await;
    let token = house.zone_token("east", &["cp"]).await;
    let first = hello("east", 1);
    let papers = house.enrol(Some(&token), None, enrolment(&first)).await.expect("enrolled");
    assert_eq!(house.get("/zones/east").await.1["status"]["zoneId"], first.zone_id);
    let link = house.open(Some(&papers), first.clone()).await.expect("a link");

    let other = Hello { zone_id: OTHER.into(), ..hello("east", 2) };
    let refused = house.enrol(Some(&token), None, enrolment(&other)).await.err().expect("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("weftctl zone rebind east") && refused.message().contains(OTHER),
        "{refused}"
    );
    // What an operator writes does not touch what the name is bound to.
    let (status, _) =
        house.put("/zones/east", json!({"type": "Zone", "name": "east", "enabled": false})).await;
    assert_eq!((status, &house.get("/zones/east").await.1["status"]["zoneId"]), (200, &json!(first.zone_id)));

    assert_eq!(house.post("/zones/west/_rebind", json!({})).await.0, 404);
    assert_eq!(house.post("/zones/east/_rebind", json!({})).await.0, 200);
    let reason = beats(link).await;
    assert!(reason.contains("--to"), "{reason}");
    let reason = house.open(Some(&papers), first.clone()).await.err().expect("refused");
    assert!(reason.message().contains("was taken from this zone"), "{reason}");
    house.dial(Some(&token), other.clone()).await.expect("the other has the name");
    assert_eq!(house.get("/zones/east").await.1["status"], json!({"zoneId": OTHER}));
    assert!(house.open(Some(&papers), first.clone()).await.is_err());
    assert_eq!(house.post("/zones/east/_rebind", json!({"zoneId": "../x"})).await.0, 400);
    assert_eq!(house.post("/zones/east/_rebind", json!({"zoneId": first.zone_id})).await.0, 200);
    house.open(Some(&papers), first).await.expect("back, with the certificate that it has");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_by_itself_and_ends_with_its_token() {
    let dir = TempDir::new().expect("a directory");
    let short = shared_model::Duration(Duration::from_secs(4));
    let house = House::start_with(dir.path(), |config| config.zone_certificate_lifetime = short).await;
    house.trust().await;
    let token = house.sign(&house.key, "revoke-me", shared_node::time::now());
    let hello = hello("east", 1);
    let papers = house.enrol(Some(&token), None, enrolment(&hello)).await.expect("enrolled");
    let leaf = shared_node::tls::leaf_of(&papers.chain_pem).expect("a leaf");
    assert!(ca::not_after_of(&leaf).expect("a time") <= shared_node::time::now() + short.0);
    let next = house.enrol(None, Some(&papers), enrolment(&hello)).await.expect("without the token");
    assert_ne!(next.chain_pem, papers.chain_pem);
    let nobody = house.enrol(None, None, enrolment(&hello)).await.err().expect("refused");
    assert!(nobody.message().contains("a zone token is needed"), "{nobody}");

    // A link ends with the certificate that opened it.
    let link = house.open(Some(&next), hello.clone()).await.expect("a link");
    let reason = beats(link).await;
    assert!(reason.contains("its certificate has ended"), "{reason}");
    assert!(house.open(Some(&next), hello.clone()).await.is_err(), "and opens none any more");

    let papers = house.enrol(Some(&token), None, enrolment(&hello)).await.expect("enrolled");
    let link = house.open(Some(&papers), hello.clone()).await.expect("a link");
    let secret = Secret::of(b"revoke-me");
    let body = json!({"type": "GlobalSecret", "name": "zone-token-revocations", "data": secret.data});
    assert_eq!(house.put("/global-secrets/zone-token-revocations", body).await.0, 201);
    let reason = beats(link).await;
    assert!(reason.contains("it was revoked"), "{reason}");
    for refused in [
        house.open(Some(&papers), hello.clone()).await.err(),
        house.enrol(None, Some(&papers), enrolment(&hello)).await.err(),
        house.enrol(Some(&token), None, enrolment(&hello)).await.err(),
    ] {
        let refused = refused.expect("refused");
        assert!(
            refused.code() == Code::Unauthenticated && refused.message().contains("revoked"),
            "{refused}"
        );
    }
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_zone_stays_away_until_it_is_made_again() {
    let dir = TempDir::new().expect("a directory");
    let disk = TempDir::new().expect("a directory");
    let house = House::start(dir.path()).await;
    let token = house.zone_token("east", &["cp"]).await;
    let hello = hello("east", 1);
    let papers = house.enrol(Some(&token), None, enrolment(&hello)).await.expect("enrolled");
    let zone = Zone::follow(&house, disk.path(), "east", &token).await;
    assert_eq!(house.delete("/zones/east").await.0, 409, "it is connected");
    let cluster_id = zone.learner.identity().cluster_id;
    zone.leave().await;
    let overview = "/zones/east/_overview";
    house.until(overview, |zone| zone["zoneInsight"]["subscriptions"][0]["disconnectTime"].is_string()).await;
    assert_eq!(house.delete("/zones/east").await.0, 200);

    let deleted = house.open(Some(&papers), hello.clone()).await.err().expect("refused");
    assert!(deleted.message().contains("was deleted"), "{deleted}");
    let known = Enrolment { cluster_id, ..enrolment(&hello) };
    for refused in [
        house.enrol(None, Some(&papers), known.clone()).await.err(),
        house.enrol(Some(&token), None, known.clone()).await.err(),
    ] {
        assert!(refused.expect("refused").message().contains("was deleted"));
    }
    assert_eq!(house.get("/zones/east").await.0, 404, "it did not come back by itself");
    assert_eq!(house.put("/zones/east", json!({"type": "Zone", "name": "east"})).await.0, 201);
    house.open(Some(&papers), hello).await.expect("let in again");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_zone_are_one_zone_and_a_disabled_zone_keeps_its_link() {
    let dir = TempDir::new().expect("a directory");
    let (one_disk, two_disk) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let house = House::start(dir.path()).await;
    let token = house.zone_token("east", &["cp"]).await;
    let one = Zone::follow(&house, one_disk.path(), "east", &token).await;
    let two = Zone::follow(&house, two_disk.path(), "east", &token).await;
    let disabled = json!({"type": "Zone", "name": "east", "enabled": false});
    let (_, reply) = house.put("/zones/east", disabled).await;
    let revision = reply["revision"].as_u64().expect("a revision");
    one.holds(revision).await;
    two.holds(revision).await;
    assert_eq!(house.get("/zones").await.1["total"], 1);
    assert_eq!(house.get("/zones/east").await.1["enabled"], false);
    one.leave().await;
    // One of two has gone: the zone is online.
    let subscriptions = |overview: &Value| {
        let all = overview["zoneInsight"]["subscriptions"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|one| one["disconnectTime"].is_null()).count()
    };
    house.until("/zones/east/_overview", |overview| subscriptions(overview) == 1).await;
    let (_, reply) = house.put("/zones/east", json!({"type": "Zone", "name": "east", "enabled": true})).await;
    let revision = reply["revision"].as_u64().expect("a revision");
    two.holds(revision).await;
    let path = format!("/_revisions/{revision}");
    let status = house.until(&path, |status| status["done"] == true).await;
    assert_eq!(status["zones"][0]["online"], true, "{status}");
    two.leave().await;
    house.until(&path, |status| status["zones"][0]["online"] == false).await;
    house.stop().await;
}

/// Every file under a directory, one after the other.
fn bytes_of(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        match entry.path() {
            path if path.is_dir() => bytes.extend(bytes_of(&path)),
            path => bytes.extend(std::fs::read(path).expect("a file")),
        }
    }
    bytes
}

fn holds(disk: &[u8], text: &str) -> bool {
    disk.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_a_zone_holds_no_secret_of_global() {
    let dir = TempDir::new().expect("a directory");
    let disk = TempDir::new().expect("a directory");
    let house = House::start(dir.path()).await;
    let token = house.zone_token("east", &["cp"]).await;
    // A key of each purpose, and an administrator's secret.
    let body = json!({"mesh": "default", "name": "web-1", "validFor": "1h"});
    assert_eq!(house.post("/tokens/dataplane", body).await.0, 200);
    let secret = Secret::of(b"correct horse battery staple");
    let body = json!({"type": "GlobalSecret", "name": "backup", "data": secret.data});
    let (status, reply) = house.put("/global-secrets/backup", body).await;
    assert_eq!(status, 201);
    let zone = Zone::follow(&house, disk.path(), "east", &token).await;
    zone.holds(reply["revision"].as_u64().expect("a revision")).await;
    let catalog = zone.learner.catalog().borrow().clone();
    zone.leave().await;
    let disk = bytes_of(disk.path());

    // The search finds what is there: the names, and what zones check tokens with.
    let public = ResourceKey::new(kind::GLOBAL_SECRET, "", "zone-token-signing-public-key-1");
    let public = catalog.get(&public).expect("a public key").spec["data"].as_str().expect("text").to_owned();
    assert!(holds(&disk, "zone-token-signing-key-1") && holds(&disk, &public));

    let seal: [u8; 32] =
        std::fs::read(dir.path().join("seal.key")).expect("a key").try_into().expect("32 bytes");
    let keys = Keyring::from(SealKey::from_bytes(seal));
    let mut secrets = vec!["correct horse battery staple".to_owned(), secret.data];
    for purpose in [Purpose::User, Purpose::Zone, Purpose::Dataplane { mesh: "default".into() }] {
        let sealed = catalog.get(&purpose.private_key("1")).expect("a sealed key");
        let pem = signing::open(&keys, sealed).expect("opened").private_pem().to_owned();
        assert!(pem.contains("PRIVATE KEY"));
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        secrets.push(body[..40].to_owned());
        secrets.push(Secret::of(pem.as_bytes()).data[..60].to_owned());
        secrets.push(pem);
    }
    assert!(secrets.iter().all(|secret| !holds(&disk, secret)));
    assert!(!disk.windows(seal.len()).any(|window| window == seal), "the seal key");
    house.stop().await;
}
