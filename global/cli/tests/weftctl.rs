//! `weftctl` as a process, against the real API over a control plane in memory.
#[path = "weftctl/history.rs"]
mod history;
mod memory;
#[path = "weftctl/zones.rs"]
mod zones;

use memory::Memory;
use serde_json::{Value, json};
use shared_api::{Door, ProxyRefusal, ZoneStatus};
use shared_identity::token;
use shared_model::{Resource, ResourceKey};
use shared_node::{serve, tls};
use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, process::Command};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(30);

const MESH: &str = "type: Mesh\nname: shop\n";
const TIMEOUT: &str = "\
type: MeshTimeout
mesh: shop
name: slow
spec:
  targetRef:
    kind: Mesh
  to:
    - targetRef:
        kind: Mesh
      default:
        http:
          requestTimeout: 5s
";

struct House {
    memory: Arc<Memory>,
    dir: tempfile::TempDir,
    server: String,
    stop: CancellationToken,
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a run printed and how it ended.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn listen() -> (std::net::TcpListener, SocketAddr) {
    let listener = serve::bind(([127, 0, 0, 1], 0).into(), "the API").expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

impl House {
    async fn build() -> House {
        tls::install_crypto();
        let memory = Memory::new();
        let (listener, address) = listen();
        let stop = CancellationToken::new();
        tokio::spawn(serve::http(listener, shared_api::router(memory.clone(), Door::Loopback), stop.clone()));
        let dir = tempfile::tempdir().expect("a directory");
        House { memory, dir, server: format!("http://{address}"), stop }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("written");
        self.path(name).display().to_string()
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weftctl"));
        command.args(args.split_whitespace()).current_dir(self.dir.path()).kill_on_drop(true);
        command
            .env("WEFTCTL_CONFIG", self.path("config.yaml"))
            .env("WEFT_SERVER", &self.server)
            .env("NO_COLOR", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, args: &str) -> Ran {
        self.run_with(args, "").await
    }

    async fn run_with(&self, args: &str, stdin: &str) -> Ran {
        finish(self.command(args), stdin).await
    }

    fn stored(&self, kind: &str, mesh: &str, name: &str) -> Option<u64> {
        let key = ResourceKey::new(kind, mesh, name);
        self.memory.catalog().get(&key).map(|resource| resource.revision.0)
    }
}

async fn finish(mut command: Command, stdin: &str) -> Ran {
    let mut child = command.spawn().expect("started");
    let mut input = child.stdin.take().expect("stdin");
    // A command that does not read its input may have ended already.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let output =
        tokio::time::timeout(DEADLINE, child.wait_with_output()).await.expect("it ends").expect("output");
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

fn zone(name: &str, touched: u32, acknowledged: u32) -> ZoneStatus {
    ZoneStatus {
        zone: name.into(),
        online: true,
        applied: true,
        touched,
        acknowledged,
        pending: touched - acknowledged,
        done: touched == acknowledged,
        apply_to_ack_ms: (touched == acknowledged).then_some(41.6),
        ..ZoneStatus::default()
    }
}

#[tokio::test]
async fn each_document_is_reported() {
    let house = House::build().await;
    // The Mesh stands last, and is sent first.
    house.file("all.yaml", &format!("# the policy\n{TIMEOUT}---\n{MESH}"));
    let ran = house.run("apply -f all.yaml").await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(ran.out, "Mesh shop: created at revision 2\nMeshTimeout shop/slow: created at revision 3\n");

    let ran = house.run_with("apply -f -", &TIMEOUT.replace("5s", "6s")).await;
    assert_eq!(ran.out, "MeshTimeout shop/slow: updated at revision 4\n");
    let ran = house.run_with("apply -f - -f all.yaml", &TIMEOUT.replace("slow", "slower")).await;
    let expected = "\
Mesh shop: unchanged (revision 2)
MeshTimeout shop/slower: created at revision 5
MeshTimeout shop/slow: updated at revision 6
";
    assert_eq!(ran.out, expected);
}

#[tokio::test]
async fn a_bad_document_keeps_all_back_and_all_are_reported() {
    let house = House::build().await;
    let bad = TIMEOUT.replace("5s", "5x");
    house.file("all.yaml", &format!("{MESH}---\n\n{bad}---\ntype: MeshTimeot\nname: x\n---\n{{{{{{\n"));
    let ran = house.run("apply -f all.yaml").await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines[0], "all.yaml:1: Mesh shop: valid, not sent");
    let told = "all.yaml:5: MeshTimeout shop/slow: spec.to[0].default.http.requestTimeout: ";
    assert!(lines[1].starts_with(told) && lines[1].contains("5x"), "{}", lines[1]);
    assert_eq!(lines[2], "all.yaml:18: type: unknown type \"MeshTimeot\", did you mean \"MeshTimeout\"?");
    assert!(lines[3].starts_with("all.yaml:21: not YAML: "), "{}", lines[3]);
    assert_eq!(lines[4], "error: 3 of 4 documents are not valid: nothing was sent");
    assert_eq!(house.stored("Mesh", "", "shop"), None);
}

#[tokio::test]
async fn a_document_that_the_server_refuses_keeps_no_other_back() {
    let house = House::build().await;
    let text = format!("{}---\n{}", TIMEOUT, TIMEOUT.replace("shop", "default"));
    let ran = house.run_with("apply -f -", &text).await;
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.out, "MeshTimeout default/slow: created at revision 2\n");
    assert!(ran.err.starts_with("MeshTimeout shop/slow: refused: mesh: "), "{}", ran.err);
    assert!(ran.err.ends_with("error: 1 of 2 documents was refused\n"), "{}", ran.err);
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let house = House::build().await;
    let text = format!("{TIMEOUT}---\n{MESH}");
    let ran = house.run_with("apply -f - --dry-run", &text).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(ran.out, "Mesh shop: would be created\nMeshTimeout shop/slow: would be created\n");
    let ran = house.run_with("apply -f - --dry-run=local --server http://127.0.0.1:9", &text).await;
    assert_eq!(ran.out, "Mesh shop: valid (not sent)\nMeshTimeout shop/slow: valid (not sent)\n");
    let ran = house.run_with("apply -f - --dry-run", TIMEOUT).await;
    assert_eq!(ran.code, Some(1));
    assert_eq!(house.memory.catalog().revision().0, 1);
}

#[tokio::test]
async fn variables_are_filled_in_only_when_given() {
    let house = House::build().await;
    let ran = house.run_with("apply -f - -v name=slow-{x}", "type: Mesh\nname: '{{ name }}'\n").await;
    assert!(ran.err.contains("\"slow-{x}\" is not a name"), "{}", ran.err);
    let ran = house.run_with("apply -f - -v name=m1", "type: Mesh\nname: {{ name }}\n").await;
    assert_eq!(ran.out, "Mesh m1: created at revision 2\n");
    let ran = house.run_with("apply -f - -v a=b", "type: Mesh\nname: {{ name }}\n").await;
    assert_eq!(ran.err, "error: stdin:2: {{ name }} has no value: give -v name=VALUE\n");
}

#[tokio::test]
async fn waiting_follows_the_revision_to_the_last_proxy() {
    let house = House::build().await;
    house.memory.zones_say(vec![
        zone("east", 2, 0),
        ZoneStatus { applied: false, done: false, ..zone("west", 0, 0) },
    ]);
    let text = format!("{MESH}---\n{TIMEOUT}");
    let memory = house.memory.clone();
    let news = async move {
        until("weftctl to wait", || memory.waiting() > 0).await;
        memory.zones_say(vec![zone("east", 2, 1), zone("west", 1, 1)]);
        memory.zones_say(vec![zone("east", 2, 2), zone("west", 1, 1)]);
    };
    let (ran, ()) = tokio::join!(house.run_with("apply -f - --wait", &text), news);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let expected = "\
Mesh shop: created at revision 2
MeshTimeout shop/slow: created at revision 3
east: 4 of 4 acknowledgements, 42 ms after the apply
west: 2 of 2 acknowledgements, 42 ms after the apply
";
    assert_eq!(ran.out, expected);
    assert!(ran.err.contains("revision 2: east: 0 of 2 proxies acknowledged, waiting\n"), "{}", ran.err);
    assert!(ran.err.contains("revision 2: west: not applied yet\n"), "{}", ran.err);
}

#[tokio::test]
async fn the_exit_code_tells_refused_offline_and_timeout_apart() {
    let house = House::build().await;
    let refusal =
        ProxyRefusal { mesh: "shop".into(), proxy: "web-1".into(), reason: "no such filter".into() };
    let refused = ZoneStatus { refused: vec![refusal], touched: 2, acknowledged: 1, ..zone("east", 0, 0) };
    house.memory.zones_say(vec![refused, zone("west", 1, 1)]);
    let ran = house.run_with("apply -f - --wait", MESH).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(
        ran.err.ends_with("shop/web-1 refused: no such filter\nerror: refused by proxies in east\n"),
        "{}",
        ran.err
    );
    assert_eq!(house.run("status latest").await.code, Some(3));

    let away = ZoneStatus { online: false, applied: false, done: false, ..zone("west", 0, 0) };
    house.memory.zones_say(vec![zone("east", 1, 1), away]);
    let begin = Instant::now();
    let ran = house.run_with("apply -f - --wait", MESH).await;
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(
        begin.elapsed() < Duration::from_secs(15),
        "it does not wait for a zone that is away until the time is up"
    );
    assert!(
        ran.out.contains("unchanged (revision 2)\neast: its one touched proxy acknowledged"),
        "{}",
        ran.out
    );
    assert!(ran.err.ends_with("error: offline, and not done: west\n"), "{}", ran.err);
    assert_eq!(house.run("status 2").await.code, Some(4));

    house.memory.zones_say(vec![zone("east", 2, 1)]);
    let ran = house.run_with("apply -f - --wait --timeout 300ms", MESH).await;
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(ran.err.ends_with("error: not done within 300ms: east\n"), "{}", ran.err);
    assert_eq!(house.run("status 2 --watch --timeout 100ms").await.code, Some(5));

    house.memory.zones_say(vec![zone("east", 2, 2)]);
    let ran = house.run("status latest --watch -o json").await;
    assert_eq!(ran.code, Some(0));
    let status: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((&status["revision"], &status["zones"][0]["applyToAckMs"]), (&json!(2), &json!(41.6)));
}

#[tokio::test]
async fn a_status_is_a_table() {
    let house = House::build().await;
    house.memory.zones_say(vec![zone("east", 2, 1), zone("west", 1, 1)]);
    let ran = house.run("status 1").await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(5), ""));
    let expected = "\
revision 1, applied 1970-01-01T00:00:00.000Z, the newest
ZONE  STATE       APPLIED  TOUCHED  ACKNOWLEDGED  REFUSED  PENDING  APPLY TO ACK
east  on its way  yes      2        1             0        1        -
west  done        yes      1        1             0        0        42 ms
";
    assert_eq!(ran.out, expected);
    let ran = house.run("status 99").await;
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (Some(1), "error: not found: there is no revision 99, the newest is 1\n")
    );
    let ran = house.run("status soon").await;
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (Some(2), "error: \"soon\" is neither a revision's number nor latest\n")
    );
}

