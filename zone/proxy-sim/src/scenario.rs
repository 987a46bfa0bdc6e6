//! What is done to a control plane, and what is measured meanwhile. Every run begins with the storm: the whole fleet
//! connects at once.
mod crowd;
mod endpoint;
mod federation;
mod idle;
mod memory;
mod policy;
mod reconnect;
mod rollout;
mod slow;

use crate::documents::{self, Style};
use crate::fleet::{Door, Fleet, Plan};
use crate::floor::Shape;
use crate::graph::Graph;
use crate::launch::{Launched, Program};
use crate::report::{self, Meter, Phase, Report, Spread};
use crate::target::{Address, Target};
use crate::verify::{self, Verified};
use crate::wire::Protocol;
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Nothing came for so long: what was going on is over.
const QUIET: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// All connect at once, to the last full acknowledgement.
    Storm,
    /// All connect anew with what they have; then again after a restart of a control plane that was launched.
    Reconnect,
    /// One endpoint moves: how long until each client has it.
    Endpoint,
    /// A timeout of one service, one of the mesh, a permission withdrawn.
    Policy,
    /// Nothing; writes of status; the same document again.
    Idle,
    /// Memory per proxy at rest.
    Rest,
    /// One permission and one route are edited, first alone, then among thousands.
    Crowd,
    /// The replicas of a service are replaced one by one.
    Rollout,
    /// A zone joins a global control plane that holds many documents.
    Newcomer,
    /// Memory per proxy at rest, and after many changes.
    Memory,
    /// One in a hundred never reads, one refuses, one connects anew every second.
    Slow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Register {
    Metadata,
    Rest,
}

/// Where the final documents are given to a fresh control plane.
#[derive(Clone, Debug)]
pub enum Fresh {
    Launch,
    At(Address),
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub scenarios: Vec<Scenario>,
    pub launch: Option<String>,
    /// Zones that follow a global control plane, instead of one that stands alone.
    pub federation: Option<Federation>,
    pub address: Address,
    pub verify_against: Option<Fresh>,
    pub shape: Shape,
    pub style: Style,
    pub protocol: Option<Protocol>,
    pub register: Register,
    pub duration: Duration,
    /// How long nothing at all happens in `idle`.
    pub rest: Duration,
    pub rates: Vec<f64>,
    pub rounds: u32,
    /// The permissions and the routes of `crowd`.
    pub permissions: usize,
    pub routes: usize,
    /// The replicas of `rollout`, at most 250.
    pub replicas: u8,
    pub deadline: Duration,
    pub extensions: usize,
    pub keep_bodies: bool,
}

/// A global control plane and zones, which are what is launched.
#[derive(Clone, Debug)]
pub struct Federation {
    pub global: PathBuf,
    pub zones: usize,
    /// What global holds when a zone comes that is new.
    pub documents: usize,
}

/// What the scenarios work with.
struct Stage<'a> {
    settings: &'a Settings,
    graph: &'a Graph,
    target: Target,
    fleet: Fleet,
    /// Memory of the control plane before any proxy, in kB.
    baseline_kb: u64,
    /// How many zones have the graph.
    zones: usize,
    /// Proxies that were told to misbehave.
    spoilt: BTreeSet<usize>,
    /// Counts the moves of the endpoint over all phases.
    moves: u32,
}

impl Scenario {
    /// Whether it can be done over several zones: it needs no single proxy that it finds by its place in the graph.
    pub fn spans_zones(self) -> bool {
        use Scenario::{Idle, Newcomer, Policy, Rest, Storm};
        matches!(self, Storm | Policy | Idle | Rest | Newcomer)
    }
}

impl Stage<'_> {
    fn meter(&self, name: impl Into<String>) -> Meter {
        Meter::start(name, self.target.usage(), self.fleet.sums())
    }

    fn measured(&self, meter: Meter) -> Phase {
        meter.end(self.target.usage(), self.fleet.sums())
    }

    async fn settle(&self, what: &str, done: impl Fn(&Fleet) -> bool) -> Result<()> {
        self.fleet.settle(what, QUIET, self.settings.deadline, done).await
    }

    /// For each proxy but the spoilt, the time from `since` to a stamp after it.
    fn delays(&self, since: u64, stamp: impl Fn(&crate::proxy::Stats) -> u64) -> Vec<u64> {
        let good = self.fleet.proxies.iter().filter(|proxy| !self.spoilt.contains(&proxy.index));
        good.filter_map(|proxy| stamp(&proxy.stats).checked_sub(since)).collect()
    }
}

