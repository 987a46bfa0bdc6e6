//! The door for zones: who may open a link, and under which name.
//!
//! ```text
//! authorization: Bearer <zone token>  -->  signature, expiry, revocation, scope `cp`
//! Hello                               -->  the token's zone, an id of a replica, this cluster and none of its futures
//!                                     -->  Zone resource, learner, actor; Welcome
//! ```
use super::{
    Zones,
    actor::{OUTBOX, Opened, TokenCheck, ZoneActor},
    handle::ZoneHandle,
};
use actix::Actor as _;
use actix_rt::ArbiterHandle;
use futures::stream::BoxStream;
use global_consensus::Links;
use proto::link::{
    FromZone, Hello, MESSAGE_MAX, ToZone, Welcome, from_zone, to_zone,
    zone_link_server::{ZoneLink, ZoneLinkServer},
};
use shared_api::signing;
use shared_catalog::{Command, Expected};
use shared_identity::{
    names::Purpose,
    token::{self, VerificationKeys, ZoneClaims},
};
use shared_model::{Resource, ResourceKey, Revision, Timestamp, kind, names};
use shared_raft::LEARNER_BIT;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

pub use super::actor::House;

/// The scope of a zone token that opens a link.
const SCOPE: &str = "cp";
/// A zone that has not said hello by then is let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a zone may say of its process, in bytes.
const WORD_MAX: usize = 256;
/// Requests of Raft that wait for the stream. openraft has one or two on their way.
const RAFT_WAITING: usize = 8;

#[derive(Clone)]
pub struct LinkService(Arc<Inner>);

struct Inner {
    house: House,
    links: Links,
    zones: Arc<Zones>,
    arbiter: ArbiterHandle,
    instance: String,
    /// By zone: one link of a zone enters at a time, so that a newer one finds the older one gone.
    entering: std::sync::Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
}

/// Why a zone stays outside: a word for the metric, and the answer.
struct Turned(&'static str, Status);

impl LinkService {
    pub fn new(
        house: House,
        links: Links,
        zones: Arc<Zones>,
        arbiter: ArbiterHandle,
        instance: &str,
    ) -> Self {
        let instance = instance.to_owned();
        LinkService(Arc::new(Inner { house, links, zones, arbiter, instance, entering: Default::default() }))
    }

    /// The gRPC service as a router.
    pub fn into_router(self) -> axum::Router {
        let server = ZoneLinkServer::new(self)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        tonic::service::Routes::new(server).prepare().into_axum_router()
    }
}

#[tonic::async_trait]
impl ZoneLink for LinkService {
    type FollowStream = BoxStream<'static, Result<ToZone, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<FromZone>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let peer =
            request.extensions().get::<axum::extract::ConnectInfo<std::net::SocketAddr>>().map(|info| info.0);
        let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
        let (metadata, _, inbound) = request.into_parts();
        match self.0.enter(&metadata, inbound).await {
            Ok(stream) => Ok(Response::new(Box::pin(stream))),
            Err(Turned(why, status)) => {
                tracing::warn!(peer, reason = status.message(), "a zone link is refused");
                self.0.house.metrics.link_refused(why);
                Err(status)
            }
        }
    }
}

