//! What becomes of the program when its disk takes no more: the real binary, under a limit for the size of files.
use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(30);

const SMALL: usize = 8_000;

struct Running {
    child: Child,
    api: String,
    said: Option<std::thread::JoinHandle<Vec<String>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the program; no file may grow over so many kilobytes.
fn start(dir: &Path, kilobytes: &str) -> Running {
    let any = "127.0.0.1:0";
    let limit = format!("trap '' XFSZ; ulimit -f {kilobytes}; exec \"$@\"");
    let mut child = Command::new("bash")
        .args(["-c", &limit, "bash", env!("CARGO_BIN_EXE_global-cp"), "run", "--data-dir"])
        .arg(dir)
        .args(["--api-bind", any, "--api-https-bind", any, "--link-bind", any, "--peer-bind", any])
        .args(["--diagnostics-bind", any])
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let up = lines.by_ref().map(|line| line.expect("text")).find(|line| line.contains("is up"));
    let up = up.expect("it comes up");
    let api = up.split(' ').find_map(|word| word.strip_prefix("api=")).expect("an address").to_owned();
    let said = std::thread::spawn(move || lines.map_while(Result::ok).collect());
    Running { child, api, said: Some(said) }
}

impl Running {
    /// Waits for the end; gives the exit code and what was said.
    fn end(mut self) -> (Option<i32>, Vec<String>) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        (status.code(), self.said.take().expect("asked once").join().expect("no panic"))
    }
}

async fn put(client: &reqwest::Client, api: &str, name: &str, size: usize) -> Option<u16> {
    let data = "QUJD".repeat(size / 4);
    let body = serde_json::json!({"type": "GlobalSecret", "name": name, "data": data});
    let url = format!("http://{api}/global-secrets/{name}");
    Some(client.put(url).json(&body).send().await.ok()?.status().as_u16())
}

#[tokio::test]
async fn a_disk_that_takes_no_more_ends_the_program_and_loses_nothing() {
    fills_up(SMALL).await;
}

/// sled gives a large value a file of its own, and takes its failure another way.
#[tokio::test]
async fn a_disk_that_takes_no_large_value_ends_the_program_and_loses_nothing() {
    fills_up(1_200_000).await;
}

/// Writes some small secrets, then such of `size` bytes until one is refused.
async fn fills_up(size: usize) {
    shared_node::tls::install_crypto();
    let dir = tempfile::tempdir().expect("a directory");
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let running = start(dir.path(), "1024");
    let mut stored = Vec::new();
    let begin = Instant::now();
    let refused = loop {
        let name = format!("s{}", stored.len());
        match put(&client, &running.api, &name, if stored.len() < 3 { SMALL } else { size }).await {
            Some(201) => stored.push(name),
            other => break other,
        }
        assert!(begin.elapsed() < PATIENCE, "the disk takes everything");
    };
    assert!(matches!(refused, Some(503) | None), "{refused:?}");
    let (code, said) = running.end();
    assert_eq!(code, Some(1), "{said:#?}");
    let last = said.last().expect("a sentence");
    assert!(last.starts_with("error: consensus has stopped") && last.contains("File too large"), "{said:#?}");
    assert!(!stored.is_empty());

    let running = start(dir.path(), "unlimited");
    for name in &stored {
        let url = format!("http://{}/global-secrets/{name}", running.api);
        assert_eq!(client.get(url).send().await.expect("an answer").status().as_u16(), 200, "{name}");
    }
    assert_eq!(put(&client, &running.api, "again", SMALL).await, Some(201));
}
