//! A zone that follows a global, up to the wire of the link: what it serves before, with and without global, and what it
//! tells. Global itself is a stand-in that replicates by openraft's own messages.
// A test fails by panicking.
#![allow(clippy::unwrap_used)]
mod global;
mod zone;

use global::Global;
use proto::link::from_zone::Kind as Up;
use proto::link::submit::Change;
use serde_json::json;
use shared_identity::names::Purpose;
use shared_identity::token::{self, DataplaneClaims, SigningKey};
use shared_model::core::Secret;
use shared_model::{Resource, kind};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use tempfile::TempDir;
use zone::{LDS, RDS, Zone, dataplane, within};

fn run(test: impl Future<Output = ()>) {
    zone_server::app::runtime().unwrap().block_on(async {
        shared_node::tls::install_crypto();
        tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test ends in time");
    });
}

async fn follow(dir: TempDir, global: &Global) -> Zone {
    Zone::start_with(dir, |config| {
        config.global = Some(global.url());
        config.global_ca_file = Some(global.ca_file());
        config.zone_token_file = Some(global.token_file());
    })
    .await
}

fn mesh() -> Resource {
    Resource::new(kind::MESH, "", "default", json!({}))
}

fn public_key(key: &SigningKey) -> Resource {
    let name = Purpose::Dataplane { mesh: "default".into() }.public_key(key.kid());
    let spec = serde_json::to_value(Secret::of(key.public_pem().as_bytes())).unwrap();
    Resource::new(&name.kind, &name.mesh, &name.name, spec)
}

fn token_for(key: &SigningKey, name: &str) -> String {
    let claims = DataplaneClaims { name: name.into(), mesh: "default".into(), ..Default::default() };
    token::issue(key, &claims, name, shared_node::time::now(), Duration::from_secs(3600)).unwrap()
}

fn timeout(request: &str) -> Resource {
    let spec = json!({"targetRef": {"kind": "Mesh"},
        "to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": {"requestTimeout": request}}}]});
    Resource::new("MeshTimeout", "default", "slow", spec)
}

#[test]
fn a_zone_answers_nobody_before_it_holds_the_whole_state_and_goes_on_without_global() {
    run(async {
        let key = SigningKey::generate("1").unwrap();
        let global = Global::start("cluster-1", 2).await;
        let zone = follow(tempfile::tempdir().unwrap(), &global).await;
        within("the zone has dialled", async || global.links() > 0).await;
        assert_eq!(global.authorization(), "Bearer the-zone-token");
        let web = dataplane("web-1", 18080, "web", &[(18090, "web")]);
        let request = json!({"mesh": "default", "name": "web-1", "dataplaneToken": "t", "dataplaneResource": web.to_string()});

        // One of the two revisions that global has: not enough.
        global.write(&mesh()).await;
        within("the mesh is there", async || zone.get("/meshes/default").await.is_some()).await;
        assert_eq!(zone.bootstrap(&request).await.0, 503);
        let status = zone.proxy(&web, &token_for(&key, "web-1")).await.err().expect("refused");
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
        assert!(!zone.is_ready().await);

        global.write(&public_key(&key)).await;
        within("the zone is ready", async || zone.is_ready().await).await;
        assert_eq!(zone.bootstrap(&request).await.0, 200);
        let mut proxy = zone.proxy(&web, &token_for(&key, "web-1")).await.unwrap();
        within("the proxy reaches the service", async || {
            proxy.settle().await;
            !proxy.names(RDS).is_empty()
        })
        .await;

        // What the zone tells: the progress of a revision, its proxies, and what others need.
        let revision = global.write(&timeout("7s")).await;
        within("the revision is acknowledged", async || {
            proxy.settle().await;
            let of = |said: &Up| match said {
                Up::Progress(progress) => {
                    progress.revisions.iter().find(|r| r.revision == revision && r.acknowledged == 1).cloned()
                }
                _ => None,
            };
            global.heard(of).is_some_and(|report| report.pending == 0 && report.acknowledged_unix_ms > 0)
        })
        .await;
        within("the inventory", async || {
            let of = |said: &Up| match said {
                Up::Inventory(inventory) => {
                    inventory.upserts.iter().find(|entry| entry.name == "web-1").cloned()
                }
                _ => None,
            };
            global.heard(of).is_some()
        })
        .await;
        within("the service of the zone", async || {
            let of = |said: &Up| match said {
                Up::Submit(submit) => match &submit.change {
                    Some(Change::Put(document)) => Some(document.clone()),
                    _ => None,
                },
                _ => None,
            };
            let document =
                global.heard(of).map(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap());
            document.is_some_and(|document| document["type"] == "MeshService" && document["name"] == "web")
        })
        .await;
        within("a beat with the revision", async || {
            proxy.settle().await;
            global
                .heard(|said| matches!(said, Up::Beat(beat) if beat.revision == revision).then_some(()))
                .is_some()
        })
        .await;

        // Without global, from the disk, and for a proxy that was never here.
        global.stop();
        drop(proxy);
        let zone = zone.restart().await;
        within("the zone is ready without global", async || zone.is_ready().await).await;
        let new = dataplane("new-1", 18082, "new", &[(18092, "web")]);
        let mut proxy = zone.proxy(&new, &token_for(&key, "new-1")).await.unwrap();
        within("the new proxy is configured", async || {
            proxy.settle().await;
            proxy.names(LDS).len() == 2
        })
        .await;
        zone.stop().await;
    });
}

