//! HTTP to the control plane, and the sentences for all that can go wrong on the way.
use crate::servers::Server;
use anyhow::{Context, anyhow, bail};
use reqwest::{Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared_model::Problem;
use std::{
    error::Error as StdError,
    fmt, fs, io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// How long an answer may take when the caller says nothing.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How soon a single server that broke off is asked again.
const AGAIN: Duration = Duration::from_millis(300);

/// A connection to one server, or to one of several that are the same control plane.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    bases: Vec<Url>,
    /// The one that answered last.
    at: Arc<AtomicUsize>,
    token: Option<String>,
    timeout: Duration,
    /// Reads ask for what the server itself has.
    stale: bool,
}

/// What the server answered, whatever its status.
pub struct Reply {
    pub status: StatusCode,
    /// The request said who asks.
    pub with_token: bool,
    /// The version of what was read, for a poll that waits for another one.
    pub etag: Option<String>,
    /// The newest revision that the answer has seen.
    pub revision: Option<u64>,
    pub body: String,
}

/// A request; most are a GET without a body.
#[derive(Default)]
pub struct Request<'a> {
    pub method: Method,
    /// The segments of the path, as they are: they get encoded.
    pub path: &'a [&'a str],
    pub query: Vec<(&'a str, String)>,
    pub body: Option<&'a Value>,
    /// The version that the caller has seen.
    pub seen: Option<&'a str>,
    /// What the caller believes to be stored: a write is refused when it is not.
    pub expected: Option<Expected>,
    /// How long the answer may take; the client's timeout when absent.
    pub within: Option<Duration>,
}

/// What must be stored for a write to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Absent,
    At(u64),
}

/// The server understood and said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: StatusCode,
    pub reason: String,
    /// With their paths, when the server named fields.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems: Vec<String> = self.problems.iter().map(Problem::to_string).collect();
        match problems.is_empty() {
            true => f.write_str(&self.reason),
            false => f.write_str(&problems.join("; ")),
        }
    }
}

impl StdError for Refused {}

