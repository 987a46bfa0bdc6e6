//! `targetRef`: how a document names proxies, destinations and callers, and what each form means.
//!
//! The forms of Kuma 2.x (MeshSubset, MeshService and MeshServiceSubset as the top-level `targetRef`, and in `from`)
//! are translated to the same conditions as the newer ones. What has no translation is refused with what to write.
use crate::{
    facts::{InboundFacts, ProxyFacts, Target},
    peer::Match,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared_model::{Kri, Problem, labels, labels::Labels, selector::is_subset};
use std::collections::BTreeMap;

pub const MESH: &str = "Mesh";
pub const DATAPLANE: &str = "Dataplane";
pub const MESH_SUBSET: &str = "MeshSubset";
pub const MESH_SERVICE: &str = "MeshService";
pub const MESH_SERVICE_SUBSET: &str = "MeshServiceSubset";
pub const MESH_HTTP_ROUTE: &str = "MeshHTTPRoute";

/// Top-level kinds: all that are read, the newer ones first.
pub const TOP: &[&str] = &[MESH, DATAPLANE, MESH_SUBSET, MESH_SERVICE, MESH_SERVICE_SUBSET];
/// Kinds of callers in `from`.
pub const FROM: &[&str] = &[MESH, MESH_SUBSET, MESH_SERVICE, MESH_SERVICE_SUBSET];

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    pub kind: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub section_name: String,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    pub mesh: String,
    #[serde(default)]
    pub proxy_types: Vec<String>,
}

impl TargetRef {
    pub fn mesh() -> Self {
        TargetRef { kind: MESH.to_owned(), ..TargetRef::default() }
    }

    /// What is wrong with it when `kinds` are the ones that may stand here. Paths are relative to the reference.
    pub fn check(&self, kinds: &[&str]) -> Vec<Problem> {
        if !kinds.contains(&self.kind.as_str()) {
            return vec![Problem::new("kind", refusal(&self.kind, kinds))];
        }
        let mut problems = Vec::new();
        let mut only_for = |field: &str, given: bool, owners: &[&str]| {
            if given && !owners.contains(&self.kind.as_str()) {
                problems
                    .push(Problem::new(field, format!("a targetRef of kind {} has no {field}", self.kind)));
            }
        };
        let named = [DATAPLANE, MESH_SERVICE, MESH_SERVICE_SUBSET, MESH_HTTP_ROUTE];
        only_for("name", !self.name.is_empty(), &named);
        only_for("namespace", !self.namespace.is_empty(), &named);
        only_for("labels", !self.labels.is_empty(), &[DATAPLANE, MESH_SERVICE]);
        only_for("sectionName", !self.section_name.is_empty(), &[DATAPLANE, MESH_SERVICE]);
        only_for("tags", !self.tags.is_empty(), &[MESH_SUBSET, MESH_SERVICE_SUBSET]);
        only_for("proxyTypes", !self.proxy_types.is_empty(), &[MESH, MESH_SUBSET]);
        if !self.mesh.is_empty() {
            let reason = "crossing meshes is a feature of Kuma 2.x's built-in gateway: leave it out";
            problems.push(Problem::new("mesh", reason));
        }
        if !self.name.is_empty() && !self.labels.is_empty() {
            problems.push(Problem::new("labels", "name and labels cannot both be given"));
        }
        for (i, proxy_type) in self.proxy_types.iter().enumerate() {
            if proxy_type != "Sidecar" && proxy_type != "Gateway" {
                let reason = format!("{proxy_type:?} is not a proxy type: Sidecar or Gateway");
                problems.push(Problem::new(format!("proxyTypes[{i}]"), reason));
            }
        }
        if !self.proxy_types.is_empty() && !self.proxy_types.iter().any(|proxy_type| proxy_type == "Sidecar")
        {
            let reason =
                "selects built-in gateways of Kuma 2.x only, and there are none: add Sidecar or leave it out";
            problems.push(Problem::new("proxyTypes", reason));
        }
        match self.kind.as_str() {
            MESH_SERVICE if self.name.is_empty() && self.labels.is_empty() => {
                problems.push(Problem::new(
                    "name",
                    "is missing: a MeshService is named by its name or by labels",
                ));
            }
            MESH_SERVICE_SUBSET | MESH_HTTP_ROUTE if self.name.is_empty() => {
                problems.push(Problem::new("name", "is missing"));
            }
            _ => {}
        }
        for (key, value) in self.tags.iter().filter(|(key, value)| key.is_empty() || value.is_empty()) {
            problems.push(Problem::new(format!("tags[{key:?}]"), format!("{value:?} is not a tag's value")));
        }
        problems
    }
}

