//! `MeshTrust`: the certificate authorities that proxies of a mesh accept for a trust domain.
use crate::problem::Problem;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshTrust {
    pub trust_domain: String,
    #[serde(default)]
    pub ca_bundles: Vec<CaBundle>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaBundle {
    #[serde(rename = "type")]
    pub kind: String,
    pub pem: Pem,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pem {
    pub value: String,
}

impl MeshTrust {
    pub fn of(trust_domain: &str, pem: &str) -> Self {
        let bundle = CaBundle { kind: "Pem".into(), pem: Pem { value: pem.to_owned() } };
        MeshTrust { trust_domain: trust_domain.to_owned(), ca_bundles: vec![bundle], origin: None }
    }

    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let good = !self.trust_domain.is_empty()
            && self
                .trust_domain
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c));
        if !good {
            problems
                .push(Problem::new("trustDomain", format!("{:?} is not a trust domain", self.trust_domain)));
        }
        if self.ca_bundles.is_empty() {
            problems.push(Problem::new("caBundles", "cannot be empty"));
        }
        for (i, bundle) in self.ca_bundles.iter().enumerate() {
            if bundle.kind != "Pem" {
                problems.push(Problem::new(
                    format!("caBundles[{i}].type"),
                    format!("{:?} is not supported: Pem", bundle.kind),
                ));
            }
            if !bundle.pem.value.contains("-----BEGIN CERTIFICATE-----") {
                problems.push(Problem::new(format!("caBundles[{i}].pem.value"), "is not a PEM certificate"));
            }
        }
        problems
    }
}
