//! From the arguments to the command, and from its result to the exit code.
use crate::{
    apply,
    args::{Cli, Command, Global, Shell},
    backup,
    client::{ANSWER_WITHIN, Client},
    cluster, config, delete,
    exit::Failure,
    generate, get, history, inspect, out, servers, status, zone,
};
use clap::{CommandFactory, Parser};
use serde_json::Value;
use std::{process::ExitCode, time::Duration};

/// How long to wait for proxies when the caller says nothing.
const WAIT_FOR: Duration = Duration::from_secs(30);

/// What every command of a call shares.
pub struct Session {
    pub global: Global,
}

impl Session {
    /// A client of the chosen server.
    pub fn client(&self) -> anyhow::Result<Client> {
        let server = servers::choose(&self.global)?;
        let client = Client::new(&server, self.global.timeout.unwrap_or(ANSWER_WITHIN))?;
        Ok(client.stale(self.global.stale))
    }

    /// A client for a command that waits: its answers may take their usual time, whatever the wait.
    pub fn waiting_client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(&servers::choose(&self.global)?, ANSWER_WITHIN)?.stale(self.global.stale))
    }

    pub fn wait_for(&self) -> Duration {
        self.global.timeout.unwrap_or(WAIT_FOR)
    }
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Another provider cannot be there before this line.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(anyhow::anyhow!("cannot start: {error}")).end(),
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.end(),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let session = Session { global: cli.global };
    match cli.command {
        Command::Apply(args) => apply::run(&session, args).await,
        Command::Get(args) => get::run(&session, args).await,
        Command::Delete(args) => delete::run(&session, args).await,
        Command::Status(args) => status::run(&session, args).await,
        Command::Inspect(args) => inspect::run(&session, args).await,
        Command::Generate(args) => generate::run(&session, args).await,
        Command::Cluster(args) => cluster::run(&session, args).await,
        Command::Zone(args) => zone::run(&session, args).await,
        Command::History(args) => history::run(&session, args).await,
        Command::Diff(args) => history::diff(&session, args).await,
        Command::Rollback(args) => history::rollback(&session, args).await,
        Command::Backup(args) => backup::run(&session, args).await,
        Command::Restore(args) => backup::restore(args),
        Command::Config(args) => config::run(&session, args).await,
        Command::Version => version(&session).await,
        Command::Completion { shell } => completion(shell),
    }
}

/// A server that cannot be asked is no failure: the client's version is known all the same.
async fn version(session: &Session) -> Result<(), Failure> {
    out::line(format_args!("weftctl {}", env!("CARGO_PKG_VERSION")))?;
    let server = async {
        let client = session.client()?;
        let about: Value = client.read(&[]).await?;
        let text = |key: &str| about[key].as_str().unwrap_or("?").to_owned();
        let mode = match (about["mode"].as_str(), about["zone"].as_str()) {
            (Some(mode), Some(zone)) => format!(" ({mode} {zone})"),
            (Some(mode), None) => format!(" ({mode})"),
            _ => String::new(),
        };
        anyhow::Ok(format!("{}{mode} at {}", text("version"), client.address()))
    };
    match server.await {
        Ok(text) => out::line(format_args!("server {text}")),
        Err(error) => {
            eprintln!("server unknown: {error:#}");
            Ok(())
        }
    }
}

fn completion(shell: Shell) -> Result<(), Failure> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weftctl", &mut script);
    out::text(&String::from_utf8_lossy(&script))
}
