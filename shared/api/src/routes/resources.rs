//! Reading, listing, writing and deleting resources of every kind.
use super::{
    Api, documents,
    extract::{Path, Query},
    need_admin, overviews,
};
use crate::{access::Caller, backend::Author, error::Refused, listing::Listing, revision::WriteReply, rules};
use axum::{
    Extension, Json, Router,
    extract::{FromRequestParts, State, rejection::BytesRejection},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header, request};
use serde::Deserialize;
use serde_json::{Value, json};
use shared_catalog::{Expected, Outcome, Refusal};
use shared_identity::names;
use shared_model::{Kind, Kri, Resource, ResourceKey, Scope, kind};
use std::{collections::BTreeMap, sync::Arc};

/// The header that carries the revision of a write, and the one that a read has seen.
pub const REVISION: HeaderName = HeaderName::from_static("weft-revision");

type Body = Result<Bytes, BytesRejection>;
type Of = &'static Kind;

/// The query of a list, in order and with repetitions.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Pairs(pub Vec<(String, String)>);

/// The address under which the caller sees this path, without a query.
pub struct Base(pub String);

impl FromRequestParts<Api> for Base {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut request::Parts, api: &Api) -> Result<Self, Self::Rejection> {
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = parts.uri.authority().map(|authority| authority.as_str()).or(host).unwrap_or("localhost");
        Ok(Base(format!("{}://{host}{}", api.door.scheme(), parts.uri.path())))
    }
}

/// What a path names: a kind, a mesh (none in a list over all meshes, or for a global kind), a name (none in a list).
struct Target {
    kind: Of,
    mesh: Option<String>,
    name: String,
}

impl Target {
    fn key(&self) -> ResourceKey {
        ResourceKey::new(self.kind.name, self.mesh.clone().unwrap_or_default(), self.name.clone())
    }
}

impl FromRequestParts<Api> for Target {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut request::Parts, api: &Api) -> Result<Self, Refused> {
        let kind = *parts.extensions.get::<Of>().expect("every route of a kind carries it");
        let Path(mut params): Path<BTreeMap<String, String>> = Path::from_request_parts(parts, api).await?;
        let (mut mesh, mut name) = (params.remove("mesh"), params.remove("name"));
        if kind.name == kind::MESH {
            (mesh, name) = (None, mesh);
        }
        Ok(Target { kind, mesh, name: name.unwrap_or_default() })
    }
}

/// The paths of one kind.
pub fn routes(kind: Of) -> Router<Api> {
    let mut router = Router::new();
    for path in [kind.path, kind.alias].into_iter().filter(|path| !path.is_empty()) {
        router = router.route(&format!("/{path}"), get(list));
        let item = match kind.scope {
            Scope::Mesh => {
                router = router.route(&format!("/meshes/{{mesh}}/{path}"), get(list));
                format!("/meshes/{{mesh}}/{path}/{{name}}")
            }
            // Every path below a mesh calls this segment so.
            Scope::Global if kind.name == kind::MESH => format!("/{path}/{{mesh}}"),
            Scope::Global => format!("/{path}/{{name}}"),
        };
        router = router.route(&item, get(read).put(put).delete(delete));
    }
    router.layer(Extension(kind))
}

/// A list in a mesh that is not there is not an empty list.
pub fn check_mesh(api: &Api, mesh: &str) -> Result<(), Refused> {
    let key = ResourceKey::new(kind::MESH, "", mesh);
    api.backend.get(&key).map(|_| ()).ok_or_else(|| Refused::NotFound(key.to_string()))
}

async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    target: Target,
    Query(Pairs(pairs)): Query<Pairs>,
    base: Base,
) -> Result<Json<Value>, Refused> {
    let Target { kind, mesh, .. } = target;
    if kind.admin_only {
        need_admin(&caller, &format!("read a {}", kind.name))?;
    }
    if let Some(mesh) = &mesh {
        check_mesh(&api, mesh)?;
    }
    let listing = Listing::of(pairs)?;
    if kind.name == kind::DATAPLANE {
        let listing = listing.of_proxies(mesh.as_deref());
        return Ok(Json(overviews::proxies(&api, &listing, &base, |resource, _| resource.to_json())));
    }
    let mut all = api.backend.list(kind, mesh.as_deref());
    all.retain(|resource| listing.keeps(resource) && !names::is_private_key(&resource.key()));
    Ok(Json(listing.page(&base.0, all, |resource| resource.to_json())))
}

