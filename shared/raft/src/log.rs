//! The Raft log, the vote and what is committed, on disk.
//!
//! Writes are jobs of the disk thread; the newest entries also stay in memory, where replication and `apply` read them.
//! An entry that is not on disk yet is always in memory.
use crate::{
    Entry, Error, TypeConfig,
    disk::{Disk, Trees},
    record,
    types::{LogId, StorageError, Vote},
};
use openraft::{
    AnyError, LogState, OptionalSend, RaftLogReader, StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How much of the log that is on disk also stays in memory.
const RECENT_ENTRIES: usize = 1024;
const RECENT_BYTES: usize = 8 << 20;

/// How many bytes of entries one message to a follower carries, unless a single entry is larger.
const PAYLOAD_BYTES: usize = 1 << 20;

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// A clone is the same log.
#[derive(Clone)]
pub struct LogStore {
    disk: Arc<Disk>,
    state: Arc<Mutex<State>>,
    /// A learner's applied state must not go back when it restarts without a leader; a voter learns it anew.
    committed_is_durable: bool,
}

struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Without holes, up to `last`. The size is that of the record.
    recent: BTreeMap<u64, (Entry, usize)>,
    recent_bytes: usize,
    /// The index after the last that is on disk.
    durable_end: u64,
}

impl LogStore {
    /// Reads and verifies the whole log.
    pub(crate) fn open(disk: Arc<Disk>, committed_is_durable: bool) -> Result<LogStore, Error> {
        let damaged =
            |what: String| Error::Damaged { dir: disk.dir().to_owned(), what: format!("log: {what}") };
        let store = |source| Error::Store { dir: disk.dir().to_owned(), source };
        let meta = |key: &[u8]| disk.trees().meta.get(key).map_err(store);
        let purged: Option<LogId> = read(PURGED, meta(PURGED)?).map_err(damaged)?;
        let mut state = State {
            vote: read(VOTE, meta(VOTE)?).map_err(damaged)?,
            committed: read(COMMITTED, meta(COMMITTED)?).map_err(damaged)?,
            purged,
            last: purged,
            recent: BTreeMap::new(),
            recent_bytes: 0,
            durable_end: next(purged),
        };
        // A crash may have come between the mark of a purge and the removal of the entries.
        let leftover: Vec<_> =
            disk.trees().log.range(..key(next(purged))).keys().collect::<Result<_, _>>().map_err(store)?;
        for key in leftover {
            disk.trees().log.remove(key).map_err(store)?;
        }
        let mut expected: Option<u64> = None;
        for item in disk.trees().log.iter() {
            let (at, value) = item.map_err(store)?;
            let index = index_of(&at).map_err(damaged)?;
            let entry: Entry =
                record::decode(&at, &value).map_err(|what| damaged(format!("entry {index}: {what}")))?;
            if expected.is_some_and(|expected| expected != index) || entry.log_id.index != index {
                return Err(damaged(format!("entry {index} does not follow the one before")));
            }
            expected = Some(index + 1);
            state.last = Some(entry.log_id);
            state.durable_end = index + 1;
        }
        let durable = disk.trees().witness.durable();
        if state.durable_end < durable.log_end {
            let (has, had) = (state.durable_end, durable.log_end);
            return Err(damaged(format!(
                "it ends before entry {has}, entries up to {had} were acknowledged"
            )));
        }
        if state.vote < durable.vote || state.committed < durable.committed {
            return Err(damaged("a vote or a commit that was acknowledged is lost".to_owned()));
        }
        Ok(LogStore { disk, state: Arc::new(Mutex::new(state)), committed_is_durable })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known to be committed: what openraft last said, or what a snapshot covers.
    pub(crate) fn committed(&self) -> Option<LogId> {
        let state = self.state();
        state.committed.max(state.purged)
    }

    /// True for a log that was never part of a cluster.
    pub(crate) fn is_pristine(&self) -> bool {
        let state = self.state();
        state.vote.is_none() && state.last.is_none()
    }

    /// Term and index of the last entry, zeros for none: the order in which logs are compared.
    pub fn end(&self) -> (u64, u64) {
        self.state().last.map_or((0, 0), |last| (last.leader_id.term, last.index))
    }

    pub(crate) fn purged(&self) -> Option<LogId> {
        self.state().purged
    }

    async fn entries(&self, start: u64, end: u64, bytes: usize) -> Result<Vec<Entry>, StorageError> {
        let (start, first_recent, recent) = {
            let state = self.state();
            let start = start.max(next(state.purged));
            let end = end.min(next(state.last));
            if start >= end {
                return Ok(Vec::new());
            }
            let first = state.recent.keys().next().map_or(end, |first| (*first).clamp(start, end));
            let recent: Vec<(Entry, usize)> =
                state.recent.range(first..end).map(|(_, entry)| entry.clone()).collect();
            (start, first, recent)
        };
        let mut found = Vec::new();
        if start < first_recent {
            let log = self.disk.trees().log.clone();
            let older = move || read_range(&log, start, first_recent, bytes);
            found = tokio::task::spawn_blocking(older)
                .await
                .unwrap_or_else(|error| Err(error.to_string()))
                .map_err(|what| StorageIOError::read_logs(AnyError::error(what)))?;
        }
        // What the budget cut off is not followed by newer entries.
        if found.last().is_none_or(|(entry, _)| entry.log_id.index + 1 == first_recent) {
            found.extend(recent);
        }
        let mut budget = bytes;
        let mut first = true;
        let within = |(_, size): &(Entry, usize)| {
            let fits = *size <= budget || std::mem::take(&mut first);
            first = false;
            budget = budget.saturating_sub(*size);
            fits
        };
        Ok(found.into_iter().take_while(within).map(|(entry, _)| entry).collect())
    }
}

fn read_range(log: &sled::Tree, start: u64, end: u64, bytes: usize) -> Result<Vec<(Entry, usize)>, String> {
    let mut entries = Vec::new();
    let mut budget = bytes;
    for item in log.range(key(start)..key(end)) {
        let (at, value) = item.map_err(|error| error.to_string())?;
        if value.len() > budget && !entries.is_empty() {
            break;
        }
        budget = budget.saturating_sub(value.len());
        let entry =
            record::decode(&at, &value).map_err(|what| format!("entry {:?}: {what}", index_of(&at)))?;
        entries.push((entry, value.len()));
    }
    Ok(entries)
}

impl State {
    fn push(&mut self, entry: Entry, size: usize) {
        self.last = Some(entry.log_id);
        self.recent_bytes += size;
        self.recent.insert(entry.log_id.index, (entry, size));
    }

