//! The nodes of global, over their REST API.
use crate::run::{Client, Store};
use anyhow::{Context as _, Result, bail};
use reqwest::{Certificate, RequestBuilder, Response, header};
use serde_json::{Map, json};
use std::{fs, path::Path};

/// The longest value of a label, and what a label of padding adds beside its value: name, quotes, colon and comma.
const LABEL_MAX: usize = 63;
const PADDING_LABEL: usize = 26;

pub struct Nodes {
    targets: Vec<String>,
    ca: Certificate,
    bearer: String,
    bytes: usize,
}

impl Nodes {
    /// Documents of so many bytes for the nodes that listen there, in the name of whose token lies in the file.
    pub fn new(targets: &[String], ca_file: &Path, token_file: &Path, bytes: usize) -> Result<Nodes> {
        let read =
            |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        Ok(Nodes {
            targets: targets.to_vec(),
            ca: Certificate::from_pem(read(ca_file)?.as_bytes())?,
            bearer: format!("Bearer {}", read(token_file)?.trim()),
            bytes,
        })
    }

    /// A client with connections of its own.
    pub fn api(&self, number: usize) -> Result<Api> {
        let target = self.targets[number % self.targets.len()].trim_end_matches('/').to_owned();
        let client =
            reqwest::Client::builder().tls_certs_only([self.ca.clone()]).tcp_nodelay(true).build()?;
        Ok(Api { client, target, bearer: self.bearer.clone() })
    }

    pub fn document(&self, name: &str) -> Document {
        let mut document = Document { name: name.to_owned(), padding: Vec::new() };
        while let Some(room) = self.bytes.checked_sub(document.body(u64::MAX).len() + PADDING_LABEL) {
            document.padding.push("x".repeat(room.clamp(1, LABEL_MAX)));
        }
        document
    }
}

/// What one node is asked.
#[derive(Clone)]
pub struct Api {
    client: reqwest::Client,
    target: String,
    bearer: String,
}

impl Api {
    /// The revision of the write, once it is committed.
    pub async fn put(&self, document: &Document, number: u64) -> Result<u64> {
        let url = format!("{}/meshes/default/meshtimeouts/{}", self.target, document.name);
        let answer = self.send(self.client.put(url), document.body(number)).await?;
        let revision = answer.headers().get("weft-revision").and_then(|value| value.to_str().ok());
        let revision = revision.and_then(|value| value.parse().ok()).context("a write tells no revision")?;
        answer.bytes().await?;
        Ok(revision)
    }

    /// A token with which a zone enrols.
    pub async fn zone_token(&self, zone: &str) -> Result<String> {
        let url = format!("{}/tokens/zone", self.target);
        let asked = json!({ "zone": zone, "scope": ["cp"], "validFor": "24h" });
        Ok(self.send(self.client.post(url), asked.to_string().into_bytes()).await?.text().await?)
    }

    async fn send(&self, request: RequestBuilder, body: Vec<u8>) -> Result<Response> {
        let request = request
            .header(header::AUTHORIZATION, &self.bearer)
            .header(header::CONTENT_TYPE, "application/json");
        let answer = request.body(body).send().await?;
        let status = answer.status();
        if !status.is_success() {
            bail!("{status}: {}", answer.text().await?);
        }
        Ok(answer)
    }
}

/// A policy that says another thing with each number.
#[derive(Clone)]
pub struct Document {
    name: String,
    padding: Vec<String>,
}

impl Document {
    pub fn body(&self, number: u64) -> Vec<u8> {
        let mut labels = Map::from_iter([("weft.io/number".to_owned(), json!(format!("{number:020}")))]);
        let padding = self.padding.iter().zip(10..);
        labels.extend(padding.map(|(padding, at)| (format!("weft.io/padding-{at}"), json!(padding))));
        let document = json!({
            "type": "MeshTimeout",
            "mesh": "default",
            "name": self.name,
            "labels": labels,
            "spec": { "to": [{ "targetRef": { "kind": "Mesh" }, "default": { "http": { "requestTimeout": "15s" } } }] },
        });
        document.to_string().into_bytes()
    }
}

impl Store for Nodes {
    type Client = Writer;

    async fn client(&self, number: usize) -> Result<Writer> {
        let mut writer =
            Writer { api: self.api(number)?, document: self.document(&format!("load-{number}")) };
        // The first write connects.
        writer.write(u64::MAX).await?;
        Ok(writer)
    }
}

/// One client, with a document of its own that it changes again and again.
pub struct Writer {
    api: Api,
    document: Document,
}

impl Client for Writer {
    async fn write(&mut self, number: u64) -> Result<()> {
        self.api.put(&self.document, number).await.map(drop)
    }
}
