//! sled 0.34 as a [`Store`], with what it takes to trust it.
//!
//! Read in its source and seen in tests: `flush` pushes written pages to the device and does not ask for the file's new
//! length or for the device's cache, so what it has flushed may be gone after a power cut; a large value gets a file of
//! its own, which is never synced; a segment that was freed is written again as soon as sled believes its
//! successor stable. So each flush is followed by an fdatasync of the file, values are cut into parts that never come near a
//! segment, and no more than a part of a segment is written between two syncs.
use super::Store;
use crate::Error;
use std::{
    fs::{self, File},
    io,
    ops::Range,
    path::Path,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// sled would take a gigabyte.
const CACHE_BYTES: u64 = 32 << 20;

/// sled's own threads let go of its file some time after the store was dropped.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A leaf of sled holds some twenty records and is written as a whole. Past a quarter of a segment of 512 KiB it would get a
/// file of its own.
const PART: usize = 4 << 10;

/// What is written between two syncs: half a segment.
const SLICE: usize = 256 << 10;

/// Acknowledges what is not on disk. For a test that must see acknowledged writes get lost.
const UNSAFE_NO_FSYNC: &str = "WEFT_UNSAFE_NO_FSYNC";

pub(crate) struct Sled {
    /// Index (8 bytes, big endian) to the first part of an entry; the same and a number (2 bytes) to each further part.
    log: sled::Tree,
    marks: sled::Tree,
    db: sled::Db,
    /// The file behind `db`, to sync it.
    file: File,
}

/// Whether a data directory holds a store.
pub(crate) fn is_there(dir: &Path) -> bool {
    dir.join("db").exists()
}

impl Sled {
    /// Opens the store in a data directory that is locked, or makes it. Everything in it is on disk then: what a process
    /// that was killed had written and not synced counts as written from now on.
    pub fn open(dir: &Path) -> Result<Sled, Error> {
        let path = dir.join("db");
        forget_half_written_snapshots(&path)?;
        let failed = |source| match source {
            sled::Error::Corruption { .. } => {
                Error::Damaged { dir: dir.to_owned(), what: "the store cannot be recovered".to_owned() }
            }
            source => Error::Store { dir: dir.to_owned(), source: disk_error(source) },
        };
        let config = sled::Config::new().path(&path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let deadline = Instant::now() + LOCK_PATIENCE;
        let db = loop {
            match config.open() {
                // The directory is ours: it is sled's own threads that have not let go of the file yet.
                Err(sled::Error::Io(error)) if is_locked(&error) => {
                    if Instant::now() >= deadline {
                        return Err(Error::InUse { dir: dir.to_owned() });
                    }
                    std::thread::sleep(LOCK_PAUSE);
                }
                opened => break opened.map_err(failed)?,
            }
        };
        let log = db.open_tree("log").map_err(failed)?;
        let marks = db.open_tree("meta").map_err(failed)?;
        let io = |source| Error::Io { action: "open", path: path.join("db"), source };
        let file = File::options().write(true).open(path.join("db")).map_err(io)?;
        let store = Sled { log, marks, db, file };
        store.sync().map_err(|source| Error::Store { dir: dir.to_owned(), source })?;
        sync_directories(dir).map_err(|source| Error::Io { action: "sync", path, source })?;
        if is_unsafe() {
            tracing::warn!(
                "{UNSAFE_NO_FSYNC} is set: acknowledged writes are lost when the process or the power fails"
            );
        }
        Ok(store)
    }
}

impl Store for Sled {
    fn mark(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.marks.get(name).map_err(disk_error)?.map(|value| value.to_vec()))
    }

    fn set_mark(&self, name: &str, value: Option<Vec<u8>>) -> io::Result<()> {
        match value {
            Some(value) => self.marks.insert(name, value),
            None => self.marks.remove(name),
        }
        .map_err(disk_error)?;
        Ok(())
    }

    fn entries(&self, range: Range<u64>, each: &mut dyn FnMut(u64, Vec<u8>) -> bool) -> io::Result<()> {
        let mut whole: Option<(u64, Vec<u8>)> = None;
        for item in self.log.range(key(range.start)..key(range.end)) {
            let (key, value) = item.map_err(disk_error)?;
            match (place_of(&key)?, &mut whole) {
                ((index, 0), whole) => {
                    if let Some((index, value)) = whole.replace((index, value.to_vec()))
                        && !each(index, value)
                    {
                        return Ok(());
                    }
                }
                ((index, _), Some((begun, parts))) if index == *begun => parts.extend_from_slice(&value),
                // A crash came before the first part, which is written last.
                _ => {}
            }
        }
        if let Some((index, value)) = whole {
            each(index, value);
        }
        Ok(())
    }

    /// One by one: after a crash sled has what was written up to some moment, and a batch of its own costs two more writes
    /// to the device. The first part of an entry comes last, and without it the others count for nothing.
    fn append(&self, entries: Vec<(u64, Vec<u8>)>) -> io::Result<()> {
        let mut bytes = 0;
        for (index, value) in entries {
            let parts = (0u16..).zip(value.chunks(PART));
            for (number, part) in parts.skip(1).chain([(0, &value[..value.len().min(PART)])]) {
                if bytes + part.len() > SLICE {
                    self.sync()?;
                    bytes = 0;
                }
                bytes += part.len();
                self.log.insert(part_key(index, number), part).map_err(disk_error)?;
            }
        }
        Ok(())
    }

    fn remove_before(&self, index: u64) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for key in self.log.range(..key(index)).keys() {
            batch.remove(key.map_err(disk_error)?);
        }
        self.log.apply_batch(batch).map_err(disk_error)
    }

    fn remove_from(&self, index: u64) -> io::Result<()> {
        // An entry goes with all its parts, the last one first.
        let mut going = (u64::MAX, sled::Batch::default());
        for key in self.log.range(key(index)..).keys().rev() {
            let key = key.map_err(disk_error)?;
            let (index, _) = place_of(&key)?;
            if index != going.0 {
                let gone = std::mem::replace(&mut going, (index, sled::Batch::default()));
                self.log.apply_batch(gone.1).map_err(disk_error)?;
            }
            going.1.remove(key);
        }
        self.log.apply_batch(going.1).map_err(disk_error)
    }

    fn sync(&self) -> io::Result<()> {
        if is_unsafe() {
            return Ok(());
        }
        self.db.flush().map_err(disk_error)?;
        // Whatever it says: after a failed fsync nobody knows what is on the disk, and asking again would not tell.
        self.file.sync_data().map_err(|error| io::Error::other(format!("fsync failed: {error}")))
    }
}

