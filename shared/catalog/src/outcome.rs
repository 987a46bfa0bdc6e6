//! What became of a command.
use crate::Epoch;
use serde::{Deserialize, Serialize};
use shared_model::Revision;

/// The answer of [`crate::Catalog::apply`]. Closed and append-only, as commands are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Stored {
        revision: Revision,
        created: bool,
    },
    /// The same content was there already; the revision is that of the stored resource.
    Unchanged {
        revision: Revision,
    },
    Deleted {
        revision: Revision,
    },
    Refused(Refusal),
}

impl Outcome {
    /// The revision at which the command's effect is visible; none if it was refused.
    pub fn revision(&self) -> Option<Revision> {
        match self {
            Outcome::Stored { revision, .. }
            | Outcome::Unchanged { revision }
            | Outcome::Deleted { revision } => Some(*revision),
            Outcome::Refused(_) => None,
        }
    }
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// Revision 0 means that the resource does not exist.
    #[error("{}", conflict(*.actual))]
    Conflict { actual: Revision },
    #[error("it exists already, at revision {revision}")]
    Exists { revision: Revision },
    #[error("it does not exist")]
    NotFound,
    #[error("mesh {0:?} does not exist")]
    UnknownMesh(String),
    #[error("the resource cannot be read: {0}")]
    Malformed(String),
    #[error("the mesh still has {dataplanes} dataplanes: remove them first")]
    MeshInUse { dataplanes: u64 },
    #[error("this is another epoch: {0}")]
    OtherEpoch(Epoch),
}

fn conflict(actual: Revision) -> String {
    match actual {
        Revision(0) => "another revision was expected, but it does not exist".to_owned(),
        revision => format!("another revision was expected, but it is at revision {revision}"),
    }
}
