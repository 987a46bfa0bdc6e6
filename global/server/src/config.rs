//! What the operator chooses: a YAML file, overridden by `WEFT_…` variables, overridden by flags.
use crate::peers::papers;
use anyhow::{Context as _, Result, anyhow, ensure};
use global_consensus::Reserve;
use serde::{Deserialize, Serialize};
use shared_model::{Duration, names};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// The configuration of `global-cp`. Keys of the file are those of the flags in camel case; unknown ones are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Where this node keeps the log, certificates and keys.
    pub data_dir: PathBuf,
    /// The REST API, plain HTTP, on loopback only: the caller is an administrator.
    pub api_bind: SocketAddr,
    /// The REST API over TLS, for callers with a user token.
    pub api_https_bind: SocketAddr,
    /// The link that zones dial, TLS.
    pub link_bind: SocketAddr,
    /// What the other nodes of the cluster dial, mutual TLS.
    pub peer_bind: SocketAddr,
    /// `host:port` under which the others reach `peerBind`; made of it and this host's name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_advertise: Option<String>,
    /// `https://host:port` under which zones reach `linkBind`; made of it and this host's name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_advertise: Option<String>,
    /// Nodes of the cluster that an empty disk joins, `https://host:5683`. Of no account once the disk belongs to one.
    pub join: Vec<String>,
    /// The join token, used once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_token_file: Option<PathBuf>,
    /// The longest time without a leader after which a node stands for election. The same on all nodes; wider where they
    /// are further apart. An eighth of it is the heartbeat.
    pub election_timeout: Duration,
    /// How much of the data directory's file system is kept free, `64MiB` or `5%`: with less, writes are refused before
    /// they are proposed, and everything else goes on.
    pub disk_reserve: Reserve,
    /// The cluster's CA, PEM, of an operator who has one: the certificate and its key. Absent: the first node makes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_key_file: Option<PathBuf>,
    /// An operator's seal key: 32 bytes, or 64 hexadecimal digits (several: the first seals, all open). `WEFT_SEAL_KEY` may
    /// hold it instead. Absent: `seal.key` in the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seal_key_file: Option<PathBuf>,
    /// How many former versions of resources are kept, and how much of them, for `weftctl history`, `diff` and `rollback`.
    /// The cluster takes them from the node that started last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_versions: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_bytes: Option<u64>,
    /// How long the certificate of a zone's link is good. A zone asks for the next one at half of it.
    pub zone_certificate_lifetime: Duration,
    /// A zone's replica that stays away for longer is no longer followed. It comes back by a snapshot.
    pub zone_absence: Duration,
    /// Metrics and health.
    pub diagnostics_bind: SocketAddr,
    /// Further names of the serving certificate.
    pub tls_san: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Config {
            data_dir: PathBuf::new(),
            api_bind: loopback(5681),
            api_https_bind: loopback(5682),
            link_bind: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5685)),
            peer_bind: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5683)),
            peer_advertise: None,
            link_advertise: None,
            join: Vec::new(),
            join_token_file: None,
            election_timeout: Duration(std::time::Duration::from_millis(400)),
            disk_reserve: Reserve::default(),
            ca_cert_file: None,
            ca_key_file: None,
            seal_key_file: None,
            history_versions: None,
            history_bytes: None,
            zone_certificate_lifetime: Duration(std::time::Duration::from_secs(24 * 3600)),
            zone_absence: Duration(std::time::Duration::from_secs(24 * 3600)),
            diagnostics_bind: loopback(5680),
            tls_san: Vec::new(),
        }
    }
}

impl Config {
    /// Reads the text of a configuration file.
    pub fn parse(text: &str) -> Result<Config> {
        let value = shared_model::document::parse(text).map_err(|problem| anyhow!("{problem}"))?;
        let value = if value.is_null() { serde_json::json!({}) } else { value };
        shared_model::strict::read(&value, "").map_err(|problem| anyhow!("{problem}"))
    }

