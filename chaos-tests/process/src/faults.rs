//! The faults of global and of the zone link, each a scene with clients that write and read all the while, and one judge
//! for all of them.
mod disks;
mod kills;
mod members;
mod partitions;
mod power;
mod zones;

use crate::{cluster::last_words, device, history::Verdict, stage::Stage};
use anyhow::Result;
use serde::Serialize;
use std::{collections::BTreeMap, future::Future, pin::Pin, time::Instant};

/// Mounts of this process are its own from now on, and vanish with it. Without the right to that there are none.
pub fn own_mounts() {
    // Whoever needs a mount asks for it, and tells what is missing.
    let _ = device::own_namespace();
}

/// How a scene ended that ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scene {
    Played(String),
    /// This machine does not permit it.
    Skipped(String),
}

type Playing<'a> = Pin<Box<dyn Future<Output = Result<Scene>> + 'a>>;

pub struct Fault {
    pub name: &'static str,
    pub about: &'static str,
    /// Also in a quick run.
    pub quick: bool,
    play: for<'a> fn(&'a mut Stage) -> Playing<'a>,
}

/// In the order of playing: what spares the cluster first.
pub const FAULTS: &[Fault] = &[
    Fault {
        name: "kill-leader",
        about: "the leader is killed (kill -9) again and again under writes; a write resumes within a second",
        quick: true,
        play: |stage| Box::pin(kills::leaders(stage)),
    },
    Fault {
        name: "kill-all",
        about: "all nodes are killed at once under writes and started again",
        quick: true,
        play: |stage| Box::pin(kills::everybody(stage)),
    },
    Fault {
        name: "pause-leader",
        about: "the leader is stopped (SIGSTOP), another takes over, and it goes on (SIGCONT) as if it still led",
        quick: true,
        play: |stage| Box::pin(kills::paused_leader(stage)),
    },
    Fault {
        name: "isolated-leader",
        about: "the leader is cut off from the other two; they go on, it refuses reads and writes; healed",
        quick: true,
        play: |stage| Box::pin(partitions::isolated_leader(stage)),
    },
    Fault {
        name: "isolated-two-of-five",
        about: "the leader and another are cut off from three; healed",
        quick: false,
        play: |stage| Box::pin(partitions::isolated_two_of_five(stage)),
    },
    Fault {
        name: "lost-majority",
        about: "two of three are dead: reads are 503 and name ?consistency=stale, writes are refused, a zone serves",
        quick: true,
        play: |stage| Box::pin(partitions::lost_majority(stage)),
    },
    Fault {
        name: "one-way",
        about: "wires carry in one direction only: no storm of terms, no two leaders",
        quick: true,
        play: |stage| Box::pin(partitions::one_way(stage)),
    },
    Fault {
        name: "bad-wires",
        about: "a wire comes and goes five times a second; then packets are late on all",
        quick: true,
        play: |stage| Box::pin(partitions::bad_wires(stage)),
    },
    Fault {
        name: "membership",
        about: "three nodes become five and three again, and the leadership moves, while nodes die",
        quick: true,
        play: |stage| Box::pin(members::change_under_faults(stage)),
    },
    Fault {
        name: "wiped-node",
        about: "a node loses its disk: it comes back with a new token and under a new id only",
        quick: true,
        play: |stage| Box::pin(members::wiped_node(stage)),
    },
    Fault {
        name: "zone-cut-off",
        about: "a zone is cut off and restarted meanwhile: it serves, and resumes by entries",
        quick: true,
        play: |stage| Box::pin(zones::cut_off_and_restarted(stage)),
    },
    Fault {
        name: "zone-link",
        about: "the link of one zone breaks again and again: the other one notices nothing",
        quick: true,
        play: |stage| Box::pin(zones::one_link_breaks(stage)),
    },
    Fault {
        name: "half-open-link",
        about: "nothing passes on a zone's link and nothing is closed: it is found and dialled again",
        quick: true,
        play: |stage| Box::pin(zones::half_open(stage)),
    },
    Fault {
        name: "two-zones-one-name",
        about: "another zone comes with a name that is taken: it is refused and told, the first is undisturbed",
        quick: true,
        play: |stage| Box::pin(zones::two_of_one_name(stage)),
    },
    Fault {
        name: "snapshots",
        about: "a zone and a wiped node are so far behind that they get a snapshot, and are killed while they take it",
        quick: false,
        play: |stage| Box::pin(zones::snapshots(stage)),
    },
    Fault {
        name: "damaged-disk",
        about: "bits flip and files are cut while a node is down: it refuses with a reason, or serves nothing wrong",
        quick: true,
        play: |stage| Box::pin(disks::damaged(stage)),
    },
    // Leaves a crowd of absent zones behind: the next ones begin with clusters of their own.
    Fault {
        name: "zones-reconnect",
        about: "the links of all zones break at once: no election, writes are at most twice as slow while they come back",
        quick: true,
        play: |stage| Box::pin(zones::all_reconnect(stage)),
    },
    Fault {
        name: "power-cut",
        about: "all nodes lose power at a random moment: what was acknowledged before is on their disks",
        quick: true,
        play: |stage| Box::pin(power::cut(stage)),
    },
    Fault {
        name: "power-cut-no-fsync",
        about: "the same without fsync: the test must notice that acknowledged writes are lost",
        quick: true,
        play: |stage| Box::pin(power::cut_without_fsync(stage)),
    },
    Fault {
        name: "stalled-disk",
        about: "a follower's and then the leader's disk hangs for seconds: no election, at most one",
        quick: true,
        play: |stage| Box::pin(power::stalled_disk(stage)),
    },
    Fault {
        name: "full-disk",
        about: "disks fill up: writes are refused, reads go on, and with room again all goes on by itself",
        quick: true,
        play: |stage| Box::pin(disks::full(stage)),
    },
];

