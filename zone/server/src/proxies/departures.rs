//! Proxies that have gone: their Dataplanes are removed when they do not come back in time.
use crate::insights::Insights;
use crate::progress::Progress;
use crate::proxies::Proxies;
use crate::proxies::admission::{LIFECYCLE, LIFECYCLE_PROXY};
use futures::future::join_all;
use shared_catalog::{Expected, Outcome};
use shared_model::{Resource, kind};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zone_index::ProxyId;
use zone_store::ZoneStore;

/// Envoy waits up to 30 s between two attempts to connect: after a restart of the zone, proxies get this long to come
/// back before theirs is taken for gone.
const RETURN: Duration = Duration::from_secs(90);

/// So many Dataplanes are removed by one write, for which proxies that arrive wait.
const TOGETHER: usize = 256;

pub struct Departures {
    pub proxies: Arc<Proxies>,
    pub store: Arc<dyn ZoneStore>,
    pub insights: Arc<Insights>,
    pub progress: Arc<Progress>,
    pub delay: Duration,
    pub departed: mpsc::UnboundedReceiver<ProxyId>,
    /// False while no proxy is let in.
    pub loaded: watch::Receiver<bool>,
}

impl Departures {
    pub async fn run(mut self, shutdown: CancellationToken) {
        // Nobody can come back before the gate is open, so nobody is late.
        tokio::select! {
            () = shutdown.cancelled() => return,
            open = self.loaded.wait_for(|loaded| *loaded) => if open.is_err() { return },
        }
        let mut due = self.left_over();
        loop {
            let next = due.values().min().copied();
            tokio::select! {
                () = shutdown.cancelled() => return,
                departed = self.departed.recv() => match departed {
                    Some(id) => drop(due.insert(id, Instant::now() + self.delay)),
                    None => return,
                },
                () = wait_until(next) => {
                    let now = Instant::now();
                    let over: Vec<ProxyId> = due.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone()).collect();
                    for some in over.chunks(TOGETHER) {
                        let _nobody_arrives = self.proxies.nobody_arrives().await;
                        let removed = join_all(some.iter().map(|id| self.remove(id))).await;
                        for (id, is_done) in some.iter().zip(removed) {
                            match is_done {
                                true => due.remove(id),
                                false => due.insert(id.clone(), now + self.delay),
                            };
                        }
                    }
                }
            }
        }
    }

    /// Dataplanes from before this run, whose proxies may have gone while nobody looked.
    fn left_over(&self) -> BTreeMap<ProxyId, Instant> {
        let catalog = self.store.catalog().borrow().clone();
        let at = Instant::now() + RETURN;
        let ids = catalog.list(kind::DATAPLANE, None).filter(|resource| with_proxy(resource));
        ids.map(|resource| (ProxyId::new(resource.mesh.as_str(), resource.name.as_str()), at)).collect()
    }

    /// Removes what the proxy brought along; false when that must be tried again. Nobody may arrive meanwhile.
    async fn remove(&self, id: &ProxyId) -> bool {
        if self.proxies.is_present(id) {
            return true;
        }
        self.progress.gone(id);
        let Some(resource) = self.store.catalog().borrow().get(&id.key()).cloned() else {
            self.insights.forget(id);
            return true;
        };
        if !with_proxy(&resource) {
            return true;
        }
        let (key, expected) = (id.key(), Expected::At(resource.revision.0));
        match self.store.delete(key, expected).await {
            Ok(Outcome::Refused(refusal)) => {
                tracing::debug!(mesh = id.mesh, proxy = id.name, %refusal, "kept")
            }
            Ok(_) => {
                self.insights.forget(id);
                tracing::info!(
                    mesh = id.mesh,
                    proxy = id.name,
                    "the Dataplane of a proxy that has gone is removed"
                );
            }
            Err(error) => {
                tracing::error!(mesh = id.mesh, proxy = id.name, %error, "cannot remove the Dataplane");
                return false;
            }
        }
        true
    }
}

/// True for a Dataplane that came with its proxy.
fn with_proxy(resource: &Resource) -> bool {
    resource.labels.get(LIFECYCLE).is_some_and(|lifecycle| lifecycle == LIFECYCLE_PROXY)
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
