//! The policies that select one proxy, in merge order, and the one engine that merges them for every kind.
use crate::{
    facts::{InboundFacts, ProxyFacts, Target},
    merge,
    peer::{Match, Principal},
    policy::{InboundItem, Policy},
    target_ref::Destination,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared_model::{Kri, ResourceKey};
use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

/// The policies that select one proxy; the weakest of a kind stands first. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matched(Arc<Vec<Entry>>);

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    policy: Arc<Policy>,
    /// The inbounds that are meant, when not all of the proxy's are.
    inbounds: Option<BTreeSet<(String, u16)>>,
}

/// A configuration for connections that come in. Of a list of these the first whose condition holds applies; what it
/// does not say itself it has inherited from the wider ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundRule<T> {
    /// `None`: every connection.
    pub matches: Option<Match>,
    pub conf: T,
    /// The policies that had a part in it, the weakest first.
    pub origins: Vec<Kri>,
}

/// The most conditions, overlaps included, that one inbound of one proxy may have per kind. Overlaps grow with the
/// product of independent conditions; past this the narrower of two overlapping conditions applies alone.
const CONDITIONS_MAX: usize = 512;

impl Matched {
    /// Selects and orders. The order in which the policies come does not matter, nor does it when one comes twice.
    /// Shadow policies are left out.
    pub fn of<'a>(policies: impl IntoIterator<Item = &'a Arc<Policy>>, facts: &ProxyFacts) -> Matched {
        let selected = policies.into_iter().filter(|policy| !policy.is_shadow() && policy.selects(facts));
        let mut entries: Vec<Entry> = selected.map(|policy| Entry::of(policy, facts)).collect();
        entries.sort_by(|Entry { policy: a, .. }, Entry { policy: b, .. }| {
            (a.kind, a.rank, a.order_name(), &a.key).cmp(&(b.kind, b.rank, b.order_name(), &b.key))
        });
        entries.dedup_by(|a, b| a.policy.key == b.policy.key);
        Matched(Arc::new(entries))
    }

    pub fn keys(&self) -> BTreeSet<ResourceKey> {
        self.iter().map(|policy| policy.key.clone()).collect()
    }

    /// All policies, by kind, the weakest of a kind first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.0.iter().map(|entry| &entry.policy)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Without those that say nothing to a proxy that reaches only these destinations.
    pub fn concerning<'a, T: IntoIterator<Item = Target<'a>>>(&self, targets: impl Fn() -> T) -> Matched {
        if self.iter().all(|policy| policy.concerns(targets())) {
            return self.clone();
        }
        let concern = |entry: &&Entry| entry.policy.concerns(targets());
        Matched(Arc::new(self.0.iter().filter(concern).cloned().collect()))
    }

    /// The policies that say anything of connections to destinations. Who is selected by the same ones is told the same
    /// of every destination.
    pub fn about_destinations(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.iter().filter(|policy| !policy.to.is_empty())
    }

    /// The policies that say anything of connections to this inbound. Inbounds of which the same ones speak are told the
    /// same.
    pub fn about_inbound(&self, inbound: &InboundFacts) -> impl Iterator<Item = &Arc<Policy>> {
        let entries = self.0.iter().filter(|entry| !entry.policy.inbound.is_empty() && entry.is_for(inbound));
        entries.map(|entry| &entry.policy)
    }

    fn of_kind(&self, kind: &str) -> &[Entry] {
        let start = self.0.partition_point(|entry| entry.policy.kind < kind);
        let end = self.0.partition_point(|entry| entry.policy.kind <= kind);
        &self.0[start..end]
    }

    /// The items of `to` that are about a destination, the weakest first. Where some speak of the route itself, those
    /// about the service as such are left aside: what they leave open is for the mesh's items to say.
    pub(crate) fn outbound(
        &self,
        kind: &str,
        target: &Target,
        route: Option<&Kri>,
    ) -> Vec<(&Policy, &Value)> {
        let mut items: Vec<_> = self
            .of_kind(kind)
            .iter()
            .flat_map(|Entry { policy, .. }| {
                policy.to.iter().enumerate().map(move |item| (policy.as_ref(), item))
            })
            .filter(|(_, (_, (destination, _)))| destination.includes(target, route))
            .collect();
        if items.iter().any(|(_, (_, (destination, _)))| matches!(destination, Destination::Route { .. })) {
            items.retain(|(_, (_, (destination, _)))| !matches!(destination, Destination::Service { .. }));
        }
        items.sort_by_key(|(policy, (index, (destination, _)))| {
            (policy.rank, destination.specificity(), policy.order_name(), &policy.key, *index)
        });
        items.into_iter().map(|(policy, (_, (_, conf)))| (policy, conf)).collect()
    }

    /// The merged configuration for a destination; the default of `T` when no policy speaks of it.
    pub(crate) fn merged_outbound<T: DeserializeOwned + Default>(
        &self,
        kind: &str,
        target: &Target,
        route: Option<&Kri>,
    ) -> T {
        merge::fold(self.outbound(kind, target, route).into_iter().map(|(_, conf)| conf))
            .map(read)
            .unwrap_or_default()
    }

    /// The items about connections to an inbound, the weakest first. Those of `from` keep their order within a
    /// document, those of `rules` rank by how narrow they are.
    pub(crate) fn inbound(&self, kind: &str, inbound: &InboundFacts) -> Vec<(&Policy, &InboundItem)> {
        let mut items: Vec<_> = self
            .of_kind(kind)
            .iter()
            .filter(|entry| entry.is_for(inbound))
            .flat_map(|Entry { policy, .. }| {
                policy.inbound.iter().enumerate().map(move |item| (policy.as_ref(), item))
            })
            .collect();
        items.sort_by_key(|(policy, (index, item))| {
            let specificity = if item.legacy { Default::default() } else { item.peer.specificity() };
            (policy.rank, specificity, policy.order_name(), &policy.key, *index)
        });
        items.into_iter().map(|(policy, (_, item))| (policy, item)).collect()
    }

    /// The merged configurations for connections to an inbound, by caller, the narrowest first.
    pub(crate) fn merged_inbound<T: DeserializeOwned + Default>(
        &self,
        kind: &str,
        inbound: &InboundFacts,
    ) -> Vec<InboundRule<T>> {
        by_caller(&self.inbound(kind, inbound))
            .into_iter()
            .map(|rule| InboundRule { matches: rule.matches, conf: read(rule.conf), origins: rule.origins })
            .collect()
    }
}

