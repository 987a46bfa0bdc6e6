//! Values that proxies have in common, such as the outbounds of the replicas of a service: kept once, for as long as
//! somebody has them.
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// Below this many values nothing is swept.
const SWEPT_FROM: usize = 64;

#[derive(Debug)]
pub(super) struct Shared<T> {
    held: BTreeMap<u64, Vec<Weak<T>>>,
    sweep_at: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared { held: BTreeMap::new(), sweep_at: SWEPT_FROM }
    }
}

impl<T: PartialEq> Shared<T> {
    /// The value that everybody shares. Equal values have equal hashes.
    pub fn of(&mut self, hash: u64, value: T) -> Arc<T> {
        if self.held.len() >= self.sweep_at {
            self.held.retain(|_, alike| {
                alike.retain(|value| value.strong_count() > 0);
                !alike.is_empty()
            });
            self.sweep_at = SWEPT_FROM.max(self.held.len() * 2);
        }
        let alike = self.held.entry(hash).or_default();
        let known = alike.iter().filter_map(Weak::upgrade).find(|known| **known == value);
        known.unwrap_or_else(|| {
            alike.retain(|value| value.strong_count() > 0);
            let value = Arc::new(value);
            alike.push(Arc::downgrade(&value));
            value
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_while_somebody_has_them() {
        let mut shared = Shared::default();
        let one = shared.of(1, "a".to_owned());
        assert!(Arc::ptr_eq(&one, &shared.of(1, "a".to_owned())));
        assert!(!Arc::ptr_eq(&one, &shared.of(1, "b".to_owned())), "the hash is no proof");
        for hash in 2..10 * SWEPT_FROM as u64 {
            shared.of(hash, hash.to_string());
        }
        assert!(shared.held.len() <= 2 * SWEPT_FROM);
    }
}
