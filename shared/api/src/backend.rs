//! What the API asks of the control plane behind it.
use crate::{
    cluster::{ClusterChange, ClusterStatus, SealKeyStatus},
    error::Refused,
    listing,
    proxies::{self, Proxies, Selection, Tally},
    revision::RevisionStatus,
};
use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderValue;
use serde_json::Value;
use shared_catalog::{Catalog, Command, Expected, Outcome};
use shared_identity::token::{DataplaneClaims, UserClaims, VerificationKeys, ZoneClaims};
use shared_model::{Kind, Resource, ResourceKey, Revision, kind};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
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

/// Who writes. Under a key, the same write may be sent again: it counts once, and the second answer is the first's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Author {
    /// Empty for the control plane itself.
    pub user: String,
    pub once: Option<[u8; 16]>,
}

impl Author {
    /// The control plane itself.
    pub fn own() -> Author {
        Author::default()
    }

    /// A command with what is known of its author.
    pub fn sign(&self, command: Command) -> Command {
        let command = command.by(&self.user);
        match self.once {
            Some(key) => command.once(key),
            None => command,
        }
    }
}

/// A token that an administrator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenRequest {
    Dataplane { claims: DataplaneClaims, valid_for: Duration },
    Zone { claims: ZoneClaims, valid_for: Duration },
    User { claims: UserClaims, valid_for: Duration },
}

/// A token that a user asks for where none is signed.
#[derive(Clone, Debug)]
pub struct WantedToken {
    /// `dataplane`, `zone` or `user`.
    pub kind: &'static str,
    /// What the user says that he is, for whoever signs to check.
    pub authorization: HeaderValue,
    /// The request, JSON.
    pub body: Bytes,
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

    async fn put(&self, resource: Resource, expected: Expected, author: &Author) -> Result<Outcome, Refused>;

    async fn delete(&self, key: ResourceKey, expected: Expected, author: &Author)
    -> Result<Outcome, Refused>;

    /// The catalog whose former versions are told.
    fn catalog(&self) -> Option<Arc<Catalog>> {
        None
    }

    /// All that is replicated, as a file: see [`crate::backup`].
    async fn backup(&self) -> Result<Bytes, Refused> {
        Err(Refused::NotFound("this control plane is no cluster: nothing of it is backed up here".into()))
    }

    /// Takes a zone's name from the store that it is bound to, for the next one to come or for the one of this id.
    async fn rebind_zone(
        &self,
        _zone: &str,
        _to: Option<&str>,
        _author: &Author,
    ) -> Result<Outcome, Refused> {
        Err(Refused::NotFound("this control plane keeps no zones".into()))
    }

    /// Lets a zone follow into the present epoch whatever it has seen of another.
    async fn accept_restore(&self, _zone: &str, _author: &Author) -> Result<Outcome, Refused> {
        Err(Refused::NotFound("this control plane is no cluster".into()))
    }

    /// Makes a new key for all that is sealed.
    async fn rotate_seal_key(&self) -> Result<SealKeyStatus, Refused> {
        Err(Refused::NotFound("this control plane is no cluster".into()))
    }

    /// Returns once what is read here is as new as everything that was acknowledged anywhere before the call. `writes`:
    /// the read only judges a write, which is judged again where it is stored.
    async fn catch_up(&self, _writes: bool) -> Result<(), Refused> {
        Ok(())
    }

    /// Whether what is here now is what every write is compared with.
    fn is_fresh(&self) -> bool {
        true
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

    /// One page of the proxies that are selected, by mesh and name, with their insights.
    fn proxies(&self, selection: &Selection, offset: usize, size: usize) -> Proxies {
        let mut all = self.list(kind::by_name(kind::DATAPLANE).expect("a kind"), selection.mesh.as_deref());
        let insight = |resource: &Resource| self.dataplane_insight(&resource.mesh, &resource.name);
        all.retain(|resource| listing::selects(selection, resource, insight(resource).as_ref()));
        let total = all.len();
        let page = all.into_iter().skip(offset).take(size);
        Proxies {
            total,
            items: page
                .map(|resource| {
                    let insight = insight(&resource);
                    (resource, insight)
                })
                .collect(),
        }
    }

    /// How many resources there are of a kind.
    fn count(&self, kind: &'static Kind, mesh: Option<&str>) -> u64 {
        self.list(kind, mesh).len() as u64
    }

    /// How many proxies there are, by mesh.
    fn tallies(&self) -> BTreeMap<String, Tally> {
        let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
        for resource in self.list(kind::by_name(kind::DATAPLANE).expect("a kind"), None) {
            let insight = self.dataplane_insight(&resource.mesh, &resource.name);
            let tally = tallies.entry(resource.mesh.clone()).or_default();
            tally.add(&proxies::tally_of(&resource, insight.as_ref()));
        }
        tallies
    }

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

    /// Takes a request for a token to the control plane that signs, and gives its answer as it is. Only asked of a
    /// federated zone.
    async fn forward_token(&self, _wanted: WantedToken) -> Result<http::Response<Bytes>, Refused> {
        Err(Refused::NotAllowed("this control plane forwards no requests for tokens".into()))
    }

    /// The keys that users' tokens are checked with.
    fn user_keys(&self) -> VerificationKeys;

    /// The effective configuration, secrets left out.
    fn config(&self) -> Value {
        Value::Object(Default::default())
    }

    /// Called once for each answer, for metrics.
    fn answered(&self, _method: &str, _status: u16) {}
}
