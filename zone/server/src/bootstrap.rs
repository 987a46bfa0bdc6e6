//! `POST /bootstrap`: what an Envoy starts with. The request and the answers are those of Kuma, so that its agent works.
//!
//! The transport is always delta: a control plane decides for its proxies by what it writes here.
mod document;

use crate::catalogs::Catalogs;
use crate::metrics::Metrics;
use crate::proxies::admission;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use document::{Admin, Facts};
use serde::Deserialize;
use serde_json::{Value, json};
use shared_model::core::Dataplane;
use shared_model::{Problem, Resource, strict};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;
use x509_parser::pem::Pem;
use zone_index::ProxyId;

/// A request carries a Dataplane and a CA: far below this, in bytes.
const REQUEST_MAX: usize = 1 << 20;

/// The admin port of an Envoy whose Dataplane names none.
pub const ADMIN_PORT: u16 = 9901;

/// What a bootstrap needs to know of this control plane.
pub struct Bootstrap {
    pub zone: String,
    pub catalogs: Catalogs,
    /// The authority behind the serving certificate.
    pub ca_pem: String,
    /// The names that the serving certificate is good for.
    pub names: BTreeSet<String>,
    pub xds_port: u16,
    pub loaded: watch::Receiver<bool>,
    pub metrics: Metrics,
}

/// As Kuma's agent sends it; what is not used here is not read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Request {
    mesh: String,
    name: String,
    proxy_type: String,
    dataplane_token: String,
    dataplane_token_path: String,
    dataplane_resource: String,
    version: Value,
    ca_cert: String,
    dynamic_metadata: Option<Value>,
    features: Vec<String>,
    workdir: String,
    system_ca_path: String,
    readiness_port: Option<u16>,
}

/// Why there is no bootstrap: the status tells an agent whether to try again.
#[derive(Debug, PartialEq)]
enum Refused {
    /// 400 without a body.
    Unreadable,
    /// 400: the address or the CA that the agent uses does not fit the server.
    Unsuitable(String),
    /// 422: the request is not valid.
    Invalid(String),
    /// 404 without a body: the agent waits for its Dataplane.
    NoDataplane,
    /// 503: the state is not loaded yet; the agent tries again.
    NotLoaded(String),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Refused::Unreadable => (StatusCode::BAD_REQUEST, String::new()),
            Refused::Unsuitable(reason) => (StatusCode::BAD_REQUEST, reason),
            Refused::Invalid(reason) => (StatusCode::UNPROCESSABLE_ENTITY, reason),
            Refused::NoDataplane => (StatusCode::NOT_FOUND, String::new()),
            Refused::NotLoaded(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
        };
        (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
    }
}

pub fn router(bootstrap: Arc<Bootstrap>) -> Router {
    Router::new()
        .route("/bootstrap", post(serve))
        .layer(axum::extract::DefaultBodyLimit::max(REQUEST_MAX))
        .with_state(bootstrap)
}

async fn serve(
    State(bootstrap): State<Arc<Bootstrap>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // Over HTTP/2 the host stands in `:authority`, which becomes a part of the URI.
    let host = text(header::HOST).or_else(|| uri.authority().map(|authority| authority.as_str()));
    match bootstrap.make(&body, host) {
        Err(refused) => {
            tracing::warn!(?refused, "a bootstrap is refused");
            refused.into_response()
        }
        Ok((envoy, address)) => {
            bootstrap.metrics.bootstraps.inc();
            let yaml = envoy.to_string();
            if text(header::ACCEPT) == Some("application/json") {
                let body = json!({
                    "bootstrap": base64::engine::general_purpose::STANDARD.encode(yaml),
                    "kumaSidecarConfiguration": {
                        "networking": {"corefileTemplate": null, "address": address},
                        "metrics": {"aggregate": []},
                    },
                });
                axum::Json(body).into_response()
            } else {
                ([(header::CONTENT_TYPE, "text/x-yaml")], yaml).into_response()
            }
        }
    }
}

