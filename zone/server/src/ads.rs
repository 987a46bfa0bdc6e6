//! The aggregated discovery service: reads who is there, lets him in or not, and hands the stream to an actor.
//!
//! Responses are copied from chunks that were encoded once, and nothing is kept of a message that went by (see [`wire`]), so
//! the service is mounted by hand instead of being generated. The bootstrap says delta; state-of-the-world ADS is for whoever
//! speaks nothing else (see [`whole`]).
mod resumption;
mod whole;
mod wire;

use crate::catalogs::Catalogs;
use crate::metrics::ByReason;
use crate::proxies::admission::{self, Credential, Introduction, Tokens};
use crate::proxies::turns::Worker;
use crate::proxies::{OUTBOX, Parts, Proxies, Shared};
use crate::world::World;
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::routing::post;
pub use resumption::resumable;
use shared_catalog::{Expected, Outcome};
use shared_model::{Resource, Revision};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::Status;
use tonic::metadata::MetadataMap;
use wire::{Hearing, Responses, Telling};
pub use wire::{Outgoing, Requests};
use zone_index::ProxyId;
use zone_store::ZoneStore;

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const STREAM: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// A stream that says nothing for so long is let go.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// How long the index may take to read a Dataplane that was just stored.
const INDEXED: Duration = Duration::from_secs(10);

/// How many proxies may start at a time: each takes all that it needs in one go, and what is on its way to it is memory.
pub const STARTS: usize = 64;

/// What a stream needs to be let in.
pub struct Ads {
    pub zone: String,
    pub catalogs: Catalogs,
    pub tokens: Arc<Tokens>,
    pub store: Arc<dyn ZoneStore>,
    pub proxies: Arc<Proxies>,
    pub shared: Arc<Shared>,
    pub workers: Vec<Worker>,
    pub next_worker: AtomicUsize,
    /// Turns to start.
    pub starts: Arc<Semaphore>,
    /// True once the zone's state is loaded. An answer before that would take everything from a proxy.
    pub loaded: watch::Receiver<bool>,
}

/// The two forms of the protocol.
#[derive(Clone, Copy, Debug)]
enum Protocol {
    Delta,
    Whole,
}

/// The gRPC routes.
pub fn router(ads: Arc<Ads>) -> Router {
    let serve = |protocol| {
        post(async move |State(ads): State<Arc<Ads>>, request: Request| {
            match ads.open(request, protocol).await {
                Ok(responses) => responses.into_http(),
                Err(status) => status.into_http(),
            }
        })
    };
    Router::new().route(DELTA, serve(Protocol::Delta)).route(STREAM, serve(Protocol::Whole)).with_state(ads)
}

impl Protocol {
    /// The two ends of a stream whose responses go through `outbox`.
    fn ends(self, outbox: &mpsc::Sender<Outgoing>) -> (Hearing, Telling) {
        match self {
            Protocol::Delta => (Hearing::Delta, Telling::Delta),
            Protocol::Whole => {
                let (hearing, telling) = whole::ends(outbox.clone());
                (Hearing::Whole(hearing), Telling::Whole(telling))
            }
        }
    }
}

/// Why a stream is not let in; the reason is told to the peer, logged and counted.
struct Turned {
    why: &'static str,
    status: Status,
}

impl Turned {
    fn away(why: &'static str, status: Status) -> Turned {
        Turned { why, status }
    }
}

impl Ads {
    async fn open(&self, request: Request, protocol: Protocol) -> Result<Responses, Status> {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        let mut name = String::new();
        self.admit(request, protocol, &mut name).await.map_err(|turned| {
            self.shared.metrics.streams_refused.get_or_create(&ByReason { reason: turned.why }).inc();
            let peer = peer.map(|peer| peer.to_string());
            tracing::warn!(
                node = name,
                peer,
                reason = turned.status.message(),
                "a proxy's stream is refused"
            );
            turned.status
        })
    }

