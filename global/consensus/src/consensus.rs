//! The node: start, propose, stop.
use crate::{Error, Links, links::Registry, network::Networks};
use openraft::{
    Vote,
    error::{CheckIsLeaderError, ClientWriteError, RaftError},
    storage::RaftLogStorage,
};
use shared_catalog::{Catalog, Command, Outcome};
use shared_raft::{Batch, LEARNER_BIT, LogStore, Member, Raft, Storage};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tracing::{Instrument as _, field::Empty};

/// A command larger than this is refused, in bytes: an entry must fit a message to a zone several times.
pub const COMMAND_MAX: usize = 4 << 20;

/// How much one entry gathers before it goes.
const BATCH_COMMANDS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// How many commands wait before `propose` itself waits.
const WAITING_MAX: usize = 1024;

const TERM_STEP_MAX: u64 = 1 << 16;

const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
const START_DEADLINE: Duration = Duration::from_secs(30);

/// A handle to the node; clones are the same node.
#[derive(Clone)]
pub struct Consensus {
    raft: Raft,
    node_id: u64,
    cluster_id: Arc<str>,
    catalog: watch::Receiver<Arc<Catalog>>,
    waiting: mpsc::Sender<Waiting>,
    proposer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

struct Waiting {
    command: Command,
    done: oneshot::Sender<Result<Outcome, Error>>,
}

impl Consensus {
    /// Opens the data directory, makes a cluster of one on an empty disk, and returns once it leads and has applied
    /// all that it ever acknowledged.
    pub async fn start(dir: &Path) -> Result<(Consensus, Links), Error> {
        Consensus::start_with(dir, shared_raft::config()).await
    }

    pub(crate) async fn start_with(
        dir: &Path,
        config: openraft::Config,
    ) -> Result<(Consensus, Links), Error> {
        let path = dir.to_owned();
        let open = move || -> Result<Storage, shared_raft::Error> {
            let mut storage = Storage::open(&path, "global", || random() & !LEARNER_BIT)?;
            if storage.identity.cluster_id.is_empty() {
                storage.set_cluster_id(&uuid::Uuid::new_v4().to_string())?;
            }
            Ok(storage)
        };
        let storage =
            tokio::task::spawn_blocking(open).await.map_err(|error| Error::Stopped(error.to_string()))??;
        let Storage { mut log, machine, catalog, identity, .. } = storage;
        let node_id = identity.node_id;
        resign(&mut log, node_id).await?;
        let config = config.validate().map_err(|error| Error::Stopped(error.to_string()))?;
        let registry = Arc::new(Registry::default());
        let networks = Networks::new(registry.clone());
        let raft = Raft::new(node_id, Arc::new(config), networks, log, machine).await.map_err(stopped)?;
        if raft.is_initialized().await.map_err(stopped)? {
            raft.trigger().elect().await.map_err(stopped)?;
        } else {
            let members = BTreeMap::from([(node_id, Member::default())]);
            raft.initialize(members).await.map_err(stopped)?;
        }
        lead(&raft).await?;
        let (waiting, proposals) = mpsc::channel(WAITING_MAX);
        let proposer = tokio::spawn(gather(raft.clone(), proposals));
        let consensus = Consensus {
            raft: raft.clone(),
            node_id,
            cluster_id: identity.cluster_id.into(),
            catalog,
            waiting,
            proposer: Arc::new(Mutex::new(Some(proposer))),
        };
        tracing::info!(node_id, cluster_id = %consensus.cluster_id, "leading");
        Ok((consensus, Links::new(raft, registry)))
    }

    /// Puts a command to the cluster and answers once its outcome is on disk and applied here. After [`Error::Timeout`]
    /// or [`Error::Stopped`] it is unknown whether the command was stored.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Error> {
        let size = command.size();
        if size > COMMAND_MAX {
            return Err(Error::TooLarge { size, limit: COMMAND_MAX });
        }
        let span = tracing::debug_span!("commit", bytes = size, revision = Empty);
        let (done, outcome) = oneshot::channel();
        let ask = async {
            let ended = || Error::Stopped("it was shut down".to_owned());
            self.waiting.send(Waiting { command, done }).await.map_err(|_| ended())?;
            outcome.await.map_err(|_| ended())?
        };
        let late = |_| Err(Error::Timeout(PROPOSE_DEADLINE.as_secs()));
        let outcome = tokio::time::timeout(PROPOSE_DEADLINE, ask).instrument(span.clone()).await;
        let outcome = outcome.unwrap_or_else(late);
        if let Some(revision) = outcome.as_ref().ok().and_then(Outcome::revision) {
            span.record("revision", revision.0);
        }
        outcome
    }

