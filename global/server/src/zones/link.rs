//! The door for zones: who gets a certificate, who may open a link, and under which name.
//!
//! ```text
//! Enrol:   authorization: Bearer <zone token>  -->  signature, expiry, revocation, scope `cp`   \   the store that the name
//!          or a certificate that still stands                                                   -->  is bound to; certificate
//! Follow:  certificate  -->  of this cluster, its token not revoked, its Zone not deleted, its store the one of the name
//!          Hello        -->  the same zone, an id of a replica, this cluster and none of its futures; learner, actor; Welcome
//! Issue:   certificate  -->  as above; the rest is between the API and the user whose token comes along
//! ```
use super::{
    Zones,
    actor::{OUTBOX, Opened, Standing, ZoneActor},
    binding::{self, Binding},
    credential::Credential,
    handle::ZoneHandle,
    tokens::Desk,
};
use actix::Actor as _;
use actix_rt::ArbiterHandle;
use futures::stream::BoxStream;
use global_consensus::Links;
use proto::link::{
    Enrolled, Enrolment, FromZone, Hello, MESSAGE_MAX, ToZone, TokenAnswer, TokenWanted, Welcome, from_zone,
    to_zone,
    zone_link_server::{ZoneLink, ZoneLinkServer},
};
use shared_api::signing;
use shared_catalog::{Catalog, Command, Epoch, Expected, Outcome};
use shared_identity::{
    ca::Authority,
    names::Purpose,
    token::{self, VerificationKeys, Verified, ZoneClaims},
};
use shared_model::{Resource, ResourceKey, Revision, Timestamp, kind, names};
use shared_node::{serve::ClientCertificate, time};
use shared_raft::LEARNER_BIT;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Extensions, Request, Response, Status, Streaming, metadata::MetadataMap};

pub use super::actor::House;

/// The scope of a zone token that opens a link.
const SCOPE: &str = "cp";
/// A zone that has not said hello by then is let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a zone may say of its process, in bytes.
const WORD_MAX: usize = 256;
/// A request for a certificate has less than one thousand.
const CSR_MAX: usize = 16 << 10;
/// Requests of Raft that wait for the stream. openraft has one or two on their way.
const RAFT_WAITING: usize = 8;
/// Links of one zone that are being opened at once: more than its replicas need.
const ENTERING_MAX: usize = 16;
/// Two replicas of a new zone may come at once.
const TRIES: usize = 3;

/// Who signs the certificates of zones, and for how long.
pub struct Issuer {
    pub authority: Authority,
    pub lifetime: Duration,
}

#[derive(Clone)]
pub struct LinkService(Arc<Inner>);

struct Inner {
    house: House,
    links: Links,
    zones: Arc<Zones>,
    arbiter: ArbiterHandle,
    instance: String,
    issuer: Issuer,
    desk: Desk,
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
        issuer: Issuer,
        api: axum::Router,
    ) -> Self {
        let (instance, desk, entering) = (instance.to_owned(), Desk::new(api), Default::default());
        LinkService(Arc::new(Inner { house, links, zones, arbiter, instance, issuer, desk, entering }))
    }

    /// The gRPC service as a router.
    pub fn into_router(self) -> axum::Router {
        let server = ZoneLinkServer::new(self)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        tonic::service::Routes::new(server).prepare().into_axum_router()
    }

    fn turn(&self, peer: &str, Turned(why, status): Turned) -> Status {
        tracing::warn!(peer, reason = status.message(), "a zone is refused");
        self.0.house.metrics.link_refused(why);
        status
    }
}

fn peer_of(extensions: &Extensions) -> String {
    let peer = extensions.get::<axum::extract::ConnectInfo<std::net::SocketAddr>>();
    peer.map_or_else(|| "unknown".to_owned(), |info| info.0.to_string())
}

#[tonic::async_trait]
impl ZoneLink for LinkService {
    type FollowStream = BoxStream<'static, Result<ToZone, Status>>;

