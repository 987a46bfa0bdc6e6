//! The embedded store: sled, and one thread that owns it.
//!
//! On disk lies a snapshot of the catalog and the commands since. All commands that wait are written as one batch with
//! one flush, and only then applied state is published and the writers are answered. sled's own flusher is off: the
//! thread decides when the disk is asked.
//!
//! ```text
//! s            snapshot: sequence, catalog
//! l <sequence> command
//! k <name>     sealed secret
//! m seal       fingerprint of the seal key
//! ```
use crate::{Error, ZoneStore, record};
use async_trait::async_trait;
use ring::rand::SecureRandom as _;
use shared_catalog::{Catalog, Command, Expected, Meshes, Outcome};
use shared_identity::seal::SealKey;
use shared_model::{Resource, ResourceKey, Timestamp};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use tokio::sync::{mpsc, oneshot, watch};

/// Commands between two snapshots: a start replays at most so many and the log stays small.
const SNAPSHOT_EVERY: u64 = 1_000;
/// Writers that may wait; the next one waits for a place.
const QUEUE: usize = 256;
/// The most that one stored command may weigh when it is read back, in bytes; far above what the API lets in.
const COMMAND_MAX: usize = 64 << 20;

/// Values above it may lie in files of their own, in bytes; sled's limit is twice that.
const LARGE: usize = 64 << 10;

const SNAPSHOT: &[u8] = b"s";
const SEAL: &[u8] = b"m seal";

