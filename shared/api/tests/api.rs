//! The API over a control plane in memory: each request as a client would send it.
mod memory;

use axum::{body::Body, extract::ConnectInfo};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use memory::Memory;
use serde_json::{Value, json};
use shared_api::{Door, Mode, ZoneStatus, router};
use shared_model::Resource;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tower::ServiceExt as _;

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

struct Client {
    memory: Arc<Memory>,
    door: Door,
    token: Option<String>,
}

impl Client {
    fn admin(memory: &Arc<Memory>) -> Client {
        Client { memory: memory.clone(), door: Door::Loopback, token: None }
    }

    fn https(memory: &Arc<Memory>, token: Option<&str>) -> Client {
        Client { memory: memory.clone(), door: Door::Https, token: token.map(str::to_owned) }
    }

    async fn send(&self, request: http::request::Builder, body: impl Into<Body>) -> Answer {
        let mut request = request.header(header::HOST, "localhost:5681");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut request = request.body(body.into()).expect("a request");
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 40_000))));
        let answer = router(self.memory.clone(), self.door).oneshot(request).await.expect("an answer");
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path), "").await
    }

    async fn put(&self, path: &str, body: &Value) -> Answer {
        let request = Request::put(path).header(header::CONTENT_TYPE, "application/json");
        self.send(request, body.to_string()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        self.send(request, body.to_string()).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path), "").await
    }
}

fn global() -> (Arc<Memory>, Client) {
    let memory = Memory::new(Mode::Global);
    let admin = Client::admin(&memory);
    (memory, admin)
}

fn timeout(name: &str, value: &str) -> Value {
    json!({"type": "MeshTimeout", "mesh": "default", "name": name, "spec": {
        "targetRef": {"kind": "Mesh"},
        "to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": {"requestTimeout": value}}}],
    }})
}

fn dataplane(name: &str, service: &str) -> Resource {
    let spec = json!({"networking": {"address": "10.0.0.1", "inbound": [
        {"port": 80, "tags": {"kuma.io/service": service}}
    ]}});
    Resource::new("Dataplane", "default", name, spec)
}

const TIMEOUTS: &str = "/meshes/default/meshtimeouts";

#[tokio::test]
async fn a_resource_is_written_read_changed_and_deleted_and_each_write_has_its_revision() {
    let (_, admin) = global();
    let created = admin.put(&format!("{TIMEOUTS}/slow"), &timeout("slow", "5s")).await;
    assert_eq!((created.status, created.json()), (201, json!({"revision": 2})));
    assert_eq!(created.headers["weft-revision"], "2");
    let read = admin.get(&format!("{TIMEOUTS}/slow")).await;
    assert_eq!((read.status, &read.headers[header::ETAG]), (200, &"\"2\"".parse().expect("a tag")));
    assert_eq!(read.json()["kri"], "kri_mt_default___slow_");
    assert_eq!(read.json()["labels"]["kuma.io/mesh"], "default");
    assert_eq!(read.json()["revision"], 2);
    // What was read can be sent back, and changes nothing.
    let same = admin.put(&format!("{TIMEOUTS}/slow"), &read.json()).await;
    assert_eq!((same.status, same.json()["revision"].as_u64()), (200, Some(2)));
    let changed = admin.put(&format!("{TIMEOUTS}/slow"), &timeout("slow", "6s")).await;
    assert_eq!((changed.status, changed.json()["revision"].as_u64()), (200, Some(3)));
    let deleted = admin.delete(&format!("{TIMEOUTS}/slow")).await;
    assert_eq!((deleted.status, deleted.json()), (200, json!({"revision": 4})));
    assert_eq!(admin.get(&format!("{TIMEOUTS}/slow")).await.status, 404);
    assert_eq!(admin.delete(&format!("{TIMEOUTS}/slow")).await.status, 404);
}

#[tokio::test]
async fn conditional_writes_hold_only_at_the_expected_revision() {
    let (_, admin) = global();
    let path = format!("{TIMEOUTS}/slow");
    let body = |value| timeout("slow", value).to_string();
    let put = |name, value| Request::put(&path).header(name, value);
    assert_eq!(admin.send(put(header::IF_MATCH, "\"9\""), body("5s")).await.status, 409);
    assert_eq!(admin.send(put(header::IF_NONE_MATCH, "*"), body("5s")).await.status, 201);
    assert_eq!(admin.send(put(header::IF_NONE_MATCH, "*"), body("6s")).await.status, 409);
    assert_eq!(admin.send(put(header::IF_MATCH, "\"2\""), body("6s")).await.status, 200);
    assert_eq!(admin.send(put(header::IF_MATCH, "\"2\""), body("7s")).await.status, 409);
    assert_eq!(admin.send(put(header::IF_MATCH, "rubbish"), body("7s")).await.status, 400);
    let stale = Request::delete(&path).header(header::IF_MATCH, "\"2\"");
    assert_eq!(admin.send(stale, "").await.status, 409);
}

