//! Why consensus did not do what it was asked.

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The data directory: of another node, locked, damaged. One sentence.
    #[error("{0}")]
    Storage(String),
    #[error("this node is not the leader")]
    NotLeader,
    /// The command may have been stored or not.
    #[error("no answer within {0} s: whether the command was stored is unknown")]
    Timeout(u64),
    #[error("the command has {size} bytes, the limit is {limit}")]
    TooLarge { size: usize, limit: usize },
    /// The node's disk failed, or it was shut down. What was not acknowledged may have been stored or not.
    #[error("consensus has stopped: {0}")]
    Stopped(String),
    #[error("node {node_id} cannot follow: its id is not one of a zone")]
    NotALearner { node_id: u64 },
    #[error("replica {node_id} belongs to zone {found:?}, not to {wanted:?}")]
    OtherZone { node_id: u64, found: String, wanted: String },
    #[error("zone {zone:?} is connected already, by replica {node_id}")]
    ZoneConnected { zone: String, node_id: u64 },
    #[error("the members of the cluster cannot be changed: {0}")]
    Membership(String),
}

impl From<shared_raft::Error> for Error {
    fn from(error: shared_raft::Error) -> Error {
        match error {
            shared_raft::Error::Stopped(reason) => Error::Stopped(reason),
            error => Error::Storage(error.to_string()),
        }
    }
}
