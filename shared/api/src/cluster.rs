//! The nodes of a replicated control plane: the JSON of `GET /_cluster`, and what may be asked of them.
use serde::{Deserialize, Serialize};

/// The cluster as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    pub cluster_id: String,
    /// Which life of the cluster it is: a restore begins a new one.
    #[serde(default)]
    pub epoch: String,
    /// The node that answers.
    pub answered_by: String,
    /// Sorted by id.
    pub nodes: Vec<ClusterNode>,
}

/// One node. What only it can tell is absent while it does not answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNode {
    /// Sixteen hexadecimal digits.
    pub node: String,
    /// `host:port` for peers.
    pub address: String,
    /// `https://host:port` for zones.
    pub link: String,
    /// `leader`, `follower`, `learner`, or what is wrong.
    pub role: String,
    #[serde(default)]
    pub term: Option<u64>,
    /// The index of its last log entry.
    #[serde(default)]
    pub last_index: Option<u64>,
    #[serde(default)]
    pub applied_index: Option<u64>,
    /// The newest revision that it has applied.
    #[serde(default)]
    pub revision: Option<u64>,
    /// Entries that the leader has and it has not applied.
    #[serde(default)]
    pub lag: Option<u64>,
    #[serde(default)]
    pub version: Option<String>,
}

/// What an administrator asks of the cluster. Nodes go by their sixteen digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterChange {
    Promote { node: String },
    Remove { node: String },
    TransferLeadership { node: String },
}

/// The key that secrets are sealed with, after it was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealKeyStatus {
    pub key_id: String,
    /// The key before.
    pub replaces: String,
    /// Secrets that are sealed with the new key now.
    pub resealed: u64,
    /// Nodes that have the new key, by their addresses.
    pub nodes: Vec<String>,
    /// Nodes that did not answer: they fetch it when they are back.
    pub missing: Vec<String>,
}
