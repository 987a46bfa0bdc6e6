//! Zones that do not follow because they have seen what this global has not: for whoever asks how a zone is.
use shared_model::Timestamp;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Clones are the same.
#[derive(Clone, Default)]
pub struct Diverged(Arc<Mutex<BTreeMap<String, (String, Timestamp)>>>);

impl Diverged {
    /// Only zones with a valid credential are told of, so their number is bounded by those that there are.
    pub fn tell(&self, zone: &str, reason: &str) {
        self.zones().insert(zone.to_owned(), (reason.to_owned(), shared_node::time::now()));
    }

    pub fn clear(&self, zone: &str) {
        self.zones().remove(zone);
    }

    /// Why a zone does not follow, and when it last tried.
    pub fn of(&self, zone: &str) -> Option<(String, Timestamp)> {
        self.zones().get(zone).cloned()
    }

    fn zones(&self) -> MutexGuard<'_, BTreeMap<String, (String, Timestamp)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
