//! What follows from equal inputs is made once and shared by all who hold it.
use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};
use xxhash_rust::xxh3::Xxh3Default;

/// Below this many results nothing is swept.
const SWEPT_FROM: usize = 64;

/// Results by their inputs, each for as long as somebody holds it.
#[derive(Debug)]
pub(crate) struct Memo<K, V>(Mutex<Shelf<K, V>>);

#[derive(Debug)]
struct Shelf<K, V> {
    held: HashMap<u64, Vec<Weak<Made<K, V>>>>,
    sweep_at: usize,
}

/// A result, with what it was made from. Inputs that are compared by identity stay alive here, so that no other can
/// take their place.
#[derive(Debug)]
pub(crate) struct Made<K, V> {
    from: K,
    result: OnceLock<V>,
}

impl<K, V> Made<K, V> {
    pub fn result(&self) -> Option<&V> {
        self.result.get()
    }
}

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Memo(Mutex::new(Shelf { held: HashMap::new(), sweep_at: 0 }))
    }
}

impl<K: Hash + PartialEq, V> Memo<K, V> {
    /// The result of these inputs, and what was made of them if it had to be. Of several who ask at once one makes it,
    /// and those who ask for the same wait for him alone.
    pub fn get(&self, from: K, make: impl FnOnce() -> V) -> Arc<Made<K, V>> {
        let mut hasher = Xxh3Default::new();
        from.hash(&mut hasher);
        let made = self.find(hasher.finish(), from);
        made.result.get_or_init(make);
        made
    }

    fn find(&self, hash: u64, from: K) -> Arc<Made<K, V>> {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.held.len() >= shelf.sweep_at.max(SWEPT_FROM) {
            shelf.held.retain(|_, alike| {
                alike.retain(|made| made.strong_count() > 0);
                !alike.is_empty()
            });
            shelf.sweep_at = shelf.held.len() * 2;
        }
        let alike = shelf.held.entry(hash).or_default();
        let known = alike.iter().filter_map(Weak::upgrade).find(|made| made.from == from);
        known.unwrap_or_else(|| {
            alike.retain(|made| made.strong_count() > 0);
            let made = Arc::new(Made { from, result: OnceLock::new() });
            alike.push(Arc::downgrade(&made));
            made
        })
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).held.len()
    }
}

/// A shared value that is the same only as itself: no two of equal content are ever taken for one, and none is compared.
#[derive(Clone, Debug)]
pub(crate) struct Same<T>(pub Arc<T>);

impl<T> PartialEq for Same<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Hash for Same<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_inputs_are_worked_on_once_while_the_result_is_held() {
        let memo: Memo<u32, u32> = Memo::default();
        let first = memo.get(1, || 10);
        assert_eq!(memo.get(1, || unreachable!("it is held")).result(), Some(&10));
        assert_eq!(memo.get(2, || 20).result(), Some(&20));
        drop(first);
        assert_eq!(memo.get(1, || 11).result(), Some(&11), "nobody held it any more");
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let memo: Memo<usize, usize> = Memo::default();
        for i in 0..10 * SWEPT_FROM {
            memo.get(i, || i);
        }
        assert!(memo.len() <= 2 * SWEPT_FROM);
    }
}
