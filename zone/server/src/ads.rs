//! The aggregated discovery service: reads who is there, lets him in or not, and hands the stream to an actor.
//!
//! Responses are copied from chunks that were encoded once, and nothing is kept of a message that went by (see [`wire`]), so
//! the service is mounted by hand instead of being generated. State-of-the-world ADS is not served: the bootstrap says delta.
mod wire;

use crate::catalogs::Catalogs;
use crate::metrics::ByReason;
use crate::proxies::admission::{self, Credential, Introduction};
use crate::proxies::{OUTBOX, Shared};
use crate::proxies::{Parts, Proxies};
use crate::world::World;
use actix::ArbiterHandle;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use axum::routing::post;
use shared_catalog::{Expected, Outcome};
use shared_model::{Resource, Revision};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::Status;
use tonic::metadata::MetadataMap;
pub use wire::Requests;
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
    pub store: Arc<dyn ZoneStore>,
    pub proxies: Arc<Proxies>,
    pub shared: Arc<Shared>,
    pub arbiters: Vec<ArbiterHandle>,
    pub next_arbiter: AtomicUsize,
    /// Turns to start.
    pub starts: Arc<Semaphore>,
    /// True once the zone's state is loaded. An answer before that would take everything from a proxy.
    pub loaded: watch::Receiver<bool>,
}

/// The gRPC routes.
pub fn router(ads: Arc<Ads>) -> Router {
    Router::new().route(DELTA, post(delta)).route(STREAM, post(state_of_the_world)).with_state(ads)
}

async fn state_of_the_world() -> Response {
    Status::unimplemented("state-of-the-world ADS is not served: use the bootstrap of this control plane, which says DELTA_GRPC")
        .into_http::<tonic::body::Body>()
        .map(Body::new)
}

async fn delta(State(ads): State<Arc<Ads>>, request: Request) -> Response {
    match ads.open(request).await {
        Ok(responses) => wire::answer(responses),
        Err(status) => status.into_http(),
    }
}

/// What a proxy is sent, and why the stream ended.
type Outgoing = mpsc::Receiver<Result<zone_xds::Response, Status>>;

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
    async fn open(&self, request: Request) -> Result<Outgoing, Status> {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        let mut name = String::new();
        self.admit(request, &mut name).await.map_err(|turned| {
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

    async fn admit(&self, request: Request, name: &mut String) -> Result<Outgoing, Turned> {
        if !*self.loaded.borrow() {
            let reason = format!("zone {} has not loaded its state yet, try again later", self.zone);
            return Err(Turned::away("not_loaded", Status::unavailable(reason)));
        }
        let (head, body) = request.into_parts();
        let token = credential(&MetadataMap::from_headers(head.headers));
        let token = token.map_err(|status| Turned::away("token", status))?;
        let mut requests = Requests::new(body);
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
        let credential = Credential::check(&token, &id, &described, &self.catalogs)
            .map_err(|reason| Turned::away("token", Status::unauthenticated(reason)))?;
        tokio::time::sleep(self.proxies.wait_of(&id)).await;
        let _arrival = self.proxies.arrive(&id).await;
        if let Some(resource) = resource {
            self.register(&id, resource).await.map_err(|status| Turned::away("dataplane", status))?;
        }
        // Nobody closes it.
        let turn = self.starts.clone().acquire_owned().await.ok();
        let (outbox, responses) = mpsc::channel(OUTBOX);
        let stream = uuid::Uuid::new_v4().to_string();
        let shared = self.shared.clone();
        let parts = Parts { id, stream, metadata, first, requests, outbox, credential, turn, shared };
        let arbiter = self.next_arbiter.fetch_add(1, Ordering::Relaxed) % self.arbiters.len();
        self.proxies.connect(&self.arbiters[arbiter], parts);
        Ok(responses)
    }

    /// Stores the Dataplane that the proxy brings, and waits until the index has read it.
    async fn register(&self, id: &ProxyId, resource: Resource) -> Result<(), Status> {
        let outcome = self.store.put(resource, Expected::Any).await;
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