    async fn admit(
        &self,
        request: Request,
        protocol: Protocol,
        name: &mut String,
    ) -> Result<Responses, Turned> {
        if !*self.loaded.borrow() {
            let reason = format!("zone {} has not loaded its state yet, try again later", self.zone);
            return Err(Turned::away("not_loaded", Status::unavailable(reason)));
        }
        let (head, body) = request.into_parts();
        let token = credential(&MetadataMap::from_headers(head.headers));
        let token = token.map_err(|status| Turned::away("token", status))?;
        let (outbox, responses) = mpsc::channel(OUTBOX);
        let (hearing, telling) = protocol.ends(&outbox);
        let mut requests = Requests::new(body, hearing);
        let silent = || Turned::away("silent", Status::deadline_exceeded("nothing was said on the stream"));
        let first = tokio::time::timeout(FIRST_WORD, requests.message()).await.map_err(|_| silent())?;
        let mut first = first.map_err(|status| Turned::away("broken", status))?.ok_or_else(silent)?;
        *name = first.node.as_ref().map(|node| node.id.clone()).unwrap_or_default();
        let told = admission::introduce(first.node.as_ref(), &self.zone);
        let told = told.map_err(|reason| Turned::away("node", Status::invalid_argument(reason)))?;
        let Introduction { id, resource, metadata } = told;
        // It weighs most of the message, and others start meanwhile.
        first.node = None;
        if !self.catalogs.has_mesh(&id.mesh) {
            return Err(Turned::away(
                "mesh",
                Status::not_found(format!("mesh {:?} does not exist", id.mesh)),
            ));
        }
        let stored = self.catalogs.owned().get(&id.key()).cloned();
        let described: Vec<&Resource> = resource.iter().chain(stored.as_deref()).collect();
        if described.is_empty() {
            let reason = format!(
                "resource \"{id}\" not found; create a Dataplane in the zone first or pass it as an argument to the agent"
            );
            return Err(Turned::away("dataplane", Status::not_found(reason)));
        }
        let credential = Credential::check(&token, &id, &described, &self.tokens)
            .map_err(|reason| Turned::away("token", Status::unauthenticated(reason)))?;
        tokio::time::sleep(self.proxies.wait_of(&id)).await;
        let _arrival = self.proxies.arrive(&id).await;
        if let Some(resource) = resource {
            self.register(&id, resource).await.map_err(|status| Turned::away("dataplane", status))?;
        }
        // Nobody closes it.
        let turn = self.starts.clone().acquire_owned().await.ok();
        let stream = uuid::Uuid::new_v4().to_string();
        let shared = self.shared.clone();
        let parts = Parts { id, stream, metadata, first, requests, outbox, credential, turn, shared };
        let worker = self.next_worker.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        self.proxies.connect(&self.workers[worker], parts);
        Ok(Responses::new(responses, telling))
    }

    /// Stores the Dataplane that the proxy brings, unless it is there as it is, and waits until the index has read it.
    /// The proxy has arrived: nobody removes it meanwhile.
    async fn register(&self, id: &ProxyId, resource: Resource) -> Result<(), Status> {
        let stored = self.catalogs.owned().get(&id.key()).cloned();
        let outcome = match stored.filter(|stored| stored.same_content(&resource)) {
            Some(stored) => Ok(Outcome::Unchanged { revision: stored.revision }),
            None => self.store.put(resource, Expected::Any).await,
        };
        let revision = match outcome {
            Ok(Outcome::Refused(refusal)) => {
                return Err(Status::failed_precondition(format!("{id}: {refusal}")));
            }
            Ok(outcome) => outcome.revision().unwrap_or(Revision(0)),
            Err(error) => {
                return Err(Status::unavailable(format!("cannot store the Dataplane {id}: {error}")));
            }
        };
        let mut world: watch::Receiver<World> = self.shared.world.clone();
        let indexed = tokio::time::timeout(INDEXED, world.wait_for(|world| world.owned >= revision)).await;
        match indexed {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Status::unavailable(format!(
                "the zone has not read the Dataplane {id} yet, try again later"
            ))),
        }
    }
}

/// The token as proxies send it: one value, the bare JWT.
fn credential(metadata: &MetadataMap) -> Result<String, Status> {
    let mut values = metadata.get_all("authorization").iter();
    let refused = |reason: &str| Status::unauthenticated(format!("the dataplane token is refused: {reason}"));
    match (values.next(), values.next()) {
        (None, _) => Err(refused("it is missing")),
        (Some(_), Some(_)) => Err(refused("there is more than one")),
        (Some(value), None) => value.to_str().map(str::to_owned).map_err(|_| refused("it is not text")),
    }
}
