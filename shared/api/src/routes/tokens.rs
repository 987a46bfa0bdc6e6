//! Tokens: asked for in JSON, answered as plain text. Only administrators get one, and no token is ever logged.
//!
//! A federated zone holds no signing keys: it takes the request to global, with the token of the user who asks. Global
//! judges that user again; a zone by itself, and whoever is an administrator only for calling from its host, gets none.
use super::{Api, documents, need_admin};
use crate::{
    access::Caller,
    backend::{Mode, TokenRequest, WantedToken},
    error::Refused,
};
use axum::{
    Extension,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, header};
use serde::{Deserialize, de::DeserializeOwned};
use shared_identity::token::{DataplaneClaims, UserClaims, ZoneClaims};
use shared_model::{Duration, names, strict};
use std::{collections::BTreeMap, time::Duration as StdDuration};

/// Kuma's: a proxy's or a zone's token that names no end lasts ten years.
const FOR_LONG: StdDuration = StdDuration::from_secs(10 * 365 * 24 * 3600);

/// The scopes of a zone token: the link of a zone control plane, and zone proxies.
const SCOPES: &[&str] = &["cp", "ingress", "egress"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Dataplane {
    #[serde(default)]
    name: String,
    #[serde(default)]
    mesh: String,
    tags: Option<BTreeMap<String, Vec<String>>>,
    #[serde(default, rename = "type")]
    proxy_type: String,
    #[serde(default)]
    workload: String,
    #[serde(default)]
    valid_for: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Zone {
    #[serde(default)]
    zone: String,
    scope: Option<Vec<String>>,
    #[serde(default)]
    valid_for: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct User {
    #[serde(default)]
    name: String,
    groups: Option<Vec<String>>,
    #[serde(default)]
    valid_for: String,
}

type Asked = Result<Bytes, axum::extract::rejection::BytesRejection>;

pub async fn dataplane(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Asked,
) -> Result<Response, Refused> {
    need_admin(&caller, "generate dataplane tokens")?;
    if is_signed_elsewhere(&api) {
        return forward(&api, "dataplane", &headers, body).await;
    }
    let asked: Dataplane = read(&headers, body)?;
    if asked.mesh.is_empty() {
        return Err(Refused::invalid("mesh", "cannot be empty"));
    }
    if !matches!(asked.proxy_type.as_str(), "" | "dataplane") {
        let reason = format!("{:?} is not dataplane: zone proxies use zone tokens", asked.proxy_type);
        return Err(Refused::invalid("type", reason));
    }
    let valid_for = lifetime(&asked.valid_for)?.unwrap_or(FOR_LONG);
    let claims = DataplaneClaims {
        name: asked.name,
        mesh: asked.mesh,
        tags: asked.tags.unwrap_or_default(),
        workload: asked.workload,
    };
    tracing::info!(
        user = caller.name,
        mesh = claims.mesh,
        proxy = claims.name,
        "a dataplane token is issued"
    );
    answer(&api, TokenRequest::Dataplane { claims, valid_for }).await
}

pub async fn zone(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Asked,
) -> Result<Response, Refused> {
    need_admin(&caller, "generate zone tokens")?;
    if is_signed_elsewhere(&api) {
        return forward(&api, "zone", &headers, body).await;
    }
    let asked: Zone = read(&headers, body)?;
    if let Some(problem) = names::check_mesh("zone", &asked.zone) {
        return Err(Refused::Invalid(vec![problem]));
    }
    let scope = asked.scope.unwrap_or_default();
    if scope.is_empty() {
        return Err(Refused::invalid(
            "scope",
            format!("cannot be empty: name some of {}", SCOPES.join(", ")),
        ));
    }
    if let Some(i) = scope.iter().position(|scope| !SCOPES.contains(&scope.as_str())) {
        let reason = format!("{:?} is none of {}", scope[i], SCOPES.join(", "));
        return Err(Refused::invalid(format!("scope[{i}]"), reason));
    }
    let valid_for = lifetime(&asked.valid_for)?.unwrap_or(FOR_LONG);
    let claims = ZoneClaims { zone: asked.zone, scope };
    tracing::info!(user = caller.name, zone = claims.zone, scope = ?claims.scope, "a zone token is issued");
    answer(&api, TokenRequest::Zone { claims, valid_for }).await
}

pub async fn user(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Asked,
) -> Result<Response, Refused> {
    need_admin(&caller, "generate user tokens")?;
    if is_signed_elsewhere(&api) {
        return forward(&api, "user", &headers, body).await;
    }
    let asked: User = read(&headers, body)?;
    if asked.name.is_empty() {
        return Err(Refused::invalid("name", "cannot be empty"));
    }
    let valid_for =
        lifetime(&asked.valid_for)?.ok_or_else(|| Refused::invalid("validFor", "cannot be empty"))?;
    let claims = UserClaims { name: asked.name, groups: asked.groups.unwrap_or_default() };
    tracing::info!(user = caller.name, name = claims.name, groups = ?claims.groups, "a user token is issued");
    answer(&api, TokenRequest::User { claims, valid_for }).await
}

fn is_signed_elsewhere(api: &Api) -> bool {
    api.backend.about().mode == Mode::FederatedZone
}

/// Whoever signs reads the request; here it need only be a document.
async fn forward(
    api: &Api,
    kind: &'static str,
    headers: &HeaderMap,
    body: Asked,
) -> Result<Response, Refused> {
    let authorization = headers.get(header::AUTHORIZATION).cloned().ok_or_else(|| {
        Refused::Unauthenticated(format!(
            "{kind} tokens are signed by global, for a user that it knows: send a user token of global (weftctl --token-file FILE), also when you call from this host"
        ))
    })?;
    let body = documents::read_value(headers, body)?.to_string().into();
    let answer = api.backend.forward_token(WantedToken { kind, authorization, body }).await?;
    Ok(answer.map(Body::from))
}

fn read<T: DeserializeOwned>(headers: &HeaderMap, body: Asked) -> Result<T, Refused> {
    let value = documents::read_value(headers, body)?;
    strict::read(&value, "").map_err(|problem| Refused::Invalid(vec![problem]))
}

/// `None` when nothing, or zero, is asked for.
fn lifetime(text: &str) -> Result<Option<StdDuration>, Refused> {
    if text.is_empty() {
        return Ok(None);
    }
    let duration = Duration::parse(text).map_err(|reason| Refused::invalid("validFor", reason))?.0;
    if duration > 10 * FOR_LONG {
        return Err(Refused::invalid("validFor", format!("{text} is longer than 100 years")));
    }
    Ok((!duration.is_zero()).then_some(duration))
}

async fn answer(api: &Api, request: TokenRequest) -> Result<Response, Refused> {
    let token = api.backend.issue_token(request).await?;
    let headers = [(header::CONTENT_TYPE, "text/plain"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, token).into_response())
}
