//! Why consensus did not do what it was asked.
use proto::peer::{Failure, Reason};

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The data directory: of another node, locked, damaged. One sentence.
    #[error("{0}")]
    Storage(String),
    /// Nothing was done.
    #[error("this node is not the leader")]
    NotLeader,
    /// Nothing was done.
    #[error("no quorum of the cluster's nodes answers")]
    NoQuorum,
    /// It may have been done or not.
    #[error("whether it was done is unknown: {0}")]
    Unknown(String),
    /// The command may have been stored or not.
    #[error("no answer within {0} s: whether the command was stored is unknown")]
    Timeout(u64),
    #[error("the command has {size} bytes, the limit is {limit}")]
    TooLarge { size: usize, limit: usize },
    /// The node's disk failed, or it was shut down. What was not acknowledged may have been stored or not.
    #[error("consensus has stopped: {0}")]
    Stopped(String),
    /// Nothing was done: the disk of the leader, or of this node, has no room.
    #[error("{0}")]
    NoRoom(String),
    #[error("node {node_id} cannot follow: its id is not one of a zone")]
    NotALearner { node_id: u64 },
    #[error("replica {node_id} belongs to zone {found:?}, not to {wanted:?}")]
    OtherZone { node_id: u64, found: String, wanted: String },
    #[error("zone {zone:?} has {limit} replicas already")]
    TooManyReplicas { zone: String, limit: usize },
    #[error("the members of the cluster cannot be changed: {0}")]
    Membership(String),
}

impl Error {
    /// As it travels to the peer that asked.
    pub fn to_failure(&self) -> Failure {
        let reason = match self {
            Error::NotLeader => Reason::NotLeader,
            Error::NoQuorum => Reason::NoQuorum,
            Error::Unknown(_) | Error::Timeout(_) => Reason::Unknown,
            Error::Stopped(_) => Reason::Stopped,
            Error::NoRoom(_) => Reason::NoRoom,
            _ => Reason::Refused,
        };
        let message = match self {
            Error::Unknown(message) | Error::Stopped(message) | Error::Membership(message) => message.clone(),
            other => other.to_string(),
        };
        Failure { reason: reason.into(), message }
    }

    /// What a peer answered.
    pub fn of_failure(failure: Failure) -> Error {
        match failure.reason() {
            Reason::NotLeader => Error::NotLeader,
            Reason::NoQuorum => Error::NoQuorum,
            Reason::Unknown | Reason::Unspecified => Error::Unknown(failure.message),
            // The peer stopped while it had the request: how far that came is not known here.
            Reason::Stopped => Error::Unknown(failure.message),
            Reason::Refused => Error::Membership(failure.message),
            Reason::NoRoom => Error::NoRoom(failure.message),
        }
    }
}

impl From<shared_raft::Error> for Error {
    fn from(error: shared_raft::Error) -> Error {
        match error {
            shared_raft::Error::Stopped(reason) => Error::Stopped(reason),
            error @ (shared_raft::Error::Full { .. } | shared_raft::Error::NoRoom { .. }) => {
                Error::NoRoom(error.to_string())
            }
            error => Error::Storage(error.to_string()),
        }
    }
}