#[tokio::test]
async fn bad_input_names_the_exact_path_and_nothing_is_stored() {
    let (memory, admin) = global();
    let before = memory.catalog.lock().expect("a lock").clone();
    let mut typo = timeout("slow", "5s");
    typo["spec"]["to"][0]["default"]["http"]["requestTimeuot"] = "5s".into();
    let mut wrong = timeout("slow", "5s");
    wrong["spec"]["to"][0]["default"]["http"]["requestTimeout"] = "soon".into();
    for (path, body, field) in [
        (format!("{TIMEOUTS}/slow"), typo, "spec.to[0].default.http"),
        (format!("{TIMEOUTS}/slow"), wrong, "spec.to[0].default.http.requestTimeout"),
        (format!("{TIMEOUTS}/other"), timeout("slow", "5s"), "name"),
        (format!("{TIMEOUTS}/slow"), json!({"type": "MeshTimeuot", "name": "slow"}), "type"),
        (format!("{TIMEOUTS}/slow"), json!({"type": "MeshTimeout", "name": "slow", "sepc": {}}), "sepc"),
        (
            "/meshes/nowhere/meshtimeouts/slow".into(),
            {
                let mut elsewhere = timeout("slow", "5s");
                elsewhere["mesh"] = "nowhere".into();
                elsewhere
            },
            "mesh",
        ),
        ("/meshes/Bad_".into(), json!({"type": "Mesh", "name": "Bad_"}), "name"),
        (
            "/meshes/m".into(),
            json!({"type": "Mesh", "name": "m", "mtls": {"enabledBackend": "x"}}),
            "mtls.enabledBackend",
        ),
    ] {
        let answer = admin.put(&path, &body).await;
        assert_eq!(answer.status, 400, "{path} {}", answer.text);
        let error = answer.json();
        let first = &error["invalid_parameters"][0];
        assert!(first["field"].as_str().expect("a field").starts_with(field), "{path}: {error}");
        assert_eq!(error["causes"][0]["message"], first["reason"]);
        assert!(!error["title"].as_str().expect("a title").is_empty());
    }
    for body in ["{", "", "[]", "null", "\"x\"", "{\"type\": 3}", &"[".repeat(100_000)] {
        let request =
            Request::put(format!("{TIMEOUTS}/slow")).header(header::CONTENT_TYPE, "application/json");
        assert_eq!(admin.send(request, body.to_owned()).await.status, 400, "{}", &body[..body.len().min(20)]);
    }
    let huge = Request::put(format!("{TIMEOUTS}/slow")).header(header::CONTENT_TYPE, "application/json");
    assert_eq!(admin.send(huge, " ".repeat(5 << 20)).await.status, 413);
    let media = Request::put(format!("{TIMEOUTS}/slow")).header(header::CONTENT_TYPE, "text/html");
    assert_eq!(admin.send(media, timeout("slow", "5s").to_string()).await.status, 415);
    assert_eq!(*memory.catalog.lock().expect("a lock"), before);
}

#[tokio::test]
async fn a_dry_run_answers_as_a_write_and_stores_nothing() {
    let (memory, admin) = global();
    assert_eq!(admin.post("/_check", &timeout("slow", "5s")).await.status, 201);
    assert_eq!(admin.post("/_check", &timeout("slow", "soon")).await.status, 400);
    let mut elsewhere = timeout("slow", "5s");
    elsewhere["mesh"] = "later".into();
    assert_eq!(admin.post("/_check", &elsewhere).await.status, 400);
    assert_eq!(admin.post("/_check?assume=first,later", &elsewhere).await.status, 201);
    assert_eq!(admin.post("/_check", &dataplane("web-1", "web").to_json()).await.status, 405);
    assert_eq!(memory.catalog.lock().expect("a lock").len(), 1);
    let yaml = Request::post("/_check").header(header::CONTENT_TYPE, "application/yaml");
    assert_eq!(admin.send(yaml, "type: Mesh\nname: second\n").await.status, 201);
}

