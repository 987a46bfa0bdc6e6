//! The types that openraft is instantiated with, and its settings.
use crate::SnapshotBody;
use openraft::SnapshotPolicy;
use serde::{Deserialize, Serialize};
use shared_catalog::{Command, Outcome};

openraft::declare_raft_types!(
    /// Batches of commands in, their outcomes out.
    pub TypeConfig:
        D = Batch,
        R = Vec<Outcome>,
        NodeId = u64,
        Node = Member,
        Entry = openraft::Entry<Self>,
        SnapshotData = SnapshotBody,
);

pub type Raft = openraft::Raft<TypeConfig>;
pub type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;

/// What one log entry carries: all commands that were waiting, in order. Each makes its own revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch(pub Vec<Command>);

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where its peers reach it, `host:port`; empty for a zone, which dials.
    pub address: String,
    /// Where zones reach it, `https://host:port`; empty for a zone.
    pub link: String,
    /// The zone that a learner serves; empty for a voter.
    pub zone: String,
}

/// Set in the id of every learner, so that no zone can take a voter's place.
pub const LEARNER_BIT: u64 = 1 << 63;

/// The id of a learner from any random number.
pub fn learner_id(random: u64) -> u64 {
    random | LEARNER_BIT
}

/// Settings of voters and learners alike. Times are in milliseconds.
///
/// Those that keep voters from elections depend on how far apart they are, and are set where voters run; a learner has
/// none of its own.
pub fn config() -> openraft::Config {
    openraft::Config {
        cluster_name: "weft".to_owned(),
        heartbeat_interval: 1_000,
        election_timeout_min: 3_000,
        election_timeout_max: 6_000,
        // Per chunk. The default of 200 ms sends the first chunk to a slow zone for ever.
        install_snapshot_timeout: 10_000,
        snapshot_max_chunk_size: 256 << 10,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(5_000),
        // A zone that was away for a while resumes by entries.
        max_in_snapshot_log_to_keep: 2_000,
        replication_lag_threshold: 10_000,
        // The log also bounds what it hands out by bytes, far below the largest message of a link.
        max_payload_entries: 256,
        ..openraft::Config::default()
    }
}
