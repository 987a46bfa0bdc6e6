//! `cargo xtask demo`: the product's main job on real input, told step by step from what real requests see.
mod report;
mod steps;
mod story;

use crate::tools;
use anyhow::{Context, Result, bail};
use chaos_tests_process::{
    Programs, Settings,
    cluster::last_words,
    programs::{build, workspace},
};
use clap::Args;
use report::Step;
use std::{
    fs,
    path::{Path, PathBuf},
};
use story::Story;
use tokio::signal::unix::{SignalKind, signal};

const ZONES: [&str; 2] = ["zone-1", "zone-2"];

/// Lines of each log that a failure shows.
const LAST_LINES: usize = 15;

#[derive(Args, Default)]
pub struct Demo {
    /// End after the steps; the exit code is 0 only when every step passed
    #[arg(long)]
    once: bool,
    /// Write what was seen to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put data, documents and logs into this directory and leave them there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Demo {
    pub fn run(self) -> Result<()> {
        tools::bring_envoy()?;
        println!("building the programs");
        build()?;
        let steps = self.tell()?;
        let failed = steps.iter().filter(|step| !step.pass).count();
        if failed > 0 {
            bail!("{failed} of {} steps failed", steps.len());
        }
        Ok(())
    }

    /// Runs the story and gives its steps. An error only when it could not be told at all, or was interrupted.
    fn tell(&self) -> Result<Vec<Step>> {
        let dir = match &self.keep {
            Some(dir) => std::path::absolute(dir)?,
            None => new_dir("demo")?,
        };
        let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
        let told = runtime.block_on(async {
            tokio::select! {
                told = self.story(&dir) => told,
                () = interrupted() => bail!("interrupted"),
            }
        });
        let good = told.as_ref().is_ok_and(|steps| steps.iter().all(|step| step.pass));
        if good && self.keep.is_none() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        } else if dir.exists() {
            if !good {
                eprintln!("{}", last_words(&dir, LAST_LINES));
            }
            println!("data, documents and logs: {}", dir.display());
        }
        told
    }

    async fn story(&self, dir: &Path) -> Result<Vec<Step>> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        if fs::read_dir(dir)?.next().is_some() {
            bail!("{} is not empty: a run starts with an empty directory", dir.display());
        }
        let zones = ZONES.map(str::to_owned).to_vec();
        let settings = Settings { programs: Programs::find()?, dir: dir.to_owned(), zones };
        let mut story = Story::begin(settings).await?;
        steps::all(&mut story).await;
        report::print_summary(&story.steps);
        if let Some(file) = &self.json {
            report::write_json(file, &story.steps)?;
        }
        if !self.once {
            report::print_addresses(&story.cluster)?;
            interrupted().await;
        }
        Ok(std::mem::take(&mut story.steps))
    }
}

/// Runs the steps for `cargo xtask test`, with programs that are built already: their names, and whether they passed.
pub fn steps_for_tests() -> Result<Vec<(&'static str, bool)>> {
    let json = workspace().join("target").join("demo.json");
    let demo = Demo { once: true, json: Some(json), keep: None };
    match demo.tell() {
        Ok(steps) => Ok(steps.into_iter().map(|step| (step.name, step.pass)).collect()),
        Err(error) => {
            eprintln!("error: {error:#}");
            Ok(steps::NAMES.map(|name| (name, false)).to_vec())
        }
    }
}

/// A name for a directory of its own for each run of this verb.
pub fn new_dir(verb: &str) -> Result<PathBuf> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(workspace().join("target").join(verb).join(format!("{}-{}", now.as_secs(), std::process::id())))
}

/// Ctrl-C, SIGTERM or the end of the terminal.
pub async fn interrupted() {
    let [interrupt, terminate, hangup] =
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(|kind| signal(kind).expect("a signal that can be caught"));
    let (mut interrupt, mut terminate, mut hangup) = (interrupt, terminate, hangup);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}