    async fn enrol(&self, request: Request<Enrolment>) -> Result<Response<Enrolled>, Status> {
        let (metadata, extensions, enrolment) = request.into_parts();
        let enrolled = self.0.enrol(&metadata, &extensions, enrolment).await;
        enrolled.map(Response::new).map_err(|turned| self.turn(&peer_of(&extensions), turned))
    }

    async fn follow(
        &self,
        request: Request<Streaming<FromZone>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (_, extensions, inbound) = request.into_parts();
        match self.0.enter(&extensions, inbound).await {
            Ok(stream) => Ok(Response::new(Box::pin(stream))),
            Err(turned) => Err(self.turn(&peer_of(&extensions), turned)),
        }
    }

    async fn issue(&self, request: Request<TokenWanted>) -> Result<Response<TokenAnswer>, Status> {
        let (metadata, extensions, wanted) = request.into_parts();
        let issued = self.0.issue(&metadata, &extensions, wanted).await;
        issued.map(Response::new).map_err(|turned| self.turn(&peer_of(&extensions), turned))
    }
}

impl Inner {
    /// Gives a zone its certificate: for its token, or for the certificate that it has.
    async fn enrol(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
        enrolment: Enrolment,
    ) -> Result<Enrolled, Turned> {
        let Enrolment { zone, zone_id, csr, cluster_id, version } = enrolment;
        check_zone(&zone)?;
        if [&cluster_id, &version].iter().any(|word| word.len() > WORD_MAX) || csr.len() > CSR_MAX {
            return Err(Turned(
                "enrolment",
                Status::invalid_argument("a field of the enrolment is too long"),
            ));
        }
        let (by, of_zone, kid, jti) = match self.shown(extensions) {
            Some((credential, _)) if !metadata.contains_key("authorization") => {
                self.check_standing(&credential)?;
                if credential.zone_id != zone_id {
                    let reason =
                        format!("the certificate is of zone id {}, not of {zone_id}", credential.zone_id);
                    return Err(Turned("zone", Status::permission_denied(reason)));
                }
                ("certificate", credential.zone, credential.kid, credential.jti)
            }
            _ => {
                let Verified { claims, kid, jti, .. } = self.check_token(&bearer(metadata)?)?;
                ("token", claims.zone, kid, jti)
            }
        };
        if of_zone != zone {
            let reason = format!("the {by} is for zone {of_zone:?}, not for {zone:?}");
            return Err(Turned("zone", Status::permission_denied(reason)));
        }
        self.check_cluster(&cluster_id)?;
        self.bind(&zone, &zone_id, by == "certificate" || !cluster_id.is_empty()).await?;
        let (cluster_id, Issuer { authority, lifetime }) = (self.house.consensus.cluster_id(), &self.issuer);
        let credential = Credential { zone, zone_id, kid, jti };
        let chain = credential.issue(authority, &cluster_id, &csr, time::now(), *lifetime);
        let chain_pem =
            chain.map_err(|error| Turned("enrolment", Status::invalid_argument(error.to_string())))?;
        let Credential { zone, zone_id, .. } = credential;
        tracing::info!(zone, zone_id, by, version, "a zone has a new certificate");
        let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        Ok(Enrolled { cluster_id, chain_pem, lifetime_ms })
    }

