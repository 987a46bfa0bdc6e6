//! A fleet of simulated Envoys in one process, against any control plane with Kuma's bootstrap and ADS, and the floor to
//! measure it against.
//!
//! ```text
//! graph --documents--> REST ----> control plane <--pid-- usage (CPU, memory)
//!   |                                  ^
//!   +--> fleet of proxies: connection (TLS, HTTP/2) -- envoy (what an Envoy asks for and keeps)
//!                 |
//!                 +--stamps--> scenario --> report (JSON, table)
//! ```
//!
//! It does not know Weft: what it needs of a control plane is in `target`. It judges nothing but whether every proxy has
//! what a fresh control plane would give it (`verify`).
pub mod cli;
pub mod connection;
pub mod documents;
pub mod envoy;
pub mod fleet;
pub mod floor;
pub mod graph;
pub mod launch;
pub mod node;
pub mod proxy;
pub mod report;
pub mod scenario;
pub mod target;
pub mod usage;
pub mod verify;
pub mod wire;
