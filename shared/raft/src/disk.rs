//! One thread that owns all writes to the store.
//!
//! The store blocks: it does not belong on an async worker. One thread also gives the order that openraft asks for: a later
//! write never overtakes an earlier one. What is given while the disk is busy is written together and synced once.
//!
//! ```text
//! give(write, remember, done) --> write ... write --> sync --> remember: witness --> done ... done
//!                                   any failure --> this and all that follows is refused, for ever
//! ```
//!
//! After a failure the store is not touched again: what it holds in memory is not what is on the disk. It is let go on a
//! thread of its own, since it may wait for its disk, and the directory is opened anew by whoever wants to go on.
use crate::{
    Error,
    store::{Sled, Store, is_full},
    witness::{Durable, Witness},
};
use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// A restart may overlap the end of the process before it by this much.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// How many jobs share one sync.
const GROUP: usize = 256;

/// Why a disk takes nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// It passes once there is room; any other is for an operator.
    pub is_full: bool,
    pub reason: String,
}

impl Failure {
    pub fn of(error: &io::Error) -> Failure {
        Failure { is_full: is_full(error), reason: error.to_string() }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        io::Error::other(failure.reason)
    }
}

type Write = Box<dyn FnOnce(&dyn Store, &Witness) -> io::Result<()> + Send>;
type Remember = Box<dyn FnOnce(&mut Durable) + Send>;
type Done = Box<dyn FnOnce(Result<(), Failure>) + Send>;

struct Job {
    write: Write,
    /// What the store must hold from now on. None: the write counts whenever it gets to the disk.
    remember: Option<Remember>,
    done: Done,
}

/// Dropping it waits for the jobs that were given.
pub(crate) struct Disk {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    store: Option<Arc<dyn Store>>,
    durable: Durable,
    failed: watch::Sender<Option<Failure>>,
    dir: PathBuf,
    /// Released last.
    _lock: File,
}

impl Disk {
    /// Opens the store in a directory that is locked.
    pub fn open(dir: &Path, lock: File, witness: Witness) -> Result<Disk, Error> {
        Disk::of(Arc::new(Sled::open(dir)?), dir, lock, witness)
    }

    pub fn of(store: Arc<dyn Store>, dir: &Path, lock: File, witness: Witness) -> Result<Disk, Error> {
        let durable = witness.durable();
        let failed = watch::Sender::new(None);
        let (jobs, waiting) = mpsc::channel();
        let writer = Writer { store: store.clone(), witness, failed: failed.clone() };
        let thread = std::thread::Builder::new()
            .name("raft-disk".to_owned())
            .spawn(move || writer.run(&waiting))
            .map_err(|source| Error::Io { action: "start a thread for", path: dir.to_owned(), source })?;
        Ok(Disk {
            jobs: Some(jobs),
            thread: Some(thread),
            store: Some(store),
            durable,
            failed,
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the store had to hold when it was opened.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// For reads, which see all jobs that are done.
    pub fn store(&self) -> &Arc<dyn Store> {
        self.store.as_ref().expect("it is taken only when the disk is dropped")
    }

    /// Holds the reason once the disk has failed.
    pub fn failed(&self) -> watch::Receiver<Option<Failure>> {
        self.failed.subscribe()
    }

    /// Says that a write beside the store has failed.
    pub fn fail(&self, failure: Failure) {
        note(&self.failed, failure);
    }

    /// Gives the thread a write and goes on. `done` is told once it is on disk; or, where there is nothing to remember, once
    /// it is written.
    pub fn give(
        &self,
        write: impl FnOnce(&dyn Store, &Witness) -> io::Result<()> + Send + 'static,
        remember: Option<Remember>,
        done: impl FnOnce(Result<(), Failure>) + Send + 'static,
    ) {
        let jobs = self.jobs.as_ref().expect("it is taken only when the disk is dropped");
        // After a panic in a job the thread is gone. Dropping the job tells those who wait for it.
        if jobs.send(Job { write: Box::new(write), remember, done: Box::new(done) }).is_err() {
            tracing::error!(dir = %self.dir.display(), "the disk thread has ended");
        }
    }

    /// Gives the thread a write and waits until it is on disk.
    pub async fn run(
        &self,
        write: impl FnOnce(&dyn Store, &Witness) -> io::Result<()> + Send + 'static,
        remember: impl FnOnce(&mut Durable) + Send + 'static,
    ) -> io::Result<()> {
        let (done, answer) = tokio::sync::oneshot::channel();
        self.give(write, Some(Box::new(remember)), move |result| {
            // Nobody waits any more: the write counts all the same.
            let _ = done.send(result);
        });
        match answer.await {
            Ok(result) => Ok(result?),
            Err(_) => Err(io::Error::other("the disk thread panicked")),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let thread = self.thread.take();
        let store = self.store.take();
        let finish = move || {
            // A panic in a job was reported when it happened.
            let _ = thread.map(JoinHandle::join);
            drop(store);
        };
        if self.failed.borrow().is_none() {
            return finish();
        }
        let spawned = std::thread::Builder::new().name("raft-disk-end".to_owned()).spawn(finish);
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for the end of a store");
        }
    }
}

fn note(failed: &watch::Sender<Option<Failure>>, failure: Failure) {
    failed.send_if_modified(|failed| {
        let is_first = failed.is_none();
        failed.get_or_insert(failure);
        is_first
    });
}

struct Writer {
    store: Arc<dyn Store>,
    witness: Witness,
    failed: watch::Sender<Option<Failure>>,
}

impl Writer {
    fn run(&self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut group = Vec::new();
            let mut next = Some(first);
            let mut result = Ok(());
            while let Some(Job { write, remember, done }) = next.take() {
                if result.is_ok() {
                    result = self.guarded(|| write(&*self.store, &self.witness));
                }
                group.push((remember, done));
                if group.len() < GROUP {
                    next = jobs.try_recv().ok();
                }
            }
            if result.is_ok() && group.iter().any(|(remember, _)| remember.is_some()) {
                result = self.guarded(|| {
                    self.store.sync()?;
                    let remember = group.iter_mut().filter_map(|(remember, _)| remember.take());
                    self.witness.raise(|durable| remember.for_each(|remember| remember(durable)))
                });
            }
            for (_, done) in group {
                done(result.clone());
            }
        }
    }

    /// Does something with the disk unless that has failed before.
    fn guarded(&self, act: impl FnOnce() -> io::Result<()>) -> Result<(), Failure> {
        if let Some(failure) = &*self.failed.borrow() {
            return Err(failure.clone());
        }
        act().map_err(|error| {
            let failure = Failure::of(&error);
            tracing::error!(reason = failure.reason, is_full = failure.is_full, "the disk takes no more");
            note(&self.failed, failure.clone());
            failure
        })
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
