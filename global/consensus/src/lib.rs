//! The cluster of global control planes: commands in, one catalog out, zones in tow.
//!
//! ```text
//!            not the leader: forward ------> the leader's propose
//! propose --+
//! propose --+--> one batch entry --> Raft log --fsync--> a quorum has it --> apply --> Arc<Catalog>
//! propose --+                           |
//!                                       +--> Transport --> other voters: Consensus::answer
//!                                       +--> Links --outbox--> a zone's stream --> its Learner
//!                                              ^                     |
//!                                              +----- Attached ------+  answers, checked before Raft sees them
//! ```
//!
//! One node is a whole cluster through the same path that several take. What openraft 0.9 lacks is made up for here:
//! `elections` asks around before a node stands, `membership` hands leadership over, `proposals` batches, `reads` shares
//! one confirmation among readers. Zones are learners: they get every entry and never count for anything. What a zone
//! answers is checked at the door, because openraft believes what it is told: a vote above the leader's would unseat it.
//!
//! What it does not know: HTTP and gRPC, tokens and certificates, what a resource means, who may write it.
mod absence;
mod answers;
mod consensus;
mod elections;
mod error;
mod forwards;
mod links;
mod membership;
mod network;
mod node;
mod peers;
mod proposals;
mod reads;
mod timing;

#[cfg(test)]
mod tests;

pub use consensus::{COMMAND_MAX, Consensus, Joined, Setup, new_node_id, owner_of};
pub use error::Error;
pub use links::{Attached, Links};
pub use peers::{Answering, Transport};
pub use shared_raft::{Member, Reserve, Room, Space};
pub use timing::Timing;