impl Bootstrap {
    /// Envoy's bootstrap, and the address of the proxy.
    fn make(&self, body: &[u8], host: Option<&str>) -> Result<(Value, String), Refused> {
        if !*self.loaded.borrow() {
            return Err(Refused::NotLoaded(format!("zone {} has not loaded its state yet", self.zone)));
        }
        let request: Request = serde_json::from_slice(body).map_err(|_| Refused::Unreadable)?;
        let invalid = |reason: String| Err(Refused::Invalid(reason));
        match request.proxy_type.as_str() {
            "" | "dataplane" => {}
            other => return invalid(format!("proxyType {other:?} is not supported: dataplane")),
        }
        // Only that there is one: it is checked where it counts, on the stream.
        if request.dataplane_token.trim().is_empty() && request.dataplane_token_path.is_empty() {
            return invalid("dataplane token is required: pass it to the agent".to_owned());
        }
        let host = self.host(host)?;
        let id = ProxyId::new(request.mesh.as_str(), request.name.as_str());
        let names = [
            shared_model::names::check_mesh("mesh", &id.mesh),
            shared_model::names::check_name("name", &id.name),
        ];
        if let Some(problem) = names.into_iter().flatten().next() {
            return invalid(problem.to_string());
        }
        let dataplane = self.dataplane(&request, &id)?;
        let ca_pem = self.authority(&request.ca_cert)?;
        let networking = &dataplane.networking;
        let port =
            networking.admin.as_ref().map(|admin| admin.port).filter(|port| *port != 0).unwrap_or(ADMIN_PORT);
        let facts = Facts {
            id: &id,
            cluster: networking.inbound.iter().find_map(|inbound| inbound.service()).unwrap_or(&id.name),
            token: request.dataplane_token.trim(),
            resource: &request.dataplane_resource,
            admin: Admin { port },
            version: &request.version,
            dynamic_metadata: request.dynamic_metadata.as_ref(),
            features: &request.features,
            workdir: &request.workdir,
            system_ca_path: &request.system_ca_path,
            readiness_port: request.readiness_port,
            xds_host: &host,
            xds_port: self.xds_port,
            ca_pem: &ca_pem,
        };
        Ok((facts.document(), networking.address.clone()))
    }

    /// The name under which the agent reached us, which is also where its Envoy will dial.
    fn host(&self, header: Option<&str>) -> Result<String, Refused> {
        let header = header.ok_or_else(|| Refused::Unsuitable("the request names no host".into()))?;
        let authority: axum::http::uri::Authority =
            header.parse().map_err(|_| Refused::Unsuitable(format!("{header:?} is not a host")))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let same = |name: &String| match (name.parse::<IpAddr>(), host.parse::<IpAddr>()) {
            (Ok(one), Ok(other)) => one == other,
            _ => *name == host,
        };
        if self.names.iter().any(same) {
            return Ok(host);
        }
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let reason = format!(
            "the certificate of this control plane is not for {host:?} but for {}; use one of these, or start it with --tls-san {host}",
            names.join(", ")
        );
        Err(Refused::Unsuitable(reason))
    }

    /// The Dataplane that the agent brings, or the stored one.
    fn dataplane(&self, request: &Request, id: &ProxyId) -> Result<Dataplane, Refused> {
        let mesh_missing = || Refused::Invalid(format!("mesh {:?} does not exist", id.mesh));
        let resource: Arc<Resource> = if request.dataplane_resource.is_empty() {
            let stored = self.catalogs.owned().get(&id.key()).cloned();
            stored.ok_or(Refused::NoDataplane)?
        } else {
            let read = admission::dataplane(&request.dataplane_resource, id, &self.zone);
            Arc::new(read.map_err(Refused::Invalid)?)
        };
        if !self.catalogs.has_mesh(&id.mesh) {
            return Err(mesh_missing());
        }
        strict::read(&resource.spec, "").map_err(|problem: Problem| Refused::Invalid(problem.to_string()))
    }

    /// What the proxy's Envoy trusts for this control plane: the agent's CA first, else ours.
    fn authority(&self, given: &str) -> Result<String, Refused> {
        if given.trim().is_empty() {
            return Ok(self.ca_pem.clone());
        }
        let unusable = |reason: String| {
            Refused::Unsuitable(format!("the CA that the agent sent cannot be used: {reason}"))
        };
        shared_node::tls::roots(given).map_err(|error| unusable(format!("{error:#}")))?;
        match Pem::iter_from_buffer(given.as_bytes()).flatten().any(|pem| is_leaf(&pem)) {
            true => Err(unusable("it holds a certificate that is no authority's".to_owned())),
            false => Ok(given.to_owned()),
        }
    }
}

/// True for a certificate that says that it signs no others. Envoy would trust nobody because of it.
fn is_leaf(pem: &Pem) -> bool {
    let Ok(certificate) = pem.parse_x509() else { return false };
    certificate.basic_constraints().is_ok_and(|found| found.is_some_and(|constraints| !constraints.value.ca))
}

#[cfg(test)]
mod tests;
