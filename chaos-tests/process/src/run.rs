//! One test with a cluster of its own, in a directory of its own.
use crate::{
    cluster::{Cluster, Settings, last_words},
    programs::{self, Programs},
};
use anyhow::{Context, Result};
use std::{
    env, fs,
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::sync::Mutex;

/// Set by who has built the programs just before, so that the tests need not look.
pub const PROGRAMS_ARE_BUILT: &str = "WEFT_PROGRAMS_ARE_BUILT";

/// Clusters run one after the other: together they would only wait for each other on a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

static RUNS: AtomicU32 = AtomicU32::new(0);

/// Runs a test against a fresh cluster. When it fails, the logs stay and their last lines are in the error.
pub async fn in_cluster(zones: &[&str], test: impl AsyncFnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().await;
    built()?;
    let dir = new_dir()?;
    let zones = zones.iter().map(|zone| zone.to_string()).collect();
    let settings = Settings { programs: Programs::find()?, dir: dir.clone(), zones };
    let outcome = async {
        let mut cluster = Cluster::start(settings).await?;
        test(&mut cluster).await
    }
    .await;
    match outcome {
        Ok(()) => fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display())),
        Err(error) => Err(error.context(format!("logs lie in {}:\n{}", dir.display(), last_words(&dir, 12)))),
    }
}

fn built() -> Result<()> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let done = BUILT.get_or_init(|| match env::var_os(PROGRAMS_ARE_BUILT) {
        Some(_) => Ok(()),
        None => programs::build().map_err(|error| format!("{error:#}")),
    });
    done.clone().map_err(anyhow::Error::msg)
}

fn new_dir() -> Result<PathBuf> {
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let dir =
        programs::workspace().join("target").join("chaos").join(format!("{}-{run}", std::process::id()));
    // A process with the same id may have failed here long ago.
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}
