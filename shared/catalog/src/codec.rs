//! The catalog as bytes: the same catalog gives the same bytes on every replica.
//!
//! A version byte, then [`Form`] in bincode with each resource as JSON, then the outcomes of commands with a key, oldest
//! first (from form 2 on), then former versions and epochs (from form 3 on). A new form gets a new version; old ones stay
//! readable. Damage is found by the checksum of whoever stores the bytes.
use crate::{
    Catalog, Meshes, Outcome, Retention,
    catalog::{
        Key,
        history::{Former, History, Origin, Was},
    },
    epoch::Beginning,
};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use shared_model::{Resource, ResourceKey, Revision};
use std::sync::Arc;

const VERSION: u8 = 3;
const WITHOUT_ANSWERS: u8 = 1;
const WITHOUT_HISTORY: u8 = 2;

/// No catalog comes near it; a length that a broken snapshot claims may.
const SIZE_MAX: usize = 4 << 30;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the catalog has form {0}, this version reads up to {VERSION}: it was written by a newer version"
    )]
    Newer(u8),
    #[error("the catalog is damaged: {0}")]
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
struct Form {
    meshes_elsewhere: bool,
    revision: Revision,
    horizon: Revision,
    resources: Vec<Document>,
    tombstones: Vec<(Revision, ResourceKey)>,
    applied: Vec<(Revision, i64)>,
}

type Answer = ([u8; 16], Outcome);

#[derive(Serialize, Deserialize)]
struct Past {
    lineage: Vec<Beginning>,
    accepted: Vec<String>,
    limits: Retention,
    horizon: Revision,
    origins: Vec<(Revision, String, u32)>,
    former: Vec<Replaced>,
}

#[derive(Serialize, Deserialize)]
struct Replaced {
    key: ResourceKey,
    revision: Revision,
    until: Revision,
    at_ms: i64,
    by: String,
    bytes: u32,
    what: What,
}

#[derive(Serialize, Deserialize)]
enum What {
    Stored(Document),
    Secret { created: bool },
    Deleted,
}

