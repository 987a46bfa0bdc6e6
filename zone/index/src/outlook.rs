//! What the proxies of one reach and one selection of policies look at: the destinations as they are now, and the
//! policies that say anything to a proxy that reaches just these. It is worked out when the first of them asks and
//! shared by the rest, so that a policy for a whole mesh costs the one writer little, and N replicas of a service cost
//! the readers one.
//!
//! ```text
//! Selection (whom a policy selects) ─┐
//! Reach (what the outbounds lead to) ┼──▶ Outlook: destinations, policies
//! Places (what is there, and the policies that speak of it) ─┘
//! ```
use crate::destination::{Destination, Destinations};
use crate::epoch::Room;
use crate::lookup::Lookup;
use shared_model::ResourceKey;
use shared_policy::{Matched, Policy, ProxyFacts};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A policy that compiles, and what its routes ask for.
#[derive(Debug)]
pub(crate) struct Held {
    /// No other has it, and none ever had.
    pub number: u64,
    pub id: ResourceKey,
    pub policy: Arc<Policy>,
    pub lookups: BTreeSet<Lookup>,
    pub scope: Scope,
}

/// Of what a policy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Of nothing, since it is a shadow.
    Nothing,
    /// Of certain destinations only; who reaches none of them need not know it.
    Some,
    /// Of anything, be it inbound.
    Any,
}

impl Scope {
    pub fn of(policy: &Policy) -> Scope {
        match (policy.is_shadow(), policy.concerns([])) {
            (true, _) => Scope::Nothing,
            (false, true) => Scope::Any,
            (false, false) => Scope::Some,
        }
    }
}

/// The policies that select a proxy, shadow ones too. Proxies that are selected by the same ones share it.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// By number.
    held: Vec<(u64, Arc<Held>)>,
}

impl PartialEq for Selection {
    fn eq(&self, other: &Selection) -> bool {
        self.numbers().eq(other.numbers())
    }
}

impl Selection {
    pub fn of(policies: impl IntoIterator<Item = Arc<Held>>) -> Selection {
        let mut held: Vec<_> = policies.into_iter().map(|held| (held.number, held)).collect();
        held.sort_by_key(|(number, _)| *number);
        Selection { held }
    }

    /// The same without some and with others.
    pub fn with(&self, gone: &[Arc<Held>], new: &[Arc<Held>]) -> Selection {
        let stays = |held: &&Arc<Held>| !gone.iter().any(|gone| gone.number == held.number);
        Selection::of(self.iter().filter(stays).chain(new).cloned())
    }

    pub fn has(&self, number: u64) -> bool {
        self.held.binary_search_by_key(&number, |(number, _)| *number).is_ok()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Held>> {
        self.held.iter().map(|(_, held)| held)
    }

    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.held.iter().map(|(number, _)| *number)
    }

    /// What is only in this one and what is only in the other.
    pub fn difference(&self, other: &Selection) -> (Vec<Arc<Held>>, Vec<Arc<Held>>) {
        let only = |a: &Selection, b: &Selection| {
            a.iter().filter(|held| !b.has(held.number)).cloned().collect::<Vec<_>>()
        };
        (only(self, other), only(other, self))
    }
}

/// A destination where it is found, and the policies that speak of it and not of any other as well.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub destination: Arc<Destination>,
    pub spoken: Arc<Vec<Arc<Held>>>,
}

#[derive(Debug)]
pub(crate) struct Outlook {
    /// Of the places that it shows.
    stamp: u64,
    selection: Arc<Selection>,
    pub destinations: Destinations,
    policies: Vec<Arc<Policy>>,
    matched: OnceLock<Matched>,
}

impl Outlook {
    fn new(zone: &str, room: &Room, scope: &[u64], selection: Arc<Selection>) -> Outlook {
        let places = || scope.iter().filter_map(|number| room.places.get(number));
        let general = selection.iter().filter(|held| held.scope == Scope::Any);
        let spoken = places().flat_map(|place| place.spoken.iter()).filter(|held| selection.has(held.number));
        let policies = general.chain(spoken).map(|held| held.policy.clone()).collect();
        let destinations = Destinations::sorted(zone, places().map(|place| place.destination.clone()));
        Outlook { stamp: room.stamp, selection, destinations, policies, matched: OnceLock::new() }
    }

    /// The policies in the order in which they are merged.
    pub fn matched(&self, facts: &ProxyFacts) -> Matched {
        let of = || Matched::of(&self.policies, facts);
        match facts.inbounds.len() {
            // A policy that selects the proxy means its only inbound: all that share the outlook are told the same.
            0 | 1 => self.matched.get_or_init(of).clone(),
            _ => of(),
        }
    }
}

/// The outlook that somebody has asked for last. It is no part of what a reach says.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Option<Arc<Outlook>>>);

impl PartialEq for Kept {
    fn eq(&self, _: &Kept) -> bool {
        true
    }
}

impl Kept {
    /// The outlook of a proxy with this scope and selection.
    pub fn get(&self, zone: &str, room: &Room, scope: &[u64], selection: &Arc<Selection>) -> Arc<Outlook> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(outlook) if outlook.stamp == room.stamp && Arc::ptr_eq(&outlook.selection, selection) => {
                outlook.clone()
            }
            _ => {
                let outlook = Arc::new(Outlook::new(zone, room, scope, selection.clone()));
                *kept = Some(outlook.clone());
                outlook
            }
        }
    }
}
