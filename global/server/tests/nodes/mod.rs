//! Three real `global-cp` processes, over real sockets, mutual TLS and their own disks.
// Each test program uses its own part.
#![allow(dead_code)]
use serde_json::{Value, json};
use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::Instant;

pub const PATIENCE: Duration = Duration::from_secs(40);

pub struct Node {
    pub name: String,
    pub dir: PathBuf,
    pub api: SocketAddr,
    pub link: SocketAddr,
    pub peers: SocketAddr,
    pub diagnostics: SocketAddr,
    pub https: SocketAddr,
    /// Further arguments.
    pub args: Vec<String>,
    pub process: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports below those that the kernel gives to outgoing connections: a restarted process finds its own free.
pub fn port() -> SocketAddr {
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
    pub fn new(home: &Path, name: &str) -> Node {
        Node {
            name: name.to_owned(),
            dir: home.join(name),
            api: port(),
            link: port(),
            peers: port(),
            diagnostics: port(),
            https: port(),
            args: Vec::new(),
            process: None,
        }
    }

    pub fn start(&mut self, join: Option<(&Node, &Path)>) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_global-cp"));
        command.arg("run").arg("--data-dir").arg(&self.dir).args(["--disk-reserve", "1"]);
        for (flag, address) in [
            ("--api-bind", self.api),
            ("--api-https-bind", self.https),
            ("--link-bind", self.link),
            ("--peer-bind", self.peers),
            ("--diagnostics-bind", self.diagnostics),
        ] {
            command.arg(flag).arg(address.to_string());
        }
        command.args(&self.args);
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
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("ended");
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    pub async fn ready(&self, http: &reqwest::Client) {
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

pub struct House {
    pub http: reqwest::Client,
    pub home: TempDir,
    pub nodes: Vec<Node>,
}

impl House {
    /// Nodes `one`, `two` and `three`, each with its data under its name.
    pub async fn of_three(home: TempDir) -> House {
        shared_node::tls::install_crypto();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(Duration::from_secs(12));
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

    pub async fn join_token(&self, node: &Node) -> PathBuf {
        let url = format!("http://{}/_cluster/join-tokens", self.nodes[0].api);
        let answer = self.http.post(url).json(&json!({})).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let file = node.dir.with_extension("token");
        std::fs::write(&file, answer.text().await.expect("a token")).expect("written");
        file
    }

    /// Puts a Mesh; gives the status and the body.
    pub async fn put(&self, node: usize, name: &str, headers: &[(&str, &str)]) -> (u16, Value) {
        let url = format!("http://{}/meshes/{name}", self.nodes[node].api);
        let mut request = self.http.put(url).json(&json!({"type": "Mesh", "name": name}));
        for (header, value) in headers {
            request = request.header(*header, *value);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    pub async fn get(&self, node: usize, path: &str) -> (u16, Option<u64>, Value) {
        let url = format!("http://{}{path}", self.nodes[node].api);
        let answer = self.http.get(url).send().await.expect("an answer");
        let seen = answer.headers().get("weft-revision");
        let seen = seen.and_then(|value| value.to_str().ok()?.parse().ok());
        (answer.status().as_u16(), seen, answer.json().await.expect("JSON"))
    }

    pub async fn status(&self, node: usize) -> Vec<Value> {
        let (status, _, body) = self.get(node, "/_cluster").await;
        assert_eq!(status, 200, "{body}");
        body["nodes"].as_array().expect("nodes").clone()
    }

    /// Polls a node until its answer is as wanted.
    pub async fn until(&self, node: usize, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, _, body) = self.get(node, path).await;
            if wanted(status, &body) {
                return body;
            }
            assert!(Instant::now() < deadline, "{path}: {status} {body:#}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Runs weftctl against this API, with the token of the administrator; its output, and whether it ended well.
    pub async fn weftctl(&self, api: SocketAddr, args: &str) -> (bool, String) {
        let mut command = tokio::process::Command::new(beside("weftctl", "global-cli"));
        command.args(args.split(' ')).env("WEFTCTL_CONFIG", self.home.path().join("weftctl.yaml"));
        command.arg("--server").arg(format!("http://{api}"));
        command.arg("--token-file").arg(self.nodes[0].dir.join("admin-token"));
        let output = command.stdin(Stdio::null()).output().await.expect("weftctl runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    pub async fn until_status(&self, what: &str, holds: impl Fn(&[Value]) -> bool) {
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
    pub async fn leader(&self) -> (usize, String) {
        self.until_status("a leader", |nodes| nodes.iter().any(|node| node["role"] == "leader")).await;
        let alive = self.nodes.iter().position(|node| node.process.is_some()).expect("a process");
        let nodes = self.status(alive).await;
        let leader = nodes.iter().find(|node| node["role"] == "leader").expect("a leader");
        let place = self.nodes.iter().position(|node| leader["address"] == node.peers.to_string());
        (place.expect("one of ours"), leader["node"].as_str().expect("an id").to_owned())
    }
}

/// A real zone that follows the nodes; only the first of them is named to it.
pub struct Zone {
    program: PathBuf,
    pub dir: PathBuf,
    name: String,
    /// What `--zone-id` says, if anything.
    pub zone_id: Option<String>,
    pub api: SocketAddr,
    xds: SocketAddr,
    pub diagnostics: SocketAddr,
    seed: String,
    ca: PathBuf,
    process: Option<Child>,
}

impl Drop for Zone {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Zone {
    pub async fn of(house: &House, name: &str) -> Zone {
        Zone::at(house, name, "zone").await
    }

    /// A process of a zone with its data, token and log in this folder.
    pub async fn at(house: &House, name: &str, folder: &str) -> Zone {
        let program = beside("zone-cp", "zone-server");
        let dir = house.home.path().join(folder);
        std::fs::create_dir_all(&dir).expect("made");
        let first = &house.nodes[0];
        let url = format!("http://{}/tokens/zone", first.api);
        let asked = json!({"zone": name, "scope": ["cp"], "validFor": "1h"});
        let answer = house.http.post(url).json(&asked).send().await.expect("an answer");
        std::fs::write(dir.join("token"), answer.text().await.expect("a token")).expect("written");
        let (seed, ca) = (format!("https://{}", first.link), first.dir.join("tls/ca.crt"));
        let (api, xds, diagnostics) = (port(), port(), port());
        let (name, zone_id) = (name.to_owned(), None);
        Zone { program, dir, name, zone_id, api, xds, diagnostics, seed, ca, process: None }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn start(&mut self) {
        let log = self.dir.join("log");
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        let mut command = Command::new(&self.program);
        command.args(["run", "--zone", &self.name, "--global", &self.seed]);
        command.arg("--data-dir").arg(self.data()).arg("--global-ca-file").arg(&self.ca);
        command.arg("--zone-token-file").arg(self.dir.join("token"));
        for (flag, address) in
            [("--api-bind", self.api), ("--xds-bind", self.xds), ("--diagnostics-bind", self.diagnostics)]
        {
            command.arg(flag).arg(address.to_string());
        }
        if let Some(zone_id) = &self.zone_id {
            command.args(["--zone-id", zone_id]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        self.process = Some(command.spawn().expect("started"));
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("ended");
        }
    }

    /// Stops it where it stands, or lets it go on.
    pub fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("a process").id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().expect("kill").success());
    }

    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().expect("a child").is_none())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Waits until its log says something.
    pub async fn says(&self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(what) {
            assert!(Instant::now() < deadline, "the zone does not say {what:?}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the zone's catalog has a mesh.
    pub async fn has(&self, http: &reqwest::Client, mesh: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.shows(http, mesh).await {
            assert!(Instant::now() < deadline, "the zone lacks {mesh}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn shows(&self, http: &reqwest::Client, mesh: &str) -> bool {
        let url = format!("http://{}/meshes/{mesh}", self.api);
        http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200)
    }
}

/// A program beside this package's own; built when only this package was.
pub fn beside(program: &str, package: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_global-cp")).with_file_name(program);
    if !path.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", package, "--bin", program]);
        assert!(build.status().expect("cargo").success());
    }
    path
}

/// The newest term that any of them knows.
pub fn term(nodes: &[Value]) -> u64 {
    nodes.iter().filter_map(|node| node["term"].as_u64()).max().expect("a term")
}
