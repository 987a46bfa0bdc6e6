//! The global control plane: the API over the replicated catalog, and the zones that follow it.
//!
//! ```text
//!  weftctl, kumactl --> 5681/5682 shared_api --> api::Core --propose--> global_consensus --> catalog
//!                                                  |  ^                        |
//!                                     revision     |  | status, inventory      | RaftRequest
//!                                     5685         v  |                        v
//!  zone-cp <======== one stream ========> zones: ZoneActor (ZoneSession decides) per connected zone
//! ```
//!
//! `app` wires and spawns, `api` answers the REST API's questions, `zones` speaks with zones. What it does not know: what
//! policies mean to a proxy (zones compute that), and how entries become durable (`global_consensus`).
pub mod api;
pub mod app;
mod backup;
pub mod cli;
pub mod config;
pub mod metrics;
pub mod peers;
mod rotation;
mod seal;
mod secrets;
mod threads;
pub mod zones;
