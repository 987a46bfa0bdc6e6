//! The replica's thread.
use super::{Feeds, Issuer, LinkState, Target, Uplink, credentials::Credentials, roster::Roster};
use crate::home::Home;
use crate::inventory::Tellings;
use anyhow::{Context as _, Result};
use shared_catalog::Catalog;
use shared_raft::{Learner, Reserve, Space, Storage, learner_id};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a full disk is looked at, and how long a store that failed may hold its files.
const FULL: Duration = Duration::from_secs(1);
const LET_GO: Duration = Duration::from_secs(10);

/// A running replica.
pub struct Replica {
    pub catalog: watch::Receiver<Arc<Catalog>>,
    pub link: watch::Receiver<LinkState>,
    pub issuer: Issuer,
    /// What the link carries; it is opened once this is given.
    pub feeds: oneshot::Sender<Feeds>,
    /// Ends with the reason when the disk has failed; then the program must end too.
    pub failed: oneshot::Receiver<anyhow::Error>,
    pub thread: std::thread::JoinHandle<()>,
}

/// Opens the replica's disk and starts its thread; returns once its state is read.
pub async fn start(home: &Home, target: Target, shutdown: CancellationToken) -> Result<Replica> {
    let dir = home.replica();
    let (feeds, feeds_given) = oneshot::channel();
    let (fail, failed) = oneshot::channel();
    let (state, link) = watch::channel(LinkState::default());
    let (opened, open) = oneshot::channel();
    let kept = std::fs::read_to_string(&target.members_file).unwrap_or_default();
    let roster = watch::Sender::new(Roster::read(&kept));
    let issuer = Issuer::new(target.clone(), roster.subscribe());
    let thread = std::thread::Builder::new().name("uplink".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(opened.send(Err(error.into()))),
        };
        runtime.block_on(async {
            let learner = match open_learner(&dir, &target.zone).await {
                Ok(learner) => learner,
                Err(error) => return drop(opened.send(Err(error))),
            };
            state.send_modify(|state| state.cluster_id = learner.identity().cluster_id);
            let catalog = watch::Sender::new(learner.catalog().borrow().clone());
            if opened.send(Ok(catalog.subscribe())).is_err() {
                return learner.shutdown().await;
            }
            let Ok(feeds) = feeds_given.await else { return learner.shutdown().await };
            let house = House { dir, target, feeds, state, roster, catalog };
            if let Err(error) = house.follow(learner, &shutdown).await {
                // Nobody listens only when the program ends anyway.
                let _ = fail.send(error);
            }
        });
    })?;
    let catalog = open.await.context("the replica's thread ended")??;
    Ok(Replica { catalog, link, issuer, feeds, failed, thread })
}

/// What stays while the replica's disk is closed and opened again.
struct House {
    dir: PathBuf,
    target: Target,
    feeds: Feeds,
    state: watch::Sender<LinkState>,
    roster: watch::Sender<Roster>,
    catalog: watch::Sender<Arc<Catalog>>,
}

impl House {
    /// Follows global until the shutdown, or a failure that does not pass by itself. A full disk does: the zone goes on with
    /// what it has, and follows again once there is room.
    async fn follow(self, first: Learner, shutdown: &CancellationToken) -> Result<()> {
        let mut next = Some(first);
        while let Some(learner) = next.take() {
            let learner = Arc::new(learner);
            let uplink = Uplink {
                target: self.target.clone(),
                learner: learner.clone(),
                feeds: self.feeds.clone(),
                state: self.state.clone(),
                credentials: Credentials::open(self.target.certificate_file.clone()),
                roster: self.roster.clone(),
                told: Tellings::default(),
                alone_since: Mutex::new(Some(Instant::now())),
            };
            let ended = tokio::select! {
                () = uplink.run(shutdown.clone()) => None,
                () = self.publish(learner.catalog()) => None,
                error = learner.failed() => Some(error),
            };
            learner.shutdown().await;
            drop(learner);
            match ended {
                None => return Ok(()),
                Some(shared_raft::Error::Full { reason, .. }) => {
                    tracing::error!(
                        reason,
                        "the zone's replica has no room on its disk: the zone goes on with what it has"
                    );
                    next = self.reopen(shutdown).await;
                }
                Some(error) => {
                    return Err(anyhow::Error::new(error).context("the zone's replica of global has stopped"));
                }
            }
        }
        Ok(())
    }

    /// Shows what the replica has applied. What was shown is never taken back.
    async fn publish(&self, mut catalog: watch::Receiver<Arc<Catalog>>) {
        loop {
            let newest = catalog.borrow_and_update().clone();
            self.catalog.send_if_modified(|shown| {
                let is_newer = newest.revision() > shown.revision();
                if is_newer {
                    *shown = newest;
                }
                is_newer
            });
            if catalog.changed().await.is_err() {
                // The replica has stopped; who waits for that knows why.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Opens the disk again once it has room. None: the program shuts down.
    async fn reopen(&self, shutdown: &CancellationToken) -> Option<Learner> {
        // What the trial takes is room enough.
        let space = Arc::new(Space::new(&self.dir, Reserve::Bytes(0)));
        let mut since: Option<Instant> = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep(FULL) => {}
            }
            let looked = space.clone();
            if !tokio::task::spawn_blocking(move || looked.has_room_again()).await.unwrap_or(false) {
                since = None;
                continue;
            }
            match open_learner(&self.dir, &self.target.zone).await {
                Ok(learner) => {
                    tracing::info!("the disk has room again: the zone follows global");
                    return Some(learner);
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the zone's replica does not open yet");
                    // The store may never let go of its files.
                    if since.get_or_insert_with(Instant::now).elapsed() > LET_GO {
                        tracing::error!("the program begins anew: it cannot open its replica");
                        let error = shared_node::exit::again();
                        tracing::error!(%error, "the program cannot begin anew");
                        since = None;
                    }
                }
            }
        }
    }
}

/// A damaged disk is set aside and the replica starts anew: global has everything that was on it.
async fn open_learner(dir: &Path, zone: &str) -> Result<Learner> {
    let storage = match open_storage(dir, zone) {
        Err(shared_raft::Error::Damaged { what, .. }) => {
            let aside: PathBuf = shared_raft::set_aside(dir)?;
            tracing::error!(what, aside = %aside.display(), "the replica on disk is damaged and was set aside: starting anew");
            open_storage(dir, zone)?
        }
        opened => opened?,
    };
    Ok(Learner::start(storage).await?)
}

fn open_storage(dir: &Path, zone: &str) -> Result<Storage, shared_raft::Error> {
    Storage::open(dir, &format!("zone {zone}"), || learner_id(rand::random()))
}
