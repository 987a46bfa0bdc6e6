//! The data directory: whose it is, and the keys that lie in it.
use anyhow::{Result, bail};
use rand::RngCore as _;
use shared_identity::seal::SealKey;
use shared_node::file;
use std::path::{Path, PathBuf};

/// The data directory of one zone.
pub struct Home {
    dir: PathBuf,
}

impl Home {
    /// Opens the directory for this zone, and makes it when it is not there. One of another zone is refused.
    pub fn open(dir: &Path, zone: &str) -> Result<Home> {
        file::private_dir(dir)?;
        let owner = dir.join("zone");
        if owner.exists() {
            let found = file::read(&owner, "the zone's name")?;
            if found.trim() != zone {
                bail!("{} is the data directory of zone {:?}, not of {zone:?}", dir.display(), found.trim());
            }
        } else {
            if dir.join("raft").exists() {
                bail!("{} is the data directory of a global control plane", dir.display());
            }
            file::write_public(&owner, format!("{zone}\n").as_bytes())?;
        }
        Ok(Home { dir: dir.to_owned() })
    }

    pub fn replica(&self) -> PathBuf {
        self.dir.join("replica")
    }

    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub fn tls(&self) -> PathBuf {
        self.dir.join("tls")
    }

    pub fn admin_token(&self) -> PathBuf {
        self.dir.join("admin-token")
    }

    /// The key that seals the zone's secrets.
    pub fn seal_key(&self) -> Result<SealKey> {
        let bytes = file::key_or_make(&self.dir.join("seal.key"), || {
            let mut key = [0; 32];
            rand::rng().fill_bytes(&mut key);
            key
        })?;
        Ok(SealKey::from_bytes(bytes))
    }

    /// Whether the replica has once held all that global had: then its state may be served without asking global.
    /// The mark lies within the replica, so that it goes with one that is set aside.
    pub fn was_complete(&self) -> bool {
        self.replica().join("complete").exists()
    }

    pub fn set_complete(&self) -> Result<()> {
        file::write_public(&self.replica().join("complete"), b"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_another_zone_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), "east").unwrap();
        assert_eq!(
            home.seal_key().unwrap().id(),
            Home::open(dir.path(), "east").unwrap().seal_key().unwrap().id()
        );
        let error = Home::open(dir.path(), "west").err().unwrap().to_string();
        assert!(error.contains("of zone \"east\", not of \"west\""), "{error}");
        std::fs::remove_file(dir.path().join("zone")).unwrap();
        std::fs::create_dir(dir.path().join("raft")).unwrap();
        assert!(Home::open(dir.path(), "east").is_err());
    }
}
