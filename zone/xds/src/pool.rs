//! Resources by what they say: two manifests that need the same one share its bytes.
use crate::snapshot::{Encoded, Type, Version};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// Below this many resources nothing is swept.
const SWEPT_FROM: usize = 256;

/// All resources that someone holds. What nobody holds any more is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    held: HashMap<(Type, Version), Vec<Weak<Encoded>>>,
    /// At how many to look for what is not held any more.
    sweep_at: usize,
}

impl Pool {
    /// The one that everybody shares of those that say the same.
    pub fn intern(&self, resource: Arc<Encoded>) -> Arc<Encoded> {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.held.len() >= shelf.sweep_at.max(SWEPT_FROM) {
            shelf.held.retain(|_, same| {
                same.retain(|resource| resource.strong_count() > 0);
                !same.is_empty()
            });
            shelf.sweep_at = shelf.held.len() * 2;
        }
        let same = shelf.held.entry((resource.kind, resource.version)).or_default();
        // The hash is no proof.
        let known = same.iter().filter_map(Weak::upgrade).find(|known| **known == *resource);
        known.unwrap_or_else(|| {
            same.retain(|resource| resource.strong_count() > 0);
            same.push(Arc::downgrade(&resource));
            resource
        })
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, text: &str) -> Arc<Encoded> {
        Arc::new(Encoded::from_bytes(Type::Cluster, name, text.into()))
    }

    #[test]
    fn what_says_the_same_is_one() {
        let pool = Pool::default();
        let one = pool.intern(of("a", "x"));
        assert!(Arc::ptr_eq(&one, &pool.intern(of("a", "x"))));
        assert!(!Arc::ptr_eq(&one, &pool.intern(of("b", "x"))), "the name is not in the hash");
        assert!(!Arc::ptr_eq(&one, &pool.intern(of("a", "y"))));
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let pool = Pool::default();
        let kept = pool.intern(of("kept", "x"));
        for i in 0..10 * SWEPT_FROM {
            pool.intern(of("a", &i.to_string()));
        }
        assert!(pool.len() <= 2 * SWEPT_FROM);
        assert!(Arc::ptr_eq(&kept, &pool.intern(of("kept", "x"))));
    }
}
