//! One thread that owns all writes to sled.
//!
//! sled blocks, and `flush` is its only point of durability: neither belongs on an async worker. One thread also gives
//! the order that openraft asks for: a later write never overtakes an earlier one.
use crate::{Error, witness::Witness};
use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// sled would take a gigabyte.
const CACHE_BYTES: u64 = 32 << 20;

/// A restart may overlap the end of the process before it by this much.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

const LOCK_PAUSE: Duration = Duration::from_millis(20);

type Job = Box<dyn FnOnce(&Trees) + Send>;

#[derive(Clone)]
pub(crate) struct Trees {
    /// Index (8 bytes, big endian) to entry.
    pub log: sled::Tree,
    /// The vote, what is committed, what is purged.
    pub meta: sled::Tree,
    pub witness: Arc<Witness>,
    db: sled::Db,
    failed: Arc<AtomicBool>,
}

impl Trees {
    /// Returns once everything written before is on disk.
    pub fn flush(&self) -> sled::Result<()> {
        self.db.flush().map(|_| ())
    }

    /// Says that a write has failed. Raft stops then, and the program ends; until it does, nothing may wait for sled.
    pub fn has_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// sled flushes when it is dropped, and after a failed write waits there for ever.
    fn let_go(self) {
        if self.failed.load(Ordering::Relaxed) {
            std::mem::forget(self);
        }
    }
}

/// Dropping it waits for the jobs that were given.
pub(crate) struct Disk {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    trees: Option<Trees>,
    dir: PathBuf,
    /// Released last.
    _lock: File,
}

impl Disk {
    /// Opens the store in a directory that is locked.
    pub fn open(dir: &Path, lock: File, witness: Witness) -> Result<Disk, Error> {
        let path = dir.join("db");
        forget_half_written_snapshots(&path)?;
        let store = |source| match source {
            sled::Error::Corruption { .. } => {
                Error::Damaged { dir: dir.to_owned(), what: "the store cannot be recovered".to_owned() }
            }
            source => Error::Store { dir: dir.to_owned(), source },
        };
        let config = sled::Config::new().path(&path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let deadline = Instant::now() + LOCK_PATIENCE;
        let db = loop {
            match config.open() {
                // The directory is ours: it is sled's own threads that have not let go of the file yet.
                Err(sled::Error::Io(error)) if is_locked(&error) && Instant::now() < deadline => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                opened => break opened.map_err(store)?,
            }
        };
        let log = db.open_tree("log").map_err(store)?;
        let meta = db.open_tree("meta").map_err(store)?;
        let trees = Trees { log, meta, witness: Arc::new(witness), db, failed: Arc::default() };
        let (jobs, waiting) = mpsc::channel::<Job>();
        let own = trees.clone();
        let work = move || {
            for job in waiting {
                job(&own);
            }
            own.let_go();
        };
        let thread = std::thread::Builder::new()
            .name("raft-disk".to_owned())
            .spawn(work)
            .map_err(|source| Error::Io { action: "start a thread for", path, source })?;
        Ok(Disk {
            jobs: Some(jobs),
            thread: Some(thread),
            trees: Some(trees),
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// For reads, which see all jobs that are done.
    pub fn trees(&self) -> &Trees {
        self.trees.as_ref().expect("it is taken only when the disk is dropped")
    }

    /// Gives the thread a job and goes on.
    pub fn give(&self, job: impl FnOnce(&Trees) + Send + 'static) {
        let jobs = self.jobs.as_ref().expect("it is taken only when the disk is dropped");
        // After a panic in a job the thread is gone. Dropping the job tells those who wait for it.
        if jobs.send(Box::new(job)).is_err() {
            tracing::error!(dir = %self.dir.display(), "the disk thread has ended");
        }
    }

    /// Gives the thread a job and waits for it.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Trees) -> sled::Result<T> + Send + 'static,
    ) -> sled::Result<T> {
        let (done, answer) = tokio::sync::oneshot::channel();
        self.give(move |trees| {
            let result = job(trees);
            if result.is_err() {
                trees.has_failed();
            }
            // Nobody waits any more: the write counts all the same.
            let _ = done.send(result);
        });
        answer.await.unwrap_or_else(|_| Err(sled::Error::Unsupported("the job panicked".to_owned())))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic in a job was reported when it happened.
            let _ = thread.join();
        }
        if let Some(trees) = self.trees.take() {
            trees.let_go();
        }
    }
}

/// Takes the lock of a data directory, which is held as long as the file is open.
pub(crate) fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let io = |action, source| Error::Io { action, path: path.clone(), source };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| io("open", source))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io("lock", source)),
        }
    }
}

/// sled wraps the reason in text.
fn is_locked(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

/// sled 0.34.7 takes a `snap.X.generating` that a crash left behind for its newest snapshot and never opens again.
fn forget_half_written_snapshots(db: &Path) -> Result<(), Error> {
    let files = match fs::read_dir(db) {
        Ok(files) => files,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
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
