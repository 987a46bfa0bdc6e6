//! The control plane behind the REST API: reads come from the catalog and from what zones have said, writes go through
//! consensus.
use crate::{
    backup::Source,
    metrics::Metrics,
    peers::service::Porter,
    rotation::Rotation,
    secrets::Secrets,
    zones::{Zones, binding, diverged::Diverged},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use global_consensus::{Consensus, Error, Links, Member};
use proto::peer::{NodeStatus, Promote, change};
use serde_json::{Value, json};
use shared_api::proxies::{Proxies, Selection, Tally};
use shared_api::{
    About, Author, Backend, ClusterChange, ClusterNode, ClusterStatus, Keyring, Refused, RevisionStatus,
    SealKeyStatus, TokenRequest, signing,
};
use shared_catalog::{Catalog, Command, Expected, Outcome, Refusal, Retention};
use shared_identity::{names::Purpose, token::VerificationKeys};
use shared_model::{Kind, Resource, ResourceKey, Revision, core::Zone, kind, strict};
use shared_node::telemetry::Cause;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;

pub struct Core {
    about: About,
    config: Value,
    consensus: Consensus,
    links: Links,
    zones: Arc<Zones>,
    signer: signing::Signer,
    secrets: Secrets,
    backups: Source,
    diverged: Diverged,
    rotation: Arc<Rotation>,
    metrics: Metrics,
    porter: Arc<Porter>,
}

impl Core {
    pub fn new(
        about: About,
        config: Value,
        consensus: Consensus,
        links: Links,
        zones: Arc<Zones>,
        keys: Keyring,
        backups: Source,
        diverged: Diverged,
        rotation: Arc<Rotation>,
        metrics: Metrics,
        porter: Arc<Porter>,
    ) -> Self {
        let secrets = Secrets::new(keys.clone());
        let signer = signing::Signer::new(keys);
        Core {
            about,
            config,
            consensus,
            links,
            zones,
            signer,
            secrets,
            backups,
            diverged,
            rotation,
            metrics,
            porter,
        }
    }

    fn catalog(&self) -> Arc<Catalog> {
        self.consensus.catalog().borrow().clone()
    }

    /// The outcome is applied and published here before it is answered: a read that follows a write sees it.
    async fn propose(&self, command: Command) -> Result<Outcome, Refused> {
        let outcome = self.consensus.propose(command).await.map_err(refused)?;
        if let (Outcome::Stored { revision, .. } | Outcome::Deleted { revision }, Some(cause)) =
            (&outcome, Cause::current())
        {
            self.zones.follow(*revision, &cause);
        }
        Ok(outcome)
    }

    /// What the operator says of the history counts for the whole cluster.
    pub async fn retain(&self, versions: Option<u32>, bytes: Option<u64>) -> Result<(), Error> {
        let now = self.catalog().retention();
        let wanted =
            Retention { versions: versions.unwrap_or(now.versions), bytes: bytes.unwrap_or(now.bytes) };
        if wanted != now {
            self.consensus.propose(Command::Retain(wanted)).await?;
            tracing::info!(
                versions = wanted.versions,
                bytes = wanted.bytes,
                "so many former versions are kept"
            );
        }
        Ok(())
    }

    /// A write of a document, with what is secret in it sealed.
    fn storing(&self, resource: Resource, expected: Expected) -> Command {
        let stored = self.catalog().get(&resource.key()).cloned();
        let resource = self.secrets.close(resource, stored.as_deref());
        Command::put(&resource, expected, shared_node::time::now())
    }

    fn node_id(node: &str) -> Result<u64, Refused> {
        let unknown =
            || Refused::invalid("node", format!("{node:?} is not the id of a node: sixteen digits"));
        u64::from_str_radix(node, 16).ok().filter(|_| node.len() == 16).ok_or_else(unknown)
    }

    /// A Zone goes with all that it brought, and goes last: whoever is interrupted finds it and deletes it again. One that is
    /// connected would come back at once.
    async fn delete_zone(
        &self,
        key: ResourceKey,
        expected: Expected,
        author: &Author,
    ) -> Result<Outcome, Refused> {
        if self.has_link(&key.name).await {
            return Err(Refused::Conflict(format!(
                "{key} is online: stop its control plane before it is deleted"
            )));
        }
        let catalog = self.catalog();
        let actual = catalog.get(&key).map(|zone| zone.revision).unwrap_or_default();
        if matches!(expected, Expected::At(wanted) if wanted != actual.0) {
            return Ok(Outcome::Refused(Refusal::Conflict { actual }));
        }
        let brought = catalog.iter().filter(|resource| resource.zone() == Some(key.name.as_str()));
        let gone = brought.map(|resource| {
            let command = Command::delete(resource.key(), Expected::Any, shared_node::time::now());
            self.propose(command.by(&author.user))
        });
        for outcome in join_all(gone).await {
            outcome?;
        }
        let command = author.sign(Command::delete(key.clone(), expected, shared_node::time::now()));
        let outcome = self.propose(command).await?;
        if matches!(outcome, Outcome::Refused(_)) {
            return Ok(outcome);
        }
        if let Err(error) = self.links.forget(&key.name).await {
            tracing::warn!(zone = key.name, %error, "the replica of a deleted zone is still followed");
        }
        self.zones.forget(&key.name);
        Ok(outcome)
    }

    /// Whether a zone is connected to any node of global that answers.
    async fn has_link(&self, zone: &str) -> bool {
        if self.zones.is_online(zone) {
            return true;
        }
        let nodes = self.consensus.overview().await;
        let mut linked =
            nodes.iter().filter_map(|(_, _, status)| status.as_ref()).flat_map(|node| &node.zones);
        linked.any(|linked| linked == zone)
    }

    async fn ask(&self, mesh: &str, name: &str, what: &str, query: &str) -> Result<(String, Bytes), Refused> {
        let key = ResourceKey::new(kind::DATAPLANE, mesh, name);
        let inventory = self.zones.inventory();
        let found = inventory.get(mesh, name).ok_or_else(|| Refused::NotFound(key.to_string()))?;
        let answer = self.zones.call(&found.zone, mesh, &found.name, what, query).await;
        let reply = answer.map_err(Refused::Unavailable)?;
        let reason = || String::from_utf8_lossy(&reply.body).trim().to_owned();
        match reply.status {
            // Shown under our own address: nothing that a browser would run.
            200 if reply.content_type == "application/json" => Ok((reply.content_type, reply.body)),
            200 => Ok(("text/plain; charset=utf-8".to_owned(), reply.body)),
            404 => Err(Refused::NotFound(reason())),
            400 => Err(Refused::invalid("", reason())),
            _ => Err(Refused::Unavailable(format!("zone {}: {}", found.zone, reason()))),
        }
    }
}

pub(crate) fn refused(error: Error) -> Refused {
    match error {
        Error::TooLarge { .. } => Refused::TooLarge(error.to_string()),
        Error::Membership(reason) => Refused::Conflict(reason),
        error => Refused::Unavailable(error.to_string()),
    }
}

#[async_trait]
impl Backend for Core {
    fn about(&self) -> About {
        self.about.clone()
    }

    fn list(&self, kind: &'static Kind, mesh: Option<&str>) -> Vec<Arc<Resource>> {
        match kind.name {
            kind::DATAPLANE => {
                let selection = Selection { mesh: mesh.map(str::to_owned), ..Selection::default() };
                let (_, all) = self.zones.inventory().page(&selection, 0, usize::MAX);
                all.iter().map(|found| Arc::new(found.dataplane())).collect()
            }
            name @ kind::GLOBAL_SECRET => {
                self.catalog().list(name, mesh).map(|stored| self.secrets.open(stored)).collect()
            }
            name => self.catalog().list(name, mesh).cloned().collect(),
        }
    }

    fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        match key.kind.as_str() {
            kind::DATAPLANE => {
                let found = self.zones.inventory().get(&key.mesh, &key.name);
                found.map(|found| Arc::new(found.dataplane()))
            }
            kind::GLOBAL_SECRET => self.catalog().get(key).map(|stored| self.secrets.open(stored)),
            _ => self.catalog().get(key).cloned(),
        }
    }

    fn revision(&self) -> Revision {
        self.consensus.catalog().borrow().revision()
    }

    async fn put(&self, resource: Resource, expected: Expected, author: &Author) -> Result<Outcome, Refused> {
        self.propose(author.sign(self.storing(resource, expected))).await
    }

    async fn delete(
        &self,
        key: ResourceKey,
        expected: Expected,
        author: &Author,
    ) -> Result<Outcome, Refused> {
        let is_there = self.catalog().get(&key).is_some();
        match key.kind.as_str() {
            // What is more than one command is not deleted twice: there is nothing left.
            kind::ZONE if is_there || author.once.is_none() => {
                return self.delete_zone(key, expected, author).await;
            }
            kind::MESH if is_there => {
                // Dataplanes are not in the catalog: the zones tell of them.
                let dataplanes = self.zones.inventory().len(Some(&key.name)) as u64;
                if dataplanes > 0 {
                    return Ok(Outcome::Refused(Refusal::MeshInUse { dataplanes }));
                }
            }
            _ => {}
        }
        self.propose(author.sign(Command::delete(key, expected, shared_node::time::now()))).await
    }

    fn catalog(&self) -> Option<Arc<Catalog>> {
        Some(self.catalog())
    }

    async fn backup(&self) -> Result<Bytes, Refused> {
        self.backups.take().await.map_err(|error| Refused::Internal(format!("{error:#}")))
    }

    async fn rebind_zone(&self, zone: &str, to: Option<&str>, author: &Author) -> Result<Outcome, Refused> {
        let catalog = self.catalog();
        let Some(stored) = catalog.get(&ResourceKey::new(kind::ZONE, "", zone)) else {
            return Ok(Outcome::Refused(Refusal::NotFound));
        };
        let rebound = binding::rebound(stored, to).map_err(|reason| Refused::invalid("zoneId", reason))?;
        let expected = Expected::At(stored.revision.0);
        self.propose(author.sign(Command::put(&rebound, expected, shared_node::time::now()))).await
    }

    async fn rotate_seal_key(&self) -> Result<SealKeyStatus, Refused> {
        self.rotation.rotate(&self.secrets).await
    }

    async fn accept_restore(&self, zone: &str, author: &Author) -> Result<Outcome, Refused> {
        let (epoch, at_ms) = (self.catalog().epoch(), shared_node::time::now().timestamp_millis());
        self.propose(author.sign(Command::AcceptEpoch { zone: zone.to_owned(), epoch, at_ms })).await
    }

    async fn catch_up(&self, writes: bool) -> Result<(), Refused> {
        if writes && self.is_fresh() {
            return Ok(());
        }
        self.consensus.catch_up().await.map_err(refused)
    }

    fn is_fresh(&self) -> bool {
        self.consensus.is_current_leader()
    }

    async fn cluster(&self) -> Result<ClusterStatus, Refused> {
        let nodes = self.consensus.overview().await;
        let end = nodes.iter().filter_map(|(_, _, status)| Some(status.as_ref()?.last_index)).max();
        let show = |(id, member, status): (u64, Member, Option<NodeStatus>)| ClusterNode {
            node: format!("{id:016x}"),
            address: member.address,
            link: member.link,
            role: status.as_ref().map_or("does not answer".to_owned(), |status| status.role.clone()),
            term: status.as_ref().map(|status| status.term),
            last_index: status.as_ref().map(|status| status.last_index),
            applied_index: status.as_ref().map(|status| status.applied_index),
            revision: status.as_ref().map(|status| status.revision),
            lag: status.as_ref().and_then(|status| Some(end?.saturating_sub(status.applied_index))),
            version: status.map(|status| status.version),
        };
        Ok(ClusterStatus {
            cluster_id: self.consensus.cluster_id(),
            epoch: self.catalog().epoch().to_string(),
            answered_by: format!("{:016x}", self.consensus.node_id()),
            nodes: nodes.into_iter().map(show).collect(),
        })
    }

    async fn change_cluster(&self, change: ClusterChange) -> Result<(), Refused> {
        let change = match change {
            ClusterChange::Promote { node } => {
                change::Kind::Promote(Promote { node_id: Core::node_id(&node)?, forced: true })
            }
            ClusterChange::Remove { node } => change::Kind::Remove(Core::node_id(&node)?),
            ClusterChange::TransferLeadership { node } => change::Kind::Transfer(Core::node_id(&node)?),
        };
        self.consensus.change(change).await.map_err(refused)
    }

    async fn join_token(&self, valid_for: Duration) -> Result<String, Refused> {
        self.porter.make_token(valid_for).await.map(|token| token.to_string()).map_err(refused)
    }

    fn revision_status(&self, revision: Revision) -> Option<RevisionStatus> {
        let catalog = self.catalog();
        let current = catalog.revision();
        if revision == Revision(0) || revision > current {
            return None;
        }
        let zones = catalog.list(kind::ZONE, None);
        let enabled =
            zones.filter(|zone| strict::read::<Zone>(&zone.spec, "").is_ok_and(|zone| zone.enabled));
        let zones: Vec<_> = enabled.map(|zone| self.zones.progress(&zone.name, revision)).collect();
        Some(RevisionStatus {
            revision: revision.0,
            current: current.0,
            applied_at: catalog.applied_at(revision),
            done: zones.iter().all(|zone| zone.done),
            zones,
        })
    }

    fn ticks(&self) -> watch::Receiver<u64> {
        self.zones.ticks()
    }

    fn dataplane_insight(&self, mesh: &str, name: &str) -> Option<Value> {
        self.zones.inventory().get(mesh, name).map(|found| found.insight())
    }

    fn proxies(&self, selection: &Selection, offset: usize, size: usize) -> Proxies {
        let (total, page) = self.zones.inventory().page(selection, offset, size);
        let items = page.iter().map(|found| (Arc::new(found.dataplane()), Some(found.insight())));
        Proxies { total, items: items.collect() }
    }

    fn count(&self, kind: &'static Kind, mesh: Option<&str>) -> u64 {
        match kind.name {
            kind::DATAPLANE => self.zones.inventory().len(mesh) as u64,
            name => self.catalog().list(name, mesh).count() as u64,
        }
    }

    fn tallies(&self) -> BTreeMap<String, Tally> {
        self.zones.inventory().tallies()
    }

    fn zone_insight(&self, name: &str) -> Option<Value> {
        let insight = self.zones.insight(name);
        let Some((reason, time)) = self.diverged.of(name) else { return insight };
        let mut insight = insight.unwrap_or_else(|| json!({"subscriptions": []}));
        insight["divergence"] = json!({"reason": reason, "time": time});
        Some(insight)
    }

    async fn inspect(
        &self,
        mesh: &str,
        name: &str,
        what: &str,
        query: &str,
    ) -> Result<(String, Bytes), Refused> {
        self.ask(mesh, name, what, query).await
    }

    async fn issue_token(&self, request: TokenRequest) -> Result<String, Refused> {
        self.signer.issue(self, request).await
    }

    fn user_keys(&self) -> VerificationKeys {
        let catalog = self.catalog();
        signing::verification_keys(
            &Purpose::User,
            |kind, mesh| catalog.list(kind.name, Some(mesh)).cloned().collect(),
            |key| catalog.get(key).cloned(),
        )
    }

    fn config(&self) -> Value {
        self.config.clone()
    }

    fn answered(&self, method: &str, status: u16) {
        self.metrics.answered(method, status);
    }
}
