//! `cargo xtask chaos`: real programs, real faults, and a judge of what the clients saw.
use crate::{demo, tools};
use anyhow::{Context, Result, bail};
use chaos_tests_process::{
    Programs,
    faults::{self, FAULTS, Fault, Report, Summary},
    programs::{build, workspace},
    run::PROGRAMS_ARE_BUILT,
    stage::Stage,
};
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

const EXAMPLES: &str = "Examples:
  cargo xtask chaos                              every fault, as often as it takes: a quarter of an hour
  cargo xtask chaos --quick --json chaos.json    fewer rounds, in under four minutes
  cargo xtask chaos kill-leader power-cut        these two
  cargo xtask chaos --list                       what there is

Power cuts and full disks need root (loop devices, mounts); without it they are shown as skipped. Mounts are made in a
mount namespace of this process, so that none stays behind, whatever ends it.";

/// Of the table where there is no terminal.
const WIDTH: u16 = 150;

#[derive(Args, Default)]
#[command(after_help = EXAMPLES)]
pub struct Chaos {
    /// Fewer rounds: under four minutes once the programs are built
    #[arg(long)]
    quick: bool,
    /// Write what was seen to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Name the faults and end
    #[arg(long)]
    list: bool,
    /// Put data and logs into this directory and leave them there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Only these faults; all when none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

impl Chaos {
    pub fn run(self) -> Result<()> {
        if self.list {
            for fault in FAULTS {
                println!("{:<24}{}", fault.name, fault.about);
            }
            return Ok(());
        }
        let chosen = self.chosen()?;
        tools::bring_envoy()?;
        if env::var_os(PROGRAMS_ARE_BUILT).is_none() {
            eprintln!("building the programs");
            build()?;
        }
        let summary = self.play(&chosen)?;
        print_table(&summary);
        let failed = summary.faults.iter().filter(|report| !report.pass).count();
        if failed > 0 {
            bail!("{failed} of {} faults failed", summary.faults.len());
        }
        Ok(())
    }

    fn chosen(&self) -> Result<Vec<&'static Fault>> {
        if let Some(unknown) = self.names.iter().find(|name| FAULTS.iter().all(|fault| fault.name != **name))
        {
            let names: Vec<&str> = FAULTS.iter().map(|fault| fault.name).collect();
            bail!("there is no fault {unknown:?}; there are {}", names.join(", "));
        }
        let is_chosen = |fault: &&Fault| self.names.is_empty() || self.names.iter().any(|n| n == fault.name);
        Ok(FAULTS
            .iter()
            .filter(|fault| fault.quick || !self.quick || !self.names.is_empty())
            .filter(is_chosen)
            .collect())
    }

    /// Plays the faults. An error only when that was not possible at all, or was interrupted.
    fn play(&self, chosen: &[&'static Fault]) -> Result<Summary> {
        let dir = match &self.keep {
            Some(dir) => std::path::absolute(dir)?,
            None => demo::new_dir("chaos")?,
        };
        faults::own_mounts();
        let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
        let played = runtime.block_on(async {
            tokio::select! {
                played = self.play_in(&dir, chosen) => played,
                () = demo::interrupted() => bail!("interrupted"),
            }
        });
        let good = played.as_ref().is_ok_and(|summary| summary.faults.iter().all(|report| report.pass));
        if self.keep.is_none() && (good || played.is_err()) {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        } else if dir.exists() {
            eprintln!("data and logs: {}", dir.display());
        }
        played
    }

    async fn play_in(&self, dir: &Path, chosen: &[&'static Fault]) -> Result<Summary> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let programs = Programs::find()?.pinned(&dir.join("programs"))?;
        let mut stage = Stage::new(programs, dir, self.quick);
        let mut summary = Summary::default();
        for (number, fault) in chosen.iter().enumerate() {
            eprintln!("{:>2}/{} {}: {}", number + 1, chosen.len(), fault.name, fault.about);
            let report = faults::play(fault, &mut stage).await;
            eprintln!("      {} in {:.1} s: {}", verdict(&report), report.seconds, report.detail);
            summary.lost_acknowledged_writes += report.lost;
            summary.faults.push(report);
        }
        stage.clear();
        summary.acknowledged_writes = stage.acknowledged;
        summary.figures = std::mem::take(&mut stage.figures);
        if let Some(file) = &self.json {
            let text = serde_json::to_string_pretty(&summary)? + "\n";
            fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(summary)
    }
}

/// Plays the quick faults for `cargo xtask test`, with programs that are built already: their names, and whether they
/// passed.
pub fn faults_for_tests() -> Vec<(&'static str, bool)> {
    let json = workspace().join("target").join("chaos.json");
    let chaos = Chaos { quick: true, json: Some(json), ..Chaos::default() };
    let played = chaos.chosen().and_then(|chosen| chaos.play(&chosen));
    match played {
        Ok(summary) => {
            print_table(&summary);
            summary.faults.into_iter().map(|report| (report.name, report.pass)).collect()
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            vec![("to play the faults", false)]
        }
    }
}

fn verdict(report: &Report) -> &'static str {
    match (report.pass, report.skipped) {
        (true, true) => "SKIP",
        (true, false) => "PASS",
        (false, _) => "FAIL",
    }
}

fn print_table(summary: &Summary) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none() {
        table.set_width(WIDTH);
    }
    table.set_header(["fault", "", "s", "seen"]);
    for report in &summary.faults {
        let seconds = format!("{:.1}", report.seconds);
        table.add_row([report.name, verdict(report), &seconds, &report.detail]);
    }
    println!("{table}");
    for (name, value) in &summary.figures {
        println!("{name}: {value}");
    }
    let passed = summary.faults.iter().filter(|report| report.pass).count();
    println!(
        "{passed} of {} faults passed; {} writes acknowledged, {} of them lost",
        summary.faults.len(),
        summary.acknowledged_writes,
        summary.lost_acknowledged_writes
    );
}