    /// Refuses what cannot work, before anything is touched.
    pub fn check(&self) -> Result<()> {
        ensure!(
            !self.data_dir.as_os_str().is_empty(),
            "--data-dir is missing: where this node keeps its state"
        );
        ensure!(
            self.api_bind.ip().is_loopback(),
            "--api-bind {} is not a loopback address: plain HTTP is for callers on this host, others use --api-https-bind",
            self.api_bind
        );
        for name in &self.tls_san {
            let is_dns = names::check_name("", name.strip_prefix("*.").unwrap_or(name)).is_none();
            ensure!(
                is_dns || name.parse::<IpAddr>().is_ok(),
                "--tls-san {name:?} is no DNS name and no address"
            );
        }
        for peer in self.join.iter().chain(&self.peer_advertise) {
            papers::host_and_port(peer)?;
        }
        ensure!(
            self.join.is_empty() || self.join_token_file.is_some(),
            "--join needs --join-token-file: `weftctl cluster join-token` prints a token"
        );
        if let Some(link) = &self.link_advertise {
            ensure!(
                link.starts_with("https://"),
                "--link-advertise {link:?} is not of the form https://host:5685"
            );
            papers::host_and_port(link)?;
        }
        ensure!(
            self.ca_cert_file.is_some() == self.ca_key_file.is_some(),
            "--ca-cert-file and --ca-key-file belong together"
        );
        ensure!(
            self.zone_certificate_lifetime.0 >= std::time::Duration::from_secs(4),
            "--zone-certificate-lifetime {} is too short: a zone needs some seconds to renew it",
            self.zone_certificate_lifetime
        );
        ensure!(
            self.zone_absence.0 >= std::time::Duration::from_secs(1),
            "--zone-absence {} is not at least 1s",
            self.zone_absence
        );
        let election = self.election_timeout.0;
        ensure!(
            (std::time::Duration::from_millis(100)..=std::time::Duration::from_secs(60)).contains(&election),
            "--election-timeout {} is not between 100ms and 1m",
            self.election_timeout
        );
        Ok(())
    }

    /// As YAML that [`Config::parse`] reads back.
    pub fn print(&self) -> Result<String> {
        let value = serde_json::to_value(self)?;
        let fields = value.as_object().context("a configuration is a mapping")?;
        // Each value as JSON, which YAML contains.
        Ok(fields.iter().map(|(key, value)| format!("{key}: {value}\n")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_configuration_reads_back_the_same() {
        let config = Config { data_dir: "d".into(), tls_san: vec!["cp.example".into()], ..Config::default() };
        assert_eq!(Config::parse(&config.print().expect("printed")).expect("read"), config);
        assert!(config.check().is_ok());
    }

    #[test]
    fn what_cannot_work_is_named() {
        let refused = |config: Config| config.check().expect_err("refused").to_string();
        assert!(refused(Config::default()).contains("--data-dir"));
        let open = SocketAddr::from(([0, 0, 0, 0], 5681));
        assert!(
            refused(Config { data_dir: "d".into(), api_bind: open, ..Config::default() })
                .contains("--api-bind")
        );
        let named =
            |name: &str| Config { data_dir: "d".into(), tls_san: vec![name.into()], ..Config::default() };
        assert!(refused(named("bad name!")).contains("--tls-san"));
        assert!(["*.example.com", "10.0.0.1", "::1", "cp"].iter().all(|name| named(name).check().is_ok()));
        let half = Config { data_dir: "d".into(), ca_cert_file: Some("ca".into()), ..Config::default() };
        assert!(refused(half).contains("--ca-key-file"));
        assert!(Config::parse("apiBnid: a").expect_err("refused").to_string().contains("apiBnid"));
        assert!(Config::parse("apiBind: here").expect_err("refused").to_string().contains("apiBind"));
    }
}
