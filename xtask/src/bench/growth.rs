//! How costs grow: the same work over a range of proxies, of services, and of distinct manifests.
use super::fit::exponent;
use super::lab::{Lab, Pair, Sim};
use super::outcome::{Figure, Goal, Outcome};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Proxies that have the endpoint that moves as a client, wherever something else grows.
const CLIENTS: usize = 200;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Range {
    /// What grows: `proxies`, `services`, `manifests`.
    pub key: String,
    /// What stays as it is.
    pub of: String,
    pub points: Vec<Point>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    pub x: f64,
    /// Of Weft and of the floor, by name.
    pub costs: BTreeMap<String, (f64, f64)>,
}

/// A graph of a range: proxies, services, scope, and the `x` of its point.
type Graph = (usize, usize, usize, usize);

/// What is measured of each point: name, phase, number, and the unit of the phase in microseconds or milliseconds.
const COSTS: [(&str, &str, &str); 9] = [
    ("endpoint_cpu_us_per_proxy", "endpoint 10/s", "figures/cpu_us_per_change_and_proxy"),
    ("endpoint_last_ack_ms", "endpoint 10/s", "spreads/last_client_ms/mean"),
    ("mesh_cpu_us_per_proxy", "timeout of the mesh", "figures/cpu_ms_per_change"),
    ("mesh_last_ack_ms", "timeout of the mesh", "spreads/last_proxy_ms/mean"),
    ("service_last_ack_ms", "timeout of one service", "spreads/last_proxy_ms/mean"),
    ("permission_last_ack_ms", "permission withdrawn", "spreads/last_proxy_ms/mean"),
    ("storm_cpu_us_per_proxy", "storm", "figures/cpu_ms_per_proxy"),
    ("storm_last_ack_ms", "storm", "spreads/full_ack_ms/max"),
    ("memory_kb_per_proxy", "memory at rest", "figures/kb_per_proxy"),
];

pub fn all(lab: &Lab) -> Result<Vec<Range>> {
    let scenarios = ["rest", "endpoint", "policy"];
    let ranges = [
        ("proxies", "10 instances of a service, scope 20, 200 clients", by_proxies(lab)),
        ("services", "1,000 proxies, 200 clients", by_services(lab)),
        ("manifests", "1,000 proxies, scope 8", by_manifests(lab)),
    ];
    let measured = ranges.into_iter().map(|(key, of, graphs)| {
        let points = graphs.into_iter().map(|graph| point(lab, &scenarios, graph)).collect::<Result<_>>()?;
        Ok(Range { key: key.to_owned(), of: of.to_owned(), points })
    });
    measured.collect()
}

/// Proxies with services of ten instances, so that the clients of a service are always as many.
fn by_proxies(lab: &Lab) -> Vec<Graph> {
    let all = lab.choose(vec![250, 500, 1000], vec![250, 500, 1000, 2000, 4000]);
    all.into_iter().map(|proxies| (proxies, proxies / 10, 20, proxies)).collect()
}

/// Services at 1,000 proxies, each with as many calls as give the same number of clients.
fn by_services(lab: &Lab) -> Vec<Graph> {
    let all = lab.choose(vec![50, 200], vec![25, 50, 100, 200, 500]);
    all.into_iter().map(|services| (1000, services, CLIENTS * services / 1000, services)).collect()
}

/// The instances of a service share all but their own address: as many manifests as services.
fn by_manifests(lab: &Lab) -> Vec<Graph> {
    let all = lab.choose(vec![10, 100, 1000], vec![10, 32, 100, 316, 1000]);
    all.into_iter().map(|services| (1000, services, 8, services)).collect()
}

