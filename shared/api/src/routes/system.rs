//! What the control plane says about itself.
use super::Api;
use crate::{access::Caller, backend::Mode};
use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};
use shared_model::{Kind, Scope, kind, kind::WrittenAt};

pub async fn index(State(api): State<Api>) -> Json<Value> {
    let about = api.backend.about();
    Json(json!({
        "hostname": gethostname::gethostname().to_string_lossy(),
        "product": about.product,
        "version": about.version,
        "instanceId": about.instance_id,
        "clusterId": about.cluster_id,
        "mode": match about.mode {
            Mode::Global => "global",
            Mode::FederatedZone | Mode::StandaloneZone => "zone",
        },
        "zone": about.zone,
        "gui": "",
        "basedOnKuma": "",
    }))
}

pub async fn config(State(api): State<Api>) -> Json<Value> {
    Json(api.backend.config())
}

pub async fn who_am_i(Extension(caller): Extension<Caller>) -> Json<Value> {
    Json(json!({"name": caller.name, "groups": caller.groups}))
}

/// The kinds that this version stores, sorted by name.
pub async fn kinds(State(api): State<Api>) -> Json<Value> {
    let mode = api.backend.about().mode;
    let show = |kind: &Kind| {
        let mut shown = json!({
            "name": kind.name,
            "path": kind.path,
            "scope": if kind.scope == Scope::Mesh { "Mesh" } else { "Global" },
            "shortName": kind.short,
            "singularDisplayName": kind.singular,
            "pluralDisplayName": kind.plural,
            "readOnly": is_read_only(mode, kind),
            "includeInFederation": matches!(kind.written_at, WrittenAt::Global | WrittenAt::Both),
        });
        if kind.policy {
            shown["policy"] = json!({
                "isTargetRef": true,
                "hasToTargetRef": matches!(kind.name, "MeshHTTPRoute" | "MeshTimeout"),
                "hasFromTargetRef": false,
                "hasRulesTargetRef": kind.name != "MeshHTTPRoute",
                "isFromAsRules": kind.name != "MeshHTTPRoute",
            });
        }
        shown
    };
    let mut shown: Vec<&Kind> = kind::KINDS.iter().filter(|kind| kind.supported).collect();
    shown.sort_by_key(|kind| kind.name);
    Json(json!({"resources": shown.into_iter().map(show).collect::<Vec<_>>()}))
}

pub async fn policies(State(api): State<Api>) -> Json<Value> {
    let mode = api.backend.about().mode;
    let show = |kind: &Kind| {
        json!({
            "name": kind.name,
            "path": kind.path,
            "singularDisplayName": kind.singular,
            "pluralDisplayName": kind.plural,
            "readOnly": is_read_only(mode, kind),
            "isExperimental": false,
            "isTargetRefBased": true,
            "isInbound": kind.name != "MeshHTTPRoute",
            "isOutbound": matches!(kind.name, "MeshHTTPRoute" | "MeshTimeout"),
        })
    };
    let shown = kind::KINDS.iter().filter(|kind| kind.supported && kind.policy);
    Json(json!({"policies": shown.map(show).collect::<Vec<_>>()}))
}

fn is_read_only(mode: Mode, kind: &Kind) -> bool {
    matches!(
        (mode, kind.written_at),
        (_, WrittenAt::Nobody) | (Mode::Global, WrittenAt::Zone) | (Mode::FederatedZone, WrittenAt::Global)
    )
}
