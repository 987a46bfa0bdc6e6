//! A zone in a temporary directory, and proxies that are clients of it.
// Each test program uses its own part.
#![allow(dead_code)]
pub mod whole;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::{Struct, Value as ProtoValue, value::Kind};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use prost::Message as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Status, Streaming};
use zone_server::app::{self, Running};
use zone_server::config::Config;

pub const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
pub const SDS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// A stream on which nothing came for so long has said what it has to say for now. Tests that wait for more loop.
const QUIET: Duration = Duration::from_millis(150);
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
pub async fn within(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A Dataplane on loopback that serves one HTTP port and reaches others by service tag.
pub fn dataplane(name: &str, port: u16, service: &str, outbounds: &[(u16, &str)]) -> Value {
    let outbound: Vec<Value> =
        outbounds.iter().map(|(port, to)| json!({"port": port, "tags": {"kuma.io/service": to}})).collect();
    json!({"type": "Dataplane", "mesh": "default", "name": name, "networking": {
        "address": "127.0.0.1",
        "inbound": [{"port": port, "servicePort": port + 1000,
            "tags": {"kuma.io/service": service, "kuma.io/protocol": "http"}}],
        "outbound": outbound}})
}

pub struct Zone {
    pub running: Running,
    dir: TempDir,
    config: Config,
    shutdown: CancellationToken,
    http: reqwest::Client,
}

impl Zone {
    pub async fn start() -> Zone {
        Zone::start_with(tempfile::tempdir().unwrap(), |_| {}).await
    }

    /// A zone in `dir`, with a changed configuration.
    pub async fn start_with(dir: TempDir, change: impl FnOnce(&mut Config)) -> Zone {
        let mut config = config(&dir);
        change(&mut config);
        let shutdown = CancellationToken::new();
        let running = app::start(config.clone(), shutdown.clone()).await.unwrap();
        let tls = shared_node::tls::client_config(&running.ca_pem).unwrap();
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
        Zone { running, dir, config, shutdown, http }
    }

    /// The data directory.
    pub fn path(&self) -> &std::path::Path {
        &self.config.data_dir
    }

    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// Why a zone with this configuration does not start.
    pub async fn refused(config: Config) -> String {
        match app::start(config, CancellationToken::new()).await {
            Ok(_) => panic!("it started"),
            Err(error) => format!("{error:#}"),
        }
    }

    /// What was carried from change to change is what it would be from scratch.
    async fn verified(&self) {
        let metrics = reqwest::get(format!("http://{}/metrics", self.running.diagnostics)).await.unwrap();
        let text = metrics.text().await.unwrap();
        assert!(text.contains("weft_verify_mismatches_total 0\n"), "{text}");
    }

    pub async fn stop(self) -> TempDir {
        self.verified().await;
        self.shutdown.cancel();
        timeout(DEADLINE, self.running.wait()).await.expect("it stops in time").unwrap();
        self.dir
    }

    pub async fn restart(self) -> Zone {
        let config = self.config.clone();
        Zone::start_with(self.stop().await, |slot| *slot = config).await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.api)
    }

    /// Writes a document and gives its revision.
    pub async fn apply(&self, document: &Value) -> u64 {
        let kind = shared_model::kind::by_name(document["type"].as_str().unwrap()).unwrap();
        let collection = kind.collection(document["mesh"].as_str().unwrap_or_default());
        let path = format!("/{collection}/{}", document["name"].as_str().unwrap());
        let answer = self.http.put(self.url(&path)).json(document).send().await.unwrap();
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {body}");
        body["revision"].as_u64().unwrap()
    }

    pub async fn delete(&self, path: &str) -> u64 {
        let answer = self.http.delete(self.url(path)).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json::<Value>().await.unwrap()["revision"].as_u64().unwrap()
    }

    /// What `/readyz` says.
    pub async fn is_ready(&self) -> bool {
        let url = format!("http://{}/readyz", self.running.diagnostics);
        self.http.get(url).send().await.unwrap().status().is_success()
    }

    pub async fn get(&self, path: &str) -> Option<Value> {
        let answer = self.http.get(self.url(path)).send().await.unwrap();
        if !answer.status().is_success() {
            return None;
        }
        Some(answer.json().await.unwrap())
    }

    pub async fn token(&self, name: &str) -> String {
        self.token_of("default", name).await
    }

    pub async fn token_of(&self, mesh: &str, name: &str) -> String {
        let request = json!({"mesh": mesh, "name": name, "validFor": "1h"});
        let answer = self.http.post(self.url("/tokens/dataplane")).json(&request).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        answer.text().await.unwrap()
    }

    /// Asks the zone for a token of a kind, as a user or as whoever calls from this host.
    pub async fn ask_token(&self, kind: &str, user: Option<&str>, body: &Value) -> (u16, String) {
        let mut asked = self.http.post(self.url(&format!("/tokens/{kind}"))).json(body);
        if let Some(user) = user {
            asked = asked.bearer_auth(user);
        }
        let answer = asked.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub async fn bootstrap(&self, request: &Value) -> (u16, String) {
        let url = format!("https://localhost:{}/bootstrap", self.running.xds.port());
        let asked = self.http.post(url).header("accept", "application/json").json(request);
        let answer = asked.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Connects a proxy that brings `dataplane`, and subscribes as an Envoy does.
    pub async fn proxy(&self, dataplane: &Value, token: &str) -> Result<Proxy, Status> {
        let mut client = self.client().await;
        let (requests, outgoing) = mpsc::channel(64);
        let node = Some(node(dataplane));
        let first = DeltaDiscoveryRequest { node, type_url: CDS.into(), ..Default::default() };
        requests.send(first).await.unwrap();
        let responses = client.delta_aggregated_resources(stream(outgoing, token)).await?.into_inner();
        let mut proxy = Proxy {
            requests,
            responses,
            held: BTreeMap::new(),
            asked: BTreeMap::new(),
            changed: BTreeMap::new(),
            removed: BTreeSet::new(),
            refuse: None,
        };
        proxy.subscribe(LDS, &[]).await;
        Ok(proxy)
    }

    async fn client(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.running.ca_pem))
            .domain_name("localhost");
        let url = format!("https://127.0.0.1:{}", self.running.xds.port());
        let channel = Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await.unwrap();
        AggregatedDiscoveryServiceClient::new(channel)
    }

    /// Lets `proxies` answer until a revision is done, and gives its status.
    pub async fn done(&self, revision: u64, proxies: &mut [&mut Proxy]) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            for proxy in &mut *proxies {
                proxy.settle().await;
            }
            let status = self.get(&format!("/_revisions/{revision}")).await.expect("a status");
            if status["done"] == true {
                return status;
            }
            assert!(Instant::now() < end, "revision {revision} is not done: {status}");
        }
    }
}

