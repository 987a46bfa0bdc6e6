//! When this node stands for election. openraft 0.9 has no vote before the vote: a node that lost its way would unseat a
//! leader that all others follow. So openraft's own timer is off, and this loop asks first.
//!
//! ```text
//! leader silent for long enough --> ask every voter: does a leader live?
//!                                     a quorum says no, nobody has more log --> stand
//!                                     else                                  --> wait
//! ```
use crate::{
    Timing,
    node::View,
    peers::{Peers, is_quorum},
};
use openraft::ServerState;
use proto::peer::{Probe, Probed, reply, request};
use shared_raft::{LogStore, Raft};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// How many rounds a node with less log lets others go first. They may all be unable to.
const COURTESY: u32 = 3;

/// How often a node that cannot stand for election looks whether it can.
const IDLE: Duration = Duration::from_millis(500);

/// After how many rounds in which others hear a leader and this node does not it is said.
const ALONE: u32 = 10;

/// What the voters said.
enum Poll {
    /// Too few answered.
    Wait,
    /// A leader lives, and this node does not hear it.
    Apart,
    /// No leader, but somebody's log is longer.
    Behind,
    Clear,
}

/// Runs as long as the node does.
pub(crate) async fn watch(raft: Raft, log: LogStore, peers: Peers, node_id: u64, timing: Timing) {
    let mut metrics = raft.metrics();
    let mut patience = timing.silence + spread(timing);
    let mut behind = 0;
    let mut apart = 0;
    let mut not_before = Instant::now();
    loop {
        let (view, state) = {
            let metrics = metrics.borrow_and_update();
            (View::of(&metrics), metrics.state)
        };
        let is_voter = view.voters().any(|id| id == node_id);
        if !is_voter || state == ServerState::Leader {
            // A change of the state wakes; the clock is for a change that went unseen.
            if tokio::time::timeout(IDLE, metrics.changed()).await.is_ok_and(|changed| changed.is_err()) {
                return;
            }
            behind = 0;
            peers.liveness.give_way();
            continue;
        }
        let due = (peers.liveness.quiet_since() + patience).max(not_before);
        if due > Instant::now() {
            if peers.liveness.hears() {
                apart = 0;
            }
            tokio::time::sleep_until(due.min(Instant::now() + IDLE)).await;
            continue;
        }
        let poll = poll(&log, &peers, node_id, &view, timing).await;
        let stand = match poll {
            Poll::Clear => true,
            Poll::Behind => {
                behind += 1;
                behind > COURTESY
            }
            Poll::Wait => false,
            Poll::Apart => {
                apart += 1;
                if apart == ALONE {
                    tracing::warn!(
                        "a leader lives and does not speak to this node: is it cut off, or was it removed from the cluster? `weftctl cluster status` at another node tells"
                    );
                }
                false
            }
        };
        if stand {
            behind = 0;
            tracing::info!("no leader lives: standing for election");
            if raft.trigger().elect().await.is_err() {
                return;
            }
        }
        patience = timing.silence + spread(timing);
        // Time for the votes, or for somebody else.
        not_before = Instant::now() + timing.heartbeat + spread(timing);
    }
}

async fn poll(log: &LogStore, peers: &Peers, node_id: u64, view: &View, timing: Timing) -> Poll {
    let mut asked = JoinSet::new();
    for (id, member) in view.others(node_id) {
        let (peers, address) = (peers.clone(), member.address.clone());
        asked.spawn(async move {
            let within = timing.heartbeat * 2;
            match peers.ask(id, &address, within, request::Kind::Probe(Probe {})).await {
                Ok(reply::Kind::Probe(probed)) => Some((id, probed)),
                _ => None,
            }
        });
    }
    let mut answers: BTreeMap<u64, Probed> = BTreeMap::new();
    while let Some(answer) = asked.join_next().await {
        answers.extend(answer.ok().flatten());
    }
    // The leader may have spoken meanwhile.
    if peers.liveness.hears() {
        return Poll::Wait;
    }
    // A leader that a quorum follows is not to be disturbed, whatever others have missed.
    if answers.values().any(|probed| probed.leads) {
        return Poll::Apart;
    }
    let agree: BTreeSet<u64> = answers
        .iter()
        .filter(|(_, probed)| !probed.leader_lives)
        .map(|(id, _)| *id)
        .chain([node_id])
        .collect();
    if !is_quorum(&view.configs, |id| agree.contains(id)) {
        return Poll::Wait;
    }
    let own = log.end();
    match answers.values().any(|probed| (probed.last_term, probed.last_index) > own) {
        true => Poll::Behind,
        false => Poll::Clear,
    }
}

fn spread(timing: Timing) -> Duration {
    let part = (crate::node::random() >> 32) as u32;
    timing.spread * part.min(u32::MAX - 1) / u32::MAX
}
