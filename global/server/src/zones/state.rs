//! The shared state: what every zone has said. Written by the links, read by the API; no lock is held across a wait.
use super::{
    handle::ZoneHandle,
    insight::{self, Insight},
    inventory::{Inventory, Proxy, Update},
    progress::{Commits, Progress},
    session::Question,
    trace::Traces,
};
use crate::metrics::Metrics;
use proto::link::{CallReply, Hello, RevisionProgress};
use serde_json::Value;
use shared_api::ZoneStatus;
use shared_model::{Resource, Revision, Timestamp};
use shared_node::telemetry::Cause;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Proxies of one message that are named in the log when they are left out.
const NAMED: usize = 5;

/// How long a link that is asked to end may take.
const END_MAX: Duration = Duration::from_secs(2);

pub struct Zones {
    /// Names this process in what is shown.
    instance: String,
    state: Mutex<State>,
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

#[derive(Default)]
struct Zone {
    link: Option<Link>,
    /// Of the process that was connected last.
    instance: String,
    progress: Progress,
    inventory: Inventory,
    insight: Insight,
}

struct Link {
    id: u64,
    node_id: u64,
    /// Known a moment after the link.
    handle: Option<ZoneHandle>,
}

/// A proxy of some zone.
#[derive(Clone, Debug)]
pub struct Found {
    pub zone: String,
    /// Under the name at global.
    pub dataplane: Arc<Resource>,
    /// What its zone calls it.
    pub name: String,
    pub insight: Option<Value>,
}

impl Zones {
    /// `newest` is the revision that was there when the process started.
    pub fn new(instance: &str, newest: Revision, metrics: Metrics) -> Arc<Zones> {
        let commits = Commits::after(newest);
        let (zones, traces) = (BTreeMap::new(), Traces::default());
        let state = State { zones, commits, traces, next_link: 1, next_ticket: 1 };
        let (state, ticks) = (Mutex::new(state), Mutex::new(Some(watch::Sender::new(0))));
        Arc::new(Zones { instance: instance.to_owned(), state, ticks, metrics })
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
        for (name, zone) in zones.iter().filter(|(_, zone)| zone.link.is_some()) {
            traces.begin(revision, name, cause);
            traces.heard(name, &zone.progress);
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
        let restarted = zone.instance != hello.instance;
        zone.instance.clone_from(&hello.instance);
        zone.link = Some(Link { id, node_id: hello.node_id, handle: None });
        zone.progress.linked(Revision(hello.revision), restarted);
        zone.inventory.restart();
        zone.insight.connected(id, &hello.instance, &hello.version, now);
        self.changed(state);
        Connection { zones: self.clone(), zone: hello.zone.clone(), id }
    }

    /// Ends the present link of a zone, if there is one, and waits until it has gone. Answers the replica that had it.
    pub async fn replace(&self, zone: &str, reason: &str) -> Option<u64> {
        let mut ticks = self.ticks();
        let (id, node_id) = {
            let state = self.state();
            let link = state.zones.get(zone)?.link.as_ref()?;
            if let Some(handle) = &link.handle {
                handle.stop(reason);
            }
            (link.id, link.node_id)
        };
        let gone = async {
            while self.is_current(zone, id) {
                if ticks.changed().await.is_err() {
                    return;
                }
            }
        };
        // A link that does not end in time is overtaken: the newer one counts.
        let _ = tokio::time::timeout(END_MAX, gone).await;
        Some(node_id)
    }

    pub fn stop_all(&self, reason: &str) {
        let state = self.state();
        let handles = state.zones.values().filter_map(|zone| zone.link.as_ref()?.handle.as_ref());
        for handle in handles {
            handle.stop(reason);
        }
    }

    pub fn is_online(&self, zone: &str) -> bool {
        self.state().zones.get(zone).is_some_and(|zone| zone.link.is_some())
    }

    /// Drops what is known of a zone that was deleted.
    pub fn forget(&self, zone: &str) {
        let mut state = self.state();
        if state.zones.get(zone).is_some_and(|zone| zone.link.is_none()) {
            state.zones.remove(zone);
        }
        self.changed(state);
    }

    pub fn insight(&self, zone: &str) -> Option<Value> {
        self.state().zones.get(zone).map(|zone| zone.insight.show(&self.instance))
    }

    /// What one zone says of a revision; a zone that has never been here says nothing.
    pub fn progress(&self, zone: &str, revision: Revision) -> ZoneStatus {
        match self.state().zones.get(zone) {
            Some(known) => known.progress.of(zone, known.link.is_some(), revision),
            None => ZoneStatus { zone: zone.to_owned(), ..ZoneStatus::default() },
        }
    }

    /// The proxies of all zones, of one mesh or of all, sorted by mesh and name.
    pub fn dataplanes(&self, mesh: Option<&str>) -> Vec<Arc<Resource>> {
        let state = self.state();
        let mut found: BTreeMap<(&str, &str), Vec<&Proxy>> = BTreeMap::new();
        for zone in state.zones.values() {
            let proxies = zone.inventory.iter().filter(|((of, _), _)| mesh.is_none_or(|mesh| mesh == of));
            for ((mesh, name), proxy) in proxies {
                found.entry((mesh, name)).or_default().push(proxy);
            }
        }
        let mut shown: Vec<Arc<Resource>> = Vec::with_capacity(found.len());
        for proxies in found.into_values() {
            match proxies.as_slice() {
                [only] => shown.push(only.dataplane.clone()),
                several => shown.extend(several.iter().map(|proxy| renamed(proxy))),
            }
        }
        shown.sort_by(|a, b| (&a.mesh, &a.name).cmp(&(&b.mesh, &b.name)));
        shown
    }

    /// Finds a proxy by the name that a list shows: its zone's own, or the hashed one where two zones use the same.
    pub fn dataplane(&self, mesh: &str, name: &str) -> Option<Found> {
        let state = self.state();
        let mut plain = state
            .zones
            .iter()
            .filter_map(|(zone, known)| Some((zone, known, known.inventory.get(mesh, name)?)));
        let (zone, known, proxy, hashed) = match (plain.next(), plain.next()) {
            (Some((zone, known, proxy)), None) => (zone, known, proxy, false),
            (Some(_), Some(_)) => return None,
            (None, _) => {
                let mut hashed = state.zones.iter();
                hashed.find_map(|(zone, known)| {
                    Some((zone, known, known.inventory.by_hash(mesh, name)?, true))
                })?
            }
        };
        let offline = known.link.is_none().then(|| known.insight.ended()).flatten();
        Some(Found {
            zone: zone.clone(),
            dataplane: if hashed { renamed(proxy) } else { proxy.dataplane.clone() },
            name: proxy.dataplane.name.clone(),
            insight: proxy.insight.as_deref().map(|insight| as_of(insight, offline)),
        })
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
        let (handle, ticket) = {
            let mut state = self.state();
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            let link = state.zones.get(zone).and_then(|zone| zone.link.as_ref());
            (link.and_then(|link| link.handle.clone()), ticket)
        };
        let handle = handle.ok_or_else(|| format!("zone {zone} is offline"))?;
        let [mesh, name, what, query] = [mesh, name, what, query].map(str::to_owned);
        let answer = handle.call(Question { ticket, mesh, name, what, query }).await;
        answer.map_err(|reason| format!("zone {zone}: {reason}"))
    }

    fn is_current(&self, zone: &str, link: u64) -> bool {
        let state = self.state();
        state.zones.get(zone).and_then(|zone| zone.link.as_ref()).is_some_and(|current| current.id == link)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells readers that links or proxies have changed.
    fn changed(&self, state: MutexGuard<'_, State>) {
        self.metrics.zones_connected(state.zones.values().filter(|zone| zone.link.is_some()).count());
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
    id: u64,
}

impl Connection {
    pub fn zone(&self) -> &str {
        &self.zone
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn beat(&self, revision: Revision) {
        let now = shared_node::time::now();
        let changed = self.with(|zone, _, traces| {
            zone.insight.heard(now);
            let changed = zone.progress.beat(revision);
            traces.heard(&self.zone, &zone.progress);
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
                if let Some(took) = zone.progress.reported(report, commits, now) {
                    self.zones.metrics.acknowledged(&self.zone, took);
                }
            }
            traces.heard(&self.zone, &zone.progress);
        });
        self.zones.tick();
    }

    /// The reason of an error closes the link.
    pub fn inventory(&self, update: Update) -> Result<(), String> {
        let taken = self.with(|zone, _, _| zone.inventory.take(update)).unwrap_or(Ok(Vec::new()))?;
        for problem in taken.iter().take(NAMED) {
            tracing::warn!(zone = self.zone, problem, "a proxy of the inventory is left out");
        }
        if let Some(more) = taken.len().checked_sub(NAMED).filter(|more| *more > 0) {
            tracing::warn!(zone = self.zone, more, "more proxies of the inventory are left out");
        }
        Ok(())
    }

    fn with<T>(&self, write: impl FnOnce(&mut Zone, &mut Commits, &mut Traces) -> T) -> Option<T> {
        let mut state = self.zones.state();
        let State { zones, commits, traces, .. } = &mut *state;
        let zone = zones.get_mut(&self.zone)?;
        zone.link.as_ref().filter(|link| link.id == self.id)?;
        Some(write(zone, commits, traces))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let now = shared_node::time::now();
        let mut state = self.zones.state();
        let zone = state.zones.get_mut(&self.zone);
        if let Some(zone) = zone.filter(|zone| zone.link.as_ref().is_some_and(|link| link.id == self.id)) {
            zone.link = None;
            zone.insight.disconnected(now);
        }
        self.zones.changed(state);
    }
}

impl Zones {
    /// Gives a link that was just connected its actor's address.
    pub fn reachable(&self, zone: &str, link: u64, handle: ZoneHandle) {
        let mut state = self.state();
        let current = state.zones.get_mut(zone).and_then(|zone| zone.link.as_mut());
        if let Some(current) = current.filter(|current| current.id == link) {
            current.handle = Some(handle);
        }
    }
}

/// A proxy under its hashed name.
fn renamed(proxy: &Proxy) -> Arc<Resource> {
    let mut dataplane = Resource::clone(&proxy.dataplane);
    dataplane.name.clone_from(&proxy.hashed);
    Arc::new(dataplane)
}

/// An insight as it must be read now: nothing is online in a zone that is not.
fn as_of(insight: &Value, offline: Option<Timestamp>) -> Value {
    let mut insight = insight.clone();
    if let (Some(ended), Some(subscriptions)) = (offline, insight["subscriptions"].as_array_mut()) {
        for open in subscriptions.iter_mut().filter_map(Value::as_object_mut) {
            open.entry("disconnectTime").or_insert_with(|| insight::time(ended).into());
        }
    }
    insight
}
