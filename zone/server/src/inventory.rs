//! The proxies of the zone as global is told of them: everything once per link, then what changed.
use proto::link::{Inventory, MESSAGE_MAX, ProxyEntry, ProxyName};
use std::collections::BTreeMap;
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

/// What one link has been told.
#[derive(Default)]
pub struct Told {
    sequence: u64,
    /// The state of each proxy that was sent: the Dataplane's revision and the insight's generation.
    sent: BTreeMap<ProxyId, (u64, u64)>,
}

impl Told {
    /// The messages that bring the other side up to date; none when it is. Each is made when it is asked for, and all
    /// must be: what is told here is told once.
    pub fn catch_up(&mut self, epoch: &Epoch, insights: &Insights) -> impl Iterator<Item = Inventory> {
        let state = |id: &ProxyId| {
            let dataplane = epoch.dataplane(id)?;
            Some((dataplane.revision.0, insights.generation(id)))
        };
        let now: BTreeMap<ProxyId, (u64, u64)> =
            epoch.proxies(None).filter_map(|id| Some((id.clone(), state(&id)?))).collect();
        let changed = now.iter().filter(|(id, state)| self.sent.get(id) != Some(state));
        let changed: Vec<ProxyId> = changed.map(|(id, _)| id.clone()).collect();
        let gone = self.sent.keys().filter(|id| !now.contains_key(id));
        let mut removed: Vec<ProxyName> =
            gone.map(|id| ProxyName { mesh: id.mesh.clone(), name: id.name.clone() }).collect();
        self.sent = now;
        let mut upserts = changed.into_iter().filter_map(|id| entry(&id, epoch, insights)).peekable();
        let sequence = &mut self.sequence;
        std::iter::from_fn(move || {
            let complete = *sequence == 0;
            if !complete && upserts.peek().is_none() && removed.is_empty() {
                return None;
            }
            *sequence += 1;
            let rest = removed.split_off(removed.len().min(MESSAGE / NAME));
            let mut message = Inventory {
                sequence: *sequence,
                // The rest of a long list follows as deltas.
                complete,
                upserts: Vec::new(),
                removed: std::mem::replace(&mut removed, rest),
            };
            let mut weight = message.removed.len() * NAME;
            while let Some(next) = upserts
                .next_if(|next| message.upserts.is_empty() && weight == 0 || weight + weigh(next) <= MESSAGE)
            {
                weight += weigh(&next);
                message.upserts.push(next);
            }
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
            insights.connected(&ProxyId::new("default", name), "s", metadata, shared_node::time::now());
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
}