impl Inner {
    async fn enter(
        &self,
        metadata: &MetadataMap,
        mut inbound: Streaming<FromZone>,
    ) -> Result<ReceiverStream<Result<ToZone, Status>>, Turned> {
        let token = bearer(metadata)?;
        let claims = self.check_token(&token)?;
        let hello = match tokio::time::timeout(PATIENCE, inbound.next()).await {
            Ok(Some(Ok(FromZone { kind: Some(from_zone::Kind::Hello(hello)) }))) => hello,
            Ok(Some(Err(status))) => return Err(Turned("hello", status)),
            Ok(_) => {
                return Err(Turned(
                    "hello",
                    Status::invalid_argument("the first message of a link is its hello"),
                ));
            }
            Err(_) => return Err(Turned("hello", Status::deadline_exceeded("no hello came"))),
        };
        // A zone may be ahead of a node that follows the leader more slowly. And a zone that is new holds back until it
        // has what global had at its welcome: that must not be an old state.
        let is_new = hello.cluster_id.is_empty();
        if is_new || hello.revision > self.house.consensus.catalog().borrow().revision().0 {
            let caught_up = self.house.consensus.catch_up().await;
            caught_up.map_err(|error| Turned("consensus", Status::unavailable(error.to_string())))?;
        }
        self.check_hello(&claims, &hello)?;
        let door = self.door(&hello.zone);
        let _one = door.lock().await;
        self.make_zone(&hello.zone).await?;
        let newer = format!("instance {} of the zone has dialled", hello.instance);
        if let Some(before) = self.zones.replace(&hello.zone, &newer).await {
            let same = before == hello.node_id;
            tracing::warn!(
                zone = hello.zone,
                before,
                now = hello.node_id,
                same,
                "a newer link replaces the zone's link"
            );
        }
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let (raft_outbox, raft) = mpsc::channel(RAFT_WAITING);
        let attached = self.links.attach(hello.node_id, &hello.zone, raft_outbox).await;
        let attached = attached.map_err(|error| match error {
            global_consensus::Error::NotALearner { .. } | global_consensus::Error::OtherZone { .. } => {
                Turned("replica", Status::permission_denied(error.to_string()))
            }
            error => Turned("consensus", Status::unavailable(error.to_string())),
        })?;
        let welcome = Welcome {
            cluster_id: self.house.consensus.cluster_id(),
            instance: self.instance.clone(),
            version: shared_node::VERSION.to_owned(),
            revision: self.house.consensus.catalog().borrow().revision().0,
            node_id: self.house.consensus.node_id(),
        };
        let welcome = ToZone { kind: Some(to_zone::Kind::Welcome(welcome)) };
        outbox
            .try_send(Ok(welcome))
            .map_err(|_| Turned("stream", Status::unavailable("the stream ended")))?;
        let connection = self.zones.connect(&hello);
        let link = connection.id();
        let opened = Opened { connection, inbound, outbox, raft, attached, token: self.token_check(token) };
        let house = self.house.clone();
        let create = move |ctx: &mut actix::Context<ZoneActor>| ZoneActor::create(house, opened, ctx);
        let address = ZoneActor::start_in_arbiter(&self.arbiter, create);
        self.zones.reachable(&hello.zone, link, ZoneHandle(address));
        let Hello { zone, instance, node_id, version, revision, .. } = hello;
        tracing::info!(zone, instance, node_id, version, revision, link, "a zone is connected");
        Ok(ReceiverStream::new(outgoing))
    }

    fn door(&self, zone: &str) -> Arc<Mutex<()>> {
        let mut doors = self.entering.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A door that nobody holds is made again when it is needed.
        doors.retain(|_, door| Arc::strong_count(door) > 1);
        doors.entry(zone.to_owned()).or_default().clone()
    }

    fn check_token(&self, token: &str) -> Result<ZoneClaims, Turned> {
        let claims: ZoneClaims = verify(&self.house, token).map_err(|error| {
            Turned("token", Status::unauthenticated(format!("the zone token is refused: {error}")))
        })?;
        if !claims.scope.iter().any(|scope| scope == SCOPE) {
            let reason = format!(
                "the zone token opens no link: its scope is {}, a link needs {SCOPE}",
                if claims.scope.is_empty() { "empty".to_owned() } else { claims.scope.join(", ") }
            );
            return Err(Turned("scope", Status::permission_denied(reason)));
        }
        Ok(claims)
    }

