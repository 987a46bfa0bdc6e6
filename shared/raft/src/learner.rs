//! A replica that follows and never votes: the catalog in a zone.
use crate::{
    Entry, Error, Identity, LogStore, Member, Raft, Storage, TypeConfig, config,
    types::LogId,
    wire::{self, AppendEntriesRequest},
};
use openraft::{
    AnyError, RaftLogReader, RaftNetwork, RaftNetworkFactory,
    error::{InstallSnapshotError, RPCError, RaftError, Unreachable},
    network::RPCOption,
    raft,
};
use shared_catalog::Catalog;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// Takes the leader's messages from whatever carries them. Works without any leader: then the catalog stays as it was.
pub struct Learner {
    raft: Raft,
    log: LogStore,
    catalog: watch::Receiver<Arc<Catalog>>,
    identity: Mutex<Identity>,
    dir: PathBuf,
}

impl Learner {
    /// Brings the catalog to where it was when the replica last ran.
    pub async fn start(storage: Storage) -> Result<Learner, Error> {
        let Storage { log, machine, catalog, identity, dir } = storage;
        // Nothing is due at a learner by the clock.
        let config = openraft::Config { enable_elect: false, enable_tick: false, ..config() };
        let config = Arc::new(config.validate().map_err(|error| Error::Stopped(error.to_string()))?);
        let raft = Raft::new(identity.node_id, config, Mute, log.clone(), machine)
            .await
            .map_err(|error| Error::Stopped(error.to_string()))?;
        Ok(Learner { raft, log, catalog, identity: Mutex::new(identity), dir })
    }

    /// Takes an `AppendEntriesRequest` and gives its response, once all of it is on disk.
    pub async fn append(&self, body: &[u8]) -> Result<Vec<u8>, Error> {
        let request: AppendEntriesRequest = wire::decode(body)?;
        self.check_history(&request).await?;
        let response = self.raft.append_entries(request).await.map_err(stopped)?;
        Ok(wire::encode(&response))
    }

    /// Takes an `InstallSnapshotRequest`, one chunk, and gives its response.
    pub async fn snapshot(&self, body: &[u8]) -> Result<Vec<u8>, Error> {
        let request: wire::InstallSnapshotRequest = wire::decode(body)?;
        match self.raft.install_snapshot(request).await {
            Ok(response) => Ok(wire::encode(&response)),
            Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(error))) => {
                Err(Error::Malformed(error.to_string()))
            }
            Err(error @ RaftError::Fatal(_)) => Err(stopped(error)),
        }
    }

    pub fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.clone()
    }

    pub fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Binds the replica to a cluster, once and for ever; another one is refused. Writes a small file.
    pub fn set_cluster_id(&self, cluster_id: &str) -> Result<(), Error> {
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bound = identity.clone();
        if bound.bind(cluster_id)? {
            bound.write(&self.dir)?;
            *identity = bound;
        }
        Ok(())
    }

    /// Returns the reason when the replica has stopped. [`Error::Full`]: it may be opened again once there is room. Anything
    /// else: it should not go on.
    pub async fn failed(&self) -> Error {
        let mut metrics = self.raft.metrics();
        let stopped = tokio::select! {
            failed = self.log.failed() => return failed,
            stopped = metrics.wait_for(|metrics| metrics.running_state.is_err()) => stopped,
        };
        if let Some(failed) = self.log.why_failed() {
            return failed;
        }
        let reason =
            stopped.ok().and_then(|metrics| metrics.running_state.as_ref().err().map(ToString::to_string));
        Error::Stopped(reason.unwrap_or_else(|| "it was shut down".to_owned()))
    }

    /// Ends the replica. Its disk is free once the learner is dropped too.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not end well");
        }
    }

    /// What is applied is final. A leader with another history in its place was restored from an old backup, and
    /// following it would take back what proxies already have.
    async fn check_history(&self, request: &AppendEntriesRequest) -> Result<(), Error> {
        let Some(committed) = self.log.committed() else { return Ok(()) };
        let claimed = request.prev_log_id.into_iter().chain(request.entries.iter().map(|entry| entry.log_id));
        let claimed: Vec<LogId> = claimed.filter(|log_id| log_id.index <= committed.index).collect();
        let (Some(first), Some(last)) = (claimed.first(), claimed.last()) else { return Ok(()) };
        let purged = self.log.purged();
        let own: Vec<Entry> = self
            .log
            .clone()
            .try_get_log_entries(first.index..=last.index)
            .await
            .map_err(|error| Error::Stopped(error.to_string()))?;
        let contradicts = |log_id: &LogId| match purged {
            // Of what is purged only the last id is known; terms never go down along a log.
            Some(purged) if log_id.index == purged.index => *log_id != purged,
            Some(purged) if log_id.index < purged.index => log_id.leader_id > purged.leader_id,
            _ => own.iter().any(|entry| entry.log_id.index == log_id.index && entry.log_id != *log_id),
        };
        match claimed.iter().find(|log_id| contradicts(log_id)) {
            Some(log_id) => Err(Error::Diverged { index: log_id.index }),
            None => Ok(()),
        }
    }
}

fn stopped(error: impl std::fmt::Display) -> Error {
    Error::Stopped(error.to_string())
}

/// A learner calls nobody.
struct Mute;

impl RaftNetworkFactory<TypeConfig> for Mute {
    type Network = Mute;

    async fn new_client(&mut self, _: u64, _: &Member) -> Mute {
        Mute
    }
}

impl RaftNetwork<TypeConfig> for Mute {
    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest,
        _: RPCOption,
    ) -> Result<wire::AppendEntriesResponse, RPCError<u64, Member, RaftError<u64>>> {
        Err(silence())
    }

    async fn install_snapshot(
        &mut self,
        _: wire::InstallSnapshotRequest,
        _: RPCOption,
    ) -> Result<wire::InstallSnapshotResponse, RPCError<u64, Member, RaftError<u64, InstallSnapshotError>>>
    {
        Err(silence())
    }

    async fn vote(
        &mut self,
        _: raft::VoteRequest<u64>,
        _: RPCOption,
    ) -> Result<raft::VoteResponse<u64>, RPCError<u64, Member, RaftError<u64>>> {
        Err(silence())
    }
}

fn silence<E: std::error::Error>() -> RPCError<u64, Member, E> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error("a learner calls nobody")))
}
