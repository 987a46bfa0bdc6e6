//! The shared state: what every zone has said. Written by the links, read by the API; no lock is held across a wait.
use super::{
    handle::ZoneHandle,
    insight::Insight,
    inventory::{Feed, Inventory},
    progress::Commits,
    replicas::Replicas,
    session::Question,
    trace::Traces,
};
use crate::metrics::Metrics;
use proto::link::{CallReply, Hello, RevisionProgress};
use serde_json::Value;
use shared_api::ZoneStatus;
use shared_model::Revision;
use shared_node::telemetry::Cause;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How long a link that is asked to end may take.
const END_MAX: Duration = Duration::from_secs(2);

pub struct Zones {
    /// Names this process in what is shown.
    instance: String,
    state: Mutex<State>,
    inventory: Arc<Inventory>,
    /// None once the control plane shuts down.
    ticks: Mutex<Option<watch::Sender<u64>>>,
    metrics: Metrics,
}

struct State {
    zones: BTreeMap<String, Zone>,
    commits: Commits,
    traces: Traces,
    next_link: u64,
    next_ticket: u64,
}

/// What is known of one zone: of each of its replicas, and of the links that there were.
#[derive(Default)]
struct Zone {
    replicas: Replicas,
    insight: Insight,
}

impl Zones {
    /// `newest` is the revision that was there when the process started.
    pub fn new(instance: &str, newest: Revision, metrics: Metrics, inventory: Arc<Inventory>) -> Arc<Zones> {
        let commits = Commits::after(newest);
        let (zones, traces) = (BTreeMap::new(), Traces::default());
        let state = State { zones, commits, traces, next_link: 1, next_ticket: 1 };
        let (state, ticks) = (Mutex::new(state), Mutex::new(Some(watch::Sender::new(0))));
        Arc::new(Zones { instance: instance.to_owned(), state, inventory, ticks, metrics })
    }

    pub fn inventory(&self) -> &Arc<Inventory> {
        &self.inventory
    }

