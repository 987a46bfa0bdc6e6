//! State-of-the-world ADS: its clients get what those of delta get.
// A test fails by panicking.
#![allow(clippy::unwrap_used)]
mod zone;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use serde_json::{Value, json};
use shared_model::core::Secret;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tonic::Code;
use zone::{CDS, EDS, Held, LDS, RDS, SDS, Zone, dataplane, within};

fn run(test: impl Future<Output = ()>) {
    zone_server::app::runtime().unwrap().block_on(async {
        shared_node::tls::install_crypto();
        tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test ends in time");
    });
}

fn web() -> Value {
    dataplane("web-1", 18080, "web", &[])
}

fn client(outbounds: &[(u16, &str)]) -> Value {
    dataplane("client-1", 18081, "client", outbounds)
}

fn mtls() -> Value {
    json!({"type": "Mesh", "name": "default",
        "mtls": {"enabledBackend": "ca", "backends": [{"name": "ca", "type": "builtin"}]}})
}

fn timeout(request: &str) -> Value {
    json!({"type": "MeshTimeout", "mesh": "default", "name": "slow", "spec": {
        "targetRef": {"kind": "Mesh"},
        "to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": {"requestTimeout": request}}}]}})
}

/// All bodies; of secrets the names, for each stream has its own certificate.
fn content(held: &Held) -> BTreeMap<(String, String), Vec<u8>> {
    let all = held.iter().flat_map(|(kind, all)| all.values().map(move |resource| (kind, resource)));
    all.map(|(kind, resource)| {
        let body = if kind == SDS { Vec::new() } else { resource.resource.clone().unwrap().value };
        ((kind.clone(), resource.name.clone()), body)
    })
    .collect()
}

#[test]
fn a_client_gets_what_one_of_delta_gets_and_follows_changes() {
    run(async {
        let zone = Zone::start().await;
        zone.apply(&mtls()).await;
        let mut server = zone.proxy(&web(), &zone.token("web-1").await).await.unwrap();
        server.settle().await;
        zone.apply(&dataplane("db-1", 18082, "db", &[])).await;
        let both = client(&[(18090, "web"), (18091, "db")]);
        let token = zone.token("client-1").await;
        let mut proxy = zone.whole_proxy(&both, &token).await.unwrap();
        within("its configuration", async || {
            server.settle().await;
            proxy.settle().await;
            proxy.names(SDS).len() == 2 && !proxy.names(EDS).is_empty() && proxy.names(LDS).len() == 3
        })
        .await;

        let before = content(&proxy.held);
        let revision = zone.apply(&timeout("7s")).await;
        zone.done_by(revision, &mut proxy).await;
        server.settle().await;
        let after = content(&proxy.held);
        let changed: Vec<&(String, String)> =
            after.iter().filter(|(key, body)| before.get(*key) != Some(*body)).map(|(key, _)| key).collect();
        assert!(changed.iter().any(|(kind, _)| kind == RDS), "{changed:?}");

        let revision = zone.apply(&client(&[(18090, "web")])).await;
        zone.done_by(revision, &mut proxy).await;
        server.settle().await;
        let listeners = proxy.names(LDS);
        assert_eq!(listeners, ["inbound:127.0.0.1:18081", "outbound:127.0.0.1:18090"]);
        let whole = content(&proxy.held);
        assert!(whole.len() < after.len(), "clusters and routes have gone with the listener");

        // The newer stream of the same proxy takes over.
        let mut other = zone.proxy(&client(&[(18090, "web")]), &token).await.unwrap();
        assert_eq!(proxy.end().await.code(), Code::Aborted);
        within("what it had before", async || {
            other.settle().await;
            server.settle().await;
            content(&other.held) == whole
        })
        .await;
        zone.stop().await;
    });
}

