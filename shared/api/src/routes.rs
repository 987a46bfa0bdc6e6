//! The routes. Each kind gets its own literal paths, so that no name of a resource can hide a fixed segment.
mod cluster;
mod documents;
mod extract;
mod history;
mod inspect;
mod overviews;
mod resources;
mod revisions;
mod system;
mod tokens;
mod zones;

use crate::{
    access::{self, Caller, Door},
    backend::Backend,
    error::{Reason, Refused},
    rules::Place,
};
use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, DefaultBodyLimit, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use http::{HeaderValue, Method, StatusCode, Uri};
use shared_identity::{known::KnownTokens, token::UserClaims};
use shared_model::{document::DOCUMENT_MAX, kind};
use std::{net::SocketAddr, sync::Arc};
use tracing::{Instrument as _, Span, field::Empty};

/// Paths whose answer does not depend on what is stored.
const OWN: &[&str] = &["/", "/config", "/policies", "/_resources", "/who-am-i"];

/// What every handler is given.
#[derive(Clone)]
struct Api {
    backend: Arc<dyn Backend>,
    door: Door,
    known: Arc<KnownTokens<UserClaims>>,
}

impl Api {
    /// Runs `judge` with the place at which a write arrives.
    fn at_place<T>(&self, judge: impl FnOnce(Place<'_>) -> T) -> T {
        let about = self.backend.about();
        judge(Place { mode: about.mode, zone: about.zone.as_deref() })
    }
}

/// The API for one listener. The listener must give `ConnectInfo<SocketAddr>`, or nobody is local.
pub fn router(backend: Arc<dyn Backend>, door: Door) -> Router {
    let api = Api { backend, door, known: Arc::default() };
    let mut router = Router::new()
        .route("/", get(system::index))
        .route("/config", get(system::config))
        .route("/policies", get(system::policies))
        .route("/_resources", get(system::kinds))
        .route("/who-am-i", get(system::who_am_i))
        .route("/_kri/{kri}", get(resources::by_kri))
        .route("/_revisions/{revision}", get(revisions::status))
        .route("/_history", get(history::of))
        .route("/_history/as-of", get(history::as_of))
        .route("/_history/diff", get(history::diff))
        .route("/_backup", get(cluster::backup))
        .route("/_cluster", get(cluster::status))
        .route("/_cluster/seal-key/rotate", post(cluster::rotate_seal_key))
        .route("/_cluster/zones/{zone}/accept-restore", post(cluster::accept_restore))
        .route("/_cluster/join-tokens", post(cluster::join_token))
        .route("/_cluster/nodes/{node}", delete(cluster::remove))
        .route("/_cluster/nodes/{node}/promote", post(cluster::promote))
        .route("/_cluster/nodes/{node}/transfer-leadership", post(cluster::transfer))
        .route("/zones/{name}/_rebind", post(zones::rebind))
        .route("/_check", post(documents::check))
        .route("/tokens/dataplane", post(tokens::dataplane))
        .route("/tokens/zone", post(tokens::zone))
        .route("/tokens/user", post(tokens::user))
        .route("/meshes/{mesh}/dataplanes/{name}/xds", get(inspect::xds))
        .route("/meshes/{mesh}/dataplanes/{name}/stats", get(inspect::stats))
        .route("/meshes/{mesh}/dataplanes/{name}/clusters", get(inspect::clusters))
        .merge(overviews::routes());
    for kind in kind::KINDS {
        router = router.merge(resources::routes(kind));
    }
    router
        .fallback(|| async { Refused::NotFound("404: Page Not Found".into()) })
        .method_not_allowed_fallback(|| async {
            Refused::NotAllowed("this path takes no such method".into())
        })
        .layer(DefaultBodyLimit::max(DOCUMENT_MAX))
        .layer(middleware::from_fn_with_state(api.clone(), guard))
        .with_state(api)
}

/// Finds out who calls, turns away who may not, logs and counts the answer.
async fn guard(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let caller = identify(&api, &request);
    let user = caller.as_ref().map_or("unknown", |caller| &caller.name).to_owned();
    let answer = match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            let span = write_span(&method, &path, &user);
            let uri = request.uri().clone();
            let answer = match fresh(&api, &method, &uri).await {
                Ok(seen) => {
                    let run = async {
                        match method == Method::PUT {
                            true => judged(&api, request, next).await,
                            false => next.run(request).await,
                        }
                    };
                    let mut answer = run.instrument(span.clone()).await;
                    if let Some(seen) = seen {
                        answer.headers_mut().entry(resources::REVISION).or_insert(seen);
                    }
                    answer
                }
                Err(refused) => refused.into_response(),
            };
            span.record("status", answer.status().as_u16());
            if let Some(revision) =
                answer.headers().get(resources::REVISION).and_then(|text| text.to_str().ok())
            {
                span.record("revision", revision);
            }
            answer
        }
        Err(refused) => refused.into_response(),
    };
    let status = answer.status();
    if let Some(Reason(reason)) = answer.extensions().get() {
        // A reason may quote what was sent, and a dry run may be one of a secret.
        let hidden = path.contains("secret") || path == "/_check";
        let reason = if hidden { "(not logged)" } else { reason };
        match status {
            _ if status.is_server_error() => tracing::error!(user, %method, path, reason, "a request failed"),
            // Who asks for what is not there does nothing that an operator must know.
            StatusCode::NOT_FOUND => tracing::debug!(user, %method, path, reason, "not found"),
            _ => tracing::warn!(user, %method, path, reason, "a request is refused"),
        }
    }
    api.backend.answered(method.as_str(), status.as_u16());
    answer
}

