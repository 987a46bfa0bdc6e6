//! As much of a global as a zone sees: the link over TLS, and a leader that replicates what the test tells it.
use openraft::{CommittedLeaderId, EntryPayload, LogId, Vote};
use proto::link::from_zone::Kind as Up;
use proto::link::to_zone::Kind as Down;
use proto::link::zone_link_server::{ZoneLink, ZoneLinkServer};
use proto::link::{
    Beat, Enrolled, Enrolment, FromZone, RaftCall, RaftRequest, Submitted, ToZone, TokenAnswer, TokenWanted,
    Welcome,
};
use shared_catalog::{Catalog, Command, Expected};
use shared_identity::ca::{self, Authority};
use shared_model::{Resource, ResourceKey};
use shared_node::serve::ClientCertificate;
use shared_node::tls::{self, ServingCert};
use shared_raft::{Batch, Entry, wire};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

const LEADER: u64 = 1;

/// What zones have said, and what the leader has.
#[derive(Default)]
struct State {
    heard: Vec<Up>,
    links: usize,
    authorization: String,
    /// What enrolments said, in order; `authorization` is of the last one that had any.
    enrolments: Vec<Enrolment>,
    /// Enrolments by certificate.
    renewals: usize,
    lifetime: Duration,
    /// Says no to every enrolment.
    refusal: Option<Status>,
    cluster_id: String,
    promised: u64,
    catalog: Catalog,
    log: Vec<Entry>,
    outbox: Option<mpsc::Sender<ToZone>>,
}

/// A global that serves one zone.
pub struct Global {
    pub address: SocketAddr,
    dir: TempDir,
    state: Arc<Mutex<State>>,
    shutdown: CancellationToken,
}

impl Global {
    /// `promised` is the revision that it claims to have when a zone comes.
    pub async fn start(cluster_id: &str, promised: u64) -> Global {
        Global::start_at("127.0.0.1:0".parse().unwrap(), tempfile::tempdir().unwrap(), cluster_id, promised)
            .await
    }

    async fn start_at(address: SocketAddr, dir: TempDir, cluster_id: &str, promised: u64) -> Global {
        let cert = ServingCert::load_or_make(dir.path(), &[]).unwrap();
        std::fs::write(dir.path().join("token"), "the-zone-token\n").unwrap();
        let listener = shared_node::serve::bind(address, "the link").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            cluster_id: cluster_id.to_owned(),
            promised,
            lifetime: Duration::from_secs(3600),
            ..State::default()
        };
        let state = Arc::new(Mutex::new(state));
        let key = std::fs::read_to_string(dir.path().join("ca.key")).unwrap();
        let authority = Arc::new(Authority::from_pem(&cert.ca_pem, &key).unwrap());
        let service = ZoneLinkServer::new(Service(state.clone(), authority));
        let router = tonic::service::Routes::new(service).into_axum_router();
        let shutdown = CancellationToken::new();
        tokio::spawn(shared_node::serve::https(
            listener,
            tls::mutual_server_config(&cert.ca_pem, cert.shown().unwrap()).unwrap(),
            router,
            shutdown.clone(),
        ));
        Global { address, dir, state, shutdown }
    }

    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn stop(&self) {
        self.shutdown.cancel();
        self.with(|state| state.outbox = None);
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    pub fn authorization(&self) -> String {
        self.with(|state| state.authorization.clone())
    }

    /// Certificates are good for so long from now on.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.with(|state| state.lifetime = lifetime);
    }

    pub fn refuse(&self, refusal: Option<Status>) {
        self.with(|state| state.refusal = refusal);
    }

    pub fn enrolments(&self) -> Vec<Enrolment> {
        self.with(|state| state.enrolments.clone())
    }

    pub fn renewals(&self) -> usize {
        self.with(|state| state.renewals)
    }

    pub fn links(&self) -> usize {
        self.with(|state| state.links)
    }

    /// The first thing that zones said for which `find` answers.
    pub fn heard<T>(&self, find: impl Fn(&Up) -> Option<T>) -> Option<T> {
        self.with(|state| state.heard.iter().find_map(&find))
    }

    /// Replicates one write to the zone and gives its revision.
    pub async fn write(&self, resource: &Resource) -> u64 {
        self.propose(Command::put(resource, Expected::Any, shared_node::time::now())).await
    }

    pub async fn delete(&self, key: ResourceKey) -> u64 {
        self.propose(Command::delete(key, Expected::Any, shared_node::time::now())).await
    }

    async fn propose(&self, command: Command) -> u64 {
        let (request, outbox, revision) = self.with(|state| {
            state.catalog.apply(&command);
            let log_id = |index| LogId::new(CommittedLeaderId::new(1, LEADER), index);
            let index = state.log.len() as u64;
            let entry = Entry { log_id: log_id(index), payload: EntryPayload::Normal(Batch(vec![command])) };
            state.log.push(entry.clone());
            let request = wire::AppendEntriesRequest {
                vote: Vote::new_committed(1, LEADER),
                prev_log_id: index.checked_sub(1).map(log_id),
                entries: vec![entry],
                leader_commit: Some(log_id(index)),
            };
            let body = wire::encode(&request).into();
            let request = RaftRequest { id: index, call: RaftCall::Append as i32, body };
            (request, state.outbox.clone().expect("a zone is linked"), state.catalog.revision().0)
        });
        outbox.send(ToZone { kind: Some(Down::Raft(request)) }).await.unwrap();
        revision
    }
}

