//! The link to global, and the replica that it feeds. Both live on a thread of their own, so that a storm of proxies
//! cannot delay a beat or an fsync.
//!
//! ```text
//! global --entries, snapshots--> link --> Learner (disk) --watch--> catalog --> the index
//! global <--progress, beats, inventory, submissions, answers to questions-- link
//! ```
//!
//! The zone dials, and dials again with growing, jittered pauses. Without a link everything goes on from the disk.
mod link;
mod replica;
mod submissions;

pub use replica::{Replica, start};

use crate::catalogs::Catalogs;
use crate::insights::Insights;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::world::World;
use anyhow::{Context as _, Result};
use shared_model::{Revision, Timestamp};
use shared_raft::Learner;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The first and the longest pause between two attempts to dial. A restarted global is found within the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A link that held so long was a good one: the next attempt is made soon.
const GOOD: Duration = Duration::from_secs(10);

/// Where global is, and who asks.
#[derive(Clone, Debug)]
pub struct Target {
    pub zone: String,
    pub instance: String,
    pub url: String,
    pub ca_file: PathBuf,
    pub token_file: PathBuf,
}

/// What can be told of the link at any moment.
#[derive(Clone, Debug, Default)]
pub struct LinkState {
    pub up: bool,
    /// Since when it is up or down.
    pub since: Option<Timestamp>,
    /// The cluster that is followed; empty before the first connection.
    pub cluster_id: String,
    /// The global node at the other end.
    pub instance: String,
    /// The newest revision that global had when it first answered in this run.
    pub global_revision: Option<Revision>,
}

/// What the link carries upwards, and what it asks.
#[derive(Clone)]
pub struct Feeds {
    pub catalogs: Catalogs,
    pub world: watch::Receiver<World>,
    pub progress: Arc<Progress>,
    pub insights: Arc<Insights>,
    pub metrics: Metrics,
}

struct Uplink {
    target: Target,
    learner: Arc<Learner>,
    feeds: Feeds,
    state: watch::Sender<LinkState>,
}

impl Uplink {
    /// Keeps a link until the shutdown.
    async fn run(self, shutdown: CancellationToken) {
        let mut pause = PAUSE.0;
        let mut told = String::new();
        while !shutdown.is_cancelled() {
            self.feeds.metrics.link_dials.inc();
            let started = Instant::now();
            let ended = tokio::select! {
                () = shutdown.cancelled() => return self.is_down(),
                ended = link::run(&self) => ended,
            };
            self.is_down();
            let reason = match ended {
                Ok(()) => "global closed the link".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            // Said once: an operator need not read the same sentence each second.
            if reason == told {
                tracing::debug!(global = self.target.url, reason, "no link to global");
            } else {
                tracing::warn!(
                    global = self.target.url,
                    reason,
                    "no link to global: the zone goes on with what it has"
                );
            }
            told = reason;
            if started.elapsed() >= GOOD {
                pause = PAUSE.0;
                told.clear();
            }
            let jitter: f64 = rand::random();
            let wait = pause.mul_f64(0.5 + jitter / 2.0);
            pause = (pause * 2).min(PAUSE.1);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn is_down(&self) {
        self.feeds.metrics.link_up.set(0);
        self.state.send_if_modified(|state| {
            let was_up = std::mem::replace(&mut state.up, false);
            if was_up {
                state.since = Some(shared_node::time::now());
            }
            was_up
        });
    }

    fn is_up(&self, welcome: &proto::link::Welcome) {
        self.feeds.metrics.link_up.set(1);
        self.state.send_modify(|state| {
            state.up = true;
            state.since = Some(shared_node::time::now());
            state.cluster_id.clone_from(&welcome.cluster_id);
            state.instance.clone_from(&welcome.instance);
            state.global_revision.get_or_insert(Revision(welcome.revision));
        });
        tracing::info!(
            global = self.target.url,
            cluster = welcome.cluster_id,
            revision = welcome.revision,
            "linked to global"
        );
    }
}

impl Target {
    /// Reads the CA and the token, so that a file which cannot be read is told at the start.
    pub fn read(&self) -> Result<(String, String)> {
        let ca = shared_node::file::read(&self.ca_file, "the CA of global")?;
        shared_node::tls::roots(&ca)
            .with_context(|| format!("cannot use the CA of global in {}", self.ca_file.display()))?;
        let token = shared_node::file::read(&self.token_file, "the zone token")?;
        Ok((ca, token.trim().to_owned()))
    }
}
