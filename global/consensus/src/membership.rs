//! Who belongs to the cluster: changes, made by the leader, asked for anywhere.
//!
//! Voters change by joint consensus. A node that joins learns first; it becomes a voter when its log is near the end and
//! the count of voters stays odd, so that a lone second node does not make a cluster that can lose neither.
use crate::{
    Error, Timing,
    consensus::stopped,
    links::{DELETED, Registry},
    node::View,
    peers::{Peers, is_quorum},
};
use openraft::{
    ChangeMembers,
    error::{ChangeMembershipError, ClientWriteError, RaftError},
};
use proto::peer::{Change, Elect, Peer, Promote, ZoneReplica, change, reply, request};
use shared_raft::{LEARNER_BIT, Member, Raft};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

pub(crate) type RaftMetrics = openraft::RaftMetrics<u64, Member>;

/// How often a change of members is tried while another one is on its way.
const TRIES: usize = 5;

/// A learner that lacks fewer entries may vote.
const NEAR: u64 = 500;

/// How long a change may take: a new voter's disk is part of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Replicas of one zone that are followed.
const REPLICAS_MAX: usize = 8;

/// A replica that has been away for so long makes room for another one of its zone. Until then a zone whose disks come
/// and go waits, and the log of the cluster does not fill with its changes.
const MAKES_ROOM: Duration = Duration::from_secs(60);

/// How long the target of a transfer may take to hold the whole log.
const CATCH_UP: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(crate) struct Membership {
    raft: Raft,
    node_id: u64,
    peers: Peers,
    timing: Timing,
    registry: Arc<Registry>,
    /// One change at a time.
    changes: Arc<tokio::sync::Mutex<()>>,
    /// False while this leader hands over: nothing is proposed and nothing read.
    pub open: watch::Sender<bool>,
}

impl Membership {
    pub fn new(
        raft: Raft,
        node_id: u64,
        peers: Peers,
        timing: Timing,
        registry: Arc<Registry>,
    ) -> Membership {
        let open = watch::Sender::new(true);
        Membership { raft, node_id, peers, timing, registry, changes: Arc::default(), open }
    }

    /// Tells every replica at once how far the log is.
    pub async fn beat(&self) -> Result<(), Error> {
        self.raft.trigger().heartbeat().await.map_err(stopped)
    }

    /// Whether the leader speaks by itself.
    pub fn heartbeats(&self, enabled: bool) {
        self.raft.runtime_config().heartbeat(enabled);
    }

    pub fn metrics(&self) -> watch::Receiver<RaftMetrics> {
        self.raft.metrics()
    }

    /// The zones that have a stream to this node.
    pub fn linked_zones(&self) -> Vec<String> {
        self.registry.open().into_values().collect::<BTreeSet<String>>().into_iter().collect()
    }

    pub fn view(&self) -> View {
        View::of(&self.raft.metrics().borrow())
    }

    /// Makes a change here, or has the leader make it.
    pub async fn change(&self, change: change::Kind) -> Result<(), Error> {
        let view = self.view();
        match view.leader {
            Some(leader) if leader == self.node_id => self.make(change).await,
            None => Err(Error::NoQuorum),
            Some(leader) => {
                let address = view.nodes.get(&leader).map(|member| member.address.clone());
                let address = address.ok_or(Error::NotLeader)?;
                let kind = request::Kind::Change(Change { kind: Some(change) });
                match self.peers.ask(leader, &address, PATIENCE, kind).await? {
                    reply::Kind::Change(_) => Ok(()),
                    _ => Err(Peers::odd(leader)),
                }
            }
        }
    }

