//! What the API asks of the control plane behind it.
use crate::{
    cluster::{ClusterChange, ClusterStatus},
    error::Refused,
    revision::RevisionStatus,
};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use shared_catalog::{Expected, Outcome};
use shared_identity::token::{DataplaneClaims, UserClaims, VerificationKeys, ZoneClaims};
use shared_model::{Kind, Resource, ResourceKey, Revision};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// Which part of the house answers; it decides who may write what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Global,
    FederatedZone,
    StandaloneZone,
}

/// Who answers, for `GET /`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub product: String,
    pub version: String,
    pub instance_id: String,
    pub cluster_id: String,
    pub mode: Mode,
    /// The zone's name; `None` at global.
    pub zone: Option<String>,
}

/// A token that an administrator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenRequest {
    Dataplane { claims: DataplaneClaims, valid_for: Duration },
    Zone { claims: ZoneClaims, valid_for: Duration },
    User { claims: UserClaims, valid_for: Duration },
}

/// The control plane as the API sees it. Reads are of one published state and never wait; writes return when they are
/// durable. The API has validated a resource before it calls [`Backend::put`].
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    fn about(&self) -> About;

    /// Sorted by mesh, then name. With no mesh: of all meshes.
    fn list(&self, kind: &'static Kind, mesh: Option<&str>) -> Vec<Arc<Resource>>;

    fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>>;

    /// The newest revision of what this control plane owns (at global: of the catalog).
    fn revision(&self) -> Revision;

    async fn put(&self, resource: Resource, expected: Expected) -> Result<Outcome, Refused>;

    async fn delete(&self, key: ResourceKey, expected: Expected) -> Result<Outcome, Refused>;

    /// A write that its caller may send again under the same key: it counts once, and the second answer is the first's.
    async fn put_once(
        &self,
        resource: Resource,
        expected: Expected,
        _key: [u8; 16],
    ) -> Result<Outcome, Refused> {
        self.put(resource, expected).await
    }

    /// A deletion that its caller may send again under the same key.
    async fn delete_once(
        &self,
        key: ResourceKey,
        expected: Expected,
        _once: [u8; 16],
    ) -> Result<Outcome, Refused> {
        self.delete(key, expected).await
    }

    /// Returns once what is read here is as new as everything that was acknowledged anywhere before the call. `writes`:
    /// the read only judges a write, which is judged again where it is stored.
    async fn catch_up(&self, _writes: bool) -> Result<(), Refused> {
        Ok(())
    }

    /// The nodes of this control plane.
    async fn cluster(&self) -> Result<ClusterStatus, Refused> {
        Err(Refused::NotFound("this control plane is no cluster".into()))
    }

    async fn change_cluster(&self, _change: ClusterChange) -> Result<(), Refused> {
        Err(Refused::NotFound("this control plane is no cluster".into()))
    }

    /// A token with which one node may join.
    async fn join_token(&self, _valid_for: Duration) -> Result<String, Refused> {
        Err(Refused::NotFound("this control plane is no cluster".into()))
    }

    /// True for a resource that this control plane only follows: at a federated zone, all that comes from global.
    fn is_followed(&self, _key: &ResourceKey) -> bool {
        false
    }

    /// How far a revision has come; `None` for one that was not given out yet.
    fn revision_status(&self, revision: Revision) -> Option<RevisionStatus>;

    /// Counts up with everything that may change an answer of [`Backend::revision_status`]: long polls wait on it.
    fn ticks(&self) -> watch::Receiver<u64>;

    /// Kuma's DataplaneInsight as JSON: `{"subscriptions": [...], "mTLS": {...}}`.
    fn dataplane_insight(&self, mesh: &str, name: &str) -> Option<Value>;

    /// Kuma's ZoneInsight as JSON.
    fn zone_insight(&self, name: &str) -> Option<Value>;

    /// Asks a proxy: `what` is `xds`, `stats` or `clusters`; `query` is the raw query of the request. Gives the content
    /// type and the body.
    async fn inspect(
        &self,
        mesh: &str,
        name: &str,
        what: &str,
        query: &str,
    ) -> Result<(String, Bytes), Refused>;

    async fn issue_token(&self, request: TokenRequest) -> Result<String, Refused>;

    /// The keys that users' tokens are checked with.
    fn user_keys(&self) -> VerificationKeys;

    /// The effective configuration, secrets left out.
    fn config(&self) -> Value {
        Value::Object(Default::default())
    }

    /// Called once for each answer, for metrics.
    fn answered(&self, _method: &str, _status: u16) {}
}
