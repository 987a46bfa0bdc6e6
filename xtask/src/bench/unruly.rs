//! B10: one proxy in a hundred never reads, one refuses everything, one connects anew each second.
use super::lab::{Lab, Sim};
use super::outcome::{Figure, Goal, Outcome};
use anyhow::Result;

pub fn run(lab: &Lab) -> Result<Outcome> {
    let sim = Sim::run(&["slow"]).graph(1000, 100, 20).with("--duration", lab.choose(8, 60));
    let pair = lab.pair(&sim)?;
    let mut outcome = Outcome::of(pair.weft.verified()?);
    let ratio = pair.number("some misbehave", "figures/p99_ratio")?;
    outcome.add(Figure::beside("healthy_p99_with_to_without", ratio).goal(Goal::AtMost(1.1)));
    let [well, spoilt] = ["all well", "some misbehave"];
    for statistic in ["p50", "p99"] {
        for (phase, when) in [(well, "without"), (spoilt, "with")] {
            let each = pair.number(phase, &format!("spreads/each_client_ms/{statistic}"))?;
            outcome.add(Figure::beside(format!("healthy_{statistic}_{when}_ms"), each));
        }
    }
    let memory = |phase: &str| pair.number(phase, "control_plane/rss_kb");
    let (before, after) = (memory(well)?, memory(spoilt)?);
    let grown = ((after.0 - before.0) / 1e3, (after.1 - before.1) / 1e3);
    outcome.add(Figure::beside("grown_mb", grown));
    let ratio = Figure::beside("memory_with_to_without", (after.0 / before.0, after.1 / before.1));
    outcome.add(ratio.goal(Goal::AtMost(1.3)));
    outcome.add(Figure::of("refusals", pair.weft.number(spoilt, "figures/refusals")?));
    outcome.add(Figure::of("connects_anew", pair.weft.number(spoilt, "fleet/connects")?));
    Ok(outcome)
}
