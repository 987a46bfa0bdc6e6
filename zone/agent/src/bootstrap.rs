//! Envoy's bootstrap: asked from the zone (`POST /bootstrap`, the wire of Kuma) until there is an answer.
use crate::{args::Run, dataplane::Proxy, envoy::Version};
use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    error::Error as StdError,
    io,
    path::Path,
    time::{Duration, Instant},
};

/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The same reason is logged again only after this long.
const REMIND: Duration = Duration::from_secs(30);
/// Where distributions keep the authorities that this machine trusts, in the order of their likelihood.
const SYSTEM_CAS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

const PORT_HINT: &str = "is it the port for proxies, 5678, of a zone?";

/// What is asked of the zone. The names are the wire's.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    mesh: String,
    name: String,
    proxy_type: &'static str,
    dataplane_token: String,
    dataplane_token_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataplane_resource: Option<String>,
    version: Value,
    ca_cert: String,
    dynamic_metadata: Value,
    operating_system: &'static str,
    features: &'static [&'static str],
    resources: Value,
    workdir: String,
    metrics_resources: Value,
    system_ca_path: &'static str,
    ipv6_enabled: bool,
    spire_resources: Value,
}

#[derive(Deserialize)]
struct Answer {
    bootstrap: String,
}

/// What the proxy is and trusts; together the request.
pub struct Identity<'a> {
    pub proxy: &'a Proxy,
    pub token: &'a str,
    pub ca_pem: Option<&'a str>,
    pub envoy: &'a Version,
    pub workdir: &'a Path,
}

impl Request {
    pub fn new(args: &Run, identity: &Identity<'_>) -> Request {
        let system_ca = SYSTEM_CAS.iter().find(|path| Path::new(path).exists());
        Request {
            mesh: identity.proxy.mesh.clone(),
            name: identity.proxy.name.clone(),
            proxy_type: "dataplane",
            dataplane_token: identity.token.to_owned(),
            dataplane_token_path: args.dataplane_token_file.display().to_string(),
            dataplane_resource: identity.proxy.document.clone(),
            version: json!({
                "kumaDp": {"version": shared_node::VERSION, "gitTag": "", "gitCommit": "", "buildDate": ""},
                "envoy": {
                    "version": identity.envoy.number,
                    "build": identity.envoy.build,
                    "kumaDpCompatible": identity.envoy.is_tested(),
                },
            }),
            ca_cert: identity.ca_pem.unwrap_or_default().to_owned(),
            dynamic_metadata: json!({}),
            operating_system: std::env::consts::OS,
            features: &["feature-delta-grpc"],
            resources: json!({"maxHeapSizeBytes": 0}),
            workdir: identity.workdir.display().to_string(),
            metrics_resources: json!({"certPath": "", "keyPath": ""}),
            system_ca_path: system_ca.copied().unwrap_or_default(),
            ipv6_enabled: Path::new("/proc/net/if_inet6").exists(),
            spire_resources: json!({"socketPath": ""}),
        }
    }
}

/// The way to the zone.
pub struct Zone {
    http: reqwest::Client,
    address: Url,
}

/// What one attempt gave.
enum Attempt {
    Answered(Vec<u8>),
    /// Worth another try.
    NotYet(String),
    /// Asking again does not help.
    Final(anyhow::Error),
}