impl Entry {
    fn of(policy: &Arc<Policy>, facts: &ProxyFacts) -> Entry {
        let meant = |inbound: &&InboundFacts| policy.selects_inbound(facts, inbound);
        let inbounds =
            facts.inbounds.iter().filter(meant).map(|inbound| (inbound.address.clone(), inbound.port));
        let inbounds: BTreeSet<_> = inbounds.collect();
        let all = inbounds.len() == facts.inbounds.len();
        Entry { policy: policy.clone(), inbounds: (!all).then_some(inbounds) }
    }

    fn is_for(&self, inbound: &InboundFacts) -> bool {
        self.inbounds
            .as_ref()
            .is_none_or(|inbounds| inbounds.contains(&(inbound.address.clone(), inbound.port)))
    }
}

/// Merged configurations were checked part by part when they were written, and merging keeps the shape.
fn read<T: DeserializeOwned + Default>(conf: Value) -> T {
    serde_json::from_value(conf).unwrap_or_default()
}

/// Merges items, weakest first, into one rule per condition, closed under overlap: whatever set of items holds for a
/// connection, the first rule that matches it is the merge of just these.
pub(crate) fn by_caller(items: &[(&Policy, &InboundItem)]) -> Vec<InboundRule<Value>> {
    let mut rules: Vec<_> = closed_under_overlap(items.iter().map(|(_, item)| item.peer.clone()))
        .into_iter()
        .map(|peer| {
            let parts: Vec<_> = items.iter().filter(|(_, item)| item.peer.covers(&peer)).collect();
            let mut origins: Vec<Kri> = parts.iter().map(|(policy, _)| policy.kri.clone()).collect();
            origins.dedup();
            let conf = merge::fold(parts.iter().map(|(_, item)| &item.conf)).unwrap_or_default();
            (peer, conf, origins)
        })
        .collect();
    rules.sort_by(|(a, ..), (b, ..)| (Reverse(a.specificity()), a).cmp(&(Reverse(b.specificity()), b)));
    rules
        .into_iter()
        .map(|(peer, conf, origins)| InboundRule { matches: (!peer.is_any()).then_some(peer), conf, origins })
        .collect()
}

fn closed_under_overlap(peers: impl Iterator<Item = Match>) -> BTreeSet<Match> {
    let mut closed = BTreeSet::new();
    for peer in peers {
        let overlaps: Vec<Match> = closed.iter().filter_map(|other: &Match| other.overlap(&peer)).collect();
        closed.insert(peer);
        if closed.len() + overlaps.len() <= CONDITIONS_MAX {
            closed.extend(overlaps);
        }
    }
    closed
}

/// Rules of which the first applies, as conditions of which at most one holds. A narrower rule is an exception of the
/// wider one when `differs` says that it matters.
pub(crate) fn disjoint<T>(
    rules: &[InboundRule<T>],
    differs: impl Fn(&T, &T) -> bool,
) -> Vec<(Principal, &InboundRule<T>)> {
    let peer = |rule: &InboundRule<T>| rule.matches.clone().unwrap_or_default();
    rules
        .iter()
        .enumerate()
        .map(|(i, rule)| {
            let own = peer(rule);
            let narrower: Vec<Match> = rules[..i]
                .iter()
                .filter(|other| differs(&other.conf, &rule.conf))
                .map(peer)
                .filter(|other| own.covers(other))
                .collect();
            // An exception within an exception says nothing more.
            let outermost = |one: &&Match| !narrower.iter().any(|other| other != *one && other.covers(one));
            let except = narrower.iter().filter(outermost).cloned().collect();
            (Principal { peer: own, except }, rule)
        })
        .collect()
}