#[tokio::test]
async fn what_is_got_can_be_applied_again() {
    let house = House::build().await;
    house.run_with("apply -f -", &format!("{MESH}---\n{TIMEOUT}")).await;
    let ran = house.run("get mt slow -m shop -o yaml").await;
    assert!(ran.out.starts_with("type: MeshTimeout\nmesh: shop\nname: slow\ncreationTime: "), "{}", ran.out);
    let again = house.run_with("apply -f -", &ran.out).await;
    assert_eq!(again.out, "MeshTimeout shop/slow: unchanged (revision 3)\n");
    let ran = house.run("get meshes -o yaml").await;
    let again = house.run_with("apply -f -", &ran.out).await;
    assert_eq!(again.out, "Mesh default: unchanged (revision 1)\nMesh shop: unchanged (revision 2)\n");
    let ran = house.run("get meshes -o json").await;
    let list: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((&list["total"], &list["items"][1]["name"]), (&json!(2), &json!("shop")));
}

#[tokio::test]
async fn lists_are_read_to_their_end_and_shown_as_tables() {
    let house = House::build().await;
    for i in 0..1203 {
        house.memory.store(Resource::new(
            "MeshTimeout",
            "default",
            &format!("t{i:04}"),
            json!({"targetRef": {"kind": "Mesh"}}),
        ));
    }
    let ran = house.run("get meshtimeouts").await;
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 1204, "{}", ran.err);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    assert_eq!(words(lines[0]), "MESH NAME TARGET ORIGIN REVISION AGE");
    assert!(words(lines[1203]).starts_with("default t1202 Mesh global 1204 "), "{}", lines[1203]);
    let ran = house.run("get meshtimeouts -m nowhere").await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "error: not found: Mesh nowhere\n"));
    let ran = house.run("get dataplanes").await;
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (Some(0), "", "there is no Dataplane in mesh default\n")
    );
}

