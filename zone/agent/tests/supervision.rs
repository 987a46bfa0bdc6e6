//! `weft-dp run` as a process, between a zone that serves bootstraps over TLS and a shell script in Envoy's place. The
//! script stands in for what is asked here only: exit codes, signals, drains. Real Envoys are run by `chaos-tests`.
use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use shared_node::{serve, tls};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);

const ENVOY: &str = r#"#!/bin/sh
here=$(dirname "$0")
if [ "$1" = --version ]; then
  echo
  echo "$0  version: 0123abc/1.40.0/Clean/RELEASE/BoringSSL"
  exit 0
fi
trap 'echo USR1 >> "$here/signals"' USR1
trap 'echo HUP >> "$here/signals"' HUP
trap 'echo TERM >> "$here/signals"; exit 7' TERM
echo "$@" > "$here/args"
ls -l "$2" > "$here/mode"
echo $$ > "$here/pid"
# It ends with its test, however that one ends.
while [ -d "$here" ] && [ ! -e "$here/crash" ]; do sleep 0.05; done
exit 3
"#;

/// Of nobody in particular: its claims are `{}`.
const TOKEN: &str = "e30.e30.c2lnbmF0dXJl";

/// What the zone answers, in turn; the last one for ever.
type Answers = Vec<(u16, String)>;

struct House {
    dir: tempfile::TempDir,
    /// Connections that Envoy's admin tells of.
    open: Arc<AtomicU64>,
    /// What Envoy's admin was told.
    told: Arc<Mutex<Vec<&'static str>>>,
    requests: Arc<Mutex<Vec<Value>>>,
    zone: String,
    stop: CancellationToken,
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Clone)]
struct ZoneState {
    answers: Arc<Mutex<Answers>>,
    requests: Arc<Mutex<Vec<Value>>>,
}

async fn bootstrap(State(zone): State<ZoneState>, body: String) -> impl IntoResponse {
    zone.requests.lock().expect("requests").push(serde_json::from_str(&body).expect("JSON"));
    let mut answers = zone.answers.lock().expect("answers");
    let (status, body) = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
    (StatusCode::from_u16(status).expect("a status"), body)
}

impl House {
    /// `answers` come before the good one.
    async fn build(before: &[(u16, &str)]) -> House {
        tls::install_crypto();
        let dir = tempfile::tempdir().expect("a directory");
        let (open, told) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let stop = CancellationToken::new();
        let note = |what: &'static str| {
            let told = Arc::clone(&told);
            post(async move || {
                told.lock().expect("told").push(what);
                "OK\n"
            })
        };
        let count = Arc::clone(&open);
        let stats = get(async move || {
            let open = count.load(Ordering::SeqCst);
            format!(
                "listener.admin.downstream_cx_active: 1\nlistener.127.0.0.1_80.downstream_cx_active: {open}\n"
            )
        });
        let admin = Router::new()
            .route("/healthcheck/fail", note("fail"))
            .route("/drain_listeners", note("drain"))
            .route("/stats", stats);
        let listener = serve::bind(([127, 0, 0, 1], 0).into(), "the admin").expect("a port");
        let admin_port = listener.local_addr().expect("an address").port();
        tokio::spawn(serve::http(listener, admin, stop.clone()));

        let yaml = format!(
            "admin: {{address: {{socketAddress: {{address: 127.0.0.1, portValue: {admin_port}}}}}}}\n"
        );
        let good = json!({"bootstrap": BASE64_STANDARD.encode(yaml)}).to_string();
        let mut answers: Answers =
            before.iter().map(|(status, body)| (*status, (*body).to_owned())).collect();
        answers.push((200, good));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let state = ZoneState { answers: Arc::new(Mutex::new(answers)), requests: Arc::clone(&requests) };
        let certificate =
            tls::ServingCert::load_or_make(&dir.path().join("tls"), &[]).expect("a certificate");
        let router = Router::new().route("/bootstrap", post(bootstrap)).with_state(state);
        let listener = serve::bind(([127, 0, 0, 1], 0).into(), "the zone").expect("a port");
        let zone = format!("https://{}", listener.local_addr().expect("an address"));
        tokio::spawn(serve::https(listener, certificate.server_config().expect("TLS"), router, stop.clone()));

