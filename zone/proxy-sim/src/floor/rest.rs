//! As much of the REST API as the scenarios use: what they write becomes a push of prebuilt bytes.
use super::prebuilt::{Body, Chunk};
use super::stream::Push;
use super::{Floor, build};
use crate::documents::{self, MOVED, ROLLED};
use crate::wire::Kind;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// `POST /bootstrap`, as little as a client needs of it.
pub fn bootstrap(floor: Arc<Floor>) -> Router {
    Router::new().route("/bootstrap", post(give_bootstrap)).with_state(floor)
}

async fn give_bootstrap(State(floor): State<Arc<Floor>>) -> Json<Value> {
    let document = json!({"node": {"metadata": {"dataplane.proxyType": "dataplane"}},
        "dynamicResources": {"adsConfig": {"apiType": "DELTA_GRPC"}}, "address": floor.xds.to_string()});
    Json(json!({"bootstrap": base64::engine::general_purpose::STANDARD.encode(document.to_string())}))
}

#[derive(Clone)]
struct Triggers {
    floor: Arc<Floor>,
    /// Counts what was pushed, so that a push always differs from the one before: timeouts of the mesh, those of a
    /// service, permissions.
    editions: Arc<[AtomicUsize; 3]>,
    /// What was written last, by collection and name: the same document again is no change.
    written: Arc<Mutex<BTreeMap<(String, String), Bytes>>>,
    /// Endpoints without a proxy: their addresses by service and name.
    guests: Arc<Mutex<BTreeMap<usize, BTreeMap<String, String>>>>,
}

pub fn triggers(floor: Arc<Floor>) -> Router {
    let triggers =
        Triggers { floor, editions: Arc::default(), written: Arc::default(), guests: Arc::default() };
    Router::new()
        .route("/", get(|| async { Json(json!({"product": "floor"})) }))
        .route("/tokens/dataplane", post(|| async { "the-floor-asks-for-no-token" }))
        .route("/meshes/{mesh}", any(|| async { Json(json!({})) }))
        .route("/meshes/{mesh}/{collection}/{name}", any(item))
        .with_state(triggers)
}

async fn item(
    State(triggers): State<Triggers>,
    method: Method,
    Path((_, collection, name)): Path<(String, String, String)>,
    body: Bytes,
) -> Response {
    let before = {
        let mut written = triggers.written.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (collection.clone(), name.clone());
        match method {
            Method::PUT => written.insert(key, body.clone()),
            Method::DELETE => written.remove(&key),
            _ => return (StatusCode::NOT_FOUND, Json(json!({}))).into_response(),
        }
    };
    if method == Method::PUT && before.as_ref() == Some(&body) {
        return Json(json!({})).into_response();
    }
    let there = method == Method::PUT;
    // What is deleted is what was there.
    let document = if there { body } else { before.unwrap_or_default() };
    let document: Value = serde_json::from_slice(&document).unwrap_or_default();
    match (collection.as_str(), name.as_str()) {
        ("dataplanes", name) => triggers.moved(name, &document, there),
        ("meshtimeouts", _) => triggers.timeout(&document),
        ("meshtrafficpermissions", "withdrawn") => triggers.permission(&document),
        ("meshhttproutes", "edited") => triggers.route(&document),
        _ => {}
    }
    Json(json!({})).into_response()
}

impl Triggers {
    /// An endpoint without a proxy comes, moves or goes: one assignment, made now, to the clients of its service.
    fn moved(&self, guest: &str, document: &Value, there: bool) {
        let floor = &self.floor;
        let Some((name, address)) = documents::service_and_address(document) else { return };
        let is_guest = address.starts_with(MOVED) || address.starts_with(ROLLED);
        let Some(service) = floor.graph.find_service(name).filter(|_| is_guest) else { return };
        let instances = floor.graph.services[service].instances.clone();
        let mut addresses: Vec<String> = instances.map(|proxy| floor.graph.address_of(proxy)).collect();
        // Held until it is pushed: what is pushed last is what there is.
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        let of_service = guests.entry(service).or_default();
        match there {
            true => of_service.insert(guest.to_owned(), address.to_owned()),
            false => of_service.remove(guest),
        };
        addresses.extend(of_service.values().cloned());
        let message = build::assignment(name, &addresses, floor.shape.assignment_bytes);
        let chunk = Chunk::of(Kind::Endpoint, name, &message);
        let body = Body::of(Kind::Endpoint, std::iter::once(&chunk));
        floor.push(floor.graph.clients_of(service), |_| Push(body.clone()));
    }

    /// A route of one caller: the routes of its instances to one service.
    fn route(&self, document: &Value) {
        let floor = &self.floor;
        let spec = &document["spec"];
        let find = |name: &Value| name.as_str().and_then(|name| floor.graph.find_service(name));
        let caller = find(&spec["targetRef"]["tags"]["kuma.io/service"])
            .or(find(&spec["targetRef"]["labels"]["kuma.io/workload"]));
        let (Some(caller), Some(called)) = (caller, find(&spec["to"][0]["targetRef"]["name"])) else {
            return;
        };
        let edition = self.next_edition(1);
        let message = floor.prebuilt.routes_to(called, edition);
        floor.push(floor.graph.services[caller].instances.clone(), |_| Push(message.clone()));
    }

    /// A timeout: the routes of everybody, or those to one service.
    fn timeout(&self, document: &Value) {
        let floor = &self.floor;
        let to = &document["spec"]["to"][0]["targetRef"];
        match to["name"].as_str().and_then(|name| floor.graph.find_service(name)) {
            Some(service) => {
                let edition = self.next_edition(1);
                let message = floor.prebuilt.routes_to(service, edition);
                floor.push(floor.graph.clients_of(service), |_| Push(message.clone()));
            }
            None => {
                let edition = self.next_edition(0);
                floor.push(0..floor.graph.proxies(), |proxy| {
                    Push(floor.prebuilt.routes(floor.graph.service_of(proxy), edition).clone())
                });
            }
        }
    }

    /// A permission for one service, given or withdrawn: the inbound listeners of its instances.
    fn permission(&self, document: &Value) {
        let floor = &self.floor;
        let edition = self.next_edition(2);
        let target = &document["spec"]["targetRef"];
        let name =
            target["tags"]["kuma.io/service"].as_str().or(target["labels"]["kuma.io/workload"].as_str());
        let Some(service) = name.and_then(|name| floor.graph.find_service(name)) else { return };
        let instances = floor.graph.services[service].instances.clone();
        floor.push(instances, |_| Push(floor.prebuilt.inbound(service, edition).clone()));
    }

    fn next_edition(&self, what: usize) -> usize {
        1 + self.editions[what].fetch_add(1, Relaxed)
    }
}
