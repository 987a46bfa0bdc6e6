//! Builds the programs, and runs the simulator against Weft and against the floor.
use crate::shell;
use anyhow::{Context, Result, bail};
use chaos_tests_process::programs::{self, profile_dir};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

/// The packages whose programs are measured, or measure.
const PACKAGES: [&str; 4] = ["zone-server", "global-server", "global-load", "zone-proxy-sim"];

pub struct Lab {
    pub quick: bool,
    release: PathBuf,
    begun: Instant,
}

/// What the simulator is asked for.
#[derive(Clone, Debug)]
pub struct Sim {
    words: Vec<String>,
}

impl Sim {
    pub fn run(scenarios: &[&str]) -> Sim {
        let words = ["run"].iter().chain(scenarios).map(|word| (*word).to_owned()).collect();
        Sim { words }
    }

    pub fn with(mut self, flag: &str, value: impl ToString) -> Sim {
        self.words.extend([flag.to_owned(), value.to_string()]);
        self
    }

    /// So many proxies of so many services, each of which calls `scope` others.
    pub fn graph(self, proxies: usize, services: usize, scope: usize) -> Sim {
        self.with("--proxies", proxies).with("--services", services).with("--scope", scope)
    }
}

/// The simulator's report.
#[derive(Clone, Debug)]
pub struct Report(Value);

/// What the same work gave of Weft and of the floor.
pub struct Pair {
    pub weft: Report,
    pub floor: Report,
}

impl Lab {
    pub fn open(quick: bool) -> Result<Lab> {
        let profile = profile_dir()?;
        let target = profile.parent().context("the target directory has no parent")?;
        Ok(Lab { quick, release: target.join("release"), begun: Instant::now() })
    }

    pub fn build(&self) -> Result<()> {
        self.say("building the programs for release".to_owned());
        let mut build = programs::cargo();
        build.args(["build", "--release", "--bins"]);
        build.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
        shell::run(&mut build)
    }

    /// Tells how far it is.
    pub fn say(&self, text: String) {
        eprintln!("[{:6.1} s] {text}", self.begun.elapsed().as_secs_f64());
    }

    /// `quick` when it shall be quick.
    pub fn choose<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    pub fn program(&self, name: &str) -> String {
        self.release.join(name).to_string_lossy().into_owned()
    }

    /// The floor first: whatever warms up in this machine is warm for the other.
    pub fn pair(&self, sim: &Sim) -> Result<Pair> {
        let floor = self.floor(sim)?;
        let weft = self.weft(sim)?;
        Ok(Pair { weft, floor })
    }

    pub fn floor(&self, sim: &Sim) -> Result<Report> {
        self.simulate("floor", sim.clone().with("--launch", "floor"))
    }

    /// An error unless every proxy ends with what a fresh control plane gives it.
    pub fn weft(&self, sim: &Sim) -> Result<Report> {
        let sim = sim.clone().with("--launch", self.program("zone-cp")).with("--verify-against", "launch");
        let report = self.simulate("Weft", sim)?;
        report.verified()?;
        Ok(report)
    }

    pub fn simulate(&self, whom: &str, sim: Sim) -> Result<Report> {
        let json = self.release.join(format!("bench-{}.json", std::process::id()));
        self.say(format!("  {whom}: proxy-sim {}", said(&sim.words)));
        let mut command = Command::new(self.release.join("proxy-sim"));
        command.args(&sim.words).arg("--json").arg(&json).stdin(Stdio::null());
        // Configuration in a developer's shell is not for what is measured.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("WEFT")) {
            command.env_remove(key);
        }
        let output = command.output().context("cannot start proxy-sim")?;
        if !output.status.success() {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
            bail!("proxy-sim {}:\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
        }
        let text = std::fs::read_to_string(&json).context("proxy-sim left no report")?;
        std::fs::remove_file(&json).context("the report cannot be removed")?;
        Ok(Report(serde_json::from_str(&text).context("the report of proxy-sim is not JSON")?))
    }
}

/// The words without paths, which are this machine's.
fn said(words: &[String]) -> String {
    let short = |word: &String| word.rsplit('/').next().unwrap_or_default().to_owned();
    words.iter().map(short).collect::<Vec<_>>().join(" ")
}

impl Report {
    fn phase(&self, name: &str) -> Result<&Value> {
        let phases = self.0["phases"].as_array().into_iter().flatten();
        let mut mine = phases.filter(|phase| phase["name"] == name);
        mine.next().with_context(|| format!("the simulator reports no phase {name:?}"))
    }

    /// A number of a phase: `figures/pushes`, `spreads/last_client_ms/p99`, `control_plane/rss_kb`.
    pub fn number(&self, phase: &str, path: &str) -> Result<f64> {
        let value = self.phase(phase)?.pointer(&format!("/{path}")).and_then(Value::as_f64);
        value.with_context(|| format!("the phase {phase:?} has no {path}"))
    }

    /// How many proxies were compared with fresh ones; an error when one differs, or none was.
    pub fn verified(&self) -> Result<u64> {
        let of = |key: &str| self.0["verified"][key].as_u64().unwrap_or_default();
        match (of("proxies"), of("equal")) {
            (0, _) => bail!("nothing was compared with a fresh control plane"),
            (all, equal) if equal < all => bail!("{} of {all} proxies differ from fresh ones", all - equal),
            (all, _) => Ok(all),
        }
    }
}

impl Pair {
    /// A number of a phase, of Weft and of the floor.
    pub fn number(&self, phase: &str, path: &str) -> Result<(f64, f64)> {
        let floor = self.floor.number(phase, path).context("the floor")?;
        Ok((self.weft.number(phase, path)?, floor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_number_is_found_by_its_phase_and_a_missing_one_is_an_error() {
        let report = Report(json!({"phases": [{"name": "storm", "figures": {"s": 2.5}}]}));
        assert_eq!(report.number("storm", "figures/s").unwrap(), 2.5);
        assert!(report.number("storm", "figures/t").is_err());
        assert!(report.number("calm", "figures/s").is_err());
    }

    #[test]
    fn a_run_counts_when_all_its_proxies_are_as_fresh_ones() {
        let verified = |proxies, equal| {
            Report(json!({"verified": {"proxies": proxies, "equal": equal}})).verified().is_ok()
        };
        assert!(verified(3, 3));
        assert!(!verified(3, 2));
        assert!(!verified(0, 0));
        assert!(Report(json!({})).verified().is_err());
    }
}
