//! The log on a disk that is slow, full or broken.
use super::*;
use crate::{Batch, disk, store::Sled};
use openraft::{CommittedLeaderId, EntryPayload, storage::RaftLogStorageExt};
use shared_catalog::{Command, Expected};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tempfile::TempDir;

const OWN: u64 = 7;
const OTHER: u64 = 8;

/// A store whose syncs and writes are let through, held up or refused.
struct Fickle {
    store: Sled,
    held_up: Mutex<bool>,
    release: std::sync::Condvar,
    refuse_write: Mutex<Option<io::ErrorKind>>,
    refuse_sync: Mutex<bool>,
    syncs: AtomicUsize,
}

impl Store for Arc<Fickle> {
    fn mark(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.store.mark(name)
    }

    fn set_mark(&self, name: &str, value: Option<Vec<u8>>) -> io::Result<()> {
        self.store.set_mark(name, value)
    }

    fn entries(
        &self,
        range: std::ops::Range<u64>,
        each: &mut dyn FnMut(u64, Vec<u8>) -> bool,
    ) -> io::Result<()> {
        self.store.entries(range, each)
    }

    fn append(&self, entries: Vec<(u64, Vec<u8>)>) -> io::Result<()> {
        match *self.refuse_write.lock().expect("no panic") {
            Some(kind) => Err(kind.into()),
            None => self.store.append(entries),
        }
    }

    fn remove_before(&self, index: u64) -> io::Result<()> {
        self.store.remove_before(index)
    }

    fn remove_from(&self, index: u64) -> io::Result<()> {
        self.store.remove_from(index)
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        let held_up = self.held_up.lock().expect("no panic");
        drop(self.release.wait_while(held_up, |held_up| *held_up).expect("no panic"));
        match *self.refuse_sync.lock().expect("no panic") {
            true => Err(io::Error::other("fsync failed: input/output error")),
            false => self.store.sync(),
        }
    }
}

impl Fickle {
    fn hold_up(&self, held_up: bool) {
        *self.held_up.lock().expect("no panic") = held_up;
        self.release.notify_all();
    }
}

struct House {
    log: LogStore,
    store: Arc<Fickle>,
    _dir: TempDir,
}

/// The log of a node that leads term 1, with an entry of the term before.
async fn leading() -> House {
    let dir = TempDir::new().expect("a directory");
    let store = Arc::new(Fickle {
        store: Sled::open(dir.path()).expect("it opens"),
        held_up: Mutex::new(false),
        release: std::sync::Condvar::new(),
        refuse_write: Mutex::new(None),
        refuse_sync: Mutex::new(false),
        syncs: AtomicUsize::new(0),
    });
    let lock = disk::lock(dir.path()).expect("it is free");
    let witness = Witness::create(dir.path()).expect("made");
    let disk = Disk::of(Arc::new(store.clone()), dir.path(), lock, witness).expect("a thread");
    let mut log = LogStore::open(Arc::new(disk), false).expect("it opens");
    log.set_node_id(OWN);
    log.blocking_append([entry(0, OTHER, 0)]).await.expect("appended");
    log.save_vote(&Vote::new_committed(1, OWN)).await.expect("saved");
    House { log, store, _dir: dir }
}

fn entry(term: u64, node_id: u64, index: u64) -> Entry {
    let command = Command::Put { resource: vec![7; 100], expected: Expected::Any, at_ms: 0 };
    let log_id = LogId::new(CommittedLeaderId::new(term, node_id), index);
    Entry { log_id, payload: EntryPayload::Normal(Batch(vec![command])) }
}

async fn is_soon<T>(what: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(200), what).await.ok()
}

#[tokio::test]
async fn a_leader_sends_what_is_not_on_its_disk_and_counts_on_it_later() {
    let House { mut log, store, _dir } = leading().await;
    store.hold_up(true);
    is_soon(log.blocking_append([entry(1, OWN, 1), entry(1, OWN, 2)]))
        .await
        .expect("soon")
        .expect("appended");
    assert_eq!(log.try_get_log_entries(1..3).await.expect("read").len(), 2);
    assert!(is_soon(log.flushed(0)).await.is_some());
    assert!(is_soon(log.flushed(2)).await.is_none());
    assert_eq!(log.flushed_part(entry(1, OWN, 2).log_id), Some(entry(0, OTHER, 0).log_id));
    store.hold_up(false);
    log.flushed(2).await.expect("flushed");
    assert_eq!(log.flushed_part(entry(1, OWN, 2).log_id), Some(entry(1, OWN, 2).log_id));
}

#[tokio::test]
async fn a_follower_answers_when_its_disk_has_it() {
    let House { mut log, store, _dir } = leading().await;
    log.save_vote(&Vote::new_committed(2, OTHER)).await.expect("saved");
    store.hold_up(true);
    // Its own entry of an older term comes back to it, and is one that it was sent.
    for sent in [entry(1, OWN, 1), entry(2, OTHER, 2)] {
        assert!(is_soon(log.blocking_append([sent])).await.is_none());
    }
    store.hold_up(false);
    log.blocking_append([entry(2, OTHER, 3)]).await.expect("appended");
}

#[tokio::test]
async fn after_a_failed_fsync_nothing_is_taken_and_nothing_is_told() {
    let House { mut log, store, _dir } = leading().await;
    *store.refuse_sync.lock().expect("no panic") = true;
    log.blocking_append([entry(1, OWN, 1)]).await.expect("it is sent all the same");
    assert!(matches!(log.failed().await, Error::Stopped(reason) if reason.contains("fsync failed")));
    assert!(log.flushed(1).await.is_err());
    // The disk says that it is well again. Nobody knows what it has forgotten.
    *store.refuse_sync.lock().expect("no panic") = false;
    assert!(log.blocking_append([entry(1, OWN, 2)]).await.is_err());
    assert!(log.save_vote(&Vote::new(9, OWN)).await.is_err());
}

#[tokio::test]
async fn a_full_disk_is_told_from_a_broken_one() {
    use io::ErrorKind::{FileTooLarge, Other, QuotaExceeded, StorageFull};
    for (kind, is_full) in [(StorageFull, true), (QuotaExceeded, true), (FileTooLarge, true), (Other, false)]
    {
        let House { mut log, store, _dir } = leading().await;
        assert!(log.why_failed().is_none());
        *store.refuse_write.lock().expect("no panic") = Some(kind);
        log.blocking_append([entry(1, OWN, 1)]).await.expect("it is sent all the same");
        assert_eq!(matches!(log.failed().await, Error::Full { .. }), is_full, "{kind:?}");
        assert!(log.flushed(1).await.is_err());
    }
}

#[tokio::test]
async fn what_waits_for_the_disk_is_synced_together() {
    let House { mut log, store, _dir } = leading().await;
    store.hold_up(true);
    let before = store.syncs.load(Ordering::Relaxed);
    for index in 1..=50 {
        log.blocking_append([entry(1, OWN, index)]).await.expect("appended");
    }
    store.hold_up(false);
    log.flushed(50).await.expect("flushed");
    // The one that was held up, and one for all that came meanwhile.
    assert!(store.syncs.load(Ordering::Relaxed) - before <= 2);
}