#[derive(Serialize, Deserialize)]
struct Document(#[serde(with = "crate::octets")] Vec<u8>);

impl Catalog {
    pub fn encode(&self) -> Vec<u8> {
        let form = Form {
            meshes_elsewhere: self.meshes == Meshes::Elsewhere,
            revision: self.revision,
            horizon: self.horizon,
            resources: self.iter().map(document).collect(),
            tombstones: self.tombstones.iter().map(|(revision, key)| (*revision, (**key).clone())).collect(),
            applied: self.applied.iter().map(|(revision, at)| (*revision, *at)).collect(),
        };
        let answers = self.answered.values().filter_map(|key| Some((*key, self.answers.get(key)?.1.clone())));
        let form = (form, answers.collect::<Vec<Answer>>(), past_of(self));
        let mut bytes = vec![VERSION];
        bincode::serde::encode_into_std_write(&form, &mut bytes, bincode::config::standard())
            .expect("a vector takes all that is written to it");
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Catalog, Error> {
        let damaged = |reason: String| Error::Damaged(reason);
        let (version, body) = bytes.split_first().ok_or_else(|| damaged("it is empty".to_owned()))?;
        if !(WITHOUT_ANSWERS..=VERSION).contains(version) {
            return Err(Error::Newer(*version));
        }
        let config = bincode::config::standard().with_limit::<SIZE_MAX>();
        let bad = |error: bincode::error::DecodeError| damaged(error.to_string());
        let (form, mut read): (Form, usize) = bincode::serde::decode_from_slice(body, config).map_err(bad)?;
        let mut answers: Vec<Answer> = Vec::new();
        if *version != WITHOUT_ANSWERS {
            let more;
            (answers, more) = bincode::serde::decode_from_slice(&body[read..], config).map_err(bad)?;
            read += more;
        }
        let mut past = None;
        if *version > WITHOUT_HISTORY {
            let (form, more): (Past, usize) =
                bincode::serde::decode_from_slice(&body[read..], config).map_err(bad)?;
            past = Some(form);
            read += more;
        }
        if read != body.len() {
            return Err(damaged(format!("{} bytes follow its end", body.len() - read)));
        }
        let mut resources = OrdMap::new();
        let mut written = OrdMap::new();
        for document in &form.resources {
            let resource = resource_of(document)?;
            if resource.revision > form.revision {
                return Err(damaged(format!("{} is newer than the catalog", resource.key())));
            }
            let twice = written.insert(resource.revision, resource.clone()).is_some();
            if resources.insert(Key::new(resource.key()), resource.clone()).is_some() || twice {
                return Err(damaged(format!("{} is there twice", resource.key())));
            }
        }
        let (history, lineage, accepted) = match past {
            Some(past) => read_past(past)?,
            None => (unknown_past(&form), Vec::new(), Vec::new()),
        };
        let mut catalog = Catalog {
            history,
            lineage,
            accepted: accepted.into_iter().collect(),
            meshes: if form.meshes_elsewhere { Meshes::Elsewhere } else { Meshes::Here },
            revision: form.revision,
            resources,
            written,
            tombstones: form
                .tombstones
                .into_iter()
                .map(|(revision, key)| (revision, Key::new(key)))
                .collect(),
            horizon: form.horizon,
            applied: form.applied.into_iter().collect(),
            ..Catalog::default()
        };
        for (key, outcome) in answers {
            catalog.remember(key, outcome);
        }
        Ok(catalog)
    }
}

fn document(resource: &Arc<Resource>) -> Document {
    Document(serde_json::to_vec(resource.as_ref()).expect("it was read from JSON when it was put"))
}

fn resource_of(Document(json): &Document) -> Result<Arc<Resource>, Error> {
    serde_json::from_slice(json).map(Arc::new).map_err(|error| Error::Damaged(error.to_string()))
}

fn past_of(catalog: &Catalog) -> Past {
    let History { limits, horizon, origins, former, .. } = &catalog.history;
    let replaced = |((key, revision), former): (&(Key, Revision), &Former)| Replaced {
        key: (**key).clone(),
        revision: *revision,
        until: former.until,
        at_ms: former.at_ms,
        by: former.by.to_string(),
        bytes: former.bytes,
        what: match &former.what {
            Was::Stored(resource) => What::Stored(document(resource)),
            Was::Secret { created } => What::Secret { created: *created },
            Was::Deleted => What::Deleted,
        },
    };
    Past {
        lineage: catalog.lineage.clone(),
        accepted: catalog.accepted.iter().cloned().collect(),
        limits: *limits,
        horizon: *horizon,
        origins: origins
            .iter()
            .map(|(revision, origin)| (*revision, origin.by.to_string(), origin.bytes))
            .collect(),
        former: former.iter().map(replaced).collect(),
    }
}

fn read_past(past: Past) -> Result<(History, Vec<Beginning>, Vec<String>), Error> {
    let mut history = History::since(past.horizon);
    let origin = |(revision, by, bytes): (Revision, String, u32)| (revision, Origin { by: by.into(), bytes });
    history.origins = past.origins.into_iter().map(origin).collect();
    // All that is kept fits the limits, which count only from now on.
    history.limits = Retention { versions: u32::MAX, bytes: u64::MAX };
    for Replaced { key, revision, until, at_ms, by, bytes, what } in past.former {
        let what = match what {
            What::Stored(document) => Was::Stored(resource_of(&document)?),
            What::Secret { created } => Was::Secret { created },
            What::Deleted => Was::Deleted,
        };
        history.keep(Key::new(key), revision, Former { until, at_ms, by: by.into(), bytes, what });
    }
    history.limits = past.limits;
    Ok((history, past.lineage, past.accepted))
}

/// An older form does not tell who wrote what: its history begins now.
fn unknown_past(form: &Form) -> History {
    let mut history = History::since(form.revision);
    for document in &form.resources {
        if let Ok(resource) = resource_of(document) {
            history.written(&resource, "", document.0.len());
        }
    }
    history
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AsOf, Command, Expected, Untold};
    use serde_json::json;
    use shared_model::{Timestamp, kind};

    #[test]
    fn forms_of_former_versions_are_still_read() {
        let mesh = Resource::new(kind::MESH, "", "default", json!({}));
        let mut catalog = Catalog::new();
        catalog.apply(&Command::put(&mesh, Expected::Any, Timestamp::UNIX_EPOCH).once([7; 16]));
        let form = || Form {
            meshes_elsewhere: false,
            revision: catalog.revision,
            horizon: catalog.horizon,
            resources: catalog.iter().map(document).collect(),
            tombstones: Vec::new(),
            applied: catalog.applied.iter().map(|(revision, at)| (*revision, *at)).collect(),
        };
        let answers: Vec<Answer> = vec![([7; 16], Outcome::Stored { revision: Revision(1), created: true })];
        let config = bincode::config::standard();
        let first = [vec![1], bincode::serde::encode_to_vec(form(), config).expect("encodes")].concat();
        let second =
            [vec![2], bincode::serde::encode_to_vec((form(), answers), config).expect("encodes")].concat();
        for (bytes, answers) in [(first, 0), (second, 1)] {
            let mut read = Catalog::decode(&bytes).expect("an old form");
            assert_eq!((read.answers.len(), read.epoch()), (answers, crate::Epoch::FIRST));
            let key = mesh.key();
            assert_eq!(
                read.as_of(&key, Revision(0)),
                Err(Untold::TooOld { asked: Revision(0), oldest: Revision(1) })
            );
            read.apply(&Command::delete(key.clone(), Expected::Any, Timestamp::UNIX_EPOCH).by("jane"));
            assert!(matches!(read.as_of(&key, Revision(1)), Ok(AsOf::Stored(_))));
            let by: Vec<String> =
                read.history(&key).expect("told").into_iter().map(|version| version.by).collect();
            assert_eq!(by, ["jane", ""]);
        }
    }
}
