//! Former versions of resources, for `history`, `diff` and `rollback`. They are part of the replicated state: every replica
//! remembers and forgets the same ones.
//!
//! A version is forgotten in the order in which versions were replaced, so there is one revision, the horizon, from which
//! on the state at any revision can be told, and before which it cannot. What a command took in the log is what a version
//! counts: the same number everywhere, whatever version of the program counts.
//!
//! Of a Dataplane nothing is kept (they come and go with processes), of a secret only that it was written: what was
//! deleted or replaced must be gone.
use super::{Key, time};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use shared_model::{Resource, ResourceKey, Revision, Timestamp, kind};
use std::{collections::BTreeSet, sync::Arc};

/// What a version takes beside its content, in bytes.
const OVERHEAD: u64 = 256;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Former versions, of all resources together.
    pub versions: u32,
    /// Their size in bytes.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { versions: 10_000, bytes: 16 << 20 }
    }
}

/// A line of the history of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub revision: Revision,
    pub at: Timestamp,
    /// Empty when that is not known.
    pub by: String,
    pub operation: Operation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    Created,
    Updated,
    Deleted,
}

/// What was stored under a key at some revision.
#[derive(Clone, Debug, PartialEq)]
pub enum AsOf {
    Absent,
    Stored(Arc<Resource>),
    /// Something, and its content is not kept.
    Forgotten,
}

