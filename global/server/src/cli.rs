//! The command line of `global-cp`.
use crate::{app, backup, config::Config, seal};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use global_consensus::Reserve;
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

const RESTORE: &str = "The seal key is not in the backup. It is <data-dir>/seal.key of any node of the cluster that was backed up, 32 bytes;
keep a copy in another place than the backups. WEFT_SEAL_KEY may hold it instead, as 64 hexadecimal digits.
Stop all nodes of the old cluster before the new one starts. The others join it on empty disks. Zones that have seen
revisions after the backup wait for `weftctl zone accept-restore`.

Examples:
  global-cp restore --data-dir /var/lib/weft/global --seal-key-file seal.key weft.backup
  WEFT_SEAL_KEY=$(xxd -p -c 64 seal.key) global-cp restore --data-dir d/global weft.backup";

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
    /// Fills an empty data directory from a backup; `run` starts from there, in a new epoch.
    #[command(after_help = RESTORE)]
    Restore(Restore),
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
struct Restore {
    /// The new node's data directory; it must not be one already.
    #[arg(long, env = "WEFT_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Holds the seal key that the backup names [default: DIR/seal.key].
    #[arg(long, env = "WEFT_SEAL_KEY_FILE", value_name = "FILE")]
    seal_key_file: Option<PathBuf>,
    /// What `weftctl backup` wrote.
    file: PathBuf,
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
    /// How much of the disk is kept free: with less, writes are refused. A size or a percentage [default: 64MiB].
    #[arg(long, env = "WEFT_DISK_RESERVE", value_name = "SIZE")]
    disk_reserve: Option<Reserve>,
    /// The certificate of the cluster's CA, PEM, instead of one that the first node makes.
    #[arg(long, env = "WEFT_CA_CERT_FILE", value_name = "FILE")]
    ca_cert_file: Option<PathBuf>,
    /// The key of that certificate, PEM.
    #[arg(long, env = "WEFT_CA_KEY_FILE", value_name = "FILE")]
    ca_key_file: Option<PathBuf>,
    /// Holds the seal key, instead of DIR/seal.key: 32 bytes, or 64 hexadecimal digits. So does WEFT_SEAL_KEY.
    #[arg(long, env = "WEFT_SEAL_KEY_FILE", value_name = "FILE")]
    seal_key_file: Option<PathBuf>,
    /// How many former versions of resources are kept [default: 10000].
    #[arg(long, env = "WEFT_HISTORY_VERSIONS", value_name = "COUNT")]
    history_versions: Option<u32>,
    /// How many bytes of them are kept [default: 16777216].
    #[arg(long, env = "WEFT_HISTORY_BYTES", value_name = "BYTES")]
    history_bytes: Option<u64>,
    /// How long the certificate of a zone's link is good; renewed at half of it [default: 24h].
    #[arg(long, env = "WEFT_ZONE_CERTIFICATE_LIFETIME", value_name = "DURATION", value_parser = shared_model::Duration::parse)]
    zone_certificate_lifetime: Option<shared_model::Duration>,
    /// A zone that stays away for longer is no longer followed until it comes back [default: 24h].
    #[arg(long, env = "WEFT_ZONE_ABSENCE", value_name = "DURATION", value_parser = shared_model::Duration::parse)]
    zone_absence: Option<shared_model::Duration>,
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
            peer_bind,
            peer_advertise,
            link_advertise,
            join,
            join_token_file,
            election_timeout,
            disk_reserve,
            ..
        } = self;
        let Run { ca_cert_file, ca_key_file, zone_certificate_lifetime, zone_absence, .. } = self;
        let Run { seal_key_file, history_versions, history_bytes, .. } = self;
        config.seal_key_file = seal_key_file.or(config.seal_key_file);
        config.history_versions = history_versions.or(config.history_versions);
        config.history_bytes = history_bytes.or(config.history_bytes);
        config.ca_cert_file = ca_cert_file.or(config.ca_cert_file);
        config.ca_key_file = ca_key_file.or(config.ca_key_file);
        config.zone_certificate_lifetime =
            zone_certificate_lifetime.unwrap_or(config.zone_certificate_lifetime);
        config.zone_absence = zone_absence.unwrap_or(config.zone_absence);
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
        config.disk_reserve = disk_reserve.unwrap_or(config.disk_reserve);
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
        Command::Restore(restore) => {
            let Restore { data_dir, seal_key_file, file } = restore;
            let keys = seal::given(&data_dir, seal_key_file.as_deref())?.ok_or_else(|| {
                anyhow::anyhow!(
                    "the seal key is missing: give --seal-key-file, or WEFT_SEAL_KEY, or put it at {}",
                    data_dir.join("seal.key").display()
                )
            })?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let done = runtime.block_on(backup::restore(&data_dir, &file, &keys))?;
            if seal_key_file.is_some() {
                seal::keep(&data_dir, &keys)?;
            }
            let backup::Restored { epoch, from, first } = done;
            println!(
                "restored revision {from} into {}: epoch {epoch} begins at revision {first}",
                data_dir.display()
            );
            println!("start it: global-cp run --data-dir {}", data_dir.display());
            println!(
                "zones that have seen a revision after {from} wait for: weftctl zone accept-restore NAME"
            );
        }
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
                app::run(config, shutdown::token()?).await
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