/// The node of a proxy that brings `dataplane`.
fn node(dataplane: &Value) -> Node {
    let text = ProtoValue { kind: Some(Kind::StringValue(dataplane.to_string())) };
    let metadata = Struct { fields: [("dataplane.resource".to_owned(), text)].into() };
    let id = format!("{}.{}", dataplane["mesh"].as_str().unwrap(), dataplane["name"].as_str().unwrap());
    Node { id, metadata: Some(metadata), ..Node::default() }
}

fn stream<T>(outgoing: mpsc::Receiver<T>, token: &str) -> tonic::Request<ReceiverStream<T>> {
    let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", token.parse().unwrap());
    }
    request
}

fn config(dir: &TempDir) -> Config {
    let any = "127.0.0.1:0".parse().unwrap();
    Config {
        zone: "east".into(),
        data_dir: dir.path().join("zone"),
        xds_bind: any,
        api_bind: any,
        diagnostics_bind: any,
        verify: true,
        deregistration_delay: shared_model::Duration::from_millis(500),
        ..Config::default()
    }
}

/// Resources by type and name.
pub type Held = BTreeMap<String, BTreeMap<String, Resource>>;

/// A client that keeps what an Envoy would keep, and asks for what the resources that it holds refer to.
pub struct Proxy {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    pub held: Held,
    asked: BTreeMap<String, BTreeSet<String>>,
    changed: BTreeMap<&'static str, BTreeSet<String>>,
    /// Everything that was ever taken from it.
    pub removed: BTreeSet<String>,
    /// Refuse everything of this type.
    pub refuse: Option<&'static str>,
}

