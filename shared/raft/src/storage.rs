//! Opening a data directory.
//!
//! ```text
//! identity.json   whose it is                  db/        log and vote (sled)
//! lock            held while it is open        snapshot   the catalog as of some log entry
//! durable         what db must at least have
//! ```
use crate::{
    Error, Identity, LogStore, StateMachine, disk, disk::Disk, snapshot::Snapshots, store, witness::Witness,
};
use shared_catalog::Catalog;
use std::{
    fs::{self, DirBuilder, File, Permissions},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;

/// The role of a voter; a learner's is `zone <name>`.
pub(crate) const GLOBAL: &str = "global";

/// A replica's disk, ready for openraft.
pub struct Storage {
    pub log: LogStore,
    pub machine: StateMachine,
    pub catalog: watch::Receiver<Arc<Catalog>>,
    pub identity: Identity,
    pub(crate) dir: PathBuf,
}

impl Storage {
    /// Opens a data directory, or makes it. `role` is `global` or `zone <name>`; a directory of another role is refused.
    /// Everything in it is verified. Blocks.
    pub fn open(dir: &Path, role: &str, new_node_id: impl FnOnce() -> u64) -> Result<Storage, Error> {
        private_dir(dir).map_err(|source| Error::Io { action: "make", path: dir.to_owned(), source })?;
        let lock = disk::lock(dir)?;
        let damaged = |what: &str| Error::Damaged { dir: dir.to_owned(), what: what.to_owned() };
        let found = Identity::read(dir)?;
        if let Some(found) = &found {
            if found.role != role {
                let (dir, found) = (dir.to_owned(), found.role.clone());
                return Err(Error::OtherOwner { dir, found, wanted: role.to_owned() });
            }
            // The store is made before the identity is written.
            if !store::is_there(dir) {
                return Err(damaged("db is missing"));
            }
        }
        let witness = match Witness::open(dir)? {
            Some(witness) => witness,
            None if found.is_none() => Witness::create(dir)?,
            None => return Err(damaged("durable is missing")),
        };
        let log = open_log(dir, lock, witness, role)?;
        let (snapshots, newest) = Snapshots::open(dir)?;
        let identity = match found {
            Some(identity) => identity,
            None if log.is_pristine() && newest.is_none() => {
                let role = role.to_owned();
                let identity = Identity { node_id: new_node_id(), cluster_id: String::new(), role };
                identity.write(dir)?;
                identity
            }
            None => return Err(damaged("identity.json is missing")),
        };
        let covered = newest.as_ref().and_then(|(meta, _)| meta.last_log_id);
        if log.purged() > covered {
            return Err(damaged("the log begins after the snapshot ends"));
        }
        log.set_node_id(identity.node_id);
        let (machine, catalog) = StateMachine::new(snapshots, newest, log.clone());
        Ok(Storage { log, machine, catalog, identity, dir: dir.to_owned() })
    }

    /// Binds the disk to a cluster, once and for ever; another one is refused.
    pub fn set_cluster_id(&mut self, cluster_id: &str) -> Result<(), Error> {
        if self.identity.bind(cluster_id)? {
            self.identity.write(&self.dir)?;
        }
        Ok(())
    }
}

/// The log holds secrets: only the owner may enter, also where the directory above is open to others.
fn private_dir(dir: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o700))
}

/// sled panics at some damage.
fn open_log(dir: &Path, lock: File, witness: Witness, role: &str) -> Result<LogStore, Error> {
    let open = || LogStore::open(Arc::new(Disk::open(dir, lock, witness)?), role != GLOBAL);
    std::panic::catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| {
        Err(Error::Damaged { dir: dir.to_owned(), what: "the store cannot be recovered".to_owned() })
    })
}

/// Moves a damaged data directory out of the way and says where it is now. The replica then starts anew with a new id.
pub fn set_aside(dir: &Path) -> Result<PathBuf, Error> {
    let mut aside = dir.with_extension("damaged");
    let mut number = 1;
    while aside.exists() {
        number += 1;
        aside = dir.with_extension(format!("damaged-{number}"));
    }
    fs::rename(dir, &aside).map_err(|source| Error::Io { action: "move", path: dir.to_owned(), source })?;
    Ok(aside)
}
