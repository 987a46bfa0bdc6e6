//! Which policies select which proxies, and which speak of which destinations. One policy that changes is looked at
//! beside each proxy and each destination, and the others are not looked at.
use super::lookups::watching_proxies;
use super::mesh::MeshIndex;
use crate::outlook::{Held, Place, Scope, Selection};
use crate::{Destination, DestinationKey};
use shared_model::ResourceKey;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

impl MeshIndex {
    pub(super) fn settle_selections(&mut self) {
        self.speak();
        let changed: Vec<ResourceKey> = self.marks.policies.keys().cloned().collect();
        let before: Vec<_> = changed.iter().map(|id| self.routes.remove(id)).collect();
        let old: Vec<Arc<Held>> = self.marks.policies.values().flatten().cloned().collect();
        let current: Vec<Arc<Held>> =
            changed.iter().filter_map(|id| self.room.policies.get(id)).cloned().collect();
        let names: Vec<Arc<str>> = match changed.is_empty() {
            true => self.marks.selection_of.iter().cloned().collect(),
            false => self.room.proxies.keys().cloned().collect(),
        };
        let mut successors: BTreeMap<(usize, Vec<u64>), Arc<Selection>> = BTreeMap::new();
        let mut concerned: BTreeMap<u64, Option<BTreeSet<Arc<str>>>> = BTreeMap::new();
        for name in names {
            let Some(proxy) = self.room.proxies.get(&name) else { continue };
            let facts = proxy.body.facts(&self.zone);
            let selects = |held: &&Arc<Held>| held.policy.selects(&facts);
            let before = &proxy.selection;
            let other_facts = self.marks.selection_of.contains(&name);
            let (gone, new, selection) = if other_facts {
                let now = Selection::of(self.room.policies.values().filter(selects).cloned());
                let (gone, new) = before.difference(&now);
                (gone, new, self.selections.of(hash(&now), now))
            } else {
                let gone: Vec<_> = old.iter().filter(|held| before.has(held.number)).cloned().collect();
                let new: Vec<_> = current.iter().filter(selects).cloned().collect();
                if gone.is_empty() && new.is_empty() {
                    continue;
                }
                let place = (Arc::as_ptr(before) as usize, new.iter().map(|held| held.number).collect());
                let selections = &mut self.selections;
                let successor = successors.entry(place).or_insert_with(|| {
                    let now = before.with(&gone, &new);
                    selections.of(hash(&now), now)
                });
                let successor = successor.clone();
                (gone, new, successor)
            };
            for held in &new {
                self.routes.add(held, &facts, |key| self.room.destination(key));
            }
            // One with other facts is touched by these.
            let mut is_concerned = |held: &Arc<Held>| {
                let clients = concerned.entry(held.number).or_insert_with(|| self.concerned_by(held));
                clients.as_ref().is_none_or(|clients| clients.contains(&name))
            };
            let touches = !other_facts && gone.iter().chain(&new).any(&mut is_concerned);
            let reroutes = routing(&gone) != routing(&new);
            for (held, step) in gone.iter().map(|held| (held, -1)).chain(new.iter().map(|held| (held, 1))) {
                *self.marks.matched.entry(held.id.clone()).or_default() += step;
            }
            if let Some(proxy) = self.room.proxies.get_mut(&name) {
                Arc::make_mut(proxy).selection = selection;
            }
            if reroutes {
                self.marks.reach_of.insert(name.clone());
            }
            if touches {
                self.marks.touched.insert(name);
            }
        }
        for (id, before) in changed.iter().zip(before) {
            for key in difference(&before, &self.routes.said(id)) {
                self.marks.reach_of.extend(watching_proxies(&self.lookups, key).cloned());
            }
        }
        for (id, step) in std::mem::take(&mut self.marks.matched) {
            let before = self.room.matched.get(&id).copied().unwrap_or_default();
            match before.saturating_add_signed(step as isize) {
                0 => self.room.matched.remove(&id),
                now => self.room.matched.insert(id, now),
            };
        }
    }

