//! B9: the 50 replicas of a service are replaced one by one in a mesh of 2,000 proxies, of which 40 are its clients.
use super::lab::{Lab, Sim};
use super::outcome::{Figure, Goal, Outcome};
use anyhow::Result;

pub fn run(lab: &Lab) -> Result<Outcome> {
    // Two instances of a thousand services, each of which twenty call.
    let sim = Sim::run(&["rollout"])
        .graph(2000, 1000, 20)
        .with("--replicas", 50)
        .with("--duration", lab.choose(5, 50));
    let pair = lab.pair(&sim)?;
    let mut outcome = Outcome::of(pair.weft.verified()?);
    let number = |path: &str| pair.number("rollout", path);
    outcome
        .add(Figure::of("pushes_to_others", number("figures/pushes_to_others")?.0).goal(Goal::AtMost(0.0)));
    outcome.add(Figure::beside("stale_endpoint_seconds", number("figures/stale_endpoint_seconds")?));
    for statistic in ["mean", "p50", "p99", "max"] {
        let stale = number(&format!("spreads/stale_ms/{statistic}"))?;
        outcome.add(Figure::beside(format!("stale_{statistic}_ms"), stale));
    }
    outcome.add(Figure::beside("pushes_per_client", number("figures/pushes_per_client")?));
    outcome.add(Figure::beside("cpu_ms", number("figures/cpu_ms")?));
    outcome.add(Figure::of("clients", number("figures/clients")?.0));
    outcome.add(Figure::of("replicas", number("figures/replicas")?.0));
    outcome.note("stale: from the request that deletes a replica until a client's assignment is without it");
    Ok(outcome)
}
