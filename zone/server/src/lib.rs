//! `zone-cp`: follows a global, or stands alone; knows the proxies of its zone and tells each what to do.
//!
//! ```text
//!                    global                                  operators
//!                      |  the zone link                          |
//!   uplink: link --> replica (disk)              store (disk) <--+-- backend: the REST API
//!                      |  followed                    |  owned   ^
//!                      +------------> world <---------+          +-- duties: services, trust
//!                          index task: Arc<Epoch>, wakes
//!                                       |
//!   ads: admission --> proxies: one actor per Envoy, its Session decides --> deltas
//!   bootstrap          certificates: issued here, renewed in time
//!                                       |
//!                      progress (tracker), insights, inventory --> uplink --> global
//! ```
//!
//! The judgement is in the pure crates (`zone-index`, `zone-xds`) and in the pure modules here ([`tracker`], [`feed`],
//! the submissions); the rest carries values between them. [`app`] is the only file that starts what runs for long.
pub mod app;
pub mod cli;
pub mod config;

pub mod ads;
pub mod backend;
pub mod bootstrap;
pub mod catalogs;
pub mod certificates;
pub mod drained;
pub mod duties;
pub mod feed;
pub mod heap;
pub mod home;
pub mod insights;
pub mod inspect;
pub mod inventory;
pub mod metrics;
pub mod progress;
pub mod proxies;
pub mod tracker;
pub mod uplink;
pub mod verify;
pub mod walks;
pub mod world;
