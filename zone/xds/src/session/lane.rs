//! One type of resources on one stream: what the client asked for, what it holds, and what is on its way.
use crate::snapshot::{Encoded, Name, Snapshot, Type, Version};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// What happened to one type's responses since the stream began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub sent: u64,
    pub acked: u64,
    pub nacked: u64,
}

/// Whether removals may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removals {
    Now,
    /// When those that may still use them have been answered for.
    Later,
    /// Not while a refused resource keeps its last good version, which may use them.
    Withheld,
}

/// The response that waits for its answer.
#[derive(Debug)]
pub(super) struct Flight {
    pub nonce: String,
    pub generation: u64,
    pub sent: BTreeMap<Name, Version>,
    pub removed: Vec<Name>,
    /// All that was due went with it: its ACK means that the client has this generation.
    covers: bool,
}

/// What goes into the next response.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub resources: Vec<Arc<Encoded>>,
    pub removed: Vec<Name>,
    /// A resource under suspicion, by itself.
    pub alone: bool,
    covers: bool,
}

#[derive(Debug)]
pub(super) struct Lane {
    kind: Type,
    pub opened: bool,
    wildcard: bool,
    names: BTreeSet<Name>,
    /// The versions that the client is known to run; `None` for one that is not of ours.
    client: BTreeMap<Name, Option<Version>>,
    /// What it may run instead, in this version, or not at all: a refused response may have been applied in part.
    doubtful: BTreeMap<Name, Option<Version>>,
    /// To be sent although the client has the version.
    renew: BTreeSet<Name>,
    /// To be sent alone: they were together in a refused response, or refused themselves in an earlier version.
    singly: BTreeSet<Name>,
    /// Refused versions, which are not sent again.
    pub held: BTreeMap<Name, Version>,
    /// Names that the client asked for and was told not to exist.
    absent: BTreeSet<Name>,
    /// The names of which something may have to be said: all others are as they should be. Nothing else is ever looked
    /// at, so that a change costs what it changes.
    open: BTreeSet<Name>,
    /// All names are to be looked at.
    all_open: bool,
    /// The type's first request waits for an answer, be it an empty one.
    owes_answer: bool,
    pub in_flight: Option<Flight>,
    /// The newest generation that the client has of this type, but for what is held back.
    pub clean: u64,
    pub counters: Counters,
}

impl Lane {
    pub fn new(kind: Type) -> Lane {
        Lane {
            kind,
            opened: false,
            wildcard: false,
            names: BTreeSet::new(),
            client: BTreeMap::new(),
            doubtful: BTreeMap::new(),
            renew: BTreeSet::new(),
            singly: BTreeSet::new(),
            held: BTreeMap::new(),
            absent: BTreeSet::new(),
            open: BTreeSet::new(),
            all_open: true,
            owes_answer: false,
            in_flight: None,
            clean: 0,
            counters: Counters::default(),
        }
    }

    /// Takes what a request says of names. `have` counts only in the type's first request. Answers whether this was it.
    /// `known` gives the name that everybody shares, for as long as the stream lives.
    pub fn subscribe(
        &mut self,
        names: &[String],
        gone: &[String],
        have: &HashMap<String, String>,
        known: impl Fn(&str) -> Name,
    ) -> bool {
        let first = !self.opened;
        if first {
            self.opened = true;
            self.owes_answer = true;
            self.all_open = true;
            self.wildcard = names.is_empty() && self.may_be_wildcard();
            let asked: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            for (name, version) in have {
                if self.wildcard || asked.contains(name.as_str()) || asked.contains("*") {
                    self.client.insert(known(name), Version::parse(version));
                }
            }
        }
        for name in gone {
            if name == "*" && self.may_be_wildcard() {
                self.wildcard = false;
                self.all_open = true;
                let (names, keep) = (&self.names, |name: &Name, names: &BTreeSet<Name>| names.contains(name));
                self.client.retain(|name, _| keep(name, names));
                self.doubtful.retain(|name, _| keep(name, names));
                self.held.retain(|name, _| keep(name, names));
                continue;
            }
            let name = known(name);
            if let Some(name) = self.names.take(&name) {
                self.open.insert(name);
            }
            if !self.wildcard {
                self.forget(&name);
            }
        }
        for name in names {
            if name == "*" && self.may_be_wildcard() {
                self.wildcard = true;
                self.all_open = true;
                continue;
            }
            let name = known(name);
            self.open.insert(name.clone());
            if !(first && self.client.contains_key(&name)) {
                self.client.remove(&name);
                self.absent.remove(&name);
                self.renew.insert(name.clone());
            }
            self.names.insert(name);
        }
        first
    }

