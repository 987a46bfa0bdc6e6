//! What proxies are found by: labels, tags, versions. Each pair is kept once, with the slots of those that have it.
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

/// Where a proxy is kept.
pub type Slot = u32;
/// A pair of key and value, once for all who have it.
pub type Term = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    Label,
    /// Of an inbound.
    Tag,
    /// Versions of what runs, and who issued the certificate: they are counted. Their keys are empty.
    KumaDp,
    Envoy,
    Backend,
}

const ABOUTS: usize = 5;

type Values = BTreeMap<Arc<str>, Term>;

#[derive(Debug, Default)]
pub struct Terms {
    by_key: [BTreeMap<Arc<str>, Values>; ABOUTS],
    known: Vec<Option<Known>>,
    free: Vec<Term>,
}

#[derive(Debug)]
struct Known {
    about: About,
    key: Arc<str>,
    value: Arc<str>,
    slots: BTreeSet<Slot>,
}

impl Terms {
    /// Says that the one in `slot` has this.
    pub fn add(&mut self, slot: Slot, about: About, key: &str, value: &str) -> Term {
        let values = &mut self.by_key[about as usize];
        let found = values.get(key).and_then(|values| values.get(value)).copied();
        let term = found.unwrap_or_else(|| {
            let key = values.get_key_value(key).map_or_else(|| Arc::from(key), |(key, _)| key.clone());
            let value: Arc<str> = value.into();
            let known = Known { about, key: key.clone(), value: value.clone(), slots: BTreeSet::new() };
            let term = self.free.pop().unwrap_or_else(|| {
                self.known.push(None);
                Term::try_from(self.known.len() - 1).expect("fewer than memory holds")
            });
            self.known[term as usize] = Some(known);
            values.entry(key).or_default().insert(value, term);
            term
        });
        if let Some(known) = &mut self.known[term as usize] {
            known.slots.insert(slot);
        }
        term
    }

    /// The one in `slot` has this no more.
    pub fn remove(&mut self, slot: Slot, term: Term) {
        let Some(Some(known)) = self.known.get_mut(term as usize) else { return };
        known.slots.remove(&slot);
        if !known.slots.is_empty() {
            return;
        }
        let values = &mut self.by_key[known.about as usize];
        if let Some(of_key) = values.get_mut(&known.key) {
            of_key.remove(&known.value);
            if of_key.is_empty() {
                values.remove(&known.key);
            }
        }
        self.known[term as usize] = None;
        self.free.push(term);
    }

    pub fn get(&self, about: About, key: &str, value: &str) -> Option<Term> {
        self.by_key[about as usize].get(key)?.get(value).copied()
    }

    /// All of a key whose value contains `part`.
    pub fn containing(&self, about: About, key: &str, part: &str) -> Vec<Term> {
        let values = self.by_key[about as usize].get(key).into_iter().flatten();
        values.filter(|(value, _)| value.contains(part)).map(|(_, term)| *term).collect()
    }

    /// All of a key whose value begins with `start`.
    pub fn beginning(&self, about: About, key: &str, start: &str) -> Vec<Term> {
        let values = self.by_key[about as usize].get(key);
        let from = |values: &Values| {
            let from = values.range::<str, _>((Bound::Included(start), Bound::Unbounded));
            from.take_while(|(value, _)| value.starts_with(start)).map(|(_, term)| *term).collect()
        };
        values.map(from).unwrap_or_default()
    }

    pub fn slots(&self, term: Term) -> &BTreeSet<Slot> {
        static NONE: BTreeSet<Slot> = BTreeSet::new();
        self.known.get(term as usize).and_then(Option::as_ref).map_or(&NONE, |known| &known.slots)
    }

    pub fn about(&self, term: Term) -> Option<(About, &str)> {
        self.known.get(term as usize)?.as_ref().map(|known| (known.about, &*known.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_kept_once_and_goes_with_the_last_who_has_it() {
        let mut terms = Terms::default();
        let web = terms.add(1, About::Tag, "kuma.io/service", "web");
        assert_eq!(terms.add(2, About::Tag, "kuma.io/service", "web"), web);
        let webshop = terms.add(2, About::Tag, "kuma.io/service", "web-shop");
        assert_ne!(terms.add(2, About::Label, "kuma.io/service", "web"), web);
        assert_eq!(terms.slots(web).iter().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(terms.containing(About::Tag, "kuma.io/service", "eb-s"), [webshop]);
        assert_eq!(terms.beginning(About::Tag, "kuma.io/service", "web"), [web, webshop]);
        assert!(terms.containing(About::Tag, "version", "").is_empty());
        terms.remove(1, web);
        assert_eq!(terms.get(About::Tag, "kuma.io/service", "web"), Some(web));
        terms.remove(2, web);
        terms.remove(2, webshop);
        assert_eq!(terms.get(About::Tag, "kuma.io/service", "web"), None);
        assert!(terms.by_key[About::Tag as usize].is_empty() && terms.slots(web).is_empty());
        // Its number is given out again.
        assert!([web, webshop].contains(&terms.add(1, About::Envoy, "", "1.30")));
    }
}
