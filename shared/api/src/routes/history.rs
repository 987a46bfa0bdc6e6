//! Former versions of resources, and what differs between two revisions.
use super::{Api, extract::Query, need_admin};
use crate::{
    access::Caller,
    error::Refused,
    history::{AsOf, Diff, Differs, History, HistoryItem},
};
use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use shared_catalog::{self as catalog, Catalog, Untold};
use shared_model::{Kind, ResourceKey, Revision, kind};
use std::sync::Arc;

/// One resource.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Of {
    kind: String,
    #[serde(default)]
    mesh: String,
    name: String,
    revision: Option<u64>,
    /// Judged before the request came here.
    #[serde(rename = "consistency")]
    _consistency: Option<String>,
}

/// Two revisions; of one resource, or of all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Between {
    from: u64,
    to: u64,
    kind: Option<String>,
    #[serde(default)]
    mesh: String,
    name: Option<String>,
    #[serde(rename = "consistency")]
    _consistency: Option<String>,
}

pub async fn of(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(of): Query<Of>,
) -> Result<Json<History>, Refused> {
    let (catalog, key) = (catalog_of(&api)?, key_of(&caller, &of.kind, &of.mesh, &of.name)?);
    let versions = catalog.history(&key).map_err(untold)?;
    if versions.is_empty() {
        let oldest = catalog.oldest_retained();
        return Err(Refused::NotFound(format!(
            "{key} has no history: what is retained begins at revision {oldest}"
        )));
    }
    let item = |version: catalog::Version| HistoryItem {
        revision: version.revision.0,
        time: version.at,
        user: version.by,
        operation: version.operation,
    };
    Ok(Json(History {
        items: versions.into_iter().map(item).collect(),
        oldest_retained: catalog.oldest_retained().0,
        current: catalog.revision().0,
    }))
}

pub async fn as_of(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(of): Query<Of>,
) -> Result<Json<AsOf>, Refused> {
    let (catalog, key) = (catalog_of(&api)?, key_of(&caller, &of.kind, &of.mesh, &of.name)?);
    let revision = of.revision.ok_or_else(|| Refused::invalid("revision", "cannot be empty"))?;
    if is_secret(&key) {
        return Err(Refused::NotAllowed(format!("{key}: former contents of secrets are not kept")));
    }
    let document = match catalog.as_of(&key, Revision(revision)).map_err(untold)? {
        catalog::AsOf::Stored(resource) => Some(resource.to_json()),
        catalog::AsOf::Absent | catalog::AsOf::Forgotten => None,
    };
    Ok(Json(AsOf { revision, document }))
}

pub async fn diff(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(between): Query<Between>,
) -> Result<Json<Diff>, Refused> {
    let catalog = catalog_of(&api)?;
    let (from, to) = (Revision(between.from), Revision(between.to));
    let mut keys = catalog.touched_between(from.min(to), from.max(to)).map_err(untold)?;
    match (&between.kind, &between.name) {
        (Some(kind), Some(name)) => {
            let key = key_of(&caller, kind, &between.mesh, name)?;
            keys.retain(|touched| *touched == key);
        }
        (None, None) => keys.retain(|key| caller.is_admin() || !needs_admin(key)),
        _ => return Err(Refused::invalid("name", "stands with a kind, and a kind with a name")),
    }
    let documents = keys.iter().filter_map(|key| differs(&catalog, key, from, to).transpose());
    let documents = documents.collect::<Result<_, _>>().map_err(untold)?;
    Ok(Json(Diff { from: from.0, to: to.0, documents }))
}

/// Nothing for a resource that was changed and changed back.
fn differs(
    catalog: &Catalog,
    key: &ResourceKey,
    from: Revision,
    to: Revision,
) -> Result<Option<Differs>, Untold> {
    let (from, to) = (catalog.as_of(key, from)?, catalog.as_of(key, to)?);
    let same = match (&from, &to) {
        (catalog::AsOf::Stored(from), catalog::AsOf::Stored(to)) => {
            Arc::ptr_eq(from, to) || from.same_content(to)
        }
        (catalog::AsOf::Absent, catalog::AsOf::Absent) => true,
        _ => false,
    };
    let hidden = is_secret(key);
    let shown = |state: catalog::AsOf| match state {
        catalog::AsOf::Stored(resource) if !hidden => Some(resource.to_json()),
        _ => None,
    };
    Ok((!same).then(|| Differs {
        kind: key.kind.clone(),
        mesh: key.mesh.clone(),
        name: key.name.clone(),
        hidden,
        from: shown(from),
        to: shown(to),
    }))
}

fn catalog_of(api: &Api) -> Result<Arc<Catalog>, Refused> {
    api.backend.catalog().ok_or_else(|| Refused::NotFound("this control plane keeps no history".into()))
}

fn key_of(caller: &Caller, kind: &str, mesh: &str, name: &str) -> Result<ResourceKey, Refused> {
    let known = kind::by_name(kind);
    let known: &Kind = known.ok_or_else(|| Refused::invalid("kind", format!("there is no kind {kind:?}")))?;
    if known.admin_only {
        need_admin(caller, &format!("read a {}", known.name))?;
    }
    if known.is_mesh_scoped() == mesh.is_empty() {
        let reason = if mesh.is_empty() { "cannot be empty" } else { "is for kinds that live in a mesh" };
        return Err(Refused::invalid("mesh", reason));
    }
    Ok(ResourceKey::new(known.name, mesh, name))
}

fn is_secret(key: &ResourceKey) -> bool {
    [kind::SECRET, kind::GLOBAL_SECRET].contains(&key.kind.as_str())
}

fn needs_admin(key: &ResourceKey) -> bool {
    kind::by_name(&key.kind).is_none_or(|kind| kind.admin_only)
}

fn untold(untold: Untold) -> Refused {
    match untold {
        Untold::TooOld { .. } | Untold::TooNew { .. } => Refused::invalid("revision", untold.to_string()),
        Untold::NoHistory(_) => Refused::NotFound(untold.to_string()),
    }
}
