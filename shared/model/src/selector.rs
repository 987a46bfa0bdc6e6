//! Label selectors.
use crate::labels::Labels;
use serde::{Deserialize, Serialize};

/// Matches what carries every one of these labels; an empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub match_labels: Labels,
}

impl LabelSelector {
    pub fn matches(&self, labels: &Labels) -> bool {
        is_subset(&self.match_labels, labels)
    }
}

/// True when each pair of `wanted` is in `labels`.
pub fn is_subset(wanted: &Labels, labels: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
