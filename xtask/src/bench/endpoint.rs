//! B1: one endpoint moves, and 200 proxies have it as a client.
use super::lab::{Lab, Sim};
use super::outcome::{Figure, Goal, Outcome};
use anyhow::Result;

/// Moves in a second; the figures without a rate in their name are of this one.
const RATE: &str = "10";

pub fn run(lab: &Lab) -> Result<Outcome> {
    let rates = lab.choose(vec![RATE, "100"], vec!["1", RATE, "100"]);
    let sim = Sim::run(&["endpoint"])
        .graph(1000, 100, 20)
        .with("--rates", rates.join(","))
        .with("--duration", lab.choose(6, 20));
    let pair = lab.pair(&sim)?;
    let mut outcome = Outcome::of(pair.weft.verified()?);
    // The main rate first.
    let others = rates.iter().filter(|rate| **rate != RATE);
    for rate in std::iter::once(&RATE).chain(others) {
        let phase = format!("endpoint {rate}/s");
        let main = *rate == RATE;
        let named = |name: &str| if main { name.to_owned() } else { format!("{name}_at_{rate}") };
        let last = |statistic: &str| pair.number(&phase, &format!("spreads/last_client_ms/{statistic}"));
        let mean = Figure::beside(named("last_ack_mean_ms"), last("mean")?);
        let worst = Figure::beside(named("last_ack_worst_ms"), last("max")?);
        let cpu = pair.number(&phase, "figures/cpu_us_per_change_and_proxy")?;
        let cpu = Figure::beside(named("cpu_us_per_change_and_proxy"), cpu);
        if main {
            outcome.add(mean.goal(Goal::OfFloor(1.4)));
            outcome.add(worst.goal(Goal::AtMost(30.0)));
            outcome.add(cpu.goal(Goal::OfFloor(1.5)));
        } else {
            [mean, worst, cpu].into_iter().for_each(|figure| outcome.add(figure));
        }
        outcome.add(Figure::beside(named("last_ack_p50_ms"), last("p50")?));
        outcome.add(Figure::beside(named("last_ack_p99_ms"), last("p99")?));
        for statistic in ["p50", "p99"] {
            let each = pair.number(&phase, &format!("spreads/each_client_ms/{statistic}"))?;
            outcome.add(Figure::beside(named(&format!("each_ack_{statistic}_ms")), each));
        }
        let responses = pair.number(&phase, "figures/responses_per_change")?;
        outcome.add(Figure::beside(named("responses_per_change"), responses));
        outcome.add(Figure::beside(named("api_mean_ms"), pair.number(&phase, "spreads/api_ms/mean")?));
    }
    Ok(outcome)
}
