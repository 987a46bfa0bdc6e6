//! The proxies of the zone as global is told of them: everything once per link, then what changed.
use proto::link::{Inventory, ProxyEntry, ProxyName};
use std::collections::BTreeMap;
use zone_index::{Epoch, ProxyId};

use crate::insights::Insights;

/// Entries of one message. A message must stay far below the link's limit, and a mesh may have many proxies.
const ENTRIES_MAX: usize = 500;

/// What one link has been told.
#[derive(Default)]
pub struct Told {
    sequence: u64,
    /// The state of each proxy that was sent: the Dataplane's revision and the insight's generation.
    sent: BTreeMap<ProxyId, (u64, u64)>,
}

impl Told {
    /// The messages that bring the other side up to date; none when it is.
    pub fn catch_up(&mut self, epoch: &Epoch, insights: &Insights) -> Vec<Inventory> {
        let state = |id: &ProxyId| {
            let dataplane = epoch.dataplane(id)?;
            Some((dataplane.revision.0, insights.generation(id)))
        };
        let now: BTreeMap<ProxyId, (u64, u64)> =
            epoch.proxies(None).filter_map(|id| Some((id.clone(), state(&id)?))).collect();
        let changed = now.iter().filter(|(id, state)| self.sent.get(id) != Some(state));
        let mut upserts: Vec<ProxyEntry> = changed.filter_map(|(id, _)| entry(id, epoch, insights)).collect();
        let gone = self.sent.keys().filter(|id| !now.contains_key(id));
        let mut removed: Vec<ProxyName> =
            gone.map(|id| ProxyName { mesh: id.mesh.clone(), name: id.name.clone() }).collect();
        self.sent = now;
        let mut messages = Vec::new();
        let first = self.sequence == 0;
        while (first && messages.is_empty()) || !upserts.is_empty() || !removed.is_empty() {
            let rest = upserts.split_off(upserts.len().min(ENTRIES_MAX));
            self.sequence += 1;
            messages.push(Inventory {
                sequence: self.sequence,
                // The rest of a long list follows as deltas.
                complete: first && messages.is_empty(),
                upserts: std::mem::replace(&mut upserts, rest),
                removed: std::mem::take(&mut removed),
            });
        }
        messages
    }
}

fn entry(id: &ProxyId, epoch: &Epoch, insights: &Insights) -> Option<ProxyEntry> {
    let dataplane = epoch.dataplane(id)?.to_json().to_string().into_bytes();
    let insight = insights.json(id).map(|insight| insight.to_string().into_bytes()).unwrap_or_default();
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
    use std::sync::Arc;
    use zone_index::{Change, Index, Source};

    fn put(index: &mut Index, name: &str, revision: u64) {
        let spec = json!({"networking": {"address": "10.0.0.1", "inbound": [{"port": 80}]}});
        let mut resource = Resource::new(kind::DATAPLANE, "default", name, spec);
        resource.revision = Revision(revision);
        index.apply([Change::Put(Source::Owned, Arc::new(resource))]);
    }

    #[test]
    fn everything_once_and_then_only_what_changed() {
        let mut index = Index::new("east");
        let insights = Insights::new("cp");
        let mut told = Told::default();
        let first = told.catch_up(&index.epoch(), &insights);
        assert_eq!(
            (first.len(), first[0].complete, first[0].sequence),
            (1, true, 1),
            "an empty zone says so too"
        );
        put(&mut index, "a", 1);
        put(&mut index, "b", 2);
        let second = told.catch_up(&index.epoch(), &insights);
        assert_eq!((second[0].complete, second[0].sequence, second[0].upserts.len()), (false, 2, 2));
        assert!(told.catch_up(&index.epoch(), &insights).is_empty());
        insights.problems(&ProxyId::new("default", "b"), vec!["x".into()]);
        index.apply([Change::Delete(Source::Owned, ProxyId::new("default", "a").key())]);
        let third = told.catch_up(&index.epoch(), &insights);
        assert_eq!((third[0].upserts[0].name.as_str(), third[0].removed[0].name.as_str()), ("b", "a"));
    }

    #[test]
    fn a_long_list_is_cut_into_messages_in_sequence() {
        let mut index = Index::new("east");
        for i in 0..=ENTRIES_MAX {
            put(&mut index, &format!("dp-{i}"), i as u64 + 1);
        }
        let messages = Told::default().catch_up(&index.epoch(), &Insights::new("cp"));
        let seen: Vec<_> = messages.iter().map(|m| (m.sequence, m.complete, m.upserts.len())).collect();
        assert_eq!(seen, [(1, true, ENTRIES_MAX), (2, false, 1)]);
    }
}
