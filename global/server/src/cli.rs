//! The command line of `global-cp`.
use crate::{app::App, config::Config};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use shared_node::{file, shutdown, telemetry};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

const EXAMPLES: &str = "Examples:
  global-cp run --data-dir /var/lib/weft/global
  global-cp run --data-dir d/global --tls-san cp.example.com --api-https-bind 0.0.0.0:5682
  global-cp run --data-dir /var/lib/weft/global --join https://cp-1:5683 --join-token-file join-token
  global-cp run --config global.yaml --print-config
  global-cp health

The first start writes <data-dir>/admin-token, a user token of the administrator, and <data-dir>/tls/ca.crt, the
authority that zones and clients trust.";

#[derive(Parser)]
#[command(name = "global-cp", about = "Weft's global control plane", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    telemetry: telemetry::Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the control plane until SIGTERM or SIGINT.
    #[command(after_help = EXAMPLES)]
    Run(Run),
    /// Asks a running control plane whether it is ready; the exit code tells.
    Health {
        /// Where its diagnostics are served.
        #[arg(long, env = "WEFT_DIAGNOSTICS_BIND", default_value = "127.0.0.1:5680", value_name = "ADDRESS")]
        diagnostics_bind: SocketAddr,
    },
    /// Prints the version.
    Version,
}

#[derive(Args)]
struct Run {
    /// Where this node keeps the log, certificates and keys.
    #[arg(long, env = "WEFT_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The REST API, plain HTTP, on loopback only [default: 127.0.0.1:5681].
    #[arg(long, env = "WEFT_API_BIND", value_name = "ADDRESS")]
    api_bind: Option<SocketAddr>,
    /// The REST API over TLS [default: 127.0.0.1:5682].
    #[arg(long, env = "WEFT_API_HTTPS_BIND", value_name = "ADDRESS")]
    api_https_bind: Option<SocketAddr>,
    /// The link that zones dial [default: 0.0.0.0:5685].
    #[arg(long, env = "WEFT_LINK_BIND", value_name = "ADDRESS")]
    link_bind: Option<SocketAddr>,
    /// What the other nodes of the cluster dial, mutual TLS [default: 0.0.0.0:5683].
    #[arg(long, env = "WEFT_PEER_BIND", value_name = "ADDRESS")]
    peer_bind: Option<SocketAddr>,
    /// Under which address the others reach it [default: this host's name and the port].
    #[arg(long, env = "WEFT_PEER_ADVERTISE", value_name = "HOST:PORT")]
    peer_advertise: Option<String>,
    /// Under which address zones reach the link [default: this host's name and the port].
    #[arg(long, env = "WEFT_LINK_ADVERTISE", value_name = "URL")]
    link_advertise: Option<String>,
    /// Joins the cluster of this node when the disk is empty; may be given several times, for several nodes.
    #[arg(long, env = "WEFT_JOIN", value_delimiter = ',', value_name = "URL")]
    join: Vec<String>,
    /// Holds a join token: see `weftctl cluster join-token`.
    #[arg(long, env = "WEFT_JOIN_TOKEN_FILE", value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// The longest time without a leader after which a node stands for election, the same on all nodes [default: 400ms].
    #[arg(long, env = "WEFT_ELECTION_TIMEOUT", value_name = "DURATION", value_parser = shared_model::Duration::parse)]
    election_timeout: Option<shared_model::Duration>,
    /// Metrics and health [default: 127.0.0.1:5680].
    #[arg(long, env = "WEFT_DIAGNOSTICS_BIND", value_name = "ADDRESS")]
    diagnostics_bind: Option<SocketAddr>,
    /// A further DNS name or address of the serving certificate; may be given several times.
    #[arg(long, env = "WEFT_TLS_SAN", value_delimiter = ',', value_name = "NAME")]
    tls_san: Vec<String>,
    /// A YAML file with the same settings in camel case, for example `apiBind: 127.0.0.1:5681`.
    #[arg(long, env = "WEFT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints the effective configuration and ends.
    #[arg(long)]
    print_config: bool,
}

impl Run {
    fn config(self) -> Result<Config> {
        let mut config = match &self.config {
            None => Config::default(),
            Some(path) => {
                let text = file::read(path, "the configuration")?;
                Config::parse(&text)
                    .with_context(|| format!("cannot use the configuration {}", path.display()))?
            }
        };
        let Run { data_dir, api_bind, api_https_bind, link_bind, diagnostics_bind, tls_san, .. } = self;
        let Run {
            peer_bind, peer_advertise, link_advertise, join, join_token_file, election_timeout, ..
        } = self;
        config.data_dir = data_dir.unwrap_or(config.data_dir);
        config.api_bind = api_bind.unwrap_or(config.api_bind);
        config.api_https_bind = api_https_bind.unwrap_or(config.api_https_bind);
        config.link_bind = link_bind.unwrap_or(config.link_bind);
        config.diagnostics_bind = diagnostics_bind.unwrap_or(config.diagnostics_bind);
        if !tls_san.is_empty() {
            config.tls_san = tls_san;
        }
        config.peer_bind = peer_bind.unwrap_or(config.peer_bind);
        config.peer_advertise = peer_advertise.or(config.peer_advertise);
        config.link_advertise = link_advertise.or(config.link_advertise);
        if !join.is_empty() {
            config.join = join;
        }
        config.join_token_file = join_token_file.or(config.join_token_file);
        config.election_timeout = election_timeout.unwrap_or(config.election_timeout);
        Ok(config)
    }
}

/// openraft tells several times a second of every replica that it cannot reach. A zone that is away is no news after its
/// link has closed, and what ends the node comes by another way.
const QUIET: &str = "openraft::replication=off";

/// Runs what the command line asks for.
pub fn main() -> Result<()> {
    let mut cli = Cli::parse();
    match cli.command {
        Command::Version => println!("global-cp {}", shared_node::VERSION),
        Command::Health { diagnostics_bind } => health(diagnostics_bind)?,
        Command::Run(run) => {
            let print = run.print_config;
            let config = run.config()?;
            if print {
                print!("{}", config.print()?);
                return Ok(());
            }
            config.check()?;
            cli.telemetry.log_level = format!("{},{QUIET}", cli.telemetry.log_level);
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let ended = runtime.block_on(async {
                let _telemetry = telemetry::init(&cli.telemetry, "global-cp")?;
                App::start(config, shutdown::token()?).await?.wait().await
            });
            // What still runs holds nothing that is not on the disk, and a disk that hangs must not hold up the end.
            runtime.shutdown_timeout(Duration::from_secs(1));
            ended?;
        }
    }
    Ok(())
}

/// A plain HTTP request by hand: the probe needs nothing that the server might lack.
fn health(address: SocketAddr) -> Result<()> {
    let patience = Duration::from_secs(5);
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        write!(stream, "GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(64 << 10).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().with_context(|| format!("cannot ask {address} whether it is ready"))?;
    if answer.starts_with("HTTP/1.1 200 ") {
        println!("ready");
        return Ok(());
    }
    let reason = answer
        .split_once("\r\n\r\n")
        .map_or("", |(_, body)| body)
        .lines()
        .find(|line| line.contains("ready"));
    bail!("{address}: {}", reason.unwrap_or("not ready").trim())
}
