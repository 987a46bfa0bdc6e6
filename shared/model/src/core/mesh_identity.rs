//! `MeshIdentity`: which proxies get a certificate, under which SPIFFE id, from whom.
use crate::{duration::Duration, labels::Labels, problem::Problem, selector::LabelSelector};
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshIdentity {
    /// Absent: no proxy. Empty labels: every proxy of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    #[serde(default, rename = "spiffeID", skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<SpiffeId>,
    pub provider: Provider,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataplane: Option<LabelSelector>,
}

/// Templates: `{{ .Mesh }}`, `{{ .Zone }}`, `{{ .Workload }}`, `{{ label "team" }}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SpiffeId {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundled: Option<Bundled>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spire: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bundled {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_trust_creation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure_allow_self_signed: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_parameters: Option<CertificateParameters>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autogenerate: Option<Autogenerate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateParameters {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Autogenerate {
    #[serde(default)]
    pub enabled: bool,
}

pub const DEFAULT_TRUST_DOMAIN: &str = "{{ .Mesh }}.{{ .Zone }}.mesh.local";
pub const DEFAULT_PATH: &str = "/workload/{{ .Workload }}";

impl MeshIdentity {
    /// How specific its selector is: the number of labels it asks for; `None` when it does not select the proxy.
    pub fn specificity(&self, labels: &Labels) -> Option<usize> {
        let selector = self.selector.as_ref()?.dataplane.as_ref()?;
        selector.matches(labels).then_some(selector.match_labels.len())
    }

    pub fn trust_domain(&self) -> &str {
        self.spiffe_id.as_ref().and_then(|id| id.trust_domain.as_deref()).unwrap_or(DEFAULT_TRUST_DOMAIN)
    }

    pub fn path(&self) -> &str {
        self.spiffe_id.as_ref().and_then(|id| id.path.as_deref()).unwrap_or(DEFAULT_PATH)
    }

    /// Lifetime of the certificates, 24 hours unless said.
    pub fn expiry(&self) -> Duration {
        let bundled = self.provider.bundled.as_ref();
        let parameters = bundled.and_then(|b| b.certificate_parameters.as_ref());
        parameters.and_then(|p| p.expiry).unwrap_or(Duration::from_secs(24 * 3600))
    }

    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.provider.kind != "Bundled" {
            let reason = format!("{:?} is not supported yet: Bundled", self.provider.kind);
            problems.push(Problem::new("provider.type", reason));
        }
        if let Some(bundled) = &self.provider.bundled {
            if bundled.ca.is_some() {
                let reason = "a CA of your own is not supported yet: leave it out, and the zone makes one";
                problems.push(Problem::new("provider.bundled.ca", reason));
            }
            if bundled.autogenerate.as_ref().is_some_and(|autogenerate| !autogenerate.enabled) {
                let reason = "must be true: a CA of your own is not supported yet";
                problems.push(Problem::new("provider.bundled.autogenerate.enabled", reason));
            }
            if bundled.mesh_trust_creation.as_deref().is_some_and(|text| text != "Enabled") {
                let reason = "must be Enabled: trust between zones spreads by itself";
                problems.push(Problem::new("provider.bundled.meshTrustCreation", reason));
            }
        }
        if self.expiry() < Duration::from_secs(60) {
            let path = "provider.bundled.certificateParameters.expiry";
            problems.push(Problem::new(path, "must be at least 1m"));
        }
        for (path, template) in
            [("spiffeID.trustDomain", self.trust_domain()), ("spiffeID.path", self.path())]
        {
            if let Err(reason) = render(template, &|_| Some("x".to_owned()), &|_| Some("x".to_owned())) {
                problems.push(Problem::new(path, reason));
            }
        }
        problems
    }
}

/// Fills a template: `field` answers `.Mesh` and the like, `label` answers `label "x"`. What is unknown or absent is
/// an error that names it.
pub fn render(
    template: &str,
    field: &dyn Fn(&str) -> Option<String>,
    label: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), template);
    while let Some(start) = rest.find("{{") {
        out.push_str(&rest[..start]);
        let end =
            rest[start..].find("}}").ok_or_else(|| format!("{template:?} has an unclosed {{{{"))? + start;
        let action = rest[start + 2..end].trim();
        let value = match (action.strip_prefix('.'), action.strip_prefix("label ")) {
            (Some("Mesh" | "Zone" | "Workload" | "Namespace" | "ServiceAccount"), _) => {
                let name = &action[1..];
                field(name).ok_or_else(|| format!("{{{{ .{name} }}}} is not known for this proxy"))?
            }
            (_, Some(quoted)) => {
                let key = quoted.trim().trim_matches('"');
                label(key).ok_or_else(|| format!("the proxy has no label {key:?}"))?
            }
            _ => return Err(format!("{template:?} has an unknown action {action:?}")),
        };
        out.push_str(&value);
        rest = &rest[end + 2..];
    }
    out.push_str(rest);
    Ok(out)
}