    async fn enter(
        &self,
        extensions: &Extensions,
        mut inbound: Streaming<FromZone>,
    ) -> Result<ReceiverStream<Result<ToZone, Status>>, Turned> {
        let (credential, ends) = self.certified(extensions)?;
        let door = self.door(&credential.zone)?;
        self.check_token_of(&credential)?;
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
        self.check_names(&credential, &hello)?;
        // A zone may be ahead of a node that follows the leader more slowly. And a zone that is new holds back until it
        // has what global had at its welcome: that must not be an old state.
        let is_new = hello.cluster_id.is_empty();
        if is_new
            || hello.revision > self.catalog().revision().0
            || epoch_of(&hello) != self.catalog().epoch()
        {
            self.catch_up().await?;
        }
        self.check_history(&hello)?;
        self.bind(&credential.zone, &credential.zone_id, true).await?;
        let _one = door.lock().await;
        let newer = format!("instance {} of the zone has dialled", hello.instance);
        if self.zones.replace(&hello.zone, hello.node_id, &newer).await {
            tracing::warn!(
                zone = hello.zone,
                replica = hello.node_id,
                "a newer link replaces that of a replica"
            );
        }
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let (raft_outbox, raft) = mpsc::channel(RAFT_WAITING);
        let attached = self.links.attach(hello.node_id, &hello.zone, raft_outbox).await;
        let attached = attached.map_err(|error| match error {
            global_consensus::Error::NotALearner { .. } | global_consensus::Error::OtherZone { .. } => {
                Turned("replica", Status::permission_denied(error.to_string()))
            }
            global_consensus::Error::TooManyReplicas { .. } => {
                Turned("replica", Status::resource_exhausted(error.to_string()))
            }
            error => Turned("consensus", Status::unavailable(error.to_string())),
        })?;
        let told = self.zones.inventory().resumes(&hello.zone, hello.node_id);
        let (inventory_instance, inventory_sequence) = told.unwrap_or_default();
        let catalog = self.catalog();
        let seen = epoch_of(&hello);
        let welcome = Welcome {
            epoch: catalog.epoch().to_string(),
            shared_until: catalog.shared_until(seen).map(|revision| revision.0),
            accepted: catalog.has_accepted(&hello.zone),
            cluster_id: self.house.consensus.cluster_id(),
            instance: self.instance.clone(),
            version: shared_node::VERSION.to_owned(),
            revision: catalog.revision().0,
            node_id: self.house.consensus.node_id(),
            inventory_instance,
            inventory_sequence,
        };
        let welcome = ToZone { kind: Some(to_zone::Kind::Welcome(welcome)) };
        outbox
            .try_send(Ok(welcome))
            .map_err(|_| Turned("stream", Status::unavailable("the stream ended")))?;
        let connection = self.zones.connect(&hello);
        let link = connection.id();
        let standing = self.standing(credential, ends);
        let opened = Opened { connection, inbound, outbox, raft, attached, standing };
        let house = self.house.clone();
        let create = move |ctx: &mut actix::Context<ZoneActor>| ZoneActor::create(house, opened, ctx);
        let address = ZoneActor::start_in_arbiter(&self.arbiter, create);
        self.zones.reachable((&hello.zone, hello.node_id, link), ZoneHandle(address));
        let Hello { zone, instance, node_id, version, revision, .. } = hello;
        tracing::info!(zone, instance, node_id, version, revision, link, "a zone is connected");
        Ok(ReceiverStream::new(outgoing))
    }

    /// Lets a user of a zone ask for a token.
    async fn issue(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
        wanted: TokenWanted,
    ) -> Result<TokenAnswer, Turned> {
        let (credential, _) = self.certified(extensions)?;
        if self.check_standing(&credential).is_err() {
            // This node may only not know yet.
            self.catch_up().await?;
            self.check_standing(&credential)?;
        }
        self.desk.answer(&credential.zone, metadata, wanted).await.map_err(|status| Turned("tokens", status))
    }

    fn door(&self, zone: &str) -> Result<Arc<Mutex<()>>, Turned> {
        let mut doors = self.entering.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A door that nobody holds is made again when it is needed.
        doors.retain(|_, door| Arc::strong_count(door) > 1);
        let door = doors.entry(zone.to_owned()).or_default();
        if Arc::strong_count(door) > ENTERING_MAX {
            let reason = format!("{ENTERING_MAX} links of zone {zone:?} are being opened already");
            return Err(Turned("flood", Status::resource_exhausted(reason)));
        }
        Ok(door.clone())
    }

    fn catalog(&self) -> Arc<Catalog> {
        self.house.consensus.catalog().borrow().clone()
    }

    async fn catch_up(&self) -> Result<(), Turned> {
        let caught_up = self.house.consensus.catch_up().await;
        caught_up.map_err(|error| Turned("consensus", Status::unavailable(error.to_string())))
    }