        let house = House { dir, open, told, requests, zone, stop };
        fs::write(house.path("envoy"), ENVOY).expect("written");
        fs::set_permissions(house.path("envoy"), fs::Permissions::from_mode(0o755)).expect("executable");
        fs::write(house.path("token"), format!("{TOKEN}\n")).expect("written");
        let document = "type: Dataplane\nmesh: default\nname: {{ name }}\nnetworking: {address: 127.0.0.1}\n";
        fs::write(house.path("dp.yaml"), document).expect("written");
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft-dp"));
        command.args([
            "run",
            "--cp-address",
            &self.zone,
            "--name",
            "web-1",
            "--drain-time",
            "15s",
            "--concurrency",
            "1",
        ]);
        for (flag, file) in [
            ("--ca-cert-file", "tls/ca.crt"),
            ("--dataplane-file", "dp.yaml"),
            ("--dataplane-token-file", "token"),
            ("--envoy-path", "envoy"),
            ("--workdir", "work"),
        ] {
            command.arg(flag).arg(self.path(file));
        }
        command.kill_on_drop(true).stderr(Stdio::piped());
        command
    }

    /// Starts `weft-dp`; returns when its Envoy runs.
    async fn run(&self) -> Agent {
        let child = self.command().spawn().expect("started");
        until("envoy to run", || self.path("pid").exists()).await;
        Agent(child)
    }

    fn signals(&self) -> String {
        fs::read_to_string(self.path("signals")).unwrap_or_default()
    }

    fn envoy_runs(&self) -> bool {
        let pid = fs::read_to_string(self.path("pid")).expect("a pid");
        // A zombie has ended, too.
        let status = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        status.split(") ").nth(1).is_some_and(|rest| !rest.starts_with('Z'))
    }
}

struct Agent(Child);

impl Agent {
    fn signal(&self, signal: Signal) {
        let pid = self.0.id().expect("still runs");
        kill(Pid::from_raw(pid.try_into().expect("a pid")), signal).expect("signalled");
    }

