//! The state: resources, their order of change, tombstones, and when recent revisions were made.
use crate::{
    Command, Divergence, Epoch, Expected, Outcome, Refusal,
    epoch::{self, Beginning, EPOCHS_KEPT},
};
use imbl::{OrdMap, OrdSet};
use shared_model::{Resource, ResourceKey, Revision, Timestamp, kind};
use std::sync::Arc;

pub(crate) mod history;
#[cfg(test)]
mod tests;

pub use history::{AsOf, Operation, Retention, Untold, Version};

use history::History;

/// How many deletions are remembered. A follower that is further behind compares with the whole.
pub const TOMBSTONES_KEPT: usize = 100_000;

/// Of how many revisions the time is remembered: those whose propagation somebody may still watch.
pub const APPLIED_KEPT: usize = 10_000;

/// How many outcomes of [`Command::Once`] are remembered: some seconds of the highest rate, hours of a usual one.
pub const ANSWERS_KEPT: usize = 32_768;

/// Whether the meshes of mesh-scoped resources are in the same catalog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Meshes {
    /// A resource of a mesh that is not in the catalog is refused: global, and a standalone zone.
    #[default]
    Here,
    /// Not checked: the own resources of a federated zone, whose meshes are global's.
    Elsewhere,
}

/// A key as the maps hold it: a writer whose copy is shared copies some hundred keys for each change, and so copies counts.
pub(crate) type Key = Arc<ResourceKey>;

/// The replicated state. A clone shares all structure and costs nothing; writers change their copy in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    pub(crate) meshes: Meshes,
    pub(crate) revision: Revision,
    pub(crate) resources: OrdMap<Key, Arc<Resource>>,
    /// The same resources in the order of their revisions. A revision writes at most one resource.
    pub(crate) written: OrdMap<Revision, Arc<Resource>>,
    /// One revision deletes many when it deletes a mesh.
    pub(crate) tombstones: OrdSet<(Revision, Key)>,
    /// Tombstones up to this revision may be forgotten.
    pub(crate) horizon: Revision,
    /// Milliseconds since 1970 of the commands that made the newest revisions.
    pub(crate) applied: OrdMap<Revision, i64>,
    /// What became of the commands with a key, each with its place in the order.
    pub(crate) answers: OrdMap<[u8; 16], (u64, Outcome)>,
    pub(crate) answered: OrdMap<u64, [u8; 16]>,
    pub(crate) history: History,
    /// How each epoch but the first began, oldest first.
    pub(crate) lineage: Vec<Beginning>,
    /// Zones that may follow into the present epoch whatever they have seen.
    pub(crate) accepted: OrdSet<String>,
}

/// One step of the feed.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Put(Arc<Resource>),
    Deleted { key: ResourceKey, revision: Revision },
}

impl Change {
    pub fn key(&self) -> ResourceKey {
        match self {
            Change::Put(resource) => resource.key(),
            Change::Deleted { key, .. } => key.clone(),
        }
    }

    pub fn revision(&self) -> Revision {
        match self {
            Change::Put(resource) => resource.revision,
            Change::Deleted { revision, .. } => *revision,
        }
    }
}

impl Catalog {
    pub fn new() -> Catalog {
        Catalog::default()
    }

    pub fn with_meshes(meshes: Meshes) -> Catalog {
        Catalog { meshes, ..Catalog::default() }
    }

    pub fn meshes(&self) -> Meshes {
        self.meshes
    }

    /// Changes the rule for later commands; what is stored stays. Never on a replicated catalog: it is no command.
    pub fn set_meshes(&mut self, meshes: Meshes) {
        self.meshes = meshes;
    }