/// A store in a directory of this machine, for one process.
pub struct Embedded {
    requests: Option<mpsc::Sender<Request>>,
    catalog: watch::Receiver<Arc<Catalog>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

enum Request {
    Apply(Command, oneshot::Sender<Result<Outcome, Error>>),
    Secret(String, oneshot::Sender<Result<Option<Vec<u8>>, Error>>),
    SecretNames(String, oneshot::Sender<Result<Vec<String>, Error>>),
    /// With nothing, the secret is forgotten.
    SetSecret(String, Option<Vec<u8>>, oneshot::Sender<Result<(), Error>>),
}

impl Embedded {
    /// Opens the store in `dir` and makes it when it is not there. Secrets are sealed with `seal`. `meshes` says
    /// whether the meshes of its resources must be in it too; a zone that stood alone may follow a global later.
    pub async fn open(dir: &Path, seal: SealKey, meshes: Meshes) -> Result<Embedded, Error> {
        let dir = dir.to_owned();
        let (opened, open) = oneshot::channel();
        let (requests, inbox) = mpsc::channel(QUEUE);
        let spawned = std::thread::Builder::new().name("zone-store".into()).spawn(move || {
            match Disk::open(&dir, seal, meshes) {
                Err(error) => drop(opened.send(Err(error))),
                Ok(disk) => {
                    let (publish, catalog) = watch::channel(disk.catalog.clone());
                    if opened.send(Ok(catalog)).is_ok() {
                        serve(disk, inbox, &publish);
                    }
                }
            }
        });
        let thread =
            spawned.map_err(|error| Error::Storage { path: "a thread".into(), reason: error.to_string() })?;
        let catalog = open.await.map_err(|_| Error::Closed)??;
        Ok(Embedded { requests: Some(requests), catalog, thread: Mutex::new(Some(thread)) })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(Error::Closed)?;
        requests.send(request(answer)).await.map_err(|_| Error::Closed)?;
        answered.await.map_err(|_| Error::Closed)?
    }
}

/// Closing waits for the thread, so that the directory can be opened again at once.
impl Drop for Embedded {
    fn drop(&mut self) {
        self.requests = None;
        let thread = self.thread.lock().map(|mut thread| thread.take());
        if let Ok(Some(thread)) = thread {
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl ZoneStore for Embedded {
    async fn put(&self, resource: Resource, expected: Expected) -> Result<Outcome, Error> {
        let command = Command::put(&resource, expected, now());
        self.ask(|answer| Request::Apply(command, answer)).await
    }

    async fn delete(&self, key: ResourceKey, expected: Expected) -> Result<Outcome, Error> {
        let command = Command::delete(key, expected, now());
        self.ask(|answer| Request::Apply(command, answer)).await
    }

    fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.clone()
    }

    async fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.ask(|answer| Request::Secret(name.to_owned(), answer)).await
    }

    async fn put_secret(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.ask(|answer| Request::SetSecret(name.to_owned(), Some(bytes.to_vec()), answer)).await
    }

    async fn delete_secret(&self, name: &str) -> Result<(), Error> {
        self.ask(|answer| Request::SetSecret(name.to_owned(), None, answer)).await
    }

    async fn secret_names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        self.ask(|answer| Request::SecretNames(prefix.to_owned(), answer)).await
    }
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// The thread's loop: takes all that waits, writes it as one batch, publishes, answers.
fn serve(mut disk: Disk, mut inbox: mpsc::Receiver<Request>, publish: &watch::Sender<Arc<Catalog>>) {
    let mut waiting = Vec::new();
    while inbox.blocking_recv_many(&mut waiting, QUEUE) > 0 {
        let (mut commands, mut answers) = (Vec::new(), Vec::new());
        let (mut secrets, mut keepers) = (Vec::new(), Vec::new());
        for request in waiting.drain(..) {
            match request {
                Request::Apply(command, answer) => {
                    commands.push(command);
                    answers.push(answer);
                }
                Request::Secret(name, answer) => drop(answer.send(disk.secret(&name))),
                Request::SecretNames(prefix, answer) => drop(answer.send(disk.secret_names(&prefix))),
                Request::SetSecret(name, bytes, answer) => {
                    secrets.push((name, bytes));
                    keepers.push(answer);
                }
            }
        }
        if !secrets.is_empty() {
            let reason = disk.set_secrets(secrets).err().map(|error| error.to_string());
            for answer in keepers {
                let failed = reason.clone().map(|reason| Error::Storage { path: disk.path(), reason });
                let _ = answer.send(failed.map_or(Ok(()), Err));
            }
        }
        if commands.is_empty() {
            continue;
        }
        match disk.apply(commands) {
            Ok(outcomes) => {
                if publish.borrow().revision() != disk.catalog.revision() {
                    publish.send_replace(disk.catalog.clone());
                }
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(error) => {
                tracing::error!(%error, "the zone's store could not write");
                let reason = error.to_string();
                for answer in answers {
                    let _ = answer.send(Err(Error::Storage { path: disk.path(), reason: reason.clone() }));
                }
            }
        }
    }
}

struct Disk {
    dir: PathBuf,
    db: sled::Db,
    /// sled's own file. Its flush hands pages to the device, and not what the file system must know to find them.
    file: File,
    seal: SealKey,
    catalog: Arc<Catalog>,
    /// Sequence of the newest command on disk.
    sequence: u64,
    snapshot: u64,
    /// Set by the first write that failed: what the disk then holds is unknown until it is read anew at a start.
    broken: Option<String>,
}

impl Disk {
    fn open(dir: &Path, seal: SealKey, meshes: Meshes) -> Result<Disk, Error> {
        remove_unfinished_snapshots(dir)?;
        let path = dir.display().to_string();
        let config = sled::Config::new().path(dir).flush_every_ms(None).cache_capacity(16 << 20);
        let db = config.open().map_err(|error| match &error {
            sled::Error::Io(io)
                if io.kind() == std::io::ErrorKind::WouldBlock || io.to_string().contains("lock") =>
            {
                Error::InUse(path.clone())
            }
            _ => Error::Storage { path: path.clone(), reason: error.to_string() },
        })?;
        let file = File::open(dir.join("db"))
            .map_err(|error| Error::Storage { path: path.clone(), reason: error.to_string() })?;
        let mut disk = Disk {
            dir: dir.to_owned(),
            db,
            file,
            seal,
            catalog: Arc::default(),
            sequence: 0,
            snapshot: 0,
            broken: None,
        };
        disk.check_seal()?;
        disk.load(meshes)?;
        Ok(disk)
    }

    fn path(&self) -> String {
        self.dir.display().to_string()
    }

    fn failed(&self, error: impl std::fmt::Display) -> Error {
        Error::Storage { path: self.path(), reason: error.to_string() }
    }

    fn damaged(&self, what: impl Into<String>, reason: impl std::fmt::Display) -> Error {
        Error::Damaged { path: self.path(), what: what.into(), reason: reason.to_string() }
    }

    /// A store without its key would lose every secret at the first write, so it is refused before that.
    fn check_seal(&self) -> Result<(), Error> {
        let given = self.seal.id();
        match self.db.get(SEAL).map_err(|error| self.failed(error))? {
            Some(stored) if stored.as_ref() == given.as_bytes() => Ok(()),
            Some(stored) => {
                let stored = String::from_utf8_lossy(&stored).into_owned();
                Err(Error::OtherSealKey { path: self.path(), stored, given })
            }
            None => {
                self.db.insert(SEAL, given.as_bytes()).map_err(|error| self.failed(error))?;
                self.flush()
            }
        }
    }

    fn load(&mut self, meshes: Meshes) -> Result<(), Error> {
        let mut catalog = Catalog::new();
        if let Some(stored) = self.db.get(SNAPSHOT).map_err(|error| self.failed(error))? {
            let body = record::open(&stored).map_err(|reason| self.damaged("the snapshot", reason))?;
            let (sequence, bytes) =
                split_sequence(body).ok_or_else(|| self.damaged("the snapshot", "it is too short"))?;
            catalog = Catalog::decode(bytes).map_err(|error| self.damaged("the snapshot", error))?;
            (self.sequence, self.snapshot) = (sequence, sequence);
        }
        let mut left_over = sled::Batch::default();
        // What is in the log was accepted by the rule of its time; the rule of today is for what comes.
        catalog.set_meshes(Meshes::Elsewhere);
        for entry in self.db.scan_prefix(b"l") {
            let (key, stored) = entry.map_err(|error| self.failed(error))?;
            let sequence = key.get(1..).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            let what = || format!("command {}", sequence.unwrap_or_default());
            // A crash came between a snapshot and the removal of what it holds.
            if sequence.is_some_and(|sequence| sequence <= self.snapshot) {
                left_over.remove(key);
                continue;
            }
            let expected = self.sequence + 1;
            if sequence != Some(expected) {
                return Err(self.damaged(what(), format!("command {expected} should be there")));
            }
            let body = record::open(&stored).map_err(|reason| self.damaged(what(), reason))?;
            let command = decode_command(body).map_err(|reason| self.damaged(what(), reason))?;
            catalog.apply(&command);
            self.sequence = expected;
        }
        catalog.set_meshes(meshes);
        self.catalog = Arc::new(catalog);
        self.write(left_over)
    }

    fn apply(&mut self, commands: Vec<Command>) -> Result<Vec<Outcome>, Error> {
        if let Some(reason) = &self.broken {
            return Err(self.failed(format!("an earlier write failed ({reason}); restart to go on")));
        }
        let mut catalog = Catalog::clone(&self.catalog);
        let mut batch = sled::Batch::default();
        let mut sequence = self.sequence;
        let mut is_large = false;
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            let before = catalog.revision();
            outcomes.push(catalog.apply(&command));
            // What changed nothing needs no place in the log.
            if catalog.revision() != before {
                sequence += 1;
                let body = encode_command(&command).map_err(|error| self.failed(error))?;
                is_large |= body.len() > LARGE;
                batch.insert(log_key(sequence), record::seal(&body));
            }
        }
        if sequence == self.sequence {
            return Ok(outcomes);
        }
        let written = self.write(batch).and_then(|()| match is_large {
            true => self.sync_large_values(),
            false => Ok(()),
        });
        if let Err(error) = written {
            self.broken = Some(error.to_string());
            return Err(error);
        }
        self.catalog = Arc::new(catalog);
        self.sequence = sequence;
        if self.sequence - self.snapshot >= SNAPSHOT_EVERY
            && let Err(error) = self.write_snapshot()
        {
            tracing::warn!(%error, "the zone's store could not write a snapshot, its log grows until it can");
        }
        Ok(outcomes)
    }

    fn write_snapshot(&mut self) -> Result<(), Error> {
        let mut body = self.sequence.to_be_bytes().to_vec();
        body.extend(self.catalog.encode());
        self.db.insert(SNAPSHOT, record::seal(&body)).map_err(|error| self.failed(error))?;
        self.flush()?;
        self.sync_large_values()?;
        // Only now, when the snapshot is sure to be there after a power cut.
        let mut batch = sled::Batch::default();
        for sequence in self.snapshot + 1..=self.sequence {
            batch.remove(log_key(sequence));
        }
        self.write(batch)?;
        self.snapshot = self.sequence;
        Ok(())
    }

    fn write(&self, batch: sled::Batch) -> Result<(), Error> {
        self.db.apply_batch(batch).map_err(|error| self.failed(error))?;
        self.flush()
    }

    fn flush(&self) -> Result<(), Error> {
        self.db.flush().map_err(|error| self.failed(error))?;
        self.file.sync_data().map_err(|error| self.failed(error))
    }

    /// sled keeps a large value in a file of its own and never asks the disk for it.
    fn sync_large_values(&self) -> Result<(), Error> {
        let place = self.dir.join("blobs");
        let sync = || {
            for value in std::fs::read_dir(&place)? {
                File::open(value?.path())?.sync_all()?;
            }
            File::open(&place)?.sync_all()
        };
        sync().map_err(|error: std::io::Error| self.failed(error))
    }

    fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let fault = |reason: String| Error::Secret { name: name.to_owned(), reason };
        let Some(stored) = self.db.get(secret_key(name)).map_err(|error| self.failed(error))? else {
            return Ok(None);
        };
        let sealed = record::open(&stored).map_err(fault)?;
        let plain = self.seal.open(&context(name), sealed).map_err(|error| fault(error.to_string()))?;
        Ok(Some(plain))
    }

