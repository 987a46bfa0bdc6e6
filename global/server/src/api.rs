//! The control plane behind the REST API: reads come from the catalog and from what zones have said, writes go through
//! consensus.
use crate::{metrics::Metrics, peers::service::Porter, secrets::Secrets, zones::Zones};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use global_consensus::{Consensus, Error, Links, Member};
use proto::peer::{NodeStatus, Promote, change};
use serde_json::Value;
use shared_api::{
    About, Backend, ClusterChange, ClusterNode, ClusterStatus, Refused, RevisionStatus, TokenRequest, signing,
};
use shared_catalog::{Catalog, Command, Expected, Outcome, Refusal};
use shared_identity::{names::Purpose, seal::SealKey, token::VerificationKeys};
use shared_model::{Kind, Resource, ResourceKey, Revision, core::Zone, kind, strict};
use shared_node::telemetry::Cause;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

pub struct Core {
    about: About,
    config: Value,
    consensus: Consensus,
    links: Links,
    zones: Arc<Zones>,
    signer: signing::Signer,
    secrets: Secrets,
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
        seal: SealKey,
        metrics: Metrics,
        porter: Arc<Porter>,
    ) -> Self {
        let secrets = Secrets::new(seal.clone());
        let signer = signing::Signer::new(seal);
        Core { about, config, consensus, links, zones, signer, secrets, metrics, porter }
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
    async fn delete_zone(&self, key: ResourceKey, expected: Expected) -> Result<Outcome, Refused> {
        if self.zones.is_online(&key.name) {
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
            self.propose(Command::delete(resource.key(), Expected::Any, shared_node::time::now()))
        });
        for outcome in join_all(gone).await {
            outcome?;
        }
        let outcome = self.propose(Command::delete(key.clone(), expected, shared_node::time::now())).await?;
        if matches!(outcome, Outcome::Refused(_)) {
            return Ok(outcome);
        }
        if let Err(error) = self.links.forget(&key.name).await {
            tracing::warn!(zone = key.name, %error, "the replica of a deleted zone is still followed");
        }
        self.zones.forget(&key.name);
        Ok(outcome)
    }

    async fn ask(&self, mesh: &str, name: &str, what: &str, query: &str) -> Result<(String, Bytes), Refused> {
        let key = ResourceKey::new(kind::DATAPLANE, mesh, name);
        let found = self.zones.dataplane(mesh, name).ok_or_else(|| Refused::NotFound(key.to_string()))?;
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

fn refused(error: Error) -> Refused {
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
            kind::DATAPLANE => self.zones.dataplanes(mesh),
            name @ kind::GLOBAL_SECRET => {
                self.catalog().list(name, mesh).map(|stored| self.secrets.open(stored)).collect()
            }
            name => self.catalog().list(name, mesh).cloned().collect(),
        }
    }

    fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        match key.kind.as_str() {
            kind::DATAPLANE => self.zones.dataplane(&key.mesh, &key.name).map(|found| found.dataplane),
            kind::GLOBAL_SECRET => self.catalog().get(key).map(|stored| self.secrets.open(stored)),
            _ => self.catalog().get(key).cloned(),
        }
    }

    fn revision(&self) -> Revision {
        self.consensus.catalog().borrow().revision()
    }

    async fn put(&self, resource: Resource, expected: Expected) -> Result<Outcome, Refused> {
        self.propose(self.storing(resource, expected)).await
    }

    async fn delete(&self, key: ResourceKey, expected: Expected) -> Result<Outcome, Refused> {
        match key.kind.as_str() {
            kind::ZONE => return self.delete_zone(key, expected).await,
            kind::MESH => {
                // Dataplanes are not in the catalog: the zones tell of them.
                let dataplanes = self.zones.dataplanes(Some(&key.name)).len() as u64;
                if dataplanes > 0 {
                    return Ok(Outcome::Refused(Refusal::MeshInUse { dataplanes }));
                }
            }
            _ => {}
        }
        self.propose(Command::delete(key, expected, shared_node::time::now())).await
    }

    async fn put_once(
        &self,
        resource: Resource,
        expected: Expected,
        key: [u8; 16],
    ) -> Result<Outcome, Refused> {
        self.propose(self.storing(resource, expected).once(key)).await
    }

    /// The kinds whose deletion is more than one command are not deleted twice anyway: there is nothing left.
    async fn delete_once(
        &self,
        key: ResourceKey,
        expected: Expected,
        once: [u8; 16],
    ) -> Result<Outcome, Refused> {
        match key.kind.as_str() {
            kind::ZONE | kind::MESH if self.get(&key).is_some() => self.delete(key, expected).await,
            _ => self.propose(Command::delete(key, expected, shared_node::time::now()).once(once)).await,
        }
    }

    async fn catch_up(&self, writes: bool) -> Result<(), Refused> {
        // What a leader judges by is what the write is compared with.
        if writes && self.consensus.is_current_leader() {
            return Ok(());
        }
        self.consensus.catch_up().await.map_err(refused)
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
        self.zones.dataplane(mesh, name)?.insight
    }

    fn zone_insight(&self, name: &str) -> Option<Value> {
        self.zones.insight(name)
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
