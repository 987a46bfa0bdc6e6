//! Control planes that are started here, each in a directory of its own: a zone that stands alone, a global control plane
//! and the zones that follow it, or the floor.
use crate::floor;
use crate::graph::Graph;
use crate::target::Address;
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// What to start.
#[derive(Clone, Debug, PartialEq)]
pub enum Program {
    /// A `zone-cp` at this path.
    Zone(PathBuf),
    /// A `global-cp` at this path.
    Global(PathBuf),
    /// A `zone-cp` that follows a global control plane.
    Follower { path: PathBuf, zone: String, global: String, ca_file: PathBuf, token: String },
    /// This program's own floor, of this shape.
    Floor(floor::Shape),
}

/// A control plane that runs as long as this is kept.
pub struct Launched {
    program: Program,
    child: Child,
    dir: TempDir,
    ports: Ports,
}

#[derive(Clone, Copy)]
struct Ports {
    /// Where proxies connect; at a global control plane, zones.
    xds: SocketAddr,
    api: SocketAddr,
    api_https: SocketAddr,
    peers: SocketAddr,
    diagnostics: SocketAddr,
}

impl Launched {
    pub async fn start(program: Program) -> Result<Launched> {
        let dir = tempfile::tempdir()?;
        let ports = free_ports()?;
        let child = spawn(&program, &dir, ports)?;
        let mut launched = Launched { program, child, dir, ports };
        launched.ready().await?;
        Ok(launched)
    }

    /// Kills it and starts it again on the same ports, with what it has on disk.
    pub async fn restart(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(&self.program, &self.dir, self.ports)?;
        self.ready().await
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> Address {
        Address {
            api: format!("http://{}", self.ports.api),
            xds: format!("https://{}", self.ports.xds),
            ca_file: Some(self.dir.path().join("data/tls/ca.crt")),
            pid: Some(self.pid()),
        }
    }

    /// Where its metrics are, if it has any.
    pub fn metrics(&self) -> Option<String> {
        match self.program {
            Program::Zone(_) | Program::Follower { .. } | Program::Global(_) => {
                Some(format!("http://{}/metrics", self.ports.diagnostics))
            }
            Program::Floor(_) => None,
        }
    }

    /// What a metric without labels says.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let url = self.metrics().context("it has no metrics")?;
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
        let text = http.get(&url).send().await?.error_for_status()?.text().await?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = lines.next().with_context(|| format!("{url} has no {name}"))?;
        value.trim().parse().with_context(|| format!("{name} is {value:?}"))
    }

    async fn ready(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("http://{}/", self.ports.api);
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

fn spawn(program: &Program, dir: &TempDir, ports: Ports) -> Result<Child> {
    let Ports { xds, api, api_https, peers, diagnostics } = ports;
    let mut command = match program {
        Program::Zone(path) => zone(path, "z"),
        Program::Follower { path, zone: name, global, ca_file, token } => {
            let file = dir.path().join("token");
            std::fs::write(&file, token)?;
            let mut command = zone(path, name);
            command.args(["--global", global]).arg("--global-ca-file").arg(ca_file);
            command.arg("--zone-token-file").arg(file);
            command
        }
        Program::Global(path) => {
            let mut command = Command::new(path);
            command.args(["run", "--log-level", "error", "--api-https-bind", &api_https.to_string()]);
            command.args(["--peer-bind", &peers.to_string(), "--link-advertise", &format!("https://{xds}")]);
            command
        }
        Program::Floor(shape) => {
            let mut command = Command::new(std::env::current_exe().context("this program")?);
            command.arg("floor").args(shape.arguments());
            command
        }
    };
    command.arg("--data-dir").arg(dir.path().join("data"));
    let door = if matches!(program, Program::Global(_)) { "--link-bind" } else { "--xds-bind" };
    command.args([door, &xds.to_string(), "--api-bind", &api.to_string()]);
    if !matches!(program, Program::Floor(_)) {
        command.args(["--diagnostics-bind", &diagnostics.to_string()]);
    }
    let log = File::options().create(true).append(true).open(dir.path().join("log"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))
}

fn zone(path: &Path, name: &str) -> Command {
    let mut command = Command::new(path);
    // A line per connection would be measured too.
    command.args(["run", "--zone", name, "--log-level", "error"]);
    command
}

/// Ports that nobody had a moment ago.
fn free_ports() -> Result<Ports> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners = [listen()?, listen()?, listen()?, listen()?, listen()?];
    let [xds, api, api_https, peers, diagnostics] = listeners.each_ref().map(TcpListener::local_addr);
    Ok(Ports { xds: xds?, api: api?, api_https: api_https?, peers: peers?, diagnostics: diagnostics? })
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
