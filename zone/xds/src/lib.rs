//! A proxy's view becomes Envoy's words.
//!
//! ```text
//!   ProxyView ──assemble──▶ Snapshot ──Session::offer──▶ Effect::Send ──▶ Envoy
//!   Identity ────┘                        ▲                                │
//!                                         └──────── Session::answer ◀──────┘
//! ```
//!
//! [`assemble`] turns what the zone knows of one proxy into Envoy resources. It is a total function: what cannot be
//! built is left out and reported as a problem, and the rest is there. [`Manifests`] gives the same for many proxies
//! and makes what several need once. [`Session`] is one delta-ADS stream: it decides
//! which resource goes out when, and what an answer means.
//!
//! Neither knows sockets, time or the other proxies. Certificates come in ready made; who renews them, and when, is
//! decided elsewhere.

mod assemble;
mod envoy;
mod http;
mod identity;
mod inbound;
mod manifest;
mod memo;
mod names;
mod outbound;
mod peer;
mod policies;
mod pool;
pub mod session;
pub mod snapshot;
mod transport;

pub use assemble::assemble;
pub use identity::Identity;
pub use manifest::Manifests;
pub use session::{Counters, Effect, Response, Session};
pub use snapshot::{Encoded, Name, Snapshot, Type, Version};
