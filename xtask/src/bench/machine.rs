//! The machine that was measured on, without its name or any path of it.
use crate::shell;
use chaos_tests_process::programs::workspace;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::process::Command;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub memory_gb: f64,
    pub kernel: String,
    /// Over 1, 5 and 15 minutes, before the first bench.
    pub load: String,
    pub rustc: String,
    /// With `+` when there are changes that are not committed.
    pub revision: String,
}

impl Machine {
    pub fn look() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let words = |text: &str, count: usize| {
            text.split_ascii_whitespace().take(count).collect::<Vec<_>>().join(" ")
        };
        let (info, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let kb: f64 =
            value_of(&memory, "MemTotal").and_then(|text| words(text, 1).parse().ok()).unwrap_or_default();
        Machine {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: value_of(&info, "model name").unwrap_or("unknown").to_owned(),
            memory_gb: (kb / 1e5).round() / 10.0,
            kernel: read("/proc/sys/kernel/osrelease"),
            load: words(&read("/proc/loadavg"), 3),
            rustc: words(&said("rustc", &["--version"]), 2),
            revision: revision(),
        }
    }
}

fn revision() -> String {
    let revision = said("git", &["rev-parse", "--short", "HEAD"]);
    let changed = !said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    if changed { format!("{revision}+") } else { revision }
}

/// What a program prints; `unknown` where it is not there.
fn said(program: &str, words: &[&str]) -> String {
    let mut command = Command::new(program);
    let text = shell::output(command.args(words).current_dir(workspace()));
    text.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The value of the first line `key : value`.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == key).then_some(value.trim())
    })
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores ({}), {} GB, Linux {}, load {}, {}, revision {}",
            self.cores, self.processor, self.memory_gb, self.kernel, self.load, self.rustc, self.revision
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_key() {
        let text = "MemTotal:  123 kB\nmodel name\t: Fast: One\n";
        assert_eq!(value_of(text, "MemTotal"), Some("123 kB"));
        assert_eq!(value_of(text, "model name"), Some("Fast: One"));
        assert_eq!(value_of(text, "none"), None);
    }
}
