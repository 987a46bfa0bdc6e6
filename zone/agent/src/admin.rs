//! Envoy's admin interface: a socket in the working directory or a port on loopback, as the bootstrap says.
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{path::PathBuf, time::Duration};

/// How long Envoy may take for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
pub struct Admin {
    http: reqwest::Client,
    base: String,
}

/// Where the admin interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Socket(PathBuf),
    Port(String, u64),
}

impl Admin {
    /// The admin interface that a bootstrap opens; `None` when it opens none.
    pub fn of(bootstrap: &[u8]) -> Result<Option<Admin>> {
        let Some(address) = address(bootstrap) else { return Ok(None) };
        // No roots: only this host's Envoy is asked, in plain HTTP.
        let http = reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy().tls_certs_only([]);
        let (http, base) = match address {
            Address::Socket(path) => (http.unix_socket(path), "http://envoy".to_owned()),
            Address::Port(host, port) if host.contains(':') => (http, format!("http://[{host}]:{port}")),
            Address::Port(host, port) => (http, format!("http://{host}:{port}")),
        };
        Ok(Some(Admin { http: http.build().context("cannot set up the way to Envoy")?, base }))
    }

    /// Lets callers see that the proxy goes, and lets connections end one by one.
    pub async fn drain(&self) -> Result<()> {
        self.ask(reqwest::Method::POST, "/healthcheck/fail").await?;
        self.ask(reqwest::Method::POST, "/drain_listeners?graceful").await?;
        Ok(())
    }

    /// Connections that are open to any listener but the admin's own.
    pub async fn connections(&self) -> Result<u64> {
        let text = self.ask(reqwest::Method::GET, "/stats?filter=downstream_cx_active").await?;
        Ok(count(&text))
    }

    async fn ask(&self, method: reqwest::Method, path: &str) -> Result<String> {
        let response = self.http.request(method, format!("{}{path}", self.base)).send().await?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            bail!("{path} was answered {status}");
        }
        Ok(text)
    }
}

fn address(bootstrap: &[u8]) -> Option<Address> {
    let text = std::str::from_utf8(bootstrap).ok()?;
    let value: Value = shared_model::document::parse(text).ok()?;
    let address = &value["admin"]["address"];
    if let Some(path) = address["pipe"]["path"].as_str() {
        return Some(Address::Socket(path.into()));
    }
    let either = |camel: &str, snake: &str, of: &Value| {
        if of[camel].is_null() { of[snake].clone() } else { of[camel].clone() }
    };
    let socket = either("socketAddress", "socket_address", address);
    let port = either("portValue", "port_value", &socket).as_u64()?;
    Some(Address::Port(socket["address"].as_str()?.to_owned(), port))
}

/// Sums up lines such as `listener.127.0.0.1_8080.downstream_cx_active: 3`; those of single workers count the same
/// connections again.
fn count(stats: &str) -> u64 {
    let own = |name: &str| {
        name.starts_with("listener.")
            && !name.starts_with("listener.admin.")
            && name.ends_with(".downstream_cx_active")
            && !name.contains(".worker_")
    };
    let lines = stats.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(name, _)| own(name)).filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bootstrap_says_where_the_admin_is() {
        let of = |text: &str| address(text.as_bytes());
        let pipe = "admin: {address: {pipe: {path: /w/admin.sock, mode: 384}}}";
        assert_eq!(of(pipe), Some(Address::Socket("/w/admin.sock".into())));
        let port = r#"{"admin":{"address":{"socketAddress":{"address":"127.0.0.1","portValue":9901}}}}"#;
        assert_eq!(of(port), Some(Address::Port("127.0.0.1".into(), 9901)));
        let snake = "admin:\n  address:\n    socket_address: {address: ::1, port_value: 1}\n";
        assert_eq!(of(snake), Some(Address::Port("::1".into(), 1)));
        assert_eq!(of("node: {}"), None);
    }

    #[test]
    fn connections_are_counted_once_and_without_our_own() {
        let stats = "\
http.admin.downstream_cx_active: 1
listener.admin.downstream_cx_active: 1
listener.10.0.0.1_8080.downstream_cx_active: 3
listener.10.0.0.1_8080.worker_0.downstream_cx_active: 3
listener.127.0.0.1_9000.downstream_cx_active: 2
cluster.x.upstream_cx_active: 7
";
        assert_eq!(count(stats), 5);
    }
}
