//! The proxies of all zones, indexed. Pure: clocks, links and disks come in.
//!
//! ```text
//! take(zone, replica, link, Update)   --> slots, order, terms, counts; what the disk lacks
//! page(Selection, offset, size)       --> total, Found
//! tallies(), get(mesh, name)          --> counts, Found
//! ```
//!
//! A proxy has one slot, whoever tells of it. Of a zone with several replicas, the one that is connected counts for more than
//! what one has left behind, and then the one that has the proxy's stream.
use super::{
    order::Order,
    proxy::{Documents, Found, Name, Proxy, Update},
    source::Source,
    terms::{About, Slot, Term, Terms},
};
use crate::zones::naming;
use shared_api::proxies::{Selection, Status, Tally, Wanted};
use shared_model::{Timestamp, labels};
use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

/// How much one replica may tell in all, in bytes of documents: a hundred thousand usual proxies.
pub const WHOLE_MAX: usize = 512 << 20;
/// Replicas of a zone that are remembered when they have gone. A disk that is wiped comes back as another one.
const REPLICAS_KEPT: usize = 8;
/// A filter that keeps fewer than one in so many is walked itself, and put into order; else the order is walked.
const FEW: usize = 16;

/// What a hashed name has beside the plain one: a hyphen and the hash.
const HASH: usize = 17;

/// The id of a replica's disk.
pub type ReplicaId = u64;

#[derive(Debug, Default)]
pub struct Stock {
    zones: BTreeMap<Arc<str>, Zone>,
    slots: Vec<Option<Entry>>,
    free: Vec<Slot>,
    /// By mesh, name and zone.
    order: Order,
    terms: Terms,
}

#[derive(Debug, Default)]
struct Zone {
    sources: BTreeMap<ReplicaId, Source>,
    meshes: BTreeMap<Arc<str>, Counts>,
}

/// Proxies of one zone in one mesh, as their zone sees them.
#[derive(Debug, Default)]
struct Counts {
    total: u64,
    online: u64,
    partially_degraded: u64,
    /// By what is counted: all, and those that are connected.
    terms: BTreeMap<Term, (u64, u64)>,
}

#[derive(Debug)]
struct Entry {
    zone: Arc<str>,
    mesh: Arc<str>,
    name: Box<str>,
    /// Of the telling that is shown.
    status: Status,
    terms: Box<[Term]>,
    shown: ReplicaId,
    /// One, but in a zone of several replicas.
    tellings: Vec<Telling>,
}

/// What one replica says of a proxy.
#[derive(Debug)]
struct Telling {
    replica: ReplicaId,
    generation: u32,
    proxy: Arc<Documents>,
    status: Status,
}

impl Entry {
    fn place(&self, mesh: &str, name: &str, zone: &str) -> Ordering {
        (&*self.mesh, &*self.name, &*self.zone).cmp(&(mesh, name, zone))
    }
}

impl Stock {
    pub fn linked(&mut self, zone: &str, replica: ReplicaId, link: u64, instance: &str, now: Timestamp) {
        self.source_or_new(zone, replica).linked(link, instance, now);
    }

    pub fn ended(&mut self, zone: &str, replica: ReplicaId, link: u64, now: Timestamp) {
        if let Some(source) = self.source_mut(zone, replica) {
            source.ended(link, now);
        }
    }

    pub fn source(&self, zone: &str, replica: ReplicaId) -> Option<&Source> {
        self.zones.get(zone)?.sources.get(&replica)
    }

    pub fn source_mut(&mut self, zone: &str, replica: ReplicaId) -> Option<&mut Source> {
        self.zones.get_mut(zone)?.sources.get_mut(&replica)
    }

    pub fn source_or_new(&mut self, zone: &str, replica: ReplicaId) -> &mut Source {
        if !self.zones.contains_key(zone) {
            self.zones.insert(zone.into(), Zone::default());
        }
        let known = self.zones.get_mut(zone).expect("it was put there");
        known.sources.entry(replica).or_default()
    }

