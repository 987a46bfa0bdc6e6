//! Meshes, and all there is, in numbers: Kuma's MeshInsight and global insight. Proxies are counted by the control plane as
//! they come and go; what else there is, is few.
use crate::{
    error::Refused,
    listing::Listing,
    proxies::Tally,
    routes::{
        Api,
        extract::{Path, Query},
        resources::{Base, Pairs},
    },
};
use axum::{Json, Router, extract::State, routing::get};
use serde_json::{Map, Value, json};
use shared_model::{Resource, ResourceKey, Timestamp, kind};
use std::collections::BTreeMap;

pub fn routes() -> Router<Api> {
    let mut router =
        Router::new().route("/mesh-insights", get(meshes)).route("/mesh-insights/{mesh}", get(mesh));
    for path in ["/global-insight", "/global-insights"] {
        router = router.route(path, get(all));
    }
    router
}

async fn meshes(
    State(api): State<Api>,
    Query(Pairs(pairs)): Query<Pairs>,
    base: Base,
) -> Result<Json<Value>, Refused> {
    let listing = Listing::of(pairs)?;
    let tallies = api.backend.tallies();
    let mut all = api.backend.list(known(kind::MESH), None);
    all.retain(|resource| listing.keeps(resource));
    Ok(Json(listing.page(&base.0, all, |mesh| of_mesh(&api, &mesh, &tallies))))
}

async fn mesh(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Value>, Refused> {
    let key = ResourceKey::new(kind::MESH, "", name);
    let mesh = api.backend.get(&key).ok_or_else(|| Refused::NotFound(key.to_string()))?;
    Ok(Json(of_mesh(&api, &mesh, &api.backend.tallies())))
}

fn of_mesh(api: &Api, mesh: &Resource, tallies: &BTreeMap<String, Tally>) -> Value {
    let none = Tally::default();
    let tally = tallies.get(&mesh.name).unwrap_or(&none);
    let counts = counted(api, Some(&mesh.name));
    let of = |name: &str| counts.get(name).copied().unwrap_or_default();
    let services = (of(kind::MESH_SERVICE) + of("MeshMultiZoneService"), of("MeshExternalService"));
    json!({
        "type": "MeshInsight",
        "name": mesh.name,
        "creationTime": time(mesh.creation_time),
        "modificationTime": time(mesh.modification_time),
        "lastSync": time(shared_node::time::now()),
        "dataplanes": states(tally),
        "dataplanesByType": by_type(tally, "gateway"),
        "dpVersions": {"kumaDp": versions(&tally.kuma_dp), "envoy": versions(&tally.envoy)},
        "mTLS": {"issuedBackends": versions(&tally.backends), "supportedBackends": versions(&tally.backends)},
        "policies": totals(&counts, is_policy),
        "resources": totals(&counts, |_| true),
        "services": {"total": services.0 + services.1, "internal": services.0, "external": services.1},
    })
}

async fn all(State(api): State<Api>) -> Json<Value> {
    let mut tally = Tally::default();
    api.backend.tallies().values().for_each(|of_mesh| tally.add(of_mesh));
    let counts = counted(&api, None);
    let of = |name: &str| counts.get(name).copied().unwrap_or_default();
    let zones = api.backend.list(known(kind::ZONE), None);
    let is_online = |zone: &Resource| {
        let insight = api.backend.zone_insight(&zone.name).unwrap_or_default();
        let links = insight["subscriptions"].as_array();
        links.is_some_and(|links| {
            links.iter().any(|link| link["connectTime"].is_string() && link["disconnectTime"].is_null())
        })
    };
    let online = zones.iter().filter(|zone| is_online(zone)).count();
    let none = || states(&Tally::default());
    let policies: u64 = counts.iter().filter(|(name, _)| is_policy(name)).map(|(_, count)| count).sum();
    let mut dataplanes = by_type(&tally, "gatewayBuiltin");
    dataplanes["gatewayDelegated"] = none();
    let services = of(kind::MESH_SERVICE) + of("MeshMultiZoneService");
    Json(json!({
        "createdAt": time(shared_node::time::now()),
        "meshes": {"total": of(kind::MESH)},
        "zones": {
            "controlPlanes": {"online": online, "total": zones.len()},
            "zoneEgresses": {"online": 0, "total": 0},
            "zoneIngresses": {"online": 0, "total": 0},
        },
        "dataplanes": dataplanes,
        "policies": {"total": policies},
        "resources": totals(&counts, |_| true),
        "services": {
            "internal": {"total": services},
            "external": {"total": of("MeshExternalService")},
            "gatewayBuiltin": none(),
            "gatewayDelegated": none(),
        },
    }))
}

/// How many there are of each kind that is stored as a resource, of one mesh or of all.
fn counted(api: &Api, mesh: Option<&str>) -> BTreeMap<&'static str, u64> {
    let kinds = kind::KINDS.iter().filter(|kind| kind.supported && !kind.admin_only);
    kinds
        .filter(|kind| kind.name != kind::DATAPLANE && (mesh.is_none() || kind.is_mesh_scoped()))
        .map(|kind| (kind.name, api.backend.count(kind, mesh)))
        .collect()
}

fn is_policy(name: &str) -> bool {
    kind::by_name(name).is_some_and(|kind| kind.policy)
}

fn totals(counts: &BTreeMap<&'static str, u64>, keeps: impl Fn(&str) -> bool) -> Value {
    let kept = counts.iter().filter(|(name, count)| **count > 0 && keeps(name));
    Value::Object(kept.map(|(name, count)| ((*name).to_owned(), json!({"total": count}))).collect())
}

/// No proxy of this version is a gateway.
fn by_type(tally: &Tally, gateways: &str) -> Value {
    json!({"standard": states(tally), gateways: states(&Tally::default())})
}

/// `stale` is Weft's: those of zones that are away, which count as offline.
fn states(tally: &Tally) -> Value {
    json!({
        "total": tally.total,
        "online": tally.online,
        "offline": tally.offline(),
        "partiallyDegraded": tally.partially_degraded,
        "stale": tally.stale,
    })
}

fn versions(counted: &BTreeMap<String, (u64, u64)>) -> Value {
    let show = |(version, (total, online)): (&String, &(u64, u64))| {
        (version.clone(), json!({"total": total, "online": online, "offline": total - online}))
    };
    Value::Object(counted.iter().map(show).collect::<Map<_, _>>())
}

fn time(at: Timestamp) -> String {
    at.to_rfc3339()
}

fn known(kind: &str) -> &'static shared_model::Kind {
    kind::by_name(kind).expect("meshes and zones are kinds of every version")
}
