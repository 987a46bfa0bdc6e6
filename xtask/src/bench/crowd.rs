//! B12: one permission and one route are edited among 2,000 permissions and 1,000 routes.
use super::lab::{Lab, Sim};
use super::outcome::{Figure, Goal, Outcome};
use anyhow::Result;

pub fn run(lab: &Lab) -> Result<Outcome> {
    let sim = Sim::run(&["crowd"])
        .graph(1000, 100, 20)
        .with("--permissions", 2000)
        .with("--routes", 1000)
        .with("--rounds", lab.choose(8, 50));
    let pair = lab.pair(&sim)?;
    let mut outcome = Outcome::of(pair.weft.verified()?);
    for what in ["permission", "route"] {
        let [alone, crowd] = ["alone", "in the crowd"].map(|place| format!("a {what} {place}"));
        let last =
            |phase: &str, statistic: &str| pair.number(phase, &format!("spreads/last_proxy_ms/{statistic}"));
        let p99 = Figure::beside(format!("{what}_last_p99_ms"), last(&crowd, "p99")?);
        outcome.add(p99.goal(Goal::AtMost(20.0)));
        outcome.add(Figure::beside(format!("{what}_last_p50_ms"), last(&crowd, "p50")?));
        outcome.add(Figure::beside(format!("{what}_last_worst_ms"), last(&crowd, "max")?));
        outcome.add(Figure::beside(format!("{what}_alone_last_p50_ms"), last(&alone, "p50")?));
        let cpu = |phase: &str| pair.number(phase, "figures/cpu_ms_per_change");
        outcome.add(Figure::beside(format!("{what}_cpu_ms_per_edit"), cpu(&crowd)?));
        outcome.add(Figure::beside(format!("{what}_alone_cpu_ms_per_edit"), cpu(&alone)?));
        let resources = pair.number(&crowd, "figures/resources_per_change")?;
        outcome.add(Figure::beside(format!("{what}_resources_per_edit"), resources));
    }
    let written = "the crowd is written";
    outcome.add(Figure::of("crowd_documents", pair.weft.number(written, "figures/documents")?));
    outcome.add(Figure::of("crowd_written_s", pair.weft.number(written, "seconds")?));
    Ok(outcome)
}
