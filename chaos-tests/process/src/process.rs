//! One child process: in a group of its own, so that a Ctrl-C at the terminal reaches only us; with its output in a file;
//! and ended, with all that it started, when it is dropped. Only ids that were started here are ever signalled.
use crate::wait::Hopeless;
use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// A thread stops within this time unless a disk hangs.
const PAUSE_PATIENCE: Duration = Duration::from_secs(10);

/// What to start. It can be started again after it has ended; the log goes on in the same file.
#[derive(Clone, Debug)]
pub struct Launch {
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub env: BTreeMap<String, String>,
    pub log: PathBuf,
}

impl Launch {
    pub fn new(name: &str, program: &Path, logs: &Path) -> Launch {
        let log = logs.join(format!("{name}.log"));
        Launch {
            name: name.to_owned(),
            program: program.to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            log,
        }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Launch {
        self.args.push(arg.into());
        self
    }

    /// A flag with its value.
    pub fn flag(self, flag: &str, value: impl Into<OsString>) -> Launch {
        self.arg(flag).arg(value)
    }

    pub fn start(&self) -> Result<Process> {
        let open = || OpenOptions::new().create(true).append(true).open(&self.log);
        let log = open().with_context(|| format!("cannot write {}", self.log.display()))?;
        let errors: File = log.try_clone()?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        // The programs take WEFT_… variables as configuration: what is set in a developer's shell is not for this cluster,
        // except the oracle, which changes nothing that anybody sees.
        let foreign = |key: &str| key.starts_with("WEFT") && key != "WEFT_VERIFY";
        for (key, _) in env::vars_os().filter(|(key, _)| foreign(&key.to_string_lossy())) {
            command.env_remove(key);
        }
        command.envs(&self.env);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        Ok(Process { launch: self.clone(), child, ended: None })
    }
}

#[derive(Debug)]
pub struct Process {
    pub launch: Launch,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// How it has ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Whether it has ended, without taking note of how.
    pub fn is_gone(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
    }

    /// An error, and one that no waiting heals, when it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => {
                let lines = last_lines(&self.launch.log, 5);
                Err(Hopeless(format!("{} has ended ({status}): {lines}", self.launch.name)).into())
            }
        }
    }

    /// SIGKILL, as a crash: it gets no chance to clean up. Returns when it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.ended = Some(self.child.wait()?);
        Ok(())
    }

    /// Stops it where it stands (SIGSTOP). Returns when every thread has come to a halt.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let start = Instant::now();
        while self.ended().is_none() && !self.is_paused() && start.elapsed() < PAUSE_PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Every thread is in the state `T`; one in the kernel stops when it leaves it.
    fn is_paused(&self) -> bool {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.id())) else { return true };
        tasks.flatten().all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['T', 'Z', 'X']))
        })
    }

    /// Asks it to end (SIGTERM) and waits for that; `None` when it did not within `patience`.
    pub fn terminate(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        self.signal(Signal::SIGTERM)?;
        let start = Instant::now();
        while self.ended().is_none() && start.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(self.ended())
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended().is_some() {
            return Ok(());
        }
        match kill(self.pid(), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot signal {}", self.launch.name)),
        }
    }

    /// Ends it and everything that it started, wherever those put themselves.
    pub fn end(&mut self) {
        let below = descendants(self.child.id());
        if self.ended().is_none() {
            // The group exists at least until its leader has been waited for, so its id is still ours.
            let _ = killpg(self.pid(), Signal::SIGKILL);
            self.ended = self.child.wait().ok();
        }
        for one in below {
            one.kill();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A process below one of ours. The start time tells it from a later process that got the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Descendant {
    id: u32,
    started: u64,
}

impl Descendant {
    fn kill(self) {
        if start_time(self.id) == Some(self.started) {
            let _ = kill(Pid::from_raw(self.id as i32), Signal::SIGKILL);
        }
    }
}

fn descendants(id: u32) -> Vec<Descendant> {
    let mut found = Vec::new();
    let mut open = vec![id];
    while let Some(parent) = open.pop() {
        let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|text| text.parse().ok()) {
                if let Some(started) = start_time(child) {
                    found.push(Descendant { id: child, started });
                    open.push(child);
                }
            }
        }
    }
    found
}

/// The 22nd field of `/proc/<id>/stat`, in ticks since boot. The 2nd is the name in parentheses and may hold anything.
fn start_time(id: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// The end of a log, as one text.
pub fn last_lines(log: &Path, count: usize) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process wrote, once it has written it.
    fn line_of(log: &Path) -> String {
        let start = Instant::now();
        loop {
            let text = last_lines(log, 1);
            if !text.is_empty() {
                return text;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "nothing was written to {}", log.display());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn what_a_process_started_ends_with_it_even_in_another_group() {
        let dir = std::env::temp_dir().join(format!("weft-process-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        // setsid leaves the process group, as a supervisor may do with its child.
        let script = "setsid sleep 1000 & echo $!; wait";
        let launch = Launch::new("parent", Path::new("/bin/sh"), &dir).arg("-c").arg(script);
        let mut process = launch.start().expect("started");
        let child: u32 = line_of(&launch.log).parse().expect("the child's id");
        assert!(start_time(child).is_some());
        process.end();
        let start = Instant::now();
        // It is a zombie until init takes it: then it has no more command line.
        while fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|line| !line.is_empty()) {
            assert!(start.elapsed() < Duration::from_secs(60), "the child still runs");
            std::thread::sleep(Duration::from_millis(10));
        }
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn a_process_that_ended_is_hopeless() {
        let dir = std::env::temp_dir().join(format!("weft-ended-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let launch = Launch::new("short", Path::new("/bin/sh"), &dir).arg("-c").arg("echo why; exit 3");
        let mut process = launch.start().expect("started");
        let status = process.terminate(Duration::from_secs(60)).expect("signalled");
        assert!(status.is_some());
        let error = process.check_running().expect_err("ended");
        assert!(error.downcast_ref::<Hopeless>().is_some());
        fs::remove_dir_all(&dir).expect("removed");
    }
}
