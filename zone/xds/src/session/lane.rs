//! One type of resources on one stream: what the client asked for, what it holds, and what is on its way.
use crate::snapshot::{Encoded, Snapshot, Type};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

type Name = Arc<str>;
type Version = Arc<str>;

/// The version of what may have been removed.
const GONE: &str = "";

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
    pub resources: Vec<(Name, Version, Bytes)>,
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
    /// The versions that the client is known to run.
    client: BTreeMap<Name, Version>,
    /// What it may run instead, in this version: a refused response may have been applied in part.
    doubtful: BTreeMap<Name, Version>,
    /// To be sent although the client has the version.
    renew: BTreeSet<Name>,
    /// To be sent alone: they were together in a refused response, or refused themselves in an earlier version.
    singly: BTreeSet<Name>,
    /// Refused versions, which are not sent again.
    pub held: BTreeMap<Name, Version>,
    /// Names that the client asked for and was told not to exist.
    absent: BTreeSet<Name>,
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
            owes_answer: false,
            in_flight: None,
            clean: 0,
            counters: Counters::default(),
        }
    }

    /// Takes what a request says of names. `have` counts only in the type's first request. Answers whether this was it.
    pub fn subscribe(&mut self, names: &[String], gone: &[String], have: &HashMap<String, String>) -> bool {
        let first = !self.opened;
        if first {
            self.opened = true;
            self.owes_answer = true;
            self.wildcard = names.is_empty() && self.may_be_wildcard();
            let asked: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            for (name, version) in have {
                if self.wildcard || asked.contains(name.as_str()) || asked.contains("*") {
                    self.client.insert(name.as_str().into(), version.as_str().into());
                }
            }
        }
        for name in gone {
            if name == "*" && self.may_be_wildcard() {
                self.wildcard = false;
                let (names, keep) = (&self.names, |name: &Name, names: &BTreeSet<Name>| names.contains(name));
                self.client.retain(|name, _| keep(name, names));
                self.doubtful.retain(|name, _| keep(name, names));
                self.held.retain(|name, _| keep(name, names));
                continue;
            }
            self.names.remove(name.as_str());
            if !self.wildcard {
                self.forget(name);
            }
        }
        for name in names {
            if name == "*" && self.may_be_wildcard() {
                self.wildcard = true;
                continue;
            }
            let name: Name = name.as_str().into();
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

    fn forget(&mut self, name: &str) {
        self.client.remove(name);
        self.doubtful.remove(name);
        self.renew.remove(name);
        self.singly.remove(name);
        self.held.remove(name);
        self.absent.remove(name);
    }

    pub fn subscribed(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub fn subscriptions(&self) -> usize {
        self.names.len()
    }

    /// The client runs some version of it, as far as is known.
    pub fn may_run(&self, name: &str) -> bool {
        self.client.contains_key(name) || self.doubtful.contains_key(name)
    }

    /// A refused resource has a last good version that stays in use.
    pub fn keeps_an_old_version(&self) -> bool {
        self.held.keys().any(|name| self.may_run(name))
    }

    /// To be sent again, because what it belongs to was sent.
    pub fn renew(&mut self, name: &Name) {
        if self.names.contains(name) {
            self.renew.insert(name.clone());
        }
    }

    /// A new snapshot: what was refused in another version may be tried again, alone.
    pub fn reconsider(&mut self, snapshot: &Snapshot) {
        let changed = |name: &Name, version: &Version| {
            wanted(snapshot, self.kind, name).map(|resource| resource.version) != Some(version.clone())
        };
        let retry: Vec<Name> = self
            .held
            .iter()
            .filter(|(name, version)| changed(name, version))
            .map(|(name, _)| name.clone())
            .collect();
        for name in retry {
            self.held.remove(&name);
            self.singly.insert(name);
        }
    }

    /// What is due, if it may be sent now. `None`: nothing is.
    pub fn plan(&self, snapshot: &Snapshot, removals: Removals) -> Option<Plan> {
        let due = self.due(snapshot);
        let (alone, together): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|(name, _)| self.singly.contains(name));
        let gone = match removals {
            Removals::Withheld => Vec::new(),
            Removals::Now | Removals::Later => self.gone(snapshot),
        };
        let send_removals = removals == Removals::Now
            && (self.kind != Type::Cluster || together.is_empty() && alone.is_empty());
        let single = together.is_empty() && !alone.is_empty();
        let rest = if together.is_empty() { alone.len().saturating_sub(1) } else { alone.len() };
        let batch = if together.is_empty() { alone.into_iter().take(1).collect() } else { together };
        let covers = rest == 0 && (send_removals || gone.is_empty());
        let removed = if send_removals { gone } else { Vec::new() };
        if batch.is_empty() && removed.is_empty() && !self.owes_answer {
            return None;
        }
        let resources =
            batch.into_iter().map(|(name, resource)| (name, resource.version, resource.chunk)).collect();
        Some(Plan { resources, removed, alone: single, covers })
    }

    /// True when nothing is owed to the client, sent or not.
    pub fn is_settled(&self, snapshot: &Snapshot, removals: Removals) -> bool {
        self.in_flight.is_none()
            && !self.owes_answer
            && self.due(snapshot).is_empty()
            && (removals == Removals::Withheld || self.gone(snapshot).is_empty())
    }

    fn due(&self, snapshot: &Snapshot) -> Vec<(Name, Encoded)> {
        let is_due = |name: &Name, resource: &Encoded| {
            let current = self.client.get(name) == Some(&resource.version);
            self.held.get(name) != Some(&resource.version)
                && (!current || self.doubtful.contains_key(name) || self.renew.contains(name))
        };
        if self.wildcard {
            let all = snapshot.iter(self.kind).filter(|(name, resource)| is_due(name, resource));
            return all.map(|(name, resource)| (name.clone(), resource.clone())).collect();
        }
        let all =
            self.names.iter().filter_map(|name| Some((name.clone(), wanted(snapshot, self.kind, name)?)));
        all.filter(|(name, resource)| is_due(name, resource)).collect()
    }

    /// What the client is to be told not to exist.
    ///
    /// Envoy ignores the removal of assignments, routes and secrets that are in use; they go with the resource that
    /// uses them. Only a first question for one that is not there is answered so.
    fn gone(&self, snapshot: &Snapshot) -> Vec<Name> {
        if self.wildcard {
            let mut names: BTreeSet<&Name> = self.client.keys().chain(self.doubtful.keys()).collect();
            names.retain(|name| snapshot.get(self.kind, name).is_none());
            return names.into_iter().cloned().collect();
        }
        let unknown = |name: &&Name| {
            !self.may_run(name) && !self.absent.contains(*name) && wanted(snapshot, self.kind, name).is_none()
        };
        self.names.iter().filter(unknown).cloned().collect()
    }

    /// `all_asked_for`: the client is subscribed to all that there is of this type.
    pub fn sent(&mut self, plan: &Plan, nonce: String, generation: u64, all_asked_for: bool) {
        self.owes_answer = false;
        self.counters.sent += 1;
        for (name, ..) in &plan.resources {
            self.renew.remove(name);
            self.absent.remove(name);
        }
        for name in &plan.removed {
            self.renew.remove(name);
            if !self.wildcard {
                self.absent.insert(name.clone());
            }
        }
        let sent = plan.resources.iter().map(|(name, version, _)| (name.clone(), version.clone())).collect();
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
        }
        for (name, version) in flight.sent {
            self.doubtful.remove(&name);
            self.singly.remove(&name);
            if self.subscribed(&name) {
                self.client.insert(name, version);
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
            self.doubtful.entry(name.clone()).or_insert_with(|| GONE.into());
        }
        let alone = flight.sent.len() == 1;
        let mut bad = None;
        for (name, version) in
            flight.sent.into_iter().filter(|(name, _)| self.wildcard || self.names.contains(name))
        {
            if alone {
                self.singly.remove(&name);
                if self.doubtful.get(&name) == Some(&version) {
                    self.doubtful.remove(&name);
                }
                self.held.insert(name.clone(), version);
                bad = Some(Some(name));
            } else {
                self.singly.insert(name.clone());
                self.doubtful.entry(name).or_insert(version);
            }
        }
        bad
    }
}

/// The resource of this name as the client should run it. A cluster that is there never loses its assignment: Envoy
/// would ignore that, and keep sending to the old endpoints; it gets an empty one.
pub(super) fn wanted(snapshot: &Snapshot, kind: Type, name: &str) -> Option<Encoded> {
    let found = snapshot.get(kind, name).cloned();
    if found.is_none() && kind == Type::Endpoint && snapshot.get(Type::Cluster, name).is_some() {
        let nobody = envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            ..Default::default()
        };
        return Some(Encoded::of(&nobody));
    }
    found
}
