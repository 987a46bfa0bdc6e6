//! Commands on their way to the leader: those that wait at a follower travel together, and are one question to the leader
//! as they will be one entry of its log.
use crate::{
    Consensus, Error,
    consensus::{Node, QUORUM_PATIENCE},
    peers::Peers,
    proposals::{Waiting, gathered, refuse},
};
use bytes::Bytes;
use futures::future::try_join_all;
use proto::peer::{Forward, Forwarded, reply, request};
use shared_catalog::{Command, Outcome};
use shared_raft::wire;
use std::sync::{Arc, Weak};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

/// How many questions are on their way at once.
const ON_THEIR_WAY: usize = 4;

/// Sends what waits, while more gathers behind it.
pub(crate) async fn send(node: Weak<Node>, mut waiting: mpsc::Receiver<Waiting>) {
    let ways = Arc::new(Semaphore::new(ON_THEIR_WAY));
    let mut sent = JoinSet::new();
    loop {
        // First a way, then what to send on it: what comes while all are taken goes together.
        let Ok(way) = ways.clone().acquire_owned().await else { return };
        let Some((commands, waiters)) = gathered(&mut waiting).await else { return };
        let Some(node) = node.upgrade() else { return };
        while sent.try_join_next().is_some() {}
        sent.spawn(async move {
            let _way = way;
            match Consensus(node).forward(commands).await {
                Ok((outcomes, index)) => {
                    for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
                        // Who no longer waits does not want to know.
                        let _ = waiter.send(Ok((outcome, index)));
                    }
                }
                Err(error) => refuse(waiters, &error),
            }
        });
    }
}

impl Consensus {
    /// Has the leader propose commands, and returns once what came of them is applied here.
    async fn forward(&self, commands: Vec<Command>) -> Result<(Vec<Outcome>, u64), Error> {
        let view = self.view();
        let leader = view.leader.ok_or(Error::NoQuorum)?;
        let member = view.nodes.get(&leader).ok_or(Error::NoQuorum)?;
        let count = commands.len();
        let commands = commands.iter().map(|command| wire::encode(command).into()).collect();
        let kind = request::Kind::Forward(Forward { commands });
        // An answer that does not come in the time of several elections is sent again, to whoever leads then.
        let answer = self.0.peers.ask(leader, &member.address, QUORUM_PATIENCE / 2, kind).await?;
        let reply::Kind::Forward(forwarded) = answer else { return Err(Peers::odd(leader)) };
        let outcomes: Vec<Outcome> =
            forwarded.outcomes.iter().map(|outcome| wire::decode(outcome)).collect::<Result<_, _>>()?;
        if outcomes.len() != count {
            return Err(Error::Unknown(format!("{count} commands have {} outcomes", outcomes.len())));
        }
        self.applied(forwarded.index).await?;
        Ok((outcomes, forwarded.index))
    }

    /// Proposes what a follower has sent. One that fails fails them all: each has a key, and what is sent again counts once.
    pub(crate) async fn propose_all(&self, commands: Vec<Bytes>) -> Result<Forwarded, Error> {
        let commands: Vec<Command> =
            commands.iter().map(|command| wire::decode(command)).collect::<Result<_, _>>()?;
        let proposed = try_join_all(commands.into_iter().map(|command| self.propose_here(command))).await?;
        let index = proposed.iter().map(|(_, index)| *index).max().unwrap_or_default();
        let outcomes = proposed.iter().map(|(outcome, _)| wire::encode(outcome).into()).collect();
        Ok(Forwarded { outcomes, index })
    }
}
