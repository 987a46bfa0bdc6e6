//! kill -9 while entries are appended: what was acknowledged is there, and there is no hole.
//!
//! The victim is this test binary itself, started again with an environment variable that names the directory.
use openraft::{
    CommittedLeaderId, EntryPayload, LogId, RaftLogReader,
    storage::{RaftLogStorage, RaftLogStorageExt},
};
use shared_catalog::{Command, Expected};
use shared_raft::{Batch, Entry, Storage};
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command as Program, Stdio},
};
use tempfile::TempDir;

const DIR: &str = "WEFT_TEST_CRASH_DIR";
const ROUNDS: u64 = 8;
const PER_ROUND: u64 = 60;

fn entry(index: u64) -> Entry {
    let command =
        Command::Put { resource: vec![index as u8; 600], expected: Expected::Any, at_ms: index as i64 };
    let log_id = LogId::new(CommittedLeaderId::new(1, 1), index);
    Entry { log_id, payload: EntryPayload::Normal(Batch(vec![command])) }
}

/// Appends for ever and says each index that is acknowledged.
async fn append_until_killed(dir: &Path) {
    let mut log = Storage::open(dir, "global", || 7).expect("it opens").log;
    let mut next = log.get_log_state().await.expect("read").last_log_id.map_or(0, |last| last.index + 1);
    loop {
        log.blocking_append([entry(next), entry(next + 1)]).await.expect("appended");
        log.save_committed(Some(entry(next).log_id)).await.expect("saved");
        println!("acknowledged {}", next + 1);
        std::io::stdout().flush().expect("written");
        next += 2;
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    if let Ok(dir) = std::env::var(DIR) {
        return append_until_killed(Path::new(&dir)).await;
    }
    let dir = TempDir::new().expect("a directory");
    let mut acknowledged = 0;
    for round in 1..=ROUNDS {
        let mut victim = Program::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "what_was_acknowledged_survives_kill_9", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let lines = BufReader::new(victim.stdout.take().expect("piped")).lines();
        for line in lines {
            let line = line.expect("read");
            if let Some((_, index)) = line.split_once("acknowledged ") {
                acknowledged = index.parse().expect("a number");
            }
            if acknowledged >= round * PER_ROUND {
                break;
            }
        }
        victim.kill().expect("killed");
        victim.wait().expect("gone");

        let mut log = Storage::open(dir.path(), "global", || unreachable!()).expect("it opens").log;
        let entries = log.try_get_log_entries(..).await.expect("read");
        assert!(
            entries.len() as u64 > acknowledged,
            "{} entries, {acknowledged} acknowledged",
            entries.len()
        );
        for (index, found) in entries.iter().enumerate() {
            assert_eq!(found, &entry(index as u64));
        }
    }
}