    /// Clusters and listeners are subscribed to as a whole; the others only by name.
    fn may_be_wildcard(&self) -> bool {
        matches!(self.kind, Type::Cluster | Type::Listener)
    }

    fn forget(&mut self, name: &Name) {
        self.open.insert(name.clone());
        self.client.remove(name);
        self.doubtful.remove(name);
        self.renew.remove(name);
        self.singly.remove(name);
        self.held.remove(name);
        self.absent.remove(name);
    }

    pub fn subscribed(&self, name: &Name) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub fn subscriptions(&self) -> usize {
        self.names.len()
    }

    /// The client runs some version of it, as far as is known.
    pub fn may_run(&self, name: &Name) -> bool {
        self.client.contains_key(name) || self.doubtful.contains_key(name)
    }

    /// A refused resource has a last good version that stays in use.
    pub fn keeps_an_old_version(&self) -> bool {
        self.held.keys().any(|name| self.may_run(name))
    }

    /// To be sent again, because what it belongs to was sent.
    pub fn renew(&mut self, name: &Name) {
        if let Some(name) = self.names.get(name) {
            self.renew.insert(name.clone());
            self.open.insert(name.clone());
        }
    }

    /// Something about this name is another matter than before.
    pub fn reopen(&mut self, name: &Name) {
        if !self.all_open {
            self.open.insert(name.clone());
        }
    }

    /// Looks at all names if that is due. Must come before anything is planned.
    pub fn survey(&mut self, state: &State) {
        if std::mem::take(&mut self.all_open) {
            self.open.extend(state.names(self.kind));
            self.open
                .extend(self.names.iter().chain(self.client.keys()).chain(self.doubtful.keys()).cloned());
        }
    }

    /// Puts aside the names of which there is nothing to say.
    pub fn review(&mut self, state: &State) {
        let mut open = std::mem::take(&mut self.open);
        open.retain(|name| {
            self.is_due(state, name).is_some()
                || self.is_gone(state, name)
                || !self.subscribed(name) && state.get(self.kind, name).is_some()
        });
        self.open = open;
    }

    /// Every resource of the type that there is is subscribed to.
    pub fn is_subscribed(&self, state: &State) -> bool {
        self.open.iter().all(|name| self.subscribed(name) || state.get(self.kind, name).is_none())
    }

    /// Takes names that everybody shares in the place of those that were made for this stream alone.
    pub fn share_names(&mut self, shared: impl Fn(&Name) -> Name) {
        self.names = std::mem::take(&mut self.names).iter().map(&shared).collect();
        self.client = std::mem::take(&mut self.client)
            .into_iter()
            .map(|(name, version)| (shared(&name), version))
            .collect();
    }

    /// A new snapshot: what was refused in another version may be tried again, alone.
    pub fn reconsider(&mut self, state: &State) {
        let changed = |name: &Name, version: &Version| {
            state.wanted(self.kind, name).map(|resource| resource.version) != Some(*version)
        };
        let retry: Vec<Name> = self
            .held
            .iter()
            .filter(|(name, version)| changed(name, version))
            .map(|(name, _)| name.clone())
            .collect();
        for name in retry {
            self.held.remove(&name);
            self.open.insert(name.clone());
            self.singly.insert(name);
        }
    }

