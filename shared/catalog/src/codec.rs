//! The catalog as bytes: the same catalog gives the same bytes on every replica.
//!
//! A version byte, then [`Form`] in bincode with each resource as JSON, then the outcomes of commands with a key, oldest
//! first (not in form 1). A new form gets a new version; old ones stay readable. Damage is found by the checksum of whoever stores the bytes.
use crate::{Catalog, Meshes, Outcome};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use shared_model::{Resource, ResourceKey, Revision};
use std::sync::Arc;

const VERSION: u8 = 2;
const WITHOUT_ANSWERS: u8 = 1;

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
struct Document(#[serde(with = "crate::octets")] Vec<u8>);

impl Catalog {
    pub fn encode(&self) -> Vec<u8> {
        let json = |resource: &Arc<Resource>| {
            Document(serde_json::to_vec(resource.as_ref()).expect("it was read from JSON when it was put"))
        };
        let form = Form {
            meshes_elsewhere: self.meshes == Meshes::Elsewhere,
            revision: self.revision,
            horizon: self.horizon,
            resources: self.iter().map(json).collect(),
            tombstones: self.tombstones.iter().cloned().collect(),
            applied: self.applied.iter().map(|(revision, at)| (*revision, *at)).collect(),
        };
        let answers = self.answered.values().filter_map(|key| Some((*key, self.answers.get(key)?.1.clone())));
        let form = (form, answers.collect::<Vec<Answer>>());
        let mut bytes = vec![VERSION];
        bincode::serde::encode_into_std_write(&form, &mut bytes, bincode::config::standard())
            .expect("a vector takes all that is written to it");
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Catalog, Error> {
        let damaged = |reason: String| Error::Damaged(reason);
        let (version, body) = bytes.split_first().ok_or_else(|| damaged("it is empty".to_owned()))?;
        if ![WITHOUT_ANSWERS, VERSION].contains(version) {
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
        if read != body.len() {
            return Err(damaged(format!("{} bytes follow its end", body.len() - read)));
        }
        let mut resources = OrdMap::new();
        let mut written = OrdMap::new();
        for Document(json) in &form.resources {
            let resource: Resource =
                serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
            let resource = Arc::new(resource);
            if resource.revision > form.revision {
                return Err(damaged(format!("{} is newer than the catalog", resource.key())));
            }
            let twice = written.insert(resource.revision, resource.clone()).is_some();
            if resources.insert(resource.key(), resource.clone()).is_some() || twice {
                return Err(damaged(format!("{} is there twice", resource.key())));
            }
        }
        let mut catalog = Catalog {
            meshes: if form.meshes_elsewhere { Meshes::Elsewhere } else { Meshes::Here },
            revision: form.revision,
            resources,
            written,
            tombstones: form.tombstones.into_iter().collect(),
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