    /// Makes a change as the leader.
    pub async fn make(&self, change: change::Kind) -> Result<(), Error> {
        let _one_at_a_time = self.changes.lock().await;
        match change {
            change::Kind::AddLearner(peer) => self.add_learner(peer).await,
            change::Kind::AddZone(replica) => self.add_zone(replica).await,
            change::Kind::Promote(promote) => self.promote(promote).await,
            change::Kind::Remove(node_id) => self.remove(node_id).await,
            change::Kind::Transfer(node_id) => self.transfer(node_id).await,
            change::Kind::Move(peer) => self.moved(peer).await,
            change::Kind::ForgetZone(zone) => {
                self.registry.close_zone(&zone, DELETED);
                let gone = self.replicas_of(&zone);
                self.drop_learners(gone, "their zone was deleted").await
            }
        }
    }

    async fn add_learner(&self, peer: Peer) -> Result<(), Error> {
        if peer.node_id & LEARNER_BIT != 0 || peer.node_id == 0 || peer.address.is_empty() {
            return Err(Error::Membership("a node of global has an id below 2^63 and an address".to_owned()));
        }
        if self.view().nodes.contains_key(&peer.node_id) {
            return Err(Error::Membership(format!("node {:016x} is a member already", peer.node_id)));
        }
        let member = Member { address: peer.address, link: peer.link, zone: String::new() };
        tracing::info!(node_id = format!("{:016x}", peer.node_id), address = member.address, "a node joins");
        // A learner that never got further at the same address has given up.
        let view = self.view();
        let abandoned = view.globals().filter(|(id, known)| {
            known.address == member.address && !view.voters().any(|voter| voter == *id)
        });
        let abandoned: BTreeSet<u64> = abandoned.map(|(id, _)| id).collect();
        if !abandoned.is_empty() {
            self.write(ChangeMembers::RemoveNodes(abandoned), true).await?;
        }
        self.write(ChangeMembers::AddNodes(BTreeMap::from([(peer.node_id, member)])), true).await
    }

    async fn add_zone(&self, ZoneReplica { node_id, zone }: ZoneReplica) -> Result<(), Error> {
        if node_id & LEARNER_BIT == 0 {
            return Err(Error::NotALearner { node_id });
        }
        let known = self.view().nodes.get(&node_id).cloned();
        if let Some(member) = known.as_ref().filter(|member| member.zone != zone) {
            return Err(Error::OtherZone { node_id, found: member.zone.clone(), wanted: zone });
        }
        if known.is_some() {
            return Ok(());
        }
        let others = self.replicas_of(&zone);
        if others.len() >= REPLICAS_MAX {
            let away = self.registry.away(&self.learners());
            let of_zone = away.into_iter().filter(|(id, away)| others.contains(id) && *away >= MAKES_ROOM);
            let longest = of_zone.max_by_key(|(_, away)| *away).map(|(id, _)| id);
            let longest =
                longest.ok_or(Error::TooManyReplicas { zone: zone.clone(), limit: REPLICAS_MAX })?;
            self.drop_learners(BTreeSet::from([longest]), "another one of the zone takes their place")
                .await?;
        }
        let member = Member { zone: zone.clone(), ..Member::default() };
        self.write(ChangeMembers::AddNodes(BTreeMap::from([(node_id, member)])), true).await?;
        tracing::info!(zone, node_id, "a new replica follows");
        Ok(())
    }

    fn replicas_of(&self, zone: &str) -> BTreeSet<u64> {
        let nodes = self.view().nodes;
        let replicas = nodes.into_iter().filter(|(id, member)| id & LEARNER_BIT != 0 && member.zone == zone);
        replicas.map(|(id, _)| id).collect()
    }

    /// The replicas of all zones.
    pub fn learners(&self) -> BTreeSet<u64> {
        self.view().nodes.into_keys().filter(|id| id & LEARNER_BIT != 0).collect()
    }

    /// Lets go of replicas that have been away for too long. One that has come back meanwhile stays.
    pub async fn forget_absent(&self, absence: Duration) -> Result<(), Error> {
        let _one_at_a_time = self.changes.lock().await;
        let away = self.registry.away(&self.learners());
        let gone = away.into_iter().filter(|(_, away)| *away >= absence).map(|(id, _)| id).collect();
        self.drop_learners(gone, "they have been away for too long").await
    }

