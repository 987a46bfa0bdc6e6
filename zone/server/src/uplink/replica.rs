//! The replica's thread.
use super::{Feeds, LinkState, Target, Uplink, roster::Roster};
use crate::home::Home;
use anyhow::{Context as _, Result};
use shared_catalog::Catalog;
use shared_raft::{Learner, Storage, learner_id};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A running replica.
pub struct Replica {
    pub catalog: watch::Receiver<Arc<Catalog>>,
    pub link: watch::Receiver<LinkState>,
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
    let thread = std::thread::Builder::new().name("uplink".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(opened.send(Err(error.into()))),
        };
        runtime.block_on(async {
            let learner = match open_learner(&dir, &target.zone).await {
                Ok(learner) => Arc::new(learner),
                Err(error) => return drop(opened.send(Err(error))),
            };
            state.send_modify(|state| state.cluster_id = learner.identity().cluster_id);
            if opened.send(Ok(learner.catalog())).is_err() {
                return learner.shutdown().await;
            }
            if let Ok(feeds) = feeds_given.await {
                let kept = std::fs::read_to_string(&target.members_file).unwrap_or_default();
                let roster = watch::Sender::new(Roster::read(&kept));
                let alone_since = Mutex::new(Some(Instant::now()));
                let uplink = Uplink { target, learner: learner.clone(), feeds, state, roster, alone_since };
                tokio::select! {
                    () = uplink.run(shutdown.clone()) => {}
                    error = learner.failed() => {
                        let error = anyhow::Error::new(error).context("the zone's replica of global has stopped");
                        // Nobody listens only when the program ends anyway.
                        let _ = fail.send(error);
                    }
                }
            }
            learner.shutdown().await;
        });
    })?;
    let catalog = open.await.context("the replica's thread ended")??;
    Ok(Replica { catalog, link, feeds, failed, thread })
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
