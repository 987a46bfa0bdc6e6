//! The node: start, propose, read, stop.
use crate::{
    Error, Links, Timing, absence, elections, forwards,
    links::Registry,
    membership::{Membership, RaftMetrics},
    network::Networks,
    node::{View, random},
    peers::{Nobody, Peers, Transport},
    proposals::{self, Waiting},
    reads::{self, Reader},
};
use openraft::{
    StorageHelper, Vote,
    error::{CheckIsLeaderError, RaftError},
    storage::RaftLogStorage,
};
use proto::peer::{NodeStatus, Peer, Promote, StatusRequest, change, reply, request};
use shared_catalog::{Catalog, Command, Outcome};
use shared_raft::{LEARNER_BIT, LogStore, Member, Raft, Reserve, Space, Storage};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tracing::{Instrument as _, field::Empty};

/// A command larger than this is refused, in bytes: an entry must fit a message to a zone several times.
pub const COMMAND_MAX: usize = 4 << 20;

/// How many commands, and how many reads, wait before their callers themselves wait.
const WAITING_MAX: usize = 1024;

/// Whose disks these are.
const ROLE: &str = "global";

/// A day: a zone that is away over night comes back as it left.
const ZONE_ABSENCE: Duration = Duration::from_secs(24 * 3600);

const TERM_STEP_MAX: u64 = 1 << 16;

/// The id of no node, below all others.
const NOBODY: u64 = 0;

const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How long a request waits for a leader and a quorum: an election fits in several times.
pub(crate) const QUORUM_PATIENCE: Duration = Duration::from_secs(3);

/// How soon a request looks again for a leader.
const RETRY: Duration = Duration::from_millis(15);

/// How often a node looks whether the cluster knows it right.
const SETTLED: Duration = Duration::from_secs(1);
const UNSETTLED: Duration = Duration::from_millis(200);

/// How often a node that is alone tells zones how far its log is.
const PULSE: Duration = Duration::from_secs(1);

/// How long a node may take to tell how it is.
const STATUS_PATIENCE: Duration = Duration::from_millis(700);

/// What a node starts with.
pub struct Setup {
    /// Where its log is.
    pub dir: PathBuf,
    pub timing: Timing,
    /// Where it is reached; empty for a node that stays alone.
    pub address: String,
    pub link: String,
    pub version: String,
    pub transport: Arc<dyn Transport>,
    /// What an empty disk becomes part of. None: the first node of a new cluster.
    pub joined: Option<Joined>,
    /// A zone's replica that stays away for longer is no longer followed, until it comes back.
    pub zone_absence: Duration,
    /// With less room on its disk a leader takes no writes.
    pub disk_reserve: Reserve,
    pub config: openraft::Config,
}

/// A cluster that has taken this node in, under the id that it chose for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub cluster_id: String,
    pub node_id: u64,
}

impl Setup {
    /// A cluster of one that nobody can join.
    pub fn alone(dir: &Path) -> Setup {
        Setup {
            dir: dir.to_owned(),
            timing: Timing::default(),
            address: String::new(),
            link: String::new(),
            version: String::new(),
            transport: Arc::new(Nobody),
            joined: None,
            zone_absence: ZONE_ABSENCE,
            disk_reserve: Reserve::default(),
            config: shared_raft::config(),
        }
    }
}

/// Whose disk a data directory holds. None for one that is empty; one of a zone is refused.
pub fn owner_of(dir: &Path) -> Result<Option<Joined>, Error> {
    let Some(identity) = shared_raft::Identity::read(dir)? else { return Ok(None) };
    if identity.role != ROLE {
        let (dir, found) = (dir.to_owned(), identity.role);
        return Err(shared_raft::Error::OtherOwner { dir, found, wanted: ROLE.to_owned() }.into());
    }
    Ok(Some(Joined { cluster_id: identity.cluster_id, node_id: identity.node_id }))
}

/// A new id of a node of global.
pub fn new_node_id() -> u64 {
    (random() & !LEARNER_BIT).max(1)
}

/// A handle to the node; clones are the same node.
#[derive(Clone)]
pub struct Consensus(pub(crate) Arc<Node>);

pub(crate) struct Node {
    pub raft: Raft,
    pub log: LogStore,
    pub node_id: u64,
    pub cluster_id: Arc<str>,
    pub version: String,
    pub catalog: watch::Receiver<Arc<Catalog>>,
    pub peers: Peers,
    pub membership: Membership,
    pub space: Arc<Space>,
    /// Commands for this node as the leader, and those for another.
    waiting: mpsc::Sender<Waiting>,
    forwards: mpsc::Sender<Waiting>,
    reads: mpsc::Sender<Reader>,
    tasks: Mutex<JoinSet<()>>,
}