impl Zone {
    /// `trust` are the only authorities that are trusted; without them, those that this machine trusts.
    pub fn new(address: &str, trust: Option<rustls::ClientConfig>) -> Result<Zone> {
        let url = Url::parse(address).ok().filter(|url| url.has_host());
        let url = url
            .ok_or_else(|| anyhow!("--cp-address {address:?} is not an address: write https://HOST:5678"))?;
        if url.scheme() != "https" {
            bail!(
                "--cp-address {address:?} is not encrypted, and the token goes there: write https://HOST:5678"
            );
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("weft-dp/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER_WITHIN)
            .no_proxy();
        let hint = if trust.is_none() { ": give --ca-cert-file" } else { "" };
        if let Some(trust) = trust {
            http = http.tls_backend_preconfigured(trust);
        }
        let http = http.build().map_err(|error| anyhow!("cannot set up TLS: {}{hint}", innermost(&error)))?;
        Ok(Zone { http, address: url })
    }

    fn name(&self) -> &str {
        self.address.as_str().trim_end_matches('/')
    }

    /// Asks until there is a bootstrap, a final refusal, or the time is up.
    pub async fn bootstrap(&self, request: &Request, patience: Duration) -> Result<Vec<u8>> {
        let begin = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut said: Option<(String, Instant)> = None;
        loop {
            let reason = match self.attempt(request).await {
                Attempt::Answered(bootstrap) => return Ok(bootstrap),
                Attempt::Final(error) => return Err(error),
                Attempt::NotYet(reason) => reason,
            };
            let left = patience.saturating_sub(begin.elapsed());
            if left.is_zero() {
                bail!("no bootstrap within {}: {reason}", shared_model::Duration(patience));
            }
            if said.as_ref().is_none_or(|(text, at)| *text != reason || at.elapsed() > REMIND) {
                tracing::warn!("no bootstrap yet, trying again: {reason}");
                said = Some((reason, Instant::now()));
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt(&self, request: &Request) -> Attempt {
        let mut url = self.address.clone();
        url.set_path("/bootstrap");
        // The server tells JSON from YAML by this header, exactly as it is.
        let asked = self.http.post(url).header("accept", "application/json").json(request).send().await;
        let (status, body) = match asked {
            Err(error) => return self.unreachable(&error),
            Ok(response) => {
                let status = response.status();
                match response.text().await {
                    Ok(body) => (status, body),
                    Err(error) => return self.unreachable(&error),
                }
            }
        };
        let name = self.name();
        match status {
            StatusCode::OK => match decode(&body) {
                Ok(bootstrap) => Attempt::Answered(bootstrap),
                Err(error) => Attempt::Final(error.context(format!("{name} answered without a bootstrap"))),
            },
            StatusCode::NOT_FOUND if body.is_empty() => {
                let (mesh, proxy) = (&request.mesh, &request.name);
                Attempt::NotYet(format!("{name} has no Dataplane {mesh}/{proxy} yet"))
            }
            // The two that a zone refuses a proxy with; others come from something else that listens there.
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                Attempt::Final(anyhow!("{name} refused this proxy: {}", reason(status, &body)))
            }
            status if status.is_client_error() => {
                let reason = reason(status, &body);
                Attempt::Final(anyhow!("{name} gives no bootstrap ({PORT_HINT}): {reason}"))
            }
            status => Attempt::NotYet(format!("{name} cannot answer: {}", reason(status, &body))),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Attempt {
        let name = self.name();
        if let Some(tls) = find::<rustls::Error>(error) {
            // A control plane that is not the one to be trusted does not become it.
            if let rustls::Error::InvalidCertificate(reason) = tls {
                return Attempt::Final(anyhow!("cannot trust {name}: {}", certificate_sentence(reason)));
            }
            if let rustls::Error::InvalidMessage(_) = tls {
                return Attempt::Final(anyhow!("{name} does not speak TLS ({PORT_HINT})"));
            }
            return Attempt::NotYet(format!("no TLS with {name}: {tls}"));
        }
        Attempt::NotYet(match find::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => {
                format!("cannot reach {name}: connection refused (is zone-cp running?)")
            }
            _ if error.is_timeout() => {
                format!("{name} did not answer within {}", shared_model::Duration(ANSWER_WITHIN))
            }
            _ => format!("cannot reach {name}: {}", innermost(error)),
        })
    }
}

fn decode(body: &str) -> Result<Vec<u8>> {
    let answer: Answer =
        serde_json::from_str(body).map_err(|_| anyhow!("the answer is not the JSON of a bootstrap"))?;
    let bootstrap = BASE64_STANDARD.decode(answer.bootstrap).context("the bootstrap is not base64")?;
    if bootstrap.is_empty() { bail!("the bootstrap is empty") } else { Ok(bootstrap) }
}

/// The server's reason: plain text, or the detail of an error in JSON.
fn reason(status: StatusCode, body: &str) -> String {
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    let detail = json["detail"].as_str().or(json["title"].as_str()).unwrap_or(body).trim();
    match detail {
        "" => status.to_string(),
        detail => detail.chars().take(1000).collect(),
    }
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
            "its certificate is for other names (zone-cp run --tls-san adds one)".to_owned()
        }
        other => format!("its certificate is not valid: {other}"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bootstrap_is_taken_out_of_its_answer() {
        let body = json!({"bootstrap": BASE64_STANDARD.encode("node: {}"), "kumaSidecarConfiguration": {}})
            .to_string();
        assert_eq!(decode(&body).expect("decoded"), b"node: {}");
        for bad in ["", "{}", "{\"bootstrap\":\"\"}", "{\"bootstrap\":\"***\"}"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_https_is_asked() {
        shared_node::tls::install_crypto();
        let error = |address: &str| Zone::new(address, None).err().expect("refused").to_string();
        assert!(error("http://127.0.0.1:5678").contains("is not encrypted"));
        assert!(error("127.0.0.1:5678").contains("write https://HOST:5678"));
        let trust = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        assert!(Zone::new("https://127.0.0.1:5678", Some(trust)).is_ok());
    }

    #[test]
    fn a_reason_is_the_servers() {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        assert_eq!(reason(status, " mesh \"x\" does not exist\n"), "mesh \"x\" does not exist");
        assert_eq!(reason(status, r#"{"title":"t","detail":"d"}"#), "d");
        assert_eq!(reason(status, ""), "422 Unprocessable Entity");
    }
}
