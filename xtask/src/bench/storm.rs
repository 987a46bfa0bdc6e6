//! B4: all connect at once; connect anew with what they have; and that again after a restart of the control plane.
use super::lab::{Lab, Sim};
use super::outcome::{Figure, Goal, Outcome};
use anyhow::Result;

pub fn run(lab: &Lab) -> Result<Outcome> {
    let pair = lab.pair(&Sim::run(&["rest", "reconnect"]).graph(1000, 100, 20))?;
    let mut outcome = Outcome::of(pair.weft.verified()?);
    let storm = pair.number("storm", "figures/last_full_ack_s")?;
    outcome.add(Figure::beside("last_full_ack_s", storm).goal(Goal::OfFloor(1.3)));
    let in_vain = pair.weft.number("storm", "figures/waits_in_vain")?;
    outcome.add(Figure::of("waits_in_vain", in_vain).goal(Goal::AtMost(0.0)));
    // An unchanged reconnect is judged by what a full one costs at the least.
    for (phase, name) in [("reconnect", "reconnect"), ("restart", "restart_reconnect")] {
        let (seconds, same_of_floor) = pair.number(phase, "figures/last_response_s")?;
        let seconds = Figure::beside(format!("{name}_s"), (seconds, storm.1)).goal(Goal::OfFloor(0.6));
        outcome.add(seconds);
        outcome.add(Figure::of(format!("{name}_of_the_floor_s"), same_of_floor));
        let bytes = pair.number(phase, "figures/bytes_per_proxy_sent")?;
        outcome.add(Figure::beside(format!("{name}_bytes_per_proxy"), bytes).goal(Goal::AtMost(2000.0)));
        outcome
            .add(Figure::of(format!("{name}_resources"), pair.weft.number(phase, "figures/resources_sent")?));
        outcome.add(Figure::beside(format!("{name}_cpu_s"), pair.number(phase, "control_plane/cpu_s")?));
    }
    let (peak, steady) = (
        pair.weft.number("storm", "control_plane/peak_kb")?,
        pair.weft.number("memory at rest", "control_plane/rss_kb")?,
    );
    outcome.add(Figure::of("peak_to_steady_memory", peak / steady).goal(Goal::AtMost(1.3)));
    outcome.add(Figure::of("peak_mb", peak / 1e3));
    for statistic in ["p50", "p99"] {
        let ack = pair.number("storm", &format!("spreads/full_ack_ms/{statistic}"))?;
        outcome.add(Figure::beside(format!("full_ack_{statistic}_ms"), ack));
    }
    outcome.add(Figure::beside("storm_cpu_s", pair.number("storm", "control_plane/cpu_s")?));
    outcome.add(Figure::beside("kb_per_proxy_sent", pair.number("storm", "figures/kb_per_proxy_sent")?));
    outcome.note("reconnects are compared with the floor's connect storm; the floor's own are beside them");
    Ok(outcome)
}
