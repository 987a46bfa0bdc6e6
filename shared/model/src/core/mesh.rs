//! `Mesh`: a namespace of proxies, policies and certificates. Of Kuma 2.x's settings `mtls` is translated; the others
//! are refused with what to write instead, since a setting that has no effect must not look as if it had one.
use crate::{duration::Duration, problem::Problem};
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mesh {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skip_creating_initial_policies: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_services: Option<MeshServices>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logging: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networking: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Value>,
}

/// Accepted in every mode: MeshServices are always generated, and tags of 2.x documents always resolve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshServices {
    #[serde(default)]
    pub mode: MeshServicesMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MeshServicesMode {
    #[default]
    Disabled,
    Everywhere,
    ReachableBackends,
    Exclusive,
}

/// The mTLS settings of a 2.x document. A `builtin` backend acts as a MeshIdentity that selects every proxy and names
/// it `spiffe://<mesh>/<service>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mtls {
    #[serde(default)]
    pub enabled_backend: String,
    #[serde(default)]
    pub backends: Vec<Backend>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_validation: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dp_cert: Option<DpCert>,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conf: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_chain: Option<Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    #[default]
    Strict,
    Permissive,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DpCert {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rotation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration: Option<Duration>,
}

impl Mesh {
    /// The backend that is switched on.
    pub fn enabled_backend(&self) -> Option<&Backend> {
        let mtls = self.mtls.as_ref().filter(|mtls| !mtls.enabled_backend.is_empty())?;
        mtls.backends.iter().find(|backend| backend.name == mtls.enabled_backend)
    }

    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let gone: [(&str, &Option<Value>, &str); 6] = [
            ("tracing", &self.tracing, "write a MeshTrace"),
            ("logging", &self.logging, "write a MeshAccessLog"),
            ("metrics", &self.metrics, "write a MeshMetric"),
            ("networking", &self.networking, "write a MeshPassthrough"),
            (
                "routing",
                &self.routing,
                "write a MeshLoadBalancingStrategy, and route external traffic with MeshExternalService",
            ),
            ("constraints", &self.constraints, "bind the dataplane token to tags instead"),
        ];
        for (path, value, advice) in gone {
            let empty =
                value.as_ref().is_none_or(|v| v.is_null() || v.as_object().is_some_and(|o| o.is_empty()));
            if !empty {
                problems.push(Problem::new(
                    path,
                    format!("is a setting of Kuma 2.x that has no effect here: {advice}"),
                ));
            }
        }
        let Some(mtls) = &self.mtls else { return problems };
        for (i, backend) in mtls.backends.iter().enumerate() {
            let path = format!("mtls.backends[{i}]");
            if backend.name.is_empty() {
                problems.push(Problem::new(format!("{path}.name"), "cannot be empty"));
            }
            if mtls.backends[..i].iter().any(|other| other.name == backend.name) {
                problems
                    .push(Problem::new(format!("{path}.name"), format!("{:?} is there twice", backend.name)));
            }
            if backend.kind != "builtin" {
                let reason =
                    format!("{:?} is not supported: use \"builtin\", or a MeshIdentity", backend.kind);
                problems.push(Problem::new(format!("{path}.type"), reason));
            }
        }
        let known = mtls.enabled_backend.is_empty() || self.enabled_backend().is_some();
        if !known {
            let reason = format!("no backend is named {:?}", mtls.enabled_backend);
            problems.push(Problem::new("mtls.enabledBackend", reason));
        }
        problems
    }
}
