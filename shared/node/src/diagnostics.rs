//! `/metrics`, `/healthz` and `/readyz`.
use axum::{Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get};
use prometheus_client::registry::Registry;
use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

/// What must be true before the program may be sent work, each with a name that `/readyz` shows.
#[derive(Clone, Debug)]
pub struct Ready(Arc<RwLock<BTreeMap<&'static str, bool>>>);

impl Ready {
    /// Nothing of `conditions` is met yet.
    pub fn new(conditions: &[&'static str]) -> Self {
        Ready(Arc::new(RwLock::new(conditions.iter().map(|name| (*name, false)).collect())))
    }

    pub fn set(&self, condition: &'static str, met: bool) {
        self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(condition, met);
    }

    /// The conditions that are not met.
    pub fn missing(&self) -> Vec<&'static str> {
        let conditions = self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        conditions.iter().filter(|(_, met)| !**met).map(|(name, _)| *name).collect()
    }
}

#[derive(Clone)]
struct Shared {
    registry: Arc<Registry>,
    ready: Ready,
}

/// The router of the diagnostics port. Every metric must be registered before.
pub fn router(registry: Arc<Registry>, ready: Ready) -> Router {
    let alive = || async { "alive\n" };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(alive))
        .route("/healthy", get(alive))
        .route("/readyz", get(readyz))
        .route("/ready", get(readyz))
        .with_state(Shared { registry, ready })
}

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &shared.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text)
        }
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string())
        }
    }
}

async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    match shared.ready.missing() {
        missing if missing.is_empty() => (StatusCode::OK, "ready\n".to_owned()),
        missing => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: waiting for {}\n", missing.join(", ")))
        }
    }
}
