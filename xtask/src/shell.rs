//! Running other programs from the root of the checkout.
use anyhow::{Context, Result, bail};
use chaos_tests_process::programs::{self, workspace};
use std::{
    path::Path,
    process::{Command, Stdio},
};

pub fn cargo(args: &[&str]) -> Result<()> {
    run(programs::cargo().args(args))
}

/// Runs a command to its end with our output; an error that names it when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let said = said(command);
    let status = command.current_dir(workspace()).status().with_context(|| format!("cannot start {said}"))?;
    if !status.success() {
        bail!("{said} ended with {status}");
    }
    Ok(())
}

/// What a command prints on its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let said = said(command);
    command.current_dir(workspace()).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot start {said}"))?;
    if !output.status.success() {
        bail!("{said} ended with {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it.
pub fn said(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Golden tests rewrite their files when `UPDATE_EXPECT` is set. What they wrote is for a person to read.
pub fn golden(envoy: &Path) -> Result<()> {
    let mut tests = programs::cargo();
    tests.args(["test", "--workspace", "--exclude", "chaos-tests-process", "--all-targets"]);
    run(tests.env("UPDATE_EXPECT", "1").env("WEFT_ENVOY", envoy))?;
    run(Command::new("git").args(["status", "--short"]))
}
