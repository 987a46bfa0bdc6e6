//! A control plane as the simulator knows it: a REST API, an ADS port, and a process to watch. It may be any that has
//! Kuma's API.
use crate::connection::{self, Dial};
use crate::documents::{self, Document, MESH, Style};
use crate::graph::Graph;
use crate::launch::Launched;
use crate::usage::Usage;
use crate::wire::Protocol;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::Engine as _;
use futures::StreamExt as _;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How many documents are on their way at once when many are written.
const WRITERS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a control plane is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The REST API, `http://host:port`.
    pub api: String,
    /// Bootstrap and ADS, `https://host:port`, or `http` in plain text.
    pub xds: String,
    /// What is trusted on the ADS port; absent: anybody.
    pub ca_file: Option<PathBuf>,
    pub pid: Option<u32>,
}

pub struct Target {
    pub api: Api,
    pub dial: Dial,
    pub address: Address,
    https: reqwest::Client,
    /// The process, when it was started here.
    pub launched: Option<Launched>,
    /// The zones that follow it, when it is a global control plane.
    pub zones: Vec<Launched>,
}

/// What a proxy needs to get in.
pub struct Entry {
    pub protocol: Protocol,
    /// The metadata of its node, as the bootstrap says.
    pub metadata: Value,
    /// One for everybody, or one for each service.
    tokens: Vec<Arc<str>>,
}

impl Entry {
    pub fn token_of(&self, service: usize) -> Arc<str> {
        self.tokens.get(service).or(self.tokens.first()).cloned().unwrap_or_else(|| "".into())
    }
}

impl Target {
    pub async fn attach(address: Address, launched: Option<Launched>) -> Result<Target> {
        let url: http::Uri = address.xds.parse().with_context(|| format!("{:?} is no URL", address.xds))?;
        let authority = url.authority().with_context(|| format!("{:?} names no host", address.xds))?;
        let (host, port) = (authority.host(), authority.port_u16().unwrap_or(5678));
        let mut found = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await?;
        let socket = found.next().with_context(|| format!("{host} has no address"))?;
        let ca = address
            .ca_file
            .as_ref()
            .map(|file| shared_node::file::read(file, "the control plane's CA"))
            .transpose()?;
        let tls = match url.scheme_str() {
            Some("https") => {
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
                Some((connection::tls(ca.as_deref())?, name))
            }
            _ => None,
        };
        let https = reqwest::Client::builder()
            .tls_backend_preconfigured(connection::tls_config(ca.as_deref())?)
            .timeout(PATIENCE)
            .no_proxy()
            .build()?;
        let dial = Dial { address: socket, authority: authority.to_string(), tls };
        Ok(Target { api: Api::new(&address.api)?, dial, address, https, launched, zones: Vec::new() })
    }

    /// What the control plane's processes have used; nothing when it is not known which those are.
    pub fn usage(&self) -> Option<Usage> {
        let pid = self.launched.as_ref().map(Launched::pid).or(self.address.pid)?;
        let all = std::iter::once(pid).chain(self.zones.iter().map(Launched::pid));
        all.map(|pid| Usage::of(pid).ok()).sum()
    }

    /// How often it has made the configuration of a proxy, as it says itself; nothing when it does not say.
    pub async fn generations(&self) -> Result<Option<f64>> {
        let Some(url) = self.launched.as_ref().and_then(Launched::metrics) else { return Ok(None) };
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
        let text = http.get(&url).send().await?.error_for_status()?.text().await?;
        let line = text.lines().find_map(|line| line.strip_prefix("weft_zone_assemble_seconds_count "));
        let count =
            line.with_context(|| format!("{url} does not count the configurations that were made"))?;
        Ok(Some(count.trim().parse().with_context(|| format!("{count:?} is no count"))?))
    }

    /// Gets tokens, and asks for a bootstrap as the agent of the first proxy.
    pub async fn enter(&self, style: Style, graph: &Graph, wished: Option<Protocol>) -> Result<Entry> {
        let mut tokens = Vec::new();
        match style {
            Style::Tags => tokens.push(self.api.token(json!({"mesh": MESH, "validFor": "24h"})).await?),
            // A proxy whose identity is its workload needs a token for that workload.
            Style::Labels => {
                for service in &graph.services {
                    let claims = json!({"mesh": MESH, "workload": service.name, "validFor": "24h"});
                    tokens.push(self.api.token(claims).await?);
                }
            }
        }
        let mut entry = Entry { protocol: Protocol::Delta, metadata: json!({}), tokens };
        let bootstrap = self.bootstrap(&entry.token_of(graph.service_of(0)), style, graph, wished).await?;
        let api_type = bootstrap["dynamicResources"]["adsConfig"]["apiType"].as_str().unwrap_or_default();
        entry.protocol = wished.unwrap_or(match api_type {
            "DELTA_GRPC" => Protocol::Delta,
            "GRPC" => Protocol::Sotw,
            other => bail!("the bootstrap says apiType {other:?}"),
        });
        entry.metadata = bootstrap["node"]["metadata"].clone();
        ensure!(entry.metadata.is_object(), "the bootstrap has no metadata of the node");
        if let Some(metadata) = entry.metadata.as_object_mut() {
            metadata.remove("dataplane.resource");
        }
        Ok(entry)
    }

