//! The Raft log, the vote and what is committed, on disk.
//!
//! Writes are jobs of the disk thread; the newest entries also stay in memory, where replication and `apply` read them.
//! An entry that is not on disk yet is always in memory.
//!
//! openraft replicates an entry only after its own disk has it. A leader does both at once here: its own entries count as
//! appended at once, and what follows from that is held back until they are on its disk ([`LogStore::flushed`]): nothing is
//! applied, and so nothing acknowledged, and no replica hears of a commit, before. A leader that dies in between has told
//! nobody; it must not go on in its term, since it may have forgotten what it sent.
use crate::{
    Entry, Error, TypeConfig,
    disk::{Disk, Failure},
    record,
    store::Store,
    types::{LogId, StorageError, Vote},
    witness::{Durable, Witness},
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
use tokio::sync::watch;

/// How much of the log that is on disk also stays in memory.
const RECENT_ENTRIES: usize = 1024;
const RECENT_BYTES: usize = 8 << 20;

/// How many bytes of entries one message to a follower carries, unless a single entry is larger.
const PAYLOAD_BYTES: usize = 1 << 20;

const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";

/// A clone is the same log.
#[derive(Clone)]
pub struct LogStore {
    disk: Arc<Disk>,
    state: Arc<Mutex<State>>,
    /// A learner's applied state must not go back when it restarts without a leader; a voter learns it anew.
    committed_is_durable: bool,
    /// Changes when something has got to the disk.
    progress: Arc<watch::Sender<()>>,
}

struct State {
    /// Whose log it is, once that is known.
    node_id: Option<u64>,
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
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::InvalidData => damaged(source.to_string()),
            _ => Error::Store { dir: disk.dir().to_owned(), source },
        };
        let mark = |name: &str| disk.store().mark(name).map_err(failed);
        let purged: Option<LogId> = read(PURGED, mark(PURGED)?).map_err(damaged)?;
        let mut state = State {
            node_id: None,
            vote: read(VOTE, mark(VOTE)?).map_err(damaged)?,
            committed: read(COMMITTED, mark(COMMITTED)?).map_err(damaged)?,
            purged,
            last: purged,
            recent: BTreeMap::new(),
            recent_bytes: 0,
            durable_end: next(purged),
        };
        // A crash may have come between the mark of a purge and the removal of the entries.
        disk.store().remove_before(next(purged)).map_err(failed)?;
        let mut expected: Option<u64> = None;
        let mut odd = None;
        let mut check = |index: u64, value: Vec<u8>| -> bool {
            let entry: Entry = match record::decode(&key(index), &value) {
                Ok(entry) => entry,
                Err(what) => {
                    odd = Some(format!("entry {index}: {what}"));
                    return false;
                }
            };
            if expected.is_some_and(|expected| expected != index) || entry.log_id.index != index {
                odd = Some(format!("entry {index} does not follow the one before"));
                return false;
            }
            expected = Some(index + 1);
            state.last = Some(entry.log_id);
            state.durable_end = index + 1;
            true
        };
        disk.store().entries(0..u64::MAX, &mut check).map_err(failed)?;
        if let Some(odd) = odd {
            return Err(damaged(odd));
        }
        let durable = disk.durable();
        if state.durable_end < durable.log_end {
            let (has, had) = (state.durable_end, durable.log_end);
            return Err(damaged(format!(
                "it ends before entry {has}, entries up to {had} were acknowledged"
            )));
        }
        if state.vote < durable.vote || state.committed < durable.committed {
            return Err(damaged("a vote or a commit that was acknowledged is lost".to_owned()));
        }
        let progress = Arc::new(watch::Sender::new(()));
        Ok(LogStore { disk, state: Arc::new(Mutex::new(state)), committed_is_durable, progress })
    }

    /// Says whose log it is: a leader knows its own entries by that.
    pub(crate) fn set_node_id(&self, node_id: u64) {
        self.state().node_id = Some(node_id);
    }

    /// Returns once an entry that was appended here is on disk; at once for any other.
    pub async fn flushed(&self, index: u64) -> io::Result<()> {
        let (mut progress, mut failed) = (self.progress.subscribe(), self.disk.failed());
        loop {
            progress.borrow_and_update();
            {
                let state = self.state();
                if index < state.durable_end || index >= next(state.last) {
                    return Ok(());
                }
            }
            if let Some(failure) = &*failed.borrow_and_update() {
                return Err(failure.clone().into());
            }
            // Both senders live as long as this log does.
            tokio::select! {
                _ = progress.changed() => {}
                _ = failed.changed() => {}
            }
        }
    }

    /// The part of what is committed that is on disk here; None when not even its end is known.
    pub fn flushed_part(&self, committed: LogId) -> Option<LogId> {
        let state = self.state();
        if committed.index < state.durable_end || committed.index >= next(state.last) {
            return Some(committed);
        }
        let end = state.durable_end.checked_sub(1)?;
        state.recent.get(&end).map(|(entry, _)| entry.log_id)
    }

    /// Returns why the disk has failed once it has.
    pub async fn failed(&self) -> Error {
        let mut failed = self.disk.failed();
        let failure = failed.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        // The sender lives as long as this log does.
        self.failure(failure.expect("it was waited for"))
    }

    /// Why the disk has failed, if it has.
    pub fn why_failed(&self) -> Option<Error> {
        let failure = self.disk.failed().borrow().clone();
        failure.map(|failure| self.failure(failure))
    }

    fn failure(&self, Failure { is_full, reason }: Failure) -> Error {
        match is_full {
            true => Error::Full { dir: self.disk.dir().to_owned(), reason },
            false => Error::Stopped(reason),
        }
    }

    /// Says that a write beside the log has failed: the node stops with that reason.
    pub(crate) fn fail(&self, error: &io::Error) {
        self.disk.fail(Failure::of(error));
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
            let store = self.disk.store().clone();
            let older = move || read_range(&*store, start, first_recent, bytes);
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

fn read_range(store: &dyn Store, start: u64, end: u64, bytes: usize) -> Result<Vec<(Entry, usize)>, String> {
    let mut entries = Vec::new();
    let mut odd = None;
    let mut budget = bytes;
    let mut take = |index: u64, value: Vec<u8>| -> bool {
        if value.len() > budget && !entries.is_empty() {
            return false;
        }
        budget = budget.saturating_sub(value.len());
        match record::decode(&key(index), &value) {
            Ok(entry) => entries.push((entry, value.len())),
            Err(what) => odd = Some(format!("entry {index}: {what}")),
        }
        odd.is_none()
    };
    store.entries(start..end, &mut take).map_err(|error| error.to_string())?;
    odd.map_or(Ok(entries), Err)
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

    /// Whether entries are this node's own, made as the leader that it is.
    fn leads(&self, entries: &[Entry]) -> bool {
        let (Some(node_id), Some(vote)) = (self.node_id, self.vote) else { return false };
        let leader = *vote.leader_id();
        vote.is_committed()
            && leader.voted_for() == Some(node_id)
            && entries.iter().all(|entry| entry.log_id.leader_id == leader)
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
        let value = record::encode(VOTE.as_bytes(), vote);
        let vote = *vote;
        let saved = self
            .disk
            .run(move |store, _| store.set_mark(VOTE, Some(value)), move |durable| durable.vote = Some(vote));
        saved.await.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)))?;
        self.state().vote = Some(vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.state().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let value = committed.map(|committed| record::encode(COMMITTED.as_bytes(), &committed));
        let write = move |store: &dyn Store, _: &Witness| store.set_mark(COMMITTED, value);
        if self.committed_is_durable {
            let saved = self.disk.run(write, move |durable| durable.committed = committed);
            saved.await.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)))?;
        } else {
            // A failure is known to the disk.
            self.disk.give(write, None, |_| {});
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
        let entries: Vec<Entry> = entries.into_iter().collect();
        let Some(end) = entries.last().map(|last| last.log_id.index + 1) else {
            callback.log_io_completed(Ok(()));
            return Ok(());
        };
        let mut records = Vec::with_capacity(entries.len());
        let leads = {
            let mut state = self.state();
            let leads = state.leads(&entries);
            for entry in entries {
                let index = entry.log_id.index;
                let value = record::encode(&key(index), &entry);
                state.push(entry, value.len());
                records.push((index, value));
            }
            leads
        };
        let (state, progress) = (self.state.clone(), self.progress.clone());
        let mut callback = Some(callback);
        if leads {
            if let Some(failure) = &*self.disk.failed().borrow() {
                let error = io::Error::from(failure.clone());
                return Err(StorageIOError::write_logs(AnyError::new(&error)).into());
            }
            callback.take().expect("it is there").log_io_completed(Ok(()));
        }
        let done = move |done: Result<(), Failure>| {
            if done.is_ok() {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                state.durable_end = state.durable_end.max(end);
                state.trim();
            }
            progress.send_replace(());
            if let Some(callback) = callback {
                callback.log_io_completed(done.map_err(io::Error::from));
            }
        };
        let remember = move |durable: &mut Durable| durable.log_end = durable.log_end.max(end);
        self.disk.give(move |store, _| store.append(records), Some(Box::new(remember)), done);
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let from = log_id.index;
        {
            let mut state = self.state();
            state.recent.split_off(&from);
            state.count_bytes();
        }
        let shorten = move |durable: &mut Durable| durable.log_end = durable.log_end.min(from);
        let remove = move |store: &dyn Store, witness: &Witness| {
            witness.lower(shorten)?;
            store.remove_from(from)
        };
        let failed = |error: io::Error| StorageIOError::write_logs(AnyError::new(&error));
        self.disk.run(remove, shorten).await.map_err(failed)?;
        let before = match from.checked_sub(1) {
            Some(before) => self.entries(before, from, usize::MAX).await?.pop().map(|entry| entry.log_id),
            None => None,
        };
        let mut state = self.state();
        state.last = before.or(state.purged);
        state.durable_end = state.durable_end.min(from);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        {
            let mut state = self.state();
            state.recent = state.recent.split_off(&next(Some(log_id)));
            state.count_bytes();
            state.purged = state.purged.max(Some(log_id));
            state.last = state.last.max(Some(log_id));
            state.durable_end = state.durable_end.max(next(Some(log_id)));
        }
        self.progress.send_replace(());
        let mark = record::encode(PURGED.as_bytes(), &log_id);
        let purge = move |store: &dyn Store, _: &Witness| {
            store.set_mark(PURGED, Some(mark))?;
            store.remove_before(next(Some(log_id)))
        };
        // A failure is known to the disk.
        self.disk.give(purge, None, |_| {});
        Ok(())
    }
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn next(log_id: Option<LogId>) -> u64 {
    log_id.map_or(0, |log_id| log_id.index + 1)
}

fn read<T: serde::de::DeserializeOwned>(name: &str, value: Option<Vec<u8>>) -> Result<Option<T>, String> {
    let what = |what| format!("{name}: {what}");
    value.map(|value| record::decode(name.as_bytes(), &value).map_err(what)).transpose()
}

#[cfg(test)]
mod tests;