#[test]
fn what_is_refused_is_held_back_and_told_and_the_rest_arrives() {
    run(async {
        let zone = Zone::start().await;
        zone.apply(&web()).await;
        zone.apply(&dataplane("db-1", 18082, "db", &[])).await;
        let mut proxy = zone.whole_proxy(&client(&[]), &zone.token("client-1").await).await.unwrap();
        within("its configuration", async || {
            proxy.settle().await;
            proxy.names(LDS) == ["inbound:127.0.0.1:18081"]
        })
        .await;
        proxy.refuse = Some(LDS);
        let revision = zone.apply(&client(&[(18090, "web"), (18091, "db")])).await;
        let status = zone.done_by(revision, &mut proxy).await;
        let refused = &status["zones"][0]["refused"][0];
        assert_eq!(
            (&refused["mesh"], &refused["proxy"]),
            (&json!("default"), &json!("client-1")),
            "{status}"
        );
        assert!(refused["reason"].as_str().unwrap().contains("refused by the test"), "{status}");
        assert_eq!(proxy.names(LDS), ["inbound:127.0.0.1:18081"]);
        proxy.refuse = None;
        let revision = zone.apply(&client(&[(18092, "web")])).await;
        let status = zone.done_by(revision, &mut proxy).await;
        assert_eq!(status["zones"][0]["refused"], json!([]), "{status}");
        assert_eq!(proxy.names(LDS), ["inbound:127.0.0.1:18081", "outbound:127.0.0.1:18092"]);
        zone.stop().await;
    });
}

#[test]
fn a_peer_that_means_no_good_is_let_go() {
    run(async {
        let zone = Zone::start().await;
        let refused = zone.whole_proxy(&web(), "rubbish").await.err().expect("refused");
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        let token = zone.token("web-1").await;
        let asked = |type_url: &str, names: Vec<String>| DiscoveryRequest {
            type_url: type_url.into(),
            resource_names: names,
            ..DiscoveryRequest::default()
        };

        let mut greedy = zone.whole_proxy(&web(), &token).await.unwrap();
        greedy.ask(asked(EDS, (0..30_000).map(|i| format!("n{i}")).collect())).await;
        assert_eq!(greedy.end().await.code(), Code::ResourceExhausted);

        let mut other = zone.whole_proxy(&web(), &token).await.unwrap();
        let mut request = asked(CDS, Vec::new());
        request.node = Some(Default::default());
        request.node.as_mut().unwrap().id = "default.another".into();
        other.ask(request).await;
        assert_eq!(other.end().await.code(), Code::InvalidArgument);

        // What was never sent cannot be answered, nor a type be asked for that there is not.
        let mut proxy = zone.whole_proxy(&web(), &token).await.unwrap();
        let mut made_up = asked(LDS, vec!["x".into()]);
        made_up.response_nonce = "made-up".into();
        proxy.ask(made_up).await;
        proxy.ask(asked("type.googleapis.com/not.a.Type", vec!["x".into()])).await;
        within("its configuration", async || {
            proxy.settle().await;
            proxy.names(LDS) == ["inbound:127.0.0.1:18080"]
        })
        .await;
        zone.stop().await;
    });
}

/// An Envoy that was told to speak state of the world.
struct Envoy {
    child: Child,
    admin: u16,
    log: PathBuf,
}

impl Envoy {
    /// None where there is no Envoy.
    async fn start(zone: &Zone, dataplane: &Value, dir: &Path) -> Option<Envoy> {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/envoy");
        let program = std::env::var_os("WEFT_ENVOY").map_or(tool, PathBuf::from);
        if !program.exists() {
            return None;
        }
        let (name, [admin]) = (dataplane["name"].as_str().unwrap(), free_ports());
        let request = json!({"mesh": "default", "name": name, "dataplaneToken": zone.token(name).await,
            "dataplaneResource": dataplane.to_string()});
        let (status, body) = zone.bootstrap(&request).await;
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let text = Secret { data: answer["bootstrap"].as_str().unwrap().to_owned() }.bytes().unwrap();
        let mut bootstrap: Value = serde_json::from_slice(&text).unwrap();
        bootstrap["dynamicResources"]["adsConfig"]["apiType"] = json!("GRPC");
        bootstrap["admin"]["address"]["socketAddress"]["portValue"] = json!(admin);
        let (config, log) = (dir.join("envoy.json"), dir.join("envoy.log"));
        std::fs::write(&config, bootstrap.to_string()).unwrap();
        let child = Command::new(program)
            .args(["--disable-hot-restart", "--concurrency", "1", "--drain-time-s", "1", "-c"])
            .arg(config)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Some(Envoy { child, admin, log })
    }