/// What became of one fault, as the JSON file has it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub name: &'static str,
    pub pass: bool,
    pub detail: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    pub seconds: f64,
    #[serde(skip)]
    pub lost: u64,
}

/// What became of all.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    pub faults: Vec<Report>,
    pub lost_acknowledged_writes: u64,
    pub acknowledged_writes: u64,
    #[serde(flatten)]
    pub figures: BTreeMap<String, f64>,
}

/// Lines of each log that a failure shows.
const LAST_LINES: usize = 8;

/// Plays one fault and judges it. A failure takes the cluster with it: the next one begins anew.
pub async fn play(fault: &Fault, stage: &mut Stage) -> Report {
    let begin = Instant::now();
    let played = (fault.play)(stage).await;
    let judged = match &played {
        Ok(Scene::Skipped(_)) => Ok(Verdict::default()),
        _ => stage.judge().await,
    };
    let mut problems = Vec::new();
    let mut detail = String::new();
    let mut skipped = false;
    match played {
        Ok(Scene::Played(seen)) => detail = seen,
        Ok(Scene::Skipped(why)) => {
            skipped = true;
            detail = format!("skipped: {why}");
        }
        Err(error) => problems.push(format!("{error:#}")),
    }
    let mut lost = 0;
    match judged {
        Ok(verdict) if verdict.is_good() => {}
        Ok(verdict) => {
            lost = verdict.lost();
            problems.push(verdict.to_string());
        }
        Err(error) => problems.push(format!("{error:#}")),
    }
    let pass = problems.is_empty();
    if !pass {
        if let Some(logs) = stage.logs() {
            eprintln!("{}", last_words(logs, LAST_LINES));
        }
        stage.clear();
        problems.extend((!detail.is_empty()).then_some(detail));
        detail = problems.join("; ");
    }
    let seconds = begin.elapsed().as_secs_f64();
    Report { name: fault.name, pass, detail, skipped, seconds, lost }
}
