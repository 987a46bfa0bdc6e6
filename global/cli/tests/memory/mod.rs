//! A global control plane in memory, behind the real API: a catalog behind a lock, and zones that say what they are told
//! to say.
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use shared_api::{
    About, Author, Backend, ClusterChange, ClusterNode, ClusterStatus, Mode, Refused, RevisionStatus,
    SealKeyStatus, TokenRequest, ZoneStatus,
    backup::{self, Head},
    signing,
};
use shared_catalog::{Catalog, Command, Expected, Outcome, Refusal};
use shared_identity::{names::Purpose, seal::SealKey, token::VerificationKeys};
use shared_model::{Kind, Resource, ResourceKey, Revision, Timestamp};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::watch;

pub struct Memory {
    pub catalog: Mutex<Catalog>,
    /// What the zones say of every revision.
    pub zones: Mutex<Vec<ZoneStatus>>,
    /// No quorum answers.
    pub lost: AtomicBool,
    ticks: watch::Sender<u64>,
    signer: signing::Signer,
}

impl Memory {
    pub fn new() -> Arc<Memory> {
        let memory = Memory {
            catalog: Mutex::default(),
            zones: Mutex::default(),
            lost: AtomicBool::new(false),
            ticks: watch::Sender::new(0),
            signer: signing::Signer::new(SealKey::from_bytes([7; 32])),
        };
        memory.store(Resource::new("Mesh", "", "default", json!({})));
        Arc::new(memory)
    }

    pub fn store(&self, resource: Resource) {
        let command = Command::put(&resource, Expected::Any, Timestamp::UNIX_EPOCH);
        let outcome = self.catalog.lock().expect("a lock").apply(&command);
        assert!(outcome.revision().is_some(), "{outcome:?}");
    }

    pub fn zones_say(&self, zones: Vec<ZoneStatus>) {
        *self.zones.lock().expect("a lock") = zones;
        self.ticks.send_modify(|ticks| *ticks += 1);
    }

    /// How many calls wait for news.
    pub fn waiting(&self) -> usize {
        self.ticks.receiver_count()
    }

    pub fn catalog(&self) -> Catalog {
        self.catalog.lock().expect("a lock").clone()
    }
}

#[async_trait]
impl Backend for Memory {
    fn about(&self) -> About {
        About {
            product: "Kuma".into(),
            version: "0.1.0".into(),
            instance_id: "memory".into(),
            cluster_id: "cluster".into(),
            mode: Mode::Global,
            zone: None,
        }
    }

    fn list(&self, kind: &'static Kind, mesh: Option<&str>) -> Vec<Arc<Resource>> {
        self.catalog().list(kind.name, mesh).cloned().collect()
    }

    fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.catalog().get(key).cloned()
    }

    fn revision(&self) -> Revision {
        self.catalog().revision()
    }

    async fn put(&self, resource: Resource, expected: Expected, author: &Author) -> Result<Outcome, Refused> {
        let command = author.sign(Command::put(&resource, expected, Timestamp::UNIX_EPOCH));
        Ok(self.catalog.lock().expect("a lock").apply(&command))
    }

    async fn delete(
        &self,
        key: ResourceKey,
        expected: Expected,
        author: &Author,
    ) -> Result<Outcome, Refused> {
        let command = author.sign(Command::delete(key, expected, Timestamp::UNIX_EPOCH));
        Ok(self.catalog.lock().expect("a lock").apply(&command))
    }

    async fn catch_up(&self, _writes: bool) -> Result<(), Refused> {
        match self.lost.load(Ordering::Relaxed) {
            true => Err(Refused::Unavailable("no quorum of the cluster's nodes answers".into())),
            false => Ok(()),
        }
    }

    async fn backup(&self) -> Result<Bytes, Refused> {
        let head = Head {
            cluster_id: "c1".into(),
            epoch: String::new(),
            revision: 0,
            time: Timestamp::UNIX_EPOCH,
            version: "0.1.0".into(),
            term: 1,
            index: 1,
            resources: 0,
            size: 0,
            seal_key_id: "0123456789abcdef".into(),
            ca: "PEM".into(),
            sealed_ca_key: "00".into(),
        };
        Ok(backup::write(head, &self.catalog.lock().expect("a lock")).into())
    }

    async fn rebind_zone(&self, zone: &str, to: Option<&str>, author: &Author) -> Result<Outcome, Refused> {
        let Some(stored) = self.get(&ResourceKey::new("Zone", "", zone)) else {
            return Ok(Outcome::Refused(Refusal::NotFound));
        };
        let mut zone = Resource::clone(&stored);
        zone.status = Some(to.map_or_else(|| json!({}), |to| json!({"zoneId": to})));
        self.put(zone, Expected::Any, author).await
    }

    async fn accept_restore(&self, zone: &str, author: &Author) -> Result<Outcome, Refused> {
        let epoch = Memory::catalog(self).epoch();
        let command = Command::AcceptEpoch { zone: zone.to_owned(), epoch, at_ms: 0 };
        Ok(self.catalog.lock().expect("a lock").apply(&author.sign(command)))
    }

    async fn rotate_seal_key(&self) -> Result<SealKeyStatus, Refused> {
        let [nodes, missing] = ["cp-aaaa:5683", "cp-cccc:5683"].map(|node| vec![node.to_owned()]);
        Ok(SealKeyStatus { key_id: "b".into(), replaces: "a".into(), resealed: 4, nodes, missing })
    }

    fn catalog(&self) -> Option<Arc<Catalog>> {
        Some(Arc::new(self.catalog.lock().expect("a lock").clone()))
    }

    fn revision_status(&self, revision: Revision) -> Option<RevisionStatus> {
        let current = self.revision();
        let zones = self.zones.lock().expect("a lock").clone();
        (revision > Revision(0) && revision <= current).then(|| RevisionStatus {
            revision: revision.0,
            current: current.0,
            applied_at: self.catalog().applied_at(revision),
            done: zones.iter().all(|zone| zone.done),
            zones,
        })
    }

    fn ticks(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    fn dataplane_insight(&self, _mesh: &str, name: &str) -> Option<Value> {
        (name == "web-1").then(|| json!({"subscriptions": [{"connectTime": "2026-01-01T00:00:00Z"}]}))
    }

    fn zone_insight(&self, _name: &str) -> Option<Value> {
        None
    }

    async fn inspect(
        &self,
        mesh: &str,
        name: &str,
        what: &str,
        _query: &str,
    ) -> Result<(String, Bytes), Refused> {
        match (name, what) {
            ("web-1", "xds") => Ok(("application/json".into(), r#"{"configs":[]}"#.into())),
            ("web-1", what) => Ok(("text/plain".into(), format!("{what}: 1\n").into())),
            _ => Err(Refused::NotFound(format!("Dataplane {mesh}/{name}"))),
        }
    }

    async fn cluster(&self) -> Result<ClusterStatus, Refused> {
        let node = |id: &str, role: &str| ClusterNode {
            node: id.repeat(4),
            address: format!("cp-{id}:5683"),
            role: role.to_owned(),
            term: Some(7),
            lag: Some(0),
            version: Some("0.1.0".to_owned()),
            ..ClusterNode::default()
        };
        let nodes = vec![node("aaaa", "leader"), node("bbbb", "follower"), node("cccc", "does not answer")];
        Ok(ClusterStatus {
            cluster_id: "c1".to_owned(),
            epoch: "1".to_owned(),
            answered_by: "aaaa".repeat(4),
            nodes,
        })
    }

    async fn change_cluster(&self, change: ClusterChange) -> Result<(), Refused> {
        match change {
            ClusterChange::Remove { node } => Err(Refused::Conflict(format!("{node} stays"))),
            _ => Ok(()),
        }
    }

    async fn join_token(&self, valid_for: std::time::Duration) -> Result<String, Refused> {
        Ok(format!("weft-join.for-{}s", valid_for.as_secs()))
    }

    async fn issue_token(&self, request: TokenRequest) -> Result<String, Refused> {
        self.signer.issue(self, request).await
    }

    fn user_keys(&self) -> VerificationKeys {
        signing::verification_keys(&Purpose::User, |kind, _| self.list(kind, None), |key| self.get(key))
    }
}
