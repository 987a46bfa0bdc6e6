//! How a program ends: one clear sentence on stderr when it failed, no backtrace.
use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

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

/// Begins anew as the same process, with the same arguments: the last resort for what only an end lets go. Returns only
/// when that cannot be done.
pub fn again() -> io::Error {
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    match std::env::current_exe() {
        Ok(program) => {
            let mut command = Command::new(program);
            command.args(arguments);
            if let Some(name) = name {
                command.arg0(name);
            }
            command.exec()
        }
        Err(error) => error,
    }
}
