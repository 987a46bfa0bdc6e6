//! The other voters: how they are asked, and when each was heard last.
use crate::{Error, Timing};
use openraft::RaftMetrics;
use proto::peer::{Reply, Request, reply, request};
use shared_raft::Member;
use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// What carries requests to other nodes. An error says that there was no answer: the request may have arrived or not.
pub trait Transport: Send + Sync + 'static {
    fn call(&self, address: &str, request: Request) -> Answering;
}

/// The answer of a peer, on its way.
pub type Answering = Pin<Box<dyn Future<Output = Result<Reply, String>> + Send>>;

/// A node alone has no peers.
pub(crate) struct Nobody;

impl Transport for Nobody {
    fn call(&self, address: &str, _: Request) -> Answering {
        let reason = format!("this node has no way to {address}");
        Box::pin(async move { Err(reason) })
    }
}

/// The way to all other nodes; clones are the same.
#[derive(Clone)]
pub(crate) struct Peers {
    transport: Arc<dyn Transport>,
    cluster_id: Arc<str>,
    node_id: u64,
    pub liveness: Arc<Liveness>,
    /// Known once openraft runs: where members are now.
    metrics: Arc<OnceLock<watch::Receiver<RaftMetrics<u64, Member>>>>,
}

impl Peers {
    pub fn new(transport: Arc<dyn Transport>, cluster_id: Arc<str>, node_id: u64, timing: Timing) -> Peers {
        let liveness = Arc::new(Liveness::new(timing));
        Peers { transport, cluster_id, node_id, liveness, metrics: Arc::default() }
    }

    /// Members that move are followed from now on.
    pub fn follow(&self, metrics: watch::Receiver<RaftMetrics<u64, Member>>) {
        // A second call would give the same.
        let _ = self.metrics.set(metrics);
    }

    fn address_of(&self, node_id: u64) -> Option<String> {
        let metrics = self.metrics.get()?.borrow();
        let member = metrics.membership_config.membership().get_node(&node_id)?;
        (!member.address.is_empty()).then(|| member.address.clone())
    }

    /// Asks a node, at its present address if that is known. [`Error::Unknown`] when no answer came.
    pub async fn ask(
        &self,
        to: u64,
        address: &str,
        within: Duration,
        kind: request::Kind,
    ) -> Result<reply::Kind, Error> {
        let request =
            Request { cluster_id: self.cluster_id.to_string(), from: self.node_id, to, kind: Some(kind) };
        let present = self.address_of(to);
        let address = present.as_deref().unwrap_or(address);
        let answer = tokio::time::timeout(within, self.transport.call(address, request)).await;
        let late = |_| Err(format!("node {to:016x} did not answer within {} ms", within.as_millis()));
        match answer.unwrap_or_else(late).map_err(Error::Unknown)?.kind {
            Some(reply::Kind::Failure(failure)) => Err(Error::of_failure(failure)),
            Some(kind) => Ok(kind),
            None => Err(Error::Unknown(format!("node {to:016x} answered nothing"))),
        }
    }

    /// The sentence for a reply of another kind than the question.
    pub fn odd(to: u64) -> Error {
        Error::Unknown(format!("node {to:016x} answered another question"))
    }
}

/// When the leader was heard here, and when each voter answered this node as leader. Kept beside openraft, whose core
/// waits for its disk: a slow disk is no dead leader.
pub(crate) struct Liveness {
    timing: Timing,
    state: Mutex<State>,
}

struct State {
    heard: Instant,
    /// When somebody was given this node's vote, or its own leadership ended.
    yielded: Instant,
    answered: BTreeMap<u64, Instant>,
    /// Until then this node keeps others from an election: it hands its leadership over.
    handing_over: Option<Instant>,
}

impl Liveness {
    fn new(timing: Timing) -> Liveness {
        let now = Instant::now();
        let state = State { heard: now, yielded: now, answered: BTreeMap::new(), handing_over: None };
        Liveness { timing, state: Mutex::new(state) }
    }

    /// The leader spoke to this node.
    pub fn hear(&self) {
        self.state().heard = Instant::now();
    }

    pub fn heard(&self) -> Instant {
        self.state().heard
    }

    /// Somebody else may lead soon: this node waits as if a leader had spoken. To others it says nothing of the kind.
    pub fn give_way(&self) {
        self.state().yielded = Instant::now();
    }

    /// Since when this node has had reason to look for a leader.
    pub fn quiet_since(&self) -> Instant {
        let state = self.state();
        state.heard.max(state.yielded)
    }

    /// A voter followed this node as its leader, or made it one.
    pub fn answer(&self, node_id: u64) {
        self.state().answered.insert(node_id, Instant::now());
    }

    pub fn hand_over(&self, until: Option<Instant>) {
        self.state().handing_over = until;
    }

    /// Whether others should leave this leader alone: a quorum follows it, or it is handing over.
    pub fn leads(&self, node_id: u64, configs: &[Vec<u64>]) -> bool {
        let state = self.state();
        let now = Instant::now();
        let is_fresh = |id: &u64| {
            *id == node_id
                || state.answered.get(id).is_some_and(|at| now.duration_since(*at) < self.timing.silence)
        };
        state.handing_over.is_some_and(|until| now < until) || is_quorum(configs, is_fresh)
    }

    /// Whether the leader was heard lately.
    pub fn hears(&self) -> bool {
        self.heard().elapsed() < self.timing.silence
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether those who agree are a majority of each configuration.
pub(crate) fn is_quorum(configs: &[Vec<u64>], agrees: impl Fn(&u64) -> bool) -> bool {
    configs.iter().all(|voters| voters.iter().filter(|id| agrees(id)).count() * 2 > voters.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joint_configuration_needs_both_majorities() {
        let joint = [vec![1, 2, 3], vec![3, 4, 5]];
        let agree = |ids: &'static [u64]| move |id: &u64| ids.contains(id);
        assert!(is_quorum(&joint, agree(&[1, 3, 4])));
        assert!(!is_quorum(&joint, agree(&[1, 2, 3])));
        assert!(!is_quorum(&joint, agree(&[3, 4, 5])));
        assert!(is_quorum(&[vec![7]], agree(&[7])));
        assert!(!is_quorum(&[vec![1, 2]], agree(&[1])));
    }
}
