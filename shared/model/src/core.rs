//! The typed specs of the kinds that are not policies. Each file has the document, strict, and its checks.
pub mod dataplane;
pub mod mesh;
pub mod mesh_identity;
pub mod mesh_service;
pub mod mesh_trust;
pub mod secret;

pub use dataplane::Dataplane;
pub use mesh::Mesh;
pub use mesh_identity::MeshIdentity;
pub use mesh_service::MeshService;
pub use mesh_trust::MeshTrust;
pub use secret::Secret;

use crate::{kind, problem::Problem, resource::Resource, strict};
use serde::{Deserialize, Serialize};

/// A zone as global knows it. A disabled one is still connected, and its services are hidden from the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Zone {
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// What is wrong with the spec of a core kind; `None` for a kind that is not one of these.
pub fn check(resource: &Resource) -> Option<Vec<Problem>> {
    fn typed<T: serde::de::DeserializeOwned>(
        resource: &Resource,
        prefix: &str,
        check: impl Fn(&T) -> Vec<Problem>,
    ) -> Vec<Problem> {
        match strict::read::<T>(&resource.spec, prefix) {
            Ok(spec) => check(&spec).into_iter().map(|problem| problem.under(prefix)).collect(),
            Err(problem) => vec![problem],
        }
    }
    Some(match resource.kind.as_str() {
        kind::MESH => typed(resource, "", Mesh::check),
        kind::DATAPLANE => typed(resource, "", Dataplane::check),
        kind::ZONE => typed(resource, "", |_: &Zone| Vec::new()),
        kind::SECRET | kind::GLOBAL_SECRET => typed(resource, "", Secret::check),
        kind::MESH_SERVICE => typed(resource, "spec", MeshService::check),
        kind::MESH_IDENTITY => typed(resource, "spec", MeshIdentity::check),
        kind::MESH_TRUST => typed(resource, "spec", MeshTrust::check),
        _ => return None,
    })
}
