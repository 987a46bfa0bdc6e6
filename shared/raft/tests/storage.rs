//! The storage under openraft's own suite, and what a disk may do to it.
use openraft::{
    CommittedLeaderId, EntryPayload, LogId, RaftLogReader, RaftSnapshotBuilder, StorageError, Vote,
    storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine},
    testing::{StoreBuilder, Suite},
};
use shared_catalog::{Command, Expected};
use shared_model::{Resource, Timestamp, kind};
use shared_raft::{Batch, Entry, Error, LogStore, StateMachine, Storage, TypeConfig, set_aside};
use std::{fs, path::Path};
use tempfile::TempDir;

struct Fresh;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Fresh {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<u64>> {
        let dir = TempDir::new().expect("a directory");
        let storage = open(dir.path());
        Ok((dir, storage.log, storage.machine))
    }
}

fn open(dir: &Path) -> Storage {
    Storage::open(dir, "zone zone-1", || 7).expect("it opens")
}

fn log_id(index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

fn entry(index: u64) -> Entry {
    let mesh = Resource::new(kind::MESH, "", &format!("mesh-{index}"), serde_json::json!({}));
    let command = Command::put(&mesh, Expected::Any, Timestamp::UNIX_EPOCH);
    Entry { log_id: log_id(index), payload: EntryPayload::Normal(Batch(vec![command])) }
}

async fn filled(dir: &Path, entries: std::ops::Range<u64>) -> Storage {
    let mut storage = open(dir);
    storage.log.blocking_append(entries.map(entry)).await.expect("appended");
    storage
}

#[test]
fn it_passes_the_suite_of_openraft() {
    Suite::test_all(Fresh).expect("all of it");
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = TempDir::new().expect("a directory");
    let mut storage = filled(dir.path(), 0..2000).await;
    storage.log.save_vote(&Vote::new_committed(3, 1)).await.expect("saved");
    storage.log.save_committed(Some(log_id(1500))).await.expect("saved");
    storage.log.truncate(log_id(1990)).await.expect("truncated");
    let catalog = storage.catalog.clone();
    storage.machine.apply((0..1000).map(entry)).await.expect("applied");
    storage.machine.get_snapshot_builder().await.build_snapshot().await.expect("built");
    storage.log.purge(log_id(900)).await.expect("purged");
    storage.set_cluster_id("c-1").expect("set");
    drop(storage);

    let mut storage = Storage::open(dir.path(), "zone zone-1", || unreachable!()).expect("it opens");
    assert_eq!((storage.identity.node_id, storage.identity.cluster_id.as_str()), (7, "c-1"));
    assert_eq!(storage.log.read_vote().await.expect("read"), Some(Vote::new_committed(3, 1)));
    assert_eq!(storage.log.read_committed().await.expect("read"), Some(log_id(1500)));
    let state = storage.log.get_log_state().await.expect("read");
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(900)), Some(log_id(1989))));
    let entries = storage.log.try_get_log_entries(..).await.expect("read");
    assert_eq!(entries.len(), 1989 - 900);
    assert_eq!(entries.last(), Some(&entry(1989)));
    assert_eq!(**storage.catalog.borrow(), **catalog.borrow());
    assert!(matches!(storage.set_cluster_id("c-2"), Err(Error::OtherCluster { .. })));
}

#[tokio::test]
async fn a_read_is_bounded_by_bytes_and_never_has_a_hole() {
    let dir = TempDir::new().expect("a directory");
    let mut storage = filled(dir.path(), 0..3000).await;
    let large = Command::Put { resource: vec![b' '; 300 << 10], expected: Expected::Any, at_ms: 0 };
    let large =
        |index| Entry { log_id: log_id(index), payload: EntryPayload::Normal(Batch(vec![large.clone()])) };
    storage.log.blocking_append((3000..3100).map(large)).await.expect("appended");
    let mut next = 0;
    while next < 3100 {
        let entries = storage.log.limited_get_log_entries(next, 3100).await.expect("read");
        assert!(!entries.is_empty() && (next < 2000 || entries.len() < 1100));
        for entry in entries {
            assert_eq!(entry.log_id.index, next);
            next += 1;
        }
    }
}

