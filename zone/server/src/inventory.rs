//! The proxies of the zone as global is told of them: everything once, then what changed. Each message has a number, and
//! what was told is remembered with it: a node of global that comes back says which one it has, and is told what has
//! changed behind it.
use proto::link::{Inventory, MESSAGE_MAX, ProxyEntry, ProxyName, Welcome};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use zone_index::{Epoch, ProxyId};

use crate::insights::Insights;

/// What one message may weigh, in bytes: far below the link's limit, so that beats do not wait behind it.
const MESSAGE: usize = MESSAGE_MAX / 16;

/// An entry that weighs more than this goes without its insight, in bytes.
const ENTRY: usize = MESSAGE / 2;

/// A mesh and a name weigh at most this, in bytes.
const NAME: usize = 512;

fn weigh(entry: &ProxyEntry) -> usize {
    NAME + entry.dataplane.len() + entry.insight.len()
}

/// Proxies that have gone are remembered up to so many, so that a node of global that comes back can be told.
const GONE_MAX: usize = 10_000;
/// Bits of a message's number that count within one whole and what follows it.
const WHOLE_BITS: u32 = 40;
/// Nodes of global whose knowledge is remembered in full. A cluster has five at most.
const NODES_MAX: usize = 8;

/// What the nodes of global have been told, by node; a link takes its own while it is open.
#[derive(Default)]
pub struct Tellings {
    told: Mutex<BTreeMap<u64, Told>>,
    /// Counts the wholes: each has numbers of its own, so that none is taken for another's.
    wholes: AtomicU64,
}

impl Tellings {
    /// What the node that welcomes this process has been told of it so far.
    pub fn of(&self, welcome: &Welcome, instance: &str) -> Telling<'_> {
        let from = (welcome.inventory_instance == instance).then_some(welcome.inventory_sequence);
        let known = self.lock().remove(&welcome.node_id);
        let told = known.and_then(|told| told.resumed(from?)).unwrap_or_else(|| {
            let sequence = self.wholes.fetch_add(1, Ordering::Relaxed) << WHOLE_BITS;
            Told { sequence, since: sequence + 1, ..Told::default() }
        });
        Telling { tellings: self, node_id: welcome.node_id, told }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one open link tells; remembered when it ends.
pub struct Telling<'a> {
    tellings: &'a Tellings,
    node_id: u64,
    pub told: Told,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let mut all = self.tellings.lock();
        all.insert(self.node_id, std::mem::take(&mut self.told));
        if all.len() > NODES_MAX {
            // They are told the whole when they come back.
            all.clear();
        }
    }
}

/// What of a proxy was told, and in which message.
struct Sent {
    /// The Dataplane's revision and the insight's generation; none when it is not known to have come.
    state: Option<(u64, u64)>,
    sequence: u64,
}

/// What one node of global has been told.
#[derive(Default)]
pub struct Told {
    sequence: u64,
    begun: Begun,
    sent: BTreeMap<ProxyId, Sent>,
    /// Those that were told to have gone, and in which message.
    gone: BTreeMap<ProxyId, u64>,
    /// Who went before this message is not known any more.
    since: u64,
}

/// How far a link has come.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Begun {
    /// The whole comes first.
    #[default]
    No,
    /// A message comes first, also when nothing has changed: it says so.
    Behind,
    Yes,
}

impl Told {
    /// A link begins whose other side has everything up to a message. None when it cannot go on behind that.
    fn resumed(mut self, from: u64) -> Option<Told> {
        if !(self.since..=self.sequence).contains(&from) {
            return None;
        }
        // What was said later may have come or not: it is said again.
        self.sent.values_mut().filter(|sent| sent.sequence > from).for_each(|sent| sent.state = None);
        for (id, sequence) in self.gone.extract_if(.., |_, sequence| *sequence > from) {
            self.sent.entry(id).or_insert(Sent { state: None, sequence });
        }
        self.sequence = from;
        self.begun = Begun::Behind;
        Some(self)
    }

