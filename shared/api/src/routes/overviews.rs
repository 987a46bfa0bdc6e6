//! Resources together with what is known of them at run time.
mod insights;

use super::{
    Api,
    extract::{Path, Query},
    resources::{self, Base, Pairs},
};
use crate::{backend::Backend, error::Refused, listing::Listing};
use axum::{Json, Router, extract::State, routing::get};
use serde_json::{Map, Value};
use shared_model::{Kind, Resource, ResourceKey, kind};
use std::sync::Arc;

pub fn routes() -> Router<Api> {
    let mut router = Router::new();
    for list in ["/meshes/{mesh}/dataplanes/_overview", "/meshes/{mesh}/dataplanes+insights"] {
        router = router.route(list, get(dataplanes_of_mesh));
    }
    for list in ["/dataplanes/_overview", "/dataplanes+insights"] {
        router = router.route(list, get(dataplanes));
    }
    for item in ["/meshes/{mesh}/dataplanes/{name}/_overview", "/meshes/{mesh}/dataplanes+insights/{name}"] {
        router = router.route(item, get(dataplane));
    }
    for list in ["/zones/_overview", "/zones+insights"] {
        router = router.route(list, get(zones));
    }
    for item in ["/zones/{name}/_overview", "/zones+insights/{name}"] {
        router = router.route(item, get(zone));
    }
    router.merge(insights::routes())
}

async fn dataplanes_of_mesh(
    State(api): State<Api>,
    Path(mesh): Path<String>,
    Query(pairs): Query<Pairs>,
    base: Base,
) -> Result<Json<Value>, Refused> {
    resources::check_mesh(&api, &mesh)?;
    list(&api, kind::DATAPLANE, Some(&mesh), pairs, base)
}

async fn dataplanes(
    State(api): State<Api>,
    Query(pairs): Query<Pairs>,
    base: Base,
) -> Result<Json<Value>, Refused> {
    list(&api, kind::DATAPLANE, None, pairs, base)
}

async fn zones(
    State(api): State<Api>,
    Query(pairs): Query<Pairs>,
    base: Base,
) -> Result<Json<Value>, Refused> {
    list(&api, kind::ZONE, None, pairs, base)
}

async fn dataplane(
    State(api): State<Api>,
    Path((mesh, name)): Path<(String, String)>,
) -> Result<Json<Value>, Refused> {
    item(&api, ResourceKey::new(kind::DATAPLANE, mesh, name))
}

async fn zone(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Value>, Refused> {
    item(&api, ResourceKey::new(kind::ZONE, "", name))
}

fn list(
    api: &Api,
    kind: &str,
    mesh: Option<&str>,
    Pairs(pairs): Pairs,
    base: Base,
) -> Result<Json<Value>, Refused> {
    let listing = Listing::of(pairs)?;
    if kind == kind::DATAPLANE {
        return Ok(Json(proxies(api, &listing.of_proxies(mesh), &base, overview)));
    }
    let mut all = api.backend.list(known(kind), mesh);
    all.retain(|resource| listing.keeps(resource));
    let show = |resource: Arc<Resource>| overview(&resource, insight_of(&*api.backend, &resource));
    Ok(Json(listing.page(&base.0, all, show)))
}

/// A page of proxies, which the control plane selects itself.
pub fn proxies(
    api: &Api,
    listing: &Listing,
    base: &Base,
    show: impl Fn(&Resource, Option<Value>) -> Value,
) -> Value {
    let page = api.backend.proxies(listing.selection(), listing.offset(), listing.size());
    let items = page.items.into_iter().map(|(resource, insight)| show(&resource, insight)).collect();
    listing.paged(&base.0, page.total, items)
}

fn item(api: &Api, key: ResourceKey) -> Result<Json<Value>, Refused> {
    let resource = api.backend.get(&key).ok_or_else(|| Refused::NotFound(key.to_string()))?;
    Ok(Json(overview(&resource, insight_of(&*api.backend, &resource))))
}

fn known(kind: &str) -> &'static Kind {
    kind::by_name(kind).expect("proxies and zones are kinds of every version")
}

fn insight_of(backend: &dyn Backend, resource: &Resource) -> Option<Value> {
    match resource.kind.as_str() {
        kind::ZONE => backend.zone_insight(&resource.name),
        _ => backend.dataplane_insight(&resource.mesh, &resource.name),
    }
}

fn overview(resource: &Resource, insight: Option<Value>) -> Value {
    let field = if resource.kind == kind::ZONE { "zone" } else { "dataplane" };
    let mut shown = Map::new();
    if let (Value::Object(whole), Value::Object(spec)) = (resource.to_json(), &resource.spec) {
        shown.extend(whole.into_iter().filter(|(key, _)| !spec.contains_key(key)));
    }
    shown.insert("type".into(), format!("{}Overview", resource.kind).into());
    shown.insert(field.into(), resource.spec.clone());
    if let Some(insight) = insight {
        shown.insert(format!("{field}Insight"), insight);
    }
    Value::Object(shown)
}
