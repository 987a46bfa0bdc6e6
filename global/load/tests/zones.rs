//! Simulated zones against a real global.
use global_server::{app::App, config::Config};
use serde_json::Value;
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::{process::Command, time::timeout};
use tokio_util::sync::CancellationToken;

const ZONES: u64 = 3;
const RESOURCES: u64 = 200;
const CHANGES: u64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn zones_follow_come_back_and_get_only_what_they_lack() {
    shared_node::tls::install_crypto();
    let dir = tempfile::tempdir().expect("a directory");
    let port = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        data_dir: dir.path().join("global"),
        api_bind: port,
        api_https_bind: port,
        link_bind: port,
        diagnostics_bind: port,
        peer_bind: port,
        ..Config::default()
    };
    let shutdown = CancellationToken::new();
    let app = App::start(config, shutdown.clone()).await.expect("a control plane");
    let addresses = app.addresses;
    let running = tokio::spawn(app.wait());

    let mut load = Command::new(env!("CARGO_BIN_EXE_write-load"));
    load.arg("zones")
        .args(["--target", &format!("https://localhost:{}", addresses.api_https.port())])
        .args(["--link", &format!("https://localhost:{}", addresses.link.port())])
        .arg("--ca-file")
        .arg(dir.path().join("global/tls/ca.crt"))
        .arg("--token-file")
        .arg(dir.path().join("global/admin-token"))
        .arg("--dir")
        .arg(dir.path().join("zones"));
    let numbers = [
        ("--count", ZONES),
        ("--policies", 5),
        ("--reconnect", 1),
        ("--calm", 0),
        ("--newcomer", RESOURCES),
        ("--changes", CHANGES),
    ];
    load.args(numbers.iter().flat_map(|(flag, number)| [flag.to_string(), number.to_string()]));
    let output = timeout(Duration::from_secs(120), load.kill_on_drop(true).output()).await;
    let output = output.expect("in time").expect("an end");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let told: BTreeMap<String, Value> =
        lines.map(|line| (line["what"].as_str().expect("what it is").to_owned(), line)).collect();
    shutdown.cancel();
    timeout(Duration::from_secs(30), running).await.expect("an end").expect("no panic").expect("a good end");

    assert_eq!(told["following"]["links"], ZONES);
    assert_eq!(told["policies"]["after_sending"]["count"], 5);
    // It is broken after twenty; the last of them may end during the break.
    assert!(told["reconnect"]["before"]["count"].as_u64() >= Some(10), "{text}");
    assert!(told["newcomer"]["resources"].as_u64() >= Some(RESOURCES), "{text}");
    let back = &told["return"];
    assert!(back["resources"].as_u64() >= Some(RESOURCES + CHANGES), "{text}");
    assert_eq!((&back["zones"], &back["snapshot_chunks"]), (&(ZONES + 1).into(), &0.into()));
    // At least what has changed, and far from all that there is.
    let ratio = back["bytes_per_changed_byte"].as_f64().expect("a number");
    assert!((1.0..3.0).contains(&ratio), "{text}");
}