    async fn drop_learners(&self, ids: BTreeSet<u64>, reason: &str) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        tracing::info!(replicas = ?ids, reason, "replicas of zones are no longer followed");
        self.write(ChangeMembers::RemoveNodes(ids), true).await
    }

    /// Makes a learner a voter. One that came back at the address of another takes its place.
    async fn promote(&self, Promote { node_id, forced }: Promote) -> Result<(), Error> {
        let view = self.view();
        let voters: BTreeSet<u64> = view.voters().collect();
        if voters.contains(&node_id) {
            return Ok(());
        }
        let known = view.nodes.contains_key(&node_id) && node_id & LEARNER_BIT == 0;
        if !known {
            return Err(Error::Membership(format!(
                "{node_id:016x} is no node of this cluster: let it join first"
            )));
        }
        if !self.is_near(node_id) {
            return Err(Error::Membership(format!("node {node_id:016x} has not caught up yet")));
        }
        let mut wanted = voters.clone();
        let mut admit = |id: u64| {
            let address = &view.nodes[&id].address;
            wanted.retain(|voter| view.nodes.get(voter).is_none_or(|member| member.address != *address));
            wanted.insert(id);
            wanted.len()
        };
        let count = admit(node_id);
        if count % 2 == 0 && !forced {
            let others = view.globals().map(|(id, _)| id).filter(|id| *id != node_id && !voters.contains(id));
            let partner = others.into_iter().find(|id| self.is_near(*id));
            let partner = partner.ok_or_else(|| {
                Error::Membership(format!(
                    "{count} voters bear no more failures than {}: node {node_id:016x} becomes one together with the next",
                    count - 1
                ))
            })?;
            admit(partner);
        }
        tracing::info!(voters = ?hex(&wanted), "the voters change");
        self.write(ChangeMembers::ReplaceAllVoters(wanted), false).await
    }

    fn is_near(&self, node_id: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&node_id).copied().flatten());
        let last = metrics.last_log_index.unwrap_or_default();
        matched.is_some_and(|matched| matched.index + NEAR >= last)
    }

    async fn remove(&self, node_id: u64) -> Result<(), Error> {
        let view = self.view();
        if !view.globals().any(|(id, _)| id == node_id) {
            return Err(Error::Membership(format!("{node_id:016x} is no node of this cluster")));
        }
        let voters: BTreeSet<u64> = view.voters().collect();
        let gone = BTreeSet::from([node_id]);
        if !voters.contains(&node_id) {
            return self.write(ChangeMembers::RemoveNodes(gone), true).await;
        }
        if voters.len() == 1 {
            return Err(Error::Membership(format!("{node_id:016x} is the only voter")));
        }
        if node_id == self.node_id {
            return Err(Error::Membership(
                "the leader does not remove itself: transfer the leadership first".to_owned(),
            ));
        }
        let rest: Vec<u64> = voters.iter().copied().filter(|id| *id != node_id).collect();
        if !self.peers.liveness.leads(self.node_id, &[rest]) {
            return Err(Error::Membership("the nodes that would be left are no quorum now".to_owned()));
        }
        self.write(ChangeMembers::RemoveVoters(gone), false).await
    }

    /// A member has other addresses than before.
    async fn moved(&self, peer: Peer) -> Result<(), Error> {
        let known = self.view().nodes.get(&peer.node_id).cloned();
        let known = known.filter(|_| peer.node_id & LEARNER_BIT == 0);
        let known =
            known.ok_or_else(|| Error::Membership(format!("{:016x} is not a member", peer.node_id)))?;
        let member = Member { address: peer.address, link: peer.link, zone: String::new() };
        if member == known {
            return Ok(());
        }
        tracing::info!(
            node_id = format!("{:016x}", peer.node_id),
            address = member.address,
            "a member has moved"
        );
        self.write(ChangeMembers::SetNodes(BTreeMap::from([(peer.node_id, member)])), true).await
    }

    /// openraft 0.9 has no transfer: the leader stops writes and reads, waits until the target holds everything, is silent
    /// until the lease of all voters has passed, and has the target stand.
    async fn transfer(&self, target: u64) -> Result<(), Error> {
        let view = self.view();
        if target == self.node_id {
            return Ok(());
        }
        let member = view.nodes.get(&target).filter(|_| view.voters().any(|id| id == target));
        let address = member.map(|member| member.address.clone());
        let address = address.ok_or_else(|| Error::Membership(format!("{target:016x} is no voter")))?;
        let raft = self.raft.clone();
        let _restore = Restore { membership: self.clone() };
        self.open.send_replace(false);
        let deadline = Instant::now() + CATCH_UP;
        let mut metrics = raft.metrics();
        loop {
            let (holds_all, leads) = {
                let now = metrics.borrow_and_update();
                let matched = now.replication.as_ref().and_then(|all| all.get(&target).copied().flatten());
                let applied = now.last_applied.map(|applied| applied.index) == now.last_log_index;
                let matched = matched.map(|matched| matched.index) == now.last_log_index;
                (matched && applied, now.current_leader == Some(self.node_id))
            };
            if !leads {
                return Err(Error::NotLeader);
            }
            if holds_all {
                break;
            }
            if tokio::time::timeout_at(deadline, metrics.changed()).await.is_err() {
                return Err(Error::Membership(format!("node {target:016x} does not catch up")));
            }
        }
        self.peers.liveness.hand_over(Some(Instant::now() + self.timing.silence * 8));
        raft.runtime_config().heartbeat(false);
        // What is on its way still counts as a heartbeat.
        tokio::time::sleep(self.timing.silence + self.timing.heartbeat).await;
        let mut error = Error::Membership(format!("node {target:016x} was not elected"));
        for _ in 0..TRIES {
            let ask = request::Kind::Elect(Elect {});
            if let Err(failed) = self.peers.ask(target, &address, self.timing.silence, ask).await {
                error = failed;
                continue;
            }
            let elected = metrics
                .wait_for(|metrics| metrics.current_leader.is_some_and(|leader| leader != self.node_id));
            if tokio::time::timeout(self.timing.silence * 2, elected).await.is_ok() {
                tracing::info!(to = format!("{target:016x}"), "the leadership was handed over");
                return Ok(());
            }
        }
        Err(error)
    }

    async fn write(&self, change: ChangeMembers<u64, Member>, retain: bool) -> Result<(), Error> {
        let mut metrics = self.raft.metrics();
        for _ in 0..TRIES {
            let changing = self.raft.change_membership(change.clone(), retain);
            let changed = tokio::time::timeout(PATIENCE, changing).await;
            match changed.map_err(|_| Error::Timeout(PATIENCE.as_secs()))? {
                Ok(_) => return Ok(()),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                    return Err(Error::NotLeader);
                }
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_),
                ))) => metrics.changed().await.map_err(stopped)?,
                Err(RaftError::APIError(error)) => return Err(Error::Membership(error.to_string())),
                Err(RaftError::Fatal(error)) => return Err(stopped(error)),
            }
        }
        Err(Error::Membership("another change does not end".to_owned()))
    }

    /// Whether this node leads and a quorum follows.
    pub fn leads(&self) -> bool {
        let view = self.view();
        view.leader == Some(self.node_id)
            && (is_quorum(&view.configs, |id| *id == self.node_id)
                || self.peers.liveness.leads(self.node_id, &view.configs))
    }
}

/// Ends what a transfer stopped, whatever became of it.
struct Restore {
    membership: Membership,
}

impl Drop for Restore {
    fn drop(&mut self) {
        self.membership.raft.runtime_config().heartbeat(true);
        self.membership.peers.liveness.hand_over(None);
        self.membership.open.send_replace(true);
    }
}

fn hex(ids: &BTreeSet<u64>) -> Vec<String> {
    ids.iter().map(|id| format!("{id:016x}")).collect()
}
