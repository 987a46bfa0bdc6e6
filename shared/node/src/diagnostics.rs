//! `/metrics`, `/healthz` and `/readyz`.
use axum::{Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get};
use prometheus_client::registry::Registry;
use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

/// What must be true before the program may be sent work, each with a name that `/readyz` shows, and why it is not.
#[derive(Clone, Debug)]
pub struct Ready(Arc<RwLock<BTreeMap<&'static str, Condition>>>);

#[derive(Clone, Debug)]
enum Condition {
    Met,
    /// The reason may be empty.
    Unmet(String),
}

impl Ready {
    /// Nothing of `conditions` is met yet.
    pub fn new(conditions: &[&'static str]) -> Self {
        Ready(Arc::new(RwLock::new(
            conditions.iter().map(|name| (*name, Condition::Unmet(String::new()))).collect(),
        )))
    }

    pub fn set(&self, condition: &'static str, met: bool) {
        self.insert(condition, if met { Condition::Met } else { Condition::Unmet(String::new()) });
    }

    /// Says that a condition is not met, and why.
    pub fn lack(&self, condition: &'static str, why: String) {
        self.insert(condition, Condition::Unmet(why));
    }

    fn insert(&self, name: &'static str, condition: Condition) {
        self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(name, condition);
    }

    /// The conditions that are not met.
    pub fn missing(&self) -> Vec<String> {
        let conditions = self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let unmet = conditions.iter().filter_map(|(name, condition)| match condition {
            Condition::Met => None,
            Condition::Unmet(why) if why.is_empty() => Some((*name).to_owned()),
            Condition::Unmet(why) => Some(format!("{name} ({why})")),
        });
        unmet.collect()
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
