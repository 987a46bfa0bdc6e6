//! How a program ends: one clear sentence on stderr when it failed, no backtrace.
use std::process::ExitCode;

/// Runs `main`; an error is printed with its causes on one line, and the exit code is 1.
pub fn run(main: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    match main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
