//! Peers that hold a token, or none, and mean no good: each is sent away with a status, and the others see nothing of it.
// A test fails by panicking.
#![allow(clippy::unwrap_used)]
mod zone;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::rpc::Status as Refusal;
use serde_json::json;
use std::time::Duration;
use tonic::Code;
use zone::{CDS, EDS, LDS, Proxy, Zone, dataplane, within};

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

fn run(test: impl Future<Output = ()>) {
    zone_server::app::runtime().unwrap().block_on(async {
        shared_node::tls::install_crypto();
        tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test ends in time");
    });
}

async fn connect(zone: &Zone, name: &str, port: u16) -> Proxy {
    let mut proxy = zone.proxy(&dataplane(name, port, name, &[]), &zone.token(name).await).await.unwrap();
    within("its configuration", async || {
        proxy.settle().await;
        !proxy.names(LDS).is_empty()
    })
    .await;
    proxy
}

fn names(type_url: &str, names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.into(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    }
}

#[test]
fn a_peer_that_asks_for_too_much_is_let_go_and_the_others_stay() {
    run(async {
        let zone = Zone::start().await;
        let mut good = connect(&zone, "good", 18180).await;

        let mut greedy = connect(&zone, "greedy", 18181).await;
        let many: Vec<String> = (0..1_000_000).map(|i| format!("n{i}")).collect();
        for some in many.chunks(20_000) {
            if !greedy.say(names(EDS, some.to_vec())).await {
                break;
            }
        }
        assert_eq!(greedy.end().await.code(), Code::ResourceExhausted);

        let mut long = connect(&zone, "long", 18182).await;
        long.say(names(EDS, vec!["x".repeat(1 << 20)])).await;
        assert_eq!(long.end().await.code(), Code::ResourceExhausted);

        let mut huge = connect(&zone, "huge", 18183).await;
        huge.say(names(EDS, vec!["x".repeat(5 << 20)])).await;
        assert_ne!(huge.end().await.code(), Code::Ok);

        let mut other = connect(&zone, "other", 18184).await;
        let mut request = names(CDS, Vec::new());
        request.node = Some(Default::default());
        request.node.as_mut().unwrap().id = "default.good".into();
        other.say(request).await;
        assert_eq!(other.end().await.code(), Code::InvalidArgument);

        good.forget_changes();
        good.settle().await;
        assert!(good.changes().is_empty() && zone.is_ready().await);
        zone.stop().await;
    });
}

#[test]
fn answers_to_what_was_never_sent_change_nothing() {
    run(async {
        let zone = Zone::start().await;
        let mut proxy = connect(&zone, "web", 18180).await;
        for i in 0..1_000 {
            let refusal = Refusal { code: 13, message: "no".repeat(5_000), details: Vec::new() };
            let nonce = format!("made-up-{i}");
            let request = DeltaDiscoveryRequest {
                response_nonce: nonce,
                error_detail: Some(refusal),
                ..names(LDS, Vec::new())
            };
            assert!(proxy.say(request).await);
        }
        assert!(proxy.say(names("type.googleapis.com/not.a.Type", vec!["x".into()])).await);
        let timeout = json!({"type": "MeshTimeout", "mesh": "default", "name": "slow", "spec": {
            "rules": [{"default": {"http": {"requestTimeout": "7s"}}}]}});
        let revision = zone.apply(&timeout).await;
        let status = zone.done(revision, &mut [&mut proxy]).await;
        let seen = &status["zones"][0];
        assert_eq!((&seen["acknowledged"], &seen["refused"]), (&json!(1), &json!([])), "{status}");
        zone.stop().await;
    });
}

#[test]
fn rubbish_is_refused_before_anything_is_kept() {
    run(async {
        let zone = Zone::start().await;
        let base = format!("https://localhost:{}", zone.running.xds.port());
        // A connection of its own for each: what happens on one is not the next one's matter.
        let post = |path: &str| {
            let tls = shared_node::tls::client_config(&zone.running.ca_pem).unwrap();
            let http = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
            http.post(format!("{base}{path}"))
        };

        let body = format!("{{\"name\": \"{}\"}}", "x".repeat(2 << 20));
        // It may hang up before all of the body was sent.
        if let Ok(answer) = post("/bootstrap").body(body).send().await {
            assert_eq!(answer.status().as_u16(), 413);
        }
        let deep = "[".repeat(100_000);
        let answer = post("/bootstrap").body(deep).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (400, ""));

        // Node (field 1) with an id (field 1) that is no text; then a frame that says it is longer than it is allowed.
        for frame in [&[0, 0, 0, 0, 6, 0x0a, 4, 0x0a, 2, 0xff, 0xfe][..], &[0, 0xff, 0xff, 0xff, 0xff][..]] {
            let token = zone.token("web").await;
            let asked = post(DELTA).header("content-type", "application/grpc");
            let asked = asked.header("te", "trailers").header("authorization", token);
            let answer = asked.body(frame.to_vec()).send().await.unwrap();
            let status = answer.headers().get("grpc-status").and_then(|status| status.to_str().ok());
            assert!(status.is_some_and(|status| status != "0"), "{answer:?}");
        }
        assert!(zone.is_ready().await);
        connect(&zone, "web", 18180).await;
        zone.stop().await;
    });
}
