//! openraft fitted to the catalog: its log, vote and snapshots on disk, and a replica that only learns.
//!
//! ```text
//!                 openraft
//!        append, vote |  | apply, snapshot
//!                     v  v
//!   LogStore --jobs--> one disk thread --> Store: sled, db/   every record with a checksum,
//!   StateMachine ----> Snapshots --------> snapshot           fsync before any acknowledgement
//!        |
//!        +--watch--> Arc<Catalog>                             what readers see
//! ```
//!
//! Voters of global and zones use the same storage. A zone wraps it in a [`Learner`], which takes the leader's messages
//! as bytes ([`wire`]) from whatever stream they came over, and publishes the catalog. It never votes, never stands for
//! election, and serves what it has from its disk for as long as no leader speaks to it.
//!
//! What it does not know: sockets, who the leader is reached by, how commands are gathered, what resources mean.
mod disk;
mod error;
mod identity;
mod learner;
mod log;
mod machine;
mod record;
mod seed;
mod snapshot;
mod space;
mod storage;
mod store;
mod types;
pub mod wire;
mod witness;

pub use error::Error;
pub use identity::Identity;
pub use learner::Learner;
pub use log::LogStore;
pub use machine::{SnapshotBuilder, StateMachine};
pub use seed::{Place, seed};
pub use snapshot::SnapshotBody;
pub use space::{Reserve, Room, Space};
pub use storage::{Storage, set_aside};
pub use types::{Batch, Entry, LEARNER_BIT, Member, Raft, TypeConfig, config, learner_id};
