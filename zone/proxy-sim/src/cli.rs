//! The command line.
use crate::documents::Style;
use crate::scenario::{Federation, Register, Scenario, Settings};
use crate::target::Address;
use crate::wire::Protocol;
use crate::{floor, node, scenario, usage};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// A fleet of simulated Envoys against a control plane, and the floor to measure it against.
#[derive(Debug, Parser)]
#[command(name = "proxy-sim", version = shared_node::VERSION, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  # start a zone, connect 1,000 proxies, move an endpoint and change policies, and check the result
  proxy-sim run endpoint policy --launch target/release/zone-cp --verify-against launch
  # the same against the floor
  proxy-sim run endpoint policy --launch floor
  # policies at global, over three zones with a fleet each
  proxy-sim run policy --proxies 300 --global target/release/global-cp --zones 3 --launch target/release/zone-cp
  # against a control plane that runs
  proxy-sim run storm --api http://127.0.0.1:5681 --xds https://127.0.0.1:5678 --ca-file ca.crt --pid 4711";

#[derive(Debug, Subcommand)]
enum Command {
    /// Connects a fleet and runs scenarios with it, one after the other.
    Run(Box<Run>),
    /// Serves prebuilt bytes and computes nothing.
    Floor(floor::Config),
}

#[derive(Debug, Args)]
struct Run {
    /// What to do once the fleet is connected; connecting it is `storm`, which always comes first.
    #[arg(required = true, value_enum)]
    scenarios: Vec<Scenario>,
    /// Starts this control plane for the run: `floor`, or the path of a zone-cp.
    #[arg(long, value_name = "floor|PATH", conflicts_with_all = ["api", "xds"])]
    launch: Option<String>,
    /// Starts this global-cp, and --launch once for each zone; documents are written to it.
    #[arg(long, value_name = "PATH", requires = "launch")]
    global: Option<PathBuf>,
    /// How many zones follow --global; each has all proxies.
    #[arg(long, default_value_t = 3)]
    zones: usize,
    /// How many documents --global holds when `newcomer` starts one more zone.
    #[arg(long, default_value_t = 1000)]
    documents: usize,
    /// The REST API of a control plane that runs.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:5681")]
    api: String,
    /// Its bootstrap and ADS; `http://` is plain text.
    #[arg(long, value_name = "URL", default_value = "https://127.0.0.1:5678")]
    xds: String,
    /// The authority of its certificate; without it, any certificate is good.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Its process, whose CPU and memory are reported.
    #[arg(long)]
    pid: Option<u32>,
    /// A fresh control plane that gets the final documents, and must give every proxy the same: `launch` starts another
    /// one of the same program, else API,XDS[,CA-FILE].
    #[arg(long, value_name = "launch|API,XDS[,CA]")]
    verify_against: Option<String>,
    #[command(flatten)]
    shape: floor::Shape,
    /// The generation of documents.
    #[arg(long, value_enum, default_value = "2.x")]
    style: Style,
    /// The form of ADS; the bootstrap says when absent.
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// How Dataplanes get to the control plane: brought along by their proxies, or written before.
    #[arg(long, value_enum, default_value_t = Register::Metadata)]
    register: Register,
    /// How long each phase of endpoint, idle, memory and slow lasts, in seconds.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    duration: f64,
    /// Moves of the endpoint in a second, one phase each.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100")]
    rates: Vec<f64>,
    /// How long `idle` does nothing at all, in seconds; as long as its other phases when absent.
    #[arg(long, value_name = "SECONDS")]
    rest: Option<f64>,
    /// How often each policy changes.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// How many permissions `crowd` has.
    #[arg(long, default_value_t = 2000)]
    permissions: usize,
    /// How many routes `crowd` has.
    #[arg(long, default_value_t = 1000)]
    routes: usize,
    /// How many replicas `rollout` replaces.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=250))]
    replicas: u8,
    /// How long anything may take before the run fails, in seconds.
    #[arg(long, default_value_t = 120.0, value_name = "SECONDS")]
    deadline: f64,
    /// How many extensions a proxy says it has; an Envoy 1.40 has as many as the default.
    #[arg(long, default_value_t = node::EXTENSIONS)]
    extensions: usize,
    /// Keeps whole configurations, so that a difference can be shown.
    #[arg(long)]
    keep_bodies: bool,
    /// Threads of the simulator; all cores when absent.
    #[arg(long)]
    threads: Option<usize>,
    /// Writes the report here as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(arguments) => shared_node::exit::run(|| run(*arguments)),
        Command::Floor(config) => shared_node::exit::run(|| {
            usage::open_files()?;
            floor::run(&config)
        }),
    }
}