fn is_unsafe() -> bool {
    static IS_SET: OnceLock<bool> = OnceLock::new();
    *IS_SET.get_or_init(|| std::env::var(UNSAFE_NO_FSYNC).is_ok_and(|value| value == "1"))
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn part_key(index: u64, number: u16) -> Vec<u8> {
    match number {
        0 => key(index).to_vec(),
        number => [key(index).as_slice(), &number.to_be_bytes()].concat(),
    }
}

/// Index and number of a part.
fn place_of(key: &[u8]) -> io::Result<(u64, u16)> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, format!("a key has {} bytes", key.len()));
    let (index, rest) = key.split_first_chunk::<8>().ok_or_else(odd)?;
    let number = match rest {
        [] => 0,
        rest => u16::from_be_bytes(rest.try_into().map_err(|_| odd())?),
    };
    Ok((u64::from_be_bytes(*index), number))
}

fn disk_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        error @ sled::Error::Corruption { .. } => io::Error::new(io::ErrorKind::InvalidData, error),
        error => io::Error::other(error),
    }
}

/// sled wraps the reason in text.
fn is_locked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

/// New files count once their directories are on disk.
fn sync_directories(dir: &Path) -> io::Result<()> {
    let db = dir.join("db");
    for dir in [db.join("blobs"), db, dir.to_owned()] {
        match File::open(&dir) {
            Ok(dir) => dir.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// sled 0.34.7 takes a `snap.X.generating` that a crash left behind for its newest snapshot and never opens again.
fn forget_half_written_snapshots(db: &Path) -> Result<(), Error> {
    let files = match fs::read_dir(db) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::Io { action: "read", path: db.to_owned(), source }),
    };
    for file in files.flatten() {
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            let path = file.path();
            fs::remove_file(&path).map_err(|source| Error::Io { action: "remove", path, source })?;
        }
    }
    Ok(())
}
