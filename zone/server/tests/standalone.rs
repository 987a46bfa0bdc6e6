//! A standalone zone as its users meet it: documents by REST, a bootstrap, and proxies over delta ADS. The proxies here
//! are hand-written clients that keep what an Envoy would keep.
// A test fails by panicking.
#![allow(clippy::unwrap_used)]
mod zone;

use serde_json::json;
use shared_identity::token::{self, DataplaneClaims, SigningKey};
use shared_model::core::Secret;
use std::time::Duration;
use zone::{CDS, EDS, LDS, RDS, SDS, Zone, dataplane, within};

fn run(test: impl Future<Output = ()>) {
    zone_server::app::runtime().unwrap().block_on(async {
        shared_node::tls::install_crypto();
        tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test ends in time");
    });
}

fn web() -> serde_json::Value {
    dataplane("web-1", 18080, "web", &[])
}

fn client() -> serde_json::Value {
    dataplane("client-1", 18081, "client", &[(18090, "web")])
}

fn timeout(request: &str) -> serde_json::Value {
    json!({"type": "MeshTimeout", "mesh": "default", "name": "slow", "spec": {
        "targetRef": {"kind": "Mesh"},
        "to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": {"requestTimeout": request}}}]}})
}

fn mtls() -> serde_json::Value {
    json!({"type": "Mesh", "name": "default",
        "mtls": {"enabledBackend": "ca", "backends": [{"name": "ca", "type": "builtin"}]}})
}

#[test]
fn a_proxy_gets_its_configuration_and_a_policy_changes_only_what_it_concerns() {
    run(async {
        let zone = Zone::start().await;
        let mut server = zone.proxy(&web(), &zone.token("web-1").await).await.unwrap();
        server.settle().await;
        let mut proxy = zone.proxy(&client(), &zone.token("client-1").await).await.unwrap();
        within("the client knows its destination", async || {
            proxy.settle().await;
            proxy.endpoints() == ["127.0.0.1:18080"]
        })
        .await;
        assert!(proxy.names(LDS).contains(&"inbound:127.0.0.1:18081".to_owned()), "{:?}", proxy.names(LDS));
        assert!(proxy.names(LDS).contains(&"outbound:127.0.0.1:18090".to_owned()), "{:?}", proxy.names(LDS));

        proxy.forget_changes();
        let revision = zone.apply(&timeout("7s")).await;
        let status = zone.done(revision, &mut [&mut proxy, &mut server]).await;
        let changed = proxy.changes();
        assert!(changed.contains_key(RDS), "{changed:?}");
        assert!(!changed.contains_key(EDS) && !changed.contains_key(SDS), "{changed:?}");
        assert_eq!(changed[RDS].len(), 1, "{changed:?}");
        let seen = &status["zones"][0];
        assert!(seen["touched"].as_u64() >= Some(1) && seen["touched"] == seen["acknowledged"], "{status}");
        assert!(seen["applyToAckMs"].as_f64().is_some_and(|ms| ms < 5_000.0), "{status}");

        proxy.forget_changes();
        let same = zone.apply(&timeout("7s")).await;
        assert_eq!(same, revision, "the same document again changes nothing");
        let revision = zone.delete("/meshes/default/meshtimeouts/slow").await;
        zone.done(revision, &mut [&mut proxy, &mut server]).await;
        assert!(proxy.changes().contains_key(RDS));
        zone.stop().await;
    });
}

