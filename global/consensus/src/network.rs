//! openraft's network over the zones' streams.
//!
//! openraft gives an append as long as a heartbeat, one second, and then forgets it and asks again. A zone may be further
//! away than that, or its disk be slow. So a request that openraft has given up stays in flight here, and the next one
//! takes over its answer: nothing is sent twice, and a distant zone is no slower than its distance.
//!
//! A request to a zone that is away waits here for the zone to come, and leaves at once when it does.
use crate::links::{Answer, AnswerReceiver, Link, Registry};
use openraft::{
    AnyError, RaftNetwork, RaftNetworkFactory,
    error::{InstallSnapshotError, RPCError, RaftError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{VoteRequest, VoteResponse},
};
use proto::link::RaftCall;
use shared_raft::{
    Member, TypeConfig,
    wire::{
        self, AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    },
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

type LogId = openraft::LogId<u64>;

/// A learner that has not answered for so long is asked anew. It may wait for its disk for some seconds.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// How long a request waits for a zone that is away: less than openraft waits for an answer.
const AWAY: Duration = Duration::from_millis(900);

/// How soon a zone is tried again after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_millis(250);

pub(crate) struct Networks {
    registry: Arc<Registry>,
}

impl Networks {
    pub fn new(registry: Arc<Registry>) -> Networks {
        Networks { registry }
    }
}

impl RaftNetworkFactory<TypeConfig> for Networks {
    type Network = Network;

    async fn new_client(&mut self, node_id: u64, _: &Member) -> Network {
        Network { node_id, registry: self.registry.clone(), flight: None }
    }
}

/// The way to one learner, for as long as one leader leads.
pub(crate) struct Network {
    node_id: u64,
    registry: Arc<Registry>,
    flight: Option<Flight>,
}

/// An append without an answer yet.
struct Flight {
    vote: openraft::Vote<u64>,
    prev: Option<LogId>,
    last: Option<LogId>,
    commit: Option<LogId>,
    answer: AnswerReceiver,
    deadline: Instant,
}

impl Network {
    /// Waits for what is in flight. May be dropped while it waits: the flight goes on.
    async fn land(&mut self) -> Option<Result<AppendEntriesResponse, String>> {
        let flight = self.flight.as_mut()?;
        let answer = match tokio::time::timeout_at(flight.deadline, &mut flight.answer).await {
            Ok(Ok(Ok(Answer::Append(response)))) => Ok(response),
            Ok(Ok(Ok(Answer::Snapshot(_)))) => Err("the answer is one to another question".to_owned()),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err("the stream ended before the answer".to_owned()),
            Err(_) => Err(format!("no answer within {} s", ANSWER_DEADLINE.as_secs())),
        };
        self.flight = None;
        Some(answer)
    }

    /// Takes over the answer to a request that openraft has given up.
    async fn resume(&mut self, rpc: &mut AppendEntriesRequest) -> Option<AppendEntriesResponse> {
        let flight = self.flight.as_ref()?;
        let (vote, prev, last, commit) = (flight.vote, flight.prev, flight.last, flight.commit);
        let answer = self.land().await?.ok()?;
        match answer {
            _ if vote != rpc.vote => None,
            AppendEntriesResponse::Success if last >= rpc.prev_log_id => {
                let news = rpc.entries.iter().position(|entry| Some(entry.log_id) > last);
                let known = rpc.entries.drain(..news.unwrap_or(rpc.entries.len())).next_back();
                let advanced = known.is_some();
                rpc.prev_log_id = known.map(|entry| entry.log_id).or(rpc.prev_log_id);
                let done = advanced && rpc.entries.is_empty() && commit >= rpc.leader_commit;
                done.then_some(AppendEntriesResponse::Success)
            }
            AppendEntriesResponse::Conflict if prev == rpc.prev_log_id => {
                Some(AppendEntriesResponse::Conflict)
            }
            _ => None,
        }
    }

    async fn link(&self) -> Result<Arc<Link>, String> {
        self.registry.wait_for(self.node_id, AWAY).await.ok_or_else(|| "the zone is not connected".to_owned())
    }

    async fn append(&mut self, mut rpc: AppendEntriesRequest) -> Result<AppendEntriesResponse, String> {
        let trimmed_from = rpc.prev_log_id;
        if let Some(response) = self.resume(&mut rpc).await {
            return Ok(response);
        }
        let link = self.link().await?;
        let (vote, prev, commit) = (rpc.vote, rpc.prev_log_id, rpc.leader_commit);
        let last = rpc.entries.last().map(|entry| entry.log_id).or(prev);
        let answer = link.ask(RaftCall::Append, vote, prev.is_some(), wire::encode(&rpc)).await?;
        let deadline = Instant::now() + ANSWER_DEADLINE;
        self.flight = Some(Flight { vote, prev, last, commit, answer, deadline });
        match self.land().await.expect("it has just taken off")? {
            AppendEntriesResponse::Conflict if prev != trimmed_from => {
                Err("the zone has lost entries that it has just taken".to_owned())
            }
            response => Ok(response),
        }
    }

    async fn install(&mut self, rpc: InstallSnapshotRequest) -> Result<InstallSnapshotResponse, String> {
        let answer = self.link().await?.ask(RaftCall::Snapshot, rpc.vote, false, wire::encode(&rpc)).await?;
        match answer.await {
            Ok(Ok(Answer::Snapshot(response))) => Ok(response),
            Ok(Ok(Answer::Append(_))) => Err("the answer is one to another question".to_owned()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err("the stream ended before the answer".to_owned()),
        }
    }
}

impl RaftNetwork<TypeConfig> for Network {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse, RPCError<u64, Member, RaftError<u64>>> {
        self.append(rpc).await.map_err(unreachable)
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse, RPCError<u64, Member, RaftError<u64, InstallSnapshotError>>> {
        self.install(rpc).await.map_err(unreachable)
    }

    /// A zone has no vote, and is not asked for one.
    async fn vote(
        &mut self,
        _: VoteRequest<u64>,
        _: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Member, RaftError<u64>>> {
        Err(unreachable("a zone never votes".to_owned()))
    }

    fn backoff(&self) -> Backoff {
        let doubled = |pause: &Duration| Some((*pause * 2).min(RETRY_MAX));
        Backoff::new(std::iter::successors(Some(RETRY_FIRST), doubled))
    }
}

fn unreachable<E: std::error::Error>(reason: String) -> RPCError<u64, Member, E> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(reason)))
}