    /// What is due, if it may be sent now. `None`: nothing is.
    pub fn plan(&self, state: &State, removals: Removals) -> Option<Plan> {
        let due = self.due(state);
        let (alone, together): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|resource| self.singly.contains(&resource.name));
        let gone = match removals {
            Removals::Withheld => Vec::new(),
            Removals::Now | Removals::Later => self.gone(state),
        };
        let send_removals = removals == Removals::Now
            && (self.kind != Type::Cluster || together.is_empty() && alone.is_empty());
        let single = together.is_empty() && !alone.is_empty();
        let rest = if together.is_empty() { alone.len().saturating_sub(1) } else { alone.len() };
        let resources = match together.is_empty() {
            true => alone.into_iter().min_by(|a, b| (*a.name).cmp(&*b.name)).into_iter().collect(),
            false => together,
        };
        let covers = rest == 0 && (send_removals || gone.is_empty());
        let removed = if send_removals { gone } else { Vec::new() };
        if resources.is_empty() && removed.is_empty() && !self.owes_answer {
            return None;
        }
        Some(Plan { resources, removed, alone: single, covers })
    }

    /// True when nothing is owed to the client, sent or not.
    pub fn is_settled(&self, state: &State, removals: Removals) -> bool {
        self.in_flight.is_none()
            && !self.owes_answer
            && self.open.iter().all(|name| {
                self.is_due(state, name).is_none()
                    && (removals == Removals::Withheld || !self.is_gone(state, name))
            })
    }

    fn due(&self, state: &State) -> Vec<Arc<Encoded>> {
        self.open.iter().filter_map(|name| self.is_due(state, name)).collect()
    }

    /// The resource, if it is to be sent.
    fn is_due(&self, state: &State, name: &Name) -> Option<Arc<Encoded>> {
        let resource = match self.wildcard {
            true => state.get(self.kind, name)?.clone(),
            false => self.names.get(name).and_then(|name| state.wanted(self.kind, name))?,
        };
        let current = self.client.get(name) == Some(&Some(resource.version));
        let due = self.held.get(name) != Some(&resource.version)
            && (!current || self.doubtful.contains_key(name) || self.renew.contains(name));
        due.then_some(resource)
    }

    fn gone(&self, state: &State) -> Vec<Name> {
        self.open.iter().filter(|name| self.is_gone(state, name)).cloned().collect()
    }

    /// The client is to be told that it does not exist.
    ///
    /// Envoy ignores the removal of assignments, routes and secrets that are in use; they go with the resource that
    /// uses them. Only a first question for one that is not there is answered so.
    fn is_gone(&self, state: &State, name: &Name) -> bool {
        match self.wildcard {
            true => self.may_run(name) && state.get(self.kind, name).is_none(),
            false => {
                self.names.contains(name)
                    && !self.may_run(name)
                    && !self.absent.contains(name)
                    && state.wanted(self.kind, name).is_none()
            }
        }
    }

    /// `all_asked_for`: the client is subscribed to all that there is of this type.
    pub fn sent(&mut self, plan: &Plan, nonce: String, generation: u64, all_asked_for: bool) {
        self.owes_answer = false;
        self.counters.sent += 1;
        for Encoded { name, .. } in plan.resources.iter().map(|resource| &**resource) {
            self.renew.remove(name);
            self.absent.remove(name);
        }
        for name in &plan.removed {
            self.renew.remove(name);
            if !self.wildcard {
                self.absent.insert(name.clone());
            }
        }
        let sent = plan.resources.iter().map(|resource| (resource.name.clone(), resource.version)).collect();
        self.in_flight = Some(Flight {
            nonce,
            generation,
            sent,
            removed: plan.removed.clone(),
            covers: plan.covers && all_asked_for,
        });
    }

    /// Takes the outstanding response out if the nonce is its own. Any other nonce is stale.
    pub fn land(&mut self, nonce: &str) -> Option<Flight> {
        self.in_flight.take_if(|flight| flight.nonce == nonce)
    }

    pub fn acknowledged(&mut self, flight: Flight) {
        self.counters.acked += 1;
        for name in &flight.removed {
            self.client.remove(name);
            self.doubtful.remove(name);
            self.singly.remove(name);
            self.open.insert(name.clone());
        }
        for (name, version) in flight.sent {
            self.open.insert(name.clone());
            self.doubtful.remove(&name);
            self.singly.remove(&name);
            if self.subscribed(&name) {
                self.client.insert(name, Some(version));
            }
        }
        if flight.covers {
            self.clean = self.clean.max(flight.generation);
        }
    }

    /// A NACK. Answers with the resource that is now known to be bad: `Some(None)` when it was not a resource.
    pub fn refused(&mut self, flight: Flight) -> Option<Option<Name>> {
        self.counters.nacked += 1;
        if flight.sent.is_empty() {
            // Removals alone are never refused by Envoy; should they be, asking again would not end.
            for name in &flight.removed {
                self.forget(name);
            }
            return Some(None);
        }
        // What was to be removed may be gone.
        for name in flight.removed.iter().filter(|name| self.client.contains_key(*name)) {
            self.doubtful.entry(name.clone()).or_insert(None);
            self.open.insert(name.clone());
        }
        let alone = flight.sent.len() == 1;
        let mut bad = None;
        for (name, version) in
            flight.sent.into_iter().filter(|(name, _)| self.wildcard || self.names.contains(name))
        {
            self.open.insert(name.clone());
            if alone {
                self.singly.remove(&name);
                if self.doubtful.get(&name) == Some(&Some(version)) {
                    self.doubtful.remove(&name);
                }
                self.held.insert(name.clone(), version);
                bad = Some(Some(name));
            } else {
                self.singly.insert(name.clone());
                self.doubtful.entry(name).or_insert(Some(version));
            }
        }
        bad
    }
}

