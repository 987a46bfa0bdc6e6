//! Writes to three nodes of global, beside three of etcd, and beside what the disk and the network take by themselves.
use super::{
    globals::{self, Globals, free_port},
    lab::Lab,
    outcome::{Figure, Goal, Outcome},
};
use crate::{shell, tools};
use anyhow::{Context, Result, bail};
use chaos_tests_process::{
    process::{Launch, Process},
    wait::until,
};
use serde_json::Value;
use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

/// Nodes of each store.
const NODES: usize = 3;

const CLIENTS: [usize; 3] = [1, 64, 1024];

/// Bytes of a value.
const VALUE: usize = 512;

pub fn run(lab: &Lab) -> Result<Outcome> {
    let etcd = tools::bring_etcd()?;
    let dir = globals::new_dir("raft")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = runtime.block_on(Bench { lab, etcd, dir: dir.clone() }.run());
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    measured
}

struct Bench<'a> {
    lab: &'a Lab,
    etcd: PathBuf,
    dir: PathBuf,
}

/// A store that takes writes: who serves it, how it is called, and what keeps it running.
struct Store<R> {
    kind: &'static str,
    args: Vec<String>,
    _running: Vec<R>,
}

/// What was measured one after the other.
struct Round {
    sync: Value,
    trip: Value,
    weft: Value,
    etcd: Value,
}

impl Bench<'_> {
    async fn run(&self) -> Result<Outcome> {
        let global = Globals::start(self.lab, &self.dir, NODES).await?;
        let global = Store { kind: "global", args: global.args.clone(), _running: vec![global] };
        let etcd = self.start_etcd().await?;
        let mut outcome = Outcome::default();
        outcome
            .note("floor: three nodes of etcd, the same clients, value size, TLS and disk, in the same run");
        for clients in CLIENTS {
            // Each in turn, and the disk with them: others on this machine must not hit the one and spare the other.
            let rounds = self.lab.choose(2, 4);
            let mut seen = Vec::new();
            for _ in 0..rounds {
                seen.push(Round {
                    sync: self.measure(&["disk", "--dir", &self.dir.to_string_lossy()])?,
                    trip: self.measure(&["network", "--bytes", &VALUE.to_string()])?,
                    weft: self.load(&global, clients)?,
                    etcd: self.load(&etcd, clients)?,
                });
            }
            let middle = |number: &dyn Fn(&Round) -> Option<f64>| {
                let mut all: Vec<f64> = seen.iter().filter_map(number).collect();
                all.sort_by(f64::total_cmp);
                all.get(all.len() / 2).copied().context("write-load left a figure out")
            };
            let both = |key: &'static str| -> Result<(f64, f64)> {
                Ok((middle(&|seen| seen.weft[key].as_f64())?, middle(&|seen| seen.etcd[key].as_f64())?))
            };
            for key in ["per_second", "p50_ms", "p99_ms"] {
                outcome.add(Figure::beside(format!("{key}_at_{clients}"), both(key)?));
            }
            if clients == 1 {
                outcome.add(Figure::of("round_trip_ms", middle(&|seen| seen.trip["p50_ms"].as_f64())?));
                outcome.add(Figure::of("fdatasync_ms", middle(&|seen| seen.sync["p50_ms"].as_f64())?));
                let ratio = middle(&|Round { weft, trip, sync, .. }| {
                    let least = trip["p50_ms"].as_f64()? + 2.0 * sync["p50_ms"].as_f64()?;
                    Some(weft["p50_ms"].as_f64()? / least)
                })?;
                outcome.add(
                    Figure::of("p50_ratio_to_rtt_plus_two_fdatasync_at_1", ratio).goal(Goal::AtMost(1.5)),
                );
            }
            let ratio = middle(&|Round { weft, etcd, .. }| {
                Some(weft["per_second"].as_f64()? / etcd["per_second"].as_f64()?)
            })?;
            let figure = Figure::of(format!("rate_ratio_to_etcd_at_{clients}"), ratio);
            outcome.add(if clients == 64 { figure.goal(Goal::AtLeast(1.0)) } else { figure });
        }
        Ok(outcome)
    }

    /// Runs `write-load`.
    fn measure(&self, args: &[&str]) -> Result<Value> {
        let mut command = Command::new(self.lab.program("write-load"));
        let text = shell::output(command.args(args))?;
        serde_json::from_str(&text).with_context(|| format!("write-load printed {text:?}"))
    }

    fn load<R>(&self, store: &Store<R>, clients: usize) -> Result<Value> {
        self.lab.say(format!("  {}, {clients} clients", store.kind));
        let [clients, seconds, bytes] =
            [clients.to_string(), self.lab.choose(2, 5).to_string(), VALUE.to_string()];
        let mut args = vec![store.kind, "--clients", &clients, "--seconds", &seconds, "--bytes", &bytes];
        args.extend(store.args.iter().map(String::as_str));
        let measured = self.measure(&args)?;
        if measured["failed"] != 0 {
            bail!("{} with {clients} clients: {measured}", store.kind);
        }
        Ok(measured)
    }

    async fn start_etcd(&self) -> Result<Store<Process>> {
        let mut papers = Command::new(self.lab.program("write-load"));
        shell::run(papers.arg("papers").arg("--dir").arg(&self.dir))?;
        let paper = |name: &str| self.dir.join(name).into_os_string();
        let members: Vec<(String, SocketAddr, SocketAddr)> =
            (0..NODES).map(|at| (format!("etcd-{at}"), free_port(), free_port())).collect();
        let cluster: Vec<String> =
            members.iter().map(|(name, _, peers)| format!("{name}=https://{peers}")).collect();
        let mut args = vec!["--ca-file".to_owned(), self.dir.join("ca.crt").to_string_lossy().into_owned()];
        let mut running = Vec::new();
        for (name, clients, peers) in &members {
            let launch = Launch::new(name, &self.etcd, &self.dir)
                .flag("--name", name)
                .flag("--data-dir", self.dir.join(name))
                .flag("--listen-client-urls", format!("https://{clients}"))
                .flag("--advertise-client-urls", format!("https://{clients}"))
                .flag("--listen-peer-urls", format!("https://{peers}"))
                .flag("--initial-advertise-peer-urls", format!("https://{peers}"))
                .flag("--initial-cluster", cluster.join(","))
                .flag("--cert-file", paper("node.crt"))
                .flag("--key-file", paper("node.key"))
                .flag("--peer-cert-file", paper("node.crt"))
                .flag("--peer-key-file", paper("node.key"))
                .flag("--peer-trusted-ca-file", paper("ca.crt"))
                .arg("--peer-client-cert-auth");
            running.push(launch.start()?);
            args.extend(["--target".to_owned(), format!("https://{clients}")]);
        }
        let store = Store { kind: "etcd", args, _running: running };
        // It answers once it has a leader.
        until("etcd to take a write", || async {
            let mut args = vec!["etcd", "--seconds", "0.01", "--warm-up", "0", "--clients", "3"];
            args.extend(store.args.iter().map(String::as_str));
            self.measure(&args).map(drop)
        })
        .await?;
        Ok(store)
    }
}
