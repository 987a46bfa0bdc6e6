//! The link to global, and the replica that it feeds. Both live on a thread of their own, so that a storm of proxies
//! cannot delay a beat or an fsync.
//!
//! ```text
//! global --entries, snapshots--> link --> Learner (disk) --watch--> catalog --> the index
//! global <--progress, beats, inventory, submissions, answers to questions-- link
//! ```
//!
//! The zone dials every node of global, and dials again with growing, jittered pauses: whoever leads has a link already.
//! The nodes tell where all of them are ([`roster`]); what the operator names is only where to begin. Without a link
//! everything goes on from the disk. Global knows the zone by a certificate ([`credentials`]) that names it and the id of
//! its store ([`zone_id()`]).
mod credentials;
mod issuer;
mod link;
mod replica;
mod roster;
mod submissions;
mod zone_id;

pub use issuer::Issuer;
pub use replica::{Replica, start};
pub use zone_id::zone_id;

use crate::catalogs::Catalogs;
use crate::insights::Insights;
use crate::inventory::Tellings;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::world::World;
use anyhow::{Context as _, Result};
use credentials::Credentials;
use roster::Roster;
use shared_model::{Revision, Timestamp};
use shared_raft::Learner;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The first and the longest pause between two attempts to dial. A restarted global is found within the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Without a link for so long, the zone also looks where the operator said.
const ALONE: Duration = Duration::from_secs(2);
/// A link that held so long was a good one: the next attempt is made soon.
const GOOD: Duration = Duration::from_secs(10);

/// Where global is, and who asks.
#[derive(Clone, Debug)]
pub struct Target {
    pub zone: String,
    pub instance: String,
    /// Where global is looked for when nothing better is known.
    pub seeds: Vec<String>,
    /// Where the addresses that global has told are kept.
    pub members_file: PathBuf,
    /// Where the certificate is kept that global has given.
    pub certificate_file: PathBuf,
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
    pub zone_id: String,
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
    credentials: Credentials,
    roster: watch::Sender<Roster>,
    /// What each node of global has been told of the proxies.
    told: Tellings,
    /// Since when no link is open.
    alone_since: Mutex<Option<Instant>>,
}

/// An open link; dropping it says that it has ended.
struct Open<'a> {
    uplink: &'a Uplink,
    node_id: u64,
    url: String,
}

impl Open<'_> {
    /// Whether this is the one link that carries what all nodes of global need only once.
    fn is_first(&self) -> bool {
        self.uplink.roster.borrow().first() == Some(self.node_id)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.uplink.roster.send_modify(|roster| roster.ended(self.node_id, &self.url));
        self.uplink.is_down();
    }
}