async fn read(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    target: Target,
) -> Result<Response, Refused> {
    show(&*find(&api, &caller, target.kind, target.key())?)
}

fn find(api: &Api, caller: &Caller, kind: Of, key: ResourceKey) -> Result<Arc<Resource>, Refused> {
    if kind.admin_only {
        need_admin(caller, &format!("read a {}", kind.name))?;
    }
    if names::is_private_key(&key) {
        return Err(Refused::Forbidden(format!("{key} is a signing key: its content is shown to nobody")));
    }
    api.backend.get(&key).ok_or_else(|| Refused::NotFound(key.to_string()))
}

fn show(resource: &Resource) -> Result<Response, Refused> {
    let tag = format!("\"{}\"", resource.revision);
    Ok(([(header::ETAG, tag)], Json(resource.to_json())).into_response())
}

pub async fn by_kri(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(kri): Path<String>,
) -> Result<Response, Refused> {
    let wanted = Kri::parse(&kri).map_err(|reason| Refused::invalid("kri", reason))?;
    let kind = kind::KINDS.iter().find(|kind| kind.short == wanted.short);
    let kind = kind.ok_or_else(|| {
        Refused::invalid("kri", format!("{:?} is not the short name of a kind", wanted.short))
    })?;
    let mesh = kind.is_mesh_scoped().then_some(wanted.mesh.as_str());
    let whole = wanted.with_section("");
    let found =
        api.backend.list(kind, mesh).into_iter().find(|resource| Kri::of(resource).as_ref() == Some(&whole));
    let key = found.map(|found| found.key()).ok_or_else(|| Refused::NotFound(kri.clone()))?;
    show(&*find(&api, &caller, kind, key)?)
}

async fn put(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let kind = target.kind;
    api.at_place(|place| rules::check_kind(place, kind))?;
    let expected = documents::expected(&headers)?;
    let document = documents::read_value(&headers, body)?;
    let resource = documents::check_path(&target.key(), kind, document)?;
    let once = documents::idempotency_key(&headers, &caller.name)?;
    // A write that comes again finds its own first one: whether it is as expected is known only where both are.
    let author = Author { user: caller.name.clone(), once };
    let expected_now = if once.is_some() { Expected::Any } else { expected };
    let documents::Judged { resource, warnings, .. } =
        documents::judge(&api, &caller, kind, resource, expected_now)?;
    let key = resource.key();
    let outcome = api.backend.put(resource, expected, &author).await?;
    let (revision, created) = match outcome {
        Outcome::Stored { revision, created } => (revision, created),
        Outcome::Unchanged { revision } => (revision, false),
        Outcome::Deleted { .. } => {
            return Err(Refused::Internal(format!("a write of {key} was answered as a deletion")));
        }
        Outcome::Refused(refusal) => return Err(refusal.into()),
    };
    tracing::info!(user = caller.name, resource = %key, %revision, created, "written");
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let reply = WriteReply { revision: Some(revision.0), warnings };
    Ok((status, [(REVISION, revision.to_string())], Json(reply)).into_response())
}

async fn delete(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    target: Target,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let kind = target.kind;
    if kind.admin_only {
        need_admin(&caller, &format!("delete a {}", kind.name))?;
    }
    let key = target.key();
    let expected = documents::expected(&headers)?;
    api.at_place(|place| rules::check_kind(place, kind))?;
    let once = documents::idempotency_key(&headers, &caller.name)?;
    match api.backend.get(&key) {
        Some(stored) => {
            let followed = api.backend.is_followed(&key);
            api.at_place(|place| rules::admit_delete(place, kind, &stored, followed))?;
        }
        // A deletion that comes again finds nothing any more.
        None if once.is_some() => {}
        None => return Err(Refused::NotFound(key.to_string())),
    }
    let author = Author { user: caller.name.clone(), once };
    let outcome = api.backend.delete(key.clone(), expected, &author).await?;
    let revision = match outcome {
        Outcome::Refused(Refusal::NotFound) => return Err(Refused::NotFound(key.to_string())),
        Outcome::Refused(refusal) => return Err(refusal.into()),
        outcome => outcome.revision().unwrap_or_default(),
    };
    tracing::info!(user = caller.name, resource = %key, %revision, "deleted");
    Ok((StatusCode::OK, [(REVISION, revision.to_string())], Json(json!({"revision": revision.0})))
        .into_response())
}
