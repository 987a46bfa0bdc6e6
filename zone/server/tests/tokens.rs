//! Tokens in a zone that follows a real global: asked for at the zone, signed by global, checked without global.
// A test fails by panicking.
#![allow(clippy::unwrap_used)]
mod real;
mod zone;

use base64::Engine as _;
use real::{Global, follow, for_proxy, run};
use serde_json::{Value, json};
use shared_identity::names::Purpose;
use shared_identity::token::{self, DataplaneClaims, SigningKey};
use shared_model::core::Secret;
use std::time::Duration;
use zone::{LDS, dataplane, within};

fn claims(token: &str) -> Value {
    let body = token.trim().split('.').nth(1).unwrap();
    let decoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(body).unwrap();
    serde_json::from_slice(&decoded).unwrap()
}

#[test]
fn a_zone_takes_its_users_requests_for_tokens_to_global() {
    run(async {
        let global = Global::start().await;
        let zone = follow(&global, |_| {}).await;
        let admin = std::fs::read_to_string(global.dir.path().join("admin-token")).unwrap();

        let (status, token) = zone.ask_token("dataplane", Some(&admin), &for_proxy("web-1")).await;
        assert_eq!((status, claims(&token)["Name"].as_str()), (200, Some("web-1")), "{token}");
        // Global has made its first key for the mesh just now.
        let web = dataplane("web-1", 18080, "web", &[]);
        within("the zone knows the key", async || zone.proxy(&web, &token).await.is_ok()).await;
        let asked = json!({"zone": "west", "scope": ["cp"], "validFor": "1h"});
        let (status, token) = zone.ask_token("zone", Some(&admin), &asked).await;
        assert_eq!((status, claims(&token)["Zone"].as_str()), (200, Some("west")), "{token}");
        let (status, jane) =
            zone.ask_token("user", Some(&admin), &json!({"name": "jane", "validFor": "1h"})).await;
        assert_eq!((status, claims(&jane)["Name"].as_str()), (200, Some("jane")), "{jane}");

        // Who may not there, may not here; and to call from the zone's host is nothing to global.
        let (status, why) = zone.ask_token("dataplane", Some(&jane), &for_proxy("web-1")).await;
        assert!(status == 403 && why.contains("jane"), "{status} {why}");
        let (status, why) = zone.ask_token("dataplane", None, &for_proxy("web-1")).await;
        assert!(status == 401 && why.contains("--token-file"), "{status} {why}");
        // What is wrong global says, in its own words.
        let (status, why) =
            zone.ask_token("dataplane", Some(&admin), &json!({"mesh": "nope", "validFor": "1h"})).await;
        assert!(status == 400 && why.contains("there is no mesh"), "{status} {why}");
        let (status, why) = zone.ask_token("dataplane", Some(&admin), &json!({"meesh": "default"})).await;
        assert!(status == 400 && why.contains("meesh"), "{status} {why}");
        let huge = json!({"mesh": "default", "name": "x".repeat(100_000)});
        assert_eq!(zone.ask_token("dataplane", Some(&admin), &huge).await.0, 413);

        let _files = global.stop().await;
        let (status, why) = zone.ask_token("dataplane", Some(&admin), &for_proxy("web-2")).await;
        assert!(status == 503 && why.contains("global signs the tokens"), "{status} {why}");
        zone.stop().await;
    });
}

#[test]
fn tokens_are_checked_when_global_is_away() {
    run(async {
        let global = Global::start().await;
        let zone = follow(&global, |_| {}).await;
        let [good, revoked, other] = [
            global.ask("dataplane", &for_proxy("web-1")).await,
            global.ask("dataplane", &for_proxy("web-2")).await,
            global.ask("dataplane", &for_proxy("web-3")).await,
        ];
        let list = Purpose::Dataplane { mesh: "default".into() }.revocations();
        let secret = Secret::of(claims(&revoked)["jti"].as_str().unwrap().as_bytes());
        let body = json!({"type": "Secret", "mesh": "default", "name": list.name, "data": secret.data});
        let path = format!("/meshes/default/secrets/{}", list.name);
        global.put(&path, &body).await;
        within("the zone has the revocation", async || zone.get(&path).await.is_some()).await;
        let _files = global.stop().await;

        // From the disk, too: the zone has not seen global in this life.
        let zone = zone.restart().await;
        within("the zone is ready without global", async || zone.is_ready().await).await;
        let [web_1, web_2] = ["web-1", "web-2"].map(|name| dataplane(name, 18080, "web", &[]));
        let mut proxy = zone.proxy(&web_1, &good).await.unwrap();
        within("the proxy that was never here is configured", async || {
            proxy.settle().await;
            !proxy.names(LDS).is_empty()
        })
        .await;

        let key = SigningKey::generate("1").unwrap();
        let claims = DataplaneClaims { name: "web-2".into(), mesh: "default".into(), ..Default::default() };
        let forged =
            token::issue(&key, &claims, "1", shared_node::time::now(), Duration::from_secs(3600)).unwrap();
        let altered = {
            let parts: Vec<&str> = good.trim().split('.').collect();
            format!("{}.{}.{}", parts[0], other.trim().split('.').nth(1).unwrap(), parts[2])
        };
        for (token, wanted) in [
            (revoked.as_str(), "revoked"),
            (&forged, "signature"),
            (&altered, "signature"),
            (&other, "web-3"),
            ("", "token"),
        ] {
            let status = zone.proxy(&web_2, token).await.err().expect("refused");
            assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status}");
            assert!(status.message().contains(wanted), "{status} should say {wanted:?}");
        }
        drop(proxy);
        zone.stop().await;
    });
}
