//! Control planes that are started here: a zone that stands alone, in a directory of its own, or the floor.
use crate::floor;
use crate::graph::Graph;
use crate::target::Address;
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// What to start.
#[derive(Clone, Debug, PartialEq)]
pub enum Program {
    /// A `zone-cp` at this path.
    Zone(PathBuf),
    /// This program's own floor, of this shape.
    Floor(floor::Shape),
}

/// A control plane that runs as long as this is kept.
pub struct Launched {
    program: Program,
    child: Child,
    dir: TempDir,
    xds: SocketAddr,
    api: SocketAddr,
    diagnostics: SocketAddr,
}

impl Launched {
    pub async fn start(program: Program) -> Result<Launched> {
        let dir = tempfile::tempdir()?;
        let [xds, api, diagnostics] = free_ports()?;
        let child = spawn(&program, &dir, xds, api, diagnostics)?;
        let mut launched = Launched { program, child, dir, xds, api, diagnostics };
        launched.ready().await?;
        Ok(launched)
    }

    /// Kills it and starts it again on the same ports, with what it has on disk.
    pub async fn restart(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(&self.program, &self.dir, self.xds, self.api, self.diagnostics)?;
        self.ready().await
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> Address {
        Address {
            api: format!("http://{}", self.api),
            xds: format!("https://{}", self.xds),
            ca_file: Some(self.dir.path().join("data/tls/ca.crt")),
            pid: Some(self.pid()),
        }
    }

    async fn ready(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("http://{}/", self.api);
        loop {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                bail!("the control plane has ended with {status}: {log}");
            }
            if client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("the control plane does not answer at {url} within {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    program: &Program,
    dir: &TempDir,
    xds: SocketAddr,
    api: SocketAddr,
    diagnostics: SocketAddr,
) -> Result<Child> {
    let mut command = match program {
        Program::Zone(path) => {
            let mut command = Command::new(path);
            // A line per connection would be measured too.
            command.args(["run", "--zone", "z", "--log-level", "error"]);
            command.args(["--diagnostics-bind", &diagnostics.to_string()]);
            command
        }
        Program::Floor(shape) => {
            let mut command = Command::new(std::env::current_exe().context("this program")?);
            command.arg("floor").args(shape.arguments());
            command
        }
    };
    command.arg("--data-dir").arg(dir.path().join("data"));
    command.args(["--xds-bind", &xds.to_string(), "--api-bind", &api.to_string()]);
    let log = File::options().create(true).append(true).open(dir.path().join("log"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))
}

/// Ports that nobody had a moment ago.
fn free_ports() -> Result<[SocketAddr; 3]> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners = [listen()?, listen()?, listen()?];
    let [one, two, three] = listeners.each_ref().map(TcpListener::local_addr);
    Ok([one?, two?, three?])
}

impl Program {
    /// Reads `floor` or a path; the floor gets the shape of the graph.
    pub fn parse(text: &str, graph: &Graph, shape: &floor::Shape) -> Program {
        match text {
            "floor" => Program::Floor(floor::Shape { proxies: graph.proxies(), ..shape.clone() }),
            path => Program::Zone(path.into()),
        }
    }
}
