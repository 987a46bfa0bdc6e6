//! The replicated state machine: resources by key, one counter, and the feed of what changed.
//!
//! ```text
//! Command --apply--> Outcome          what a writer is told
//!            |
//!            v
//!         Catalog --changes_since(R)--> Change    what a follower needs to come from R to now
//!            ^  |
//!      decode|  |encode                 a snapshot: the same bytes on every replica
//! ```
//!
//! Commands are validated before they come here. `apply` refuses only for reasons that are fixed for ever (another
//! revision than expected, no such mesh), because two versions of the program must never apply one command
//! differently. It knows few kinds (`Mesh`, `Dataplane`, `Zone`, the secrets), and keeps fields that it does not know.
//!
//! What it does not know: Raft, disks, clocks (a command brings its time), who may write what, what a spec means.
mod catalog;
mod codec;
mod command;
mod epoch;
pub mod octets;
mod outcome;

pub use catalog::{
    ANSWERS_KEPT, APPLIED_KEPT, AsOf, Catalog, Change, Meshes, Operation, Retention, TOMBSTONES_KEPT, Untold,
    Version,
};
pub use codec::Error;
pub use command::{Command, Expected};
pub use epoch::{Divergence, Epoch};
pub use outcome::{Outcome, Refusal};