#[tokio::test]
async fn what_a_zone_owns_is_not_written_at_global_and_the_other_way_round() {
    let (_, admin) = global();
    let refused = admin.put("/meshes/default/dataplanes/web-1", &dataplane("web-1", "web").to_json()).await;
    assert_eq!(refused.status, 405);
    assert!(refused.json()["detail"].as_str().expect("a detail").contains("in its zone"));
    let zone = Memory::new(Mode::FederatedZone);
    let zone_admin = Client::admin(&zone);
    let refused = zone_admin.put("/meshes/other", &json!({"type": "Mesh", "name": "other"})).await;
    assert_eq!(refused.status, 405);
    assert!(refused.json()["detail"].as_str().expect("a detail").contains("at global"));
    let refused = zone_admin.put(&format!("{TIMEOUTS}/slow"), &timeout("slow", "5s")).await;
    assert_eq!(refused.json()["invalid_parameters"][0]["field"], "labels[\"kuma.io/origin\"]");
    let mut own = timeout("slow", "5s");
    own["labels"] = json!({"kuma.io/origin": "zone"});
    assert_eq!(zone_admin.put(&format!("{TIMEOUTS}/slow"), &own).await.status, 201);
    let stored = zone_admin.get(&format!("{TIMEOUTS}/slow")).await.json();
    assert_eq!(stored["labels"]["kuma.io/zone"], "east");
    assert_eq!(stored["kri"], "kri_mt_default_east__slow_");
    assert_eq!(zone_admin.get("/_kri/kri_mt_default_east__slow_").await.json(), stored);
    let dp = zone_admin.put("/meshes/default/dataplanes/web-1", &dataplane("web-1", "web").to_json()).await;
    assert_eq!(dp.status, 201, "{}", dp.text);
}

#[tokio::test]
async fn lists_are_paged_filtered_and_sorted() {
    let (memory, admin) = global();
    for i in 0..5 {
        memory.store(dataplane(&format!("web-{i}"), "web"));
    }
    memory.store(dataplane("db-0", "db"));
    let names = |answer: &Answer| -> Vec<String> {
        let items = answer.json()["items"].as_array().expect("items").clone();
        items.iter().map(|item| item["name"].as_str().expect("a name").to_owned()).collect()
    };
    let first = admin.get("/meshes/default/dataplanes?size=4&tag=kuma.io/service:web").await;
    assert_eq!(names(&first), ["web-0", "web-1", "web-2", "web-3"]);
    assert_eq!(first.json()["total"], 5);
    let next = first.json()["next"].as_str().expect("a next page").to_owned();
    assert!(next.starts_with("http://localhost:5681/meshes/default/dataplanes?"), "{next}");
    let second = admin.get(next.strip_prefix("http://localhost:5681").expect("an address")).await;
    assert_eq!((names(&second), second.json()["next"].clone()), (vec!["web-4".to_owned()], Value::Null));
    assert_eq!(names(&admin.get("/dataplanes?name=db").await), ["db-0"]);
    assert_eq!(names(&admin.get("/meshes/default/dataplanes/_overview?gateway=true").await).len(), 0);
    assert_eq!(admin.get("/dataplanes?size=5000").await.status, 400);
    assert_eq!(admin.get("/meshes/nowhere/dataplanes").await.status, 404);
    assert_eq!(admin.get("/meshes/nowhere/dataplanes/_overview").await.status, 404);
    assert_eq!(admin.get("/nonsense").await.status, 404);
    assert_eq!(names(&admin.get("/meshes").await), ["default"]);
    assert_eq!(admin.get("/meshtcproutes").await.json()["total"], 0);
}

#[tokio::test]
async fn overviews_join_a_resource_and_its_insight() {
    let (memory, admin) = global();
    memory.store(dataplane("web-1", "web"));
    memory.store(Resource::new("Zone", "", "east", json!({"enabled": true})));
    for path in ["/meshes/default/dataplanes/web-1/_overview", "/meshes/default/dataplanes+insights/web-1"] {
        let overview = admin.get(path).await.json();
        assert_eq!(overview["type"], "DataplaneOverview");
        assert_eq!(overview["dataplane"]["networking"]["address"], "10.0.0.1");
        assert!(overview["dataplaneInsight"]["subscriptions"][0]["connectTime"].is_string(), "{overview}");
        assert!(overview.get("networking").is_none());
    }
    for path in ["/zones/_overview", "/zones+insights"] {
        let zones = admin.get(path).await.json();
        assert_eq!(zones["items"][0]["zone"], json!({"enabled": true}));
        assert!(zones["items"][0].get("zoneInsight").is_none());
    }
    assert_eq!(
        admin.get("/meshes/default/dataplanes/web-1/stats?format=json").await.text,
        "default web-1 stats format=json"
    );
    assert_eq!(admin.get("/meshes/default/dataplanes/none/xds").await.status, 404);
}