impl Uplink {
    /// Keeps a link to every node of global until the shutdown.
    async fn run(self, shutdown: CancellationToken) {
        let uplink = Arc::new(self);
        let mut roster = uplink.roster.subscribe();
        let mut dialled: BTreeSet<String> = BTreeSet::new();
        let mut tasks: JoinSet<String> = JoinSet::new();
        let mut renewal = JoinSet::new();
        let renewing = uplink.clone();
        renewal.spawn(async move { renewing.renew().await });
        while !shutdown.is_cancelled() {
            roster.borrow_and_update();
            for url in uplink.wanted() {
                if dialled.insert(url.clone()) {
                    tasks.spawn(uplink.clone().keep(url));
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = roster.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(ALONE) => {}
                Some(ended) = tasks.join_next() => match ended {
                    Ok(url) => drop(dialled.remove(&url)),
                    // Its links are dialled again by the next round.
                    Err(error) => {
                        tracing::error!(%error, "a link failed");
                        dialled.clear();
                        tasks.abort_all();
                    }
                },
            }
        }
        tasks.shutdown().await;
        renewal.shutdown().await;
        uplink.is_down();
    }

    /// Keeps a link to one address for as long as that is wanted. Gives the address back.
    async fn keep(self: Arc<Self>, url: String) -> String {
        let mut pause = PAUSE.0;
        let mut told = String::new();
        loop {
            self.feeds.metrics.link_dials.inc();
            let started = Instant::now();
            let (reason, cause) = match link::run(&self, &url).await {
                Ok(Ended::Renewed) if self.wanted().contains(&url) => {
                    tracing::info!(global = url, "dialling again with the new certificate");
                    continue;
                }
                Ok(_) => ("global closed the link".to_owned(), "it was closed".to_owned()),
                Err(error) => (format!("{error:#}"), error.root_cause().to_string()),
            };
            // Said once: an operator need not read the same sentence each second.
            if cause == told {
                tracing::debug!(global = url, reason, "no link to global");
            } else if self.roster.borrow().first().is_some() {
                tracing::warn!(global = url, reason, "no link to this node of global: another one is linked");
            } else {
                tracing::warn!(global = url, reason, "no link to global: the zone goes on with what it has");
            }
            told = cause;
            if started.elapsed() >= GOOD {
                pause = PAUSE.0;
                told.clear();
            }
            let jitter: f64 = rand::random();
            tokio::time::sleep(pause.mul_f64(0.5 + jitter / 2.0)).await;
            pause = (pause * 2).min(PAUSE.1);
            if !self.wanted().contains(&url) {
                return url;
            }
        }
    }

    fn wanted(&self) -> Vec<String> {
        let since = *self.alone_since.lock().unwrap_or_else(PoisonError::into_inner);
        let alone = since.is_some_and(|since| since.elapsed() >= ALONE);
        self.roster.borrow().wanted(&self.target.seeds, alone)
    }

    fn is_down(&self) {
        if self.roster.borrow().first().is_some() {
            return;
        }
        self.alone_since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        self.feeds.metrics.link_up.set(0);
        self.state.send_if_modified(|state| {
            let was_up = std::mem::replace(&mut state.up, false);
            if was_up {
                state.since = Some(shared_node::time::now());
            }
            was_up
        });
    }

    fn is_up(&self, url: &str, welcome: &proto::link::Welcome) -> Open<'_> {
        let node_id = welcome.node_id;
        self.roster.send_modify(|roster| roster.opened(node_id, url));
        *self.alone_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.feeds.metrics.link_up.set(1);
        self.state.send_modify(|state| {
            if !std::mem::replace(&mut state.up, true) {
                state.since = Some(shared_node::time::now());
            }
            state.cluster_id.clone_from(&welcome.cluster_id);
            state.instance.clone_from(&welcome.instance);
            state.global_revision.get_or_insert(Revision(welcome.revision));
        });
        tracing::info!(
            global = url,
            node_id = format!("{node_id:016x}"),
            cluster = welcome.cluster_id,
            revision = welcome.revision,
            "linked to global"
        );
        Open { uplink: self, node_id, url: url.to_owned() }
    }

    /// Takes the list of the nodes of global, and keeps it on disk for the next start.
    fn members(&self, members: proto::link::Members) -> Result<()> {
        let taken = self.roster.send_if_modified(|roster| roster.take(members));
        if taken {
            let text = self.roster.borrow().members_json();
            tracing::info!(nodes = self.roster.borrow().addresses(), "where global is");
            shared_node::file::write_public(&self.target.members_file, text.as_bytes())?;
        }
        Ok(())
    }
}

/// How a link ended by itself.
enum Ended {
    Closed,
    /// The certificate that opened it nears its end, and there is a newer one.
    Renewed,
}

impl Target {
    /// Reads what it takes to dial, so that a file which cannot be read is told at the start.
    pub fn check(&self) -> Result<()> {
        self.ca()?;
        // Once the zone has a certificate, it needs its token no more.
        if !self.certificate_file.exists() {
            self.token()?;
        }
        Ok(())
    }

    fn ca(&self) -> Result<String> {
        let ca = shared_node::file::read(&self.ca_file, "the CA of global")?;
        shared_node::tls::roots(&ca)
            .with_context(|| format!("cannot use the CA of global in {}", self.ca_file.display()))?;
        Ok(ca)
    }

    fn token(&self) -> Result<String> {
        Ok(shared_node::file::read(&self.token_file, "the zone token")?.trim().to_owned())
    }
}
