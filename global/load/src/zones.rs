//! Zones by the hundred in one process. Towards global they are what real ones are: a replica on a disk of its own each,
//! durable before it answers, and a link to every node. Behind them there are no proxies.
//!
//! ```text
//! write-load zones --REST--> global --entries, snapshots--> 100 x (links --> Learner --> disk)
//!        ^                                                                      |
//!        '----------------------- when each has which revision -----------------'
//! ```
//!
//! It writes by itself, so that one clock tells when a write began, when it was committed, and when the last zone had it.
mod link;
mod measure;
mod zone;

use crate::{
    global::{Api, Nodes},
    run::Measured,
    seconds,
};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use zone::{Door, Zone};

/// Disks that are made at the same time.
const MAKERS: usize = 8;

/// New zones that dial at the same time: zones are made one by one, and only known ones come in a crowd.
const TOGETHER: usize = 10;

#[derive(Args)]
pub struct Load {
    /// A node's REST API, as `https://host:port`; may be given for several nodes
    #[arg(long = "target", required = true)]
    targets: Vec<String>,
    /// Where zones dial a node, as `https://host:port`; the other nodes they learn from it
    #[arg(long = "link", required = true)]
    links: Vec<String>,
    /// The authority of the nodes' certificates, PEM
    #[arg(long)]
    ca_file: PathBuf,
    /// A file with a token of an administrator; it makes the tokens of the zones
    #[arg(long)]
    token_file: PathBuf,
    /// A new directory for the disks of the zones
    #[arg(long)]
    dir: PathBuf,
    /// How many zones there are
    #[arg(long, default_value_t = 10)]
    count: usize,
    /// How their names begin; a number follows
    #[arg(long, default_value = "load")]
    name: String,
    /// Bytes of a policy
    #[arg(long, default_value_t = 512)]
    bytes: usize,
    /// Write so many policies, one when all zones have the last, and measure how long each takes to the last zone
    #[arg(long, default_value_t = 0)]
    policies: usize,
    /// So many times, end all links at once and dial again at once, and measure writes before and meanwhile
    #[arg(long, default_value_t = 0)]
    reconnect: usize,
    /// How long is written before each
    #[arg(long, default_value = "3", value_parser = seconds)]
    calm: Duration,
    /// How long that writer pauses after each write: for cores that its writes alone would take
    #[arg(long, default_value = "0", value_parser = seconds)]
    pause: Duration,
    /// Write so many resources, and measure how long a new zone takes to have them
    #[arg(long, default_value_t = 0)]
    newcomer: usize,
    /// Write so many changes while all zones are away, and measure what they get when they come back
    #[arg(long, default_value_t = 0)]
    changes: usize,
    /// How long zones may take for anything
    #[arg(long, default_value = "120", value_parser = seconds)]
    patience: Duration,
}

/// One line of JSON for each thing that was measured. Times in seconds where the name does not say otherwise.
#[derive(Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum Seen {
    /// All zones follow.
    Following {
        zones: usize,
        links: usize,
        seconds: f64,
    },
    Policies(Policies),
    Reconnect(Reconnect),
    Newcomer(Newcomer),
    Return(Return),
}

/// From a write to the last zone that has it on its disk.
#[derive(Serialize)]
struct Policies {
    zones: usize,
    /// From the acknowledgement, which comes after the commit.
    after_acknowledgement: Measured,
    /// From the moment the write was sent, which comes before the commit.
    after_sending: Measured,
    /// From the one to the other.
    acknowledgement: Measured,
}

/// All links ended at once, and were dialled again at once; all rounds together.
#[derive(Serialize)]
struct Reconnect {
    zones: usize,
    /// Until every link was open again, and until every zone had what had been written by then; the longest.
    linked_s: f64,
    following_s: f64,
    before: Measured,
    during: Measured,
    /// The means of the writes, compared.
    slowdown: f64,
}

/// A zone with an empty disk came.
#[derive(Serialize)]
struct Newcomer {
    zones: usize,
    resources: usize,
    written_s: f64,
    seconds: f64,
    bytes: u64,
    snapshot_chunks: u64,
}