    /// The messages that bring the other side up to date; none when it is. What is told is remembered with each message,
    /// so that one which is not made is made later.
    pub fn catch_up<'a>(
        &'a mut self,
        epoch: &'a Epoch,
        insights: &'a Insights,
    ) -> impl Iterator<Item = Inventory> + 'a {
        let mut known = 0;
        let mut changed: VecDeque<(ProxyId, (u64, u64))> = VecDeque::new();
        for id in epoch.proxies(None) {
            let Some(dataplane) = epoch.dataplane(&id) else { continue };
            let state = (dataplane.revision.0, insights.generation(&id));
            let sent = self.sent.get(&id);
            known += usize::from(sent.is_some());
            if sent.is_none_or(|sent| sent.state != Some(state)) {
                changed.push_back((id, state));
            }
        }
        // A walk only when somebody is missing.
        let is_gone = |id: &&ProxyId| epoch.dataplane(id).is_none();
        let gone: Vec<ProxyId> = match known < self.sent.len() {
            true => self.sent.keys().filter(is_gone).cloned().collect(),
            false => Vec::new(),
        };
        let mut gone = VecDeque::from(gone);
        let mut next = None;
        std::iter::from_fn(move || {
            let upsert = move |changed: &mut VecDeque<_>, next: &mut Option<_>| {
                while next.is_none() {
                    let (id, state) = changed.pop_front()?;
                    *next = entry(&id, epoch, insights).map(|entry| (id, state, entry));
                }
                Some(())
            };
            upsert(&mut changed, &mut next);
            if self.begun == Begun::Yes && next.is_none() && gone.is_empty() {
                return None;
            }
            self.sequence += 1;
            let complete = std::mem::replace(&mut self.begun, Begun::Yes) == Begun::No;
            if complete {
                self.since = self.sequence;
            }
            let mut message = Inventory { sequence: self.sequence, complete, ..Inventory::default() };
            for id in gone.drain(..gone.len().min(MESSAGE / NAME)) {
                message.removed.push(ProxyName { mesh: id.mesh.clone(), name: id.name.clone() });
                self.sent.remove(&id);
                self.gone.insert(id, self.sequence);
            }
            if self.gone.len() > GONE_MAX {
                self.gone.clear();
                self.since = self.sequence;
            }
            let mut weight = message.removed.len() * NAME;
            while let Some((id, state, entry)) =
                next.take_if(|(_, _, entry)| weight == 0 || weight + weigh(entry) <= MESSAGE)
            {
                weight += weigh(&entry);
                message.upserts.push(entry);
                self.gone.remove(&id);
                self.sent.insert(id, Sent { state: Some(state), sequence: self.sequence });
                upsert(&mut changed, &mut next);
            }
            // The rest of a long list follows.
            message.more = next.is_some() || !gone.is_empty();
            Some(message)
        })
    }
}