#[tokio::test]
async fn large_entries_and_small_ones_come_back_whole_and_go_whole() {
    let dir = TempDir::new().expect("a directory");
    let sized = |index: u64| {
        let size = [0, 10, 4_000, 4_096, 8_192, 300_000, 2_000_000][index as usize % 7];
        let command = Command::Put { resource: vec![index as u8; size], expected: Expected::Any, at_ms: 0 };
        Entry { log_id: log_id(index), payload: EntryPayload::Normal(Batch(vec![command])) }
    };
    let mut storage = open(dir.path());
    storage.log.blocking_append((0..30).map(sized)).await.expect("appended");
    storage.log.truncate(log_id(26)).await.expect("truncated");
    storage
        .log
        .blocking_append((26..28).map(|index| sized(index + 1)).map(|mut entry| {
            entry.log_id.index -= 1;
            entry
        }))
        .await
        .expect("appended");
    storage.machine.apply((0..10).map(entry)).await.expect("applied");
    storage.machine.get_snapshot_builder().await.build_snapshot().await.expect("built");
    storage.log.purge(log_id(8)).await.expect("purged");
    drop(storage);
    let files = fs::read_dir(dir.path().join("db/blobs")).map_or(0, Iterator::count);
    assert_eq!(files, 0, "a value has a file of its own, which nobody syncs");
    let mut storage = open(dir.path());
    let entries = storage.log.try_get_log_entries(..).await.expect("read");
    assert_eq!(entries.len(), 28 - 9);
    for entry in &entries[..26 - 9] {
        assert_eq!(entry, &sized(entry.log_id.index));
    }
    assert_eq!(entries[26 - 9].payload, sized(27).payload);
}

#[test]
fn a_directory_of_another_owner_is_refused_in_one_sentence() {
    let dir = TempDir::new().expect("a directory");
    drop(open(dir.path()));
    let refused = Storage::open(dir.path(), "global", || 1).err().expect("refused").to_string();
    assert_eq!(
        refused,
        format!("the data directory {} belongs to zone zone-1, not to global", dir.path().display())
    );
    let held = open(dir.path());
    let refused = Storage::open(dir.path(), "zone zone-1", || 1).err().expect("refused").to_string();
    assert_eq!(refused, format!("the data directory {} is in use by another process", dir.path().display()));
    drop(held);
    drop(open(dir.path()));
}

#[tokio::test]
async fn a_half_written_snapshot_of_sled_does_no_harm() {
    let dir = TempDir::new().expect("a directory");
    drop(filled(dir.path(), 0..10).await);
    fs::write(dir.path().join("db/snap.FFFFFFFFFFFFFFFF.generating"), b"half").expect("written");
    assert_eq!(open(dir.path()).log.try_get_log_entries(..).await.expect("read").len(), 10);
}

#[tokio::test]
async fn a_crash_while_a_snapshot_is_written_leaves_the_one_before() {
    let dir = TempDir::new().expect("a directory");
    let mut storage = open(dir.path());
    storage.machine.apply((0..10).map(entry)).await.expect("applied");
    let snapshot = storage.machine.get_snapshot_builder().await.build_snapshot().await.expect("built");
    drop(storage);
    fs::write(dir.path().join("snapshot.new"), b"WEFTSNAP half of it").expect("written");
    let mut storage = open(dir.path());
    let current = storage.machine.get_current_snapshot().await.expect("read").expect("it is there");
    assert_eq!(current.meta, snapshot.meta);
    assert_eq!(current.snapshot.bytes(), snapshot.snapshot.bytes());
    assert_eq!(storage.catalog.borrow().len(), 10);
}