    /// Counts up with everything that a reader of progress may care for. Closed once the control plane shuts down.
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.sender().as_ref().map_or_else(|| watch::channel(0).1, watch::Sender::subscribe)
    }

    /// Sends those away who wait for progress, and ends the traces.
    pub fn end(&self) {
        self.sender().take();
        self.state().traces.end();
    }

    /// Goes on with the trace of a write in the zones that are connected.
    pub fn follow(&self, revision: Revision, cause: &Cause) {
        let mut state = self.state();
        let State { zones, traces, .. } = &mut *state;
        for (name, zone) in zones.iter().filter(|(_, zone)| zone.replicas.is_online()) {
            traces.begin(revision, name, cause);
            traces.heard(name, |revision| zone.replicas.progress(name, revision));
        }
    }

    pub fn committed(&self, revision: Revision) {
        self.state().commits.committed(revision, Instant::now());
        self.tick();
    }

    /// A zone was let in; what the answer does not say is over when it is dropped.
    pub fn connect(self: &Arc<Self>, hello: &Hello) -> Connection {
        let now = shared_node::time::now();
        let mut state = self.state();
        let id = state.next_link;
        state.next_link += 1;
        let zone = state.zones.entry(hello.zone.clone()).or_default();
        zone.replicas.connected(hello, id);
        zone.insight.connected(id, &hello.instance, &hello.version, now);
        self.changed(state);
        let feed = self.inventory.linked(hello, id);
        Connection { zones: self.clone(), zone: hello.zone.clone(), node_id: hello.node_id, id, feed }
    }

    /// Ends the present link of a zone's replica, if there is one, and waits until it has gone. Answers whether there was.
    pub async fn replace(&self, zone: &str, node_id: u64, reason: &str) -> bool {
        let mut ticks = self.ticks();
        let id = {
            let state = self.state();
            let Some(link) = state.zones.get(zone).and_then(|zone| zone.replicas.link(node_id)) else {
                return false;
            };
            link.stop(reason);
            link.id
        };
        let gone = async {
            while self.is_current(zone, node_id, id) {
                if ticks.changed().await.is_err() {
                    return;
                }
            }
        };
        // A link that does not end in time is overtaken: the newer one counts.
        let _ = tokio::time::timeout(END_MAX, gone).await;
        true
    }

    pub fn stop_all(&self, reason: &str) {
        let state = self.state();
        state.zones.values().flat_map(|zone| zone.replicas.links()).for_each(|link| link.stop(reason));
    }

    pub fn is_online(&self, zone: &str) -> bool {
        self.state().zones.get(zone).is_some_and(|zone| zone.replicas.is_online())
    }

    /// Drops what is known of a zone that was deleted.
    pub fn forget(&self, zone: &str) {
        let mut state = self.state();
        if state.zones.get(zone).is_some_and(|zone| !zone.replicas.is_online()) {
            state.zones.remove(zone);
        }
        self.changed(state);
        self.inventory.forget(zone);
    }

    pub fn insight(&self, zone: &str) -> Option<Value> {
        self.state().zones.get(zone).map(|zone| zone.insight.show(&self.instance))
    }

    /// What one zone says of a revision; a zone that has never been here says nothing.
    pub fn progress(&self, zone: &str, revision: Revision) -> ZoneStatus {
        match self.state().zones.get(zone) {
            Some(known) => known.replicas.progress(zone, revision),
            None => ZoneStatus { zone: zone.to_owned(), ..ZoneStatus::default() },
        }
    }

    /// Asks a zone about one of its proxies; an error says why there is no answer.
    pub async fn call(
        &self,
        zone: &str,
        mesh: &str,
        name: &str,
        what: &str,
        query: &str,
    ) -> Result<CallReply, String> {
        let keeper = self.inventory.keeper(zone, mesh, name);
        let (handle, ticket) = {
            let mut state = self.state();
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            let replicas = state.zones.get(zone).map(|zone| &zone.replicas);
            (replicas.and_then(|replicas| replicas.keeper(keeper)), ticket)
        };
        let handle = handle.ok_or_else(|| format!("zone {zone} is offline"))?;
        let [mesh, name, what, query] = [mesh, name, what, query].map(str::to_owned);
        let answer = handle.call(Question { ticket, mesh, name, what, query }).await;
        answer.map_err(|reason| format!("zone {zone}: {reason}"))
    }

    fn is_current(&self, zone: &str, node_id: u64, link: u64) -> bool {
        let state = self.state();
        let current = state.zones.get(zone).and_then(|zone| zone.replicas.link(node_id));
        current.is_some_and(|current| current.id == link)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells readers that links or proxies have changed.
    fn changed(&self, state: MutexGuard<'_, State>) {
        self.metrics.zones_connected(state.zones.values().filter(|zone| zone.replicas.is_online()).count());
        drop(state);
        self.tick();
    }

    fn tick(&self) {
        if let Some(ticks) = self.sender().as_ref() {
            ticks.send_modify(|ticks| *ticks += 1);
        }
    }

    fn sender(&self) -> MutexGuard<'_, Option<watch::Sender<u64>>> {
        self.ticks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open link's way to the shared state. A link that was replaced writes nothing any more.
pub struct Connection {
    zones: Arc<Zones>,
    zone: String,
    node_id: u64,
    id: u64,
    feed: Feed,
}

impl Connection {
    pub fn zone(&self) -> &str {
        &self.zone
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where the zone's inventory goes.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    pub fn beat(&self, revision: Revision) {
        let now = shared_node::time::now();
        self.feed.heard(now);
        let changed = self.with(|zone, _, traces| {
            zone.insight.heard(now);
            let changed =
                zone.replicas.get(self.node_id).is_some_and(|replica| replica.progress.beat(revision));
            traces.heard(&self.zone, |revision| zone.replicas.progress(&self.zone, revision));
            changed
        });
        if changed == Some(true) {
            self.zones.tick();
        }
    }

    /// `newest` is the newest revision here: a zone may report one before anybody else has taken notice of it.
    pub fn progress(&self, reports: Vec<RevisionProgress>, newest: Revision) {
        let now = Instant::now();
        self.with(|zone, commits, traces| {
            commits.committed(newest, now);
            for report in reports {
                let replica = zone.replicas.get(self.node_id);
                if let Some(took) =
                    replica.and_then(|replica| replica.progress.reported(report, commits, now))
                {
                    self.zones.metrics.acknowledged(&self.zone, took);
                }
            }
            traces.heard(&self.zone, |revision| zone.replicas.progress(&self.zone, revision));
        });
        self.zones.tick();
    }

    fn with<T>(&self, write: impl FnOnce(&mut Zone, &mut Commits, &mut Traces) -> T) -> Option<T> {
        let mut state = self.zones.state();
        let State { zones, commits, traces, .. } = &mut *state;
        let zone = zones.get_mut(&self.zone)?;
        zone.replicas.link(self.node_id).filter(|link| link.id == self.id)?;
        Some(write(zone, commits, traces))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let now = shared_node::time::now();
        let mut state = self.zones.state();
        if let Some(zone) = state.zones.get_mut(&self.zone) {
            zone.replicas.disconnected(self.node_id, self.id);
            zone.insight.disconnected(self.id, now);
        }
        self.zones.changed(state);
        self.feed.ended(now);
    }
}

impl Zones {
    /// Gives a link that was just connected its actor's address.
    pub fn reachable(&self, connection: (&str, u64, u64), handle: ZoneHandle) {
        let (zone, node_id, link) = connection;
        let mut state = self.state();
        let replica = state.zones.get_mut(zone).and_then(|zone| zone.replicas.get(node_id));
        let current = replica.and_then(|replica| replica.link.as_mut());
        if let Some(current) = current.filter(|current| current.id == link) {
            current.handle = Some(handle);
        }
    }
}
