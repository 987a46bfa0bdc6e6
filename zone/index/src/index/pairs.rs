//! Sets by a pair of key and value: proxies by tag, services by label of their selector.
use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(super) struct ByPair<T>(BTreeMap<String, BTreeMap<String, BTreeSet<T>>>);

impl<T> Default for ByPair<T> {
    fn default() -> Self {
        ByPair(BTreeMap::new())
    }
}

impl<T: Ord> ByPair<T> {
    pub fn insert(&mut self, key: &str, value: &str, item: T) {
        if !self.0.contains_key(key) {
            self.0.insert(key.to_owned(), BTreeMap::new());
        }
        let values = self.0.get_mut(key).expect("it was put there if it was absent");
        match values.get_mut(value) {
            Some(set) => {
                set.insert(item);
            }
            None => {
                values.insert(value.to_owned(), BTreeSet::from([item]));
            }
        }
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &str, value: &str, item: &Q)
    where
        T: Borrow<Q>,
    {
        let Some(values) = self.0.get_mut(key) else { return };
        let Some(set) = values.get_mut(value) else { return };
        set.remove(item);
        if set.is_empty() {
            values.remove(value);
        }
        if values.is_empty() {
            self.0.remove(key);
        }
    }

    pub fn get(&self, key: &str, value: &str) -> Option<&BTreeSet<T>> {
        self.0.get(key)?.get(value)
    }

    pub fn iter(&self, key: &str, value: &str) -> impl Iterator<Item = &T> {
        self.get(key, value).into_iter().flatten()
    }
}