impl Consensus {
    /// Opens the data directory, makes a cluster of one on an empty disk, and returns once it leads and has applied
    /// all that it ever acknowledged.
    pub async fn start(dir: &Path) -> Result<(Consensus, Links), Error> {
        Consensus::open(Setup::alone(dir)).await
    }

    /// Opens a node. One that is alone returns once it leads; one of several returns at once and finds the others, or
    /// serves what it has.
    pub async fn open(setup: Setup) -> Result<(Consensus, Links), Error> {
        let Setup { dir, timing, address, link, version, transport, joined, zone_absence, .. } = setup;
        let (config, space) = (setup.config, Arc::new(Space::new(&dir, setup.disk_reserve)));
        let is_joining = joined.is_some();
        let open = move || -> Result<Storage, shared_raft::Error> {
            let node_id = joined.as_ref().map_or_else(new_node_id, |joined| joined.node_id);
            let mut storage = Storage::open(&dir, ROLE, || node_id)?;
            if storage.identity.cluster_id.is_empty() {
                let made = || uuid::Uuid::new_v4().to_string();
                storage.set_cluster_id(&joined.map_or_else(made, |joined| joined.cluster_id))?;
            }
            Ok(storage)
        };
        let storage =
            tokio::task::spawn_blocking(open).await.map_err(|error| Error::Stopped(error.to_string()))??;
        let Storage { mut log, mut machine, catalog, identity, .. } = storage;
        let node_id = identity.node_id;
        let cluster_id: Arc<str> = identity.cluster_id.into();
        let membership =
            StorageHelper::new(&mut log, &mut machine).get_membership().await.map_err(stopped)?;
        let voters: Vec<u64> = membership.effective().voter_ids().collect();
        let is_alone = voters == [node_id];
        resign(&mut log, node_id, is_alone).await?;
        let config = timing.apply(config).validate().map_err(|error| Error::Stopped(error.to_string()))?;
        let registry = Arc::new(Registry::default());
        let peers = Peers::new(transport, cluster_id.clone(), node_id, timing);
        let networks = Networks::new(registry.clone(), peers.clone(), log.clone());
        let raft =
            Raft::new(node_id, Arc::new(config), networks, log.clone(), machine).await.map_err(stopped)?;
        peers.follow(raft.metrics());
        if is_alone {
            raft.trigger().elect().await.map_err(stopped)?;
            lead(&raft).await?;
        } else if voters.is_empty() && !is_joining && !raft.is_initialized().await.map_err(stopped)? {
            let member = Member { address: address.clone(), link: link.clone(), zone: String::new() };
            raft.initialize(BTreeMap::from([(node_id, member)])).await.map_err(stopped)?;
            lead(&raft).await?;
        }
        let membership = Membership::new(raft.clone(), node_id, peers.clone(), timing, registry.clone());
        let (waiting, proposals) = mpsc::channel(WAITING_MAX);
        let (forwards, forwarded) = mpsc::channel(WAITING_MAX);
        let (reads, readers) = mpsc::channel(WAITING_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(proposals::gather(raft.clone(), log.clone(), membership.open.subscribe(), proposals));
        tasks.spawn(pulse(membership.clone(), node_id));
        tasks.spawn(absence::watch(membership.clone(), registry.clone(), zone_absence));
        tasks.spawn(elections::watch(raft.clone(), log.clone(), peers.clone(), node_id, timing));
        let node = Node {
            raft,
            log,
            node_id,
            cluster_id,
            version,
            catalog,
            peers,
            membership: membership.clone(),
            space,
            waiting,
            forwards,
            reads,
            tasks: Mutex::default(),
        };
        let consensus = Consensus(Arc::new(node));
        tasks.spawn(reads::serve(Arc::downgrade(&consensus.0), readers));
        tasks.spawn(forwards::send(Arc::downgrade(&consensus.0), forwarded));
        *consensus.tasks() = tasks;
        tracing::info!(
            node_id = format!("{node_id:016x}"),
            cluster_id = %consensus.0.cluster_id,
            voters = voters.len().max(1),
            "consensus runs"
        );
        let links = Links::new(membership, registry);
        if !address.is_empty() {
            let own = Peer { node_id, address, link };
            consensus.tasks().spawn(settle(Arc::downgrade(&consensus.0), own));
        }
        Ok((consensus, links))
    }

    /// Puts a command to the cluster, through whichever node leads, and answers once its outcome is on the disks of a
    /// quorum and applied here. After [`Error::Timeout`], [`Error::Unknown`] or [`Error::Stopped`] it is unknown whether
    /// the command was stored; a writer that sent it as [`Command::Once`] may send it again.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Error> {
        let size = command.size();
        if size > COMMAND_MAX {
            return Err(Error::TooLarge { size, limit: COMMAND_MAX });
        }
        let span = tracing::debug_span!("commit", bytes = size, revision = Empty);
        let late = |_| Err(Error::Timeout(PROPOSE_DEADLINE.as_secs()));
        let put = self.put_through(command).instrument(span.clone());
        let outcome = tokio::time::timeout(PROPOSE_DEADLINE, put).await.unwrap_or_else(late);
        if let Some(revision) = outcome.as_ref().ok().and_then(Outcome::revision) {
            span.record("revision", revision.0);
        }
        outcome
    }