    /// The newest revision; 0 before the first change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn len(&self) -> usize {
        self.resources.len()
    }

    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<Resource>> {
        self.resources.get(key)
    }

    /// The resources of a kind, of one mesh or of all, ordered by mesh and name. Global kinds are in mesh `""`.
    pub fn list<'a>(
        &'a self,
        kind: &'a str,
        mesh: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.resources
            .range(ResourceKey::new(kind, mesh.unwrap_or_default(), "")..)
            .take_while(move |(key, _)| key.kind == kind && mesh.is_none_or(|mesh| key.mesh == mesh))
            .map(|(_, resource)| resource)
    }

    /// All resources, ordered by kind, mesh and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// When the command that made the revision was given. None for a revision that is too old or not made yet.
    pub fn applied_at(&self, revision: Revision) -> Option<Timestamp> {
        self.applied.get(&revision).map(|at_ms| time(*at_ms))
    }

    /// What leads from the catalog at `revision` to this one, by revision. None: too much is forgotten, or this
    /// catalog has never been at `revision`; the follower compares with the whole.
    pub fn changes_since(&self, revision: Revision) -> Option<Vec<Change>> {
        if revision < self.horizon || revision > self.revision {
            return None;
        }
        let next = revision.next();
        let mut puts = self.written.range(next..).map(|(_, resource)| resource).peekable();
        let mut graves = self.tombstones.range((next, Key::default())..).peekable();
        let mut changes = Vec::new();
        loop {
            let put_is_next = match (puts.peek(), graves.peek()) {
                (None, None) => return Some(changes),
                (Some(put), Some((deleted, _))) => put.revision < *deleted,
                (put, _) => put.is_some(),
            };
            if put_is_next {
                changes.extend(puts.next().map(|resource| Change::Put(resource.clone())));
            } else {
                changes.extend(
                    graves
                        .next()
                        .map(|(revision, key)| Change::Deleted { key: (**key).clone(), revision: *revision }),
                );
            }
        }
    }

    /// What is known to have been stored under a key, newest first.
    pub fn history(&self, key: &ResourceKey) -> Result<Vec<Version>, Untold> {
        History::check_kind(&key.kind)?;
        Ok(self.history.versions(key, self.get(key)))
    }

    /// From this revision on the state at any one can be told.
    pub fn oldest_retained(&self) -> Revision {
        self.history.horizon
    }

    pub fn retention(&self) -> Retention {
        self.history.limits
    }

    /// What was stored under a key at a revision.
    pub fn as_of(&self, key: &ResourceKey, revision: Revision) -> Result<AsOf, Untold> {
        History::check_kind(&key.kind)?;
        self.history.check(revision, self.revision)?;
        Ok(self.history.as_of(key, self.get(key), revision))
    }

    /// What was written after one revision, up to another; without what has no history. Sorted.
    pub fn touched_between(&self, after: Revision, until: Revision) -> Result<Vec<ResourceKey>, Untold> {
        self.history.check(after, self.revision)?;
        self.history.check(until, self.revision)?;
        let mut touched = self.history.touched(after, until);
        if after < until {
            let now = self.written.range(after.next()..=until).map(|(_, resource)| resource.key());
            touched.extend(now.filter(|key| History::check_kind(&key.kind).is_ok()));
        }
        Ok(touched.into_iter().collect())
    }

    pub fn epoch(&self) -> Epoch {
        self.lineage.last().map_or(Epoch::FIRST, |beginning| beginning.epoch)
    }

    /// Begins a new epoch: what a restore does, and never a command. `first` is above all that the present epoch can have
    /// given out; who was anywhere in that epoch compares with the whole.
    pub fn begin_epoch(&mut self, mark: u32, first: Revision) {
        let after = self.revision;
        let first = first.max(after.next());
        let epoch = Epoch { number: self.epoch().number + 1, mark };
        self.lineage.push(Beginning { epoch, after, first });
        let forgotten = self.lineage.len().saturating_sub(EPOCHS_KEPT);
        self.lineage.drain(..forgotten);
        self.accepted.clear();
        self.tombstones.clear();
        (self.revision, self.horizon) = (first, first);
    }

    /// The last revision of another epoch that belongs to the present one too.
    pub fn shared_until(&self, epoch: Epoch) -> Option<Revision> {
        epoch::shared_until(&self.lineage, epoch)
    }

    pub fn has_accepted(&self, zone: &str) -> bool {
        self.accepted.contains(zone)
    }

    /// Whether a follower that was at `seen` in `epoch` may go on with this catalog: everything that it has seen is part
    /// of it. What it may have seen beyond the newest revision of the present epoch is not judged here.
    pub fn continues(&self, epoch: Epoch, seen: Revision) -> Result<(), Divergence> {
        let now = self.epoch();
        match self.shared_until(epoch) {
            Some(after) if seen <= after => Ok(()),
            Some(after) => Err(Divergence::Later { seen, epoch, after, now }),
            None if seen == Revision(0) => Ok(()),
            None => Err(Divergence::Elsewhere { seen, epoch, now }),
        }
    }

    /// Takes a command. A command that changes something makes the next revision; any other makes none.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        self.apply_by(command, "")
    }

    fn apply_by(&mut self, command: &Command, by: &str) -> Outcome {
        let outcome = match command {
            Command::Put { resource, expected, at_ms } => self.put(resource, *expected, *at_ms, by),
            Command::Delete { key, expected, at_ms } => self.delete(key, *expected, *at_ms, by),
            Command::Once { key, command } => return self.once(key, command, by),
            Command::By { user, command } => return self.apply_by(command, user),
            Command::AcceptEpoch { zone, epoch, at_ms } => self.accept(zone, *epoch, *at_ms),
            Command::Retain(limits) => {
                self.history.set_limits(*limits);
                Ok(Outcome::Unchanged { revision: self.revision })
            }
        };
        outcome.unwrap_or_else(Outcome::Refused)
    }

    fn accept(&mut self, zone: &str, epoch: Epoch, at_ms: i64) -> Result<Outcome, Refusal> {
        if !self.resources.contains_key(&ResourceKey::new(kind::ZONE, "", zone)) {
            return Err(Refusal::NotFound);
        }
        if epoch != self.epoch() {
            return Err(Refusal::OtherEpoch(self.epoch()));
        }
        if self.accepted.insert(zone.to_owned()).is_some() {
            return Ok(Outcome::Unchanged { revision: self.revision });
        }
        Ok(Outcome::Stored { revision: self.step(at_ms), created: true })
    }

    fn once(&mut self, key: &[u8; 16], command: &Command, by: &str) -> Outcome {
        if let Some((_, outcome)) = self.answers.get(key) {
            return outcome.clone();
        }
        let outcome = self.apply_by(command, by);
        self.remember(*key, outcome.clone());
        outcome
    }

    pub(crate) fn remember(&mut self, key: [u8; 16], outcome: Outcome) {
        let place = self.answered.get_max().map_or(0, |(place, _)| place + 1);
        self.answers.insert(key, (place, outcome));
        self.answered.insert(place, key);
        while self.answered.len() > ANSWERS_KEPT {
            let Some(oldest) = self.answered.get_min().map(|(place, _)| *place) else { break };
            if let Some(key) = self.answered.remove(&oldest) {
                self.answers.remove(&key);
            }
        }
    }

    fn put(&mut self, bytes: &[u8], expected: Expected, at_ms: i64, by: &str) -> Result<Outcome, Refusal> {
        let mut resource: Resource =
            serde_json::from_slice(bytes).map_err(|error| Refusal::Malformed(error.to_string()))?;
        if self.meshes == Meshes::Here && !resource.mesh.is_empty() {
            let mesh = ResourceKey::new(kind::MESH, "", resource.mesh.as_str());
            if !self.resources.contains_key(&mesh) {
                return Err(Refusal::UnknownMesh(resource.mesh));
            }
        }
        let key = Key::new(resource.key());
        let before = self.resources.get(&*key).cloned();
        check(expected, before.as_deref())?;
        if let Some(before) = before.as_deref().filter(|before| before.same_content(&resource)) {
            return Ok(Outcome::Unchanged { revision: before.revision });
        }
        let revision = self.step(at_ms);
        resource.creation_time = before.as_deref().map_or(time(at_ms), |before| before.creation_time);
        resource.modification_time = time(at_ms);
        resource.revision = revision;
        if let Some(before) = &before {
            self.written.remove(&before.revision);
            self.history.replaced(&key, before, revision);
        }
        let resource = Arc::new(resource);
        self.history.written(&resource, by, bytes.len());
        self.written.insert(revision, resource.clone());
        self.resources.insert(key, resource);
        Ok(Outcome::Stored { revision, created: before.is_none() })
    }

    fn delete(
        &mut self,
        key: &ResourceKey,
        expected: Expected,
        at_ms: i64,
        by: &str,
    ) -> Result<Outcome, Refusal> {
        let before = self.resources.get(key).ok_or(Refusal::NotFound)?;
        check(expected, Some(before))?;
        let mut doomed = vec![Key::new(key.clone())];
        if key.kind == kind::MESH {
            let dataplanes = self.list(kind::DATAPLANE, Some(&key.name)).count() as u64;
            if dataplanes > 0 {
                return Err(Refusal::MeshInUse { dataplanes });
            }
            doomed.extend(self.resources.keys().filter(|other| other.mesh == key.name).cloned());
        }
        let revision = self.step(at_ms);
        for key in doomed {
            if let Some(resource) = self.resources.remove(&*key) {
                self.written.remove(&resource.revision);
                self.history.replaced(&key, &resource, revision);
                self.history.deleted(&key, revision, at_ms, by);
                self.tombstones.insert((revision, key));
            }
        }
        while self.tombstones.len() > TOMBSTONES_KEPT {
            if let Some((forgotten, _)) = self.tombstones.remove_min() {
                self.horizon = forgotten;
            }
        }
        Ok(Outcome::Deleted { revision })
    }

    fn step(&mut self, at_ms: i64) -> Revision {
        self.revision = self.revision.next();
        self.applied.insert(self.revision, at_ms);
        while self.applied.len() > APPLIED_KEPT {
            let Some(oldest) = self.applied.get_min().map(|(revision, _)| *revision) else { break };
            self.applied.remove(&oldest);
        }
        self.revision
    }
}

fn check(expected: Expected, stored: Option<&Resource>) -> Result<(), Refusal> {
    let actual = stored.map_or(Revision(0), |resource| resource.revision);
    match expected {
        Expected::Any => Ok(()),
        Expected::At(revision) if actual == Revision(revision) => Ok(()),
        Expected::At(_) => Err(Refusal::Conflict { actual }),
        Expected::Absent if stored.is_none() => Ok(()),
        Expected::Absent => Err(Refusal::Exists { revision: actual }),
    }
}

/// Every replica must read and write a time alike, so one that has no year of four digits becomes 1970.
fn time(at_ms: i64) -> Timestamp {
    const YEAR_10000_MS: i64 = 253_402_300_800_000;
    let written_alike = (0..YEAR_10000_MS).contains(&at_ms);
    Timestamp::from_timestamp_millis(at_ms).filter(|_| written_alike).unwrap_or(Timestamp::UNIX_EPOCH)
}
