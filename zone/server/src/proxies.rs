//! The proxies that are connected: at most one stream each, the newest one wins.
mod actor;
pub mod admission;
pub mod departures;
pub mod slot;
pub mod turns;

pub use actor::{OUTBOX, Parts, ProxyActor, Shared};

use actix::prelude::*;
use prometheus_client::metrics::gauge::Gauge;
use slot::Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{RwLock, RwLockWriteGuard, mpsc};
use turns::{Urgency, Worker};
use zone_index::ProxyId;
use zone_xds::Encoded;

/// The address of a proxy's actor. Waking it twice before it looks costs one look.
#[derive(Clone)]
pub struct ProxyHandle {
    address: Addr<ProxyActor>,
    /// Where it runs.
    worker: Worker,
    /// What is newer than the actor has looked at.
    slot: Arc<Slot>,
}

/// All that can wake a proxy's actor besides the words of its Envoy.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub enum Wake {
    /// The world, or its certificate, has moved on.
    Latest,
    /// Tokens were revoked: look whether its own is still good.
    Recheck,
    /// End the stream.
    End(tonic::Status),
}

impl ProxyHandle {
    pub fn wake(&self, urgency: Urgency) {
        self.call(self.slot.whole(urgency));
    }

    /// Other endpoints, and nothing else, are new in the epoch of this number.
    pub fn moved(&self, assignments: &[Arc<Encoded>], generation: u64) {
        self.call(self.slot.moved(assignments, generation));
    }

    fn call(&self, urgency: Option<Urgency>) {
        if let Some(urgency) = urgency {
            self.worker.call(urgency, self.address.clone());
        }
    }

    pub fn recheck(&self) {
        self.address.do_send(Wake::Recheck);
    }

    fn end(&self, status: tonic::Status) {
        self.address.do_send(Wake::End(status));
    }
}

/// The stream of a connected proxy.
struct Entry {
    incarnation: u64,
    handle: ProxyHandle,
    takeovers: Takeovers,
}

/// How often a proxy's stream was taken over by a newer one in a row. Once is a connection that broke unseen; again and
/// again is two programs of one name, each of which would bring its own Dataplane several times a second.
#[derive(Clone, Copy)]
struct Takeovers {
    count: u32,
    last: Instant,
}

impl Takeovers {
    /// Takeovers that cost nothing.
    const FREE: u32 = 2;
    const WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
    /// After so long without one it begins anew.
    const CALM: Duration = Duration::from_secs(60);

    fn again(self, now: Instant) -> Takeovers {
        let count = if now.duration_since(self.last) < Self::CALM { self.count.saturating_add(1) } else { 1 };
        Takeovers { count, last: now }
    }

    /// How long the next one has to wait.
    fn wait(self, now: Instant) -> Duration {
        let over = self.again(now).count.saturating_sub(Self::FREE);
        match over {
            0 => Duration::ZERO,
            over => (Self::WAIT.0 * 2_u32.pow(over.min(8) - 1)).min(Self::WAIT.1),
        }
    }
}

/// The registry of connected proxies.
pub struct Proxies {
    connected: Mutex<BTreeMap<ProxyId, Entry>>,
    /// Proxies between their token and their actor, with the number of their streams.
    arriving: Mutex<BTreeMap<ProxyId, usize>>,
    /// Held while a Dataplane is removed: nobody begins to arrive meanwhile and finds what is about to go.
    leaving: RwLock<()>,
    incarnations: AtomicU64,
    closing: AtomicBool,
    gauge: Gauge,
    departed: mpsc::UnboundedSender<ProxyId>,
}

impl Proxies {
    /// Each proxy whose last stream has ended is sent to the receiver. The channel holds at most one entry per stream
    /// that ended, and its reader only moves them into a set.
    pub fn new(gauge: Gauge) -> (Arc<Proxies>, mpsc::UnboundedReceiver<ProxyId>) {
        let (departed, departures) = mpsc::unbounded_channel();
        let proxies = Proxies {
            connected: Mutex::default(),
            arriving: Mutex::default(),
            leaving: RwLock::default(),
            incarnations: AtomicU64::new(1),
            closing: AtomicBool::new(false),
            gauge,
            departed,
        };
        (Arc::new(proxies), departures)
    }

