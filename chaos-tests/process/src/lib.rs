//! Real programs, real Envoys, real faults: starts a global control plane, zones and proxies on this machine's loopback
//! addresses, sends requests through the Envoys, kills what it is told to kill, and leaves no process behind.
//!
//! `cargo xtask demo` tells its story with it, `cargo xtask chaos` plays the faults of [`faults`] with it against clusters
//! of several global nodes and judges what their clients saw ([`history`]), and the tests of this crate break things with
//! it. It knows the programs only from outside, by their flags, files and ports, as a user does.
//!
//! ```text
//!   Cluster --starts--> global-cp <--link-- zone-cp <--xDS-- weft-dp + Envoy <-- App (in this process)
//!      |                                                        ^
//!      '--weftctl, REST--> global-cp        series()/Connection-'  real requests
//! ```
pub mod app;
pub mod client;
pub mod cluster;
pub mod device;
pub mod documents;
pub mod faults;
pub mod globals;
pub mod history;
pub mod http;
pub mod load;
pub mod network;
pub mod ports;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod run;
pub mod scene;
pub mod stage;
pub mod status;
pub mod tally;
pub mod wait;
pub mod workload;

pub use app::App;
pub use cluster::{Cluster, Settings};
pub use load::Load;
pub use programs::Programs;
pub use proxy::{Proxy, ProxySpec};
pub use run::in_cluster;
pub use status::RevisionStatus;
pub use tally::{Tally, series};
pub use wait::until;
