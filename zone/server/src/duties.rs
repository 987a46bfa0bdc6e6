//! What the zone does without being asked, in the background: it writes the MeshServices that its Dataplanes call for,
//! keeps its authorities and the trust in them, and renews certificates.
//!
//! Each duty compares what is wanted with what is there, so a failed or forgotten step is made up by the next round.
use crate::catalogs::Catalogs;
use crate::certificates::Certificates;
use crate::proxies::Proxies;
use crate::proxies::turns::Urgency;
use crate::world::World;
use futures::future::join_all;
use shared_catalog::{Catalog, Change, Expected, Outcome};
use shared_model::{Resource, ResourceKey, Revision, kind, labels};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use zone_index::{Epoch, GENERATED_BY};
use zone_store::{Error, ZoneStore};

/// What failed is tried again after this time, and what somebody has undone meanwhile is made up for.
const ROUND: Duration = Duration::from_secs(5);

/// How long a generated MeshService outlives its last Dataplane. Who restarts all instances of a service keeps its name
/// and the routes to it; Kuma waits as long.
const GRACE: Duration = Duration::from_secs(3600);

/// How often certificates are looked at: far below a third of the shortest lifetime, which is a minute.
const RENEWAL: Duration = Duration::from_secs(5);

/// Keeps MeshServices and authorities in step with the Dataplanes.
pub struct Upkeep {
    pub store: Arc<dyn ZoneStore>,
    pub catalogs: Catalogs,
    pub certificates: Arc<Certificates>,
    pub world: watch::Receiver<World>,
}

impl Upkeep {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut unwanted = BTreeMap::new();
        let mut done = Done::default();
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_round = tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.world.changed() => if changed.is_err() { return } else { false },
                _ = rounds.tick() => true,
            };
            let world = self.world.borrow_and_update().clone();
            let epoch = world.epoch;
            let services = epoch.services_changed_at();
            if done.services != Some(services) || is_round && !unwanted.is_empty() {
                done.services = self.services(&epoch, &mut unwanted).await.then_some(services);
            }
            let authorities = epoch.authorities_changed_at();
            if done.authorities != Some(authorities) || is_round {
                done.authorities = self.authorities(&epoch).await.then_some(authorities);
            }
            if self.catalogs.is_federated() && (done.followed != Some(world.followed) || is_round) {
                done.followed = Some(world.followed);
                self.gone_meshes().await;
            }
        }
    }

    /// Writes the MeshServices that are wanted; false when some could not be written.
    async fn services(&self, epoch: &Epoch, unwanted: &mut BTreeMap<ResourceKey, Instant>) -> bool {
        let catalog = self.store.catalog().borrow().clone();
        let wanted = epoch.services_wanted();
        let names: BTreeSet<ResourceKey> = wanted.iter().map(Resource::key).collect();
        let mut writes = Vec::new();
        for service in wanted {
            let stored = catalog.get(&service.key());
            // Somebody's own MeshService of that name, written since the epoch was made.
            if stored.is_some_and(|stored| !is_generated(stored))
                || stored.is_some_and(|s| s.same_content(&service))
            {
                continue;
            }
            let expected = stored.map_or(Expected::Absent, |stored| Expected::At(stored.revision.0));
            let key = service.key();
            writes.push(async move { accepted(&key, self.store.put(service, expected).await) });
        }
        // Together, since the store makes writes that wait for each other one.
        let mut good = join_all(writes).await.into_iter().all(|good| good);
        let now = Instant::now();
        let generated = catalog.list(kind::MESH_SERVICE, None).filter(|service| is_generated(service));
        let over: BTreeMap<ResourceKey, u64> =
            generated.filter(|s| !names.contains(&s.key())).map(|s| (s.key(), s.revision.0)).collect();
        unwanted.retain(|key, _| over.contains_key(key));
        for (key, revision) in over {
            let since = *unwanted.entry(key.clone()).or_insert(now);
            if now.duration_since(since) >= GRACE {
                good &= accepted(&key.clone(), self.store.delete(key, Expected::At(revision)).await);
            }
        }
        good
    }

    /// Removes what the zone owned in meshes that global has deleted, as the store does by itself where it holds the
    /// meshes. Dataplanes stay until their proxies leave. A mesh that is merely not there yet is not a deleted one.
    async fn gone_meshes(&self) {
        let (followed, owned) = (self.catalogs.followed(), self.catalogs.owned());
        let there: BTreeSet<&str> = followed.list(kind::MESH, None).map(|mesh| mesh.name.as_str()).collect();
        let left =
            |resource: &&Arc<Resource>| !resource.mesh.is_empty() && !there.contains(resource.mesh.as_str());
        let over: Vec<&Arc<Resource>> =
            owned.iter().filter(left).filter(|resource| resource.kind != kind::DATAPLANE).collect();
        if over.is_empty() {
            return;
        }
        let deleted: BTreeSet<String> = followed
            .changes_since(Revision(0))
            .unwrap_or_default()
            .into_iter()
            .filter(|change| matches!(change, Change::Deleted { key, .. } if key.kind == kind::MESH))
            .map(|change| change.key().name)
            .collect();
        for resource in over.into_iter().filter(|resource| deleted.contains(&resource.mesh)) {
            let (key, expected) = (resource.key(), Expected::At(resource.revision.0));
            tracing::info!(%key, "removed with its mesh");
            accepted(&key.clone(), self.store.delete(key, expected).await);
        }
    }

    async fn authorities(&self, epoch: &Epoch) -> bool {
        let mut good = true;
        for spec in epoch.authorities_wanted() {
            if let Err(error) = self.certificates.ensure_trust(&spec).await {
                let (mesh, identity) = (spec.mesh, spec.identity);
                tracing::error!(mesh, identity, error = format!("{error:#}"), "cannot keep the authority");
                good = false;
            }
        }
        good
    }
}