#[tokio::test]
async fn a_damaged_snapshot_stops_the_replica_and_it_can_start_anew() {
    let home = TempDir::new().expect("a directory");
    let dir = home.path().join("replica");
    let mut storage = open(&dir);
    storage.machine.apply((0..10).map(entry)).await.expect("applied");
    storage.machine.get_snapshot_builder().await.build_snapshot().await.expect("built");
    drop(storage);
    let path = dir.join("snapshot");
    let whole = fs::read(&path).expect("read");
    for at in [0, 8, 10, 30, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, damaged).expect("written");
        let refused = Storage::open(&dir, "zone zone-1", || 7).err().expect("refused");
        assert!(matches!(refused, Error::Damaged { .. }), "byte {at}: {refused}");
    }
    fs::write(&path, &whole[..whole.len() - 7]).expect("written");
    assert!(matches!(Storage::open(&dir, "zone zone-1", || 7), Err(Error::Damaged { .. })));
    set_aside(&dir).expect("moved");
    assert_eq!(Storage::open(&dir, "zone zone-1", || 8).expect("it opens").identity.node_id, 8);
}

#[tokio::test]
async fn a_received_snapshot_with_a_flipped_bit_replaces_nothing() {
    let (from, to) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let mut leader = open(from.path());
    leader.machine.apply((0..10).map(entry)).await.expect("applied");
    let snapshot = leader.machine.get_snapshot_builder().await.build_snapshot().await.expect("built");
    let mut zone = open(to.path());
    let mut bytes = snapshot.snapshot.bytes().to_vec();
    bytes[40] ^= 1;
    let damaged = shared_raft::SnapshotBody::Receiving(std::io::Cursor::new(bytes));
    zone.machine.install_snapshot(&snapshot.meta, Box::new(damaged)).await.expect_err("refused");
    assert!(zone.machine.get_current_snapshot().await.expect("read").is_none());
    assert!(zone.catalog.borrow().is_empty());
    zone.machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.expect("installed");
    assert_eq!(**zone.catalog.borrow(), **leader.catalog.borrow());
}

#[tokio::test]
async fn missing_files_are_damage_not_a_new_replica() {
    for missing in ["identity.json", "db", "snapshot", "durable"] {
        let dir = TempDir::new().expect("a directory");
        let mut storage = filled(dir.path(), 0..10).await;
        storage.machine.apply((0..10).map(entry)).await.expect("applied");
        storage.machine.get_snapshot_builder().await.build_snapshot().await.expect("built");
        storage.log.purge(log_id(5)).await.expect("purged");
        drop(storage);
        let path = dir.path().join(missing);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removed");
        let refused = Storage::open(dir.path(), "zone zone-1", || 7).err().expect("refused");
        assert!(matches!(refused, Error::Damaged { .. }), "{missing}: {refused}");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_store_stops_the_replica_and_loses_nothing_silently() {
    let dir = TempDir::new().expect("a directory");
    let mut storage = open(dir.path());
    for index in 0..400 {
        storage.log.blocking_append([entry(index)]).await.expect("appended");
    }
    storage.log.save_vote(&Vote::new_committed(3, 1)).await.expect("saved");
    drop(storage);
    let path = dir.path().join("db/db");
    let whole = fs::read(&path).expect("read");
    let used = whole.iter().rposition(|byte| *byte != 0).expect("it is not empty");
    let mut stopped = 0;
    for part in 0..16 {
        let copy = TempDir::new().expect("a directory");
        copy_files(dir.path(), copy.path());
        let mut damaged = whole.clone();
        damaged[used * part / 16] ^= 0x40;
        fs::write(copy.path().join("db/db"), damaged).expect("written");
        match Storage::open(copy.path(), "zone zone-1", || 7) {
            Ok(mut storage) => {
                let entries = storage.log.try_get_log_entries(..).await.expect("read");
                assert!(entries.into_iter().eq((0..400).map(entry)), "part {part}");
                assert_eq!(storage.log.read_vote().await.expect("read"), Some(Vote::new_committed(3, 1)));
            }
            Err(Error::Damaged { .. }) => stopped += 1,
            Err(other) => panic!("part {part}: {other}"),
        }
    }
    assert!(stopped > 4, "{stopped} of 16 were found");
}

fn copy_files(from: &Path, to: &Path) {
    for file in fs::read_dir(from).expect("read").flatten() {
        let target = to.join(file.file_name());
        if file.path().is_dir() {
            fs::create_dir_all(&target).expect("made");
            copy_files(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).expect("copied");
        }
    }
}