    pub fn sources(&self) -> impl Iterator<Item = (&Arc<str>, ReplicaId, &Source)> {
        self.zones.iter().flat_map(|(zone, known)| known.sources.iter().map(move |(id, s)| (zone, *id, s)))
    }

    /// Takes the next message of a link. The reason of an error closes it; a proxy that cannot be read is left out, and
    /// named in the answer.
    pub fn take(
        &mut self,
        zone: &str,
        replica: ReplicaId,
        link: u64,
        update: Update,
    ) -> Result<Vec<String>, String> {
        let Some(source) = self.source_mut(zone, replica).filter(|source| source.is_linked_by(link)) else {
            // It was replaced meanwhile.
            return Ok(Vec::new());
        };
        source.next(&update)?;
        let more = update.more;
        let problems = self.store(zone, replica, update);
        if !more && self.source_mut(zone, replica).is_some_and(Source::told) {
            self.sweep(zone, replica);
        }
        Ok(problems)
    }

    /// Puts in what a message says, wherever it comes from.
    pub fn store(&mut self, zone: &str, replica: ReplicaId, update: Update) -> Vec<String> {
        let Some((zone, _)) = self.zones.get_key_value(zone) else { return Vec::new() };
        let zone = zone.clone();
        for (mesh, name) in update.removed {
            if let Some(slot) = self.slot(&mesh, &name, &zone) {
                self.untell(slot, replica);
            }
        }
        let mut problems = Vec::new();
        for ((mesh, name), proxy) in update.entries {
            let told = proxy.and_then(|proxy| self.tell(&zone, replica, &mesh, &name, proxy));
            if let Err(reason) = told {
                problems.push(format!("{mesh}/{name}: {reason}"));
                // What was known of it before is not what the zone has.
                if let Some(slot) = self.slot(&mesh, &name, &zone) {
                    self.untell(slot, replica);
                }
            }
        }
        problems
    }

    fn tell(
        &mut self,
        zone: &Arc<str>,
        replica: ReplicaId,
        mesh: &str,
        name: &str,
        proxy: Proxy,
    ) -> Result<(), String> {
        let slot = self.slot(mesh, name, zone);
        let Stock { zones, slots, .. } = self;
        let source = zones.get_mut(zone).and_then(|zone| zone.sources.get_mut(&replica));
        let source = source.ok_or("its zone is not known")?;
        let known = slot.and_then(|slot| slots[slot as usize].as_mut());
        let own = known.and_then(|entry| entry.tellings.iter_mut().find(|told| told.replica == replica));
        let before = own.as_ref().filter(|told| told.generation == source.generation);
        let size = source.size - before.map_or(0, |told| told.proxy.size()) + proxy.documents.size();
        if size > WHOLE_MAX {
            return Err("the zone has told too much already".to_owned());
        }
        source.size = size;
        let telling = Telling {
            replica,
            generation: source.generation,
            proxy: proxy.documents.clone(),
            status: proxy.status,
        };
        let slot = match (slot, own) {
            (Some(_), Some(told)) if told.proxy == proxy.documents => {
                told.generation = source.generation;
                return Ok(());
            }
            (Some(slot), Some(told)) => {
                *told = telling;
                slot
            }
            (Some(slot), None) => {
                let entry = slots[slot as usize].as_mut().expect("it was found");
                entry.tellings.push(telling);
                slot
            }
            (None, _) => self.enter(zone, mesh, name, telling),
        };
        if let Some(source) = self.source_mut(zone, replica) {
            source.unwritten.changed.insert(slot);
            source.unwritten.gone.remove(&(mesh.to_owned(), name.to_owned()));
        }
        self.choose(slot, Some((replica, &proxy)));
        Ok(())
    }