/// Why a kind cannot stand at a place where `kinds` can.
fn refusal(kind: &str, kinds: &[&str]) -> String {
    let allowed = kinds.join(", ");
    match kind {
        "" => format!("is missing: {allowed}"),
        "MeshGateway" => {
            "MeshGateway is a kind of Kuma 2.x that is gone: run a delegated gateway and select its \
                          Dataplane by labels"
                .to_owned()
        }
        MESH_HTTP_ROUTE => {
            format!(
                "MeshHTTPRoute cannot stand here: name the route in spec.to[].targetRef; allowed here: {allowed}"
            )
        }
        "MeshExternalService" | "MeshMultiZoneService" => {
            format!(
                "{kind} is known, but this version of weft does not reach it yet; allowed here: {allowed}"
            )
        }
        MESH_SERVICE_SUBSET | MESH_SUBSET => {
            format!(
                "{kind} of Kuma 2.x cannot stand here: make the subset a MeshService of its own and name that"
            )
        }
        _ => format!("{kind:?} cannot stand here: {allowed}"),
    }
}

/// Which proxies a policy is for, from its top-level `targetRef`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    Mesh,
    Dataplane {
        name: String,
        namespace: String,
        labels: Labels,
        section: String,
    },
    /// Tags that one inbound must carry together; 2.x.
    Tags(BTreeMap<String, String>),
}

impl Selector {
    /// `target` has passed [`TargetRef::check`].
    pub fn of(target: &TargetRef) -> Selector {
        match target.kind.as_str() {
            DATAPLANE => Selector::Dataplane {
                name: target.name.clone(),
                namespace: target.namespace.clone(),
                labels: target.labels.clone(),
                section: target.section_name.clone(),
            },
            MESH_SUBSET | MESH_SERVICE_SUBSET => Selector::Tags(service_tags(target)),
            // A MeshService of 2.x is a tag; with labels it would name destinations, which is refused before.
            MESH_SERVICE => Selector::Tags(service_tags(target)),
            _ => Selector::Mesh,
        }
    }

    /// The proxy is selected, or some of its inbounds are.
    pub fn selects(&self, proxy: &ProxyFacts) -> bool {
        match self {
            Selector::Mesh => true,
            Selector::Dataplane { section, .. } => {
                self.selects_whole(proxy)
                    && (section.is_empty()
                        || proxy.inbounds.iter().any(|inbound| inbound.is_section(section)))
            }
            Selector::Tags(tags) if proxy.inbounds.is_empty() => {
                carries(tags, &InboundFacts::default(), proxy)
            }
            Selector::Tags(tags) => proxy.inbounds.iter().any(|inbound| carries(tags, inbound, proxy)),
        }
    }

    /// An inbound of a selected proxy is meant.
    pub fn selects_inbound(&self, proxy: &ProxyFacts, inbound: &InboundFacts) -> bool {
        match self {
            Selector::Mesh => true,
            Selector::Dataplane { section, .. } => section.is_empty() || inbound.is_section(section),
            Selector::Tags(tags) => carries(tags, inbound, proxy),
        }
    }

    fn selects_whole(&self, proxy: &ProxyFacts) -> bool {
        let Selector::Dataplane { name, namespace, labels: wanted, .. } = self else { return true };
        let label = |key: &str| proxy.labels.get(key).map_or("", String::as_str);
        let named = name.is_empty() || proxy.name == name || label(labels::DISPLAY_NAME) == name;
        let labelled = wanted.iter().all(|(key, value)| match proxy.labels.get(key) {
            Some(own) => own == value,
            None => key == labels::ZONE && proxy.zone == value,
        });
        named && labelled && (namespace.is_empty() || label(labels::NAMESPACE) == namespace)
    }
}