    /// What a caller has proven to be in the handshake, and until when.
    fn shown(&self, extensions: &Extensions) -> Option<(Credential, Timestamp)> {
        let ClientCertificate(der) = extensions.get()?;
        let shown = Credential::of(&self.house.consensus.cluster_id(), der);
        // The handshake counts whole seconds, and a connection outlives it.
        shown.filter(|(_, ends)| time::now() < *ends)
    }

    fn certified(&self, extensions: &Extensions) -> Result<(Credential, Timestamp), Turned> {
        self.shown(extensions).ok_or_else(|| {
            let reason = "a certificate of a zone is needed: a zone token is traded for one by Enrol";
            Turned("certificate", Status::unauthenticated(reason))
        })
    }

    fn check_token(&self, token: &str) -> Result<Verified<ZoneClaims>, Turned> {
        let verified: Verified<ZoneClaims> =
            token::verify_whole(token, &zone_keys(&self.catalog()), time::now()).map_err(|error| {
                Turned("token", Status::unauthenticated(format!("the zone token is refused: {error}")))
            })?;
        let scope = &verified.claims.scope;
        if !scope.iter().any(|scope| scope == SCOPE) {
            let reason = format!(
                "the zone token opens no link: its scope is {}, a link needs {SCOPE}",
                if scope.is_empty() { "empty".to_owned() } else { scope.join(", ") }
            );
            return Err(Turned("scope", Status::permission_denied(reason)));
        }
        Ok(verified)
    }

    /// The token behind a certificate may have been revoked since.
    fn check_token_of(&self, credential: &Credential) -> Result<(), Turned> {
        let Credential { kid, jti, .. } = credential;
        zone_keys(&self.catalog()).stands(kid, jti).map_err(|error| {
            let reason = format!("the certificate is refused, because of the zone token behind it: {error}");
            Turned("certificate", Status::unauthenticated(reason))
        })
    }

    fn check_standing(&self, credential: &Credential) -> Result<(), Turned> {
        self.check_token_of(credential)?;
        stands(&self.catalog(), credential)
            .map_err(|reason| Turned("zone", Status::failed_precondition(reason)))
    }

    fn check_names(&self, credential: &Credential, hello: &Hello) -> Result<(), Turned> {
        check_zone(&hello.zone)?;
        if [&hello.instance, &hello.version, &hello.cluster_id, &hello.epoch]
            .iter()
            .any(|word| word.len() > WORD_MAX)
        {
            let reason = format!("the hello has a field of more than {WORD_MAX} bytes");
            return Err(Turned("hello", Status::invalid_argument(reason)));
        }
        let (shown, said) = ((&credential.zone, &credential.zone_id), (&hello.zone, &hello.zone_id));
        if shown != said {
            let reason = format!(
                "the certificate is for zone {:?} ({}), not for {:?} ({})",
                shown.0, shown.1, said.0, said.1
            );
            return Err(Turned("zone", Status::permission_denied(reason)));
        }
        if hello.node_id & LEARNER_BIT == 0 {
            let reason = format!("{} is not the id of a zone's replica", hello.node_id);
            return Err(Turned("replica", Status::permission_denied(reason)));
        }
        self.check_cluster(&hello.cluster_id)
    }

    fn check_cluster(&self, cluster_id: &str) -> Result<(), Turned> {
        let cluster = self.house.consensus.cluster_id();
        if !cluster_id.is_empty() && cluster_id != cluster {
            let reason = format!(
                "the zone follows cluster {cluster_id}, this is {cluster}: start it with an empty data directory to follow this one"
            );
            return Err(Turned("cluster", Status::failed_precondition(reason)));
        }
        Ok(())
    }

    /// A zone that has seen what is not part of this history does not follow it, unless an operator has said so.
    fn check_history(&self, hello: &Hello) -> Result<(), Turned> {
        let catalog = self.catalog();
        let seen = Revision(hello.seen.max(hello.revision));
        if let Err(divergence) = catalog.continues(epoch_of(hello), seen)
            && !catalog.has_accepted(&hello.zone)
        {
            let reason = format!(
                "zone {zone} does not follow by itself: {divergence}. To give it the restored state, run `weftctl zone accept-restore {zone}`",
                zone = hello.zone
            );
            self.house.diverged.tell(&hello.zone, &reason);
            return Err(Turned("epoch", Status::failed_precondition(reason)));
        }
        self.house.diverged.clear(&hello.zone);
        let revision = catalog.revision();
        if hello.revision > revision.0 {
            let reason = format!(
                "the zone holds revision {}, global only {revision}: global was restored from an older state",
                hello.revision
            );
            return Err(Turned("future", Status::failed_precondition(reason)));
        }
        Ok(())
    }