#[tokio::test]
async fn proxies_are_shown_with_what_is_known_of_them() {
    let house = House::build().await;
    for name in ["web-1", "web-2"] {
        let networking = json!({"networking": {"address": "10.0.0.1", "inbound": [
            {"port": 8080, "tags": {"kuma.io/service": "web", "kuma.io/protocol": "http"}}]}});
        house.memory.store(
            Resource::new("Dataplane", "default", name, networking).with_label("kuma.io/zone", "east"),
        );
    }
    let to = json!([{"targetRef": {"kind": "Mesh"}, "default": {"idleTimeout": "5s"}}]);
    house.memory.store(Resource::new("MeshTimeout", "default", "all", json!({"to": to})));
    let other = json!({"targetRef": {"kind": "Dataplane", "labels": {"app": "other"}}, "to": to});
    house.memory.store(Resource::new("MeshTimeout", "default", "others", other));
    let ran = house.run("get dp").await;
    let rows: Vec<Vec<&str>> =
        ran.out.lines().map(|line| line.split_whitespace().take(7).collect()).collect();
    assert_eq!(rows[0], ["MESH", "NAME", "STATUS", "ADDRESS", "SERVICES", "PORTS", "ZONE"]);
    assert_eq!(rows[1], ["default", "web-1", "online", "10.0.0.1", "web", "8080/http", "east"]);
    assert_eq!(rows[2][1..3], ["web-2", "offline"]);
    assert_eq!(house.run("inspect dataplanes").await.out.lines().count(), 3);

    let ran = house.run("inspect dataplane web-1").await;
    assert_eq!(ran.out.lines().count(), 2, "{ran:?}");
    assert!(ran.out.lines().nth(1).is_some_and(|line| line.starts_with("MeshTimeout  all ")), "{ran:?}");
    assert_eq!(
        house.run("inspect dataplane web-1 --type config-dump").await.out,
        "{\n  \"configs\": []\n}\n"
    );
    assert_eq!(house.run("inspect dataplane web-1 --type stats").await.out, "stats: 1\n");
    let ran = house.run("inspect dataplane web-9 --type clusters").await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "error: not found: Dataplane default/web-9\n"));
}

