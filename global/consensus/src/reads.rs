//! Reads that are as new as every answered write. One question to the leader, and there to a quorum, serves all readers
//! that wait.
use crate::{
    Consensus, Error,
    consensus::{Node, stopped},
    peers::Peers,
};
use openraft::error::{CheckIsLeaderError, RaftError};
use proto::peer::{Read, reply, request};
use std::{sync::Weak, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// How long a leader may take to ask its quorum.
const ROUND: Duration = Duration::from_secs(1);

/// How soon a failed round is tried again, and how many times.
const RETRY: Duration = Duration::from_millis(20);
const TRIES: usize = 50;

/// Who waits until this node has caught up.
pub(crate) struct Reader(pub oneshot::Sender<Result<(), Error>>);

/// Serves readers. Those that come while a round is on its way wait for the next: it must begin after them.
pub(crate) async fn serve(node: Weak<Node>, mut readers: mpsc::Receiver<Reader>) {
    while let Some(first) = readers.recv().await {
        let mut waiting = vec![first];
        while let Ok(next) = readers.try_recv() {
            waiting.push(next);
        }
        let Some(node) = node.upgrade() else { return };
        let caught_up = round(&Consensus(node)).await;
        for Reader(done) in waiting {
            // Who no longer waits has given up.
            let _ = done.send(caught_up.clone());
        }
    }
}

async fn round(consensus: &Consensus) -> Result<(), Error> {
    for _ in 0..TRIES {
        match index(consensus).await {
            Ok(index) => return consensus.applied(index).await,
            Err(Error::Stopped(reason)) => return Err(Error::Stopped(reason)),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
    Err(Error::NoQuorum)
}

/// The index that a read must have applied, from whoever leads.
async fn index(consensus: &Consensus) -> Result<u64, Error> {
    let view = consensus.view();
    let leader = view.leader.ok_or(Error::NoQuorum)?;
    if leader == consensus.node_id() {
        return index_here(consensus).await;
    }
    let member = view.nodes.get(&leader).ok_or(Error::NoQuorum)?;
    match consensus.0.peers.ask(leader, &member.address, ROUND, request::Kind::Read(Read {})).await? {
        reply::Kind::Read(read) => Ok(read.index),
        _ => Err(Peers::odd(leader)),
    }
}

/// As the leader: the end of what is committed, once a quorum has confirmed that nobody else leads.
pub(crate) async fn index_here(consensus: &Consensus) -> Result<u64, Error> {
    let mut open = consensus.0.membership.open.subscribe();
    open.wait_for(|open| *open).await.map_err(stopped)?;
    match consensus.0.raft.get_read_log_id().await {
        Ok((read, _)) => Ok(read.map_or(0, |read| read.index)),
        Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_))) => Err(Error::NotLeader),
        Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => Err(Error::NoQuorum),
        Err(RaftError::Fatal(error)) => Err(stopped(error)),
    }
}