/// The root of a write's trace. Reads have none.
fn write_span(method: &Method, path: &str, user: &str) -> Span {
    if !matches!(*method, Method::PUT | Method::DELETE) {
        return Span::none();
    }
    tracing::debug_span!("write", %method, path, user, status = Empty, revision = Empty)
}

/// A write is judged by what is here, and again where it is stored. Only what is refused here must be judged by what is as
/// new as every acknowledged write: most writes so cost one round through the cluster and not two.
async fn judged(api: &Api, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = match axum::body::to_bytes(body, DOCUMENT_MAX).await {
        Ok(body) => body,
        Err(error) => {
            return Refused::TooLarge(format!("the body cannot be read: {error}")).into_response();
        }
    };
    let again = || Request::from_parts(parts.clone(), Body::from(body.clone()));
    let answer = next.clone().run(again()).await;
    if !answer.status().is_client_error() || api.backend.is_fresh() {
        return answer;
    }
    match api.backend.catch_up(true).await {
        Ok(()) => next.run(again()).await,
        Err(refused) => refused.into_response(),
    }
}

/// Reads are as new as every acknowledged write, unless the caller asks for what is here with `?consistency=stale`. Gives
/// the revision that the answer to a read has at least seen.
async fn fresh(api: &Api, method: &Method, uri: &Uri) -> Result<Option<HeaderValue>, Refused> {
    // What the control plane says of itself.
    if OWN.contains(&uri.path()) || uri.path().starts_with("/_cluster") {
        return Ok(None);
    }
    let reads = method == Method::GET || method == Method::HEAD;
    let query = uri.query().unwrap_or_default();
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("consistency="));
    match asked {
        None | Some("" | "linearizable") if *method == Method::PUT => {}
        None | Some("" | "linearizable") => {
            api.backend.catch_up(!reads).await.map_err(|refused| match refused {
                Refused::Unavailable(reason) if reads => Refused::Unavailable(format!(
                    "{reason}: what this node has may be read with ?consistency=stale (weftctl --stale)"
                )),
                refused => refused,
            })?;
        }
        Some("stale") if reads => {}
        Some(other) => {
            let reason = match reads {
                true => format!("{other:?} is neither linearizable nor stale"),
                false => "is for reads".to_owned(),
            };
            return Err(Refused::invalid("consistency", reason));
        }
    }
    Ok(reads.then(|| HeaderValue::from(api.backend.revision().0)))
}

fn identify(api: &Api, request: &Request) -> Result<Caller, Refused> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let keys = || api.backend.user_keys();
    let now = shared_node::time::now();
    let caller = access::identify(api.door, peer, request.uri(), request.headers(), &api.known, keys, now)?;
    // The index is open: clients ask it before they have a token.
    if caller.is_anonymous() && request.uri().path() != "/" {
        let advice = match api.door {
            Door::Loopback => "a user token is needed: this call does not come directly from this host",
            Door::Https => "a user token is needed: send authorization: Bearer <token>",
        };
        return Err(Refused::Unauthenticated(advice.into()));
    }
    Ok(caller)
}

/// Only administrators pass.
fn need_admin(caller: &Caller, what: &str) -> Result<(), Refused> {
    match caller.is_admin() {
        true => Ok(()),
        false => Err(Refused::Forbidden(format!(
            "user {:?} may not {what}: it needs the group {}",
            caller.name,
            access::ADMIN
        ))),
    }
}