/// Zones came back after changes.
#[derive(Serialize)]
struct Return {
    zones: usize,
    resources: usize,
    changes: usize,
    /// Bytes of the changed documents.
    changed_bytes: usize,
    seconds: f64,
    /// What one zone received, at the most.
    bytes: u64,
    bytes_per_changed_byte: f64,
    snapshot_chunks: u64,
}

/// The zones, and who writes.
struct Crowd {
    load: Load,
    nodes: Nodes,
    api: Api,
    door: Arc<Door>,
    zones: Vec<Zone>,
}

/// Measures all that is asked, in the order of the flags' help.
pub async fn run(load: Load) -> Result<()> {
    open_files()?;
    let mut crowd = Crowd::gather(load).await?;
    if crowd.load.policies > 0 {
        say(&Seen::Policies(crowd.policies().await?))?;
    }
    if crowd.load.reconnect > 0 {
        say(&Seen::Reconnect(crowd.reconnect().await?))?;
    }
    if crowd.load.newcomer > 0 {
        say(&Seen::Newcomer(crowd.newcomer().await?))?;
    }
    if crowd.load.changes > 0 {
        say(&Seen::Return(crowd.comes_back().await?))?;
    }
    Ok(())
}

impl Crowd {
    /// Makes the zones, and returns when all follow.
    async fn gather(load: Load) -> Result<Crowd> {
        ensure!(load.count > 0, "--count is the number of zones, at least 1");
        ensure!(
            load.dir.read_dir().map_or(true, |mut entries| entries.next().is_none()),
            "{} is not empty: each run makes zones of its own",
            load.dir.display()
        );
        fs::create_dir_all(&load.dir).with_context(|| format!("cannot make {}", load.dir.display()))?;
        let ca_pem = fs::read_to_string(&load.ca_file)
            .with_context(|| format!("cannot read {}", load.ca_file.display()))?;
        let door = Arc::new(Door { seeds: load.links.clone(), ca_pem });
        let nodes = Nodes::new(&load.targets, &load.ca_file, &load.token_file, load.bytes)?;
        let api = nodes.api(0)?;
        let mut crowd = Crowd { load, nodes, api, door, zones: Vec::new() };
        let made = stream::iter(1..=crowd.load.count).map(|number| crowd.zone(number));
        let zones = made.buffered(MAKERS).try_collect().await?;
        crowd.zones = zones;
        let begin = Instant::now();
        let mut links = 0;
        for some in crowd.zones.chunks_mut(TOGETHER) {
            some.iter_mut().for_each(Zone::dial);
            for zone in some {
                links += zone.linked(crowd.load.patience).await?;
            }
        }
        let newest = crowd.api.put(&crowd.nodes.document("load-first"), 0).await?;
        crowd.all_hold(newest).await?;
        let zones = crowd.zones.len();
        say(&Seen::Following { zones, links, seconds: begin.elapsed().as_secs_f64() })?;
        Ok(crowd)
    }

    /// Makes a zone; it does not dial yet.
    async fn zone(&self, number: usize) -> Result<Zone> {
        let name = format!("{}-{number:03}", self.load.name);
        let token = self.api.zone_token(&name).await?;
        Zone::open(&name, token, &self.load.dir, self.door.clone()).await
    }

    /// Waits for all links.
    async fn linked(&self) -> Result<()> {
        for zone in &self.zones {
            zone.linked(self.load.patience).await?;
        }
        Ok(())
    }

    /// Waits until every zone has a revision; when the last one had it.
    async fn all_hold(&self, revision: u64) -> Result<Instant> {
        let mut last: Option<Instant> = None;
        for zone in &self.zones {
            last = last.max(Some(zone.holds(revision, self.load.patience).await?));
        }
        last.context("there are no zones")
    }
}

fn say(seen: &Seen) -> Result<()> {
    println!("{}", serde_json::to_string(seen)?);
    Ok(())
}

/// A store takes some files, a link takes one: as many as the system permits.
fn open_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the number of open files")
}
