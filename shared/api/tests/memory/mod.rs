//! A control plane in memory: a catalog behind a lock.
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use shared_api::{About, Author, Backend, Mode, Refused, RevisionStatus, TokenRequest, ZoneStatus, signing};
use shared_catalog::{Catalog, Command, Expected, Outcome};
use shared_identity::{names::Purpose, seal::SealKey, token::VerificationKeys};
use shared_model::{Kind, Resource, ResourceKey, Revision, Timestamp};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::watch;

pub struct Memory {
    pub mode: Mode,
    /// No quorum answers.
    pub lost: AtomicBool,
    pub catalog: Mutex<Catalog>,
    pub ticks: watch::Sender<u64>,
    /// What the one zone says of each revision.
    pub zone: Mutex<ZoneStatus>,
    pub signer: signing::Signer,
}

impl Memory {
    pub fn new(mode: Mode) -> Arc<Memory> {
        let memory = Memory {
            mode,
            lost: AtomicBool::new(false),
            catalog: Mutex::default(),
            ticks: watch::Sender::new(0),
            zone: Mutex::new(ZoneStatus { zone: "east".into(), online: true, ..ZoneStatus::default() }),
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

    pub fn zone_says(&self, status: ZoneStatus) {
        *self.zone.lock().expect("a lock") = status;
        self.ticks.send_modify(|ticks| *ticks += 1);
    }

    fn now(&self) -> Catalog {
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
            mode: self.mode,
            zone: (self.mode != Mode::Global).then(|| "east".into()),
        }
    }

    fn list(&self, kind: &'static Kind, mesh: Option<&str>) -> Vec<Arc<Resource>> {
        self.now().list(kind.name, mesh).cloned().collect()
    }

    fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.now().get(key).cloned()
    }

    fn revision(&self) -> Revision {
        self.now().revision()
    }

    async fn put(&self, resource: Resource, expected: Expected, author: &Author) -> Result<Outcome, Refused> {
        // No write goes through without one, whatever it was judged by.
        self.catch_up(true).await?;
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

    fn catalog(&self) -> Option<Arc<Catalog>> {
        Some(Arc::new(self.catalog.lock().expect("a lock").clone()))
    }

    fn revision_status(&self, revision: Revision) -> Option<RevisionStatus> {
        let current = self.revision();
        let zone = self.zone.lock().expect("a lock").clone();
        (revision <= current).then(|| RevisionStatus {
            revision: revision.0,
            current: current.0,
            applied_at: self.now().applied_at(revision),
            done: zone.done,
            zones: vec![zone],
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
        query: &str,
    ) -> Result<(String, Bytes), Refused> {
        match name {
            "web-1" => Ok(("text/plain".into(), format!("{mesh} {name} {what} {query}").into())),
            _ => Err(Refused::NotFound(format!("Dataplane {mesh}/{name}"))),
        }
    }

    async fn issue_token(&self, request: TokenRequest) -> Result<String, Refused> {
        self.signer.issue(self, request).await
    }

    fn user_keys(&self) -> VerificationKeys {
        signing::verification_keys(&Purpose::User, |kind, _| self.list(kind, None), |key| self.get(key))
    }
}