    async fn put_through(&self, command: Command) -> Result<Outcome, Error> {
        let node = &self.0;
        self.check_disk()?;
        if self.view().is_alone(node.node_id) {
            return self.propose_here(command).await.map(first);
        }
        // What is sent again after a leader's death must not count twice.
        let command = command.once(uuid::Uuid::new_v4().into_bytes());
        let patience = Instant::now() + QUORUM_PATIENCE;
        let mut unknown = None;
        loop {
            let tried = match self.view() {
                View { leader: Some(leader), .. } if leader == node.node_id => {
                    match node.membership.leads() {
                        true => self.propose_here(command.clone()).await.map(first),
                        false => Err(Error::NoQuorum),
                    }
                }
                View { leader: Some(_), .. } => self.pass(&node.forwards, command.clone()).await.map(first),
                View { leader: None, .. } => Err(Error::NoQuorum),
            };
            match tried {
                Err(Error::NotLeader | Error::NoQuorum) => {}
                // It travels with its key: sent again, it counts once.
                Err(error @ Error::Unknown(_)) => unknown = Some(error),
                answered => return answered,
            }
            if Instant::now() >= patience {
                return Err(unknown.unwrap_or(Error::NoQuorum));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Proposes as the leader. Gives the entry that holds the command, too.
    pub(crate) async fn propose_here(&self, command: Command) -> Result<(Outcome, u64), Error> {
        // Before anything is in the log, which then would have to keep it.
        self.0.space.check()?;
        self.pass(&self.0.waiting, command).await
    }

    async fn pass(&self, to: &mpsc::Sender<Waiting>, command: Command) -> Result<(Outcome, u64), Error> {
        let (done, outcome) = oneshot::channel();
        let ended = || Error::Stopped("it was shut down".to_owned());
        to.send(Waiting { command, done }).await.map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?
    }

    /// Returns once this node has applied everything that was acknowledged anywhere before the call: what is read here
    /// then is no older. [`Error::NoQuorum`] when that cannot be known.
    pub async fn catch_up(&self) -> Result<(), Error> {
        self.check_disk()?;
        if self.view().is_alone(self.0.node_id) {
            // Nobody else can have acknowledged anything, and what this node acknowledges it has applied.
            return Ok(());
        }
        let (done, caught_up) = oneshot::channel();
        let ended = || Error::Stopped("it was shut down".to_owned());
        self.0.reads.send(Reader(done)).await.map_err(|_| ended())?;
        let late = |_| Err(Error::NoQuorum);
        let caught_up = async { caught_up.await.map_err(|_| ended())? };
        tokio::time::timeout(QUORUM_PATIENCE, caught_up).await.unwrap_or_else(late)
    }

    /// Refuses when this node's own disk has failed: what it does not know it cannot answer by.
    fn check_disk(&self) -> Result<(), Error> {
        self.0.log.why_failed().map_or(Ok(()), |failed| Err(failed.into()))
    }

    /// How full this node's disk is.
    pub fn space(&self) -> Arc<Space> {
        self.0.space.clone()
    }

    /// Asks a node of the cluster something that this room does not know.
    pub async fn ask(&self, node_id: u64, kind: request::Kind) -> Result<reply::Kind, Error> {
        let view = self.view();
        let member = view.nodes.get(&node_id);
        let member = member.ok_or_else(|| Error::Membership(format!("there is no node {node_id:016x}")))?;
        self.0.peers.ask(node_id, &member.address, PROPOSE_DEADLINE, kind).await
    }

    /// The nodes that vote.
    pub fn voters(&self) -> BTreeSet<u64> {
        self.view().voters().collect()
    }

    /// Asks the leader something that this room does not know.
    pub async fn ask_leader(&self, kind: request::Kind) -> Result<reply::Kind, Error> {
        let view = self.view();
        let leader = view.leader.ok_or(Error::NoQuorum)?;
        let member = view.nodes.get(&leader).ok_or(Error::NoQuorum)?;
        self.0.peers.ask(leader, &member.address, PROPOSE_DEADLINE, kind).await
    }

    /// Whether this node is the only voter.
    pub fn is_alone(&self) -> bool {
        self.view().is_alone(self.0.node_id)
    }

    /// Whether this node leads and a quorum followed it a moment ago: what it has applied is what writers compare with.
    pub fn is_current_leader(&self) -> bool {
        self.0.membership.leads()
    }

    pub(crate) async fn applied(&self, index: u64) -> Result<(), Error> {
        let mut metrics = self.0.raft.metrics();
        let applied = metrics.wait_for(|metrics| {
            metrics.running_state.is_err()
                || metrics.last_applied.is_some_and(|applied| applied.index >= index)
        });
        match applied.await.map_err(stopped)?.running_state.clone() {
            Ok(()) => Ok(()),
            Err(fatal) => Err(stopped(fatal)),
        }
    }

    /// The catalog as this node has applied it. It is published before the proposals that made it are answered.
    pub fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.0.catalog.clone()
    }

    /// Names the cluster for ever; a disk that follows another is refused.
    pub fn cluster_id(&self) -> String {
        self.0.cluster_id.to_string()
    }

    pub fn node_id(&self) -> u64 {
        self.0.node_id
    }

    pub fn is_leader(&self) -> bool {
        let says_so = self.0.raft.metrics().borrow().current_leader == Some(self.0.node_id);
        says_so && self.0.log.why_failed().is_none()
    }

    /// The nodes of global with their addresses, as this node knows them; voters and those that learn.
    pub fn members(&self) -> BTreeMap<u64, Member> {
        self.view().globals().map(|(id, member)| (id, member.clone())).collect()
    }

    /// Returns with the nodes of global once they differ from `known`, and with the index of the change.
    pub async fn members_other_than(&self, known: &BTreeMap<u64, Member>) -> (u64, BTreeMap<u64, Member>) {
        let mut metrics = self.0.raft.metrics();
        loop {
            let (index, members) = {
                let metrics = metrics.borrow_and_update();
                let index = metrics.membership_config.log_id().map_or(0, |log_id| log_id.index);
                let view = View::of(&metrics);
                (index, view.globals().map(|(id, member)| (id, member.clone())).collect())
            };
            if members != *known {
                return (index, members);
            }
            if metrics.changed().await.is_err() {
                // The node has ended, and what asks ends with it.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Changes who belongs to the cluster, through whichever node leads.
    pub async fn change(&self, change: change::Kind) -> Result<(), Error> {
        self.0.membership.change(change).await
    }

    /// How each node of global is, as it says itself; `None` for one that does not answer.
    pub async fn overview(&self) -> Vec<(u64, Member, Option<NodeStatus>)> {
        let mut asked = JoinSet::new();
        for (id, member) in self.members() {
            let consensus = self.clone();
            asked.spawn(async move {
                if id == consensus.node_id() {
                    return (id, member, Some(consensus.status()));
                }
                let kind = request::Kind::Status(StatusRequest {});
                match consensus.0.peers.ask(id, &member.address, STATUS_PATIENCE, kind).await {
                    Ok(reply::Kind::Status(status)) => (id, member, Some(status)),
                    _ => (id, member, None),
                }
            });
        }
        let mut nodes = Vec::new();
        while let Some(Ok(node)) = asked.join_next().await {
            nodes.push(node);
        }
        nodes.sort_by_key(|(id, ..)| *id);
        nodes
    }

    /// How this node is.
    pub fn status(&self) -> NodeStatus {
        let node = &self.0;
        let view = self.view();
        // Asked before the metrics are borrowed: to borrow them twice waits for ever when Raft wants to write in between.
        let leads = node.membership.leads();
        let metrics = node.raft.metrics();
        let metrics = metrics.borrow();
        let has_stopped = node.log.why_failed().is_some();
        let role = match (view.leader == Some(node.node_id), view.voters().any(|id| id == node.node_id)) {
            _ if has_stopped => "stopped",
            (true, _) if leads => "leader",
            (true, _) => "leader without quorum",
            (false, true) => "follower",
            (false, false) if view.nodes.contains_key(&node.node_id) => "learner",
            (false, false) => "not a member",
        };
        NodeStatus {
            node_id: node.node_id,
            role: role.to_owned(),
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or_default(),
            applied_index: metrics.last_applied.map_or(0, |applied| applied.index),
            revision: node.catalog.borrow().revision().0,
            version: node.version.clone(),
            leader: view.leader.unwrap_or_default(),
            zones: node.membership.linked_zones(),
        }
    }

    pub(crate) fn view(&self) -> View {
        View::of(&self.0.raft.metrics().borrow())
    }

    /// Returns the reason when the node has stopped. [`Error::NoRoom`]: the disk was full; the node may be opened again once
    /// there is room, and until then shows what it has. Anything else: it should not go on.
    pub async fn failed(&self) -> Error {
        let mut metrics = self.0.raft.metrics();
        let stopped = tokio::select! {
            failed = self.0.log.failed() => return failed.into(),
            stopped = metrics.wait_for(|metrics| metrics.running_state.is_err()) => stopped,
        };
        if let Some(failed) = self.0.log.why_failed() {
            return failed.into();
        }
        let reason =
            stopped.ok().and_then(|metrics| metrics.running_state.as_ref().err().map(ToString::to_string));
        Error::Stopped(reason.unwrap_or_else(|| "it was shut down".to_owned()))
    }

    /// Ends the node. Proposals that wait are answered with [`Error::Stopped`].
    pub async fn shutdown(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks());
        tasks.shutdown().await;
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::warn!(%error, "raft did not end well");
        }
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn raft(&self) -> &Raft {
        &self.0.raft
    }
}

/// Keeps what the cluster knows of this node right: its addresses, and that it votes once it has caught up.
async fn settle(node: Weak<Node>, own: Peer) {
    let mut told = String::new();
    loop {
        let Some(node) = node.upgrade() else { return };
        let wanted = unsettled(&node.membership.view(), &own);
        let pause = if wanted.is_some() { UNSETTLED } else { SETTLED };
        if let Some(change) = wanted
            && let Err(error) = node.membership.change(change).await
        {
            let reason = error.to_string();
            if reason != told {
                tracing::info!(reason, "this node is not settled in the cluster yet");
                told = reason;
            }
        }
        drop(node);
        tokio::time::sleep(pause).await;
    }
}

/// Heartbeats keep voters from elections, and a node that is alone has nobody to keep. To zones one is the second chance
/// of a commit whose message was lost: few are enough.
async fn pulse(membership: Membership, node_id: u64) {
    let mut metrics = membership.metrics();
    let mut next = tokio::time::interval(PULSE);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_alone = |metrics: &RaftMetrics| View::of(metrics).is_alone(node_id);
        membership.heartbeats(false);
        while is_alone(&metrics.borrow_and_update()) {
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return },
                _ = next.tick() => if membership.beat().await.is_err() { return },
            }
        }
        membership.heartbeats(true);
        if metrics.wait_for(is_alone).await.is_err() {
            return;
        }
    }
}

/// What must change for a node to be a voter under its own addresses. Nothing, for one that is no member.
fn unsettled(view: &View, own: &Peer) -> Option<change::Kind> {
    let member = view.nodes.get(&own.node_id)?;
    view.leader?;
    if (&member.address, &member.link) != (&own.address, &own.link) {
        return Some(change::Kind::Move(own.clone()));
    }
    let votes = view.voters().any(|id| id == own.node_id);
    (!votes).then_some(change::Kind::Promote(Promote { node_id: own.node_id, forced: false }))
}

/// openraft would go on in the term in which it last led. A disk that was restored from a backup would then write other
/// entries under ids that zones have already; so would a leader whose last entries were on the disks of others when it died,
/// and not yet on its own. So a node begins in a new term, for which it has voted for nobody: whoever stands may have it. A
/// node alone has nobody to wait for, and takes a term for itself. Its step is random, so that two lives of one disk do not
/// meet in a term.
async fn resign(log: &mut LogStore, node_id: u64, is_alone: bool) -> Result<(), Error> {
    let Some(vote) = log.read_vote().await.map_err(stopped)? else { return Ok(()) };
    let leader = vote.leader_id();
    let vote = match is_alone {
        true => Vote::new(leader.term + 1 + random() % TERM_STEP_MAX, node_id),
        false if leader.voted_for() == Some(node_id) => Vote::new(leader.term + 1, NOBODY),
        false => return Ok(()),
    };
    log.save_vote(&vote).await.map_err(stopped)
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

fn first<T, U>((first, _): (T, U)) -> T {
    first
}

pub(crate) fn stopped(error: impl std::fmt::Display) -> Error {
    Error::Stopped(error.to_string())
}