#[test]
fn a_token_lets_in_only_whom_it_names() {
    run(async {
        let zone = Zone::start().await;
        zone.apply(&json!({"type": "Mesh", "name": "other"})).await;
        let good = zone.token("web-1").await;
        let refused = async |token: &str| {
            let status = zone.proxy(&web(), token).await.err().expect("refused");
            assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status}");
            status.message().to_owned()
        };
        assert!(refused("").await.contains("missing"));
        assert!(refused("rubbish").await.contains("not a token"));
        assert!(refused(&zone.token("web-2").await).await.contains("for the proxy \"web-2\""));
        let elsewhere = zone.token_of("other", "web-1").await;
        let reason = refused(&elsewhere).await;
        assert!(reason.contains("signature") || reason.contains("mesh"), "{reason}");

        let claims = DataplaneClaims { name: "web-1".into(), mesh: "default".into(), ..Default::default() };
        let (now, hour) = (shared_node::time::now(), Duration::from_secs(3600));
        let forger = SigningKey::generate("1").unwrap();
        let forged = token::issue(&forger, &claims, "f", now, hour).unwrap();
        assert!(refused(&forged).await.contains("signature"));
        let key = SigningKey::generate("9").unwrap();
        let spec = Secret::of(key.public_pem().as_bytes());
        let public = json!({"type": "Secret", "mesh": "default", "name": "dataplane-token-signing-public-key-default-9",
            "data": spec.data});
        zone.apply(&public).await;
        let expired = token::issue(&key, &claims, "e", now - 2 * hour, hour).unwrap();
        assert!(refused(&expired).await.contains("expired"));
        let tagged = DataplaneClaims {
            tags: [("kuma.io/service".to_owned(), vec!["db".to_owned()])].into(),
            ..claims.clone()
        };
        let tagged = token::issue(&key, &tagged, "t", now, hour).unwrap();
        assert!(refused(&tagged).await.contains("does not allow \"web\""));

        let mut proxy = zone.proxy(&web(), &good).await.unwrap();
        within("its configuration", async || {
            proxy.settle().await;
            !proxy.names(LDS).is_empty()
        })
        .await;

        // What is revoked holds on a stream that is open.
        let fresh = token::issue(&key, &claims, "revoked-one", now, hour).unwrap();
        let mut proxy = zone.proxy(&web(), &fresh).await.unwrap();
        proxy.settle().await;
        let list = Secret::of(b"revoked-one\n");
        let list = json!({"type": "Secret", "mesh": "default", "name": "dataplane-token-revocations-default", "data": list.data});
        zone.apply(&list).await;
        let end = proxy.end().await;
        assert!(end.message().contains("revoked"), "{end}");
        zone.stop().await;
    });
}

#[test]
fn the_bootstrap_leads_an_envoy_here_and_refuses_with_the_right_status() {
    run(async {
        let zone = Zone::start().await;
        let token = zone.token("web-1").await;
        let request = |resource: String, token: &str| json!({"mesh": "default", "name": "web-1", "dataplaneToken": token, "dataplaneResource": resource});
        let (status, body) = zone.bootstrap(&request(web().to_string(), &token)).await;
        assert_eq!(status, 200, "{body}");
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        let text = Secret { data: answer["bootstrap"].as_str().unwrap().to_owned() }.bytes().unwrap();
        let envoy: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(envoy["dynamicResources"]["adsConfig"]["apiType"], "DELTA_GRPC");
        let (status, body) = zone.bootstrap(&request(web().to_string(), "")).await;
        assert_eq!(status, 422, "{body}");
        let mut stranger = web();
        stranger["mesh"] = json!("nowhere");
        let mut bad = request(stranger.to_string(), &token);
        bad["mesh"] = json!("nowhere");
        assert_eq!(zone.bootstrap(&bad).await, (422, "mesh \"nowhere\" does not exist".to_owned()));
        assert_eq!(zone.bootstrap(&request(String::new(), &token)).await, (404, String::new()));
        zone.stop().await;
    });
}

