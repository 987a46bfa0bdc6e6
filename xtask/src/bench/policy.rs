//! B2: a policy changes, of one service, of the mesh, and a permission.
use super::lab::{Lab, Pair, Sim};
use super::outcome::{Figure, Goal, Outcome};
use anyhow::Result;

/// The phases of the scenario, and how their figures begin.
const PHASES: [(&str, &str); 3] = [
    ("timeout of one service", "service"),
    ("timeout of the mesh", "mesh"),
    ("permission withdrawn", "permission"),
];

pub fn run(lab: &Lab) -> Result<Outcome> {
    let sim = Sim::run(&["policy"]).graph(1000, 100, 20).with("--rounds", lab.choose(10, 30));
    let pair = lab.pair(&sim)?;
    let mut outcome = Outcome::of(pair.weft.verified()?);
    for (phase, prefix) in PHASES {
        change(&pair, phase, prefix, &mut outcome)?;
    }
    Ok(outcome)
}

fn change(pair: &Pair, phase: &str, prefix: &str, outcome: &mut Outcome) -> Result<()> {
    let spread =
        |of: &str, statistic: &str| pair.number(phase, &format!("spreads/{of}_proxy_ms/{statistic}"));
    let each = Figure::beside(format!("{prefix}_each_p99_ms"), spread("each", "p99")?);
    let worst = Figure::beside(format!("{prefix}_last_worst_ms"), spread("last", "max")?);
    match prefix {
        "mesh" => {
            outcome.add(worst.goal(Goal::AtMost(250.0)));
            outcome.add(each);
        }
        _ => {
            outcome.add(each.goal(Goal::AtMost(20.0)));
            outcome.add(worst);
        }
    }
    outcome.add(Figure::beside(format!("{prefix}_last_mean_ms"), spread("last", "mean")?));
    outcome.add(Figure::beside(format!("{prefix}_each_p50_ms"), spread("each", "p50")?));
    for figure in ["cpu_ms_per_change", "kb_per_change", "resources_per_change", "proxies_changed"] {
        let numbers = pair.number(phase, &format!("figures/{figure}"))?;
        outcome.add(Figure::beside(format!("{prefix}_{figure}"), numbers));
    }
    Ok(())
}
