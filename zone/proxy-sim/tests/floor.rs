//! A fleet against the floor in one process: connects, follows pushes, and connects anew, in both protocols.
#![allow(clippy::unwrap_used)]
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use zone_proxy_sim::documents::Style;
use zone_proxy_sim::floor::{self, Config, Shape};
use zone_proxy_sim::report::Report;
use zone_proxy_sim::scenario::{self, Fresh, Register, Scenario, Settings};
use zone_proxy_sim::target::Address;
use zone_proxy_sim::wire::Protocol;

fn shape() -> Shape {
    Shape {
        proxies: 24,
        services: 6,
        scope: 2,
        seed: 5,
        cluster_bytes: 900,
        assignment_bytes: 700,
        listener_bytes: 700,
        route_bytes: 400,
        secret_bytes: 900,
    }
}

fn settings(address: Address, protocol: Protocol, scenarios: &[Scenario]) -> Settings {
    Settings {
        scenarios: scenarios.to_vec(),
        launch: None,
        federation: None,
        address: address.clone(),
        verify_against: Some(Fresh::At(address)),
        shape: shape(),
        style: Style::Tags,
        protocol: Some(protocol),
        register: Register::Metadata,
        duration: Duration::from_millis(500),
        rest: Duration::from_millis(500),
        rates: vec![20.0],
        rounds: 3,
        permissions: 20,
        routes: 10,
        replicas: 5,
        deadline: Duration::from_secs(30),
        extensions: 3,
        keep_bodies: true,
    }
}

async fn run(protocol: Protocol, scenarios: &[Scenario]) -> Report {
    shared_node::tls::install_crypto();
    let dir = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let config = Config { shape: shape(), data_dir: dir.path().into(), xds_bind: any, api_bind: any };
    let shutdown = CancellationToken::new();
    let running = floor::start(&config, &shutdown).unwrap();
    let ca_file: PathBuf = dir.path().join("tls/ca.crt");
    let address = Address {
        api: format!("http://{}", running.api),
        xds: format!("https://{}", running.xds),
        ca_file: Some(ca_file),
        pid: Some(std::process::id()),
    };
    let report = scenario::run(&settings(address, protocol, scenarios)).await.unwrap();
    shutdown.cancel();
    report
}

fn phase<'a>(report: &'a Report, name: &str) -> &'a zone_proxy_sim::report::Phase {
    report.phases.iter().find(|phase| phase.name == name).unwrap_or_else(|| panic!("no phase {name}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_gets_everything_by_delta_and_follows_what_changes() {
    let report = run(Protocol::Delta, &[Scenario::Endpoint, Scenario::Policy]).await;
    assert_eq!(phase(&report, "storm").spreads["full_ack_ms"].count, 24);
    let held = &report.holdings;
    assert_eq!(held["eds"].resources_per_proxy, 2.0);
    assert_eq!((held["lds"].resources_per_proxy, held["sds"].resources_per_proxy), (3.0, 2.0));
    // Two services of four instances reach the one that moves.
    let endpoint = phase(&report, "endpoint 20/s");
    assert_eq!(endpoint.figures["clients"], 8.0);
    assert_eq!(endpoint.spreads["each_client_ms"].count, 80);
    assert_eq!(endpoint.figures["responses_per_change"], 8.0);
    assert_eq!(phase(&report, "timeout of the mesh").figures["proxies_changed"], 24.0);
    assert_eq!(phase(&report, "timeout of one service").figures["proxies_changed"], 8.0);
    assert_eq!(phase(&report, "permission withdrawn").figures["proxies_changed"], 4.0);
    // The floor computes nothing, so a fresh fleet gets what was there before all changes.
    let verified = report.verified.as_ref().unwrap();
    assert_eq!(verified.proxies, 24);
    assert!(
        verified.equal < 24 && verified.differences.iter().any(|text| text.contains("differs")),
        "{verified}"
    );
    assert!(report.table().contains("timeout of the mesh"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_connects_anew_gets_nothing_again() {
    let report = run(Protocol::Delta, &[Scenario::Reconnect]).await;
    let reconnect = phase(&report, "reconnect");
    assert_eq!(reconnect.fleet.connects, 24);
    assert_eq!(reconnect.fleet.resources, 0);
    assert!(report.verified.as_ref().unwrap().is_good());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_of_the_world_reaches_the_same() {
    let report = run(Protocol::Sotw, &[Scenario::Storm]).await;
    assert_eq!(report.holdings["rds"].resources_per_proxy, 2.0);
    assert!(report.verified.as_ref().unwrap().is_good(), "{}", report.table());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_reaches_its_clients_and_nobody_else() {
    let report = run(Protocol::Delta, &[Scenario::Rollout, Scenario::Crowd]).await;
    let rollout = phase(&report, "rollout");
    // Two services of four instances; five replicas, of each of which one comes and one goes.
    assert_eq!((rollout.figures["clients"], rollout.spreads["stale_ms"].count), (8.0, 40));
    assert_eq!((rollout.figures["pushes_to_others"], rollout.figures["pushes_per_client"]), (0.0, 10.0));
    assert!(rollout.figures["stale_endpoint_seconds"] > 0.0);
    for phase in ["a permission", "a route"].map(|what| phase(&report, &format!("{what} in the crowd"))) {
        assert_eq!(phase.figures["proxies_changed"], 4.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_behave_are_told_from_those_that_do_not() {
    let report = run(Protocol::Delta, &[Scenario::Slow]).await;
    let slow = phase(&report, "some misbehave");
    assert!(slow.figures["clients"] <= 8.0);
    assert!(slow.fleet.connects >= 1, "one of the restless has connected anew");
    assert_eq!(report.verified.as_ref().unwrap().left_out, 3);
}