    async fn bootstrap(
        &self,
        token: &str,
        style: Style,
        graph: &Graph,
        wished: Option<Protocol>,
    ) -> Result<Value> {
        let dataplane = documents::dataplane(style, graph, 0).body;
        let mut features = vec!["feature-reuse-port"];
        if wished != Some(Protocol::Sotw) {
            features.push("feature-delta-grpc");
        }
        let version = json!({"kumaDp": {"version": "2.14.3"},
            "envoy": {"version": "1.40.0", "build": "simulated/1.40.0", "kumaDpCompatible": true}});
        let request = json!({"mesh": MESH, "name": graph.name_of(0), "proxyType": "dataplane",
            "dataplaneToken": token, "dataplaneResource": dataplane.to_string(), "version": version,
            "features": features, "caCert": "", "dynamicMetadata": {}, "workdir": "/tmp"});
        let url = format!("{}/bootstrap", self.address.xds);
        let answer = self.https.post(&url).header("accept", "application/json").json(&request).send().await;
        let answer = answer.with_context(|| format!("no answer from {url}"))?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "the bootstrap is refused with {status}: {text}");
        let answer: Value = serde_json::from_str(&text).context("the bootstrap is not JSON")?;
        let encoded = answer["bootstrap"].as_str().context("the answer holds no bootstrap")?;
        let text = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(encoded)?)?;
        shared_model::document::parse(&text)
            .map_err(|problem| anyhow!("the bootstrap cannot be read: {problem}"))
    }
}

/// As much as is wanted of the answer to a write.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Answer {
    revision: u64,
}

/// The REST API, and what was written to it.
pub struct Api {
    base: String,
    http: reqwest::Client,
    written: Mutex<BTreeMap<String, Value>>,
    /// The newest that an answer told of.
    revision: AtomicU64,
}

impl Api {
    pub fn new(base: &str) -> Result<Api> {
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
        Ok(Api {
            base: base.trim_end_matches('/').to_owned(),
            http,
            written: Mutex::default(),
            revision: AtomicU64::new(0),
        })
    }

    /// The documents as they stand now, by path, so that a mesh comes before what is in it.
    pub fn written(&self) -> Vec<Document> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.iter().map(|(path, body)| Document { path: path.clone(), body: body.clone() }).collect()
    }

    pub async fn put(&self, document: &Document) -> Result<()> {
        let request = self.http.put(self.url(&document.path)).json(&document.body);
        let answer = self.send(request, &document.path).await?;
        self.note(&answer);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(document.path.clone(), document.body.clone());
        Ok(())
    }

    /// Keeps the revision that the answer to a write tells of, if it does.
    fn note(&self, answer: &str) {
        let answer: Answer = serde_json::from_str(answer).unwrap_or_default();
        self.revision.fetch_max(answer.revision, Relaxed);
    }

    /// The newest revision that a document was written with; 0 of a control plane without any.
    pub fn revision(&self) -> u64 {
        self.revision.load(Relaxed)
    }

    /// Writes many, several at once.
    pub async fn put_all(&self, documents: impl IntoIterator<Item = Document>) -> Result<()> {
        let writes =
            futures::stream::iter(documents).map(|document| async move { self.put(&document).await });
        let mut writes = writes.buffer_unordered(WRITERS);
        while let Some(written) = writes.next().await {
            written?;
        }
        Ok(())
    }

    pub async fn delete(&self, path: &str) -> Result<()> {
        let answer = self.send(self.http.delete(self.url(path)), path).await?;
        self.note(&answer);
        self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        Ok(())
    }

    /// A document as the API shows it.
    pub async fn get(&self, path: &str) -> Result<Value> {
        serde_json::from_str(&self.send(self.http.get(self.url(path)), path).await?).context(path.to_owned())
    }

    async fn token(&self, claims: Value) -> Result<Arc<str>> {
        self.token_of("dataplane", claims).await
    }

    /// The token with which a zone follows.
    pub async fn zone_token(&self, zone: &str) -> Result<Arc<str>> {
        self.token_of("zone", json!({"zone": zone, "scope": ["cp"], "validFor": "24h"})).await
    }

    async fn token_of(&self, whose: &str, claims: Value) -> Result<Arc<str>> {
        let path = format!("/tokens/{whose}");
        Ok(self.send(self.http.post(self.url(&path)).json(&claims), &path).await?.trim().into())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn send(&self, request: reqwest::RequestBuilder, path: &str) -> Result<String> {
        let answer = request.send().await.with_context(|| format!("no answer from {}{path}", self.base))?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{path}: {status}: {text}");
        Ok(text)
    }
}