fn run(arguments: Run) -> Result<()> {
    let files = usage::open_files()?;
    let zones = if arguments.global.is_some() { arguments.zones } else { 1 };
    if files < (arguments.shape.proxies * zones) as u64 + 100 {
        bail!("{} proxies need as many open files, and the system allows {files}", arguments.shape.proxies);
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = arguments.threads {
        builder.worker_threads(threads);
    }
    let json = arguments.json.clone();
    let settings = settings(arguments)?;
    shared_node::tls::install_crypto();
    let report = builder.enable_all().build()?.block_on(async {
        // What was launched ends with the run, also when that ends early.
        let stop = shared_node::shutdown::token()?;
        tokio::select! {
            report = scenario::run(&settings) => report,
            () = stop.cancelled() => bail!("told to stop"),
        }
    })?;
    println!("{}", report.table());
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match &report.verified {
        Some(verified) if !verified.is_good() => {
            bail!("not every proxy holds what a fresh control plane gives")
        }
        _ => Ok(()),
    }
}

fn settings(arguments: Run) -> Result<Settings> {
    let address =
        Address { api: arguments.api, xds: arguments.xds, ca_file: arguments.ca_file, pid: arguments.pid };
    let verify_against = match arguments.verify_against.as_deref() {
        None => None,
        Some("launch") if arguments.launch.is_none() => bail!("--verify-against launch needs --launch"),
        Some("launch") => Some(scenario::Fresh::Launch),
        Some(text) => {
            let mut parts = text.split(',').map(str::to_owned);
            let (Some(api), Some(xds)) = (parts.next(), parts.next()) else {
                bail!("--verify-against {text:?} is not launch or API,XDS[,CA-FILE]")
            };
            Some(scenario::Fresh::At(Address {
                api,
                xds,
                ca_file: parts.next().map(PathBuf::from),
                pid: None,
            }))
        }
    };
    let seconds = std::time::Duration::try_from_secs_f64;
    let (zones, documents) = (arguments.zones, arguments.documents);
    let federation = arguments.global.map(|global| Federation { global, zones, documents });
    if federation.is_some() {
        if let Some(one) = arguments.scenarios.iter().find(|scenario| !scenario.spans_zones()) {
            bail!("{one:?} is not for several zones");
        }
        if arguments.register == Register::Rest {
            bail!("with --global, proxies bring their Dataplanes along");
        }
    }
    Ok(Settings {
        scenarios: arguments.scenarios,
        launch: arguments.launch,
        federation,
        address,
        verify_against,
        shape: arguments.shape,
        style: arguments.style,
        protocol: arguments.protocol,
        register: arguments.register,
        duration: seconds(arguments.duration).context("--duration")?,
        rest: seconds(arguments.rest.unwrap_or(arguments.duration)).context("--rest")?,
        rates: arguments.rates,
        rounds: arguments.rounds,
        permissions: arguments.permissions,
        routes: arguments.routes,
        replicas: arguments.replicas,
        deadline: seconds(arguments.deadline).context("--deadline")?,
        extensions: arguments.extensions,
        keep_bodies: arguments.keep_bodies,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
        let cli =
            Cli::parse_from(["proxy-sim", "run", "storm", "policy", "--launch", "floor", "--style", "3.0"]);
        let Command::Run(run) = cli.command else { panic!("not a run") };
        let settings = settings(*run).unwrap();
        assert_eq!(settings.scenarios, [Scenario::Storm, Scenario::Policy]);
        assert_eq!(settings.rates, [1.0, 10.0, 100.0]);
    }
}