/// A tag of 2.x is one of the inbound, else a label of the proxy: newer documents have moved them there.
fn carries(tags: &BTreeMap<String, String>, inbound: &InboundFacts, proxy: &ProxyFacts) -> bool {
    tags.iter().all(|(key, value)| match inbound.tags.get(key).or_else(|| proxy.labels.get(key)) {
        Some(own) => own == value,
        None => key == labels::ZONE && proxy.zone == value,
    })
}

fn service_tags(target: &TargetRef) -> BTreeMap<String, String> {
    let mut tags = target.tags.clone();
    if !target.name.is_empty() {
        tags.insert(labels::SERVICE.to_owned(), target.name.clone());
    }
    tags
}

/// The callers that an item of `from` is about; `target` has passed [`TargetRef::check`].
pub fn caller(target: &TargetRef) -> Match {
    Match { tags: service_tags(target), ..Match::default() }
}

/// What an item of `to` is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Mesh,
    Service {
        name: String,
        namespace: String,
        labels: Labels,
        section: String,
    },
    /// Requests that a MeshHTTPRoute has taken.
    Route {
        name: String,
        namespace: String,
    },
}

impl Destination {
    /// `target` has passed [`TargetRef::check`].
    pub fn of(target: &TargetRef) -> Destination {
        let TargetRef { name, namespace, labels, section_name, .. } = target.clone();
        match target.kind.as_str() {
            MESH_SERVICE => Destination::Service { name, namespace, labels, section: section_name },
            MESH_HTTP_ROUTE => Destination::Route { name, namespace },
            _ => Destination::Mesh,
        }
    }

    /// `route` is the MeshHTTPRoute whose requests are asked about; `None` for the destination as such.
    pub fn includes(&self, target: &Target, route: Option<&Kri>) -> bool {
        match self {
            Destination::Mesh => true,
            Destination::Service { name, namespace, labels, section } => {
                let named = name.is_empty() || target.kri.name == *name || target.service_tag == Some(name);
                named
                    && (namespace.is_empty() || target.kri.namespace == *namespace)
                    && labels.iter().all(|(key, value)| target.label(key) == Some(value))
                    && (section.is_empty() || target.is_section(section))
            }
            Destination::Route { name, namespace } => route.is_some_and(|route| {
                route.name == *name && (namespace.is_empty() || route.namespace == *namespace)
            }),
        }
    }

    /// Later overrides: the mesh, a service, a port of it, a route.
    pub fn specificity(&self) -> u8 {
        match self {
            Destination::Mesh => 0,
            Destination::Service { section, .. } if section.is_empty() => 1,
            Destination::Service { .. } => 2,
            Destination::Route { .. } => 3,
        }
    }
}

/// The forms of Kuma 2.x in a policy's spec, each with its newer form.
pub fn warnings(spec: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let kind = |target: &Value| target["kind"].as_str().unwrap_or_default().to_owned();
    let top = kind(&spec["targetRef"]);
    if [MESH_SUBSET, MESH_SERVICE, MESH_SERVICE_SUBSET].contains(&top.as_str()) {
        warnings.push(format!(
            "spec.targetRef: {top} is a form of Kuma 2.x: select proxies with kind Dataplane and labels"
        ));
    }
    if !spec["targetRef"]["proxyTypes"].is_null() {
        warnings.push(
            "spec.targetRef.proxyTypes: is a setting of Kuma 2.x: every proxy here is a sidecar".to_owned(),
        );
    }
    let from = spec["from"].as_array().map_or(&[][..], Vec::as_slice);
    if !from.is_empty() {
        warnings.push("spec.from: is a form of Kuma 2.x: write spec.rules".to_owned());
    }
    for (i, item) in from.iter().enumerate().filter(|(_, item)| kind(&item["targetRef"]) != MESH) {
        let kind = kind(&item["targetRef"]);
        warnings.push(format!(
            "spec.from[{i}].targetRef: {kind} names callers by their tags: name them by spiffeID in spec.rules"
        ));
    }
    warnings
}

/// True when a proxy with these labels is in the namespace that a policy of this namespace is confined to.
pub fn same_namespace(policy: &Labels, proxy: &Labels) -> bool {
    let own = policy.get(labels::NAMESPACE).map(|value| (labels::NAMESPACE.to_owned(), value.clone()));
    is_subset(&own.into_iter().collect(), proxy)
}