    /// Whether the store of a zone is the one of its name. Makes the Zone of one that comes for the first time.
    async fn bind(&self, zone: &str, zone_id: &str, has_followed: bool) -> Result<(), Turned> {
        let key = ResourceKey::new(kind::ZONE, "", zone);
        let judge = |stored: Option<&Arc<Resource>>| {
            binding::judge(zone, stored.map(|stored| &**stored), zone_id, has_followed)
        };
        if judge(self.catalog().get(&key)) == Ok(Binding::Bound) {
            return Ok(());
        }
        // This node may only not know yet.
        self.catch_up().await?;
        for _ in 0..TRIES {
            let stored = self.catalog().get(&key).cloned();
            let bound = match judge(stored.as_ref()) {
                Ok(Binding::Bound) => return Ok(()),
                Ok(Binding::New(bound)) => bound,
                Err(reason) => return Err(Turned("zone", Status::failed_precondition(reason))),
            };
            let expected = stored.map_or(Expected::Absent, |stored| Expected::At(stored.revision.0));
            let proposed = self.house.consensus.propose(Command::put(&bound, expected, time::now())).await;
            match proposed.map_err(|error| Turned("consensus", Status::unavailable(error.to_string())))? {
                // Somebody else was faster.
                Outcome::Refused(_) => {}
                outcome => {
                    let revision = outcome.revision().unwrap_or_default();
                    tracing::info!(zone, zone_id, %revision, "the zone's name is bound to its store");
                    return Ok(());
                }
            }
        }
        Err(Turned("consensus", Status::unavailable(format!("the Zone {zone} changes too fast"))))
    }

    /// Asked with every beat: a zone that is deleted, rebound or has its token revoked loses its links, and a certificate
    /// ends the link that it opened. The catalog is asked only when a revision was made.
    fn standing(&self, credential: Credential, ends: Timestamp) -> Standing {
        let house = self.house.clone();
        let mut held: Option<Revision> = None;
        Box::new(move || {
            if time::now() >= ends {
                return Err("its certificate has ended".to_owned());
            }
            let catalog = house.consensus.catalog().borrow().clone();
            if held != Some(catalog.revision()) {
                let token = zone_keys(&catalog).stands(&credential.kid, &credential.jti);
                token.map_err(|error| format!("the zone token holds no more: {error}"))?;
                stands(&catalog, &credential)?;
                held = Some(catalog.revision());
            }
            Ok(())
        })
    }
}

/// Whether a zone is still the one that its certificate says.
fn stands(catalog: &Catalog, credential: &Credential) -> Result<(), String> {
    let Credential { zone, zone_id, .. } = credential;
    let stored = catalog.get(&ResourceKey::new(kind::ZONE, "", zone));
    match binding::judge(zone, stored.map(|stored| &**stored), zone_id, true)? {
        Binding::Bound => Ok(()),
        Binding::New(_) => Err(format!("the Zone {zone} was made anew")),
    }
}

fn check_zone(zone: &str) -> Result<(), Turned> {
    match names::check_mesh("zone", zone) {
        Some(problem) => Err(Turned("hello", Status::invalid_argument(problem.to_string()))),
        None => Ok(()),
    }
}

/// A zone that does not tell is of a version that knew but one.
fn epoch_of(hello: &Hello) -> Epoch {
    hello.epoch.parse().unwrap_or_default()
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

/// The keys that zone tokens are checked with.
fn zone_keys(catalog: &Catalog) -> VerificationKeys {
    signing::verification_keys(
        &Purpose::Zone,
        |kind, mesh| catalog.list(kind.name, Some(mesh)).cloned().collect(),
        |key| catalog.get(key).cloned(),
    )
}
