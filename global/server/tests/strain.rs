//! Three real nodes under floods at their doors.
mod nodes;

use nodes::{House, term};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{net::TcpStream, task::JoinSet, time::Instant};

/// How long it goes on. Any election would come in a tenth of it.
const STRAIN: Duration = Duration::from_secs(4);

const READERS: usize = 48;
const CALLERS: usize = 48;

/// Lists everything again and again.
async fn flood(http: reqwest::Client, url: String, goes_on: Arc<AtomicBool>, count: Arc<AtomicU64>) {
    while goes_on.load(Ordering::Relaxed) {
        if let Ok(answer) = http.get(&url).send().await
            && answer.bytes().await.is_ok()
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Shakes hands at the door of the zones and goes again.
async fn storm(link: std::net::SocketAddr, ca: String, goes_on: Arc<AtomicBool>, count: Arc<AtomicU64>) {
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(shared_node::tls::client_config(&ca).expect("roots"))
        .pool_max_idle_per_host(0);
    let http = http.build().expect("a client");
    while goes_on.load(Ordering::Relaxed) {
        // One that says nothing, and one that asks for what is not there.
        let silent = TcpStream::connect(link).await;
        if http.post(format!("https://{link}/weft.link.v1.ZoneLink/Open")).send().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
        drop(silent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_reads_and_storms_of_zones_cause_no_election() {
    let house = House::of_three(TempDir::new().expect("a directory")).await;
    let (leader, _) = house.leader().await;
    for number in 0..200 {
        assert_eq!(house.put(leader, &format!("mesh-{number}"), &[]).await.0, 201);
    }
    let before = term(&house.status(leader).await);
    let goes_on = Arc::new(AtomicBool::new(true));
    let (listed, called) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let ca = std::fs::read_to_string(house.nodes[leader].dir.join("tls/ca.crt")).expect("the CA");
    let mut strain = JoinSet::new();
    let url = format!("http://{}/meshes?size=1000", house.nodes[leader].api);
    for _ in 0..READERS {
        strain.spawn(flood(house.http.clone(), url.clone(), goes_on.clone(), listed.clone()));
    }
    for _ in 0..CALLERS {
        strain.spawn(storm(house.nodes[leader].link, ca.clone(), goes_on.clone(), called.clone()));
    }
    let begin = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut written = 0;
    while begin.elapsed() < STRAIN {
        let one = Instant::now();
        assert_eq!(house.put(leader, &format!("during-{written}"), &[]).await.0, 201);
        written += 1;
        slowest = slowest.max(one.elapsed());
    }
    goes_on.store(false, Ordering::Relaxed);
    while strain.join_next().await.is_some() {}
    let nodes = house.status(leader).await;
    eprintln!("{listed:?} lists, {called:?} calls, {written} writes, the slowest took {slowest:?}");
    assert_eq!(term(&nodes), before, "{nodes:#?}");
    assert_eq!(house.leader().await.0, leader);
    assert!(listed.load(Ordering::Relaxed) > 50 && called.load(Ordering::Relaxed) > 50);
}
