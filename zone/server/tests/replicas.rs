//! Two processes of one zone behind one name, with proxies at each, and what global tells of them together.
// A test fails by panicking.
#![allow(clippy::unwrap_used)]
mod real;
mod zone;

use real::{Global, follow, for_proxy, run};
use serde_json::{Value, json};
use zone::{RDS, Zone, dataplane, within};

async fn proxy_of(zone: &Zone, global: &Global, name: &str, service: &str) -> zone::Proxy {
    let token = global.ask("dataplane", &for_proxy(name)).await;
    let resource = dataplane(name, 18080, service, &[(18090, service)]);
    // Global has made the key just now.
    within("the zone knows the key", async || zone.proxy(&resource, &token).await.is_ok()).await;
    let mut proxy = zone.proxy(&resource, &token).await.unwrap();
    within("the proxy reaches its service", async || {
        proxy.settle().await;
        !proxy.names(RDS).is_empty()
    })
    .await;
    proxy
}

async fn timeout(global: &Global, request: &str) -> u64 {
    let spec = json!({"targetRef": {"kind": "Mesh"},
        "to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": {"requestTimeout": request}}}]});
    let body = json!({"type": "MeshTimeout", "mesh": "default", "name": "slow", "spec": spec});
    global.put("/meshes/default/meshtimeouts/slow", &body).await
}

/// Lets the proxies answer until global says that the revision is done and has touched so many.
async fn done(global: &Global, revision: u64, touched: u64, proxies: &mut [&mut zone::Proxy]) -> Value {
    let mut last = Value::Null;
    within("the revision is done", async || {
        for proxy in &mut *proxies {
            proxy.settle().await;
        }
        let status = global.get(&format!("/_revisions/{revision}")).await;
        last = status["zones"][0].clone();
        status["done"] == true && last["touched"] == touched
    })
    .await;
    last
}

#[test]
fn what_two_processes_of_a_zone_say_is_told_as_one() {
    run(async {
        let global = Global::start().await;
        let one = follow(&global, |_| {}).await;
        let zone = global.get("/zones/east").await;
        let id = zone["status"]["zoneId"].as_str().unwrap().to_owned();
        let two = follow(&global, |config| config.zone_id = Some(id.clone())).await;
        let mut first = proxy_of(&one, &global, "web-1", "web").await;
        let mut second = proxy_of(&two, &global, "api-1", "api").await;

        let revision = timeout(&global, "7s").await;
        let told = done(&global, revision, 2, &mut [&mut first, &mut second]).await;
        assert_eq!((&told["acknowledged"], &told["pending"]), (&json!(2), &json!(0)), "{told}");
        assert_eq!(global.get("/zones").await["total"], 1);
        within("global lists the proxies of both", async || {
            global.get("/meshes/default/dataplanes").await["total"] == 2
        })
        .await;

        // Of one that has gone nothing is waited for.
        drop(first);
        one.stop().await;
        let revision = timeout(&global, "8s").await;
        let told = done(&global, revision, 1, &mut [&mut second]).await;
        assert_eq!((&told["acknowledged"], &told["online"]), (&json!(1), &json!(true)), "{told}");
        drop(second);
        two.stop().await;
        global.stop().await;
    });
}
