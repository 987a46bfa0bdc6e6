//! `MeshService`: a set of proxies under one name, and the ports at which they serve it.
use crate::{core::dataplane::Protocol, labels::Labels, problem::Problem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshService {
    #[serde(default)]
    pub selector: Selector,
    #[serde(default)]
    pub ports: Vec<Port>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<Identity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// Which proxies serve it; exactly one of the three.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dataplane_tags: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataplane_ref: Option<DataplaneRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataplane_labels: Option<crate::selector::LabelSelector>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataplaneRef {
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub port: u16,
    /// The inbound's port or name; the same as `port` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<TargetPort>,
    #[serde(default)]
    pub app_protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    #[serde(rename = "type")]
    pub kind: IdentityKind,
    pub value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IdentityKind {
    ServiceTag,
    #[serde(rename = "SpiffeID")]
    SpiffeId,
}

impl Port {
    /// The name of the port as KRIs use it: its own, else its number.
    pub fn section(&self) -> String {
        if self.name.is_empty() { self.port.to_string() } else { self.name.clone() }
    }
}

impl MeshService {
    pub fn port(&self, port: Option<u16>) -> Option<&Port> {
        match port {
            Some(number) => self.ports.iter().find(|p| p.port == number),
            None => self.ports.first(),
        }
    }

    /// True for a proxy that serves it. `inbound_tags` are those of one inbound.
    pub fn selects(&self, name: &str, labels: &Labels, inbound_tags: &BTreeMap<String, String>) -> bool {
        let Selector { dataplane_tags, dataplane_ref, dataplane_labels } = &self.selector;
        match (dataplane_ref, dataplane_labels) {
            (Some(reference), _) => reference.name == name,
            (None, Some(selector)) => !selector.match_labels.is_empty() && selector.matches(labels),
            (None, None) => {
                !dataplane_tags.is_empty() && crate::selector::is_subset(dataplane_tags, inbound_tags)
            }
        }
    }

    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let Selector { dataplane_tags, dataplane_ref, dataplane_labels } = &self.selector;
        let given = [!dataplane_tags.is_empty(), dataplane_ref.is_some(), dataplane_labels.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            let reason = "needs exactly one of dataplaneTags, dataplaneRef and dataplaneLabels";
            problems.push(Problem::new("selector", reason));
        }
        if self.ports.is_empty() {
            problems.push(Problem::new("ports", "cannot be empty"));
        }
        for (i, port) in self.ports.iter().enumerate() {
            if port.port == 0 {
                problems.push(Problem::new(format!("ports[{i}].port"), "must be between 1 and 65535"));
            }
            if self.ports[..i].iter().any(|other| other.port == port.port) {
                problems
                    .push(Problem::new(format!("ports[{i}].port"), format!("{} is there twice", port.port)));
            }
        }
        problems
    }
}
