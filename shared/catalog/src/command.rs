//! What a writer asks of the catalog.
use crate::{Epoch, Retention, octets};
use serde::{Deserialize, Serialize};
use shared_model::{Resource, ResourceKey, Timestamp};

/// More of a user's name is not remembered, in bytes.
const USER_MAX: usize = 256;

/// What must be true of the stored resource for a command to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    Any,
    /// The resource must not exist.
    Absent,
    /// The resource must be at this revision; 0 is the same as [`Expected::Absent`].
    At(u64),
}

/// A write. The enum is closed and append-only: logs hold its variants by number. A resource travels as its JSON
/// bytes, because documents do not fit a format without names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Put {
        #[serde(with = "octets")]
        resource: Vec<u8>,
        expected: Expected,
        /// When the writer asked, in milliseconds since 1970.
        at_ms: i64,
    },
    Delete {
        key: ResourceKey,
        expected: Expected,
        at_ms: i64,
    },
    /// A command that its writer may send again because the answer was lost: the first one under a key counts, later ones
    /// get its outcome. Keys are remembered for a while only, see [`crate::ANSWERS_KEPT`].
    Once {
        key: [u8; 16],
        command: Box<Command>,
    },
    /// A command and who gave it, for the history.
    By {
        user: String,
        command: Box<Command>,
    },
    /// An operator lets a zone follow into an epoch although it has seen later revisions of another.
    AcceptEpoch {
        zone: String,
        epoch: Epoch,
        at_ms: i64,
    },
    /// How many former versions are kept from now on.
    Retain(Retention),
}

impl Command {
    /// The revision and the times that `resource` carries are ignored: the catalog sets its own.
    pub fn put(resource: &Resource, expected: Expected, at: Timestamp) -> Command {
        let resource = serde_json::to_vec(resource)
            .expect("a resource is a tree of strings, numbers and maps by string");
        Command::Put { resource, expected, at_ms: at.timestamp_millis() }
    }

    pub fn delete(key: ResourceKey, expected: Expected, at: Timestamp) -> Command {
        Command::Delete { key, expected, at_ms: at.timestamp_millis() }
    }

    /// The same command with the name of who gives it; an empty one says nothing.
    pub fn by(self, user: &str) -> Command {
        match self {
            command if user.is_empty() => command,
            Command::Once { key, command } => Command::Once { key, command: Box::new(command.by(user)) },
            Command::By { command, .. } => command.by(user),
            command => {
                let end =
                    user.char_indices().map(|(at, _)| at).find(|at| *at >= USER_MAX).unwrap_or(user.len());
                Command::By { user: user[..end].to_owned(), command: Box::new(command) }
            }
        }
    }

    /// The same command under a key, so that it counts once however often it is sent.
    pub fn once(self, key: [u8; 16]) -> Command {
        match self {
            Command::Once { .. } => self,
            command => Command::Once { key, command: Box::new(command) },
        }
    }

    /// Roughly how many bytes it takes in a log.
    pub fn size(&self) -> usize {
        match self {
            Command::Put { resource, .. } => resource.len() + 32,
            Command::Delete { key, .. } => key.kind.len() + key.mesh.len() + key.name.len() + 32,
            Command::Once { command, .. } => command.size() + 16,
            Command::By { user, command } => command.size() + user.len(),
            Command::AcceptEpoch { zone, .. } => zone.len() + 32,
            Command::Retain(_) => 32,
        }
    }
}
