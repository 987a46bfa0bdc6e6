//! Well-known labels and the ones that the control plane computes when a resource is written.
use crate::problem::Problem;
use std::collections::BTreeMap;

pub type Labels = BTreeMap<String, String>;

pub const MESH: &str = "kuma.io/mesh";
pub const ZONE: &str = "kuma.io/zone";
pub const ORIGIN: &str = "kuma.io/origin";
pub const DISPLAY_NAME: &str = "kuma.io/display-name";
pub const ENV: &str = "kuma.io/env";
pub const POLICY_ROLE: &str = "kuma.io/policy-role";
pub const EFFECT: &str = "kuma.io/effect";
pub const MANAGED_BY: &str = "kuma.io/managed-by";
pub const PROXY_TYPE: &str = "kuma.io/proxy-type";
pub const WORKLOAD: &str = "kuma.io/workload";
pub const SERVICE: &str = "kuma.io/service";
pub const PROTOCOL: &str = "kuma.io/protocol";
pub const NAMESPACE: &str = "k8s.kuma.io/namespace";

pub const ORIGIN_GLOBAL: &str = "global";
pub const ORIGIN_ZONE: &str = "zone";

/// Checks that keys and values have the form of Kubernetes labels, so that a document can move there.
pub fn check(labels: &Labels) -> Vec<Problem> {
    let part = |text: &str, max: usize| {
        text.len() <= max
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let mut problems = Vec::new();
    for (key, value) in labels {
        let name = key.split_once('/').map_or(key.as_str(), |(_, name)| name);
        let prefix_good = key.split_once('/').is_none_or(|(prefix, _)| part(prefix, 253));
        if !part(name, 63) || !prefix_good {
            problems.push(Problem::new(format!("labels[{key:?}]"), "is not a label's key"));
        }
        if !value.is_empty() && !part(value, 63) {
            let reason =
                format!("{value:?} is not a label's value: at most 63 letters, digits, '-', '_' and '.'");
            problems.push(Problem::new(format!("labels[{key:?}]"), reason));
        }
    }
    problems
}
