//! Three real `global-cp` processes, over real sockets, mutual TLS and their own disks.
use serde_json::{Value, json};
use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(40);

struct Node {
    name: String,
    dir: PathBuf,
    api: SocketAddr,
    link: SocketAddr,
    peers: SocketAddr,
    diagnostics: SocketAddr,
    https: SocketAddr,
    process: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports below those that the kernel gives to outgoing connections: a restarted process finds its own free.
fn port() -> SocketAddr {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let place = NEXT.fetch_add(1, Ordering::Relaxed);
        let first = 20_000 + (std::process::id() % 4_000) as u16 * 2;
        let address = SocketAddr::from(([127, 0, 0, 1], first + place));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

impl Node {
    fn new(home: &Path, name: &str) -> Node {
        Node {
            name: name.to_owned(),
            dir: home.join(name),
            api: port(),
            link: port(),
            peers: port(),
            diagnostics: port(),
            https: port(),
            process: None,
        }
    }

    fn start(&mut self, join: Option<(&Node, &Path)>) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_global-cp"));
        command.arg("run").arg("--data-dir").arg(&self.dir);
        for (flag, address) in [
            ("--api-bind", self.api),
            ("--api-https-bind", self.https),
            ("--link-bind", self.link),
            ("--peer-bind", self.peers),
            ("--diagnostics-bind", self.diagnostics),
        ] {
            command.arg(flag).arg(address.to_string());
        }
        if let Some((peer, token_file)) = join {
            command.arg("--join").arg(format!("https://{}", peer.peers));
            command.arg("--join-token-file").arg(token_file);
        }
        let log = self.dir.with_extension("log");
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        self.process = Some(command.spawn().expect("started"));
    }

    /// As kill -9 does it.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("ended");
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    async fn ready(&self, http: &reqwest::Client) {
        let url = format!("http://{}/readyz", self.diagnostics);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            assert!(Instant::now() < deadline, "{} is not ready: {}", self.name, self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

struct House {
    http: reqwest::Client,
    home: TempDir,
    nodes: Vec<Node>,
}

impl House {
    async fn of_three() -> House {
        shared_node::tls::install_crypto();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(Duration::from_secs(12));
        let home = TempDir::new().expect("a directory");
        let mut house = House { http: http.build().expect("a client"), home, nodes: Vec::new() };
        let mut first = Node::new(house.home.path(), "one");
        first.start(None);
        first.ready(&house.http).await;
        house.nodes.push(first);
        for name in ["two", "three"] {
            let mut node = Node::new(house.home.path(), name);
            let token = house.join_token(&node).await;
            node.start(Some((&house.nodes[0], &token)));
            node.ready(&house.http).await;
            house.nodes.push(node);
        }
        house
            .until_status("three voters", |nodes| {
                nodes.iter().filter(|node| node["role"] == "follower").count() == 2
            })
            .await;
        house
    }

    async fn join_token(&self, node: &Node) -> PathBuf {
        let url = format!("http://{}/_cluster/join-tokens", self.nodes[0].api);
        let answer = self.http.post(url).json(&json!({})).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let file = node.dir.with_extension("token");
        std::fs::write(&file, answer.text().await.expect("a token")).expect("written");
        file
    }

    /// Puts a Mesh; gives the status and the body.
    async fn put(&self, node: usize, name: &str, headers: &[(&str, &str)]) -> (u16, Value) {
        let url = format!("http://{}/meshes/{name}", self.nodes[node].api);
        let mut request = self.http.put(url).json(&json!({"type": "Mesh", "name": name}));
        for (header, value) in headers {
            request = request.header(*header, *value);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    async fn get(&self, node: usize, path: &str) -> (u16, Option<u64>, Value) {
        let url = format!("http://{}{path}", self.nodes[node].api);
        let answer = self.http.get(url).send().await.expect("an answer");
        let seen = answer.headers().get("weft-revision");
        let seen = seen.and_then(|value| value.to_str().ok()?.parse().ok());
        (answer.status().as_u16(), seen, answer.json().await.expect("JSON"))
    }

    async fn status(&self, node: usize) -> Vec<Value> {
        let (status, _, body) = self.get(node, "/_cluster").await;
        assert_eq!(status, 200, "{body}");
        body["nodes"].as_array().expect("nodes").clone()
    }

    async fn until_status(&self, what: &str, holds: impl Fn(&[Value]) -> bool) {
        let alive = self.nodes.iter().position(|node| node.process.is_some()).expect("a process");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let nodes = self.status(alive).await;
            if holds(&nodes) {
                return;
            }
            let logs: Vec<String> = self.nodes.iter().map(Node::log).collect();
            assert!(Instant::now() < deadline, "{what}: {nodes:#?}\n{}", logs.join("\n---\n"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The place of the leader, and its id.
    async fn leader(&self) -> (usize, String) {
        self.until_status("a leader", |nodes| nodes.iter().any(|node| node["role"] == "leader")).await;
        let alive = self.nodes.iter().position(|node| node.process.is_some()).expect("a process");
        let nodes = self.status(alive).await;
        let leader = nodes.iter().find(|node| node["role"] == "leader").expect("a leader");
        let place = self.nodes.iter().position(|node| leader["address"] == node.peers.to_string());
        (place.expect("one of ours"), leader["node"].as_str().expect("an id").to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_are_one_control_plane() {
    let mut house = House::of_three().await;
    // Written anywhere, read everywhere, at the revision that the answer names.
    for writer in 0..3 {
        let (status, body) = house.put(writer, &format!("m{writer}"), &[]).await;
        assert_eq!(status, 201, "{body}");
        let revision = body["revision"].as_u64().expect("a revision");
        for reader in 0..3 {
            let (status, seen, _) = house.get(reader, &format!("/meshes/m{writer}")).await;
            assert_eq!(status, 200);
            assert!(seen.expect("a revision") >= revision);
        }
    }
    // The same write again, anywhere, counts once.
    let key = [("idempotency-key", "k1"), ("if-none-match", "*")];
    let first = house.put(1, "once", &key).await;
    assert_eq!(first.0, 201);
    assert_eq!(house.put(2, "once", &key).await, first);
    assert_eq!(house.put(2, "once", &[("if-none-match", "*")]).await.0, 409);
    // Tokens of one node are good at all: they share the keys.
    let url = format!("http://{}/tokens/user", house.nodes[2].api);
    let asked = json!({"name": "jane", "validFor": "1h"});
    let answer = house.http.post(url).json(&asked).send().await.expect("an answer");
    let user = answer.text().await.expect("a token");
    let url = format!("http://{}/who-am-i", house.nodes[0].api);
    let answer = house.http.get(url).bearer_auth(user).send().await.expect("an answer");
    assert_eq!(answer.json::<Value>().await.expect("JSON")["name"], "jane");

    // A token is good once, and only with the CA that it names.
    let mut fourth = Node::new(house.home.path(), "four");
    let token = house.join_token(&fourth).await;
    let text = std::fs::read_to_string(&token).expect("a token");
    let (head, fingerprint) = text.rsplit_once('.').expect("four parts");
    let other = fingerprint.chars().rev().collect::<String>();
    std::fs::write(&token, format!("{head}.{other}")).expect("written");
    fourth.start(Some((&house.nodes[0], &token)));
    let ended = fourth.process.as_mut().expect("a process").wait().expect("an end");
    assert!(!ended.success());
    assert!(fourth.log().contains("UnknownIssuer"), "{}", fourth.log());
    assert!(!fourth.dir.join("seal.key").exists());

    // The leader dies under writes.
    let (leader, _) = house.leader().await;
    house.nodes[leader].kill();
    let survivor = (leader + 1) % 3;
    let begin = Instant::now();
    let (status, body) = house.put(survivor, "after", &[]).await;
    println!("a write went on {:?} after the leader's death", begin.elapsed());
    assert_eq!(status, 201, "{body}");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    house.nodes[leader].start(None);
    let http = house.http.clone();
    house.nodes[leader].ready(&http).await;
    assert_eq!(house.get(leader, "/meshes/after").await.0, 200);

    // Handed over.
    let (old, _) = house.leader().await;
    let nodes = house.status(0).await;
    let target = nodes.iter().find(|node| node["role"] == "follower").expect("a follower");
    let path = format!("/_cluster/nodes/{}/transfer-leadership", target["node"].as_str().expect("an id"));
    let url = format!("http://{}{path}", house.nodes[old].api);
    let answer = house.http.post(url).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.text().await.expect("text"));
    assert_eq!(house.leader().await.1, target["node"]);

    // A node loses its disk: not under its old id, not as a new cluster; with a new token in its old place.
    let (leader, _) = house.leader().await;
    let lost = (leader + 1) % 3;
    house.nodes[lost].kill();
    std::fs::remove_dir_all(house.nodes[lost].dir.join("raft")).expect("removed");
    house.nodes[lost].start(None);
    let ended = house.nodes[lost].process.take().expect("a process").wait().expect("an end");
    assert!(!ended.success() && house.nodes[lost].log().contains("--join"), "{}", house.nodes[lost].log());
    house.nodes.swap(0, leader);
    let lost = if lost == 0 { leader } else { lost };
    let token = house.join_token(&house.nodes[lost]).await;
    let (head, tail) = house.nodes.split_at_mut(lost);
    tail[0].start(Some((&head[0], &token)));
    house.nodes[lost].ready(&http).await;
    house
        .until_status("three voters again", |nodes| {
            nodes.len() == 3 && nodes.iter().filter(|node| node["role"] == "follower").count() == 2
        })
        .await;
    assert_eq!(house.get(lost, "/meshes/after").await.0, 200);

    // Without a majority: nothing new, and what is there only for those who ask for it.
    house.nodes[1].kill();
    house.nodes[2].kill();
    let (status, _, body) = house.get(0, "/meshes/after").await;
    assert_eq!(status, 503);
    assert!(body["detail"].as_str().expect("a detail").contains("?consistency=stale"), "{body}");
    let (status, seen, _) = house.get(0, "/meshes/after?consistency=stale").await;
    assert!(status == 200 && seen.is_some());
    let (status, body) = house.put(0, "late", &[]).await;
    assert_eq!(status, 503, "{body}");
    for place in [1, 2] {
        house.nodes[place].start(None);
        house.nodes[place].ready(&http).await;
    }
    assert_eq!(house.put(2, "at-last", &[]).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_finds_all_nodes_and_follows_whoever_leads() {
    let zone_cp = zone_cp();
    let mut house = House::of_three().await;
    let http = house.http.clone();
    let dir = house.home.path().join("zone");
    std::fs::create_dir_all(&dir).expect("made");
    let url = format!("http://{}/tokens/zone", house.nodes[0].api);
    let asked = json!({"zone": "east", "scope": ["cp"], "validFor": "1h"});
    let answer = http.post(url).json(&asked).send().await.expect("an answer");
    std::fs::write(dir.join("token"), answer.text().await.expect("a token")).expect("written");
    let (api, xds, diagnostics) = (port(), port(), port());
    let (seed, ca) = (format!("https://{}", house.nodes[0].link), house.nodes[0].dir.join("tls/ca.crt"));
    let start = || {
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).expect("a log");
        Command::new(&zone_cp)
            .args(["run", "--zone", "east", "--data-dir"])
            .arg(dir.join("data"))
            // Only one is named.
            .arg("--global")
            .arg(&seed)
            .arg("--global-ca-file")
            .arg(&ca)
            .arg("--zone-token-file")
            .arg(dir.join("token"))
            .args(["--api-bind", &api.to_string(), "--xds-bind", &xds.to_string()])
            .args(["--diagnostics-bind", &diagnostics.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("started")
    };
    let mut zone = Node::new(house.home.path(), "zone-process");
    zone.process = Some(start());
    let zone_log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    let has = async |mesh: &str| {
        let url = format!("http://{api}/meshes/{mesh}");
        let deadline = Instant::now() + PATIENCE;
        while !http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200) {
            assert!(Instant::now() < deadline, "the zone lacks {mesh}: {}", zone_log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let online = async |house: &House, node: usize| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, _, status) = house.get(node, "/_revisions/1?consistency=stale").await;
            if status["zones"][0]["online"] == true {
                return;
            }
            assert!(Instant::now() < deadline, "not linked to {node}: {status} {}", zone_log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(house.put(1, "before", &[]).await.0, 201);
    has("before").await;
    for node in 0..3 {
        online(&house, node).await;
    }
    // The zone is not in the way of an election, and the new leader has a link to it already.
    let (leader, _) = house.leader().await;
    house.nodes[leader].kill();
    assert_eq!(house.put((leader + 1) % 3, "after", &[]).await.0, 201);
    let begin = Instant::now();
    has("after").await;
    println!("the zone had the first write of the new leader after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());

    // The one that was named stays dead; the zone finds the others again from its own disk.
    house.nodes[leader].start(None);
    house.nodes[leader].ready(&http).await;
    house.until_status("all are there", |nodes| nodes.iter().all(|node| node["lag"].is_u64())).await;
    zone.kill();
    house.nodes[0].kill();
    assert_eq!(house.put(1, "meanwhile", &[]).await.0, 201);
    zone.process = Some(start());
    has("meanwhile").await;
    online(&house, 1).await;
    online(&house, 2).await;
}

/// Beside this package's own programs; built when only this package was.
fn zone_cp() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_global-cp")).with_file_name("zone-cp");
    if !program.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "zone-server", "--bin", "zone-cp"]);
        assert!(build.status().expect("cargo").success());
    }
    program
}