    fn enter(&mut self, zone: &Arc<str>, mesh: &str, name: &str, telling: Telling) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot::try_from(self.slots.len() - 1).expect("fewer than memory holds")
        });
        let meshes = &mut self.zones.get_mut(zone).expect("its replica tells").meshes;
        let known = meshes.get_key_value(mesh).map(|(mesh, _)| mesh.clone());
        let mesh: Arc<str> = known.unwrap_or_else(|| mesh.into());
        let counts = meshes.entry(mesh.clone()).or_default();
        counts.total += 1;
        let slots = &self.slots;
        self.order.insert(slot, |other| place(slots, other, &mesh, name, zone));
        self.slots[slot as usize] = Some(Entry {
            zone: zone.clone(),
            mesh,
            name: name.into(),
            status: Status::Offline,
            terms: Box::default(),
            shown: telling.replica,
            tellings: vec![telling],
        });
        slot
    }

    /// A replica knows a proxy no more.
    fn untell(&mut self, slot: Slot, replica: ReplicaId) {
        let Some(entry) = self.slots[slot as usize].as_mut() else { return };
        let Some(index) = entry.tellings.iter().position(|told| told.replica == replica) else { return };
        let told = entry.tellings.remove(index);
        let (zone, name) = (entry.zone.clone(), (entry.mesh.to_string(), entry.name.to_string()));
        let is_last = entry.tellings.is_empty();
        if let Some(source) = self.source_mut(&zone, replica) {
            if told.generation == source.generation {
                source.size -= told.proxy.size();
            }
            source.unwritten.gone(slot, name);
        }
        match is_last {
            true => self.leave(slot),
            false => self.choose(slot, None),
        }
    }

    fn leave(&mut self, slot: Slot) {
        self.count(slot, false);
        let slots = &self.slots;
        if let Some(entry) = slots[slot as usize].as_ref() {
            self.order.remove(|other| place(slots, other, &entry.mesh, &entry.name, &entry.zone));
        }
        let Some(entry) = self.slots[slot as usize].take() else { return };
        for term in &entry.terms {
            self.terms.remove(slot, *term);
        }
        let meshes = self.zones.get_mut(&entry.zone).map(|zone| &mut zone.meshes);
        if let Some(meshes) = meshes
            && let Some(counts) = meshes.get_mut(&entry.mesh)
        {
            counts.total -= 1;
            if counts.total == 0 {
                meshes.remove(&entry.mesh);
            }
        }
        self.free.push(slot);
    }

    /// Settles which telling of a proxy is shown. `read`: the one whose facts are known already.
    fn choose(&mut self, slot: Slot, read: Option<(ReplicaId, &Proxy)>) {
        let Some(entry) = self.slots[slot as usize].as_ref() else { return };
        let sources = self.zones.get(&entry.zone).map(|zone| &zone.sources);
        let weight = |told: &&Telling| {
            let level = sources.and_then(|sources| sources.get(&told.replica)).is_some_and(Source::is_linked);
            (level, told.status != Status::Offline, told.replica == entry.shown)
        };
        let Some(best) = entry.tellings.iter().max_by_key(weight) else { return };
        let (replica, status) = (best.replica, best.status);
        let of_best = read.filter(|(read, _)| *read == replica).map(|(_, proxy)| &proxy.facts);
        let again = match of_best {
            Some(_) => None,
            None if replica == entry.shown => return,
            None => Some(best.proxy.facts(&entry.zone, &entry.mesh, &entry.name)),
        };
        let facts = of_best.or(again.as_ref());
        self.count(slot, false);
        let mut terms = Vec::new();
        for (about, key, value) in facts.into_iter().flatten() {
            terms.push(self.terms.add(slot, *about, key, value));
        }
        let Some(entry) = self.slots[slot as usize].as_mut() else { return };
        (entry.shown, entry.status) = (replica, status);
        let before = std::mem::replace(&mut entry.terms, terms.into());
        let gone = before.iter().filter(|term| !entry.terms.contains(term));
        gone.for_each(|term| self.terms.remove(slot, *term));
        self.count(slot, true);
    }

    /// Counts what a proxy is, or counts it no more.
    fn count(&mut self, slot: Slot, more: bool) {
        let Some(entry) = self.slots[slot as usize].as_ref() else { return };
        let meshes = self.zones.get_mut(&entry.zone).map(|zone| &mut zone.meshes);
        let Some(counts) = meshes.and_then(|meshes| meshes.get_mut(&entry.mesh)) else { return };
        let step = |number: &mut u64, by: bool| {
            *number = if more { *number + u64::from(by) } else { *number - u64::from(by) };
        };
        step(&mut counts.online, entry.status == Status::Online);
        step(&mut counts.partially_degraded, entry.status == Status::PartiallyDegraded);
        for term in &entry.terms {
            if !matches!(self.terms.about(*term), Some((About::KumaDp | About::Envoy | About::Backend, _))) {
                continue;
            }
            let (total, connected) = counts.terms.entry(*term).or_default();
            step(total, true);
            step(connected, entry.status != Status::Offline);
            if *total == 0 {
                counts.terms.remove(term);
            }
        }
    }

    /// What was not told again in a whole is gone. Then replicas that left something behind have nothing more to say: the
    /// zone has told all.
    fn sweep(&mut self, zone: &str, replica: ReplicaId) {
        let Some(known) = self.zones.get(zone) else { return };
        let generation = known.sources.get(&replica).map(|source| source.generation);
        let away =
            |(id, source): (&ReplicaId, &Source)| (!source.is_linked() && *id != replica).then_some(*id);
        let away: Vec<ReplicaId> = known.sources.iter().filter_map(away).collect();
        for slot in self.slots_of(zone) {
            let entry = self.slots[slot as usize].as_ref();
            let own = entry.and_then(|entry| entry.tellings.iter().find(|told| told.replica == replica));
            if own.is_some_and(|told| Some(told.generation) != generation) {
                self.untell(slot, replica);
            }
            for id in &away {
                self.untell(slot, *id);
            }
        }
        if let Some(known) = self.zones.get_mut(zone) {
            away.iter().for_each(|id| drop(known.sources.remove(id)));
        }
    }

    /// Whoever has been away for longest is forgotten when there are many.
    pub fn forget_some(&mut self, zone: &str) {
        let Some(known) = self.zones.get(zone) else { return };
        let mut away: Vec<(u64, ReplicaId)> =
            known.sources.iter().filter(|(_, s)| !s.is_linked()).map(|(id, s)| (s.newest, *id)).collect();
        away.sort_unstable();
        let gone = known.sources.len().saturating_sub(REPLICAS_KEPT).min(away.len());
        for (_, replica) in &away[..gone] {
            self.slots_of(zone).into_iter().for_each(|slot| self.untell(slot, *replica));
            if let Some(known) = self.zones.get_mut(zone) {
                known.sources.remove(replica);
            }
        }
    }

    /// Drops all that is known of a zone that is away. Answers whether there was something.
    pub fn forget(&mut self, zone: &str) -> bool {
        let away = |zone: &Zone| zone.sources.values().all(|source| !source.is_linked());
        if !self.zones.get(zone).is_some_and(away) {
            return false;
        }
        self.slots_of(zone).into_iter().for_each(|slot| self.leave(slot));
        self.zones.remove(zone);
        true
    }

    /// A link has come or gone: where several tell of a proxy, another one may be shown.
    pub fn choose_again(&mut self, zone: &str) {
        if self.zones.get(zone).is_some_and(|known| known.sources.len() > 1) {
            for slot in self.slots_of(zone) {
                let several =
                    self.slots[slot as usize].as_ref().is_some_and(|entry| entry.tellings.len() > 1);
                if several {
                    self.choose(slot, None);
                }
            }
        }
    }

    fn slots_of(&self, zone: &str) -> Vec<Slot> {
        let term = self.terms.get(About::Label, labels::ZONE, zone);
        term.map(|term| self.terms.slots(term).iter().copied().collect()).unwrap_or_default()
    }

    /// What a replica tells, for the disk.
    pub fn told_by(&self, zone: &str, replica: ReplicaId) -> Vec<(Name, Arc<Documents>)> {
        self.slots_of(zone).into_iter().filter_map(|slot| self.telling(slot, replica)).collect()
    }

    pub fn telling(&self, slot: Slot, replica: ReplicaId) -> Option<(Name, Arc<Documents>)> {
        let entry = self.slots.get(slot as usize)?.as_ref()?;
        let told = entry.tellings.iter().find(|told| told.replica == replica)?;
        Some(((entry.mesh.to_string(), entry.name.to_string()), told.proxy.clone()))
    }

    fn slot(&self, mesh: &str, name: &str, zone: &str) -> Option<Slot> {
        self.order.get(|slot| place(&self.slots, slot, mesh, name, zone))
    }
}

