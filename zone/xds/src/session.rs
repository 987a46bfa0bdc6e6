//! One delta-ADS stream, as plain data: events in, effects out.
//!
//! ```text
//!   offer(snapshot, generation) ──▶ ┌─────────┐ ──▶ Send          a response, at most one per type in flight
//!   answer(request) ──────────────▶ │ Session │ ──▶ Acknowledged  the client has this generation
//!                                   └─────────┘ ──▶ Refused       a resource is held back, and why
//!                                               ──▶ Close         the client asks for too much
//! ```
//!
//! A type's responses wait for each other: what changes meanwhile is merged into the next one. Types wait for each
//! other only where traffic would suffer:
//!
//! * Listeners and routes wait for the answer to clusters that were sent, since Envoy gives it when they are warm.
//!   Nothing else waits for clusters, for Envoy may need assignments and secrets to warm them.
//! * A cluster that was added or changed warms again and wants its assignment after it, even the same one, without
//!   asking. So the assignment is sent again behind it.
//! * Clusters are removed last, when no listener or route is due or unanswered.
//!
//! A refused response does not tell which of its resources is bad, and may have been applied in part. Its resources
//! are sent again one by one, behind all that is not under suspicion; the one that is refused alone is held back
//! until it changes, and the client keeps its last good version.
//!
//! A change costs what it changes: each type keeps the names of which something may have to be said, and looks at no
//! others. An assignment that changes by itself is offered by itself, with [`Session::offer_assignments`].
//!
//! Nothing is sent before the first offer: a client takes an early answer's absences for removals.
mod lane;
mod response;

pub use lane::Counters;
pub use response::Response;

use crate::snapshot::{Encoded, Name, Snapshot, Type, Version};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use lane::{Lane, Removals, State};
use std::sync::Arc;

/// A proxy that asks for more names of one type than this is not one of ours; each costs memory here. Together with the
/// longest name it bounds what one stream can make us keep of a type: 20 MB.
pub const MAX_NAMES: usize = 20_000;
/// The longest name, in bytes. The parts of ours are at most 253, 63, 63, 63 and 15 long.
pub const MAX_NAME_LEN: usize = 1_024;
/// A reason of Envoy's may carry a dump of the whole resource.
const MAX_REASON_LEN: usize = 1_024;
/// How many responses with clusters may go before listeners and routes that are due. A mesh whose clusters never rest
/// must not hold back a permission that was withdrawn.
const MAX_WAIT: u8 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Send(Response),
    /// The client has all of this generation but what is held back. `pushed`: something had to be sent for it.
    Acknowledged {
        generation: u64,
        pushed: bool,
    },
    /// Envoy refused a resource of this generation; without a name, it refused a response that had none.
    Refused {
        generation: u64,
        type_url: &'static str,
        resource: Option<String>,
        reason: String,
    },
    /// End the stream, for this reason.
    Close(String),
}

#[derive(Debug)]
pub struct Session {
    snapshot: Option<Arc<Snapshot>>,
    generation: u64,
    lanes: [Lane; 5],
    nonce: u64,
    acked: u64,
    /// Something was sent since the last acknowledgement.
    pushed: bool,
    /// How many times listeners and routes waited for clusters.
    waited: u8,
    /// The snapshot from which the clusters came that are unanswered.
    warming: Arc<Snapshot>,
    closed: bool,
}

impl Default for Session {
    fn default() -> Session {
        Session::new()
    }
}

impl Session {
    pub fn new() -> Session {
        Session {
            snapshot: None,
            generation: 0,
            lanes: Type::ALL.map(Lane::new),
            nonce: 0,
            acked: 0,
            pushed: false,
            waited: 0,
            warming: Arc::default(),
            closed: false,
        }
    }

    /// The newest state. Generations count up; a snapshot may be the same as before.
    pub fn offer(&mut self, snapshot: Arc<Snapshot>, generation: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        let before = self.snapshot.take();
        match &before {
            None => self.share_names(&snapshot),
            Some(before) if Arc::ptr_eq(before, &snapshot) => {}
            Some(before) => {
                for changed in before.differences(&snapshot) {
                    self.reopen(changed.kind, &changed.name);
                }
            }
        }
        self.snapshot = Some(snapshot);
        self.offered(generation, &mut effects);
        effects
    }

