//! The leash: Envoy must not outlive the program that supervises it, even when that one is killed.
//!
//! Linux ends a process when its parent ends, if the process asks for it itself. So this program is started once more,
//! asks, and becomes Envoy; what was asked for stays across that. No code runs between fork and exec, which would be
//! unsafe.
use crate::args::Leash;
use anyhow::{Context, Result, bail};
use nix::{
    sys::{prctl, signal::Signal},
    unistd::getppid,
};
use std::{convert::Infallible, ffi::OsString, os::unix::process::CommandExt, process};
use tokio::process::Command;

/// The command that starts `line` on the leash, in a process group of its own: what a terminal sends to all of its
/// processes reaches the supervisor only.
pub fn command(line: &[OsString]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("leash").arg(process::id().to_string()).arg("--").args(line);
    command.process_group(0).kill_on_drop(true).stdin(process::Stdio::null());
    command
}

/// Becomes the command. Returns only when it cannot.
pub fn run(leash: &Leash) -> Result<Infallible> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot ask to end with the parent")?;
    // A parent that ended before the line above ended unseen.
    if getppid().as_raw() != leash.parent {
        bail!("the process that started this one is gone");
    }
    let Some((program, rest)) = leash.command.split_first() else { bail!("there is no command") };
    let error = process::Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