/// Reading.
impl Stock {
    /// How many there are of a mesh.
    pub fn len(&self, mesh: Option<&str>) -> usize {
        let (first, end) = self.range(mesh);
        end - first
    }

    /// One page of a selection, by mesh, name and zone, and how many it selects in all.
    pub fn page(&self, selection: &Selection, offset: usize, size: usize) -> (usize, Vec<Found>) {
        let (first, end) = self.range(selection.mesh.as_deref());
        // No Dataplane of this version is a gateway.
        let groups = match self.groups(selection) {
            Some(groups) if selection.gateways != Some(true) => groups,
            _ => return (0, Vec::new()),
        };
        let found = |slot| self.found(slot);
        if groups.is_empty() && selection.name.is_empty() && selection.status.is_none() {
            let page = self
                .order
                .from(first + offset.min(end - first))
                .take(size.min((end - first).saturating_sub(offset)));
            return (end - first, page.filter_map(found).collect());
        }
        let keeps = |slot: &Slot| self.keeps(*slot, selection, &groups);
        let weight =
            |group: &Vec<Term>| group.iter().map(|term| self.terms.slots(*term).len()).sum::<usize>();
        let few =
            groups.iter().min_by_key(|group| weight(group)).filter(|group| weight(group) * FEW < end - first);
        let all: Vec<Slot> = match few {
            Some(group) => {
                let slots = group.iter().flat_map(|term| self.terms.slots(*term));
                let mut slots: Vec<Slot> = slots.copied().filter(keeps).collect();
                slots.sort_unstable_by(|a, b| self.compare(*a, *b));
                slots.dedup();
                slots
            }
            None => self.order.from(first).take(end - first).filter(keeps).collect(),
        };
        (all.len(), all.iter().skip(offset).take(size).copied().filter_map(found).collect())
    }