#[test]
fn a_zone_follows_no_other_cluster_and_no_stranger() {
    run(async {
        let first = Global::start("cluster-1", 1).await;
        let zone = follow(tempfile::tempdir().unwrap(), &first).await;
        within("the zone has dialled", async || first.links() > 0).await;
        first.write(&mesh()).await;
        within("the zone is ready", async || zone.is_ready().await).await;
        first.stop();
        let dir = zone.stop().await;

        let other = Global::start("cluster-2", 1).await;
        let zone = follow(dir, &other).await;
        within("the zone has asked", async || other.enrolments().len() > 1).await;
        assert_eq!(other.links(), 0, "what it says is not listened to");
        assert!(zone.is_ready().await, "it goes on with what it has");
        assert_eq!(zone.get("/").await.unwrap()["clusterId"], "cluster-1");
        let dir = zone.stop().await;

        // A server whose certificate the given authority did not sign is not spoken to.
        let stranger = Global::start("cluster-1", 1).await;
        let zone = Zone::start_with(dir, |config| {
            config.global = Some(stranger.url());
            config.global_ca_file = Some(other.ca_file());
            config.zone_token_file = Some(other.token_file());
        })
        .await;
        let dials = async || {
            let metrics = reqwest::get(format!("http://{}/metrics", zone.running.diagnostics)).await.unwrap();
            let text = metrics.text().await.unwrap();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("weft_zone_link_dials_total "))
                .unwrap()
                .to_owned();
            line.parse::<u64>().unwrap()
        };
        within("it has tried", async || dials().await >= 3).await;
        assert_eq!(stranger.links(), 0);
        zone.stop().await;
    });
}

#[test]
fn what_a_zone_owns_goes_with_its_mesh() {
    run(async {
        let global = Global::start("cluster-1", 1).await;
        let zone = follow(tempfile::tempdir().unwrap(), &global).await;
        within("the zone has dialled", async || global.links() > 0).await;
        global.write(&mesh()).await;
        within("the zone is ready", async || zone.is_ready().await).await;
        let mut own = timeout("3s").to_json();
        own["labels"] = json!({"kuma.io/origin": "zone"});
        zone.apply(&own).await;
        let path = "/meshes/default/meshtimeouts/slow";
        assert_eq!(zone.get(path).await.unwrap()["labels"]["kuma.io/zone"], "east");
        global.delete(mesh().key()).await;
        within("the policy has gone", async || {
            zone.get("/meshtimeouts").await.is_some_and(|list| list["total"] == 0)
        })
        .await;
        zone.stop().await;
    });
}

#[test]
fn a_zone_trades_its_token_once_and_renews_its_certificate_while_it_runs() {
    run(async {
        let global = Global::start("cluster-1", 1).await;
        global.set_lifetime(Duration::from_secs(4));
        let zone = follow(tempfile::tempdir().unwrap(), &global).await;
        within("the zone has dialled", async || global.links() > 0).await;
        global.write(&mesh()).await;
        within("the zone is ready", async || zone.is_ready().await).await;
        let file = zone.path().join("link-certificate.json");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let first = std::fs::read(&file).unwrap();
        assert_eq!(global.authorization(), "Bearer the-zone-token");

        // The token is of no account from now on.
        std::fs::remove_file(global.token_file()).unwrap();
        within("the certificate is renewed", async || global.renewals() >= 2).await;
        assert_ne!(std::fs::read(&file).unwrap(), first);
        within("the link is opened with the newer one", async || global.links() >= 2).await;
        global.set_lifetime(Duration::from_secs(3600));
        let renewals = global.renewals();
        within("one that lasts", async || global.renewals() > renewals).await;
        let links = global.links();
        within("the link is opened with that", async || global.links() > links).await;
        let revision = global.write(&timeout("7s")).await;
        within("the zone goes on", async || {
            global
                .heard(|said| matches!(said, Up::Beat(beat) if beat.revision == revision).then_some(()))
                .is_some()
        })
        .await;
        let ids: BTreeSet<String> = global.enrolments().into_iter().map(|said| said.zone_id).collect();
        assert!(ids.len() == 1 && ids.first().is_some_and(|id| !id.is_empty()), "{ids:?}");

        // Also across a restart: no token, the same id.
        let links = global.links();
        let zone = zone.restart().await;
        within("the zone has dialled again", async || global.links() > links).await;
        zone.stop().await;
    });
}

#[test]
fn a_zone_that_global_refuses_says_why_and_goes_on() {
    run(async {
        let global = Global::start("cluster-1", 1).await;
        let zone = follow(tempfile::tempdir().unwrap(), &global).await;
        within("the zone has dialled", async || global.links() > 0).await;
        global.write(&mesh()).await;
        within("the zone is ready", async || zone.is_ready().await).await;
        let certificate = zone.path().join("link-certificate.json");
        let dir = zone.stop().await;
        // As after a rebind: what it has is refused, and it gets nothing new.
        std::fs::remove_file(certificate).unwrap();
        global.refuse(Some(tonic::Status::failed_precondition("run weftctl zone rebind east")));
        let tried = global.enrolments().len();
        let zone = follow(dir, &global).await;
        within("it has tried", async || global.enrolments().len() >= tried + 2).await;
        assert!(zone.is_ready().await, "it serves what it has");
        global.refuse(None);
        let links = global.links();
        within("it is let in again", async || global.links() > links).await;
        zone.stop().await;
    });
}
