//! The zones: who is connected, what they have said, and the actors that speak with them.
//!
//! ```text
//!             +--------------- per connected zone ----------------+
//!  stream --> | ZoneActor (the loop) --Event--> ZoneSession (pure) | --Effect--> outbox --> stream
//!             +---------------------------------------------------+       |
//!                    ^ ZoneHandle (calls, close)                          v
//!                    |                                   Zones: Progress, Inventory, who is online
//!                  api::Core  <---------- reads ------------------'
//! ```
//!
//! [`link`] is the gRPC service that lets a zone in; [`Zones`] is the shared state that the API reads.
mod actor;
pub mod binding;
mod credential;
pub mod diverged;
mod handle;
mod insight;
mod inventory;
pub mod link;
mod naming;
mod progress;
mod replicas;
mod session;
mod state;
mod submission;
mod tokens;
mod trace;
mod trust;

pub use handle::ZoneHandle;
pub use inventory::Inventory;
pub use state::{Connection, Zones};
