//! The command line.
use clap::{Args, Parser, Subcommand, ValueEnum};
use shared_node::telemetry;
use std::{ffi::OsString, path::PathBuf, time::Duration};

#[derive(Debug, Parser)]
#[command(name = "weft-dp", version, about = "Runs Envoy beside an application, as a proxy of a Weft mesh.")]
#[command(disable_help_subcommand = true)]
#[command(after_help = "\
Exit codes:
  0        Envoy ended well
  1        an error before Envoy ran: one sentence says which
  2        wrong usage
  other    Envoy's own; 128 + N when signal N ended it")]
pub struct Cli {
    #[command(flatten)]
    pub log: telemetry::Flags,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Get a bootstrap from the zone and run Envoy with it
    Run(Box<Run>),
    /// Show the version
    Version,
    /// Becomes Envoy, and ends when the process that started it ends
    #[command(hide = true)]
    Leash(Leash),
}

#[derive(Debug, Args)]
#[command(after_help = "\
On SIGTERM or SIGINT Envoy stops being healthy and drains: weft-dp waits until no connection is left, at most for the \
drain time, and ends it. A second signal ends it at once. Other signals are passed on (SIGUSR1 reopens its logs).

Examples:
  weft-dp run --cp-address https://127.0.0.1:5678 --ca-cert-file d/z1/tls/ca.crt \\
          --dataplane-file dp.yaml --dataplane-token-file token
  weft-dp run --cp-address https://zone-1:5678 --ca-cert-file ca.crt --dataplane-token-file token \\
          --dataplane-file template.yaml -v name=web-1 -v address=10.0.0.1
  weft-dp run --cp-address https://zone-1:5678 --ca-cert-file ca.crt --dataplane-token-file token \\
          --mesh default --name web-1        # the zone has the Dataplane already")]
pub struct Run {
    /// Where the zone's control plane serves proxies: https://HOST:5678
    #[arg(long, value_name = "URL", env = "WEFT_DP_CP_ADDRESS")]
    pub cp_address: String,
    /// Certificate of the authority that signed the control plane's, PEM [default: those this machine trusts]
    #[arg(long, value_name = "FILE", env = "WEFT_DP_CA_CERT_FILE")]
    pub ca_cert_file: Option<PathBuf>,
    /// The Dataplane, YAML or JSON; {{ KEY }} is filled in; - is stdin
    #[arg(long, value_name = "FILE|-", env = "WEFT_DP_DATAPLANE_FILE")]
    pub dataplane_file: Option<PathBuf>,
    /// The token that the zone gave for this proxy
    #[arg(long, value_name = "FILE", env = "WEFT_DP_DATAPLANE_TOKEN_FILE")]
    pub dataplane_token_file: PathBuf,
    /// Name of the Dataplane; with a file the value of {{ name }}
    #[arg(long, env = "WEFT_DP_NAME", required_unless_present = "dataplane_file")]
    pub name: Option<String>,
    /// Mesh of the Dataplane; with a file the value of {{ mesh }} [default: default]
    #[arg(long, env = "WEFT_DP_MESH")]
    pub mesh: Option<String>,
    /// Value for {{ KEY }} in the Dataplane; may be repeated
    #[arg(short = 'v', long = "var", value_name = "KEY=VALUE", value_parser = pair)]
    pub vars: Vec<(String, String)>,
    /// The Envoy to run [default: from PATH, or beside weft-dp]
    #[arg(long, value_name = "FILE", env = "WEFT_ENVOY")]
    pub envoy_path: Option<PathBuf>,
    /// What Envoy logs
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL", env = "WEFT_DP_ENVOY_LOG_LEVEL")]
    pub envoy_log_level: EnvoyLogLevel,
    /// Worker threads of Envoy [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024), env = "WEFT_DP_CONCURRENCY")]
    pub concurrency: Option<u32>,
    /// How long connections may go on after the end was asked for, or after they were no longer allowed
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s", env = "WEFT_DP_DRAIN_TIME")]
    pub drain_time: Duration,
    /// Directory for the bootstrap and sockets [default: one under the directory for temporary files]
    #[arg(long, value_name = "DIR", env = "WEFT_DP_WORKDIR")]
    pub workdir: Option<PathBuf>,
    /// How long to go on asking a control plane that cannot be reached
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m", env = "WEFT_DP_BOOTSTRAP_TIMEOUT")]
    pub bootstrap_timeout: Duration,
}

#[derive(Debug, Args)]
pub struct Leash {
    /// The process to live as long as
    pub parent: i32,
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EnvoyLogLevel {
    Trace,
    Debug,
    Info,
    #[default]
    Warning,
    Error,
    Critical,
    Off,
}

fn duration(text: &str) -> Result<Duration, String> {
    Ok(shared_model::Duration::parse(text)?.0)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_proxy_has_a_document_or_a_name() {
        let parse = |rest: &str| {
            let line = format!("weft-dp run --cp-address https://h:1 --dataplane-token-file t {rest}");
            Cli::try_parse_from(line.split_whitespace())
        };
        assert!(parse("").is_err());
        assert!(parse("--name web-1").is_ok());
        assert!(parse("--dataplane-file dp.yaml -v a=b --drain-time 5s --concurrency 1").is_ok());
        assert!(parse("--dataplane-file dp.yaml --concurrency 0").is_err());
    }
}