#[test]
fn a_dataplane_comes_and_goes_with_its_proxy_but_stays_over_a_restart() {
    run(async {
        let mut zone = Zone::start().await;
        let token = zone.token("web-1").await;
        let path = "/meshes/default/dataplanes/web-1";
        let mut proxy = zone.proxy(&web(), &token).await.unwrap();
        proxy.settle().await;
        let stored = zone.get(path).await.unwrap();
        assert_eq!(stored["labels"]["kuma.io/zone"], "east");
        within("the service of the Dataplane", async || {
            zone.get("/meshes/default/meshservices/web").await.is_some()
        })
        .await;
        let overview = zone.get(&format!("{path}/_overview")).await.expect("an overview");
        let subscription = &overview["dataplaneInsight"]["subscriptions"][0];
        assert!(
            subscription["connectTime"].is_string() && subscription.get("disconnectTime").is_none(),
            "{overview}"
        );

        zone = zone.restart().await;
        assert!(zone.get(path).await.is_some(), "a restart is no departure");
        let mut again = zone.proxy(&web(), &token).await.unwrap();
        again.settle().await;

        // The newest stream of a proxy wins, and the end of the older one is no departure.
        let mut newer = zone.proxy(&web(), &token).await.unwrap();
        newer.settle().await;
        assert!(again.end().await.message().contains("newer stream"));
        drop(newer);
        within("the Dataplane has left", async || zone.get(path).await.is_none()).await;
        zone.stop().await;
    });
}

#[test]
fn identities_are_issued_and_a_permission_is_needed() {
    run(async {
        let zone = Zone::start().await;
        zone.apply(&mtls()).await;
        let mut proxy = zone.proxy(&web(), &zone.token("web-1").await).await.unwrap();
        within("the certificate and the trust", async || {
            proxy.settle().await;
            proxy.names(SDS).len() == 2
        })
        .await;
        let secrets = proxy.text(SDS);
        assert!(secrets.contains("BEGIN CERTIFICATE"), "no certificate");
        let trusts = zone.get("/meshes/default/meshtrusts").await.unwrap();
        assert_eq!(trusts["total"], 1, "{trusts}");
        let bundle = trusts["items"][0]["spec"]["caBundles"][0]["pem"]["value"].as_str().unwrap();
        assert!(secrets.contains(&bundle[..200]), "the zone's own authority is trusted");
        let insight = zone.get("/meshes/default/dataplanes/web-1/_overview").await.unwrap();
        assert_eq!(insight["dataplaneInsight"]["mTLS"]["issuedBackend"], "mtls-ca");

        proxy.forget_changes();
        let permission = json!({"type": "MeshTrafficPermission", "mesh": "default", "name": "all", "spec": {
            "rules": [{"default": {"allow": [{"spiffeID": {"type": "Prefix", "value": "spiffe://default/"}}]}}]}});
        let revision = zone.apply(&permission).await;
        zone.done(revision, &mut [&mut proxy]).await;
        let changed = proxy.changes();
        assert_eq!(changed.keys().copied().collect::<Vec<_>>(), [LDS], "{changed:?}");
        zone.stop().await;
    });
}

#[test]
fn what_an_envoy_refuses_is_shown_and_the_rest_arrives() {
    run(async {
        let zone = Zone::start().await;
        let mut server = zone.proxy(&web(), &zone.token("web-1").await).await.unwrap();
        server.settle().await;
        let mut proxy = zone.proxy(&client(), &zone.token("client-1").await).await.unwrap();
        within("the client knows its destination", async || {
            proxy.settle().await;
            !proxy.names(RDS).is_empty()
        })
        .await;
        proxy.refuse = Some(RDS);
        let revision = zone.apply(&timeout("3s")).await;
        let status = zone.done(revision, &mut [&mut proxy, &mut server]).await;
        let refused = &status["zones"][0]["refused"][0];
        assert_eq!(
            (refused["mesh"].as_str(), refused["proxy"].as_str()),
            (Some("default"), Some("client-1")),
            "{status}"
        );
        assert!(refused["reason"].as_str().unwrap().contains("refused by the test"), "{status}");
        let problems = async || {
            let overview = zone.get("/meshes/default/dataplanes/client-1/_overview").await.unwrap();
            overview["dataplaneInsight"]["problems"].to_string()
        };
        assert!(problems().await.contains("refused by the test"), "{}", problems().await);
        proxy.refuse = None;
        let revision = zone.apply(&timeout("4s")).await;
        let status = zone.done(revision, &mut [&mut proxy, &mut server]).await;
        assert_eq!(status["zones"][0]["refused"], json!([]), "{status}");
        within("the refusal is over", async || !problems().await.contains("refused")).await;
        assert!(proxy.names(CDS).iter().any(|name| name.contains("web")));
        zone.stop().await;
    });
}