fn point(lab: &Lab, scenarios: &[&str], (proxies, services, scope, x): Graph) -> Result<Point> {
    let sim = Sim::run(scenarios)
        .graph(proxies, services, scope)
        .with("--rates", 10)
        .with("--duration", lab.choose(4, 20))
        .with("--rounds", lab.choose(4, 20));
    let pair = lab.pair(&sim)?;
    let mut costs = BTreeMap::new();
    for (name, phase, path) in COSTS.into_iter().filter(|(_, phase, _)| is_of(phase, scenarios)) {
        costs.insert(name.to_owned(), cost(&pair, phase, path, proxies)?);
    }
    Ok(Point { x: x as f64, costs })
}

/// Whether one of the scenarios has this phase. Every run begins with the storm.
fn is_of(phase: &str, scenarios: &[&str]) -> bool {
    let scenario = match phase {
        "storm" => return true,
        "memory at rest" => "rest",
        endpoint if endpoint.starts_with("endpoint") => "endpoint",
        _ => "policy",
    };
    scenarios.contains(&scenario)
}

fn cost(pair: &Pair, phase: &str, path: &str, proxies: usize) -> Result<(f64, f64)> {
    let (weft, floor) = pair.number(phase, path)?;
    let times = match path {
        "figures/cpu_ms_per_change" => 1e3 / proxies as f64,
        "figures/cpu_ms_per_proxy" => 1e3,
        _ => 1.0,
    };
    Ok((weft * times, floor * times))
}

impl Range {
    /// The points of a cost, of Weft or of the floor.
    pub fn line(&self, cost: &str, floor: bool) -> Vec<(f64, f64)> {
        let of = |point: &Point| {
            let (weft, of_floor) = point.costs.get(cost)?;
            Some((point.x, if floor { *of_floor } else { *weft }))
        };
        self.points.iter().filter_map(of).collect()
    }

    /// For each cost, the exponents of Weft and of the floor.
    pub fn exponents(&self) -> Vec<(&'static str, Option<f64>, Option<f64>)> {
        let measured = COSTS.into_iter().filter(|(name, ..)| !self.line(name, false).is_empty());
        let fitted = measured
            .map(|(name, ..)| (name, exponent(&self.line(name, false)), exponent(&self.line(name, true))));
        fitted.collect()
    }
}

/// Adds to B1 how the cost of a moved endpoint grows.
pub fn add_exponents(lab: &Lab, outcome: &mut Outcome) -> Result<()> {
    for (key, graphs) in [("proxies", by_proxies(lab)), ("services", by_services(lab))] {
        let points =
            graphs.into_iter().map(|graph| point(lab, &["endpoint"], graph)).collect::<Result<_>>()?;
        let range = Range { key: key.to_owned(), of: String::new(), points };
        for (name, weft, floor) in range.exponents() {
            let (Some(weft), Some(floor)) = (weft, floor) else { continue };
            let figure = Figure::beside(format!("exponent_of_{name}_by_{key}"), (weft, floor));
            let judged = name == "endpoint_cpu_us_per_proxy";
            outcome.add(if judged { figure.goal(Goal::AtMost(0.1)) } else { figure });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_a_line_and_an_exponent_for_each_cost_that_was_measured() {
        let point = |x: f64| Point { x, costs: [("storm_last_ack_ms".to_owned(), (3.0 * x, 5.0))].into() };
        let range = Range { key: "proxies".into(), of: String::new(), points: vec![point(1.0), point(10.0)] };
        assert_eq!(range.line("storm_last_ack_ms", false), [(1.0, 3.0), (10.0, 30.0)]);
        assert!(range.line("mesh_last_ack_ms", true).is_empty());
        let exponents = range.exponents();
        let [(name, Some(weft), Some(floor))] = exponents[..] else { panic!("{exponents:?}") };
        assert_eq!(name, "storm_last_ack_ms");
        assert!((weft - 1.0).abs() < 1e-9 && floor.abs() < 1e-9, "{weft} {floor}");
    }

    #[test]
    fn every_cost_is_of_a_scenario_that_the_report_runs() {
        for (name, phase, _) in COSTS {
            assert!(is_of(phase, &["rest", "endpoint", "policy"]), "{name}");
        }
        assert!(!is_of("timeout of the mesh", &["endpoint"]));
    }
}
