//! What the store must have, kept beside it.
//!
//! sled recovers from damage by forgetting: after a flipped bit it opens with the log up to there, as if the rest had
//! never been acknowledged. This small file knows better. It is written after each flush, so it is never ahead of the
//! store; it is not flushed itself, so after a power cut it may be behind, and then merely knows less.
use crate::{
    Error, record,
    types::{LogId, Vote},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Mutex, PoisonError},
};

const FILE: &str = "durable";
const KEY: &[u8] = b"durable";

/// One write, far below a sector: it is there as a whole or not at all.
const SLOT: usize = 128;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Durable {
    /// The index after the last entry.
    pub log_end: u64,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
}

pub(crate) struct Witness {
    file: File,
    durable: Mutex<Durable>,
}

impl Witness {
    /// None when there is no file yet.
    pub fn open(dir: &Path) -> Result<Option<Witness>, Error> {
        let path = dir.join(FILE);
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { action: "open", path, source }),
        };
        let mut slot = [0; SLOT];
        let damaged = |what: &str| Error::Damaged { dir: dir.to_owned(), what: format!("{FILE}: {what}") };
        file.read_exact_at(&mut slot, 0).map_err(|error| damaged(&error.to_string()))?;
        let length = usize::from(slot[0]);
        let slot = slot[1..].get(..length).ok_or_else(|| damaged("its length is wrong"))?;
        let durable = record::decode(KEY, slot).map_err(|what| damaged(&what))?;
        Ok(Some(Witness { file, durable: Mutex::new(durable) }))
    }

    pub fn create(dir: &Path) -> Result<Witness, Error> {
        let path = dir.join(FILE);
        let create = || -> io::Result<Witness> {
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
            let witness = Witness { file, durable: Mutex::default() };
            witness.lower(|_| {})?;
            Ok(witness)
        };
        create().map_err(|source| Error::Io { action: "write", path: path.clone(), source })
    }

    pub fn durable(&self) -> Durable {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// After a flush: the store has more now.
    pub fn raise(&self, change: impl FnOnce(&mut Durable)) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut durable);
        let record = record::encode(KEY, &*durable);
        let mut slot = [0; SLOT];
        slot[0] = u8::try_from(record.len()).expect("a few numbers take less than the slot");
        slot[1..=record.len()].copy_from_slice(&record);
        self.file.write_all_at(&slot, 0)
    }

    /// Before a removal: the store will have less. Returns once that is on disk.
    pub fn lower(&self, change: impl FnOnce(&mut Durable)) -> io::Result<()> {
        self.raise(change)?;
        self.file.sync_all()
    }
}
