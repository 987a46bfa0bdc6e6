//! What an Envoy asks for, keeps and answers on one stream, as plain data: responses in, requests out.
//!
//! ```text
//! cold start:  clusters -> their assignments and secrets, all of them -> listeners -> routes, secrets
//! reconnect:   everything at once, with the versions that are held
//! ```
//!
//! As read from Envoy 1.40: listeners are first asked for when every cluster is warm, that is when its assignment has
//! come after it, or at the latest after 15 s. Once running, the answer to clusters is withheld while one of them warms;
//! a cluster that changes warms again without asking. Assignments, routes and secrets that are removed while in use are
//! acknowledged and kept. A refusal keeps what was there.
use crate::wire::references::{self, References};
use crate::wire::request::{Name, Request};
use crate::wire::response::{Item, Response};
use crate::wire::{Kind, Malformed, Protocol};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// Envoy's `initial_fetch_timeout` when none is set.
const WARMING_MAX: Duration = Duration::from_secs(15);
/// How long a listener that has gone still holds its routes, as the agent starts Envoy (`--drain-time-s`).
const DRAIN: Duration = Duration::from_secs(10);
const REFUSAL: &str = "refused by the simulator";

/// A resource as it is held: enough to compare and to ask again, and what it refers to.
#[derive(Clone, Debug)]
pub struct Held {
    pub version: Box<str>,
    /// Of the bytes.
    pub hash: u64,
    pub len: u32,
    pub endpoints: u32,
    names: Box<[Name]>,
    secrets: Box<[Name]>,
    /// The whole, when bodies are kept.
    pub body: Option<Bytes>,
}

#[derive(Debug, Default)]
struct Lane {
    held: BTreeMap<Name, Held>,
    /// The names that are subscribed to; empty for the types that are asked for as a whole.
    wanted: BTreeSet<Name>,
    /// State of the world: what the last accepted response said.
    version: String,
    nonce: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Listeners have not been asked for yet.
    ClustersFirst,
    Running,
}

/// What a response led to.
#[derive(Debug, Default, PartialEq)]
pub struct Taken {
    pub requests: Vec<Request>,
    /// Resources that are new, different or gone.
    pub changed: usize,
    pub refused: bool,
    /// The moves of the endpoint that moves, when an assignment told of it and moves are counted.
    pub moves: Option<u32>,
}

/// One Envoy's side of ADS.
#[derive(Debug)]
pub struct Envoy {
    protocol: Protocol,
    lanes: [Lane; 5],
    stage: Stage,
    /// Listeners have been answered.
    listening: bool,
    /// Assignments and secrets that clusters wait for.
    warming: BTreeSet<Name>,
    since: Option<Instant>,
    withheld: Vec<Request>,
    draining: Vec<Instant>,
    pub refusing: bool,
    keep_bodies: bool,
    /// How often warming ran into its timeout.
    pub stalls: u64,
    names: Arc<Names>,
}

/// One copy of each name for the whole fleet.
#[derive(Debug, Default)]
pub struct Names(Mutex<BTreeSet<Name>>);

impl Names {
    fn get(&self, name: &str) -> Name {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get(name) {
            Some(name) => name.clone(),
            None => {
                let name: Name = name.into();
                names.insert(name.clone());
                name
            }
        }
    }
}

impl Envoy {
    pub fn new(protocol: Protocol, names: Arc<Names>, keep_bodies: bool) -> Envoy {
        Envoy {
            protocol,
            lanes: Default::default(),
            stage: Stage::ClustersFirst,
            listening: false,
            warming: BTreeSet::new(),
            since: None,
            withheld: Vec::new(),
            draining: Vec::new(),
            refusing: false,
            keep_bodies,
            stalls: 0,
            names,
        }
    }