pub async fn run(settings: &Settings) -> Result<Report> {
    let graph = settings.shape.graph();
    let (target, doors) = attach(settings, &graph, false).await?;
    let fleet = fleet(settings, &graph, &doors);
    let baseline_kb = target.usage().map_or(0, |usage| usage.rss_kb);
    let mut stage = Stage {
        settings,
        graph: &graph,
        target,
        fleet,
        baseline_kb,
        zones: doors.len(),
        spoilt: BTreeSet::new(),
        moves: 0,
    };
    let mut phases = vec![storm(&stage).await?];
    let holdings = stage.fleet.holdings();
    for scenario in &settings.scenarios {
        match scenario {
            Scenario::Storm => {}
            Scenario::Reconnect => phases.extend(reconnect::run(&mut stage).await.context("reconnect")?),
            Scenario::Endpoint => phases.extend(endpoint::run(&mut stage).await.context("endpoint")?),
            Scenario::Policy => phases.extend(policy::run(&stage).await.context("policy")?),
            Scenario::Idle => phases.extend(idle::run(&stage).await.context("idle")?),
            Scenario::Crowd => phases.extend(crowd::run(&stage).await.context("crowd")?),
            Scenario::Rollout => phases.push(rollout::run(&stage).await.context("rollout")?),
            Scenario::Newcomer => phases.push(federation::newcomer(&stage).await.context("newcomer")?),
            Scenario::Rest => phases.push(memory::at_rest(&stage, "memory at rest").await),
            Scenario::Memory => phases.extend(memory::run(&mut stage).await.context("memory")?),
            Scenario::Slow => phases.extend(slow::run(&mut stage).await.context("slow")?),
        }
    }
    let verified = match &settings.verify_against {
        None => None,
        Some(_) => Some(verify(&stage).await.context("verify")?),
    };
    Ok(Report {
        control_plane: settings.launch.clone().unwrap_or_else(|| settings.address.xds.clone()),
        protocol: protocol_of(&doors),
        style: settings.style,
        proxies: stage.fleet.proxies.len(),
        services: graph.services.len(),
        scope: settings.shape.scope,
        seed: settings.shape.seed,
        register: format!("{:?}", settings.register).to_lowercase(),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        load_average: report::load_average(),
        holdings,
        phases,
        verified,
    })
}

/// A control plane with the documents that every fleet has, and the doors to it; Dataplanes too, if they do not come with
/// their proxies.
async fn attach(settings: &Settings, graph: &Graph, fresh: bool) -> Result<(Target, Vec<Door>)> {
    if let (Some(program), Some(federation)) = (&settings.launch, &settings.federation) {
        return federation::attach(settings, federation, program.as_ref(), graph).await;
    }
    let start = async |program: &str| {
        let launched = Launched::start(Program::parse(program, graph, &settings.shape)).await?;
        Target::attach(launched.address(), Some(launched)).await
    };
    let target = match (&settings.launch, &settings.verify_against) {
        (_, Some(Fresh::At(address))) if fresh => Target::attach(address.clone(), None).await?,
        (Some(program), _) => start(program).await?,
        (None, _) => Target::attach(settings.address.clone(), None).await?,
    };
    for document in documents::common(settings.style) {
        target.api.put(&document).await?;
    }
    let entry = target.enter(settings.style, graph, settings.protocol).await?;
    if settings.register == Register::Rest {
        let dataplanes = (0..graph.proxies()).map(|proxy| documents::dataplane(settings.style, graph, proxy));
        target.api.put_all(dataplanes).await?;
        // What the control plane makes of them is made before anybody connects.
        tokio::time::sleep(QUIET).await;
    }
    let door = Door { dial: target.dial.clone(), entry };
    Ok((target, vec![door]))
}

fn fleet(settings: &Settings, graph: &Graph, doors: &[Door]) -> Fleet {
    let plan = Plan {
        graph,
        style: settings.style,
        protocol: protocol_of(doors),
        introduce: settings.register == Register::Metadata,
        extensions: settings.extensions,
        keep_bodies: settings.keep_bodies,
    };
    Fleet::new(&plan, doors)
}

/// All doors lead to control planes of one kind.
fn protocol_of(doors: &[Door]) -> Protocol {
    doors.first().map_or(Protocol::Delta, |door| door.entry.protocol)
}

async fn storm(stage: &Stage<'_>) -> Result<Phase> {
    let fleet = &stage.fleet;
    let meter = stage.meter("storm");
    let since = fleet.now();
    fleet.connect();
    stage.settle("the storm", |fleet| fleet.is_complete(stage.graph)).await?;
    let mut phase = stage.measured(meter);
    let live = Spread::of_nanos(stage.delays(since, |stats| stats.live_at.load(Relaxed)));
    let full = Spread::of_nanos(stage.delays(since, |stats| stats.last_change.load(Relaxed)));
    phase.spreads.insert("first_live_ms", live);
    phase.spreads.insert("full_ack_ms", full);
    phase.figures.insert("last_full_ack_s", full.max / 1e3);
    phase.figures.insert("waits_in_vain", phase.fleet.stalls as f64);
    phase
        .figures
        .insert("kb_per_proxy_sent", phase.fleet.bytes as f64 / 1e3 / fleet.proxies.len().max(1) as f64);
    phase.figures.insert("cpu_ms_per_proxy", phase.cpu_s() * 1e3 / fleet.proxies.len().max(1) as f64);
    Ok(phase)
}

/// Gives the final documents to a fresh control plane, and compares what it gives to a fresh fleet. The measured fleet
/// leaves first: a proxy that is there twice would be taken for one that has moved.
async fn verify(stage: &Stage<'_>) -> Result<Verified> {
    let settings = stage.settings;
    federation::level(&stage.target, settings.deadline).await?;
    stage.settle("the last change", |_| true).await?;
    stage.fleet.disconnect();
    let (target, doors) = attach(settings, stage.graph, true).await?;
    target.api.put_all(stage.target.api.written()).await?;
    federation::level(&target, settings.deadline).await?;
    let fresh = fleet(settings, stage.graph, &doors);
    fresh.connect();
    fresh.settle("the fresh fleet", QUIET, settings.deadline, |fleet| fleet.is_complete(stage.graph)).await?;
    Ok(verify::compare(&stage.fleet, &fresh, |proxy| stage.spoilt.contains(&proxy)))
}