    /// The catalog as this node has applied it. It is published before the proposals that made it are answered.
    pub fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.clone()
    }

    /// Names the cluster for ever; a disk that follows another is refused.
    pub fn cluster_id(&self) -> String {
        self.cluster_id.to_string()
    }

    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    pub fn is_leader(&self) -> bool {
        self.raft.metrics().borrow().current_leader == Some(self.node_id)
    }

    /// Returns the reason when the node has stopped: its disk failed, or it was shut down. The program should end then.
    pub async fn failed(&self) -> Error {
        let mut metrics = self.raft.metrics();
        let stopped = metrics.wait_for(|metrics| metrics.running_state.is_err()).await;
        let reason =
            stopped.ok().and_then(|metrics| metrics.running_state.as_ref().err().map(ToString::to_string));
        Error::Stopped(reason.unwrap_or_else(|| "it was shut down".to_owned()))
    }

    /// Ends the node. Proposals that wait are answered with [`Error::Stopped`].
    pub async fn shutdown(&self) {
        let proposer = self.proposer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(proposer) = proposer {
            proposer.abort();
            // Its end by abort is what was asked for.
            let _ = proposer.await;
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not end well");
        }
    }

    #[cfg(test)]
    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }
}

/// openraft would go on in the term in which it last led. A disk that was restored from a backup would then write other
/// entries under ids that zones have already. So this node stands for a new term first: zones see that the history in
/// the old one differs. The step is random, so that two lives of one disk do not meet in a term.
async fn resign(log: &mut LogStore, node_id: u64) -> Result<(), Error> {
    if let Some(vote) = log.read_vote().await.map_err(stopped)? {
        log.save_vote(&Vote::new(vote.leader_id().term + 1 + random() % TERM_STEP_MAX, node_id))
            .await
            .map_err(stopped)?;
    }
    Ok(())
}

/// Waits until this node leads and has applied everything before its term.
async fn lead(raft: &Raft) -> Result<(), Error> {
    let deadline = Instant::now() + START_DEADLINE;
    let mut metrics = raft.metrics();
    loop {
        match raft.ensure_linearizable().await {
            Ok(_) => return Ok(()),
            Err(RaftError::APIError(
                CheckIsLeaderError::ForwardToLeader(_) | CheckIsLeaderError::QuorumNotEnough(_),
            )) => {}
            Err(RaftError::Fatal(error)) => return Err(stopped(error)),
        }
        match tokio::time::timeout_at(deadline, metrics.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Error::Stopped("raft ended while it started".to_owned())),
            Err(_) => return Err(Error::Timeout(START_DEADLINE.as_secs())),
        }
    }
}

/// Proposes what waits as one entry, while more gathers behind it.
async fn gather(raft: Raft, mut proposals: mpsc::Receiver<Waiting>) {
    while let Some(first) = proposals.recv().await {
        let mut bytes = first.command.size();
        let mut commands = vec![first.command];
        let mut waiters = vec![first.done];
        while commands.len() < BATCH_COMMANDS && bytes < BATCH_BYTES {
            let Ok(next) = proposals.try_recv() else { break };
            bytes += next.command.size();
            commands.push(next.command);
            waiters.push(next.done);
        }
        match raft.client_write(Batch(commands)).await {
            Ok(response) => {
                for (waiter, outcome) in waiters.into_iter().zip(response.data) {
                    // Who no longer waits does not want to know.
                    let _ = waiter.send(Ok(outcome));
                }
            }
            Err(error) => {
                let error = match error {
                    RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Error::NotLeader,
                    error => stopped(error),
                };
                for waiter in waiters {
                    let _ = waiter.send(Err(error.clone()));
                }
            }
        }
    }
}

pub(crate) fn stopped(error: impl std::fmt::Display) -> Error {
    Error::Stopped(error.to_string())
}

fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}