    /// By the name that a list shows: its zone's own, or the hashed one where two zones use the same.
    pub fn get(&self, mesh: &str, name: &str) -> Option<Found> {
        let rank = self.order.rank(|slot| place(&self.slots, slot, mesh, name, ""));
        let plain = self.order.from(rank).next().and_then(|slot| self.found(slot));
        if let Some(found) = plain.filter(|found| found.mesh == mesh && found.name == name) {
            return (!found.shared).then_some(found);
        }
        let display = name.len().checked_sub(HASH).and_then(|end| name.get(..end))?;
        let key = labels::DISPLAY_NAME;
        let terms = match display.chars().count() < naming::NAME_KEPT {
            true => self.terms.get(About::Label, key, display).into_iter().collect(),
            false => self.terms.beginning(About::Label, key, display),
        };
        let named = terms.iter().flat_map(|term| self.terms.slots(*term));
        let candidates = named.filter_map(|slot| self.found(*slot)).filter(|found| found.mesh == mesh);
        candidates.map(|found| Found { shared: true, ..found }).find(|found| found.dataplane().name == name)
    }

    /// Which replica can answer questions about a proxy.
    pub fn keeper(&self, zone: &str, mesh: &str, name: &str) -> Option<ReplicaId> {
        self.slots[self.slot(mesh, name, zone)? as usize].as_ref().map(|entry| entry.shown)
    }

    pub fn tallies(&self) -> BTreeMap<String, Tally> {
        let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
        for zone in self.zones.values() {
            let here = zone.sources.values().any(Source::is_level);
            for (mesh, counts) in &zone.meshes {
                tallies.entry(mesh.to_string()).or_default().add(&counts.tally(here, &self.terms));
            }
        }
        tallies
    }

