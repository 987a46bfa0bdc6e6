//! The nodes of the cluster: their state, who may join, who votes. For administrators.
use super::{Api, documents, need_admin, resources::REVISION};
use crate::{
    access::Caller,
    backend::Author,
    cluster::{ClusterChange, ClusterStatus, SealKeyStatus},
    error::Refused,
};
use axum::{
    Extension, Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::{Value, json};
use shared_catalog::Outcome;
use shared_model::{Duration, strict};
use std::time::Duration as StdDuration;

/// Long enough to carry a token to another machine.
const TOKEN_LIFETIME: StdDuration = StdDuration::from_secs(600);
const TOKEN_LIFETIME_MAX: StdDuration = StdDuration::from_secs(24 * 3600);

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    valid_for: String,
}

pub async fn status(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<ClusterStatus>, Refused> {
    need_admin(&caller, "see the nodes of the cluster")?;
    api.backend.cluster().await.map(Json)
}

pub async fn join_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Response, Refused> {
    need_admin(&caller, "let a node into the cluster")?;
    let value = documents::read_value(&headers, body)?;
    let asked: Asked = strict::read(&value, "").map_err(|problem| Refused::Invalid(vec![problem]))?;
    let valid_for = match asked.valid_for.as_str() {
        "" => TOKEN_LIFETIME,
        text => Duration::parse(text).map_err(|reason| Refused::invalid("validFor", reason))?.0,
    };
    if valid_for.is_zero() || valid_for > TOKEN_LIFETIME_MAX {
        return Err(Refused::invalid("validFor", "must be longer than nothing and at most 24h"));
    }
    tracing::info!(user = caller.name, "a join token is issued");
    let token = api.backend.join_token(valid_for).await?;
    let headers = [(header::CONTENT_TYPE, "text/plain"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, token).into_response())
}

pub async fn promote(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(node): Path<String>,
) -> Result<Json<Value>, Refused> {
    change(&api, &caller, ClusterChange::Promote { node }).await
}

pub async fn transfer(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(node): Path<String>,
) -> Result<Json<Value>, Refused> {
    change(&api, &caller, ClusterChange::TransferLeadership { node }).await
}

pub async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(node): Path<String>,
) -> Result<Json<Value>, Refused> {
    change(&api, &caller, ClusterChange::Remove { node }).await
}

async fn change(api: &Api, caller: &Caller, change: ClusterChange) -> Result<Json<Value>, Refused> {
    need_admin(caller, "change the nodes of the cluster")?;
    tracing::info!(user = caller.name, ?change, "the cluster changes");
    api.backend.change_cluster(change).await?;
    Ok(Json(json!({})))
}

pub async fn backup(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refused> {
    need_admin(&caller, "take a backup")?;
    let file = api.backend.backup().await?;
    tracing::info!(user = caller.name, bytes = file.len(), "a backup is taken");
    let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, file).into_response())
}

pub async fn accept_restore(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Path(zone): Path<String>,
) -> Result<Response, Refused> {
    need_admin(&caller, "let a zone follow into another epoch")?;
    let once = documents::idempotency_key(&headers, &caller.name)?;
    let author = Author { user: caller.name.clone(), once };
    let revision = match api.backend.accept_restore(&zone, &author).await? {
        Outcome::Refused(shared_catalog::Refusal::NotFound) => {
            return Err(Refused::NotFound(format!("Zone {zone}")));
        }
        Outcome::Refused(refusal) => return Err(refusal.into()),
        outcome => outcome.revision().unwrap_or_default(),
    };
    tracing::info!(user = caller.name, zone, %revision, "the zone may follow into the present epoch");
    Ok(([(REVISION, revision.to_string())], Json(json!({"revision": revision.0}))).into_response())
}

pub async fn rotate_seal_key(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<SealKeyStatus>, Refused> {
    need_admin(&caller, "change the key that secrets are sealed with")?;
    let status = api.backend.rotate_seal_key().await?;
    tracing::info!(
        user = caller.name,
        key_id = status.key_id,
        resealed = status.resealed,
        "the seal key is another"
    );
    Ok(Json(status))
}
