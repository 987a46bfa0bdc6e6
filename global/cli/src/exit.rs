//! How the program ends: a code that scripts can tell apart, and at most one sentence.
use std::{fmt, io, process::ExitCode};

/// Shown by `--help`; the codes are part of the interface.
pub const CODES: &str = "\
Exit codes:
  0  done
  1  an error: a document is not valid, the server refused or cannot be reached
  2  wrong usage
  3  a proxy refused what a revision gave it
  4  a zone is offline and has not applied a revision
  5  the time ran out, or a revision is still on its way (status)";

/// The reasons for which the program does not end with 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Done = 0,
    Error = 1,
    Usage = 2,
    Refused = 3,
    Offline = 4,
    Timeout = 5,
}

/// An end that is not the good one. Without a message everything was said already.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: Option<String>,
}

impl Failure {
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Failure { code, message: Some(message.to_string()) }
    }

    pub fn usage(message: impl fmt::Display) -> Self {
        Failure::new(Code::Usage, message)
    }

    /// Prints the sentence, if one is left to say, and gives the code.
    pub fn end(self) -> ExitCode {
        if let Some(message) = &self.message {
            eprintln!("error: {message}");
        }
        ExitCode::from(self.code as u8)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::new(Code::Error, format!("{error:#}"))
    }
}

impl From<io::Error> for Failure {
    /// A reader that went away (`weftctl get ... | head`) has seen enough: that is no failure.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure { code: Code::Done, message: None },
            _ => Failure::new(Code::Error, format!("cannot write the output: {error}")),
        }
    }
}
