//! A backup as a file: what is in it is told first, as one line of JSON, and all of it is covered by digests.
//!
//! ```text
//! weft-backup 1\n | head: JSON in one line \n | catalog, `size` bytes | SHA-256 of everything before
//! ```
//!
//! What is sealed in the catalog stays sealed, and so is the key of the cluster's CA: without the seal key a backup gives
//! away documents and public keys, and no secret.
use serde::{Deserialize, Serialize};
use shared_catalog::Catalog;
use shared_model::{Revision, Timestamp};

const MAGIC: &[u8] = b"weft-backup 1\n";
const DIGEST: usize = 32;
/// The head holds a certificate and some numbers.
const HEAD_MAX: usize = 64 << 10;

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    pub cluster_id: String,
    pub epoch: String,
    pub revision: u64,
    /// When it was taken.
    pub time: Timestamp,
    /// Of the program that took it.
    pub version: String,
    /// At least those of the log entry that made the revision.
    pub term: u64,
    pub index: u64,
    pub resources: u64,
    /// Of the catalog, in bytes.
    pub size: u64,
    /// Names the key that everything sealed is sealed with.
    pub seal_key_id: String,
    /// The cluster's CA, PEM.
    pub ca: String,
    /// Its key, sealed; hexadecimal.
    pub sealed_ca_key: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it is no backup of Weft: it does not begin as one")]
    Foreign,
    #[error("it is cut off or damaged: {0}")]
    Damaged(String),
}

/// A backup that was read and verified.
#[derive(Debug)]
pub struct Backup {
    pub head: Head,
    pub catalog: Catalog,
}

/// The name under which the key of the CA is sealed.
pub fn ca_key_context(cluster_id: &str) -> Vec<u8> {
    format!("CA key of cluster {cluster_id} in a backup").into_bytes()
}

/// The file. Numbers of the head that the catalog tells are set here.
pub fn write(mut head: Head, catalog: &Catalog) -> Vec<u8> {
    let body = catalog.encode();
    head.epoch = catalog.epoch().to_string();
    head.revision = catalog.revision().0;
    head.resources = catalog.len() as u64;
    head.size = body.len() as u64;
    let json = serde_json::to_vec(&head).expect("strings and numbers are JSON");
    let mut file = [MAGIC, &json, b"\n", &body].concat();
    let digest = shared_identity::digest(&[&file]);
    file.extend(digest);
    file
}

/// Reads a file and verifies all of it.
pub fn read(file: &[u8]) -> Result<Backup, Error> {
    let damaged = |what: String| Error::Damaged(what);
    let rest = file.strip_prefix(MAGIC).ok_or(Error::Foreign)?;
    let covered = file.len().checked_sub(DIGEST).filter(|covered| *covered >= MAGIC.len());
    let (covered, digest) =
        file.split_at(covered.ok_or_else(|| damaged("nothing follows its first line".into()))?);
    if shared_identity::digest(&[covered]) != digest {
        return Err(damaged("its checksum does not match".into()));
    }
    let end = rest.iter().take(HEAD_MAX).position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| damaged("it has no head".into()))?;
    let head: Head =
        serde_json::from_slice(&rest[..end]).map_err(|error| damaged(format!("its head: {error}")))?;
    let body = &covered[MAGIC.len() + end + 1..];
    if body.len() as u64 != head.size {
        return Err(damaged(format!("its catalog has {} bytes, its head says {}", body.len(), head.size)));
    }
    let catalog = Catalog::decode(body).map_err(|error| damaged(error.to_string()))?;
    if catalog.revision() != Revision(head.revision) || catalog.epoch().to_string() != head.epoch {
        let (revision, epoch) = (catalog.revision(), catalog.epoch());
        return Err(damaged(format!(
            "its catalog is at revision {revision} of epoch {epoch}, its head says otherwise"
        )));
    }
    Ok(Backup { head, catalog })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use shared_catalog::{Command, Expected};
    use shared_model::Resource;

    #[test]
    fn a_backup_reads_back_and_each_damage_is_found() {
        let mut catalog = Catalog::new();
        let mesh = Resource::new("Mesh", "", "default", json!({}));
        catalog.apply(&Command::put(&mesh, Expected::Any, Timestamp::UNIX_EPOCH).by("jane"));
        let head = Head {
            cluster_id: "c".into(),
            epoch: String::new(),
            revision: 0,
            time: Timestamp::UNIX_EPOCH,
            version: "0".into(),
            term: 3,
            index: 9,
            resources: 0,
            size: 0,
            seal_key_id: "k".into(),
            ca: "PEM".into(),
            sealed_ca_key: "00".into(),
        };
        let file = write(head, &catalog);
        let read_back = read(&file).expect("just written");
        assert_eq!(read_back.catalog, catalog);
        assert_eq!(
            (read_back.head.revision, read_back.head.epoch.as_str(), read_back.head.index),
            (1, "1", 9)
        );
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 4;
            assert!(read(&damaged).is_err(), "byte {at}");
            assert!(read(&file[..at]).is_err(), "cut at {at}");
        }
        assert!(matches!(read(b"type: Mesh"), Err(Error::Foreign)));
    }
}