    /// Other endpoints of some clusters, and nothing else, are what the newest state has instead. An assignment that the
    /// client does not use is left aside; so is everything before the first offer.
    pub fn offer_assignments<'a>(
        &mut self,
        assignments: impl IntoIterator<Item = &'a Arc<Encoded>>,
        generation: u64,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(snapshot) = &mut self.snapshot else {
            return effects;
        };
        let snapshot = Arc::make_mut(snapshot);
        let changed: Vec<_> = assignments.into_iter().filter(|one| snapshot.reassign(one)).collect();
        for assignment in changed {
            self.reopen(Type::Endpoint, &assignment.name);
        }
        self.offered(generation, &mut effects);
        effects
    }

    /// The newest state, once there is one.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    fn reopen(&mut self, kind: Type, name: &Name) {
        self.lane_mut(kind).reopen(name);
        if kind == Type::Cluster {
            // A cluster that is there never lacks an assignment.
            self.lane_mut(Type::Endpoint).reopen(name);
        }
    }

    fn offered(&mut self, generation: u64, effects: &mut Vec<Effect>) {
        let Some(snapshot) = &self.snapshot else { return };
        for lane in &mut self.lanes {
            lane.reconsider(&State::of(snapshot));
        }
        self.generation = generation.max(self.generation);
        self.advance(effects);
    }

    /// What the client said before there was a snapshot.
    fn share_names(&mut self, snapshot: &Snapshot) {
        for kind in Type::ALL {
            let shared = |name: &Name| {
                snapshot.named(kind, name).map_or_else(|| name.clone(), |known| known.name.clone())
            };
            self.lane_mut(kind).share_names(shared);
        }
    }

    /// A message from the client: a subscription, an ACK, a NACK, or several of these at once.
    pub fn answer(&mut self, request: &DeltaDiscoveryRequest) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(kind) = Type::of_url(&request.type_url).filter(|_| !self.closed) else {
            return effects;
        };
        if let Err(reason) = self.within_limits(kind, request) {
            self.closed = true;
            return vec![Effect::Close(reason)];
        }
        let landed = match request.response_nonce.as_str() {
            "" => None,
            nonce => self.lane_mut(kind).land(nonce),
        };
        if kind == Type::Cluster && landed.is_some() {
            self.warming = Arc::default();
        }
        let is_answer = !request.response_nonce.is_empty();
        if let Some(flight) = landed {
            for name in flight.sent.keys().filter(|_| kind == Type::Cluster) {
                // Its endpoints may have been those that it had when it was sent.
                self.lane_mut(Type::Endpoint).reopen(name);
            }
            match &request.error_detail {
                None => self.lane_mut(kind).acknowledged(flight),
                Some(error) => {
                    let generation = flight.generation;
                    if let Some(resource) = self.lane_mut(kind).refused(flight) {
                        let resource = resource.map(|name| name.to_string());
                        let reason = cut(&error.message);
                        effects.push(Effect::Refused {
                            generation,
                            type_url: kind.type_url(),
                            resource,
                            reason,
                        });
                    }
                }
            }
        }
        // An answer to a response that this stream never sent is no first question.
        if !is_answer || self.lane(kind).opened {
            let (names, gone) = (&request.resource_names_subscribe, &request.resource_names_unsubscribe);
            let snapshot = self.snapshot.clone();
            let known = |name: &str| {
                let known = snapshot.as_ref().and_then(|snapshot| snapshot.get(kind, name));
                known.map_or_else(|| name.into(), |known| known.name.clone())
            };
            let have = &request.initial_resource_versions;
            let first = self.lane_mut(kind).subscribe(names, gone, have, known);
            if first && kind == Type::Endpoint {
                self.rewarm();
            }
        }
        self.advance(&mut effects);
        effects
    }

    /// The newest generation that the client has, but for what is held back.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    pub fn counters(&self, kind: Type) -> Counters {
        self.lane(kind).counters
    }

    /// The resources that are held back, with the version that was refused.
    pub fn held(&self) -> impl Iterator<Item = (Type, &str, Version)> {
        let of = |kind| self.lane(kind).held.iter().map(move |(name, version)| (kind, &**name, *version));
        Type::ALL.into_iter().flat_map(of)
    }

    fn lane(&self, kind: Type) -> &Lane {
        &self.lanes[kind.index()]
    }

    fn lane_mut(&mut self, kind: Type) -> &mut Lane {
        &mut self.lanes[kind.index()]
    }

    fn within_limits(&self, kind: Type, request: &DeltaDiscoveryRequest) -> Result<(), String> {
        let (names, have) = (&request.resource_names_subscribe, &request.initial_resource_versions);
        let count = self.lane(kind).subscriptions() + names.len();
        if count.max(have.len()) > MAX_NAMES {
            return Err(format!("{kind}: more than {MAX_NAMES} names"));
        }
        let mut all = names.iter().chain(have.keys()).chain(have.values());
        match all.any(|name| name.len() > MAX_NAME_LEN) {
            true => Err(format!("{kind}: a name is longer than {MAX_NAME_LEN} bytes")),
            false => Ok(()),
        }
    }

    /// After a reconnection the assignments are subscribed to behind the clusters, as known ones; but a cluster that
    /// was just sent warms again and needs its own anew.
    fn rewarm(&mut self) {
        let flight = self.lane(Type::Cluster).in_flight.as_ref();
        let warming: Vec<_> = flight.iter().flat_map(|flight| flight.sent.keys().cloned()).collect();
        for name in warming {
            self.lane_mut(Type::Endpoint).renew(&name);
        }
    }

    /// Sends what may be sent now, and tells what the client has.
    fn advance(&mut self, effects: &mut Vec<Effect>) {
        let Some(snapshot) = self.snapshot.clone() else {
            return;
        };
        for lane in &mut self.lanes {
            lane.survey(&State::of(&snapshot));
        }
        for kind in Type::ALL {
            let waits = matches!(kind, Type::Listener | Type::Route) && self.clusters_come_first();
            if !waits {
                self.push(kind, &snapshot, effects);
            }
        }
        // What the listeners and routes above did may have made the removals due.
        self.push(Type::Cluster, &snapshot, effects);
        self.settle(&snapshot, effects);
        for kind in Type::ALL {
            let mut lane = std::mem::replace(self.lane_mut(kind), Lane::new(kind));
            lane.review(&self.state(&snapshot));
            *self.lane_mut(kind) = lane;
        }
    }

    fn state<'a>(&'a self, snapshot: &'a Snapshot) -> State<'a> {
        let flight = self.lane(Type::Cluster).in_flight.as_ref();
        State { snapshot, warming: flight.map(|flight| (&flight.sent, &*self.warming)) }
    }

    fn clusters_come_first(&self) -> bool {
        let flight = self.lane(Type::Cluster).in_flight.as_ref();
        self.waited < MAX_WAIT && flight.is_some_and(|flight| !flight.sent.is_empty())
    }

    fn push(&mut self, kind: Type, snapshot: &Arc<Snapshot>, effects: &mut Vec<Effect>) {
        let removals = self.removals(kind, snapshot);
        let lane = self.lane(kind);
        if !lane.opened || lane.in_flight.is_some() {
            return;
        }
        let Some(plan) = lane.plan(&self.state(snapshot), removals) else {
            return;
        };
        self.nonce += 1;
        let (nonce, generation) = (self.nonce.to_string(), self.generation);
        let all_asked_for = self.is_subscribed(kind, snapshot);
        self.lane_mut(kind).sent(&plan, nonce.clone(), generation, all_asked_for);
        match kind {
            Type::Cluster if !plan.resources.is_empty() => {
                self.warming = snapshot.clone();
                let later = [Type::Listener, Type::Route].map(|kind| self.is_settled(kind, snapshot));
                self.waited = match later == [true, true] {
                    true => 0,
                    false => self.waited.saturating_add(u8::from(!plan.alone)),
                };
                for resource in &plan.resources {
                    self.lane_mut(Type::Endpoint).renew(&resource.name);
                    self.lane_mut(Type::Endpoint).reopen(&resource.name);
                }
            }
            Type::Listener | Type::Route => self.waited = 0,
            _ => {}
        }
        self.pushed |= !plan.resources.is_empty() || !plan.removed.is_empty();
        effects.push(Effect::Send(Response {
            type_url: kind.type_url(),
            nonce,
            system_version: generation.to_string(),
            resources: plan.resources.iter().map(|resource| resource.chunk.clone()).collect(),
            removed: plan.removed.iter().map(|name| name.to_string()).collect(),
        }));
    }

    fn removals(&self, kind: Type, snapshot: &Snapshot) -> Removals {
        if kind != Type::Cluster {
            return Removals::Now;
        }
        let users = [Type::Listener, Type::Route];
        if users.iter().any(|kind| self.lane(*kind).keeps_an_old_version()) {
            return Removals::Withheld;
        }
        let ready =
            self.lane(Type::Listener).opened && users.iter().all(|kind| self.is_settled(*kind, snapshot));
        if ready { Removals::Now } else { Removals::Later }
    }

    fn is_settled(&self, kind: Type, snapshot: &Snapshot) -> bool {
        self.lane(kind).is_settled(&self.state(snapshot), self.removals(kind, snapshot))
    }

    /// Every resource of the type that the snapshot has is subscribed to. A cluster or listener that is held back may
    /// be the reason why another is not.
    fn is_subscribed(&self, kind: Type, snapshot: &Snapshot) -> bool {
        let lane = self.lane(kind);
        match kind {
            Type::Cluster | Type::Listener => lane.opened,
            Type::Endpoint | Type::Route | Type::Secret => {
                let held = |kind| !self.lane(kind).held.is_empty();
                held(Type::Cluster) || held(Type::Listener) || lane.is_subscribed(&State::of(snapshot))
            }
        }
    }

    fn settle(&mut self, snapshot: &Arc<Snapshot>, effects: &mut Vec<Effect>) {
        for kind in Type::ALL {
            if self.is_subscribed(kind, snapshot) && self.is_settled(kind, snapshot) {
                let generation = self.generation;
                self.lane_mut(kind).clean = generation;
            }
        }
        let acked = self.lanes.iter().map(|lane| lane.clean).min().unwrap_or_default();
        if acked > self.acked {
            self.acked = acked;
            effects.push(Effect::Acknowledged { generation: acked, pushed: self.pushed });
            self.pushed = self.lanes.iter().any(|lane| lane.in_flight.is_some());
        }
    }
}

fn cut(reason: &str) -> String {
    let end =
        (0..=MAX_REASON_LEN.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    reason[..end].to_owned()
}