    async fn admin(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.admin);
        match reqwest::get(url).await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    }

    /// Waits until it has just these listeners.
    async fn listens(&self, ports: &[u16]) {
        let has = async || {
            let listeners = self.admin("/listeners").await;
            listeners.lines().count() == ports.len()
                && ports.iter().all(|port| listeners.contains(&format!("127.0.0.1:{port}\n")))
        };
        if tokio::time::timeout(Duration::from_secs(30), within("listeners", has)).await.is_err() {
            panic!("{}", self.said().await);
        }
    }

    async fn stat(&self, name: &str) -> u64 {
        let stats = self.admin(&format!("/stats?filter=^{name}$")).await;
        let value = stats.trim().strip_prefix(name).and_then(|rest| rest.strip_prefix(": "));
        value.unwrap_or_else(|| panic!("{stats}")).parse().unwrap()
    }

    async fn said(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        format!("{}\n{log}", self.admin("/listeners").await)
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that nobody had a moment ago.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

#[test]
fn an_envoy_comes_up_follows_and_loses_nothing_when_it_refuses_after_a_reconnection() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let [xds, inbound, first, second] = free_ports();
        let fixed = |config: &mut zone_server::config::Config| config.xds_bind.set_port(xds);
        let zone = Zone::start_with(tempfile::tempdir().unwrap(), fixed).await;
        zone.apply(&mtls()).await;
        zone.apply(&web()).await;
        zone.apply(&dataplane("db-1", 18082, "db", &[])).await;
        let client = |outbounds: &[(u16, &str)]| dataplane("client-1", inbound, "client", outbounds);
        // Somebody else has the port of one listener.
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let bad = taken.local_addr().unwrap().port();
        let all = client(&[(first, "web"), (bad, "db"), (second, "db")]);
        let Some(envoy) = Envoy::start(&zone, &all, dir.path()).await else { return };
        envoy.listens(&[inbound, first, second]).await;
        assert!(envoy.admin("/ready").await.contains("LIVE"), "{}", envoy.said().await);
        let overview = zone.get("/meshes/default/dataplanes/client-1/_overview").await.unwrap();
        let problems = overview["dataplaneInsight"]["problems"].to_string();
        assert!(problems.contains(&format!("refused outbound:127.0.0.1:{bad}: ")), "{problems}");
        assert!(problems.contains("cannot bind") && !problems.contains(&second.to_string()), "{problems}");

        let revision = zone.apply(&timeout("7s")).await;
        let status = zone.done(revision, &mut []).await;
        assert_eq!(status["zones"][0]["refused"], json!([]), "{status}");
        zone.done(zone.apply(&client(&[(first, "web"), (bad, "db")])).await, &mut []).await;
        envoy.listens(&[inbound, first]).await;
        zone.done(zone.apply(&all).await, &mut []).await;
        envoy.listens(&[inbound, first, second]).await;

        // Clusters that change warm until their endpoints come once more: Envoy would wait 15 s for them.
        let since = Instant::now();
        zone.done(zone.apply(&json!({"type": "Mesh", "name": "default"})).await, &mut []).await;
        assert!(since.elapsed() < Duration::from_secs(10), "{}", envoy.said().await);
        assert_eq!(envoy.stat("cluster_manager.warming_clusters").await, 0);

        let removed = envoy.stat("listener_manager.listener_removed").await;
        let before = envoy.stat("listener_manager.lds.update_rejected").await;
        let zone = zone.restart().await;
        within("another refusal", async || envoy.stat("listener_manager.lds.update_rejected").await > before)
            .await;
        zone.done(zone.apply(&timeout("8s")).await, &mut []).await;
        envoy.listens(&[inbound, first, second]).await;
        assert_eq!(envoy.stat("listener_manager.listener_removed").await, removed, "{}", envoy.said().await);
        zone.stop().await;
    });
}
