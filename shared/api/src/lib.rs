//! The REST API of the control plane, for both sides: `global-cp` and `zone-cp` serve the same routes over their own
//! [`Backend`]. Paths, bodies and errors are Kuma's, so that `kumactl` works; revisions are Weft's addition.
//!
//! What it decides: who may call ([`access`]), who may write what ([`rules`]), what a list shows ([`listing`]). What it
//! does not know: where resources live, how a write becomes durable, who the zones are.
//!
//! ```text
//! request --access--> Caller --routes--> rules --> shared_policy::validate --> Backend::put --> revision
//!                                   \--> listing <-- Backend::list
//! ```
pub mod access;
pub mod backend;
pub mod backup;
pub mod cluster;
pub mod error;
pub mod history;
mod keyring;
pub mod listing;
pub mod proxies;
pub mod revision;
mod routes;
pub mod rules;
pub mod signing;

pub use access::Door;
pub use backend::{About, Author, Backend, Mode, TokenRequest, WantedToken};
pub use cluster::{ClusterChange, ClusterNode, ClusterStatus, SealKeyStatus};
pub use error::Refused;
pub use keyring::Keyring;
pub use revision::{ProxyRefusal, RevisionStatus, WriteReply, ZoneStatus};
pub use routes::router;
