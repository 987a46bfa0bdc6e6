//! The state: resources, their order of change, tombstones, and when recent revisions were made.
use crate::{Command, Expected, Outcome, Refusal};
use imbl::{OrdMap, OrdSet};
use shared_model::{Resource, ResourceKey, Revision, Timestamp, kind};
use std::sync::Arc;

#[cfg(test)]
mod tests;

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

/// The replicated state. A clone shares all structure and costs nothing; writers change their copy in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    pub(crate) meshes: Meshes,
    pub(crate) revision: Revision,
    pub(crate) resources: OrdMap<ResourceKey, Arc<Resource>>,
    /// The same resources in the order of their revisions. A revision writes at most one resource.
    pub(crate) written: OrdMap<Revision, Arc<Resource>>,
    /// One revision deletes many when it deletes a mesh.
    pub(crate) tombstones: OrdSet<(Revision, ResourceKey)>,
    /// Tombstones up to this revision may be forgotten.
    pub(crate) horizon: Revision,
    /// Milliseconds since 1970 of the commands that made the newest revisions.
    pub(crate) applied: OrdMap<Revision, i64>,
    /// What became of the commands with a key, each with its place in the order.
    pub(crate) answers: OrdMap<[u8; 16], (u64, Outcome)>,
    pub(crate) answered: OrdMap<u64, [u8; 16]>,
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
        let mut graves = self.tombstones.range((next, ResourceKey::new("", "", ""))..).peekable();
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
                        .map(|(revision, key)| Change::Deleted { key: key.clone(), revision: *revision }),
                );
            }
        }
    }

    /// Takes a command. A command that changes something makes the next revision; any other makes none.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        let outcome = match command {
            Command::Put { resource, expected, at_ms } => self.put(resource, *expected, *at_ms),
            Command::Delete { key, expected, at_ms } => self.delete(key, *expected, *at_ms),
            Command::Once { key, command } => return self.once(key, command),
        };
        outcome.unwrap_or_else(Outcome::Refused)
    }

    fn once(&mut self, key: &[u8; 16], command: &Command) -> Outcome {
        if let Some((_, outcome)) = self.answers.get(key) {
            return outcome.clone();
        }
        let outcome = self.apply(command);
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

    fn put(&mut self, resource: &[u8], expected: Expected, at_ms: i64) -> Result<Outcome, Refusal> {
        let mut resource: Resource =
            serde_json::from_slice(resource).map_err(|error| Refusal::Malformed(error.to_string()))?;
        if self.meshes == Meshes::Here && !resource.mesh.is_empty() {
            let mesh = ResourceKey::new(kind::MESH, "", resource.mesh.as_str());
            if !self.resources.contains_key(&mesh) {
                return Err(Refusal::UnknownMesh(resource.mesh));
            }
        }
        let key = resource.key();
        let before = self.resources.get(&key).cloned();
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
        }
        let resource = Arc::new(resource);
        self.written.insert(revision, resource.clone());
        self.resources.insert(key, resource);
        Ok(Outcome::Stored { revision, created: before.is_none() })
    }

    fn delete(&mut self, key: &ResourceKey, expected: Expected, at_ms: i64) -> Result<Outcome, Refusal> {
        let before = self.resources.get(key).ok_or(Refusal::NotFound)?;
        check(expected, Some(before))?;
        let mut doomed = vec![key.clone()];
        if key.kind == kind::MESH {
            let dataplanes = self.list(kind::DATAPLANE, Some(&key.name)).count() as u64;
            if dataplanes > 0 {
                return Err(Refusal::MeshInUse { dataplanes });
            }
            doomed.extend(self.resources.keys().filter(|other| other.mesh == key.name).cloned());
        }
        let revision = self.step(at_ms);
        for key in doomed {
            if let Some(resource) = self.resources.remove(&key) {
                self.written.remove(&resource.revision);
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