    /// The terms of which a proxy has one of each group. None when nobody can.
    fn groups(&self, selection: &Selection) -> Option<Vec<Vec<Term>>> {
        let mut groups = Vec::new();
        let mut labels: Vec<(&str, &str)> =
            selection.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        if !selection.zone.is_empty() {
            labels.push((labels::ZONE, &selection.zone));
        }
        for (key, value) in labels {
            groups.push(vec![self.terms.get(About::Label, key, value)?]);
        }
        for (key, part) in &selection.tags {
            let mut terms = self.terms.containing(About::Tag, key, part);
            terms.sort_unstable();
            groups.push(Some(terms).filter(|terms| !terms.is_empty())?);
        }
        Some(groups)
    }

    fn keeps(&self, slot: Slot, selection: &Selection, groups: &[Vec<Term>]) -> bool {
        let Some(entry) = self.slots[slot as usize].as_ref() else { return false };
        let has = |group: &Vec<Term>| entry.terms.iter().any(|term| group.binary_search(term).is_ok());
        selection.mesh.as_deref().is_none_or(|mesh| *mesh == *entry.mesh)
            && groups.iter().all(has)
            && entry.name.contains(&selection.name)
            && selection.status.is_none_or(|wanted| {
                let here = self.source(&entry.zone, entry.shown).is_some_and(Source::is_level);
                match wanted {
                    Wanted::Stale => !here,
                    Wanted::Is(Status::Offline) => !here || entry.status == Status::Offline,
                    Wanted::Is(status) => here && entry.status == status,
                }
            })
    }

    fn found(&self, slot: Slot) -> Option<Found> {
        let entry = self.slots[slot as usize].as_ref()?;
        let told = entry.tellings.iter().find(|told| told.replica == entry.shown)?;
        let source = self.source(&entry.zone, entry.shown)?;
        let rank = self.order.rank(|slot| place(&self.slots, slot, &entry.mesh, &entry.name, ""));
        let of_name = |slot: &Slot| {
            let other = self.slots[*slot as usize].as_ref();
            other.is_some_and(|other| (&other.mesh, &other.name) == (&entry.mesh, &entry.name))
        };
        Some(Found {
            zone: entry.zone.to_string(),
            mesh: entry.mesh.to_string(),
            name: entry.name.to_string(),
            shared: self.order.from(rank).take(2).filter(of_name).count() > 1,
            documents: told.proxy.clone(),
            age: source.age(),
        })
    }

    /// Ranks of the first of a mesh, and of who comes after the last.
    fn range(&self, mesh: Option<&str>) -> (usize, usize) {
        let Some(mesh) = mesh else { return (0, self.order.len()) };
        let against = |slot: Slot| self.slots[slot as usize].as_ref().map(|entry| (*entry.mesh).cmp(mesh));
        let first = self.order.rank(|slot| against(slot).unwrap_or(Ordering::Less));
        let end = self.order.rank(|slot| match against(slot) {
            Some(Ordering::Greater) => Ordering::Greater,
            _ => Ordering::Less,
        });
        (first, end)
    }

    fn compare(&self, a: Slot, b: Slot) -> Ordering {
        match &self.slots[b as usize] {
            Some(b) => place(&self.slots, a, &b.mesh, &b.name, &b.zone),
            None => a.cmp(&b),
        }
    }
}

impl Counts {
    fn tally(&self, here: bool, terms: &Terms) -> Tally {
        let mut tally = Tally {
            total: self.total,
            online: if here { self.online } else { 0 },
            partially_degraded: if here { self.partially_degraded } else { 0 },
            stale: if here { 0 } else { self.total },
            ..Tally::default()
        };
        for (term, (total, connected)) in &self.terms {
            let Some((about, value)) = terms.about(*term) else { continue };
            let counted = match about {
                About::KumaDp => &mut tally.kuma_dp,
                About::Envoy => &mut tally.envoy,
                _ => &mut tally.backends,
            };
            counted.insert(value.to_owned(), (*total, if here { *connected } else { 0 }));
        }
        tally
    }
}

fn place(slots: &[Option<Entry>], slot: Slot, mesh: &str, name: &str, zone: &str) -> Ordering {
    // Whoever is in the order has an entry.
    slots[slot as usize].as_ref().map_or(Ordering::Less, |entry| entry.place(mesh, name, zone))
}

#[cfg(test)]
mod tests;
