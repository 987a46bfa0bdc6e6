//! Who a data directory belongs to: `identity.json` in it, written before anything else.
use crate::Error;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

const FILE: &str = "identity.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Made once for an empty disk and never used again for another.
    pub node_id: u64,
    /// Empty until the replica is part of a cluster.
    pub cluster_id: String,
    /// `global`, or `zone <name>`.
    pub role: String,
}

/// The file: a flipped bit must not make another replica, or one of another cluster.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    #[serde(flatten)]
    identity: Identity,
    /// Absent in files of the first versions.
    #[serde(default)]
    checksum: Option<u32>,
}

impl Identity {
    /// None when the directory is new.
    pub fn read(dir: &Path) -> Result<Option<Identity>, Error> {
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(text) => {
                let damaged =
                    |what: String| Error::Damaged { dir: dir.to_owned(), what: format!("{FILE}: {what}") };
                let stored: Stored =
                    serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
                if stored.checksum.is_some_and(|checksum| checksum != stored.identity.checksum()) {
                    return Err(damaged("its checksum does not match".to_owned()));
                }
                Ok(Some(stored.identity))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { action: "read", path, source }),
        }
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(FILE);
        let stored = Stored { identity: self.clone(), checksum: Some(self.checksum()) };
        let text = serde_json::to_vec_pretty(&stored).expect("strings and numbers are JSON");
        replace(&path, &[&text]).map_err(|source| Error::Io { action: "write", path, source })
    }

    fn checksum(&self) -> u32 {
        crc32fast::hash(format!("{} {} {}", self.node_id, self.cluster_id, self.role).as_bytes())
    }

    /// Binds the replica to a cluster, once and for ever. Answers whether it is new.
    pub(crate) fn bind(&mut self, cluster_id: &str) -> Result<bool, Error> {
        if self.cluster_id.is_empty() {
            self.cluster_id = cluster_id.to_owned();
            return Ok(true);
        }
        if self.cluster_id == cluster_id {
            return Ok(false);
        }
        Err(Error::OtherCluster { found: self.cluster_id.clone(), wanted: cluster_id.to_owned() })
    }
}

/// Replaces a file as a whole: after a crash there is the old one or the new one. Returns once it is on disk.
pub(crate) fn replace(path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let dir = path.parent().expect("the path of a file in a data directory has a parent");
    let new = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&new)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()?;
        fs::rename(&new, path)
    };
    if let Err(error) = write() {
        // Where there is no room, half a file must not take more of it.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    File::open(dir)?.sync_all()
}
