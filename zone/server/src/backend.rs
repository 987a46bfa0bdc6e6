//! The zone behind the REST API: what it follows is read, what it owns is written.
use crate::catalogs::Catalogs;
use crate::insights::Insights;
use crate::inspect;
use crate::metrics::{ByAnswer, Metrics};
use crate::progress::{Progress, Source};
use crate::uplink::{Issuer, LinkState};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use shared_api::signing::Signer;
use shared_api::{
    About, Author, Backend, Mode, ProxyRefusal, Refused, RevisionStatus, TokenRequest, WantedToken,
    ZoneStatus,
};
use shared_catalog::{Catalog, Expected, Outcome};
use shared_identity::names::Purpose;
use shared_identity::token::VerificationKeys;
use shared_model::{Kind, Resource, ResourceKey, Revision};
use std::sync::Arc;
use tokio::sync::watch;
use zone_index::ProxyId;
use zone_store::ZoneStore;

pub struct ZoneBackend {
    pub zone: String,
    pub instance: String,
    pub catalogs: Catalogs,
    pub store: Arc<dyn ZoneStore>,
    pub progress: Arc<Progress>,
    pub insights: Arc<Insights>,
    pub metrics: Metrics,
    pub signer: Signer,
    pub link: watch::Receiver<LinkState>,
    /// Who is asked for tokens; absent in a zone that stands alone.
    pub issuer: Option<Issuer>,
    pub config: Value,
}

#[async_trait]
impl Backend for ZoneBackend {
    fn about(&self) -> About {
        let mode = if self.catalogs.is_federated() { Mode::FederatedZone } else { Mode::StandaloneZone };
        About {
            product: "Kuma".to_owned(),
            version: shared_node::VERSION.to_owned(),
            instance_id: self.instance.clone(),
            cluster_id: self.link.borrow().cluster_id.clone(),
            mode,
            zone: Some(self.zone.clone()),
        }
    }

    fn list(&self, kind: &'static Kind, mesh: Option<&str>) -> Vec<Arc<Resource>> {
        self.catalogs.list(kind.name, mesh)
    }

    fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.catalogs.get(key)
    }

    fn revision(&self) -> Revision {
        self.catalogs.owned().revision()
    }

    async fn put(&self, resource: Resource, expected: Expected, _: &Author) -> Result<Outcome, Refused> {
        // In a federated zone the store does not know the meshes: they are global's.
        if !resource.mesh.is_empty() && !self.catalogs.has_mesh(&resource.mesh) {
            return Err(Refused::invalid("mesh", format!("mesh {:?} does not exist", resource.mesh)));
        }
        self.store.put(resource, expected).await.map_err(|error| Refused::Unavailable(error.to_string()))
    }

    async fn delete(&self, key: ResourceKey, expected: Expected, _: &Author) -> Result<Outcome, Refused> {
        self.store.delete(key, expected).await.map_err(|error| Refused::Unavailable(error.to_string()))
    }

    /// A federated zone tells of global's past, a standalone one of its own.
    fn catalog(&self) -> Option<Arc<Catalog>> {
        Some(if self.catalogs.is_federated() { self.catalogs.followed() } else { self.catalogs.owned() })
    }

    fn is_followed(&self, key: &ResourceKey) -> bool {
        self.catalogs.is_followed(key)
    }

    fn revision_status(&self, revision: Revision) -> Option<RevisionStatus> {
        let owned = self.catalogs.owned();
        let current = owned.revision();
        if revision > current || revision == Revision(0) {
            return None;
        }
        let commanded = owned.applied_at(revision);
        let mut zone = ZoneStatus { zone: self.zone.clone(), online: true, ..ZoneStatus::default() };
        match self.progress.report(Source::Owned, revision) {
            Some(report) => {
                let took = report.settled.zip(commanded).map(|(settled, commanded)| settled - commanded);
                zone.applied = true;
                zone.applied_at = Some(report.applied);
                zone.touched = report.touched;
                zone.acknowledged = report.acknowledged;
                zone.pending = report.pending;
                let refusal = |(id, reason): (ProxyId, Arc<str>)| ProxyRefusal {
                    mesh: id.mesh,
                    proxy: id.name,
                    reason: reason.to_string(),
                };
                zone.refused = report.refused.into_iter().map(refusal).collect();
                zone.done = report.pending == 0;
                zone.apply_to_ack_ms =
                    took.and_then(|took| took.to_std().ok()).map(|took| took.as_secs_f64() * 1e3);
            }
            // Not watched any more, or not applied yet.
            None => {
                zone.applied = self.progress.newest(Source::Owned) >= revision;
                zone.done = zone.applied;
            }
        }
        let done = zone.done;
        Some(RevisionStatus {
            revision: revision.0,
            current: current.0,
            applied_at: commanded,
            done,
            zones: vec![zone],
        })
    }

    fn ticks(&self) -> watch::Receiver<u64> {
        self.progress.ticks()
    }

    fn dataplane_insight(&self, mesh: &str, name: &str) -> Option<Value> {
        self.insights.json(&ProxyId::new(mesh, name))
    }

    /// At a zone: its own link, as global would tell it.
    fn zone_insight(&self, name: &str) -> Option<Value> {
        if name != self.zone || !self.catalogs.is_federated() {
            return None;
        }
        let link = self.link.borrow().clone();
        let mut subscription = json!({ "id": link.instance, "zoneInstanceId": self.instance });
        if let Some(since) = link.since {
            let field = if link.up { "connectTime" } else { "disconnectTime" };
            subscription[field] = json!(since.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
        }
        Some(json!({ "subscriptions": [subscription] }))
    }

    async fn inspect(
        &self,
        mesh: &str,
        name: &str,
        what: &str,
        query: &str,
    ) -> Result<(String, Bytes), Refused> {
        inspect::ask(&self.catalogs, &ProxyId::new(mesh, name), what, query).await
    }

    async fn issue_token(&self, request: TokenRequest) -> Result<String, Refused> {
        if self.catalogs.is_federated() {
            return Err(Refused::NotAllowed(
                "tokens are issued at global, whose keys this zone does not hold".to_owned(),
            ));
        }
        if let TokenRequest::Zone { .. } = request {
            return Err(Refused::NotAllowed("a standalone zone needs no zone tokens".to_owned()));
        }
        self.signer.issue(self, request).await
    }

    async fn forward_token(&self, wanted: WantedToken) -> Result<http::Response<Bytes>, Refused> {
        match &self.issuer {
            Some(issuer) => issuer.ask(wanted).await,
            None => Err(Refused::NotAllowed("this zone follows no global".to_owned())),
        }
    }

    fn user_keys(&self) -> VerificationKeys {
        self.catalogs.keys(&Purpose::User)
    }

    fn config(&self) -> Value {
        self.config.clone()
    }

    fn answered(&self, method: &str, status: u16) {
        let by = ByAnswer { method: method.to_owned(), status };
        self.metrics.api_answers.get_or_create(&by).inc();
    }
}