    fn secret_names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let names = self.db.scan_prefix(secret_key(prefix)).keys().map(|key| {
            let key = key.map_err(|error| self.failed(error))?;
            Ok(String::from_utf8_lossy(&key[secret_key("").len()..]).into_owned())
        });
        names.collect()
    }

    /// Writes or forgets secrets with one flush.
    fn set_secrets(&self, secrets: Vec<(String, Option<Vec<u8>>)>) -> Result<(), Error> {
        let mut batch = sled::Batch::default();
        for (name, bytes) in secrets {
            let Some(bytes) = bytes else {
                batch.remove(secret_key(&name));
                continue;
            };
            let mut nonce = [0; 12];
            let random = ring::rand::SystemRandom::new().fill(&mut nonce);
            random.map_err(|_| Error::Secret { name: name.clone(), reason: "no randomness".into() })?;
            let sealed = self.seal.seal(nonce, &context(&name), &bytes);
            batch.insert(secret_key(&name), record::seal(&sealed));
        }
        self.write(batch)
    }
}

/// sled takes a snapshot that a crash left unfinished for the newest and then calls the store corrupt.
fn remove_unfinished_snapshots(dir: &Path) -> Result<(), Error> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Error::Storage { path: dir.display().to_string(), reason: error.to_string() });
        }
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            let removed = std::fs::remove_file(entry.path());
            removed.map_err(|error| Error::Storage {
                path: entry.path().display().to_string(),
                reason: error.to_string(),
            })?;
        }
    }
    Ok(())
}

fn log_key(sequence: u64) -> Vec<u8> {
    [b"l".as_slice(), &sequence.to_be_bytes()].concat()
}

fn secret_key(name: &str) -> Vec<u8> {
    format!("k {name}").into_bytes()
}

/// A sealed secret opens under its own name only.
fn context(name: &str) -> Vec<u8> {
    format!("zone-store/{name}").into_bytes()
}

fn split_sequence(body: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = body.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*head), rest))
}

fn encode_command(command: &Command) -> Result<Vec<u8>, String> {
    bincode::serde::encode_to_vec(command, bincode::config::standard()).map_err(|error| error.to_string())
}

fn decode_command(bytes: &[u8]) -> Result<Command, String> {
    let config = bincode::config::standard().with_limit::<COMMAND_MAX>();
    let (command, read) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|error| error.to_string())?;
    if read == bytes.len() { Ok(command) } else { Err(format!("{} bytes follow it", bytes.len() - read)) }
}

#[cfg(test)]
mod tests;