    /// The first requests of a stream; the node goes with the first of them.
    pub fn open(&mut self) -> Vec<Request> {
        for lane in &mut self.lanes {
            lane.nonce.clear();
        }
        self.withheld.clear();
        self.warming.clear();
        self.since = None;
        let mut requests = Vec::new();
        for kind in Kind::ALL {
            let lane = self.lane(kind);
            let due = match kind {
                Kind::Cluster => true,
                Kind::Listener => self.stage == Stage::Running,
                Kind::Endpoint | Kind::Route | Kind::Secret => !lane.wanted.is_empty(),
            };
            if due {
                let names = lane.wanted.iter().cloned().collect();
                let have =
                    lane.held.iter().map(|(name, held)| (name.clone(), held.version.clone())).collect();
                requests.push(Request { have, ..self.subscription(kind, names) });
            }
        }
        requests
    }

    /// Takes a response. `count_moves`: look for the endpoint that moves.
    pub fn take(
        &mut self,
        response: &Response<'_>,
        now: Instant,
        count_moves: bool,
    ) -> Result<Taken, Malformed> {
        let Some(kind) = Kind::of_url(response.type_url) else {
            return Err(Malformed("a response of a type that was not asked for"));
        };
        let lane = self.lane_mut(kind);
        lane.nonce.clear();
        lane.nonce.push_str(response.nonce);
        let mut taken = Taken::default();
        if self.refusing && !(response.resources.is_empty() && response.removed.is_empty()) {
            taken.refused = true;
            let mut answer = self.answer(kind, response);
            answer.version = self.lane(kind).version.clone();
            answer.error = Some(REFUSAL.to_owned());
            taken.requests.push(answer);
            return Ok(taken);
        }
        let lane = self.lane_mut(kind);
        lane.version.clear();
        lane.version.push_str(response.version);
        if count_moves && kind == Kind::Endpoint {
            taken.moves =
                response.resources.iter().filter_map(|item| crate::documents::moves_in(item.body)).max();
        }
        match kind {
            Kind::Cluster => self.clusters(response, now, &mut taken)?,
            Kind::Listener => self.listeners(response, now, &mut taken)?,
            Kind::Endpoint | Kind::Secret => {
                for item in &response.resources {
                    self.put(kind, item, &mut taken)?;
                    self.warming.remove(item.name);
                }
                // What does not exist does not come: its cluster need not wait any more.
                for name in &response.removed {
                    self.warming.remove(*name);
                }
                self.warmed(&mut taken.requests);
                taken.requests.push(self.answer(kind, response));
            }
            Kind::Route => {
                for item in &response.resources {
                    self.put(kind, item, &mut taken)?;
                }
                taken.requests.push(self.answer(kind, response));
            }
        }
        Ok(taken)
    }

