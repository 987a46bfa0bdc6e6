//! What becomes of the program when its disk takes no more or stalls: real processes, on file systems of their own and under
//! a limit for the size of files.
mod mounted;
mod nodes;

use mounted::Mounted;
use nodes::{House, PATIENCE, Zone, term};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a disk stalls. Any election would come in a tenth of it.
const STALL: Duration = Duration::from_secs(4);

const SMALL: usize = 8_000;

/// sled would give a value of this size a file of its own.
const LARGE: usize = 1_200_000;

struct Running {
    child: Child,
    api: String,
    diagnostics: String,
    client: reqwest::Client,
    said: Arc<Mutex<Vec<String>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts the program. No file may grow over so many kilobytes.
    fn start(dir: &Path, reserve: &str, kilobytes: &str) -> Running {
        shared_node::tls::install_crypto();
        let any = "127.0.0.1:0";
        let limit = format!("trap '' XFSZ; ulimit -Sf {kilobytes}; exec \"$@\"");
        let mut child = Command::new("bash")
            .args(["-c", &limit, "bash", env!("CARGO_BIN_EXE_global-cp"), "run", "--data-dir"])
            .arg(dir)
            .args(["--api-bind", any, "--api-https-bind", any, "--link-bind", any, "--peer-bind", any])
            .args(["--diagnostics-bind", any, "--disk-reserve", reserve])
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let up = lines.by_ref().map(|line| line.expect("text")).find(|line| line.contains("is up"));
        let up = up.expect("it comes up");
        let word = |name: &str| {
            up.split(' ').find_map(|word| word.strip_prefix(name)).expect("an address").to_owned()
        };
        let (api, diagnostics) = (word("api="), word("diagnostics="));
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lock().expect("no panic").push(line);
            }
        });
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Running { child, api, diagnostics, client, said }
    }

    fn said(&self) -> String {
        self.said.lock().expect("no panic").join("\n")
    }

    async fn put(&self, name: &str, size: usize) -> Option<(u16, String)> {
        let data = "QUJD".repeat(size / 4);
        let body = serde_json::json!({"type": "GlobalSecret", "name": name, "data": data});
        let url = format!("http://{}/global-secrets/{name}", self.api);
        let answer = self.client.put(url).json(&body).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    async fn get(&self, name: &str, query: &str) -> Option<u16> {
        let url = format!("http://{}/global-secrets/{name}{query}", self.api);
        Some(self.client.get(url).send().await.ok()?.status().as_u16())
    }

    async fn readyz(&self) -> Option<(u16, String)> {
        let answer = self.client.get(format!("http://{}/readyz", self.diagnostics)).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// Writes some small secrets, then such of `size` bytes until one is refused. Gives the names of those that were stored.
    async fn fill(&self, size: usize) -> Vec<String> {
        let mut stored = Vec::new();
        let begin = Instant::now();
        loop {
            let name = format!("s{}", stored.len());
            match self.put(&name, if stored.len() < 3 { SMALL } else { size }).await {
                Some((201, _)) => stored.push(name),
                Some((503, _)) | None => break,
                other => panic!("{other:?}"),
            }
            assert!(begin.elapsed() < PATIENCE, "the disk takes everything");
        }
        assert!(!stored.is_empty());
        stored
    }

    /// Without room: what is here is shown as such, everything else is refused with the reason.
    async fn shows_what_it_has(&mut self, stored: &[String]) {
        let begin = Instant::now();
        while self.readyz().await.is_none_or(|(status, _)| status != 503) {
            assert!(begin.elapsed() < PATIENCE, "it is ready: {}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (_, why) = self.readyz().await.expect("an answer");
        assert!(why.contains("room on the disk") && why.contains("is full"), "{why}");
        for name in stored {
            assert_eq!(self.get(name, "?consistency=stale").await, Some(200), "{name}");
        }
        assert_eq!(self.get(&stored[0], "").await, Some(503));
        let (status, why) = self.put("refused", SMALL).await.expect("an answer");
        assert!(status == 503 && why.contains("is full"), "{status}: {why}");
        assert!(self.child.try_wait().expect("a child").is_none(), "it has ended: {}", self.said());
    }

    /// With room again: it takes writes by itself, and has all that it had.
    async fn takes_writes_again(&mut self, stored: &[String]) {
        let begin = Instant::now();
        while !self.put("again", SMALL).await.is_some_and(|(status, _)| status == 201 || status == 200) {
            assert!(begin.elapsed() < PATIENCE, "no write is taken: {}", self.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for name in stored {
            assert_eq!(self.get(name, "").await, Some(200), "{name}");
        }
        assert_eq!(self.readyz().await.expect("an answer").0, 200);
        assert!(self.child.try_wait().expect("a child").is_none(), "it has ended: {}", self.said());
        assert!(!self.said().contains("begins anew: it cannot"), "{}", self.said());
    }
}

#[tokio::test]
async fn below_the_reserve_writes_are_refused_and_all_else_goes_on() {
    let parent = tempfile::tempdir().expect("a directory");
    let Some(disk) = Mounted::tmpfs(&parent.path().join("small"), 32) else { return };
    let data = disk.at.join("data");
    let running = Running::start(&data, "8MiB", "unlimited");
    assert_eq!(running.put("before", SMALL).await.expect("an answer").0, 201);
    let ballast = disk.ballast(6 << 20);
    let begin = Instant::now();
    let why = loop {
        match running.put("during", SMALL).await.expect("an answer") {
            (503, why) => break why,
            other => assert!(begin.elapsed() < PATIENCE, "{other:?}"),
        }
    };
    let detail: Value = serde_json::from_str(&why).expect("json");
    let detail = detail["detail"].as_str().expect("a detail");
    let path = data.join("raft").display().to_string();
    assert!(detail.contains(&path) && detail.contains("free") && detail.contains("8.0 MiB"), "{detail}");
    assert_eq!(running.get("before", "").await, Some(200));
    assert_eq!(running.readyz().await.expect("an answer").0, 200);
    fs::remove_file(ballast).expect("removed");
    let begin = Instant::now();
    while running.put("after", SMALL).await.expect("an answer").0 != 201 {
        assert!(begin.elapsed() < PATIENCE, "it does not see the room");
    }
}

async fn a_full_disk(size: usize) {
    let parent = tempfile::tempdir().expect("a directory");
    let Some(disk) = Mounted::tmpfs(&parent.path().join("small"), 24) else { return };
    let ballast = disk.ballast(14 << 20);
    let mut running = Running::start(&disk.at.join("data"), "1", "unlimited");
    let stored = running.fill(size).await;
    running.shows_what_it_has(&stored).await;
    fs::remove_file(ballast).expect("removed");
    running.takes_writes_again(&stored).await;
}

#[tokio::test]
async fn a_full_disk_is_waited_for_and_nothing_is_lost() {
    a_full_disk(SMALL).await;
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_large_value_is_waited_for_and_nothing_is_lost() {
    a_full_disk(LARGE).await;
}

async fn a_limit(size: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut running = Running::start(dir.path(), "1", "2048");
    let stored = running.fill(size).await;
    running.shows_what_it_has(&stored).await;
    let lifted = Command::new("prlimit")
        .arg(format!("--pid={}", running.child.id()))
        .arg("--fsize=unlimited:unlimited")
        .status()
        .expect("prlimit");
    assert!(lifted.success());
    running.takes_writes_again(&stored).await;
}

#[tokio::test]
async fn a_limit_for_the_size_of_files_is_waited_for_and_nothing_is_lost() {
    a_limit(SMALL).await;
}

#[tokio::test]
async fn a_limit_met_by_a_large_value_is_waited_for_and_nothing_is_lost() {
    a_limit(LARGE).await;
}

/// Three nodes, each on a file system of its own. None where mounting is not permitted.
async fn on_their_own_disks(mebibytes: u32) -> Option<(House, Vec<Mounted>)> {
    let home = TempDir::new().expect("a directory");
    let disk = |name: &str| Mounted::ext4(&home.path().join(name), mebibytes);
    let disks = ["one", "two", "three"].map(disk).into_iter().collect::<Option<Vec<_>>>()?;
    Some((House::of_three(home).await, disks))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stalls_causes_no_election() {
    let Some((house, mut disks)) = on_their_own_disks(48).await else { return };
    let (leader, _) = house.leader().await;
    let before = term(&house.status(leader).await);
    let follower = (leader + 1) % 3;
    disks[follower].freeze(true);
    let begin = Instant::now();
    let mut written = 0;
    while begin.elapsed() < STALL {
        assert_eq!(house.put(leader, &format!("follower-{written}"), &[]).await.0, 201);
        written += 1;
    }
    disks[follower].freeze(false);
    assert!(written > 20, "{written} writes while one of three disks stalls");
    assert_eq!(term(&house.status(leader).await), before);

    disks[leader].freeze(true);
    let writing = house.put(leader, "leader", &[]);
    let thaw = async {
        tokio::time::sleep(STALL).await;
        disks[leader].freeze(false);
    };
    // What was asked while the disk stalled may have an answer or none; what comes after must have one.
    let ((status, body), ()) = tokio::join!(writing, thaw);
    assert!([201, 503].contains(&status), "{status}: {body}");
    let begin = Instant::now();
    while house.put(leader, "after", &[]).await.0 / 100 != 2 {
        assert!(begin.elapsed() < PATIENCE);
    }
    let nodes = house.status(leader).await;
    assert!(term(&nodes) <= before + 1, "{nodes:#?}");
    for number in 0..written {
        assert_eq!(house.get(leader, &format!("/meshes/follower-{number}")).await.0, 200);
    }
}

async fn put_large(house: &House, node: usize, name: &str) -> u16 {
    let body = json!({"type": "GlobalSecret", "name": name, "data": "QUJD".repeat(200_000)});
    let url = format!("http://{}/global-secrets/{name}", house.nodes[node].api);
    house.http.put(url).json(&body).send().await.expect("an answer").status().as_u16()
}

async fn is_ready(house: &House, node: usize) -> bool {
    let url = format!("http://{}/readyz", house.nodes[node].diagnostics);
    house.http.get(url).send().await.is_ok_and(|answer| answer.status().is_success())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_with_a_full_disk_disturbs_nobody_and_comes_back() {
    let Some((mut house, disks)) = on_their_own_disks(96).await else { return };
    let (leader, _) = house.leader().await;
    let before = term(&house.status(leader).await);
    let follower = (leader + 1) % 3;
    let ballast = disks[follower].ballast(1 << 20);
    let mut written = 0;
    let begin = Instant::now();
    while is_ready(&house, follower).await {
        assert_eq!(put_large(&house, leader, &format!("large-{written}")).await, 201);
        written += 1;
        assert!(begin.elapsed() < PATIENCE, "{written} writes fit on a full disk");
    }
    for number in 0..10 {
        let one = Instant::now();
        assert_eq!(house.put(leader, &format!("mesh-{number}"), &[]).await.0, 201);
        assert!(one.elapsed() < Duration::from_secs(1), "{:?}", one.elapsed());
    }
    assert_eq!(house.get(follower, "/meshes/default?consistency=stale").await.0, 200);
    let nodes = house.status(leader).await;
    assert_eq!(term(&nodes), before, "{nodes:#?}");

    std::fs::remove_file(ballast).expect("removed");
    let begin = Instant::now();
    while !(is_ready(&house, follower).await && house.get(follower, "/meshes/mesh-9").await.0 == 200) {
        assert!(begin.elapsed() < PATIENCE, "{}", house.nodes[follower].log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let nodes = house.status(leader).await;
    assert_eq!(term(&nodes), before, "{nodes:#?}\n{}", house.nodes[follower].log());
    let process = house.nodes[follower].process.as_mut().expect("a process");
    assert!(process.try_wait().expect("a child").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_whose_replica_has_no_room_serves_on_and_follows_again() {
    let house = House::of_three(TempDir::new().expect("a directory")).await;
    let mut zone = Zone::of(&house, "east").await;
    fs::create_dir(zone.data()).expect("a directory");
    let Some(disk) = Mounted::tmpfs(&zone.data().join("replica"), 24) else { return };
    zone.start();
    assert_eq!(house.put(0, "before", &[]).await.0, 201);
    zone.has(&house.http, "before").await;
    let identity = fs::read(disk.at.join("identity.json")).expect("read");
    let ballast = disk.ballast(1 << 20);
    let begin = Instant::now();
    let mut written = 0;
    while !zone.log().contains("has no room on its disk") {
        assert_eq!(put_large(&house, 0, &format!("large-{written}")).await, 201);
        written += 1;
        assert!(begin.elapsed() < PATIENCE, "{written} writes fit on a full disk: {}", zone.log());
    }
    assert_eq!(house.put(0, "after", &[]).await.0, 201);
    assert!(zone.shows(&house.http, "before").await && !zone.shows(&house.http, "after").await);
    let ready = format!("http://{}/readyz", zone.diagnostics);
    assert_eq!(house.http.get(&ready).send().await.expect("an answer").status(), 200);
    fs::remove_file(ballast).expect("removed");
    zone.has(&house.http, "after").await;
    assert!(zone.runs() && !zone.log().contains("begins anew"), "{}", zone.log());
    assert_eq!(fs::read(disk.at.join("identity.json")).expect("read"), identity, "it is another replica");
}