    /// Forgets what is on disk and more than is worth keeping.
    fn trim(&mut self) {
        while self.recent.len() > RECENT_ENTRIES || self.recent_bytes > RECENT_BYTES {
            match self.recent.first_entry() {
                Some(first) if *first.key() < self.durable_end => {
                    self.recent_bytes -= first.remove().1;
                }
                _ => return,
            }
        }
    }

    fn count_bytes(&mut self) {
        self.recent_bytes = self.recent.values().map(|(_, size)| size).sum();
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.entries(start, end, PAYLOAD_BYTES).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let value = record::encode(VOTE, vote);
        let vote = *vote;
        let write = move |trees: &Trees| {
            trees.meta.insert(VOTE, value)?;
            trees.flush()?;
            Ok(trees.witness.raise(|durable| durable.vote = Some(vote))?)
        };
        self.disk.run(write).await.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)))?;
        self.state().vote = Some(vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.state().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let value = committed.map(|committed| record::encode(COMMITTED, &committed));
        let write = move |trees: &Trees| match value {
            Some(value) => trees.meta.insert(COMMITTED, value).map(|_| ()),
            None => trees.meta.remove(COMMITTED).map(|_| ()),
        };
        if self.committed_is_durable {
            let write = move |trees: &Trees| {
                write(trees)?;
                trees.flush()?;
                Ok(trees.witness.raise(|durable| durable.committed = committed)?)
            };
            self.disk.run(write).await.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)))?;
        } else {
            self.disk.give(move |trees| {
                if let Err(error) = write(trees) {
                    trees.has_failed();
                    tracing::error!(%error, "the commit index is not saved");
                }
            });
        }
        self.state().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.state().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = sled::Batch::default();
        let mut end = 0;
        {
            let mut state = self.state();
            for entry in entries {
                let index = entry.log_id.index;
                let value = record::encode(&key(index), &entry);
                state.push(entry, value.len());
                batch.insert(&key(index), value);
                end = index + 1;
            }
        }
        let state = self.state.clone();
        self.disk.give(move |trees| {
            let write = || -> sled::Result<()> {
                trees.log.apply_batch(batch)?;
                trees.flush()?;
                Ok(trees.witness.raise(|durable| durable.log_end = durable.log_end.max(end))?)
            };
            let done = write();
            if done.is_err() {
                trees.has_failed();
            } else {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                state.durable_end = state.durable_end.max(end);
                state.trim();
            }
            callback.log_io_completed(done.map_err(io::Error::other));
        });
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let removed = {
            let mut state = self.state();
            state.recent.split_off(&log_id.index);
            state.count_bytes();
            log_id.index..next(state.last)
        };
        let remove = move |trees: &Trees| {
            trees.witness.lower(|durable| durable.log_end = durable.log_end.min(log_id.index))?;
            // From the end, so that a crash leaves no hole.
            for index in removed.rev() {
                trees.log.remove(key(index))?;
            }
            trees.flush()
        };
        let failed = |error: sled::Error| StorageIOError::write_logs(AnyError::new(&error));
        self.disk.run(remove).await.map_err(failed)?;
        let before = match log_id.index.checked_sub(1) {
            Some(before) => {
                self.entries(before, log_id.index, usize::MAX).await?.pop().map(|entry| entry.log_id)
            }
            None => None,
        };
        let mut state = self.state();
        state.last = before.or(state.purged);
        state.durable_end = state.durable_end.min(log_id.index);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let removed = {
            let mut state = self.state();
            let removed = next(state.purged)..next(Some(log_id)).min(next(state.last));
            state.recent = state.recent.split_off(&next(Some(log_id)));
            state.count_bytes();
            state.purged = state.purged.max(Some(log_id));
            state.last = state.last.max(Some(log_id));
            state.durable_end = state.durable_end.max(next(Some(log_id)));
            removed
        };
        let mark = record::encode(PURGED, &log_id);
        self.disk.give(move |trees| {
            let purge = || -> sled::Result<()> {
                trees.meta.insert(PURGED, mark)?;
                let mut batch = sled::Batch::default();
                for index in removed {
                    batch.remove(&key(index));
                }
                trees.log.apply_batch(batch)
            };
            if let Err(error) = purge() {
                trees.has_failed();
                tracing::error!(%error, "the log is not purged");
            }
        });
        Ok(())
    }
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn index_of(key: &[u8]) -> Result<u64, String> {
    let key = <[u8; 8]>::try_from(key).map_err(|_| format!("a key has {} bytes", key.len()))?;
    Ok(u64::from_be_bytes(key))
}

fn next(log_id: Option<LogId>) -> u64 {
    log_id.map_or(0, |log_id| log_id.index + 1)
}

fn read<T: serde::de::DeserializeOwned>(key: &[u8], value: Option<sled::IVec>) -> Result<Option<T>, String> {
    let what = |what| format!("{}: {what}", String::from_utf8_lossy(key));
    value.map(|value| record::decode(key, &value).map_err(what)).transpose()
}
