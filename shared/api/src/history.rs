//! Former versions: the JSON of `GET /_history`, `GET /_history/as-of` and `GET /_history/diff`.
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared_catalog::Operation;
use shared_model::Timestamp;

/// What is known of a resource's past, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    pub items: Vec<HistoryItem>,
    /// From this revision on the state at any one can be told.
    pub oldest_retained: u64,
    /// The newest revision.
    pub current: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryItem {
    pub revision: u64,
    pub time: Timestamp,
    /// Empty when that is not known: a write of the control plane itself, or of an older version.
    pub user: String,
    pub operation: Operation,
}

/// A resource as it was at a revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AsOf {
    pub revision: u64,
    /// Nothing was stored then.
    pub document: Option<Value>,
}

/// What differs between two revisions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    pub from: u64,
    pub to: u64,
    pub documents: Vec<Differs>,
}

/// One resource that differs. A secret's content is hidden: that it was written is all that is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Differs {
    #[serde(rename = "type")]
    pub kind: String,
    pub mesh: String,
    pub name: String,
    #[serde(default)]
    pub hidden: bool,
    pub from: Option<Value>,
    pub to: Option<Value>,
}
