//! CPU time and memory of a process, from the kernel's accounting.
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::fs;

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// User and system, of all threads, ended ones too. In ticks of 10 ms as the kernel tells it.
    pub cpu_s: f64,
    pub rss_kb: u64,
    pub peak_kb: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Result<Usage> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}: has the process ended?"))
        };
        Ok(Usage { cpu_s: cpu_seconds(&read("stat")?)?, ..memory(&read("status")?) })
    }

    pub fn of_this_process() -> Result<Usage> {
        Usage::of(std::process::id())
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Usage>>(all: I) -> Usage {
        all.fold(Usage::default(), |sum, one| Usage {
            cpu_s: sum.cpu_s + one.cpu_s,
            rss_kb: sum.rss_kb + one.rss_kb,
            peak_kb: sum.peak_kb + one.peak_kb,
        })
    }
}

/// The kernel's `USER_HZ`, which is 100 on every platform that this runs on.
const TICKS: f64 = 100.0;

fn cpu_seconds(stat: &str) -> Result<f64> {
    // The name stands in brackets and may hold anything, brackets and spaces too.
    let (_, rest) = stat.rsplit_once(')').context("stat without a name")?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut ticks =
        || fields.next().and_then(|field| field.parse::<f64>().ok()).context("stat without times");
    Ok((ticks()? + ticks()?) / TICKS)
}

fn memory(status: &str) -> Usage {
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or_default()
    };
    Usage { rss_kb: of("VmRSS:"), peak_kb: of("VmHWM:"), cpu_s: 0.0 }
}

/// As many open files as the system lets this process and its children have.
pub fn open_files() -> Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        assert_eq!(cpu_seconds(stat).unwrap(), 2.0);
        assert!(cpu_seconds("12 (x) S").is_err());
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::of_this_process().unwrap();
        assert!(usage.rss_kb > 100 && usage.peak_kb >= usage.rss_kb, "{usage:?}");
    }
}
