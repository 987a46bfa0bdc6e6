//! Where a zone keeps what it owns: its Dataplanes, the services made from them, its trust, and, when it stands alone,
//! its meshes and policies too; and the secrets that never leave it, sealed.
//!
//! The crate knows nothing of what the resources mean. A store is a catalog that survives: writes go in one at a time
//! and are durable before they are answered, and what is stored is published as a whole, for whoever follows it from
//! its own cursor.
//!
//! ```text
//! put, delete --> ZoneStore --durable--> watch<Arc<Catalog>> --> the index, the API, the duties
//! put_secret  --> sealed on disk, read back by name
//! ```
//!
//! [`Embedded`] needs nothing installed. [`contract`] is what every adapter must pass.
pub mod contract;
mod embedded;
mod record;

pub use embedded::Embedded;

use async_trait::async_trait;
use shared_catalog::{Catalog, Expected, Outcome};
use shared_model::{Resource, ResourceKey};
use std::sync::Arc;
use tokio::sync::watch;

/// What can go wrong with a store itself. That a write is refused is no error: it is an [`Outcome`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} is in use by another process")]
    InUse(String),
    #[error("{path} was sealed with another seal.key (it has {stored}, this one is {given})")]
    OtherSealKey { path: String, stored: String, given: String },
    #[error("{what} in {path} is damaged: {reason}")]
    Damaged { path: String, what: String, reason: String },
    #[error("cannot write to {path}: {reason}")]
    Storage { path: String, reason: String },
    #[error("the store is closed")]
    Closed,
    #[error("secret {name:?}: {reason}")]
    Secret { name: String, reason: String },
}

/// A zone's own state. Every adapter keeps the laws that [`contract`] checks.
#[async_trait]
pub trait ZoneStore: Send + Sync + 'static {
    /// Writes a resource; durable once this returns `Stored`.
    async fn put(&self, resource: Resource, expected: Expected) -> Result<Outcome, Error>;

    /// Removes a resource; durable once this returns `Deleted`.
    async fn delete(&self, key: ResourceKey, expected: Expected) -> Result<Outcome, Error>;

    /// What is stored. A receiver sees the newest state, not every state.
    fn catalog(&self) -> watch::Receiver<Arc<Catalog>>;

    /// The secret of that name, opened.
    async fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, Error>;

    /// Seals and keeps a secret; one of the same name is replaced.
    async fn put_secret(&self, name: &str, bytes: &[u8]) -> Result<(), Error>;

    /// Forgets a secret; one that is not there is forgotten already.
    async fn delete_secret(&self, name: &str) -> Result<(), Error>;

    /// The names of all secrets that start with `prefix`, in order.
    async fn secret_names(&self, prefix: &str) -> Result<Vec<String>, Error>;
}
