//! As much of the REST API as the scenarios use: what they write becomes a push of prebuilt bytes.
use super::prebuilt::{Body, Chunk};
use super::stream::Push;
use super::{Floor, build};
use crate::documents::{self, MOVED};
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
}

pub fn triggers(floor: Arc<Floor>) -> Router {
    let triggers = Triggers { floor, editions: Arc::default(), written: Arc::default() };
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
    let document: Value = serde_json::from_slice(&body).unwrap_or_default();
    if !matches!(method, Method::PUT | Method::DELETE) {
        return (StatusCode::NOT_FOUND, Json(json!({}))).into_response();
    }
    let before = {
        let mut written = triggers.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert((collection.clone(), name.clone()), body.clone())
    };
    if before.is_some_and(|before| before == body) {
        return Json(json!({})).into_response();
    }
    match (collection.as_str(), name.as_str()) {
        ("dataplanes", _) => triggers.moved(&document),
        ("meshtimeouts", _) => triggers.timeout(&document),
        ("meshtrafficpermissions", "withdrawn") => triggers.permission(&document),
        _ => {}
    }
    Json(json!({})).into_response()
}

impl Triggers {
    /// The endpoint that moves: one assignment, made now, to the clients of its service.
    fn moved(&self, document: &Value) {
        let floor = &self.floor;
        let Some((name, address)) = documents::service_and_address(document) else { return };
        let Some(service) = floor.graph.find_service(name).filter(|_| address.starts_with(MOVED)) else {
            return;
        };
        let instances = floor.graph.services[service].instances.clone();
        let mut addresses: Vec<String> = instances.map(|proxy| floor.graph.address_of(proxy)).collect();
        addresses.push(address.to_owned());
        let message = build::assignment(name, &addresses, floor.shape.assignment_bytes);
        let chunk = Chunk::of(Kind::Endpoint, name, &message);
        let body = Body::of(Kind::Endpoint, std::iter::once(&chunk));
        floor.push(floor.graph.clients_of(service), |_| Push(body.clone()));
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
        // Deleted without a body, which does not say whose it was: the scenarios have one only.
        let service =
            name.and_then(|name| floor.graph.find_service(name)).unwrap_or_else(|| floor.graph.busiest());
        let instances = floor.graph.services[service].instances.clone();
        floor.push(instances, |_| Push(floor.prebuilt.inbound(service, edition).clone()));
    }

    fn next_edition(&self, what: usize) -> usize {
        1 + self.editions[what].fetch_add(1, Relaxed)
    }
}