#[tokio::test]
async fn a_deletion_is_told_and_can_be_waited_for() {
    let house = House::build().await;
    house.run_with("apply -f -", &format!("{MESH}---\n{TIMEOUT}")).await;
    house.memory.zones_say(vec![zone("east", 0, 0)]);
    let ran = house.run("delete meshtimeout slow --mesh shop --wait").await;
    assert_eq!(ran.out, "MeshTimeout shop/slow: deleted at revision 4\neast: applied, no proxy is touched\n");
    let ran = house.run("delete meshtimeout slow --mesh shop").await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "error: not found: MeshTimeout shop/slow\n"));
}

#[tokio::test]
async fn tokens_are_printed_and_nothing_else() {
    let house = House::build().await;
    let ran = house.run("generate user-token --name jane --group ops --valid-for 1h").await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(ran.out.ends_with('\n') && ran.out.trim().split('.').count() == 3, "{}", ran.out);
    let now = shared_node::time::now();
    let keys = shared_api::Backend::user_keys(&*house.memory);
    let claims: token::UserClaims = token::verify(ran.out.trim(), &keys, now).expect("verified");
    assert_eq!((claims.name.as_str(), claims.groups), ("jane", vec!["ops".to_owned()]));
    for args in [
        "generate zone-token --zone zone-1 --scope cp",
        "generate dataplane-token --mesh default --name web-1",
    ] {
        assert_eq!(house.run(args).await.code, Some(0), "{args}");
    }
    let ran = house.run("generate dataplane-token --name web-1 --valid-for never").await;
    assert_eq!(ran.code, Some(2));
}

