//! What the operator chooses: a YAML file, overridden by `WEFT_…` variables, overridden by flags.
use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use shared_model::Duration;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The configuration of `zone-cp`. Keys of the file are those of the flags in camel case; unknown ones are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// The zone's name.
    pub zone: String,
    /// Where the zone keeps its state.
    pub data_dir: PathBuf,
    /// The link of the global control plane, `https://host:5685`; of several nodes, with commas between. They are where
    /// the zone begins: global tells it of all its nodes. Absent: the zone stands alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<String>,
    /// The authority that global's certificate is checked against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_ca_file: Option<PathBuf>,
    /// The zone token, with the scope `cp`. It is traded for a certificate, and not read again while that is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_token_file: Option<PathBuf>,
    /// The id of the zone, for a replica whose store is its own: the one that another replica has made. Absent: made at
    /// the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_id: Option<String>,
    /// Bootstrap and xDS for the proxies, TLS.
    pub xds_bind: SocketAddr,
    /// The REST API, plain HTTP: keep it on loopback, where the caller is an administrator.
    pub api_bind: SocketAddr,
    /// The REST API over TLS, for callers with a user token. Absent: not served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_https_bind: Option<SocketAddr>,
    /// Metrics and health.
    pub diagnostics_bind: SocketAddr,
    /// Further names of the serving certificate.
    pub tls_san: Vec<String>,
    /// How long a proxy that has gone is kept as a Dataplane.
    pub deregistration_delay: Duration,
    /// Compute everything twice, carried from change to change and from scratch, and count what differs
    /// (`weft_verify_mismatches`). For tests and for hunting faults: it costs a whole zone per change.
    pub verify: bool,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Config {
            zone: String::new(),
            data_dir: PathBuf::new(),
            global: None,
            global_ca_file: None,
            zone_token_file: None,
            zone_id: None,
            xds_bind: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5678)),
            api_bind: loopback(5681),
            api_https_bind: None,
            diagnostics_bind: loopback(5680),
            tls_san: Vec::new(),
            deregistration_delay: Duration::from_secs(10),
            verify: false,
        }
    }
}

impl Config {
    pub fn parse(text: &str) -> Result<Config> {
        let value = shared_model::document::parse(text).map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let value = if value.is_null() { serde_json::json!({}) } else { value };
        shared_model::strict::read(&value, "").map_err(|problem| anyhow::anyhow!("{problem}"))
    }

    pub fn is_federated(&self) -> bool {
        self.global.is_some()
    }

    /// The addresses of global that were named.
    pub fn seeds(&self) -> Vec<String> {
        let urls = self.global.iter().flat_map(|global| global.split(','));
        urls.map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect()
    }

    /// Refuses what cannot work, before anything is touched.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.zone.is_empty(), "--zone is missing: the name of this zone");
        if let Some(problem) = shared_model::names::check_mesh("--zone", &self.zone) {
            bail!("{problem}");
        }
        ensure!(
            !self.data_dir.as_os_str().is_empty(),
            "--data-dir is missing: where the zone keeps its state"
        );
        if let Some(id) = &self.zone_id {
            let good = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
            ensure!(good, "--zone-id {id:?} is not up to 64 hexadecimal digits and '-'");
        }
        match &self.global {
            Some(url) => {
                ensure!(!self.seeds().is_empty(), "--global {url:?} is not of the form https://host:5685");
                for url in self.seeds() {
                    let uri: http::Uri =
                        url.parse().with_context(|| format!("--global {url:?} is not an address"))?;
                    let https = uri.scheme_str() == Some("https") && uri.host().is_some();
                    ensure!(https, "--global {url:?} is not of the form https://host:5685");
                }
                ensure!(
                    self.global_ca_file.is_some(),
                    "--global needs --global-ca-file, to know who answers"
                );
                ensure!(self.zone_token_file.is_some(), "--global needs --zone-token-file, to say who calls");
            }
            None => {
                let unused = self.global_ca_file.is_some() || self.zone_token_file.is_some();
                ensure!(!unused, "--global-ca-file and --zone-token-file are of no use without --global");
            }
        }
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
        let mut config = Config { zone: "z".into(), data_dir: "d".into(), ..Config::default() };
        config.tls_san = vec!["cp.example".into()];
        assert_eq!(Config::parse(&config.print().unwrap()).unwrap(), config);
        assert!(config.check().is_ok());
    }

    #[test]
    fn what_cannot_work_is_named() {
        let refused = |config: Config| config.check().unwrap_err().to_string();
        let good = Config { zone: "z".into(), data_dir: "d".into(), ..Config::default() };
        assert!(refused(Config { zone: "Z!".into(), ..good.clone() }).contains("--zone"));
        assert!(refused(Config { data_dir: "".into(), ..good.clone() }).contains("--data-dir"));
        assert!(
            refused(Config { global: Some("http://g:5685".into()), ..good.clone() }).contains("https://host")
        );
        assert!(
            refused(Config { global: Some("https://g:5685".into()), ..good.clone() })
                .contains("--global-ca-file")
        );
        assert!(refused(Config { zone_token_file: Some("t".into()), ..good }).contains("without --global"));
        assert!(Config::parse("zoen: a").unwrap_err().to_string().contains("zoen"));
    }
}
