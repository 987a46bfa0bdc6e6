//! The cluster of global control planes: commands in, one catalog out, zones in tow.
//!
//! ```text
//! propose --+
//! propose --+--> one batch entry --> Raft log --fsync--> apply --> Arc<Catalog>
//! propose --+                           |
//!                                       +--> Links --outbox--> a zone's stream --> its Learner
//!                                              ^                     |
//!                                              +----- Attached ------+  answers, checked before Raft sees them
//! ```
//!
//! One node is the whole cluster, through the same path that several take. Zones are learners: they get
//! every entry and never count for anything. What a zone answers is checked at the door, because openraft believes what
//! it is told: a vote above the leader's would unseat it.
//!
//! What it does not know: HTTP and gRPC, tokens, what a resource means, who may write it.
mod consensus;
mod error;
mod links;
mod network;

#[cfg(test)]
mod tests;

pub use consensus::{COMMAND_MAX, Consensus};
pub use error::Error;
pub use links::{Attached, Links};