impl Client {
    pub fn new(server: &Server, timeout: Duration) -> anyhow::Result<Client> {
        let bases = addresses(&server.address)?;
        let is_local = bases.iter().all(is_loopback);
        let token = match &server.token_file {
            None => None,
            Some(path) => {
                let text = fs::read_to_string(path)
                    .map_err(|error| anyhow!("cannot read the token file {}: {error}", path.display()))?;
                match text.trim() {
                    "" => bail!("the token file {} is empty", path.display()),
                    token => Some(token.to_owned()),
                }
            }
        };
        if let Some(open) = bases.iter().find(|base| base.scheme() == "http" && !is_loopback(base))
            && token.is_some()
        {
            let open = open.as_str().trim_end_matches('/');
            bail!("{open} is not encrypted, the token is not sent there: use https");
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("weftctl/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(ANSWER_WITHIN);
        if is_local {
            http = http.no_proxy();
        }
        match &server.ca_cert_file {
            Some(path) => {
                let pem = fs::read(path)
                    .map_err(|error| anyhow!("cannot read the certificate {}: {error}", path.display()))?;
                let certificates = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
                if certificates.is_empty() {
                    bail!("{} holds no PEM certificate", path.display());
                }
                http = http.tls_certs_only(certificates);
            }
            // A machine without trusted roots can still talk to its own control plane.
            None if bases.iter().all(|base| base.scheme() == "http") => http = http.tls_certs_only([]),
            None => {}
        }
        let http = http.build().map_err(|error| match server.ca_cert_file {
            Some(_) => anyhow!("cannot set up TLS: {}", innermost(&error)),
            None => anyhow!("cannot set up TLS: {}: give --ca-cert-file", innermost(&error)),
        })?;
        Ok(Client { http, bases, at: Arc::default(), token, timeout, stale: false })
    }

    /// Whether reads take what the server itself has, however old.
    pub fn stale(self, stale: bool) -> Client {
        Client { stale, ..self }
    }

    /// The address as a person would type it, without a slash at the end.
    pub fn address(&self) -> &str {
        self.base().as_str().trim_end_matches('/')
    }

    fn base(&self) -> &Url {
        &self.bases[self.at.load(Ordering::Relaxed) % self.bases.len()]
    }

    /// The URL of a path below the server's. Segments are encoded, so a name cannot lead elsewhere.
    fn url(&self, path: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.base().clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// One request. An error is that there was no answer; a refusal is in the reply. A server that does not answer, or
    /// cannot for now, is followed by the next: every write carries a key under which it counts once.
    pub async fn send(&self, asked: Request<'_>) -> anyhow::Result<Reply> {
        let (reply, body) = self.fetch(&asked, |_, _| {}).await?;
        Ok(Reply { body: String::from_utf8_lossy(&body).into_owned(), ..reply })
    }

    /// A GET whose answer is a file; `progress` is told how much of it has come, and of how much.
    pub async fn download(
        &self,
        asked: Request<'_>,
        progress: impl Fn(u64, Option<u64>),
    ) -> anyhow::Result<Vec<u8>> {
        let (reply, body) = self.fetch(&asked, progress).await?;
        match reply.status.is_success() {
            true => Ok(body),
            false => {
                let body = String::from_utf8_lossy(&body).into_owned();
                Err(Reply { body, ..reply }.refused().into())
            }
        }
    }

    async fn fetch(
        &self,
        asked: &Request<'_>,
        progress: impl Fn(u64, Option<u64>),
    ) -> anyhow::Result<(Reply, Vec<u8>)> {
        let key = (asked.method != Method::GET).then(|| uuid::Uuid::new_v4().to_string());
        let mut tries = self.bases.len();
        let mut failed: Vec<String> = Vec::new();
        loop {
            let answer = self.try_once(asked, key.as_deref(), &progress).await;
            let error = match answer {
                Ok((reply, body)) if reply.status != StatusCode::SERVICE_UNAVAILABLE || tries <= 1 => {
                    return Ok((reply, body));
                }
                Ok((reply, body)) => {
                    let body = String::from_utf8_lossy(&body).into_owned();
                    anyhow!("{}: {}", self.address(), Reply { body, ..reply }.refused())
                }
                Err(Broken { error, again }) => {
                    // One that is alone may be starting anew.
                    if again && self.bases.len() == 1 && failed.is_empty() {
                        tries += 1;
                        tokio::time::sleep(AGAIN).await;
                    }
                    error
                }
            };
            failed.push(format!("{error:#}"));
            tries -= 1;
            if tries == 0 {
                return Err(match self.bases.len() {
                    1 => error,
                    _ => anyhow!("no server could answer: {}", failed.join("; ")),
                });
            }
            if self.bases.len() > 1 {
                self.at.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    async fn try_once(
        &self,
        asked: &Request<'_>,
        key: Option<&str>,
        progress: impl Fn(u64, Option<u64>),
    ) -> Result<(Reply, Vec<u8>), Broken> {
        let within = asked.within.unwrap_or(self.timeout);
        let mut url = self.url(asked.path, &asked.query);
        if self.stale && asked.method == Method::GET {
            url.query_pairs_mut().append_pair("consistency", "stale");
        }
        let mut request = self.http.request(asked.method.clone(), url).timeout(within);
        request = request.header("accept", "application/json");
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        match (asked.expected, asked.seen) {
            (Some(Expected::Absent), _) => request = request.header("if-none-match", "*"),
            (Some(Expected::At(revision)), _) => {
                request = request.header("if-match", format!("\"{revision}\""))
            }
            (None, Some(seen)) => request = request.header("if-none-match", seen),
            (None, None) => {}
        }
        if let Some(body) = asked.body {
            request = request.json(body);
        }
        let broken = |error: reqwest::Error| self.broken(&error, within);
        let mut response = request.send().await.map_err(broken)?;
        let status = response.status();
        let etag = response.headers().get("etag").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let revision =
            response.headers().get("weft-revision").and_then(|value| value.to_str().ok()?.parse().ok());
        let whole = response.content_length();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            body.extend_from_slice(&chunk);
            progress(body.len() as u64, whole);
        }
        let with_token = self.token.is_some();
        Ok((Reply { status, with_token, etag, revision, body: String::new() }, body))
    }

    fn broken(&self, error: &reqwest::Error, within: Duration) -> Broken {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        let kind = find::<io::Error>(error).map(io::Error::kind);
        let again = matches!(kind, Some(ConnectionReset | UnexpectedEof | BrokenPipe));
        Broken { error: self.unreachable(error, within), again }
    }

    pub async fn get(&self, path: &[&str]) -> anyhow::Result<Reply> {
        self.send(Request { path, ..Request::default() }).await
    }

    /// A GET that must be answered with 200 and JSON.
    pub async fn read<T: DeserializeOwned>(&self, path: &[&str]) -> anyhow::Result<T> {
        self.get(path).await?.good()?.json()
    }

    fn unreachable(&self, error: &reqwest::Error, within: Duration) -> anyhow::Error {
        let address = self.address();
        let secs = shared_model::Duration(within);
        match find::<rustls::Error>(error) {
            Some(rustls::Error::InvalidCertificate(reason)) => {
                return anyhow!("cannot trust {address}: {}", certificate_sentence(reason));
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                return anyhow!("{address} does not speak TLS: write http://");
            }
            Some(other) => return anyhow!("no TLS with {address}: {other}"),
            None => {}
        }
        match find::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => {
                let who = if is_loopback(self.base()) { " (is global-cp running?)" } else { "" };
                anyhow!("cannot reach {address}: connection refused{who}")
            }
            Some(
                io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe,
            ) => {
                anyhow!("{address} closed the connection without an answer")
            }
            _ if error.is_timeout() && error.is_connect() => {
                anyhow!("cannot reach {address}: no connection within {secs}")
            }
            _ if error.is_timeout() => anyhow!("{address} did not answer within {secs}"),
            _ if error.is_connect() => anyhow!("cannot reach {address}: {}", innermost(error)),
            _ if self.base().scheme() == "http" => {
                anyhow!("no answer from {address}: {} (does it want https?)", innermost(error))
            }
            _ => anyhow!("no answer from {address}: {}", innermost(error)),
        }
    }
}

impl Reply {
    /// The reply if it is a good one, else the server's refusal.
    pub fn good(self) -> Result<Reply, Refused> {
        if self.status.is_success() { Ok(self) } else { Err(self.refused()) }
    }

    pub fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_str(&self.body)
            .context("the server's answer is not what weftctl expects of a Weft control plane")
    }

    /// Reads Kuma's error body; whatever else came is named by its status.
    fn refused(&self) -> Refused {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        let text = |key: &str| body[key].as_str().filter(|text| !text.is_empty());
        let problems = body["invalid_parameters"].as_array().into_iter().flatten().filter_map(|item| {
            let reason = item["reason"].as_str()?;
            Some(Problem::new(item["field"].as_str().unwrap_or_default(), reason))
        });
        let reason = match (text("detail").or(text("details")), text("title")) {
            (Some(detail), _) => detail.to_owned(),
            (None, Some(title)) => title.to_owned(),
            (None, None) => format!("the server answered {}", self.status),
        };
        let reason = match self.status {
            StatusCode::UNAUTHORIZED if !self.with_token => {
                "a user token is needed: give --token-file".to_owned()
            }
            StatusCode::NOT_FOUND => reason.replacen("Not found", "not found", 1),
            _ => reason,
        };
        Refused { status: self.status, reason, problems: problems.collect() }
    }
}

/// No answer came.
struct Broken {
    error: anyhow::Error,
    /// The server was there and broke off: what became of the request is unknown.
    again: bool,
}

/// Reads the addresses of a server: one, or those of several nodes, separated by commas.
pub fn addresses(text: &str) -> anyhow::Result<Vec<Url>> {
    text.split(',').map(|text| address(text.trim())).collect()
}

/// Reads the address of a server.
fn address(text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or_else(|| {
        anyhow!("{text:?} is not the address of a server: write http://HOST:PORT or https://HOST:PORT")
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        bail!("the address of a server holds no password: give a user token with --token-file");
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    ip.map_or(host == "localhost", |ip| ip.is_loopback())
}

/// Looks for a cause of a type in a chain of errors. `io::Error` hides the error that it wraps from the chain.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|wrapped| find::<T>(wrapped as &(dyn StdError + 'static))) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn certificate_sentence(reason: &rustls::CertificateError) -> String {
    use rustls::CertificateError::{
        BadSignature, Expired, NotValidForName, NotValidForNameContext, NotValidYet, UnknownIssuer,
    };
    match reason {
        // The authorities of two installations have one name: then only the signature tells them apart.
        UnknownIssuer | BadSignature => {
            "its certificate is signed by an unknown authority (give that one's with --ca-cert-file)"
                .to_owned()
        }
        Expired => "its certificate has expired".to_owned(),
        NotValidYet => "its certificate is not valid yet".to_owned(),
        NotValidForName | NotValidForNameContext { .. } => {
            "its certificate is for other names (global-cp run --tls-san adds one)".to_owned()
        }
        other => format!("its certificate is not valid: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = Server { address: address.into(), ..Server::default() };
        Client::new(&server, ANSWER_WITHIN).expect("a client")
    }

    #[test]
    fn a_name_cannot_leave_its_segment() {
        let client = client("http://127.0.0.1:5681/");
        let url = client.url(&["meshes", "../x?y", "dataplanes"], &[("size", "3".into())]);
        assert_eq!(url.as_str(), "http://127.0.0.1:5681/meshes/..%2Fx%3Fy/dataplanes?size=3");
        assert_eq!(client.address(), "http://127.0.0.1:5681");
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        for bad in ["localhost:5681", "127.0.0.1:5681", "ftp://x", "", "http://"] {
            assert!(address(bad).is_err(), "{bad}");
        }
        assert!(address("https://a:b@host:1").expect_err("a password").to_string().contains("no password"));
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "secret\n").expect("written");
        let server = |address: &str| Server {
            address: address.into(),
            token_file: Some(file.path().into()),
            ..Server::default()
        };
        assert!(Client::new(&server("http://global.example:5681"), ANSWER_WITHIN).is_err());
        for good in ["http://[::1]:5681", "http://localhost:5681"] {
            assert!(Client::new(&server(good), ANSWER_WITHIN).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_refusal_is_read_from_the_error_body() {
        let reply = |status: u16, body: &str| Reply {
            status: StatusCode::from_u16(status).expect("a status"),
            with_token: false,
            revision: None,
            etag: None,
            body: body.to_owned(),
        };
        let body = r#"{"title":"Could not process a resource","detail":"Resource is not valid",
            "invalid_parameters":[{"field":"spec.to","reason":"is missing"}]}"#;
        assert_eq!(reply(400, body).refused().to_string(), "spec.to: is missing");
        assert_eq!(
            reply(404, r#"{"title":"Not found","detail":"Not found: x"}"#).refused().to_string(),
            "not found: x"
        );
        assert_eq!(reply(401, "{}").refused().to_string(), "a user token is needed: give --token-file");
        assert_eq!(reply(502, "<html>").refused().to_string(), "the server answered 502 Bad Gateway");
    }
}