    fn check_hello(&self, claims: &ZoneClaims, hello: &Hello) -> Result<(), Turned> {
        if let Some(problem) = names::check_mesh("zone", &hello.zone) {
            return Err(Turned("hello", Status::invalid_argument(problem.to_string())));
        }
        if hello.instance.len().max(hello.version.len()).max(hello.cluster_id.len()) > WORD_MAX {
            let reason = format!("the hello has a field of more than {WORD_MAX} bytes");
            return Err(Turned("hello", Status::invalid_argument(reason)));
        }
        if claims.zone != hello.zone {
            let reason = format!("the token is for zone {:?}, not for {:?}", claims.zone, hello.zone);
            return Err(Turned("zone", Status::permission_denied(reason)));
        }
        if hello.node_id & LEARNER_BIT == 0 {
            let reason = format!("{} is not the id of a zone's replica", hello.node_id);
            return Err(Turned("replica", Status::permission_denied(reason)));
        }
        let cluster = self.house.consensus.cluster_id();
        if !hello.cluster_id.is_empty() && hello.cluster_id != cluster {
            let reason = format!(
                "the zone follows cluster {}, this is {cluster}: start it with an empty data directory to follow this one",
                hello.cluster_id
            );
            return Err(Turned("cluster", Status::failed_precondition(reason)));
        }
        let revision = self.house.consensus.catalog().borrow().revision();
        if hello.revision > revision.0 {
            let reason = format!(
                "the zone holds revision {}, global only {revision}: global was restored from an older state",
                hello.revision
            );
            return Err(Turned("future", Status::failed_precondition(reason)));
        }
        Ok(())
    }

    /// The Zone resource of a zone that connects for the first time.
    async fn make_zone(&self, zone: &str) -> Result<(), Turned> {
        let key = ResourceKey::new(kind::ZONE, "", zone);
        if self.house.consensus.catalog().borrow().get(&key).is_some() {
            return Ok(());
        }
        let made = Resource::new(kind::ZONE, "", zone, serde_json::json!({"enabled": true}));
        let command = Command::put(&made, Expected::Absent, shared_node::time::now());
        // A refusal says that somebody else has just made it.
        let stored = self.house.consensus.propose(command).await;
        let stored = stored.map_err(|error| Turned("consensus", Status::unavailable(error.to_string())))?;
        if let Some(revision) = stored.revision() {
            tracing::info!(zone, %revision, "the zone is new");
        }
        Ok(())
    }

    /// Asked with every beat: a token that is revoked or expires ends its link. What makes it hold is in the catalog and in
    /// the clock, so the signature is checked again only when a revision was made.
    fn token_check(&self, token: String) -> TokenCheck {
        let house = self.house.clone();
        let mut held: Option<(Revision, Timestamp)> = None;
        Box::new(move || {
            let (revision, now) = (house.consensus.catalog().borrow().revision(), shared_node::time::now());
            if held.is_some_and(|(checked, expires)| checked == revision && now < expires) {
                return Ok(());
            }
            let (_, expires) = token::verify_until::<ZoneClaims>(&token, &zone_keys(&house), now)
                .map_err(|error| error.to_string())?;
            held = Some((revision, expires));
            Ok(())
        })
    }
}

fn bearer(metadata: &MetadataMap) -> Result<String, Turned> {
    let missing =
        || Turned("token", Status::unauthenticated("a zone token is needed: authorization: Bearer <token>"));
    let text = metadata.get("authorization").and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
    let (_, token) = text
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .ok_or_else(missing)?;
    Ok(token.trim().to_owned())
}

fn verify<C: serde::de::DeserializeOwned>(house: &House, token: &str) -> Result<C, token::TokenError> {
    token::verify(token, &zone_keys(house), shared_node::time::now())
}

/// The keys that zone tokens are checked with.
fn zone_keys(house: &House) -> VerificationKeys {
    let catalog = house.consensus.catalog().borrow().clone();
    signing::verification_keys(
        &Purpose::Zone,
        |kind, mesh| catalog.list(kind.name, Some(mesh)).cloned().collect(),
        |key| catalog.get(key).cloned(),
    )
}
