//! The trackers of both catalogs behind one lock, and the bell that rings when something moved.
use crate::metrics::{self, Metrics};
use crate::tracker::{Done, Report, Tracker};
use crate::walks::Walks;
use shared_model::{Revision, Timestamp};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};
use tokio::sync::watch;
use tracing::Span;
use zone_index::ProxyId;

/// Where a revision comes from: global, or the zone's own store. Each counts for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Followed,
    Owned,
}

/// How far the revisions of both catalogs have come.
pub struct Progress {
    trackers: Mutex<Trackers>,
    walks: Walks,
    ticks: watch::Sender<u64>,
    metrics: Metrics,
}

#[derive(Default)]
struct Trackers {
    followed: Tracker,
    owned: Tracker,
}

impl Progress {
    pub fn new(metrics: Metrics) -> Progress {
        let (trackers, walks) = Default::default();
        Progress { trackers, walks, ticks: watch::Sender::new(0), metrics }
    }

    /// Counts up with everything that may change a report.
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    /// A revision was applied as `generation`; `span` is its walk's.
    pub fn applied(
        &self,
        source: Source,
        revision: Revision,
        generation: u64,
        commanded: Timestamp,
        now: Timestamp,
        touched: BTreeSet<ProxyId>,
        span: Span,
    ) {
        self.walks.applied(span, revision, source, generation, &touched);
        self.lock().of(source).applied(revision, generation, commanded, now, touched);
        self.ring();
    }

    /// Something of `generation` was sent to the proxy.
    pub fn pushed(&self, proxy: &ProxyId, generation: u64) {
        self.walks.pushed(proxy, generation);
    }

    /// The proxy holds all of `generation`.
    pub fn acknowledged(&self, proxy: &ProxyId, generation: u64, pushed: bool) {
        let now = shared_node::time::now();
        self.settle(proxy, |tracker| tracker.acknowledged(proxy, generation, pushed, now), pushed);
    }

    pub fn refused(&self, proxy: &ProxyId, generation: u64, reason: &str) {
        self.walks.refused(proxy, generation, reason);
        let mut trackers = self.lock();
        for source in [Source::Followed, Source::Owned] {
            trackers.of(source).refused(proxy, generation, reason);
        }
        drop(trackers);
        self.ring();
    }

    /// Nobody need wait for this proxy any more.
    pub fn gone(&self, proxy: &ProxyId) {
        let now = shared_node::time::now();
        self.settle(proxy, |tracker| tracker.gone(proxy, now), false);
    }

    pub fn report(&self, source: Source, revision: Revision) -> Option<Report> {
        self.lock().of(source).report_of_step(revision)
    }

    pub fn newest(&self, source: Source) -> Revision {
        self.lock().of(source).newest()
    }

    /// What moved among global's revisions since a reader's last call; see [`Tracker::changed_since`].
    pub fn followed_since(&self, seen: u64) -> (u64, Vec<Report>) {
        self.lock().followed.changed_since(seen)
    }

    fn settle(&self, proxy: &ProxyId, mut step: impl FnMut(&mut Tracker) -> Vec<Done>, pushed: bool) {
        let mut trackers = self.lock();
        let done = [Source::Followed, Source::Owned].map(|source| (source, step(trackers.of(source))));
        drop(trackers);
        let done = done.into_iter().flat_map(|(source, done)| done.into_iter().map(move |one| (source, one)));
        for (source, one) in done {
            self.walks.done(proxy, one.revision, source);
            if !pushed {
                continue;
            }
            metrics::observe(&self.metrics.apply_to_ack, one.after);
            if one.settled {
                metrics::observe(&self.metrics.apply_to_settled, one.after);
                tracing::debug!(revision = one.revision.0, ms = one.after.as_secs_f64() * 1e3, "settled");
            }
        }
        self.ring();
    }

    fn ring(&self) {
        self.ticks.send_modify(|ticks| *ticks += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Trackers> {
        self.trackers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Trackers {
    fn of(&mut self, source: Source) -> &mut Tracker {
        match source {
            Source::Followed => &mut self.followed,
            Source::Owned => &mut self.owned,
        }
    }
}
