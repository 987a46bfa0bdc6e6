//! The chores of this repository: `cargo xtask <verb>`.
mod bench;
mod chaos;
mod demo;
mod shell;
mod test;
mod tools;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of this repository", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring the tools that the demo and the tests need (Envoy) under target/tools
    Tools,
    /// Start a global control plane, two zones and six Envoys on this machine, and tell what their traffic does
    Demo(demo::Demo),
    /// Check everything: format, lints, all tests, the demo's steps, the quick faults
    Test(test::Test),
    /// Measure what Weft costs, beside a floor that computes nothing
    Bench(bench::Bench),
    /// Kill, stop, cut off and corrupt real programs under load, and check that nothing acknowledged is lost
    Chaos(chaos::Chaos),
    /// Format the code and apply the lints' suggestions
    Fix,
    /// Rewrite the golden files from what the code does now, and show what changed
    Golden,
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Tools => tools::bring_envoy().map(|path| println!("{}", path.display())),
        Verb::Demo(demo) => demo.run(),
        Verb::Test(test) => test.run(),
        Verb::Bench(bench) => bench.run(),
        Verb::Chaos(chaos) => chaos.run(),
        Verb::Fix => shell::cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--fix",
            "--allow-dirty",
            "--allow-staged",
        ])
        .and_then(|()| shell::cargo(&["fmt", "--all"])),
        Verb::Golden => tools::bring_envoy().and_then(|envoy| shell::golden(&envoy)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
