//! B6: a policy from a global control plane to many zones, a new zone, and zones that come back. B6b: from global to the
//! last proxy of three zones. There is no floor: nothing but a global control plane does what one does.
use super::globals::{self, Globals};
use super::lab::{Lab, Report, Sim};
use super::outcome::{Figure, Goal, Outcome};
use crate::shell;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// How many zones there are, and within which time the last one shall have a policy.
const CROWDS: [(usize, f64); 2] = [(10, 20.0), (100, 50.0)];

/// Zones without proxies in one process, each with a replica on a disk of its own and real links.
pub fn run_zones(lab: &Lab) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (zones, goal) in CROWDS {
        let dir = globals::new_dir(&format!("zones-{zones}"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let measured = runtime.block_on(follow(lab, &dir, zones));
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        let lines = measured?;
        let number = |what: &str, path: &str| -> Result<f64> {
            let line = lines.iter().find(|line| line["what"] == what);
            let number = line.and_then(|line| line.pointer(&format!("/{path}"))).and_then(Value::as_f64);
            number.with_context(|| format!("write-load tells no {path} of {what}"))
        };
        let named = |name: &str| format!("{name}_at_{zones}");
        let mut add = |name: &str, what: &str, path: &str, goal: Option<Goal>| -> Result<()> {
            let figure = Figure::of(named(name), number(what, path)?);
            outcome.add(match goal {
                Some(goal) => figure.goal(goal),
                None => figure,
            });
            Ok(())
        };
        let (policies, reconnect, back) = ("policies", "reconnect", "return");
        // From the acknowledgement, which follows the commit at once; with the whole request it is longer by the commit.
        add("last_zone_p99_ms", policies, "after_acknowledgement/p99_ms", Some(Goal::AtMost(goal)))?;
        add("last_zone_p50_ms", policies, "after_acknowledgement/p50_ms", None)?;
        add("last_zone_worst_ms", policies, "after_acknowledgement/max_ms", None)?;
        add("with_the_request_p50_ms", policies, "after_sending/p50_ms", None)?;
        add("with_the_request_p99_ms", policies, "after_sending/p99_ms", None)?;
        add("all_follow_s", "following", "seconds", None)?;
        add("all_follow_again_s", reconnect, "following_s", None)?;
        add("write_slowdown_meanwhile", reconnect, "slowdown", Some(Goal::AtMost(2.0)))?;
        add("return_s", back, "seconds", None)?;
        add("return_bytes_per_changed_byte", back, "bytes_per_changed_byte", Some(Goal::AtMost(2.0)))?;
        add("return_resources", back, "resources", None)?;
        if zones == CROWDS[0].0 {
            // The goal is for as many resources as only the long form has.
            let goal = (!lab.quick).then_some(Goal::AtMost(3.0));
            add("new_zone_holds_all_s", "newcomer", "seconds", goal)?;
            add("new_zone_resources", "newcomer", "resources", None)?;
            add("new_zone_bytes_received", "newcomer", "bytes", None)?;
        }
    }
    outcome.note(
        "one node of global and zones without proxies, each with its disk and its link, on the cores of one machine",
    );
    outcome.note(
        "a policy is in a zone when it is on its disk and applied; ms after the acknowledgement of the write",
    );
    Ok(outcome)
}

/// Lets zones follow a new global; what `write-load` tells, line by line.
async fn follow(lab: &Lab, dir: &Path, zones: usize) -> Result<Vec<Value>> {
    let global = Globals::start(lab, dir, 1).await?;
    lab.say(format!("  {zones} zones follow"));
    let mut command = Command::new(lab.program("write-load"));
    command
        .arg("zones")
        .args(&global.args)
        .args(["--link", &global.link])
        .arg("--dir")
        .arg(dir.join("zones"));
    let newcomer = if zones == CROWDS[0].0 { lab.choose(2_000, 100_000) } else { 0 };
    let numbers = [
        ("--count", zones),
        ("--policies", lab.choose(100, 300)),
        ("--reconnect", lab.choose(3, 5)),
        ("--newcomer", newcomer),
        ("--changes", lab.choose(400, 1_000)),
        ("--patience", 600),
    ];
    command.args(numbers.iter().flat_map(|(flag, number)| [flag.to_string(), number.to_string()]));
    let text = shell::output(&mut command)?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("write-load printed {line:?}")))
        .collect()
}

pub fn run_proxies(lab: &Lab) -> Result<Outcome> {
    let sim = federated(lab, &["policy"], 3).graph(300, 30, 20).with("--rounds", lab.choose(15, 100));
    let report = lab.weft(&sim)?;
    let mut outcome = Outcome::of(report.verified()?);
    changes(&report, "timeout of one service", "service", &mut outcome)?;
    changes(&report, "timeout of the mesh", "mesh", &mut outcome)?;
    changes(&report, "permission withdrawn", "permission", &mut outcome)?;
    let in_vain = report.number("storm", "figures/waits_in_vain")?;
    outcome.add(Figure::of("storm_waits_in_vain", in_vain).goal(Goal::AtMost(0.0)));
    outcome.note(
        "3 zones of 300 proxies; the goal of a change is for those of some proxies, that of all is measured beside it",
    );
    Ok(outcome)
}

fn changes(report: &Report, phase: &str, prefix: &str, outcome: &mut Outcome) -> Result<()> {
    let number = |path: &str| report.number(phase, path);
    let last = |statistic: &str| number(&format!("spreads/last_proxy_ms/{statistic}"));
    let p50 = Figure::of(format!("{prefix}_last_p50_ms"), last("p50")?);
    let p99 = Figure::of(format!("{prefix}_last_p99_ms"), last("p99")?);
    if prefix == "mesh" {
        outcome.add(p50);
        outcome.add(p99);
    } else {
        outcome.add(p50.goal(Goal::AtMost(15.0)));
        outcome.add(p99.goal(Goal::AtMost(60.0)));
    }
    outcome.add(Figure::of(format!("{prefix}_last_mean_ms"), last("mean")?));
    outcome.add(Figure::of(format!("{prefix}_last_worst_ms"), last("max")?));
    outcome.add(Figure::of(format!("{prefix}_proxies_changed"), number("figures/proxies_changed")?));
    outcome.add(Figure::of(format!("{prefix}_cpu_ms_per_change"), number("figures/cpu_ms_per_change")?));
    Ok(())
}

fn federated(lab: &Lab, scenarios: &[&str], zones: usize) -> Sim {
    Sim::run(scenarios).with("--global", lab.program("global-cp")).with("--zones", zones)
}
