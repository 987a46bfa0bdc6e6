//! The resources that are held back, wholly or in part, and why.
use shared_model::{Problem, ResourceKey};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who found it. Problems of one resource are shown in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Found {
    /// In the document of the followed or the owned resource.
    Reading(crate::Source),
    /// In what it leads to, given the others.
    Relating(crate::Source),
}

#[derive(Debug, Default)]
pub(crate) struct Problems {
    parts: BTreeMap<ResourceKey, BTreeMap<Found, Vec<Problem>>>,
    all: Arc<BTreeMap<ResourceKey, Vec<Problem>>>,
}

impl Problems {
    /// Replaces what was found.
    pub fn set(&mut self, key: &ResourceKey, found: Found, problems: Vec<Problem>) {
        let before = self.parts.get(key).and_then(|parts| parts.get(&found));
        if before.map_or(problems.is_empty(), |before| *before == problems) {
            return;
        }
        let parts = self.parts.entry(key.clone()).or_default();
        match problems.is_empty() {
            true => parts.remove(&found),
            false => parts.insert(found, problems),
        };
        let merged: Vec<Problem> = parts.values().flatten().cloned().collect();
        let all = Arc::make_mut(&mut self.all);
        if merged.is_empty() {
            self.parts.remove(key);
            all.remove(key);
        } else {
            all.insert(key.clone(), merged);
        }
    }

    pub fn all(&self) -> &Arc<BTreeMap<ResourceKey, Vec<Problem>>> {
        &self.all
    }
}