/// The question reaches before or after what can be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    #[error("revision {asked} is no longer retained: the oldest is {oldest}")]
    TooOld { asked: Revision, oldest: Revision },
    #[error("there is no revision {asked} yet: the newest is {newest}")]
    TooNew { asked: Revision, newest: Revision },
    #[error("of a {0} no former versions are kept")]
    NoHistory(String),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct History {
    pub limits: Retention,
    pub horizon: Revision,
    /// Who wrote what is stored now, and in how many bytes. By revision.
    pub origins: OrdMap<Revision, Origin>,
    pub former: OrdMap<(Key, Revision), Former>,
    /// When each was replaced, what it was, its own revision.
    order: OrdSet<(Revision, Key, Revision)>,
    bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Origin {
    pub by: Arc<str>,
    pub bytes: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Former {
    /// The revision that replaced it; its own for a deletion.
    pub until: Revision,
    pub at_ms: i64,
    pub by: Arc<str>,
    pub bytes: u32,
    pub what: Was,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Was {
    Stored(Arc<Resource>),
    Secret { created: bool },
    Deleted,
}

fn has_history(kind: &str) -> bool {
    kind != kind::DATAPLANE
}

fn has_content(kind: &str) -> bool {
    kind != kind::SECRET && kind != kind::GLOBAL_SECRET
}

impl History {
    /// An empty one, of a catalog whose past before `horizon` is not known.
    pub fn since(horizon: Revision) -> History {
        History { horizon, ..History::default() }
    }

    pub fn written(&mut self, resource: &Resource, by: &str, bytes: usize) {
        if has_history(&resource.kind) {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.origins.insert(resource.revision, Origin { by: by.into(), bytes });
        }
    }

    /// `before` is no longer what is stored, from `until` on.
    pub fn replaced(&mut self, key: &Key, before: &Arc<Resource>, until: Revision) {
        if !has_history(&before.kind) {
            return;
        }
        let Origin { by, bytes } = self.origins.remove(&before.revision).unwrap_or_default();
        let (what, bytes) = match has_content(&before.kind) {
            true => (Was::Stored(before.clone()), bytes),
            false => (Was::Secret { created: is_first(before) }, 0),
        };
        let at_ms = before.modification_time.timestamp_millis();
        self.keep(key.clone(), before.revision, Former { until, at_ms, by, bytes, what });
    }

    pub fn deleted(&mut self, key: &Key, revision: Revision, at_ms: i64, by: &str) {
        if has_history(&key.kind) {
            let former = Former { until: revision, at_ms, by: by.into(), bytes: 0, what: Was::Deleted };
            self.keep(key.clone(), revision, former);
        }
    }

    pub fn keep(&mut self, key: Key, revision: Revision, former: Former) {
        self.bytes += size(&former);
        self.order.insert((former.until, key.clone(), revision));
        self.former.insert((key, revision), former);
        self.trim();
    }

    pub fn set_limits(&mut self, limits: Retention) {
        self.limits = limits;
        self.trim();
    }

    fn trim(&mut self) {
        while self.former.len() > self.limits.versions as usize || self.bytes > self.limits.bytes {
            let Some((until, key, revision)) = self.order.remove_min() else { return };
            if let Some(former) = self.former.remove(&(key, revision)) {
                self.bytes -= size(&former);
            }
            self.horizon = self.horizon.max(until);
        }
    }

    /// The former versions of a resource, oldest first.
    fn of<'a>(&'a self, key: &'a ResourceKey) -> impl DoubleEndedIterator<Item = (Revision, &'a Former)> {
        let key = Key::new(key.clone());
        let all = (key.clone(), Revision(0))..=(key, Revision(u64::MAX));
        self.former.range(all).map(|((_, revision), former)| (*revision, former))
    }

    /// Newest first.
    pub fn versions(&self, key: &ResourceKey, stored: Option<&Arc<Resource>>) -> Vec<Version> {
        let mut versions: Vec<Version> = Vec::new();
        for (revision, former) in self.of(key) {
            let operation = match &former.what {
                Was::Deleted => Operation::Deleted,
                Was::Stored(resource) => made(&versions, is_first(resource)),
                Was::Secret { created } => made(&versions, *created),
            };
            versions.push(Version { revision, at: time(former.at_ms), by: former.by.to_string(), operation });
        }
        if let Some(stored) = stored {
            let by = self.origins.get(&stored.revision).map_or(String::new(), |origin| origin.by.to_string());
            let operation = made(&versions, is_first(stored));
            versions.push(Version { revision: stored.revision, at: stored.modification_time, by, operation });
        }
        versions.reverse();
        versions
    }

    pub fn as_of(&self, key: &ResourceKey, stored: Option<&Arc<Resource>>, revision: Revision) -> AsOf {
        if let Some(stored) = stored.filter(|stored| stored.revision <= revision) {
            return AsOf::Stored(stored.clone());
        }
        // The last that began by then, unless it ended by then.
        match self.of(key).rev().find(|(began, _)| *began <= revision) {
            Some((_, Former { until, .. })) if *until <= revision => AsOf::Absent,
            Some((_, Former { what: Was::Stored(resource), .. })) => AsOf::Stored(resource.clone()),
            Some((_, Former { what: Was::Secret { .. }, .. })) => AsOf::Forgotten,
            Some((_, Former { what: Was::Deleted, .. })) | None => AsOf::Absent,
        }
    }

    /// What has a former version of these revisions.
    pub fn touched(&self, after: Revision, until: Revision) -> BTreeSet<ResourceKey> {
        let touched = self.former.keys().filter(|(_, revision)| *revision > after && *revision <= until);
        touched.map(|(key, _)| (**key).clone()).collect()
    }

    /// Whether the state at a revision can be told of a kind.
    pub fn check(&self, asked: Revision, newest: Revision) -> Result<(), Untold> {
        match asked {
            _ if asked < self.horizon => Err(Untold::TooOld { asked, oldest: self.horizon }),
            _ if asked > newest => Err(Untold::TooNew { asked, newest }),
            _ => Ok(()),
        }
    }

    pub fn check_kind(kind: &str) -> Result<(), Untold> {
        if has_history(kind) { Ok(()) } else { Err(Untold::NoHistory(kind.to_owned())) }
    }
}

fn size(former: &Former) -> u64 {
    OVERHEAD + u64::from(former.bytes)
}

fn is_first(resource: &Resource) -> bool {
    resource.creation_time == resource.modification_time
}

/// Two writes within a millisecond leave one time: what is known to have been there before counts more.
fn made(before: &[Version], is_first: bool) -> Operation {
    let was_there = before.last().map(|version| version.operation != Operation::Deleted);
    match was_there.unwrap_or(!is_first) {
        true => Operation::Updated,
        false => Operation::Created,
    }
}
