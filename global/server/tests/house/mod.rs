//! A control plane on ephemeral ports, and a zone made by hand.
// Each test program uses its own part.
#![allow(dead_code)]
use global_server::{
    app::{Addresses, App},
    config::Config,
};
use proto::link::{
    Beat, Enrolment, FromZone, Hello, RaftCall, RaftReply, ToZone, from_zone::Kind as Up,
    to_zone::Kind as Down, zone_link_client::ZoneLinkClient,
};
use serde_json::{Value, json};
use shared_identity::token::{self, SigningKey, ZoneClaims};
use shared_model::Timestamp;
use shared_raft::{Learner, Storage};
use std::{
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// Whatever is waited for comes far sooner on a machine that does anything at all.
pub const DEADLINE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

pub struct House {
    pub dir: PathBuf,
    pub addresses: Addresses,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    http: reqwest::Client,
    /// Signs zone tokens of the test's own making; global knows its public half once `trust` was called.
    pub key: SigningKey,
}

impl House {
    pub async fn start(dir: &Path) -> House {
        House::start_with(dir, |_| {}).await
    }

    /// With a changed configuration.
    pub async fn start_with(dir: &Path, change: impl FnOnce(&mut Config)) -> House {
        shared_node::tls::install_crypto();
        let port = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config {
            data_dir: dir.to_owned(),
            api_bind: port,
            api_https_bind: port,
            link_bind: port,
            diagnostics_bind: port,
            peer_bind: port,
            ..Config::default()
        };
        change(&mut config);
        let shutdown = CancellationToken::new();
        let app = App::start(config, shutdown.clone()).await.expect("a control plane");
        let addresses = app.addresses;
        let running = tokio::spawn(app.wait());
        let ca = std::fs::read_to_string(dir.join("tls/ca.crt")).expect("the CA");
        let tls = shared_node::tls::client_config(&ca).expect("roots");
        let http =
            reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().expect("a client");
        let key = SigningKey::generate("99").expect("a key");
        House { dir: dir.to_owned(), addresses, shutdown, running, http, key }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        timeout(DEADLINE, self.running).await.expect("an end").expect("no panic").expect("a good end");
    }

    pub fn api(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.api)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.http.get(self.api(path)).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("json"))
    }

    pub async fn text(&self, url: &str) -> (u16, String) {
        let answer = self.http.get(url).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    pub async fn https(&self, path: &str, token: Option<&str>) -> (u16, Value) {
        let mut request =
            self.http.get(format!("https://localhost:{}{path}", self.addresses.api_https.port()));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("json"))
    }

    pub async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        let answer = self.http.put(self.api(path)).json(&body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("json"))
    }

    /// The body of the answer is of no account where it is not JSON.
    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let answer = self.http.post(self.api(path)).json(&body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        let answer = self.http.delete(self.api(path)).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("json"))
    }

    /// A zone token from the control plane itself.
    pub async fn zone_token(&self, zone: &str, scope: &[&str]) -> String {
        let body = json!({"zone": zone, "scope": scope, "validFor": "1h"});
        let answer = self.http.post(self.api("/tokens/zone")).json(&body).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        answer.text().await.expect("a token")
    }

    /// Makes global accept tokens that the test signs.
    pub async fn trust(&self) {
        let name = "zone-token-signing-public-key-99";
        let secret = shared_model::core::Secret::of(self.key.public_pem().as_bytes());
        let body = json!({"type": "GlobalSecret", "name": name, "data": secret.data});
        assert_eq!(self.put(&format!("/global-secrets/{name}"), body).await.0, 201);
    }

    /// A zone token that `key` signed at `now`, valid for an hour.
    pub fn sign(&self, key: &SigningKey, jti: &str, now: Timestamp) -> String {
        let claims = ZoneClaims { zone: "east".into(), scope: vec!["cp".into()] };
        token::issue(key, &claims, jti, now, HOUR).expect("a token")
    }

    /// A client of the link that shows this certificate.
    pub async fn link(&self, papers: Option<&Papers>) -> ZoneLinkClient<Channel> {
        let ca = std::fs::read_to_string(self.dir.join("tls/ca.crt")).expect("the CA");
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        if let Some(Papers { chain_pem, key_pem }) = papers {
            tls = tls.identity(Identity::from_pem(chain_pem, key_pem));
        }
        let url = format!("https://localhost:{}", self.addresses.link.port());
        let endpoint = Endpoint::from_shared(url).expect("an address").tls_config(tls).expect("TLS");
        ZoneLinkClient::new(endpoint.connect().await.expect("a connection"))
    }

    /// Asks for a certificate, with what the zone has.
    pub async fn enrol(
        &self,
        token: Option<&str>,
        papers: Option<&Papers>,
        enrolment: Enrolment,
    ) -> Result<Papers, Status> {
        let (key_pem, csr) = shared_identity::ca::request_key().expect("a key");
        let mut request = tonic::Request::new(Enrolment { csr, ..enrolment });
        if let Some(token) = token {
            let bearer = format!("Bearer {token}").parse().expect("a header");
            request.metadata_mut().insert("authorization", bearer);
        }
        let enrolled = self.link(papers).await.enrol(request).await?.into_inner();
        Ok(Papers { chain_pem: enrolled.chain_pem, key_pem })
    }

    /// Opens a link with a certificate, and answers what global says first.
    pub async fn open(&self, papers: Option<&Papers>, hello: Hello) -> Result<Dialled, Status> {
        let (up, messages) = mpsc::channel(64);
        up.send(FromZone { kind: Some(Up::Hello(hello)) }).await.expect("room");
        let mut client = self.link(papers).await;
        let mut down = client.follow(ReceiverStream::new(messages)).await?.into_inner();
        match down.message().await? {
            Some(ToZone { kind: Some(Down::Welcome(welcome)) }) => Ok(Dialled { welcome, up, down }),
            other => panic!("not a welcome: {other:?}"),
        }
    }

    /// Trades a token for a certificate and opens a link with it, as a zone does.
    pub async fn dial(&self, token: Option<&str>, hello: Hello) -> Result<Dialled, Status> {
        let papers = self.enrol(token, None, enrolment(&hello)).await?;
        self.open(Some(&papers), hello).await
    }

    /// Why a link is refused.
    pub async fn refused(&self, token: Option<&str>, hello: Hello) -> String {
        match self.dial(token, hello).await {
            Ok(_) => panic!("the link was opened"),
            Err(status) => status.message().to_owned(),
        }
    }

    /// Polls a path until the answer is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let poll = async {
            loop {
                let (_, answer) = self.get(path).await;
                if wanted(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(poll).await
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("in time")
}

pub struct Dialled {
    pub welcome: proto::link::Welcome,
    pub up: mpsc::Sender<FromZone>,
    pub down: Streaming<ToZone>,
}

/// A zone's certificate and its key.
#[derive(Clone)]
pub struct Papers {
    pub chain_pem: String,
    pub key_pem: String,
}

/// What the zone of a hello says when it enrols.
pub fn enrolment(hello: &Hello) -> Enrolment {
    Enrolment {
        zone: hello.zone.clone(),
        zone_id: hello.zone_id.clone(),
        csr: String::new(),
        cluster_id: hello.cluster_id.clone(),
        version: hello.version.clone(),
    }
}

/// The id of a zone's store: the same for all replicas.
pub fn zone_id(zone: &str) -> String {
    zone.bytes().map(|byte| format!("{byte:02x}")).collect()
}

pub fn hello(zone: &str, node_id: u64) -> Hello {
    Hello {
        zone: zone.into(),
        instance: format!("{zone}-cp"),
        node_id: shared_raft::learner_id(node_id),
        version: "0.1.0".into(),
        zone_id: zone_id(zone),
        ..Hello::default()
    }
}

/// A zone that follows: a learner on its own disk, beats, and everything else by hand.
pub struct Zone {
    pub learner: Arc<Learner>,
    pub up: mpsc::Sender<FromZone>,
    /// What global says beside Raft and beats.
    pub said: mpsc::Receiver<Down>,
    /// Ends with the reason for which global closed the link.
    pub pump: JoinHandle<String>,
}

impl Zone {
    pub async fn follow(house: &House, dir: &Path, name: &str, token: &str) -> Zone {
        let storage = Storage::open(dir, &format!("zone {name}"), || shared_raft::learner_id(rand::random()));
        let learner = Arc::new(Learner::start(storage.expect("a disk")).await.expect("a learner"));
        let identity = learner.identity();
        let revision = learner.catalog().borrow().revision().0;
        let mut hello = hello(name, identity.node_id);
        (hello.cluster_id, hello.revision) = (identity.cluster_id, revision);
        let Dialled { welcome, up, mut down } = house.dial(Some(token), hello).await.expect("a link");
        learner.set_cluster_id(&welcome.cluster_id).expect("bound");
        let (tell, said) = mpsc::channel(64);
        let (follower, out) = (learner.clone(), up.clone());
        let pump = tokio::spawn(async move {
            let mut beats = tokio::time::interval(Duration::from_secs(1));
            loop {
                let message = tokio::select! {
                    _ = beats.tick() => {
                        let revision = follower.catalog().borrow().revision().0;
                        let beat = FromZone { kind: Some(Up::Beat(Beat { revision })) };
                        // When nobody takes it, the other direction says why.
                        let _ = out.send(beat).await;
                        continue;
                    }
                    message = down.message() => message,
                };
                match message {
                    Ok(Some(ToZone { kind: Some(Down::Raft(request)) })) => {
                        let body = match request.call() {
                            RaftCall::Append => follower.append(&request.body).await,
                            _ => follower.snapshot(&request.body).await,
                        };
                        let reply = RaftReply {
                            id: request.id,
                            body: body.expect("taken").into(),
                            error: String::new(),
                        };
                        let _ = out.send(FromZone { kind: Some(Up::Raft(reply)) }).await;
                    }
                    Ok(Some(ToZone { kind: Some(Down::Beat(_) | Down::Members(_)) })) => {}
                    Ok(Some(ToZone { kind: Some(kind) })) => {
                        if tell.send(kind).await.is_err() {
                            return "nobody listens".to_owned();
                        }
                    }
                    Ok(Some(ToZone { kind: None })) => {}
                    Ok(None) => return "the end".to_owned(),
                    Err(status) => return status.message().to_owned(),
                }
            }
        });
        Zone { learner, up, said, pump }
    }

    pub async fn say(&self, kind: Up) {
        self.up.send(FromZone { kind: Some(kind) }).await.expect("an open link");
    }

    pub async fn hear(&mut self) -> Down {
        within(self.said.recv()).await.expect("something said")
    }

    /// Waits until the zone's own disk holds a revision.
    pub async fn holds(&self, revision: u64) {
        let mut catalog = self.learner.catalog();
        within(catalog.wait_for(|catalog| catalog.revision().0 >= revision)).await.expect("a learner");
    }

    /// Cuts the link, and gives the disk back.
    pub async fn leave(self) {
        self.pump.abort();
        let _ = self.pump.await;
        self.learner.shutdown().await;
    }
}
