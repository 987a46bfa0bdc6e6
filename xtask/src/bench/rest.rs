//! B3: nothing that concerns a proxy happens. B5: what memory a proxy takes.
use super::lab::{Lab, Sim};
use super::outcome::{Figure, Goal, Outcome};
use anyhow::Result;

const PROXIES: usize = 1000;

/// The phases of `idle`, and how their figures begin.
const QUIET: [(&str, &str); 3] =
    [("idle", "idle"), ("status writes", "status"), ("same document", "same_document")];

pub fn run_idle(lab: &Lab) -> Result<Outcome> {
    let sim = Sim::run(&["idle"])
        .graph(PROXIES, 100, 20)
        .with("--rest", lab.choose(10, 600))
        .with("--duration", lab.choose(4, 60));
    // The floor keeps no documents, so it has no writes of status: of it, only the rest counts.
    let pair = lab.pair(&sim)?;
    let mut outcome = Outcome::of(pair.weft.verified()?);
    let sum = |figure: &str| -> Result<f64> {
        QUIET.iter().map(|(phase, _)| pair.weft.number(phase, &format!("figures/{figure}"))).sum()
    };
    outcome.add(Figure::of("pushes", sum("pushes")?).goal(Goal::AtMost(0.0)));
    outcome.add(Figure::of("regenerations", sum("regenerations")?).goal(Goal::AtMost(0.0)));
    outcome.add(Figure::of("writes", sum("writes")?));
    let idle = pair.number("idle", "figures/cpu_share_of_a_core")?;
    let percent = (idle.0 * 100.0, idle.1 * 100.0);
    outcome.add(Figure::beside("idle_cpu_percent_of_a_core", percent).goal(Goal::AtMost(0.1)));
    for (phase, prefix) in QUIET.into_iter().skip(1) {
        let share = pair.weft.number(phase, "figures/cpu_share_of_a_core")?;
        outcome.add(Figure::of(format!("{prefix}_cpu_percent_of_a_core"), share * 100.0));
        let write = pair.weft.number(phase, "figures/cpu_us_per_write")?;
        outcome.add(Figure::of(format!("{prefix}_cpu_us_per_write"), write));
    }
    for (phase, prefix) in QUIET {
        outcome.add(Figure::of(format!("{prefix}_seconds"), pair.weft.number(phase, "seconds")?));
    }
    outcome.note("the kernel accounts CPU in steps of 10 ms: one step in 10 s of rest is 0.1 % of a core");
    Ok(outcome)
}

pub fn run_memory(lab: &Lab) -> Result<Outcome> {
    let sim = Sim::run(&["memory"]).graph(PROXIES, 100, 20).with("--duration", lab.choose(5, 60));
    let pair = lab.pair(&sim)?;
    let mut outcome = Outcome::of(pair.weft.verified()?);
    let rest = |figure: &str| pair.number("memory at rest", &format!("figures/{figure}"));
    let per_proxy = Figure::beside("kb_per_proxy_scope20", rest("kb_per_proxy")?);
    outcome.add(per_proxy.goal(Goal::AtMost(85.0)).goal(Goal::OfFloor(0.8)));
    outcome.add(Figure::beside("rss_mb", rest("rss_mb")?).goal(Goal::AtMost(110.0)));
    outcome.add(Figure::beside("baseline_mb", rest("baseline_mb")?));
    outcome.add(Figure::beside("peak_mb", rest("peak_mb")?));
    let churn = "memory, endpoint 100/s";
    outcome.add(Figure::beside("grown_kb", pair.number(churn, "figures/grown_kb")?));
    outcome.add(Figure::of("changes", pair.weft.number(churn, "figures/changes")?));
    if !lab.quick {
        // Everybody reaches everything.
        let unscoped = Sim::run(&["rest"]).graph(PROXIES, 1000, 999).with("--deadline", 600);
        let pair = lab.pair(&unscoped)?;
        outcome.verified += pair.weft.verified()?;
        let kb = pair.number("memory at rest", "figures/kb_per_proxy")?;
        outcome.add(Figure::beside("kb_per_proxy_unscoped_1000", kb).goal(Goal::AtMost(150.0)));
    }
    Ok(outcome)
}
