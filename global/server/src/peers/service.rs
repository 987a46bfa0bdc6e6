//! The peer port: requests of nodes, and the door for those who want to become one.
use super::{
    papers,
    token::{self, JoinToken},
};
use crate::rotation::Rotation;
use anyhow::{Context as _, Result};
use global_consensus::{Consensus, Error, new_node_id};
use proto::peer::{
    Failure, JoinReply, JoinRequest, MESSAGE_MAX, Peer, Reason, Reply, Request, change,
    door_server::{Door, DoorServer},
    peers_server::{Peers, PeersServer},
    reply, request,
};
use shared_catalog::{Command, Expected, Outcome};
use shared_identity::{ca::Authority, seal::SealKey};
use shared_node::{serve::ClientCertificate, time};
use std::{sync::Arc, time::Duration};
use tonic::{Response, Status};

/// What the seal key and the CA's key are bound to while they are sealed for their way.
fn context(what: &str, cluster_id: &str, node_id: u64) -> Vec<u8> {
    format!("{what} of cluster {cluster_id} for node {node_id:016x}").into_bytes()
}

pub(super) fn seal_key_context(cluster_id: &str, node_id: u64) -> Vec<u8> {
    context("seal key", cluster_id, node_id)
}

pub(super) fn ca_key_context(cluster_id: &str, node_id: u64) -> Vec<u8> {
    context("CA key", cluster_id, node_id)
}

/// Lets nodes in.
pub struct Porter {
    consensus: Consensus,
    authority: Authority,
    rotation: Arc<Rotation>,
}

#[derive(Clone)]
pub struct PeerService(Arc<Porter>);

impl Porter {
    pub fn new(consensus: Consensus, authority: Authority, rotation: Arc<Rotation>) -> Porter {
        Porter { consensus, authority, rotation }
    }

    /// Makes a token for one node, good for a while, and forgets those that are not any more.
    pub async fn make_token(&self, valid_for: Duration) -> Result<JoinToken, Error> {
        let now = time::now();
        let fingerprint = shared_identity::ca::fingerprint(self.authority.cert_pem());
        let fingerprint = fingerprint.map_err(|error| Error::Storage(error.to_string()))?;
        let mut random = [0; 40];
        rand::fill(&mut random);
        let token = JoinToken::new(random, &fingerprint);
        let record = token.record(now, valid_for);
        self.consensus.propose(Command::put(&record, Expected::Absent, now)).await?;
        let catalog = self.consensus.catalog().borrow().clone();
        for spent in
            catalog.list(shared_model::kind::GLOBAL_SECRET, None).filter(|one| token::is_spent(one, now))
        {
            self.consensus.propose(Command::delete(spent.key(), Expected::Any, now)).await?;
        }
        Ok(token)
    }

    /// Takes a node in, here or through the leader.
    async fn admit(&self, join: JoinRequest) -> Result<JoinReply, Error> {
        if self.consensus.is_current_leader() {
            return self.admit_here(join).await;
        }
        match self.consensus.ask_leader(request::Kind::Join(join)).await? {
            reply::Kind::Join(reply) => Ok(reply),
            _ => Err(Error::Unknown("the leader answered another question".to_owned())),
        }
    }

    async fn admit_here(&self, join: JoinRequest) -> Result<JoinReply, Error> {
        let refused = |reason: String| Error::Membership(reason);
        let token = JoinToken::parse(&join.token)
            .map_err(|why| refused(format!("the join token is refused: {why}")))?;
        self.consensus.catch_up().await?;
        let record = self.consensus.catalog().borrow().get(&token.key()).cloned();
        let record = record
            .ok_or_else(|| refused("the join token is refused: it was used or never made".to_owned()))?;
        token
            .check(&record, time::now())
            .map_err(|why| refused(format!("the join token is refused: {why}")))?;
        let (cluster_id, node_id) = (self.consensus.cluster_id(), join.node_id);
        papers::host_and_port(&join.address).map_err(|error| refused(format!("{error:#}")))?;
        let chain_pem = papers::issue(&self.authority, &cluster_id, node_id, &join.csr)
            .map_err(|error| refused(format!("the certificate request is refused: {error:#}")))?;
        // The revision makes it single: of two that come at once, one finds it changed.
        let used = Command::delete(token.key(), Expected::At(record.revision.0), time::now());
        if let Outcome::Refused(_) = self.consensus.propose(used).await? {
            return Err(refused("the join token is refused: it was used meanwhile".to_owned()));
        }
        let peer = Peer { node_id, address: join.address.clone(), link: join.link };
        self.consensus.change(change::Kind::AddLearner(peer)).await?;
        tracing::info!(
            node_id = format!("{node_id:016x}"),
            address = join.address,
            version = join.version,
            "a node was let in"
        );
        let seal = self.rotation.keys().current();
        let key = self.authority.key_pem();
        Ok(JoinReply {
            ca_pem: self.authority.cert_pem().to_owned(),
            chain_pem,
            wrapped_seal_key: token
                .wrapping_key()
                .seal(rand::random(), &seal_key_context(&cluster_id, node_id), seal.bytes())
                .into(),
            sealed_ca_key: seal
                .seal(rand::random(), &ca_key_context(&cluster_id, node_id), key.as_bytes())
                .into(),
            cluster_id,
        })
    }
}

