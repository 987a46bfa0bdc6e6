//! openraft's network: to other voters by request, to zones over the streams that they have opened.
//!
//! openraft gives an append as long as a heartbeat, 50 ms, and then forgets it and asks again. A zone may be further away
//! than that, and a voter's disk slower. So a request that openraft has given up stays in flight here, and the next one
//! takes over its answer: nothing is sent twice, and a distant zone is no slower than its distance.
//!
//! Heartbeats are for voters. A learner stands for no election, so one that would tell it nothing new is answered here,
//! but for one a second. A request to a zone that is away waits here for the zone to come, and leaves at once when it
//! does.
use crate::{
    links::{Answer, AnswerReceiver, Link, Registry},
    peers::Peers,
};
use openraft::{
    AnyError, RaftNetwork, RaftNetworkFactory,
    error::{InstallSnapshotError, RPCError, RaftError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{VoteRequest, VoteResponse},
};
use proto::{
    link::RaftCall,
    peer::{reply, request},
};
use shared_raft::{
    LEARNER_BIT, LogStore, Member, TypeConfig,
    wire::{
        self, AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    },
};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};

type LogId = openraft::LogId<u64>;

/// A learner that has not answered for so long is asked anew. It may wait for its disk for some seconds.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// A voter that has not answered for so long is asked anew: the connection may be dead. What it gets twice, it takes once.
const VOTER_DEADLINE: Duration = Duration::from_millis(500);

/// A chunk of a snapshot, to a voter.
const CHUNK_DEADLINE: Duration = Duration::from_secs(5);

/// How long a learner needs no heartbeat that tells it nothing.
const QUIET: Duration = Duration::from_millis(900);

/// The part of the time which openraft gives a request that it may wait for a zone to come.
const AWAY: f32 = 0.9;

/// How long a message with a commit waits for the leader's own disk; then it goes with what is on it.
const OWN_DISK: Duration = Duration::from_millis(15);

/// How soon a zone is tried again after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_millis(250);

pub(crate) struct Networks {
    registry: Arc<Registry>,
    peers: Peers,
    log: LogStore,
}

impl Networks {
    pub fn new(registry: Arc<Registry>, peers: Peers, log: LogStore) -> Networks {
        Networks { registry, peers, log }
    }
}

impl RaftNetworkFactory<TypeConfig> for Networks {
    type Network = Network;

    async fn new_client(&mut self, node_id: u64, member: &Member) -> Network {
        let way = match node_id & LEARNER_BIT {
            0 => Way::Voter { peers: self.peers.clone(), address: member.address.clone() },
            _ => Way::Zone(self.registry.clone()),
        };
        Network { node_id, way, log: self.log.clone(), flight: None, told: None }
    }
}

enum Way {
    /// A node of global.
    Voter {
        peers: Peers,
        address: String,
    },
    Zone(Arc<Registry>),
}

/// The way to one replica, for as long as one leader leads.
pub(crate) struct Network {
    node_id: u64,
    way: Way,
    log: LogStore,
    flight: Option<Flight>,
    told: Option<Told>,
}

/// An append without an answer yet.
struct Flight {
    vote: openraft::Vote<u64>,
    prev: Option<LogId>,
    last: Option<LogId>,
    commit: Option<LogId>,
    link: Option<Weak<Link>>,
    answer: AnswerReceiver,
    deadline: Instant,
}

