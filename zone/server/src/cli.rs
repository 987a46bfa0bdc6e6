//! The command line of `zone-cp`.
use crate::app;
use crate::config::Config;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::{Args, Parser, Subcommand};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use shared_node::telemetry;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  A zone that stands alone:
    zone-cp run --zone east --data-dir /var/lib/weft/east

  A zone that follows a global control plane:
    zone-cp run --zone east --data-dir /var/lib/weft/east --global https://global.example:5685 \\
        --global-ca-file ca.crt --zone-token-file zone-token

  Is it ready?
    zone-cp health";

#[derive(Parser)]
#[command(name = "zone-cp", version, about = "The control plane of a zone of the mesh", after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    telemetry: telemetry::Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the control plane.
    #[command(after_help = EXAMPLES)]
    Run(Run),
    /// Ask a running control plane whether it is ready; the exit code tells.
    Health {
        /// Where its diagnostics are.
        #[arg(long, env = "WEFT_DIAGNOSTICS_BIND", default_value = "127.0.0.1:5680", value_name = "ADDRESS")]
        diagnostics: SocketAddr,
    },
    /// Print the version.
    Version,
}

#[derive(Args)]
struct Run {
    /// A YAML file with the configuration; flags override it.
    #[arg(long, env = "WEFT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the configuration that results, and end.
    #[arg(long)]
    print_config: bool,
    /// The name of this zone.
    #[arg(long, env = "WEFT_ZONE", value_name = "NAME")]
    zone: Option<String>,
    /// Where the zone keeps its state.
    #[arg(long, env = "WEFT_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The link of the global control plane to follow, for example https://global.example:5685; of several nodes, with
    /// commas between. Without it the zone stands alone.
    #[arg(long, env = "WEFT_GLOBAL", value_name = "URL")]
    global: Option<String>,
    /// The CA that signed global's certificate, PEM.
    #[arg(long, env = "WEFT_GLOBAL_CA_FILE", value_name = "FILE")]
    global_ca_file: Option<PathBuf>,
    /// The zone token, with the scope `cp`.
    #[arg(long, env = "WEFT_ZONE_TOKEN_FILE", value_name = "FILE")]
    zone_token_file: Option<PathBuf>,
    /// The id of this zone, of a further replica with a store of its own [default: made at the first start]
    #[arg(long, env = "WEFT_ZONE_ID", value_name = "ID")]
    zone_id: Option<String>,
    /// Where proxies connect: bootstrap and xDS, TLS [default: 0.0.0.0:5678]
    #[arg(long, env = "WEFT_XDS_BIND", value_name = "ADDRESS")]
    xds_bind: Option<SocketAddr>,
    /// The REST API in plain HTTP; callers from this host are administrators [default: 127.0.0.1:5681]
    #[arg(long, env = "WEFT_API_BIND", value_name = "ADDRESS")]
    api_bind: Option<SocketAddr>,
    /// The REST API over TLS, for callers with a user token; off when absent.
    #[arg(long, env = "WEFT_API_HTTPS_BIND", value_name = "ADDRESS")]
    api_https_bind: Option<SocketAddr>,
    /// Metrics and health [default: 127.0.0.1:5680]
    #[arg(long, env = "WEFT_DIAGNOSTICS_BIND", value_name = "ADDRESS")]
    diagnostics_bind: Option<SocketAddr>,
    /// A further name or address of the serving certificate; may be repeated.
    #[arg(long, env = "WEFT_TLS_SAN", value_delimiter = ',', value_name = "NAME")]
    tls_san: Vec<String>,
    /// Compute everything twice and count what differs; for hunting faults.
    #[arg(long, env = "WEFT_VERIFY", value_parser = clap::builder::FalseyValueParser::new(), hide = true)]
    verify: bool,
}

impl Run {
    fn config(self) -> Result<Config> {
        let mut config = match &self.config {
            None => Config::default(),
            Some(path) => {
                let text = shared_node::file::read(path, "the configuration")?;
                Config::parse(&text).with_context(|| format!("the configuration {}", path.display()))?
            }
        };
        fn set<T>(slot: &mut T, given: Option<T>) {
            if let Some(given) = given {
                *slot = given;
            }
        }
        set(&mut config.zone, self.zone);
        set(&mut config.data_dir, self.data_dir);
        set(&mut config.xds_bind, self.xds_bind);
        set(&mut config.api_bind, self.api_bind);
        set(&mut config.diagnostics_bind, self.diagnostics_bind);
        config.global = self.global.or(config.global);
        config.global_ca_file = self.global_ca_file.or(config.global_ca_file);
        config.zone_token_file = self.zone_token_file.or(config.zone_token_file);
        config.zone_id = self.zone_id.or(config.zone_id);
        config.api_https_bind = self.api_https_bind.or(config.api_https_bind);
        config.tls_san.extend(self.tls_san);
        config.verify |= self.verify;
        config.check()?;
        Ok(config)
    }
}

/// The program.
pub fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Command::Version => println!("zone-cp {}", shared_node::VERSION),
        Command::Health { diagnostics } => app::runtime()?.block_on(health(diagnostics))?,
        Command::Run(run) => {
            let print = run.print_config;
            let config = run.config()?;
            if print {
                print!("{}", config.print()?);
            } else {
                app::run(config, &cli.telemetry)?;
            }
        }
    }
    Ok(())
}

async fn health(diagnostics: SocketAddr) -> Result<()> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let asked = client.get(format!("http://{diagnostics}/readyz").parse()?);
    let answer = tokio::time::timeout(Duration::from_secs(5), asked).await;
    let answer = answer.with_context(|| format!("{diagnostics} does not answer"))?;
    let answer = answer.map_err(|_| anyhow::anyhow!("nothing serves diagnostics at {diagnostics}"))?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    if !status.is_success() {
        bail!("{}", text.trim());
    }
    println!("{}", text.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config> {
        let cli = Cli::try_parse_from(["zone-cp", "run"].iter().chain(args)).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        run.config()
    }

    #[test]
    fn flags_override_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, "zone: east\ndataDir: /d\napiBind: 127.0.0.1:1\n").unwrap();
        let config = config(&["--config", path.to_str().unwrap(), "--zone", "west"]).unwrap();
        assert_eq!((config.zone.as_str(), config.api_bind.port()), ("west", 1));
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
        assert!(config(&["--zone", "east"]).unwrap_err().to_string().contains("--data-dir"));
    }
}
