//! From the arguments to Envoy's exit code.
use crate::{
    admin::Admin,
    args::{Cli, Command, Run},
    bootstrap::{Identity, Request, Zone},
    dataplane, envoy, leash,
    supervise::{self, Inbox},
    token,
};
use anyhow::{Context, Result, bail};
use clap::Parser;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// The longest path of a socket, and the name that Envoy's admin socket has in the working directory.
const SOCKET_PATH_MAX: usize = 107;
const ADMIN_SOCKET: &str = "kuma-envoy-admin.sock";

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match &cli.command {
        Command::Version => {
            println!("weft-dp {}", shared_node::VERSION);
            Ok(0)
        }
        Command::Leash(args) => leash::run(args).map(|never| match never {}),
        Command::Run(args) => start(&cli, args),
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: &Cli, args: &Run) -> Result<u8> {
    shared_node::tls::install_crypto();
    // One thread: Envoy ends with the thread that started it, so that must be the one that stays to the end.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let _telemetry = shared_node::telemetry::init(&cli.log, "weft-dp")?;
        run(args).await
    })
}

async fn run(args: &Run) -> Result<u8> {
    let token = token::read(&args.dataplane_token_file)?;
    let (ca_pem, trust) = match &args.ca_cert_file {
        None => (None, None),
        Some(path) => {
            let pem = shared_node::file::read(path, "the CA certificate")?;
            let trust = shared_node::tls::client_config(&pem)
                .with_context(|| format!("cannot use the CA certificate {}", path.display()))?;
            (Some(pem), Some(trust))
        }
    };
    let zone = Zone::new(&args.cp_address, trust)?;
    let proxy = proxy(args)?;
    token::check(&token, &proxy, shared_node::time::now())?;
    let envoy_path = envoy::find(args.envoy_path.as_deref())?;
    let version = envoy::version(&envoy_path).await?;
    if !version.is_tested() {
        tracing::warn!(version = version.number, "weft is not tested with this version of envoy");
    }
    let workdir = Workdir::make(args.workdir.as_deref())?;
    let identity = Identity {
        proxy: &proxy,
        token: &token,
        ca_pem: ca_pem.as_deref(),
        envoy: &version,
        workdir: workdir.path(),
    };
    let request = Request::new(args, &identity);
    let mut inbox = Inbox::open()?;
    let bootstrap = tokio::select! {
        bootstrap = zone.bootstrap(&request, args.bootstrap_timeout) => bootstrap?,
        signal = inbox.asked() => {
            tracing::info!(%signal, "ended before envoy was started");
            return Ok(128 + u8::try_from(signal as i32).unwrap_or_default());
        }
    };
    let admin = Admin::of(&bootstrap)?;
    let path = workdir.path().join("bootstrap.yaml");
    // It holds the token.
    shared_node::file::write_private(&path, &bootstrap)?;
    let line = envoy::command_line(&envoy_path, &path, args);
    let child = leash::command(&line).spawn().context("cannot start envoy")?;
    tracing::info!(
        mesh = proxy.mesh,
        proxy = proxy.name,
        envoy = version.number,
        pid = child.id(),
        workdir = %workdir.path().display(),
        "envoy started"
    );
    supervise::run(child, admin, inbox, args.drain_time).await
}

fn proxy(args: &Run) -> Result<dataplane::Proxy> {
    let mut values: BTreeMap<String, String> = args.vars.iter().cloned().collect();
    for (key, value) in [("name", &args.name), ("mesh", &args.mesh)] {
        if let Some(value) = value {
            values.entry(key.to_owned()).or_insert_with(|| value.clone());
        }
    }
    match (&args.dataplane_file, &args.name) {
        (Some(path), _) => {
            let source =
                if path.as_os_str() == "-" { "stdin".to_owned() } else { path.display().to_string() };
            dataplane::parse(&source, &dataplane::read(path)?, &values)
        }
        (None, Some(name)) => Ok(dataplane::named(args.mesh.as_deref(), name)),
        (None, None) => bail!("give --dataplane-file, or the --name of a Dataplane that the zone has"),
    }
}

/// Where the bootstrap and Envoy's sockets lie: only this user may look in.
enum Workdir {
    Given(PathBuf),
    /// Removed at the end.
    Temporary(tempfile::TempDir),
}

impl Workdir {
    fn make(given: Option<&Path>) -> Result<Workdir> {
        let workdir = match given {
            Some(path) => {
                shared_node::file::private_dir(path)?;
                Workdir::Given(path.canonicalize().with_context(|| format!("cannot use {}", path.display()))?)
            }
            None => {
                let made = tempfile::Builder::new().prefix("weft-dp-").tempdir();
                Workdir::Temporary(
                    made.context("cannot make a directory for temporary files: give --workdir")?,
                )
            }
        };
        let length = workdir.path().join(ADMIN_SOCKET).as_os_str().len();
        if length > SOCKET_PATH_MAX {
            bail!(
                "the working directory {} is too deep: the path of a socket in it has {length} bytes, {SOCKET_PATH_MAX} are allowed",
                workdir.path().display()
            );
        }
        Ok(workdir)
    }

    fn path(&self) -> &Path {
        match self {
            Workdir::Given(path) => path,
            Workdir::Temporary(dir) => dir.path(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_working_directory_is_private_and_not_too_deep() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = Workdir::make(Some(&dir.path().join("a/b"))).expect("made");
        assert!(made.path().is_absolute());
        let deep = dir.path().join("x".repeat(100));
        assert!(Workdir::make(Some(&deep)).err().expect("too deep").to_string().contains("is too deep"));
    }
}