#[tokio::test]
async fn the_control_plane_says_what_it_is() {
    let (_, admin) = global();
    let index = admin.get("/").await.json();
    assert_eq!((&index["product"], &index["clusterId"]), (&json!("Kuma"), &json!("cluster")));
    let kinds = admin.get("/_resources").await.json();
    let names: Vec<_> =
        kinds["resources"].as_array().expect("kinds").iter().map(|k| k["name"].clone()).collect();
    assert!(names.contains(&json!("MeshTimeout")) && names.is_sorted_by_key(|name| name.to_string()));
    assert!(admin.get("/policies").await.json()["policies"].as_array().is_some_and(|list| list.len() >= 5));
    assert_eq!(admin.get("/who-am-i").await.json()["name"], "mesh-system:admin");
    assert_eq!(admin.get("/config").await.status, 200);
}

#[tokio::test]
async fn tokens_are_issued_to_administrators_and_open_the_https_door() {
    let (memory, admin) = global();
    let outside = Client::https(&memory, None);
    assert_eq!(outside.get("/").await.status, 200);
    let refused = outside.get("/meshes").await;
    assert_eq!((refused.status, refused.json()["status"].clone()), (401, json!(401)));
    let user = json!({"name": "ann", "groups": ["team"], "validFor": "1h"});
    assert_eq!(outside.post("/tokens/user", &user).await.status, 401);
    let token = admin.post("/tokens/user", &user).await;
    assert_eq!(
        (token.status, &token.headers[header::CONTENT_TYPE]),
        (200, &"text/plain".parse().expect("a type"))
    );
    let ann = Client::https(&memory, Some(&token.text));
    assert_eq!(ann.get("/who-am-i").await.json()["name"], "ann");
    assert_eq!(ann.get("/meshes").await.status, 200);
    assert_eq!(ann.get("/global-secrets").await.status, 403);
    assert_eq!(ann.post("/tokens/user", &user).await.status, 403);
    let root = json!({"name": "root", "groups": ["mesh-system:admin"], "validFor": "1h"});
    let root = admin.post("/tokens/user", &root).await.text;
    assert_eq!(Client::https(&memory, Some(&root)).get("/global-secrets").await.status, 200);
    // A zone's token is signed with another key, so it names nobody here.
    let zone =
        admin.post("/tokens/zone", &json!({"zone": "east", "scope": ["cp"], "validFor": "1h"})).await.text;
    assert_eq!(Client::https(&memory, Some(&zone)).get("/meshes").await.status, 401);
    assert_eq!(Client::https(&memory, Some("rubbish")).get("/meshes").await.status, 401);
    // A bad token is refused at the loopback door too.
    let bad = Client { memory: memory.clone(), door: Door::Loopback, token: Some("rubbish".into()) };
    assert_eq!(bad.get("/meshes").await.status, 401);
    let relayed = Request::get("/meshes").header("x-forwarded-for", "1.2.3.4");
    assert_eq!(admin.send(relayed, "").await.status, 401);
}

#[tokio::test]
async fn requests_for_tokens_are_checked() {
    let (_, admin) = global();
    for (path, body, field) in [
        ("/tokens/dataplane", json!({"name": "web-1", "validFor": "1h"}), "mesh"),
        ("/tokens/dataplane", json!({"name": "web-1", "mesh": "nowhere"}), "mesh"),
        ("/tokens/dataplane", json!({"mesh": "default", "type": "ingress"}), "type"),
        ("/tokens/dataplane", json!({"mesh": "default", "validFor": "soon"}), "validFor"),
        ("/tokens/dataplane", json!({"mesh": "default", "nmae": "x"}), "nmae"),
        ("/tokens/zone", json!({"zone": "east", "scope": null}), "scope"),
        ("/tokens/zone", json!({"zone": "east", "scope": ["all"]}), "scope[0]"),
        ("/tokens/zone", json!({"scope": ["cp"]}), "zone"),
        ("/tokens/user", json!({"name": "ann"}), "validFor"),
        ("/tokens/user", json!({"name": "ann", "validFor": "0s"}), "validFor"),
        ("/tokens/user", json!({"validFor": "1h"}), "name"),
    ] {
        let answer = admin.post(path, &body).await;
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text);
        assert_eq!(answer.json()["invalid_parameters"][0]["field"], field, "{path} {body}");
    }
}