/// What the client should have.
#[derive(Clone, Copy)]
pub(super) struct State<'a> {
    pub snapshot: &'a Snapshot,
    /// Clusters that are on their way, and the snapshot from which they came. They warm until they get endpoints, even
    /// those that have gone from the snapshot meanwhile; these get the endpoints that they had.
    pub warming: Option<(&'a BTreeMap<Name, Version>, &'a Snapshot)>,
}

impl<'a> State<'a> {
    pub fn of(snapshot: &'a Snapshot) -> Self {
        State { snapshot, warming: None }
    }

    pub fn get(&self, kind: Type, name: &Name) -> Option<&'a Arc<Encoded>> {
        self.snapshot.named(kind, name)
    }

    fn names(&self, kind: Type) -> impl Iterator<Item = Name> {
        self.snapshot.names(kind).cloned()
    }

    /// The resource of this name as the client should run it. A cluster that is there never loses its assignment: Envoy
    /// would ignore that, and keep sending to the old endpoints; it gets an empty one.
    fn wanted(&self, kind: Type, name: &Name) -> Option<Arc<Encoded>> {
        let of = |snapshot: &Snapshot| {
            let found = snapshot.named(kind, name).cloned();
            let used = || kind == Type::Endpoint && snapshot.named(Type::Cluster, name).is_some();
            found.or_else(|| used().then(|| nobody(name)))
        };
        let leaving = self.warming.filter(|(sent, _)| {
            kind == Type::Endpoint
                && sent.contains_key(name)
                && self.snapshot.named(Type::Cluster, name).is_none()
        });
        leaving.and_then(|(_, before)| of(before)).or_else(|| of(self.snapshot))
    }
}

fn nobody(cluster: &Name) -> Arc<Encoded> {
    let assignment = envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment {
        cluster_name: cluster.to_string(),
        ..Default::default()
    };
    Arc::new(Encoded::of(&assignment))
}
