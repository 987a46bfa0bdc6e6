//! The one owner of the index: applies what the catalogs bring, publishes the epoch, and wakes the proxies that a
//! change touches.
//!
//! ```text
//! followed, owned --steps--> Index --> Arc<Epoch> --watch--> proxies, duties, API
//!                              |
//!                              +--Touched--> tracker, then a wake to each touched proxy that is connected;
//!                                            endpoints that have moved go with it, encoded once
//! ```
use crate::catalogs::Catalogs;
use crate::drained;
use crate::feed::{self, Step};
use crate::metrics::{self, Metrics};
use crate::progress::{Progress, Source};
use crate::proxies::turns::Urgency;
use crate::proxies::{Proxies, ProxyHandle};
use crate::verify::Oracle;
use crate::walks;
use shared_catalog::Catalog;
use shared_model::Revision;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zone_index::{Change, Destination, Epoch, Index, ProxyId, Touched};
use zone_xds::{Encoded, Manifests};

/// A catching-up that took longer than the first is followed by a pause of the same length, at most the second: when
/// hundreds of proxies come at once, those that come meanwhile are one step, and the index takes no more than half of a
/// core from those who serve them. A change by itself never waits.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));

/// What the index has made of the catalogs, and how far it has read them.
#[derive(Clone)]
pub struct World {
    pub epoch: Arc<Epoch>,
    pub followed: Revision,
    pub owned: Revision,
}

/// The index, and the states that it was brought to.
pub struct Indexer {
    index: Index,
    catalogs: Catalogs,
    followed: Arc<Catalog>,
    owned: Arc<Catalog>,
    proxies: Arc<Proxies>,
    progress: Arc<Progress>,
    manifests: Arc<Manifests>,
    oracle: Oracle,
    metrics: Metrics,
    world: watch::Sender<World>,
}

impl Indexer {
    /// Reads what the catalogs hold now, as the first epoch.
    pub fn new(
        zone: &str,
        catalogs: Catalogs,
        proxies: Arc<Proxies>,
        progress: Arc<Progress>,
        manifests: Arc<Manifests>,
        oracle: Oracle,
        metrics: Metrics,
    ) -> (Indexer, watch::Receiver<World>) {
        let index = Index::new(zone);
        let world = World { epoch: index.epoch(), followed: Revision(0), owned: Revision(0) };
        let (world, receiver) = watch::channel(world);
        let (followed, owned) = Default::default();
        let mut indexer = Indexer {
            index,
            catalogs,
            followed,
            owned,
            proxies,
            progress,
            manifests,
            oracle,
            metrics,
            world,
        };
        indexer.catch_up();
        (indexer, receiver)
    }

    /// Follows the catalogs until the shutdown, or until they are closed.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                open = self.catalogs.changed() => if !open { return },
            }
            let started = Instant::now();
            self.catch_up();
            let spent = started.elapsed();
            if spent > PAUSE.0 {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(spent.min(PAUSE.1)) => {}
                }
            }
        }
    }

    fn catch_up(&mut self) {
        let (followed, owned) = self.catalogs.see();
        // What the zone owns first: a MeshService of its own is there before the policy that names it.
        for step in feed::steps(&self.owned, &owned) {
            self.apply(Source::Owned, step, &owned);
        }
        self.owned = owned;
        for step in feed::steps(&self.followed, &followed) {
            self.apply(Source::Followed, step, &followed);
        }
        self.followed = followed;
        self.verify();
    }

    fn apply(&mut self, source: Source, step: Step, catalog: &Catalog) {
        let started = Instant::now();
        let now = shared_node::time::now();
        let walk = walks::begin(step.revision, source);
        let _entered = walk.enter();
        let changes = match source {
            Source::Followed => drained::seen(step.changes, catalog),
            Source::Owned => step.changes,
        };
        let changes: Vec<Change> =
            changes.into_iter().filter_map(|change| self.translate(source, change)).collect();
        let Touched { proxies: touched, moved } = self.index.apply(changes);
        let epoch = self.index.epoch();
        let generation = epoch.number();
        let commanded = catalog.applied_at(step.revision).unwrap_or(now);
        let mut world = self.world.borrow().clone();
        world.epoch = epoch;
        match source {
            Source::Followed => world.followed = step.revision,
            Source::Owned => world.owned = step.revision,
        }
        // Under the registry's lock: a proxy that connects meanwhile either is counted and woken, or reads this epoch.
        let woken = self.proxies.among_connected(&touched, |connected| {
            self.progress.applied(source, step.revision, generation, commanded, now, connected, walk.clone());
            self.world.send_replace(world);
        });
        self.wake(woken, &moved, generation);
        let gauge = match source {
            Source::Followed => &self.metrics.followed_revision,
            Source::Owned => &self.metrics.owned_revision,
        };
        gauge.set(i64::try_from(step.revision.0).unwrap_or(i64::MAX));
        metrics::observe(&self.metrics.index_apply, started.elapsed());
        tracing::debug!(?source, revision = step.revision.0, generation, "applied");
    }

    /// Those first whose endpoints alone have moved: that is soon done, and a dead endpoint is what hurts.
    fn wake(
        &self,
        woken: Vec<(&ProxyId, ProxyHandle)>,
        moved: &BTreeMap<ProxyId, Vec<Arc<Destination>>>,
        generation: u64,
    ) {
        let mut assignments: BTreeMap<*const Destination, Arc<Encoded>> = BTreeMap::new();
        let (few, all): (Vec<_>, Vec<_>) = woken.into_iter().partition(|(id, _)| moved.contains_key(id));
        for (id, proxy) in few {
            let of = |destination: &Arc<Destination>| {
                let made = || self.manifests.assignment(destination);
                assignments.entry(Arc::as_ptr(destination)).or_insert_with(made).clone()
            };
            let news: Vec<_> = moved.get(id).into_iter().flatten().map(of).collect();
            proxy.moved(&news, generation);
        }
        for (_, proxy) in all {
            proxy.wake(Urgency::Rest);
        }
    }

    fn verify(&self) {
        if self.oracle.is_on() {
            use zone_index::Source::{Followed, Owned};
            let catalogs = [(Followed, &*self.followed), (Owned, &*self.owned)];
            self.oracle.epoch(&self.index.epoch(), catalogs, |change| match change {
                Change::Put(Owned, resource) => self.catalogs.counts_as_owned(resource),
                Change::Put(Followed, resource) => !drained::is_hidden(resource, &self.followed),
                Change::Delete(..) => true,
            });
        }
    }

    fn translate(&self, source: Source, change: shared_catalog::Change) -> Option<Change> {
        let from = match source {
            Source::Followed => zone_index::Source::Followed,
            Source::Owned => zone_index::Source::Owned,
        };
        match change {
            shared_catalog::Change::Put(resource) => {
                let counts = source == Source::Followed || self.catalogs.counts_as_owned(&resource);
                counts.then_some(Change::Put(from, resource))
            }
            shared_catalog::Change::Deleted { key, .. } => Some(Change::Delete(from, key)),
        }
    }
}