#[tokio::test]
async fn signing_keys_are_made_once_and_shown_to_nobody() {
    let (memory, admin) = global();
    let ask = json!({"mesh": "default", "name": "web-1", "validFor": "1h"});
    let (one, two) =
        tokio::join!(admin.post("/tokens/dataplane", &ask), admin.post("/tokens/dataplane", &ask));
    assert_eq!((one.status, two.status), (200, 200));
    let key = "/meshes/default/secrets/dataplane-token-signing-key-default-1";
    let refused = admin.get(key).await;
    assert_eq!(refused.status, 403);
    let secret = json!({"type": "Secret", "mesh": "default", "name": "dataplane-token-signing-key-default-1", "data": ""});
    assert_eq!(admin.put(key, &secret).await.status, 403);
    let secrets = admin.get("/meshes/default/secrets").await.json();
    assert_eq!(secrets["total"], 1);
    assert_eq!(secrets["items"][0]["name"], "dataplane-token-signing-public-key-default-1");
    let catalog = memory.catalog.lock().expect("a lock").clone();
    assert!(catalog.iter().all(|resource| !resource.spec.to_string().contains("PRIVATE KEY")));
    assert_eq!(catalog.list("Secret", None).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_revision_is_followed_with_a_long_poll() {
    let (memory, admin) = global();
    let zone = |pending: u32| ZoneStatus {
        zone: "east".into(),
        online: true,
        applied: true,
        touched: 2,
        acknowledged: 2 - pending,
        pending,
        done: pending == 0,
        ..ZoneStatus::default()
    };
    memory.zone_says(zone(2));
    let now = admin.get("/_revisions/1").await;
    assert_eq!(
        (now.status, now.json()["done"].clone(), now.json()["zones"][0]["pending"].clone()),
        (200, json!(false), json!(2))
    );
    // Nothing happens: the answer is the same when the wait ends.
    let started = tokio::time::Instant::now();
    assert_eq!(admin.get("/_revisions/1?wait=10s").await.json(), now.json());
    assert!(started.elapsed() >= Duration::from_secs(10));
    // Something happens: the answer comes at once.
    let started = tokio::time::Instant::now();
    let change = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        memory.zone_says(zone(1));
    };
    let (changed, ()) = tokio::join!(admin.get("/_revisions/1?wait=10s"), change);
    assert_eq!(changed.json()["zones"][0]["pending"], 1);
    assert!(started.elapsed() < Duration::from_secs(2));
    // Something happened between two polls: the tag tells.
    let tag = changed.headers[header::ETAG].clone();
    memory.zone_says(zone(0));
    let poll = Request::get("/_revisions/1?wait=10s").header(header::IF_NONE_MATCH, tag);
    assert_eq!(admin.send(poll, "").await.json()["done"], true);
    assert_eq!(admin.get("/_revisions/99").await.status, 404);
    assert_eq!(admin.get("/_revisions/x").await.status, 400);
    assert_eq!(admin.get("/_revisions/1?wait=soon").await.status, 400);
}

#[tokio::test]
async fn whatever_is_wrong_with_a_request_is_an_error_in_the_same_form() {
    let (_, admin) = global();
    for path in [
        "/_revisions/1?wiat=1s",
        "/_revisions/%ff",
        "/_kri/%ff",
        "/zones/%ff",
        "/zones/%ff/_overview",
        "/meshes/%ff/dataplanes/_overview",
        "/meshes/default/dataplanes/%ff/xds",
        "/meshes?size=x",
    ] {
        let answer = admin.get(path).await;
        let title = answer.json()["title"].clone();
        assert_eq!((answer.status, title), (400, json!("Could not process a resource")), "{path}");
    }
    let answer = admin.post("/_check?asume=a", &json!({})).await;
    assert_eq!((answer.status, answer.json()["status"].clone()), (400, json!(400)));
    assert_eq!(admin.get("/nowhere").await.json()["status"], 404);
    let answer = admin.post("/meshes/default", &json!({})).await;
    assert_eq!((answer.status, answer.json()["title"].clone()), (405, json!("Method not allowed")));
    assert_eq!(StatusCode::METHOD_NOT_ALLOWED.as_u16(), 405);
}

#[tokio::test]
async fn former_versions_are_told_with_their_authors_as_far_as_they_are_retained() {
    let (memory, admin) = global();
    let path = format!("{TIMEOUTS}/slow");
    for value in ["5s", "6s", "7s"] {
        assert!(admin.put(&path, &timeout("slow", value)).await.status < 300);
    }
    admin.delete(&path).await;
    let of = "kind=MeshTimeout&mesh=default&name=slow";
    let history = admin.get(&format!("/_history?{of}")).await.json();
    let told: Vec<_> = history["items"].as_array().expect("items").iter().collect();
    let operations: Vec<_> = told.iter().map(|item| item["operation"].as_str().expect("a word")).collect();
    assert_eq!(operations, ["deleted", "updated", "updated", "created"]);
    assert!(told.iter().all(|item| item["user"] == "mesh-system:admin"), "{history}");
    let as_of = async |revision: u64| admin.get(&format!("/_history/as-of?{of}&revision={revision}")).await;
    let value = |answer: Answer| {
        answer.json()["document"]["spec"]["to"][0]["default"]["http"]["requestTimeout"].clone()
    };
    assert_eq!((value(as_of(2).await), value(as_of(3).await)), (json!("5s"), json!("6s")));
    assert_eq!(as_of(5).await.json()["document"], Value::Null);

    let diff = admin.get("/_history/diff?from=2&to=4").await.json();
    assert_eq!(diff["documents"].as_array().map(Vec::len), Some(1), "{diff}");
    assert_eq!(admin.get("/_history/diff?from=2&to=2").await.json()["documents"], json!([]));
    let future = admin.get("/_history/diff?from=2&to=9").await;
    assert!(future.status == 400 && future.text.contains("the newest is 5"), "{}", future.text);

    let fewer = shared_catalog::Retention { versions: 1, bytes: 1 << 20 };
    memory.catalog.lock().expect("a lock").apply(&shared_catalog::Command::Retain(fewer));
    let forgotten = as_of(2).await;
    assert!(forgotten.status == 400 && forgotten.text.contains("the oldest is 5"), "{}", forgotten.text);
    let dataplane = admin.get("/_history?kind=Dataplane&mesh=default&name=web-1").await;
    assert_eq!(dataplane.status, 404, "{}", dataplane.text);
}

#[tokio::test]
async fn a_secrets_past_is_for_administrators_and_its_contents_for_nobody() {
    let (memory, admin) = global();
    let secret = |data: &str| json!({"type": "Secret", "mesh": "default", "name": "s", "data": data});
    for data in ["b25l", "dHdv"] {
        assert!(admin.put("/meshes/default/secrets/s", &secret(data)).await.status < 300);
    }
    let diff = admin.get("/_history/diff?from=2&to=3").await;
    assert_eq!(diff.json()["documents"][0]["hidden"], true);
    assert!(!diff.text.contains("b25l") && !diff.text.contains("dHdv"), "{}", diff.text);
    let of = "kind=Secret&mesh=default&name=s";
    assert_eq!(admin.get(&format!("/_history/as-of?{of}&revision=3")).await.status, 405);
    let token = admin.post("/tokens/user", &json!({"name": "jane", "validFor": "1h"})).await.text;
    let jane = Client::https(&memory, Some(&token));
    assert_eq!(jane.get(&format!("/_history?{of}")).await.status, 403);
    assert_eq!(jane.get("/_history/diff?from=2&to=3").await.json()["documents"], json!([]));
    assert_eq!(jane.get("/_backup").await.status, 403);
    for path in ["/_cluster/seal-key/rotate", "/_cluster/zones/east/accept-restore"] {
        assert_eq!(jane.post(path, &json!({})).await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn without_a_quorum_a_read_names_the_other_kind() {
    let (memory, admin) = global();
    memory.lost.store(true, std::sync::atomic::Ordering::Relaxed);
    let read = admin.get("/meshes/default").await;
    assert!(read.status == 503 && read.text.contains("?consistency=stale"), "{}", read.text);
    assert_eq!(admin.get("/meshes/default?consistency=stale").await.status, 200);
    let write = admin.put(&format!("{TIMEOUTS}/slow"), &timeout("slow", "5s")).await;
    assert!(write.status == 503 && !write.text.contains("stale"), "{}", write.text);
}
