//! `cargo xtask test`: everything that must hold, with one line at the end that counts it.
use crate::{chaos, demo, shell, tools};
use anyhow::{Context, Result, bail};
use chaos_tests_process::{programs, run::PROGRAMS_ARE_BUILT};
use clap::Args;
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

#[derive(Args)]
pub struct Test {
    /// Leave out the demo, the faults and the tests that start real programs
    #[arg(long)]
    no_e2e: bool,
}

#[derive(Default)]
struct Score {
    passed: u64,
    failed: Vec<String>,
}

impl Score {
    fn note(&mut self, what: &str, result: Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => {
                eprintln!("error: {what}: {error:#}");
                self.failed.push(what.to_owned());
            }
        }
    }
}

impl Test {
    pub fn run(self) -> Result<()> {
        let mut score = Score::default();
        let envoy = tools::bring_envoy()?;
        score.note("format", shell::cargo(&["fmt", "--all", "--check"]));
        // One set of packages for lints, programs and tests: another one would build the dependencies again.
        let lints = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
        score.note("lints", shell::cargo(&lints));
        let built = shell::cargo(&["build", "--workspace", "--all-targets"]);
        let can_run = built.is_ok();
        score.note("build", built);
        if can_run {
            self.tests(&envoy, &mut score)?;
            if !self.no_e2e {
                for (step, pass) in demo::steps_for_tests()? {
                    let result =
                        if pass { Ok(()) } else { Err(anyhow::anyhow!("the step failed, see above")) };
                    score.note(&format!("demo: {step}"), result);
                }
                for (fault, pass) in chaos::faults_for_tests() {
                    let result = if pass { Ok(()) } else { Err(anyhow::anyhow!("it failed, see above")) };
                    score.note(&format!("chaos: {fault}"), result);
                }
            }
        }
        for what in &score.failed {
            println!("failed: {what}");
        }
        println!("{} passed, {} failed", score.passed, score.failed.len());
        // The line above is the last one, for those who read only that.
        std::process::exit(if score.failed.is_empty() { 0 } else { 1 });
    }

    /// Runs cargo's tests, passes their output on and counts what it says.
    fn tests(&self, envoy: &Path, score: &mut Score) -> Result<()> {
        let mut command = programs::cargo();
        command.args(["test", "--workspace", "--all-targets", "--no-fail-fast"]);
        if self.no_e2e {
            command.args(["--exclude", "chaos-tests-process"]);
        }
        command.env("WEFT_ENVOY", envoy).env(PROGRAMS_ARE_BUILT, "1").stdout(Stdio::piped());
        let said = shell::said(&command);
        let mut child = command.spawn().with_context(|| format!("cannot start {said}"))?;
        let output = child.stdout.take().context("cargo has no output")?;
        let before = score.failed.len();
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            if let Some((passed, _)) = counts(&line) {
                score.passed += passed;
            }
            if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
                score.failed.push(name.to_owned());
            }
        }
        let status = child.wait()?;
        if !status.success() && score.failed.len() == before {
            score.failed.push(format!("{said} ended with {status}"));
        }
        if status.success() && score.passed == 0 {
            bail!("{said} ran no test");
        }
        Ok(())
    }
}

/// The passed and the failed of a line `test result: ok. 12 passed; 0 failed; …`.
fn counts(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, numbers) = rest.split_once(". ")?;
    let mut parts = numbers.split("; ");
    let passed = parts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = parts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some((passed, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_a_test_run_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(counts(line), Some((12, 3)));
        assert_eq!(counts("running 3 tests"), None);
    }
}