    async fn end(mut self) -> (ExitStatus, String) {
        let status = tokio::time::timeout(DEADLINE, self.0.wait()).await.expect("it ends").expect("a status");
        let mut said = String::new();
        self.0.stderr.take().expect("stderr").read_to_string(&mut said).await.expect("text");
        (status, said)
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn it_asks_runs_envoy_and_ends_with_its_code() {
    let house = House::build(&[(404, ""), (503, "starting")]).await;
    let agent = house.run().await;
    let args = fs::read_to_string(house.path("args")).expect("arguments");
    let expected = "bootstrap.yaml --drain-time-s 15 --drain-strategy immediate --log-level warning --concurrency 1 --disable-hot-restart\n";
    assert!(args.starts_with("--config-path /") && args.ends_with(expected), "{args}");
    assert!(fs::read_to_string(house.path("mode")).expect("a mode").starts_with("-rw-------"));
    fs::write(house.path("crash"), "").expect("written");
    let (status, said) = agent.end().await;
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(
        said.contains("has no Dataplane default/web-1 yet") && said.contains("cannot answer: starting"),
        "{said}"
    );
    assert!(said.contains("envoy ended by itself"), "{said}");
    assert!(!said.contains(TOKEN), "the token is in the log: {said}");

    let requests = house.requests.lock().expect("requests");
    assert_eq!(requests.len(), 3);
    let request = &requests[2];
    assert_eq!(request["dataplaneToken"], TOKEN);
    assert_eq!((&request["mesh"], &request["name"]), (&json!("default"), &json!("web-1")));
    assert_eq!(request["features"], json!(["feature-delta-grpc"]));
    assert_eq!(request["version"]["envoy"]["version"], "1.40.0");
    assert_eq!(request["caCert"], fs::read_to_string(house.path("tls/ca.crt")).expect("a CA").as_str());
    let resource: Value =
        serde_json::from_str(request["dataplaneResource"].as_str().expect("text")).expect("JSON");
    assert_eq!(resource["name"], "web-1");
}

#[tokio::test]
async fn a_refusal_ends_it_with_the_zones_reason() {
    let house = House::build(&[(422, "the dataplane token is missing\n")]).await;
    let (status, said) = Agent(house.command().spawn().expect("started")).end().await;
    assert_eq!(status.code(), Some(1));
    let expected = format!("error: {} refused this proxy: the dataplane token is missing\n", house.zone);
    assert!(said.ends_with(&expected), "{said}");
    assert!(!house.path("pid").exists(), "envoy was not started");
}

#[tokio::test]
async fn another_authority_is_not_trusted() {
    let house = House::build(&[]).await;
    let other = tls::ServingCert::load_or_make(&house.path("other"), &[]).expect("a certificate");
    fs::write(house.path("tls/ca.crt"), other.ca_pem).expect("replaced");
    let (status, said) = Agent(house.command().spawn().expect("started")).end().await;
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains("error: cannot trust https://127.0.0.1:") && said.contains("an unknown authority"),
        "{said}"
    );
    assert!(house.requests.lock().expect("requests").is_empty(), "the token was sent to a stranger");
}

#[tokio::test]
async fn it_waits_for_connections_and_then_ends_envoy() {
    let house = House::build(&[]).await;
    house.open.store(2, Ordering::SeqCst);
    let agent = house.run().await;
    agent.signal(Signal::SIGTERM);
    until("the drain", || *house.told.lock().expect("told") == ["fail", "drain"]).await;
    agent.signal(Signal::SIGUSR1);
    until("the passed signal", || house.signals() == "USR1\n").await;
    assert!(house.envoy_runs(), "connections are open");
    house.open.store(0, Ordering::SeqCst);
    let (status, said) = agent.end().await;
    assert_eq!(status.code(), Some(7), "{said}");
    assert_eq!(house.signals(), "USR1\nTERM\n");
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let house = House::build(&[]).await;
    house.open.store(2, Ordering::SeqCst);
    let agent = house.run().await;
    agent.signal(Signal::SIGINT);
    until("the drain", || house.told.lock().expect("told").len() == 2).await;
    let begin = Instant::now();
    agent.signal(Signal::SIGINT);
    let (status, _) = agent.end().await;
    assert_eq!(status.code(), Some(7));
    assert!(begin.elapsed() < Duration::from_secs(5), "it waited for the drain time");
}

#[tokio::test]
async fn signals_are_passed_on_and_a_killed_envoy_is_told_as_shells_do() {
    let house = House::build(&[]).await;
    let agent = house.run().await;
    agent.signal(Signal::SIGHUP);
    until("the signal", || house.signals() == "HUP\n").await;
    let pid: i32 = fs::read_to_string(house.path("pid")).expect("a pid").trim().parse().expect("a number");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killed");
    let (status, _) = agent.end().await;
    assert_eq!(status.code(), Some(137));
}

#[tokio::test]
async fn no_envoy_outlives_a_killed_agent() {
    let house = House::build(&[]).await;
    let agent = house.run().await;
    assert!(house.envoy_runs());
    agent.signal(Signal::SIGKILL);
    until("envoy to end with it", || !house.envoy_runs()).await;
    assert_eq!(house.signals(), "", "nobody was left to send one");
}

#[tokio::test]
async fn a_signal_ends_the_asking() {
    let house =
        House::build(&[(404, ""), (404, ""), (404, ""), (404, ""), (404, ""), (404, ""), (404, "")]).await;
    let agent = Agent(house.command().spawn().expect("started"));
    until("a request", || !house.requests.lock().expect("requests").is_empty()).await;
    agent.signal(Signal::SIGTERM);
    let (status, said) = agent.end().await;
    assert_eq!(status.code(), Some(143), "{said}");
    assert!(!house.path("pid").exists());
}

#[tokio::test]
async fn mistakes_are_told_in_one_sentence() {
    let house = House::build(&[]).await;
    let told = async || {
        let (status, said) = Agent(house.command().spawn().expect("started")).end().await;
        (status.code(), said)
    };
    fs::write(house.path("envoy"), "#!/bin/sh\necho GNU envoy\n").expect("replaced");
    let (code, said) = told().await;
    assert_eq!(code, Some(1));
    assert!(
        said.starts_with("error: ")
            && said.ends_with("envoy is not an Envoy: --version printed \"GNU envoy\"\n"),
        "{said}"
    );
    fs::remove_file(house.path("token")).expect("removed");
    let (_, said) = told().await;
    assert!(said.starts_with("error: cannot read the dataplane token: there is no file "), "{said}");
}