    /// The proxies to which a policy says something, if it selects them; `None`: all.
    fn concerned_by(&self, held: &Held) -> Option<BTreeSet<Arc<str>>> {
        let speaks = |place: &&Place| held.policy.concerns([place.destination.target()]);
        match held.scope {
            Scope::Any => None,
            Scope::Nothing => Some(BTreeSet::new()),
            Scope::Some => {
                let keys = self.room.places.values().filter(speaks).map(|place| &place.destination.key);
                Some(keys.flat_map(|key| watching_proxies(&self.lookups, key)).cloned().collect())
            }
        }
    }

    /// Puts down of which destinations the policies speak that have changed.
    fn speak(&mut self) {
        for (id, before) in &self.marks.policies {
            let now = self.room.policies.get(id).filter(|held| held.scope == Scope::Some);
            let before = before.as_ref().filter(|held| held.scope == Scope::Some);
            if now.is_none() && before.is_none() {
                continue;
            }
            let speaks = |held: &Option<&Arc<Held>>, place: &Place| {
                held.is_some_and(|held| held.policy.concerns([place.destination.target()]))
            };
            let differs = |place: &Place| speaks(&before, place) || speaks(&now, place);
            let differing: Vec<(u64, Place)> = self
                .room
                .places
                .iter()
                .filter(|(_, place)| differs(place))
                .map(|(number, place)| (*number, place.clone()))
                .collect();
            for (number, mut place) in differing {
                let now = now.filter(|_| speaks(&now, &place));
                let stays = |held: &&Arc<Held>| before.is_none_or(|before| before.number != held.number);
                place.spoken = Arc::new(place.spoken.iter().filter(stays).chain(now).cloned().collect());
                self.room.places.insert(number, place);
                self.room.stamp += 1;
            }
        }
    }

    /// Puts down a destination that is new or says something else. `moved`: its endpoints are all that is new.
    pub(super) fn place(&mut self, destination: Arc<Destination>, moved: bool) {
        let number = match self.room.destinations.get(&destination.key) {
            Some(number) => *number,
            None => {
                let number = self.number();
                self.room.destinations.insert(destination.key.clone(), number);
                number
            }
        };
        let spoken = self.room.places.get(&number).filter(|_| moved).map(|place| place.spoken.clone());
        let spoken = spoken.unwrap_or_else(|| {
            let speaks = |held: &&Arc<Held>| held.policy.concerns([destination.target()]);
            Arc::new(self.speaking_of_some.values().filter(speaks).cloned().collect())
        });
        self.room.places.insert(number, Place { destination, spoken });
        self.room.stamp += 1;
    }

    pub(super) fn displace(&mut self, key: &DestinationKey) {
        if let Some(number) = self.room.destinations.remove(key) {
            self.room.places.remove(&number);
            self.room.stamp += 1;
        }
    }
}

fn hash(selection: &Selection) -> u64 {
    let mut hasher = DefaultHasher::new();
    selection.numbers().for_each(|number| number.hash(&mut hasher));
    hasher.finish()
}

/// The policies with routes in force.
fn routing(list: &[Arc<Held>]) -> BTreeSet<&ResourceKey> {
    let routes = |held: &&Arc<Held>| held.scope != Scope::Nothing && !held.lookups.is_empty();
    list.iter().filter(routes).map(|held| &held.id).collect()
}

/// The keys under which the two differ.
fn difference<'a, T: PartialEq>(
    a: &'a BTreeMap<DestinationKey, T>,
    b: &'a BTreeMap<DestinationKey, T>,
) -> Vec<&'a DestinationKey> {
    let changed = a.iter().filter(|(key, value)| b.get(*key) != Some(value));
    let added = b.iter().filter(|(key, _)| !a.contains_key(*key));
    changed.chain(added).map(|(key, _)| key).collect()
}