    /// When [`Envoy::tick`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        let warming = self.since.map(|since| since + WARMING_MAX);
        warming.into_iter().chain(self.draining.iter().copied()).min()
    }

    /// Ends what has waited long enough.
    pub fn tick(&mut self, now: Instant) -> Vec<Request> {
        let mut requests = Vec::new();
        if self.since.is_some_and(|since| since + WARMING_MAX <= now) {
            self.stalls += 1;
            self.warming.clear();
            self.warmed(&mut requests);
        }
        if self.draining.iter().any(|end| *end <= now) {
            self.draining.retain(|end| *end > now);
            let unused = self.unused(Kind::Route);
            self.drop_names(Kind::Route, unused, &mut requests);
        }
        requests
    }

    /// Everything that was asked for has come, and traffic would flow.
    pub fn is_live(&self) -> bool {
        let whole = |kind: Kind| {
            let lane = self.lane(kind);
            lane.wanted.iter().all(|name| lane.held.contains_key(name))
        };
        self.listening
            && self.warming.is_empty()
            && whole(Kind::Route)
            && whole(Kind::Secret)
            && whole(Kind::Endpoint)
    }

    /// What it still waits for, in words; nothing when it is live.
    pub fn awaits(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for kind in [Kind::Endpoint, Kind::Route, Kind::Secret] {
            let lane = self.lane(kind);
            let missing = lane.wanted.iter().filter(|name| !lane.held.contains_key(*name));
            all.extend(missing.map(|name| format!("{} {name}", kind.name())));
        }
        all.extend(self.warming.iter().map(|name| format!("{name} to warm its cluster")));
        if !self.listening {
            all.push("listeners".to_owned());
        }
        all
    }

    pub fn held(&self, kind: Kind) -> &BTreeMap<Name, Held> {
        &self.lane(kind).held
    }

    /// How many endpoints all assignments have together.
    pub fn endpoints(&self) -> usize {
        self.held(Kind::Endpoint).values().map(|held| held.endpoints as usize).sum()
    }

    fn clusters(
        &mut self,
        response: &Response<'_>,
        now: Instant,
        taken: &mut Taken,
    ) -> Result<(), Malformed> {
        let (mut assignments, mut secrets) = (Vec::new(), Vec::new());
        for item in &response.resources {
            let Some(referred) = self.put(Kind::Cluster, item, taken)? else { continue };
            for name in referred.names {
                self.warming.insert(name.clone());
                self.want(Kind::Endpoint, name, &mut assignments);
            }
            for name in referred.secrets {
                if !self.held(Kind::Secret).contains_key(&name) {
                    self.warming.insert(name.clone());
                }
                self.want(Kind::Secret, name, &mut secrets);
            }
        }
        self.remove_absent(Kind::Cluster, response, taken);
        self.add_names(Kind::Secret, secrets, &mut taken.requests);
        self.add_names(Kind::Endpoint, assignments, &mut taken.requests);
        if taken.changed > 0 {
            let unused = self.unused(Kind::Endpoint);
            self.warming.retain(|name| !unused.contains(name));
            self.drop_names(Kind::Endpoint, unused, &mut taken.requests);
        }
        let answer = self.answer(Kind::Cluster, response);
        match self.stage == Stage::Running && !self.warming.is_empty() {
            true => self.withheld.push(answer),
            false => taken.requests.push(answer),
        }
        match self.warming.is_empty() {
            true => self.warmed(&mut taken.requests),
            false => drop(self.since.get_or_insert(now)),
        }
        if taken.changed > 0 {
            // One request for each, as Envoy does it.
            for name in self.unused(Kind::Secret) {
                self.drop_names(Kind::Secret, vec![name], &mut taken.requests);
            }
        }
        Ok(())
    }

    fn listeners(
        &mut self,
        response: &Response<'_>,
        now: Instant,
        taken: &mut Taken,
    ) -> Result<(), Malformed> {
        self.listening = true;
        let (mut routes, mut secrets) = (Vec::new(), Vec::new());
        for item in &response.resources {
            let Some(referred) = self.put(Kind::Listener, item, taken)? else { continue };
            referred.names.into_iter().for_each(|name| self.want(Kind::Route, name, &mut routes));
            referred.secrets.into_iter().for_each(|name| self.want(Kind::Secret, name, &mut secrets));
        }
        self.remove_absent(Kind::Listener, response, taken);
        self.add_names(Kind::Route, routes, &mut taken.requests);
        self.add_names(Kind::Secret, secrets, &mut taken.requests);
        if taken.changed > 0 && !self.unused(Kind::Route).is_empty() {
            self.draining.push(now + DRAIN);
        }
        taken.requests.push(self.answer(Kind::Listener, response));
        Ok(())
    }

    /// When no cluster waits any more: what was withheld goes, and listeners are asked for if they were not.
    fn warmed(&mut self, requests: &mut Vec<Request>) {
        if !self.warming.is_empty() {
            return;
        }
        self.since = None;
        requests.append(&mut self.withheld);
        if self.stage == Stage::ClustersFirst {
            self.stage = Stage::Running;
            requests.push(self.subscription(Kind::Listener, Vec::new()));
        }
    }

    /// Keeps a resource; what it refers to, if it is new or another than before.
    fn put(&mut self, kind: Kind, item: &Item<'_>, taken: &mut Taken) -> Result<Option<Referred>, Malformed> {
        let hash = xxh3_64(item.body);
        if let Some(held) = self.lane_mut(kind).held.get_mut(item.name)
            && held.hash == hash
        {
            if *held.version != *item.version {
                held.version = item.version.into();
            }
            return Ok(None);
        }
        let References { names, secrets, endpoints } = references::read(kind, item.body)?;
        let shared =
            |all: Vec<&str>| -> Vec<Name> { all.into_iter().map(|name| self.names.get(name)).collect() };
        let referred = Referred { names: shared(names), secrets: shared(secrets) };
        let held = Held {
            version: item.version.into(),
            hash,
            len: u32::try_from(item.body.len()).unwrap_or(u32::MAX),
            endpoints,
            names: referred.names.as_slice().into(),
            secrets: referred.secrets.as_slice().into(),
            body: self.keep_bodies.then(|| Bytes::copy_from_slice(item.body)),
        };
        taken.changed += 1;
        let name = self.names.get(item.name);
        self.lane_mut(kind).held.insert(name, held);
        Ok(Some(referred))
    }

    /// Removes what a response says is gone: by name, or in state of the world by not being there.
    fn remove_absent(&mut self, kind: Kind, response: &Response<'_>, taken: &mut Taken) {
        let held = &mut self.lanes[kind.index()].held;
        let before = held.len();
        match self.protocol {
            Protocol::Delta => response.removed.iter().for_each(|name| drop(held.remove(*name))),
            Protocol::Sotw => {
                let there: BTreeSet<&str> = response.resources.iter().map(|item| item.name).collect();
                held.retain(|name, _| there.contains(&**name));
            }
        }
        taken.changed += before - held.len();
    }

    /// The names that are subscribed to and that nothing refers to any more.
    fn unused(&self, kind: Kind) -> Vec<Name> {
        let (clusters, listeners) = (self.held(Kind::Cluster).values(), self.held(Kind::Listener).values());
        let used: BTreeSet<&Name> = match kind {
            Kind::Endpoint => clusters.flat_map(|held| &held.names).collect(),
            Kind::Route => listeners.flat_map(|held| &held.names).collect(),
            Kind::Secret => clusters.chain(listeners).flat_map(|held| &held.secrets).collect(),
            Kind::Cluster | Kind::Listener => return Vec::new(),
        };
        self.lane(kind).wanted.iter().filter(|name| !used.contains(name)).cloned().collect()
    }

    fn want(&mut self, kind: Kind, name: Name, fresh: &mut Vec<Name>) {
        if self.lane_mut(kind).wanted.insert(name.clone()) {
            fresh.push(name);
        }
    }

    fn add_names(&self, kind: Kind, names: Vec<Name>, requests: &mut Vec<Request>) {
        if !names.is_empty() {
            requests.push(self.subscription(kind, names));
        }
    }

    fn drop_names(&mut self, kind: Kind, names: Vec<Name>, requests: &mut Vec<Request>) {
        if names.is_empty() {
            return;
        }
        let lane = self.lane_mut(kind);
        for name in &names {
            lane.wanted.remove(name);
            lane.held.remove(name);
        }
        requests.push(Request { unsubscribe: names, ..self.subscription(kind, Vec::new()) });
    }

    /// A request that changes what is asked for.
    fn subscription(&self, kind: Kind, subscribe: Vec<Name>) -> Request {
        let sotw = self.protocol == Protocol::Sotw;
        let lane = self.lane(kind);
        Request {
            kind: Some(kind),
            subscribe,
            version: lane.version.clone(),
            nonce: if sotw { lane.nonce.clone() } else { String::new() },
            names: if sotw { lane.wanted.iter().cloned().collect() } else { Vec::new() },
            ..Request::default()
        }
    }

    fn answer(&self, kind: Kind, response: &Response<'_>) -> Request {
        let names = match self.protocol {
            Protocol::Delta => Vec::new(),
            Protocol::Sotw => self.lane(kind).wanted.iter().cloned().collect(),
        };
        let (version, nonce) = (response.version.to_owned(), response.nonce.to_owned());
        Request { kind: Some(kind), version, nonce, names, ..Request::default() }
    }

    fn lane(&self, kind: Kind) -> &Lane {
        &self.lanes[kind.index()]
    }

    fn lane_mut(&mut self, kind: Kind) -> &mut Lane {
        &mut self.lanes[kind.index()]
    }
}

/// The names that a resource refers to.
struct Referred {
    names: Vec<Name>,
    secrets: Vec<Name>,
}

#[cfg(test)]
mod tests;