#[derive(Default)]
struct Done {
    services: Option<u64>,
    authorities: Option<u64>,
    followed: Option<Revision>,
}

fn is_generated(service: &Resource) -> bool {
    service.labels.get(labels::MANAGED_BY).is_some_and(|by| by == GENERATED_BY)
}

fn accepted(key: &ResourceKey, outcome: Result<Outcome, Error>) -> bool {
    match outcome {
        Ok(Outcome::Refused(refusal)) => {
            tracing::debug!(%key, %refusal, "written by somebody else meanwhile");
            false
        }
        Ok(_) => true,
        Err(error) => {
            tracing::error!(%key, %error, "cannot write");
            false
        }
    }
}

/// Renews certificates, and wakes the proxies that hold them.
pub async fn renew(certificates: Arc<Certificates>, proxies: Arc<Proxies>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RENEWAL) => {}
        }
        let holders = certificates.renew_due(shared_node::time::now()).await;
        for proxy in proxies.handles(&holders) {
            proxy.wake(Urgency::Expiry);
        }
    }
}

/// Rings when a secret may have changed who may stay: keys and revocations hold on open streams too.
pub async fn recheck(mut catalogs: Catalogs, proxies: Arc<Proxies>, shutdown: CancellationToken) {
    let mut before = secrets(&mut catalogs);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            open = catalogs.changed() => if !open { return },
        }
        let now = secrets(&mut catalogs);
        if now != before {
            before = now;
            for proxy in proxies.all() {
                proxy.recheck();
            }
        }
    }
}

/// What changes when any secret does.
fn secrets(catalogs: &mut Catalogs) -> Vec<(ResourceKey, u64)> {
    let (followed, owned) = catalogs.see();
    let of = |catalog: &Catalog| -> Vec<(ResourceKey, u64)> {
        let all = [kind::SECRET, kind::GLOBAL_SECRET].into_iter().flat_map(|kind| catalog.list(kind, None));
        all.map(|secret| (secret.key(), secret.revision.0)).collect()
    };
    let mut all = of(&followed);
    all.extend(of(&owned));
    all
}