struct Service(Arc<Mutex<State>>, Arc<Authority>);

#[tonic::async_trait]
impl ZoneLink for Service {
    type FollowStream = ReceiverStream<Result<ToZone, Status>>;

    async fn enrol(&self, request: Request<Enrolment>) -> Result<Response<Enrolled>, Status> {
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let authorization = authorization.map(str::to_owned);
        let has_certificate = request.extensions().get::<ClientCertificate>().is_some();
        let enrolment = request.into_inner();
        let mut state = self.0.lock().unwrap();
        state.enrolments.push(enrolment.clone());
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        match authorization {
            Some(authorization) => state.authorization = authorization,
            None if has_certificate => state.renewals += 1,
            None => return Err(Status::unauthenticated("neither token nor certificate")),
        }
        let uri = format!("weft://{}/zone/{}", state.cluster_id, enrolment.zone);
        let now = shared_node::time::now();
        let chain_pem = self.1.issue_requested_client(&enrolment.csr, "zone", &[uri], now, state.lifetime);
        Ok(Response::new(Enrolled {
            cluster_id: state.cluster_id.clone(),
            chain_pem: chain_pem.unwrap(),
            lifetime_ms: state.lifetime.as_millis() as u64,
        }))
    }

    async fn issue(&self, _: Request<TokenWanted>) -> Result<Response<TokenAnswer>, Status> {
        Err(Status::unimplemented("this stand-in signs nothing"))
    }

    async fn follow(
        &self,
        request: Request<Streaming<FromZone>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let shown = request.extensions().get::<ClientCertificate>();
        let shown = shown.ok_or_else(|| Status::unauthenticated("a certificate is needed"))?;
        let uris = ca::uris(&shown.0).unwrap();
        let cluster_id = self.0.lock().unwrap().cluster_id.clone();
        if !uris.iter().all(|uri| uri.starts_with(&format!("weft://{cluster_id}/zone/"))) {
            return Err(Status::unauthenticated(format!("a certificate of another cluster: {uris:?}")));
        }
        let mut inbound = request.into_inner();
        let (outbox, mut outgoing) = mpsc::channel::<ToZone>(64);
        let (answers, responses) = mpsc::channel(64);
        let welcome = {
            let mut state = self.0.lock().unwrap();
            state.links += 1;
            state.outbox = Some(outbox);
            Welcome {
                cluster_id: state.cluster_id.clone(),
                instance: "global-1".into(),
                version: "test".into(),
                revision: state.promised,
                node_id: 1,
                ..Welcome::default()
            }
        };
        let state = self.0.clone();
        tokio::spawn(async move {
            let say = async |kind: Down| answers.send(Ok(ToZone { kind: Some(kind) })).await.is_ok();
            let mut beats = tokio::time::interval(Duration::from_millis(500));
            let mut open = say(Down::Welcome(welcome)).await;
            while open {
                open = tokio::select! {
                    message = inbound.message() => match message {
                        Ok(Some(FromZone { kind: Some(kind) })) => {
                            let submitted = match &kind {
                                Up::Submit(submit) => Some(Submitted { id: submit.id, revision: 1, error: String::new() }),
                                _ => None,
                            };
                            state.lock().unwrap().heard.push(kind);
                            match submitted {
                                Some(answer) => say(Down::Submitted(answer)).await,
                                None => true,
                            }
                        }
                        _ => false,
                    },
                    message = outgoing.recv() => match message.and_then(|message| message.kind) {
                        Some(kind) => say(kind).await,
                        None => false,
                    },
                    _ = beats.tick() => say(Down::Beat(Beat { revision: 0 })).await,
                };
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}
