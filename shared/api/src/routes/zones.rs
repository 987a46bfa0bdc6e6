//! What an operator decides about a zone. For administrators.
use super::{Api, documents, extract::Path, need_admin, resources::REVISION};
use crate::{access::Caller, backend::Author, error::Refused};
use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::json;
use shared_catalog::{Outcome, Refusal};
use shared_model::strict;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked {
    /// The store that gets the name; without, the next one to come that is another than now.
    zone_id: Option<String>,
}

/// Takes the name of a zone from the store that it is bound to.
pub async fn rebind(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Path(zone): Path<String>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Response, Refused> {
    need_admin(&caller, "give the name of a zone to another")?;
    let value = documents::read_value(&headers, body)?;
    let asked: Asked = strict::read(&value, "").map_err(|problem| Refused::Invalid(vec![problem]))?;
    let once = documents::idempotency_key(&headers, &caller.name)?;
    let author = Author { user: caller.name.clone(), once };
    let revision = match api.backend.rebind_zone(&zone, asked.zone_id.as_deref(), &author).await? {
        Outcome::Refused(Refusal::NotFound) => return Err(Refused::NotFound(format!("Zone {zone}"))),
        Outcome::Refused(refusal) => return Err(refusal.into()),
        outcome => outcome.revision().unwrap_or_default(),
    };
    tracing::info!(user = caller.name, zone, to = asked.zone_id, %revision, "the name of a zone is bound anew");
    Ok(([(REVISION, revision.to_string())], Json(json!({"revision": revision.0}))).into_response())
}
