//! HTTP/1.1 over one connection at a time: a test must know on which connection a request went.
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    client::conn::http1::{SendRequest, handshake},
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, time::timeout};

/// How long one request may take. Nothing here answers later on purpose.
const PATIENCE: Duration = Duration::from_secs(20);

const REVISION: &str = "weft-revision";

pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Bytes,
    /// Of a write the revision that holds it, of a read one that it has at least seen.
    pub revision: Option<u64>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("the answer {} is not as expected: {}", self.status, self.text()))
    }

    /// The answer, if its status is 2xx.
    pub fn good(self) -> Result<Answer> {
        if !(200..300).contains(&self.status) {
            bail!("status {}: {}", self.status, self.text());
        }
        Ok(self)
    }
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Connection> {
        let connecting = timeout(PATIENCE, TcpStream::connect(address)).await;
        let stream = connecting.map_err(|_| anyhow!("no connection to {address} in time"))?;
        let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("no HTTP connection")?;
        // What ends it shows as the error of the request that was on it.
        tokio::spawn(async move { connection.await.ok() });
        Ok(Connection { sender, host: address.to_string() })
    }

    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    pub async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Answer> {
        self.send_with(method, path, &[], body).await
    }

    /// With further headers.
    pub async fn send_with(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body))?;
        let exchange = async {
            self.sender.ready().await?;
            let answer = self.sender.send_request(request).await?;
            let status = answer.status().as_u16();
            let revision = answer.headers().get(REVISION).and_then(|value| value.to_str().ok()?.parse().ok());
            let body = answer.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Answer { status, body, revision })
        };
        let answer = timeout(PATIENCE, exchange).await;
        answer
            .map_err(|_| anyhow!("no answer to {path} in time"))?
            .with_context(|| format!("no answer to {path}"))
    }
}

/// One GET on a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    Connection::open(address).await?.get(path).await
}

/// One request on a connection of its own.
pub async fn call(address: SocketAddr, method: Method, path: &str, body: Bytes) -> Result<Answer> {
    Connection::open(address).await?.send(method, path, body).await
}