    /// Starts an actor for a stream and makes it the proxy's stream; an older one is ended.
    pub fn connect(self: &Arc<Self>, worker: &Worker, parts: Parts) -> ProxyHandle {
        let incarnation = self.incarnations.fetch_add(1, Ordering::Relaxed);
        let id = parts.id.clone();
        let slot = Arc::new(Slot::default());
        let stream = Connected { id: id.clone(), incarnation, proxies: self.clone() };
        let (news, this) = (slot.clone(), parts);
        let address =
            ProxyActor::start_in_arbiter(worker.arbiter(), move |_| ProxyActor::new(this, stream, news));
        let handle = ProxyHandle { address, worker: worker.clone(), slot };
        let mut connected = self.lock();
        let now = Instant::now();
        let takeovers =
            connected.get(&id).map_or(Takeovers { count: 0, last: now }, |older| older.takeovers.again(now));
        let entry = Entry { incarnation, handle: handle.clone(), takeovers };
        let older = connected.insert(id.clone(), entry);
        self.gauge.set(i64::try_from(connected.len()).unwrap_or(i64::MAX));
        drop(connected);
        if let Some(older) = older {
            let (mesh, proxy, times) = (&id.mesh, &id.name, takeovers.count);
            if times > Takeovers::FREE {
                tracing::warn!(
                    mesh,
                    proxy,
                    times,
                    "two streams of the proxy take over from each other: do two have this name?"
                );
            } else {
                tracing::info!(mesh, proxy, "a newer stream of the proxy replaces the older one");
            }
            older.handle.end(tonic::Status::aborted("a newer stream of this proxy has taken over"));
        }
        if self.closing.load(Ordering::Acquire) {
            handle.end(shutting_down());
        }
        // It looks only once it is registered, so that no epoch falls between its look and its first wake.
        handle.wake(Urgency::Arrival);
        handle
    }

    /// How long a further stream of this proxy has to wait before it may take over from the one that is there.
    pub fn wait_of(&self, id: &ProxyId) -> Duration {
        self.lock().get(id).map_or(Duration::ZERO, |entry| entry.takeovers.wait(Instant::now()))
    }

    /// Notes that a proxy is about to connect; until the note is dropped its Dataplane is not removed.
    pub async fn arrive(self: &Arc<Self>, id: &ProxyId) -> Arrival {
        let _nobody_leaves = self.leaving.read().await;
        *lock(&self.arriving).entry(id.clone()).or_default() += 1;
        Arrival { id: id.clone(), proxies: self.clone() }
    }

    /// While this is held, nobody begins to arrive.
    pub async fn nobody_arrives(&self) -> RwLockWriteGuard<'_, ()> {
        self.leaving.write().await
    }

    /// True for a proxy that is connected or about to be.
    pub fn is_present(&self, id: &ProxyId) -> bool {
        // In this order: an arrival ends after it has become a connection.
        lock(&self.arriving).contains_key(id) || self.lock().contains_key(id)
    }

    /// Calls `with` with those of `ids` that are connected, while nobody connects or leaves; gives their handles.
    pub fn among_connected<'a>(
        &self,
        ids: &'a BTreeSet<ProxyId>,
        with: impl FnOnce(BTreeSet<ProxyId>),
    ) -> Vec<(&'a ProxyId, ProxyHandle)> {
        let connected = self.lock();
        let (mut found, mut handles) = (BTreeSet::new(), Vec::new());
        for id in ids {
            if let Some(entry) = connected.get(id) {
                handles.push((id, entry.handle.clone()));
                found.insert(id.clone());
            }
        }
        with(found);
        handles
    }

    pub fn handles<'a>(&self, ids: impl IntoIterator<Item = &'a ProxyId>) -> Vec<ProxyHandle> {
        let connected = self.lock();
        ids.into_iter().filter_map(|id| connected.get(id).map(|entry| entry.handle.clone())).collect()
    }

    pub fn all(&self) -> Vec<ProxyHandle> {
        self.lock().values().map(|entry| entry.handle.clone()).collect()
    }

    /// Ends every stream, now and later: the control plane stops. The Dataplanes stay.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        for handle in self.all() {
            handle.end(shutting_down());
        }
    }

    fn left(&self, id: &ProxyId, incarnation: u64) {
        let mut connected = self.lock();
        if connected.get(id).is_some_and(|entry| entry.incarnation == incarnation) {
            connected.remove(id);
            self.gauge.set(i64::try_from(connected.len()).unwrap_or(i64::MAX));
            if !self.closing.load(Ordering::Acquire) {
                // Nobody listens only when the program ends.
                let _ = self.departed.send(id.clone());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProxyId, Entry>> {
        lock(&self.connected)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn shutting_down() -> tonic::Status {
    tonic::Status::unavailable("the control plane is stopping")
}

/// A note that a proxy is about to connect.
pub struct Arrival {
    id: ProxyId,
    proxies: Arc<Proxies>,
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut arriving = lock(&self.proxies.arriving);
        if let Some(count) = arriving.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                arriving.remove(&self.id);
            }
        }
    }
}

/// A stream's place in the registry; it is given back when the actor goes, also by a panic.
pub struct Connected {
    id: ProxyId,
    incarnation: u64,
    proxies: Arc<Proxies>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.proxies.left(&self.id, self.incarnation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_one_name_wait_longer_and_longer_and_a_single_return_does_not() {
        let start = Instant::now();
        let mut takeovers = Takeovers { count: 0, last: start };
        let mut waits = Vec::new();
        for second in 0..12 {
            let now = start + Duration::from_secs(second);
            waits.push(takeovers.wait(now).as_millis());
            takeovers = takeovers.again(now);
        }
        assert_eq!(waits[..6], [0, 0, 250, 500, 1_000, 2_000]);
        assert_eq!(waits[11], 15_000);
        assert_eq!(takeovers.wait(start + Duration::from_secs(120)), Duration::ZERO);
    }
}