impl PeerService {
    pub fn new(porter: Arc<Porter>) -> PeerService {
        PeerService(porter)
    }

    /// The gRPC services as a router.
    pub fn into_router(self) -> axum::Router {
        let peers = PeersServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let mut routes = tonic::service::Routes::new(peers);
        routes = routes.add_service(DoorServer::new(self));
        routes.prepare().into_axum_router()
    }
}

#[tonic::async_trait]
impl Peers for PeerService {
    async fn call(&self, request: tonic::Request<Request>) -> Result<Response<Reply>, Status> {
        let consensus = &self.0.consensus;
        let cluster_id = consensus.cluster_id();
        let shown = request.extensions().get::<ClientCertificate>();
        let from = shown.and_then(|shown| papers::node_of(&cluster_id, &shown.0));
        let from = from.ok_or_else(|| {
            Status::unauthenticated(format!("a certificate of a node of cluster {cluster_id} is needed"))
        })?;
        let mut request = request.into_inner();
        if let Some(request::Kind::Join(join)) =
            request.kind.take_if(|kind| matches!(kind, request::Kind::Join(_)))
        {
            consensus.check(from, &request).map_err(|error| Status::permission_denied(error.to_string()))?;
            let kind = match self.0.admit_here(join).await {
                Ok(reply) => reply::Kind::Join(reply),
                Err(error) => reply::Kind::Failure(error.to_failure()),
            };
            return Ok(Response::new(Reply { kind: Some(kind) }));
        }
        if let Some(request::Kind::SealKeys(asked)) =
            request.kind.take_if(|kind| matches!(kind, request::Kind::SealKeys(_)))
        {
            consensus.check(from, &request).map_err(|error| Status::permission_denied(error.to_string()))?;
            let answer = self.0.rotation.answer(from, asked).await;
            let kind = answer.unwrap_or_else(|error| reply::Kind::Failure(error.to_failure()));
            return Ok(Response::new(Reply { kind: Some(kind) }));
        }
        Ok(Response::new(consensus.answer(from, request).await))
    }
}

#[tonic::async_trait]
impl Door for PeerService {
    async fn join(&self, request: tonic::Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let reply = self.0.admit(request.into_inner()).await;
        reply.map(Response::new).map_err(|error| {
            let Failure { reason, message } = error.to_failure();
            tracing::warn!(reason = message, "a node was not let in");
            match Reason::try_from(reason) {
                Ok(Reason::Refused) => Status::permission_denied(message),
                _ => Status::unavailable(message),
            }
        })
    }
}

/// An id for a node that is about to join.
pub fn fresh_id() -> u64 {
    new_node_id()
}

/// The seal key of a reply, opened with the token, and the CA's key, opened with that.
pub(super) fn open(reply: &JoinReply, token: &JoinToken, node_id: u64) -> Result<([u8; 32], String)> {
    let wrapped =
        token.wrapping_key().open(&seal_key_context(&reply.cluster_id, node_id), &reply.wrapped_seal_key);
    let seal: [u8; 32] = wrapped
        .context("the seal key")?
        .try_into()
        .map_err(|_| anyhow::anyhow!("the seal key has not 32 bytes"))?;
    let key =
        SealKey::from_bytes(seal).open(&ca_key_context(&reply.cluster_id, node_id), &reply.sealed_ca_key);
    Ok((seal, String::from_utf8(key.context("the CA's key")?).context("the CA's key is not PEM")?))
}
