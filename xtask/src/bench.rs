//! `cargo xtask bench`: what Weft costs, measured beside a floor that computes nothing.
//!
//! ```text
//! bench B1 B4 --> lab: builds, then for each bench  proxy-sim run … --launch zone-cp --verify-against launch
//!                                                   proxy-sim run … --launch floor
//!                      '--> outcome: figures, ratios to the floor, goals --> table, JSON
//! bench report --> all benches, and the same over a range of P, S and manifests --> docs/benchmarks.md, plots
//! ```
//!
//! A run counts only if every proxy ends with what a fresh control plane gives it from the final documents alone.
//! A missed goal is told; only a run that does not count, or does not end, fails.
mod crowd;
mod endpoint;
mod federation;
mod fit;
mod globals;
mod growth;
mod lab;
mod machine;
mod outcome;
mod plot;
mod policy;
mod raft;
mod report;
mod rest;
mod rollout;
mod storm;
mod unruly;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use lab::Lab;
use machine::Machine;
use outcome::Outcome;
use report::Findings;
use std::path::PathBuf;
use std::time::Instant;

const EXAMPLES: &str = "Examples:
  # an endpoint moves, all connect at once; a minute each
  cargo xtask bench B1 B4 --quick
  # everything, at length, for a program to read
  cargo xtask bench all --json bench.json
  # everything and how it grows, as docs/benchmarks.md; and the same document again from the same figures
  cargo xtask bench report --json report.json
  cargo xtask bench report --from report.json";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Bench {
    /// Which benches to run, one after the other
    #[arg(required = true, value_enum, ignore_case = true, value_name = "NAME")]
    names: Vec<Name>,
    /// Measure the programs as they lie in target/release, without building them
    #[arg(long)]
    no_build: bool,
    /// A minute each: shorter phases, one round, no ranges
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report of the figures in this file, which a report left with --json, and measure nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "quick"])]
    from: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// One endpoint moves, 200 proxies have it as a client
    #[value(name = "B1")]
    B1,
    /// A policy changes: the timeout of one service, that of the mesh, a permission
    #[value(name = "B2")]
    B2,
    /// Nothing happens; status is written; the same document comes again
    #[value(name = "B3")]
    B3,
    /// All connect at once, connect anew, and once more after a restart
    #[value(name = "B4")]
    B4,
    /// Memory for each proxy
    #[value(name = "B5")]
    B5,
    /// A policy from a global control plane to ten zones and to a hundred, a new zone, and zones that come back
    #[value(name = "B6")]
    B6,
    /// From a global control plane to the last proxy of three zones
    #[value(name = "B6b")]
    B6b,
    /// The 50 replicas of a service are replaced
    #[value(name = "B9")]
    B9,
    /// Some proxies never read, refuse, or connect anew all the time
    #[value(name = "B10")]
    B10,
    /// One edit among 2,000 permissions and 1,000 routes
    #[value(name = "B12")]
    B12,
    /// Writes to three nodes of global, beside three of etcd
    #[value(name = "raft")]
    Raft,
    /// All of them
    #[value(name = "all")]
    All,
    /// All of them, and how costs grow; writes docs/benchmarks.md with plots
    #[value(name = "report")]
    Report,
}

impl Name {
    const BENCHES: [Name; 11] = [
        Name::B1,
        Name::B2,
        Name::B3,
        Name::B4,
        Name::B5,
        Name::B6,
        Name::B6b,
        Name::B9,
        Name::B10,
        Name::B12,
        Name::Raft,
    ];

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn round(self, lab: &Lab) -> Result<Outcome> {
        match self {
            Name::B1 => endpoint::run(lab),
            Name::B2 => policy::run(lab),
            Name::B3 => rest::run_idle(lab),
            Name::B4 => storm::run(lab),
            Name::B5 => rest::run_memory(lab),
            Name::Raft => raft::run(lab),
            Name::B6 => federation::run_zones(lab),
            Name::B6b => federation::run_proxies(lab),
            Name::B9 => rollout::run(lab),
            Name::B10 => unruly::run(lab),
            Name::B12 => crowd::run(lab),
            Name::All | Name::Report => bail!("{self:?} is no bench of its own"),
        }
    }

    /// How often it is repeated at length. What lasts ten minutes by itself is run once.
    fn rounds(self) -> usize {
        match self {
            Name::B3 | Name::B6 | Name::Raft => 1,
            _ => 3,
        }
    }
}

impl Bench {
    pub fn run(self) -> Result<()> {
        let is_report = self.names.contains(&Name::Report);
        if is_report && self.names.len() > 1 {
            bail!("the report measures everything: give no other name with it");
        }
        if let Some(file) = &self.from {
            if !is_report {
                bail!("--from is for the report");
            }
            return report::Findings::read(file)?.write();
        }
        let lab = Lab::open(self.quick)?;
        if !self.no_build {
            lab.build()?;
        }
        let names = if is_report { vec![Name::All] } else { self.names.clone() };
        let mut findings = self.measure(&names, &lab)?;
        if is_report {
            match growth::all(&lab) {
                Ok(ranges) => findings.ranges = ranges,
                Err(error) => drop(findings.failed.insert("growth".into(), format!("{error:#}"))),
            }
            if let Some(file) = &self.json {
                findings.save(file)?;
            }
            findings.write()?;
        }
        if !findings.failed.is_empty() {
            let names: Vec<&str> = findings.failed.keys().map(String::as_str).collect();
            bail!("no figures of {}", names.join(", "));
        }
        Ok(())
    }

    fn measure(&self, names: &[Name], lab: &Lab) -> Result<Findings> {
        let all = names.iter().flat_map(|name| match name {
            Name::All => Name::BENCHES.to_vec(),
            one => vec![*one],
        });
        let mut findings = Findings::of(Machine::look(), self.quick);
        eprintln!("{}", findings.machine);
        for name in all {
            let title = name.name();
            if findings.outcomes.contains_key(&title) {
                continue;
            }
            match outcome_of(name, lab) {
                Ok(outcome) => {
                    println!("\n{title}\n{}", outcome.table());
                    findings.outcomes.insert(title, outcome);
                }
                Err(error) => {
                    eprintln!("error: {title}: {error:#}");
                    findings.failed.insert(title, format!("{error:#}"));
                }
            }
            // After each: what was measured stays, whatever happens to the next one.
            if let Some(file) = &self.json {
                findings.save(file)?;
            }
        }
        Ok(findings)
    }
}

/// The median of the rounds.
fn outcome_of(name: Name, lab: &Lab) -> Result<Outcome> {
    let begun = Instant::now();
    let rounds = if lab.quick { 1 } else { name.rounds() };
    let mut outcomes = Vec::new();
    for round in 1..=rounds {
        lab.say(format!("{}, round {round} of {rounds}", name.name()));
        outcomes.push(name.round(lab)?);
    }
    lab.say(format!("{} took {:.0} s", name.name(), begun.elapsed().as_secs_f64()));
    let mut outcome = Outcome::median(outcomes)?;
    if name == Name::B1 && !lab.quick {
        growth::add_exponents(lab, &mut outcome)?;
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_all_are_benches_once() {
        for name in Name::BENCHES {
            assert_eq!(Name::from_str(&name.name().to_lowercase(), true), Ok(name));
        }
        let variants = Name::value_variants().iter().filter(|name| !matches!(name, Name::All | Name::Report));
        assert_eq!(variants.copied().collect::<Vec<_>>(), Name::BENCHES);
    }
}