fn entry(id: &ProxyId, epoch: &Epoch, insights: &Insights) -> Option<ProxyEntry> {
    let dataplane = epoch.dataplane(id)?.to_json().to_string().into_bytes();
    let insight = insights.json(id).map(|insight| insight.to_string().into_bytes());
    let insight = insight.filter(|insight| dataplane.len() + insight.len() <= ENTRY).unwrap_or_default();
    Some(ProxyEntry {
        mesh: id.mesh.clone(),
        name: id.name.clone(),
        dataplane: dataplane.into(),
        insight: insight.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use shared_model::{Resource, Revision, kind};
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use zone_index::{Change, Index, Source};

    fn put(index: &mut Index, name: &str, revision: u64) {
        let spec = json!({"networking": {"address": "10.0.0.1", "inbound": [{"port": 80}]}});
        let mut resource = Resource::new(kind::DATAPLANE, "default", name, spec);
        resource.revision = Revision(revision);
        index.apply([Change::Put(Source::Owned, Arc::new(resource))]);
    }

    fn all(told: &mut Told, index: &Index, insights: &Insights) -> Vec<Inventory> {
        told.catch_up(&index.epoch(), insights).collect()
    }

    #[test]
    fn everything_once_and_then_only_what_changed() {
        let mut index = Index::new("east");
        let insights = Insights::new("cp");
        let mut told = Told::default();
        let first = all(&mut told, &index, &insights);
        assert_eq!(
            (first.len(), first[0].complete, first[0].sequence),
            (1, true, 1),
            "an empty zone says so too"
        );
        put(&mut index, "a", 1);
        put(&mut index, "b", 2);
        let second = all(&mut told, &index, &insights);
        assert_eq!((second[0].complete, second[0].sequence, second[0].upserts.len()), (false, 2, 2));
        assert!(all(&mut told, &index, &insights).is_empty());
        insights.problems(&ProxyId::new("default", "b"), vec!["x".into()]);
        index.apply([Change::Delete(Source::Owned, ProxyId::new("default", "a").key())]);
        let third = all(&mut told, &index, &insights);
        assert_eq!((third[0].upserts[0].name.as_str(), third[0].removed[0].name.as_str()), ("b", "a"));
    }

    #[test]
    fn a_long_list_is_cut_into_messages_in_sequence_that_fit_the_link() {
        use prost::Message as _;
        let mut index = Index::new("east");
        let insights = Insights::new("cp");
        let names: BTreeSet<String> = (0..300).map(|i| format!("dp-{i}")).collect();
        for (i, name) in names.iter().enumerate() {
            put(&mut index, name, i as u64 + 1);
            let metadata = json!({"x": "x".repeat(if name == "dp-7" { MESSAGE_MAX } else { 20_000 })});
            insights.connected(&ProxyId::new("default", name), "s", &metadata, shared_node::time::now());
        }
        let mut told = Told::default();
        let messages = all(&mut told, &index, &insights);
        assert!(messages.len() > 2, "{}", messages.len());
        assert!(messages.iter().all(|message| message.encoded_len() <= 2 * MESSAGE));
        let first: Vec<_> = messages.iter().take(2).map(|m| (m.sequence, m.complete)).collect();
        assert_eq!(first, [(1, true), (2, false)]);
        let entries = || messages.iter().flat_map(|message| &message.upserts);
        assert_eq!(entries().map(|entry| entry.name.clone()).collect::<BTreeSet<_>>(), names);
        assert!(entries().all(|entry| entry.insight.is_empty() == (entry.name == "dp-7")));
        for name in &names {
            index.apply([Change::Delete(Source::Owned, ProxyId::new("default", name.as_str()).key())]);
        }
        let messages = all(&mut told, &index, &insights);
        assert_eq!(messages.iter().map(|message| message.removed.len()).sum::<usize>(), names.len());
    }

    fn names(messages: &[Inventory]) -> (Vec<&str>, Vec<&str>) {
        let upserts = messages.iter().flat_map(|message| &message.upserts).map(|entry| entry.name.as_str());
        let removed = messages.iter().flat_map(|message| &message.removed).map(|gone| gone.name.as_str());
        (upserts.collect(), removed.collect())
    }

    #[test]
    fn a_node_that_comes_back_is_told_what_has_changed_behind_what_it_has() {
        let mut index = Index::new("east");
        let insights = Insights::new("cp");
        let tellings = Tellings::default();
        let welcome = |instance: &str, sequence| Welcome {
            node_id: 7,
            inventory_instance: instance.to_owned(),
            inventory_sequence: sequence,
            ..Welcome::default()
        };
        for (i, name) in ["a", "b", "c"].iter().enumerate() {
            put(&mut index, name, i as u64 + 1);
        }
        let delete = |index: &mut Index, name: &str| {
            index.apply([Change::Delete(Source::Owned, ProxyId::new("default", name).key())]);
        };
        {
            let mut link = tellings.of(&welcome("", 0), "cp");
            assert!(all(&mut link.told, &index, &insights)[0].complete);
            put(&mut index, "b", 5);
            put(&mut index, "d", 6);
            delete(&mut index, "a");
            assert_eq!(all(&mut link.told, &index, &insights)[0].sequence, 2);
        }
        // The second message has not come for certain: it is told again, and what has changed since. `d` went unseen.
        delete(&mut index, "d");
        put(&mut index, "c", 7);
        {
            let mut link = tellings.of(&welcome("cp", 1), "cp");
            let messages = all(&mut link.told, &index, &insights);
            assert_eq!(names(&messages), (vec!["b", "c"], vec!["a", "d"]));
            assert_eq!((messages[0].complete, messages[0].sequence), (false, 2));
        }
        // Nothing has changed: one message says so.
        {
            let mut link = tellings.of(&welcome("cp", 2), "cp");
            let messages = all(&mut link.told, &index, &insights);
            assert_eq!((messages.len(), names(&messages), messages[0].sequence), (1, (vec![], vec![]), 3));
            assert!(all(&mut link.told, &index, &insights).is_empty());
        }
        // What another process has told, what was never told, and what belongs to an earlier whole need the whole.
        for (instance, sequence) in [("other", 3), ("cp", 99), ("cp", 3)] {
            let mut link = tellings.of(&welcome(instance, sequence), "cp");
            let messages = all(&mut link.told, &index, &insights);
            assert!(messages[0].complete && messages[0].sequence > 3, "{instance} {sequence}");
            assert_eq!(names(&messages), (vec!["b", "c"], vec![]));
        }
    }

    #[test]
    fn a_message_that_was_not_made_is_made_by_the_next_round() {
        let mut index = Index::new("east");
        let insights = Insights::new("cp");
        for i in 0..200 {
            let name = format!("dp-{i:03}");
            put(&mut index, &name, i + 1);
            let metadata = json!({"x": "x".repeat(20_000)});
            insights.connected(
                &ProxyId::new("default", name.as_str()),
                "s",
                &metadata,
                shared_node::time::now(),
            );
        }
        let mut told = Told::default();
        let epoch = index.epoch();
        let first = told.catch_up(&epoch, &insights).next().expect("a message");
        assert!(first.more && first.upserts.len() < 200);
        let rest: Vec<Inventory> = told.catch_up(&epoch, &insights).collect();
        assert_eq!((rest[0].sequence, rest[0].complete), (2, false));
        let upserts: usize = rest.iter().map(|message| message.upserts.len()).sum();
        assert_eq!(upserts + first.upserts.len(), 200);
        assert!(!rest.last().expect("a message").more);
    }
}