#[tokio::test]
async fn a_remembered_server_is_asked_over_verified_tls() {
    let house = House::build().await;
    let token = house.run("generate user-token --name admin --group mesh-system:admin").await.out;
    let token = house.file("token", &token);
    let certificate = tls::ServingCert::load_or_make(&house.path("tls"), &[]).expect("a certificate");
    let other = tls::ServingCert::load_or_make(&house.path("other"), &[]).expect("a certificate");
    let other_ca = house.file("other.crt", &other.ca_pem);
    let (listener, address) = listen();
    let router = shared_api::router(house.memory.clone(), Door::Https);
    tokio::spawn(serve::https(
        listener,
        certificate.server_config().expect("TLS"),
        router,
        house.stop.clone(),
    ));

    let run = async |args: String| {
        let mut command = house.command(&args);
        command.env_remove("WEFT_SERVER");
        finish(command, "").await
    };
    let add = format!("config add prod --address https://{address} --token-file token --ca-cert-file");
    let ran = run(format!("{add} {other_ca}")).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("its certificate is signed by an unknown authority"), "{}", ran.err);
    let ran = run(format!("{add} tls/ca.crt")).await;
    assert_eq!(ran.out, "server prod added, it is the current one\n", "{}", ran.err);
    assert!(run(format!("{add} tls/ca.crt")).await.err.contains("is called \"prod\" already"));
    let ran = run("get meshes".into()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    fs::write(&token, "nonsense").expect("written");
    let ran = run("get meshes".into()).await;
    assert!(ran.err.contains("the user token is refused"), "{}", ran.err);

    let ran = run(format!("config add lab --address {} --use", house.server)).await;
    assert_eq!(ran.out, "server lab added, it is the current one\n");
    let list = run("config list".into()).await.out;
    assert!(
        list.contains("*  lab   http://127.0.0.1:") && list.contains("   prod  https://127.0.0.1:"),
        "{list}"
    );
    assert_eq!(run("config use prod".into()).await.out, "server prod is the current one\n");
    assert_eq!(run("get meshes --context lab".into()).await.code, Some(0));
    assert!(run("config view".into()).await.out.starts_with("current: prod\nservers:\n"));
    assert_eq!(run("config remove lab".into()).await.out, "server lab removed\n");
    assert_eq!(
        run("config use lab".into()).await.err,
        "error: no server is called \"lab\": known are prod\n"
    );
}

#[tokio::test]
async fn mistakes_are_told_in_one_sentence() {
    let house = House::build().await;
    let (listener, address) = listen();
    drop(listener);
    for (args, code, expected) in [
        (
            format!("get meshes --server http://{address}"),
            1,
            format!("error: cannot reach http://{address}: connection refused (is global-cp running?)\n"),
        ),
        ("get meshtimout".into(), 2, "error: there is no kind \"meshtimout\": did you mean MeshTimeout?\n".into()),
        ("get mesh nope".into(), 1, "error: not found: Mesh nope\n".into()),
        ("apply -f no.yaml".into(), 1, "error: cannot read no.yaml: No such file or directory (os error 2)\n".into()),
        (
            "get meshes --server localhost:5681".into(),
            1,
            "error: \"localhost:5681\" is not the address of a server: write http://HOST:PORT or https://HOST:PORT\n".into(),
        ),
        ("get meshes --token-file no".into(), 1, "error: cannot read the token file no: No such file or directory (os error 2)\n".into()),
    ] {
        let ran = house.run(&args).await;
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(code), "", expected.as_str()), "{args}");
    }
    assert_eq!(house.run("apply").await.code, Some(2));
    assert_eq!(
        house.run_with("apply -f -", "# nothing\n").await.err,
        "error: there is no document in the input\n"
    );
}

#[tokio::test]
async fn versions_and_completions_are_printed() {
    let house = House::build().await;
    let ran = house.run("version").await;
    let server = &house.server;
    assert_eq!(ran.out, format!("weftctl {0}\nserver {0} (global) at {server}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        let ran = house.run(&format!("completion {shell}")).await;
        assert!(ran.out.contains("weftctl") && ran.out.len() > 1000, "{shell}");
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_nodes_of_the_cluster_are_shown_and_changed() {
    let house = House::build().await;
    let ran = house.run("cluster status").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["cluster", "c1,", "epoch", "1"]);
    assert_eq!(
        lines[1],
        ["NODE", "ROLE", "TERM", "LAST", "APPLIED", "REVISION", "LAG", "ADDRESS", "VERSION"]
    );
    assert_eq!(lines[2], ["aaaaaaaaaaaaaaaa", "leader", "7", "-", "-", "-", "0", "cp-aaaa:5683", "0.1.0"]);
    assert!(ran.out.contains("does not answer"));
    let ran = house.run("cluster join-token --valid-for 5m").await;
    assert_eq!(ran.out, "weft-join.for-300s\n");
    let ran = house.run("cluster add").await;
    assert!(
        ran.out.contains("--join https://cp-aaaa:5683") && ran.out.contains("weft-join.for-600s"),
        "{ran:?}"
    );
    let ran = house.run("cluster transfer-leadership cp-bbbb:5683").await;
    assert_eq!(ran.out, "bbbbbbbbbbbbbbbb (cp-bbbb:5683) leads\n");
    let ran = house.run("cluster remove c").await;
    assert!(ran.code == Some(1) && ran.err.contains("cccccccccccccccc stays"), "{ran:?}");
    assert_eq!(house.run("cluster promote x").await.code, Some(2));
}
