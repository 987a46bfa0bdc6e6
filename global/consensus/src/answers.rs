//! What this node answers its peers. Who asks was established by whoever carried the request here.
use crate::{Consensus, Error, consensus::stopped, reads};
use openraft::error::{InstallSnapshotError, RaftError};
use proto::peer::{Changed, Elected, Probed, ReadIndex, Reply, Request, change, reply, request};
use shared_raft::wire::{self, AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};

impl Consensus {
    /// Answers a request that the node `from` has proven to have sent.
    pub async fn answer(&self, from: u64, request: Request) -> Reply {
        let answered = match self.check(from, &request) {
            Ok(()) => self.answer_kind(request.kind).await,
            Err(error) => Err(error),
        };
        let kind = answered.unwrap_or_else(|error| reply::Kind::Failure(error.to_failure()));
        Reply { kind: Some(kind) }
    }

    /// Whether a request is of this cluster, for this node, and from whom it says.
    pub fn check(&self, from: u64, request: &Request) -> Result<(), Error> {
        let refused = |reason: String| Err(Error::Membership(reason));
        if request.cluster_id != *self.0.cluster_id {
            return refused(format!("this is cluster {}, not {}", self.0.cluster_id, request.cluster_id));
        }
        if request.from != from {
            return refused(format!("node {from:016x} speaks as {:016x}", request.from));
        }
        // An address whose disk was lost has another id now. What its former owner promised, it does not know.
        if request.to != self.0.node_id {
            return refused(format!("this is node {:016x}, not {:016x}", self.0.node_id, request.to));
        }
        // Raft's own messages may come from a member that this node has not heard of yet. Everything else is for members:
        // a certificate outlives its node's place in the cluster.
        let is_raft = matches!(
            request.kind,
            Some(
                request::Kind::Append(_)
                    | request::Kind::Vote(_)
                    | request::Kind::Snapshot(_)
                    | request::Kind::Probe(_)
            )
        );
        if !is_raft && !self.view().nodes.contains_key(&from) {
            return refused(format!("node {from:016x} is not a member of this cluster"));
        }
        Ok(())
    }

    async fn answer_kind(&self, kind: Option<request::Kind>) -> Result<reply::Kind, Error> {
        let node = &self.0;
        Ok(match kind {
            Some(request::Kind::Append(body)) => {
                let request: AppendEntriesRequest = wire::decode(&body)?;
                self.hear(&request.vote);
                let response = node.raft.append_entries(request).await.map_err(stopped)?;
                reply::Kind::Append(wire::encode(&response).into())
            }
            Some(request::Kind::Vote(body)) => {
                let request: VoteRequest = wire::decode(&body)?;
                let response = node.raft.vote(request).await.map_err(stopped)?;
                if response.vote_granted {
                    node.peers.liveness.give_way();
                }
                reply::Kind::Vote(wire::encode(&response).into())
            }
            Some(request::Kind::Snapshot(body)) => {
                let request: InstallSnapshotRequest = wire::decode(&body)?;
                self.hear(&request.vote);
                match node.raft.install_snapshot(request).await {
                    Ok(response) => reply::Kind::Snapshot(wire::encode(&response).into()),
                    Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(error))) => {
                        return Err(Error::Unknown(error.to_string()));
                    }
                    Err(RaftError::Fatal(error)) => return Err(stopped(error)),
                }
            }
            Some(request::Kind::Probe(_)) => {
                let (last_term, last_index) = node.log.end();
                let leads = node.membership.leads();
                let leader_lives = leads || (!self.is_leader() && node.peers.liveness.hears());
                reply::Kind::Probe(Probed { leader_lives, leads, last_term, last_index })
            }
            Some(request::Kind::Forward(forward)) => {
                if !node.membership.leads() {
                    return Err(if self.is_leader() { Error::NoQuorum } else { Error::NotLeader });
                }
                reply::Kind::Forward(self.propose_all(forward.commands).await?)
            }
            Some(request::Kind::Read(_)) => {
                reply::Kind::Read(ReadIndex { index: reads::index_here(self).await? })
            }
            Some(request::Kind::Change(change)) => {
                let kind: Option<change::Kind> = change.kind;
                let kind = kind.ok_or_else(|| Error::Membership("the change is empty".to_owned()))?;
                if !self.is_leader() {
                    return Err(Error::NotLeader);
                }
                node.membership.make(kind).await?;
                reply::Kind::Change(Changed {})
            }
            Some(request::Kind::Elect(_)) => {
                tracing::info!("standing for election: the leader hands over");
                node.raft.trigger().elect().await.map_err(stopped)?;
                reply::Kind::Elect(Elected {})
            }
            Some(request::Kind::Status(_)) => reply::Kind::Status(self.status()),
            Some(request::Kind::Join(_) | request::Kind::SealKeys(_)) | None => {
                return Err(Error::Membership("this version does not know the request".to_owned()));
            }
        })
    }

    /// Only the leader of the present term, or of a newer one, is worth waiting for.
    fn hear(&self, vote: &openraft::Vote<u64>) {
        let own = self.0.raft.metrics().borrow().vote;
        if *vote >= own {
            self.0.peers.liveness.hear();
        }
    }
}