impl Proxy {
    async fn subscribe(&mut self, type_url: &str, names: &[String]) {
        let request = DeltaDiscoveryRequest {
            type_url: type_url.into(),
            resource_names_subscribe: names.to_vec(),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// Says anything; false when nobody listens any more.
    pub async fn say(&self, request: DeltaDiscoveryRequest) -> bool {
        self.requests.send(request).await.is_ok()
    }

    /// Answers everything that comes, until nothing more does.
    pub async fn settle(&mut self) {
        while let Ok(response) = timeout(QUIET, self.responses.message()).await {
            match response {
                Ok(Some(response)) => self.take(response).await,
                Ok(None) => panic!("the stream ended"),
                Err(status) => panic!("the stream broke: {status}"),
            }
        }
    }

    /// Waits for the end of the stream.
    pub async fn end(&mut self) -> Status {
        timeout(DEADLINE, async {
            loop {
                match self.responses.message().await {
                    Ok(Some(response)) => self.take(response).await,
                    Ok(None) => return Status::ok("closed"),
                    Err(status) => return status,
                }
            }
        })
        .await
        .expect("the stream ends in time")
    }

    async fn take(&mut self, response: DeltaDiscoveryResponse) {
        let type_url = [CDS, EDS, LDS, RDS, SDS]
            .into_iter()
            .find(|url| *url == response.type_url)
            .expect("a known type");
        let refused = self.refuse == Some(type_url) && !response.resources.is_empty();
        let message = "refused by the test".to_owned();
        let error_detail = refused.then(|| RpcStatus { code: 13, message, details: Vec::new() });
        let answer = DeltaDiscoveryRequest {
            type_url: type_url.into(),
            response_nonce: response.nonce,
            error_detail,
            ..Default::default()
        };
        // The other side may be gone by now, which the next message tells.
        let _ = self.requests.send(answer).await;
        if refused {
            return;
        }
        let held = self.held.entry(type_url.to_owned()).or_default();
        let changed = self.changed.entry(type_url).or_default();
        for name in response.removed_resources {
            held.remove(&name);
            self.removed.insert(name.clone());
            changed.insert(name);
        }
        for resource in response.resources {
            changed.insert(resource.name.clone());
            held.insert(resource.name.clone(), resource);
        }
        self.changed.retain(|_, names| !names.is_empty());
        self.follow().await;
    }

    /// Subscribes to what the held clusters and listeners name.
    async fn follow(&mut self) {
        for (type_url, names) in references(&self.held) {
            let asked = self.asked.entry(type_url.to_owned()).or_default();
            let new: Vec<String> = names.difference(asked).cloned().collect();
            asked.extend(new.iter().cloned());
            if !new.is_empty() {
                self.subscribe(type_url, &new).await;
            }
        }
    }

    pub fn names(&self, type_url: &str) -> Vec<String> {
        self.held.get(type_url).map(|held| held.keys().cloned().collect()).unwrap_or_default()
    }

    /// The versions of everything that it holds.
    pub fn versions(&self) -> BTreeMap<String, String> {
        let all = self.held.values().flatten();
        all.map(|(name, resource)| (name.clone(), resource.version.clone())).collect()
    }

    pub fn text(&self, type_url: &str) -> String {
        self.held.get(type_url).map(|held| text(held.values())).unwrap_or_default()
    }

    /// The endpoints of all clusters.
    pub fn endpoints(&self) -> Vec<String> {
        let mut found = Vec::new();
        for resource in self.held.get(EDS).into_iter().flat_map(BTreeMap::values) {
            let value = &resource.resource.as_ref().unwrap().value;
            let assignment = ClusterLoadAssignment::decode(value.as_slice()).unwrap();
            for endpoint in assignment.endpoints.into_iter().flat_map(|locality| locality.lb_endpoints) {
                let Some(HostIdentifier::Endpoint(endpoint)) = endpoint.host_identifier else { continue };
                let Some(Address::SocketAddress(address)) =
                    endpoint.address.and_then(|address| address.address)
                else {
                    continue;
                };
                if let Some(PortSpecifier::PortValue(port)) = address.port_specifier {
                    found.push(format!("{}:{port}", address.address));
                }
            }
        }
        found
    }

    pub fn forget_changes(&mut self) {
        self.changed.clear();
    }

    /// What was sent since [`Proxy::forget_changes`], by type.
    pub fn changes(&self) -> BTreeMap<&'static str, BTreeSet<String>> {
        self.changed.clone()
    }
}

/// What the held clusters and listeners refer to, by type.
fn references(all: &Held) -> BTreeMap<&'static str, BTreeSet<String>> {
    use envoy_types::pb::envoy::config::cluster::v3::{
        Cluster, cluster::ClusterDiscoveryType, cluster::DiscoveryType,
    };
    let mut wanted: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for resource in all.get(CDS).into_iter().flat_map(BTreeMap::values) {
        let cluster = Cluster::decode(resource.resource.as_ref().unwrap().value.as_slice()).unwrap();
        if cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)) {
            let config = cluster.eds_cluster_config.unwrap_or_default();
            let name = if config.service_name.is_empty() { cluster.name } else { config.service_name };
            wanted.entry(EDS).or_default().insert(name);
        }
    }
    // Names of routes and secrets stand deep inside of listeners and clusters. They are found by their form.
    let body = |url: &str| all.get(url).map(|all| text(all.values())).unwrap_or_default();
    let (clusters, listeners) = (body(CDS), body(LDS));
    for secret in ["identity_cert:secret:default", "system_trust_bundle"] {
        if clusters.contains(secret) || listeners.contains(secret) {
            wanted.entry(SDS).or_default().insert(secret.to_owned());
        }
    }
    for resource in all.get(LDS).into_iter().flat_map(BTreeMap::values) {
        wanted.entry(RDS).or_default().extend(route_names(resource));
    }
    wanted
}

fn text<'a>(resources: impl Iterator<Item = &'a Resource>) -> String {
    let bytes: Vec<u8> =
        resources.flat_map(|resource| resource.resource.as_ref().unwrap().value.clone()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The route configurations that a listener takes from RDS.
fn route_names(resource: &Resource) -> Vec<String> {
    use envoy_types::pb::envoy::config::listener::v3::{Listener, filter::ConfigType};
    use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
        HttpConnectionManager, http_connection_manager::RouteSpecifier,
    };
    let listener = Listener::decode(resource.resource.as_ref().unwrap().value.as_slice()).unwrap();
    let filters = listener
        .filter_chains
        .into_iter()
        .chain(listener.default_filter_chain)
        .flat_map(|chain| chain.filters);
    let mut names = Vec::new();
    for filter in filters {
        let Some(ConfigType::TypedConfig(any)) = filter.config_type else { continue };
        if any.type_url.ends_with("HttpConnectionManager") {
            let manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
            if let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier {
                names.push(rds.route_config_name);
            }
        }
    }
    names
}
