//! What a writer sends: read strictly, judged by the rules, validated. A dry run is exactly this.
use super::{Api, extract::Query, need_admin};
use crate::{access::Caller, error::Refused, revision::WriteReply, rules};
use axum::{
    Extension, Json,
    extract::{State, rejection::BytesRejection},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use shared_catalog::{Expected, Refusal};
use shared_model::{Kind, Problem, Resource, ResourceKey, document, kind};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assume {
    /// Meshes that count as existing, separated by commas: those that the same file would create.
    #[serde(default)]
    assume: String,
}

/// Answers as a write would, and stores nothing.
pub async fn check(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<Assume>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let value = read_value(&headers, body)?;
    let resource = Resource::from_json(&value).map_err(Refused::Invalid)?;
    let kind = kind::by_name(&resource.kind).expect("a resource is only read with a known kind");
    let Judged { resource, warnings, created } = judge(&api, &caller, kind, resource, expected(&headers)?)?;
    let known = api.backend.get(&ResourceKey::new(kind::MESH, "", &resource.mesh)).is_some()
        || query.assume.split(',').any(|mesh| mesh == resource.mesh);
    if kind.is_mesh_scoped() && !known {
        return Err(Refusal::UnknownMesh(resource.mesh).into());
    }
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(WriteReply { revision: None, warnings })).into_response())
}

/// A write that may go to the store.
pub struct Judged {
    pub resource: Resource,
    pub warnings: Vec<String>,
    /// Nothing is stored under its name now.
    pub created: bool,
}

/// Everything that is decided about a write before it is stored.
pub fn judge(
    api: &Api,
    caller: &Caller,
    kind: &'static Kind,
    mut resource: Resource,
    expected: Expected,
) -> Result<Judged, Refused> {
    if kind.admin_only {
        need_admin(caller, &format!("write a {}", kind.name))?;
    }
    let key = resource.key();
    let stored = api.backend.get(&key);
    let followed = api.backend.is_followed(&key);
    api.at_place(|place| rules::admit_put(place, kind, &mut resource, stored.as_deref(), followed))?;
    // A status is the control plane's; one that a client read and sends back is not its to set.
    resource.status = stored.as_ref().and_then(|stored| stored.status.clone());
    let problems = shared_policy::validate(&resource);
    if !problems.is_empty() {
        return Err(Refused::Invalid(problems));
    }
    let actual = stored.as_ref().map(|stored| stored.revision);
    match (expected, actual) {
        (Expected::Absent, Some(revision)) => return Err(Refusal::Exists { revision }.into()),
        (Expected::At(wanted), actual) if actual.is_none_or(|actual| actual.0 != wanted) => {
            return Err(Refusal::Conflict { actual: actual.unwrap_or_default() }.into());
        }
        _ => {}
    }
    let warnings = shared_policy::warnings(&resource);
    Ok(Judged { resource, warnings, created: stored.is_none() })
}

/// What the path says must be what the document says. A document without a mesh is of the path's.
pub fn check_path(path: &ResourceKey, kind: &Kind, mut value: Value) -> Result<Resource, Refused> {
    let is_empty = |mesh: &Value| mesh.is_null() || mesh.as_str() == Some("");
    if let Some(fields) = value.as_object_mut()
        && kind.is_mesh_scoped()
        && fields.get("mesh").is_none_or(is_empty)
    {
        fields.insert("mesh".into(), path.mesh.clone().into());
    }
    let resource = Resource::from_json(&value).map_err(Refused::Invalid)?;
    let mut problems = Vec::new();
    for (field, given, wanted) in [
        ("type", &resource.kind, &path.kind),
        ("mesh", &resource.mesh, &path.mesh),
        ("name", &resource.name, &path.name),
    ] {
        if given != wanted {
            problems.push(Problem::new(field, format!("is {given:?}, but the path says {wanted:?}")));
        }
    }
    if problems.is_empty() { Ok(resource) } else { Err(Refused::Invalid(problems)) }
}

/// Parses a body: JSON, or YAML when it says so.
pub fn read_value(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Value, Refused> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Refused::TooLarge(format!("the document is larger than {} bytes", document::DOCUMENT_MAX))
        }
        _ => Refused::invalid("", rejection.body_text()),
    })?;
    let media = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let media = media.map(|media| media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match media.as_deref() {
        None | Some("application/json" | "") => {
            let bad = |error: serde_json::Error| Refused::invalid("", format!("not JSON: {error}"));
            serde_json::from_slice(&body).map_err(bad)
        }
        Some("application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml") => {
            let text = std::str::from_utf8(&body)
                .map_err(|error| Refused::invalid("", format!("not UTF-8: {error}")))?;
            document::parse(text).map_err(|problem| Refused::Invalid(vec![problem]))
        }
        Some(other) => Err(Refused::MediaType(format!("{other:?} is not understood: send application/json"))),
    }
}

/// The key under which a writer may send the same write again, from its header; each user has keys of its own.
pub fn idempotency_key(headers: &HeaderMap, user: &str) -> Result<Option<[u8; 16]>, Refused> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > 256 {
        return Err(Refused::invalid("Idempotency-Key", "is 1 to 256 characters of plain text"));
    }
    let digest = shared_identity::digest(&[b"idempotency key", user.as_bytes(), text.as_bytes()]);
    Ok(Some(digest[..16].try_into().expect("a digest is longer than a key")))
}

/// What the writer expects to be stored, from the conditional headers.
pub fn expected(headers: &HeaderMap) -> Result<Expected, Refused> {
    let text = |name| headers.get(name).map(|value: &http::HeaderValue| value.to_str().unwrap_or("?").trim());
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => Ok(Expected::Any),
        (None, Some("*")) => Ok(Expected::Absent),
        (Some(tag), None) => {
            let revision = tag.trim_matches('"').parse();
            revision
                .map(Expected::At)
                .map_err(|_| Refused::invalid("If-Match", format!("{tag} is not \"<revision>\"")))
        }
        (None, Some(other)) => Err(Refused::invalid("If-None-Match", format!("{other} is not *"))),
        (Some(_), Some(_)) => Err(Refused::invalid("If-Match", "cannot stand beside If-None-Match")),
    }
}