/// What a learner has acknowledged last.
struct Told {
    last: Option<LogId>,
    commit: Option<LogId>,
    link: Weak<Link>,
    at: Instant,
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
            Err(_) => Err("no answer in time".to_owned()),
        };
        let flight = self.flight.take()?;
        if let (Ok(AppendEntriesResponse::Success), Some(link)) = (&answer, flight.link) {
            let Flight { last, commit, .. } = flight;
            self.told = Some(Told { last, commit, link, at: Instant::now() });
        }
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

    async fn link(&self, registry: &Registry, patience: Duration) -> Result<Arc<Link>, String> {
        let come = registry.wait_for(self.node_id, patience).await;
        come.ok_or_else(|| "the zone is not connected".to_owned())
    }

    fn is_told(&self, link: &Arc<Link>, rpc: &AppendEntriesRequest) -> bool {
        self.told.as_ref().is_some_and(|told| {
            rpc.entries.is_empty()
                && told.last == rpc.prev_log_id
                && told.commit == rpc.leader_commit
                && told.at.elapsed() < QUIET
                && std::ptr::eq(told.link.as_ptr(), Arc::as_ptr(link))
        })
    }

    async fn append(
        &mut self,
        mut rpc: AppendEntriesRequest,
        away: Duration,
    ) -> Result<AppendEntriesResponse, String> {
        // A quorum may have an entry before the leader's disk does. Nobody is to count on it then: see the log.
        if let Some(commit) = rpc.leader_commit
            && !matches!(tokio::time::timeout(OWN_DISK, self.log.flushed(commit.index)).await, Ok(Ok(())))
        {
            rpc.leader_commit = self.log.flushed_part(commit);
        }
        let trimmed_from = rpc.prev_log_id;
        if let Some(response) = self.resume(&mut rpc).await {
            return Ok(response);
        }
        let (vote, prev, commit) = (rpc.vote, rpc.prev_log_id, rpc.leader_commit);
        let last = rpc.entries.last().map(|entry| entry.log_id).or(prev);
        let (answer, link, patience) = match &self.way {
            Way::Voter { peers, address } => {
                (ask_voter(peers.clone(), self.node_id, address.clone(), &rpc), None, VOTER_DEADLINE)
            }
            Way::Zone(registry) => {
                let link = self.link(registry, away).await?;
                if self.is_told(&link, &rpc) {
                    return Ok(AppendEntriesResponse::Success);
                }
                let answer = link.ask(RaftCall::Append, vote, prev.is_some(), wire::encode(&rpc)).await?;
                (answer, Some(Arc::downgrade(&link)), ANSWER_DEADLINE)
            }
        };
        let deadline = Instant::now() + patience;
        self.flight = Some(Flight { vote, prev, last, commit, link, answer, deadline });
        match self.land().await.expect("it has just taken off")? {
            AppendEntriesResponse::Conflict if prev != trimmed_from => {
                Err("the replica has lost entries that it has just taken".to_owned())
            }
            response => Ok(response),
        }
    }

    async fn install(
        &mut self,
        rpc: InstallSnapshotRequest,
        away: Duration,
    ) -> Result<InstallSnapshotResponse, String> {
        let registry = match &self.way {
            Way::Zone(registry) => registry,
            Way::Voter { peers, address } => {
                let kind = request::Kind::Snapshot(wire::encode(&rpc).into());
                let answer = peers.ask(self.node_id, address, CHUNK_DEADLINE, kind).await;
                return match answer.map_err(|error| error.to_string())? {
                    reply::Kind::Snapshot(body) => wire::decode(&body).map_err(|error| error.to_string()),
                    _ => Err(Peers::odd(self.node_id).to_string()),
                };
            }
        };
        let answer = self
            .link(registry, away)
            .await?
            .ask(RaftCall::Snapshot, rpc.vote, false, wire::encode(&rpc))
            .await?;
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
        option: RPCOption,
    ) -> Result<AppendEntriesResponse, RPCError<u64, Member, RaftError<u64>>> {
        self.append(rpc, option.hard_ttl().mul_f32(AWAY)).await.map_err(unreachable)
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse, RPCError<u64, Member, RaftError<u64, InstallSnapshotError>>> {
        self.install(rpc, option.hard_ttl().mul_f32(AWAY)).await.map_err(unreachable)
    }

    /// A zone has no vote, and is not asked for one.
    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Member, RaftError<u64>>> {
        let Way::Voter { peers, address } = &self.way else {
            return Err(unreachable("a zone never votes".to_owned()));
        };
        let kind = request::Kind::Vote(wire::encode(&rpc).into());
        match peers.ask(self.node_id, address, option.hard_ttl(), kind).await {
            Ok(reply::Kind::Vote(body)) => {
                let response: VoteResponse<u64> =
                    wire::decode(&body).map_err(|error| unreachable(error.to_string()))?;
                if response.vote_granted {
                    peers.liveness.answer(self.node_id);
                }
                Ok(response)
            }
            Ok(_) => Err(unreachable(Peers::odd(self.node_id).to_string())),
            Err(error) => Err(unreachable(error.to_string())),
        }
    }

    fn backoff(&self) -> Backoff {
        let doubled = |pause: &Duration| Some((*pause * 2).min(RETRY_MAX));
        Backoff::new(std::iter::successors(Some(RETRY_FIRST), doubled))
    }
}

/// Asks in a task of its own: the request goes on when openraft has given it up.
fn ask_voter(peers: Peers, node_id: u64, address: String, rpc: &AppendEntriesRequest) -> AnswerReceiver {
    let (done, answer) = oneshot::channel();
    let kind = request::Kind::Append(wire::encode(rpc).into());
    tokio::spawn(async move {
        let answer = match peers.ask(node_id, &address, VOTER_DEADLINE, kind).await {
            Ok(reply::Kind::Append(body)) => {
                wire::decode::<AppendEntriesResponse>(&body).map_err(|error| error.to_string())
            }
            Ok(_) => Err(Peers::odd(node_id).to_string()),
            Err(error) => Err(error.to_string()),
        };
        if matches!(answer, Ok(AppendEntriesResponse::Success | AppendEntriesResponse::Conflict)) {
            peers.liveness.answer(node_id);
        }
        // Nobody waits once the leader has stepped down.
        let _ = done.send(answer.map(Answer::Append));
    });
    answer
}

fn unreachable<E: std::error::Error>(reason: String) -> RPCError<u64, Member, E> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(reason)))
}
