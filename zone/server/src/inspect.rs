//! Questions of an operator about one proxy, asked at its Envoy's admin port. That port is on loopback, so only a proxy
//! of this host can be asked.
use crate::bootstrap::ADMIN_PORT;
use crate::catalogs::Catalogs;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use shared_api::Refused;
use shared_model::core::Dataplane;
use shared_model::strict;
use std::net::IpAddr;
use std::time::Duration;
use zone_index::ProxyId;

/// An Envoy that has not answered by then will not.
const PATIENCE: Duration = Duration::from_secs(10);
/// The dump of a proxy with a thousand services weighs some ten megabytes. In bytes.
const ANSWER_MAX: usize = 64 << 20;

/// Asks a proxy: `what` is `xds`, `stats` or `clusters`.
pub async fn ask(
    catalogs: &Catalogs,
    id: &ProxyId,
    what: &str,
    query: &str,
) -> Result<(String, Bytes), Refused> {
    let missing = || Refused::NotFound(format!("there is no Dataplane {id} in this zone"));
    let resource = catalogs.owned().get(&id.key()).cloned().ok_or_else(missing)?;
    let spec: Dataplane =
        strict::read(&resource.spec, "").map_err(|problem| Refused::Internal(problem.to_string()))?;
    let address = spec.networking.address.as_str();
    if !is_of_this_host(address) {
        return Err(Refused::Unavailable(format!(
            "the proxy {id} runs at {address}: its Envoy's admin port is on that host's loopback and cannot be reached from here; ask there"
        )));
    }
    let port = spec.networking.admin.map(|admin| admin.port).filter(|port| *port != 0).unwrap_or(ADMIN_PORT);
    let path = path(what, query)?;
    let unreachable = |error: &dyn std::fmt::Display| {
        Refused::Unavailable(format!("the Envoy of {id} does not answer at 127.0.0.1:{port}: {error}"))
    };
    let client: Client<HttpConnector, http_body_util::Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let uri = format!("http://127.0.0.1:{port}{path}")
        .parse()
        .map_err(|error| Refused::Internal(format!("{error}")))?;
    let asked = async {
        let answer = client.get(uri).await.map_err(|error| unreachable(&error))?;
        let content = answer.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content = content.unwrap_or("text/plain").to_owned();
        if !answer.status().is_success() {
            return Err(unreachable(&format!("status {}", answer.status())));
        }
        let body = Limited::new(answer.into_body(), ANSWER_MAX)
            .collect()
            .await
            .map_err(|error| unreachable(&error))?;
        Ok((content, body.to_bytes()))
    };
    tokio::time::timeout(PATIENCE, asked).await.map_err(|_| unreachable(&"it took too long"))?
}

/// Envoy's path for a question. Only what is known is passed on of the query: the admin port also stops Envoys.
fn path(what: &str, query: &str) -> Result<String, Refused> {
    let flag = |name: &str| query.split('&').any(|pair| pair == name || pair == format!("{name}=true"));
    let json = query.split('&').any(|pair| pair == "format=json");
    Ok(match what {
        "xds" if flag("include_eds") => "/config_dump?include_eds".to_owned(),
        "xds" => "/config_dump".to_owned(),
        "stats" => {
            let options = [json.then_some("format=json"), flag("usedonly").then_some("usedonly")];
            let options: Vec<&str> = options.into_iter().flatten().collect();
            if options.is_empty() { "/stats".to_owned() } else { format!("/stats?{}", options.join("&")) }
        }
        "clusters" if json => "/clusters?format=json".to_owned(),
        "clusters" => "/clusters".to_owned(),
        other => return Err(Refused::NotFound(format!("{other:?} cannot be asked: xds, stats or clusters"))),
    })
}

/// True for an address that only this host, or a listener of it, can have.
fn is_of_this_host(address: &str) -> bool {
    let Ok(ip) = address.parse::<IpAddr>() else { return false };
    // Binding a port of it is the kernel's own answer to whose address it is.
    ip.is_loopback() || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_questions_reach_the_admin_port() {
        assert_eq!(path("xds", "include_eds=true&x=/quitquitquit").unwrap(), "/config_dump?include_eds");
        assert_eq!(path("stats", "format=json&usedonly").unwrap(), "/stats?format=json&usedonly");
        assert_eq!(path("stats", "filter=../quitquitquit").unwrap(), "/stats");
        assert_eq!(path("clusters", "").unwrap(), "/clusters");
        assert!(path("quitquitquit", "").is_err());
    }

    #[test]
    fn a_foreign_address_is_not_this_host() {
        assert!(is_of_this_host("127.0.0.1") && is_of_this_host("127.0.0.9"));
        assert!(!is_of_this_host("192.0.2.1") && !is_of_this_host("web.example"));
    }
}