#[test]
fn identities_that_are_switched_on_take_no_listener_away() {
    run(async {
        let zone = Zone::start().await;
        let mut proxy = zone.proxy(&web(), &zone.token("web-1").await).await.unwrap();
        within("its configuration", async || {
            proxy.settle().await;
            !proxy.names(LDS).is_empty()
        })
        .await;
        for round in 0..5 {
            let mut mesh = mtls();
            mesh["mtls"]["backends"][0]["name"] = json!(format!("ca-{round}"));
            mesh["mtls"]["enabledBackend"] = json!(format!("ca-{round}"));
            let revision = zone.apply(&mesh).await;
            zone.done(revision, &mut [&mut proxy]).await;
            assert_eq!(proxy.names(SDS).len(), 2);
            let revision = zone.apply(&json!({"type": "Mesh", "name": "default"})).await;
            zone.done(revision, &mut [&mut proxy]).await;
        }
        assert!(!proxy.removed.iter().any(|name| name.starts_with("inbound:")), "{:?}", proxy.removed);
        zone.stop().await;
    });
}

#[test]
fn a_restart_changes_no_version_and_issues_no_certificate() {
    run(async {
        let zone = Zone::start().await;
        zone.apply(&mtls()).await;
        let mut server = zone.proxy(&web(), &zone.token("web-1").await).await.unwrap();
        let mut proxy = zone.proxy(&client(), &zone.token("client-1").await).await.unwrap();
        within("the certificates and the destination", async || {
            server.settle().await;
            proxy.settle().await;
            proxy.names(SDS).len() == 2 && proxy.endpoints().len() == 1
        })
        .await;
        let before = proxy.versions();
        let zone = zone.restart().await;
        let mut again = zone.proxy(&client(), &zone.token("client-1").await).await.unwrap();
        within("all of it", async || {
            again.settle().await;
            again.versions().len() == before.len()
        })
        .await;
        assert_eq!(again.versions(), before);
        zone.stop().await;
    });
}

#[test]
fn a_proxy_without_a_dataplane_keeps_what_it_has_and_holds_up_no_revision() {
    run(async {
        let zone = Zone::start().await;
        let mut proxy = zone.proxy(&web(), &zone.token("web-1").await).await.unwrap();
        within("its configuration", async || {
            proxy.settle().await;
            !proxy.names(LDS).is_empty()
        })
        .await;
        let before = proxy.versions();
        let revision = zone.delete("/meshes/default/dataplanes/web-1").await;
        let status = zone.done(revision, &mut [&mut proxy]).await;
        assert_eq!(status["zones"][0]["pending"], 0, "{status}");
        assert_eq!(proxy.versions(), before);
        zone.stop().await;
    });
}

#[test]
fn a_wrong_start_is_one_clear_sentence() {
    run(async {
        let zone = Zone::start().await;
        let mut config = zone.config();
        config.xds_bind = zone.running.xds;
        let error = Zone::refused(config).await;
        assert!(
            error.starts_with("cannot serve proxies: 127.0.0.1:")
                && error.ends_with("in use by another program"),
            "{error}"
        );
        let mut config = zone.config();
        config.zone = "west".into();
        let error = Zone::refused(config).await;
        assert!(error.contains("is the data directory of zone \"east\", not of \"west\""), "{error}");
        let error = Zone::refused(zone.config()).await;
        assert!(error.contains("in use by another process"), "{error}");
        let mut config = zone.config();
        config.data_dir = tempfile::tempdir().unwrap().keep();
        config.global = Some("https://127.0.0.1:1".into());
        config.global_ca_file = Some("/nowhere/ca.crt".into());
        config.zone_token_file = Some("/nowhere/token".into());
        let error = Zone::refused(config).await;
        assert_eq!(error, "cannot read the CA of global: there is no file /nowhere/ca.crt");
        zone.stop().await;
    });
}
