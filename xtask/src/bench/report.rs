//! What was found: as JSON, and as `docs/benchmarks.md` with plots beside it.
use super::growth::Range;
use super::machine::Machine;
use super::outcome::{HEAD, Outcome, short};
use super::plot::{Line, Plot};
use anyhow::{Context, Result};
use chaos_tests_process::programs::workspace;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

#[derive(Debug, Serialize, Deserialize)]
pub struct Findings {
    pub machine: Machine,
    pub quick: bool,
    pub outcomes: BTreeMap<String, Outcome>,
    /// Benches without figures, and why.
    pub failed: BTreeMap<String, String>,
    pub ranges: Vec<Range>,
}

/// The plots of a range: file, title, unit, and the costs with their names in the legend.
type Lines = &'static [(&'static str, &'static str)];
const PLOTS: [(&str, &str, &str, Lines); 2] = [
    (
        "cpu",
        "CPU of the control plane",
        "CPU per proxy concerned [us]",
        &[
            ("endpoint_cpu_us_per_proxy", "an endpoint moves"),
            ("mesh_cpu_us_per_proxy", "a mesh-wide timeout"),
            ("storm_cpu_us_per_proxy", "all connect at once"),
        ],
    ),
    (
        "ack",
        "From the request to the last acknowledgement",
        "last acknowledgement [ms]",
        &[
            ("endpoint_last_ack_ms", "an endpoint moves"),
            ("mesh_last_ack_ms", "a mesh-wide timeout"),
            ("storm_last_ack_ms", "all connect at once"),
        ],
    ),
];

impl Findings {
    pub fn of(machine: Machine, quick: bool) -> Findings {
        let (outcomes, failed, ranges) = Default::default();
        Findings { machine, quick, outcomes, failed, ranges }
    }

    pub fn read(file: &Path) -> Result<Findings> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let all: Value = serde_json::from_str(&text)?;
        serde_json::from_value(all["findings"].clone())
            .with_context(|| format!("{} holds no findings of a report", file.display()))
    }

    /// The figures of each bench under its name, and all that a report needs under `findings`.
    pub fn save(&self, file: &Path) -> Result<()> {
        let mut all = Map::new();
        for (name, outcome) in &self.outcomes {
            all.insert(name.clone(), outcome.json());
        }
        // Who asks for one bench alone finds its ratios at the top.
        let ratios = all.get("raft").and_then(serde_json::Value::as_object).into_iter().flatten();
        let ratios = ratios.filter(|(name, value)| name.contains("_ratio_") && value.is_number());
        let ratios: Vec<_> = ratios.map(|(name, value)| (name.clone(), value.clone())).collect();
        all.extend(ratios);
        for (name, error) in &self.failed {
            all.insert(name.clone(), serde_json::json!({"error": error}));
        }
        all.insert("machine".into(), serde_json::to_value(&self.machine)?);
        all.insert("quick".into(), self.quick.into());
        all.insert("findings".into(), serde_json::to_value(self)?);
        let text = serde_json::to_string_pretty(&all)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
    }

    /// Writes the document and its plots.
    pub fn write(&self) -> Result<()> {
        let docs = workspace().join("docs");
        let folder = docs.join("benchmarks");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let put = |path: &Path, text: &str| {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        for range in &self.ranges {
            for (file, plot) in plots(range) {
                put(&folder.join(file), &plot.svg()?)?;
            }
        }
        put(&docs.join("benchmarks.md"), &self.document())?;
        println!("wrote docs/benchmarks.md");
        Ok(())
    }

    fn document(&self) -> String {
        let mut text = String::from(INTRODUCTION);
        let length = match self.quick {
            true => "The quick form: one round of each, short phases. ",
            false => "The long form: medians of three rounds, but of one where a round takes minutes. ",
        };
        let _ = write!(text, "\n## The machine\n\n{}.\n\n{length}", self.machine);
        text.push_str("The simulated proxies run on the same cores as the control plane.\n");
        for (name, outcome) in self.ordered() {
            let _ = write!(text, "\n## {name}\n\n{}\n\n", title(name));
            text.push_str(&table(&HEAD, outcome.figures.iter().map(|figure| figure.row().to_vec())));
            outcome.notes.iter().for_each(|note| {
                let _ = write!(text, "\nNote: {note}.\n");
            });
        }
        for (name, error) in &self.failed {
            let first = error.lines().next().unwrap_or_default();
            let _ = write!(text, "\n## {name}\n\nNo figures: {first}\n");
        }
        if !self.ranges.is_empty() {
            text.push_str(GROWTH);
            self.ranges.iter().for_each(|range| text.push_str(&chapter(range)));
        }
        text
    }

    /// By number, not by letter.
    fn ordered(&self) -> Vec<(&str, &Outcome)> {
        let number = |name: &str| {
            let digits: String = name.chars().filter(char::is_ascii_digit).collect();
            digits.parse::<u32>().unwrap_or(u32::MAX)
        };
        let mut all: Vec<_> = self.outcomes.iter().map(|(name, outcome)| (name.as_str(), outcome)).collect();
        all.sort_by_key(|(name, _)| (number(name), name.len()));
        all
    }
}

const INTRODUCTION: &str = "# Benchmarks

What Weft costs, measured by `cargo xtask bench report`; one bench alone is `cargo xtask bench NAME`, a shorter one
`cargo xtask bench NAME --quick`.

A fleet of simulated Envoys (`zone/proxy-sim`) connects to a real `zone-cp` over TLS with tokens, subscribes, acknowledges
and stamps what it gets. Every run is done twice: against Weft, and against a *floor*, a server over the same transport
that answers with prebuilt bytes of the same sizes and computes nothing. What Weft costs above the floor is its own. The
machine's speed and its other work are in both, so the ratio is what can be compared.

A run of Weft counts only if in the end every proxy holds what a second, fresh control plane gives it that was given the
final documents alone.
";

const GROWTH: &str = "
## How costs grow

Exponents `b` of `cost = a * x^b`, by least squares over the logarithms: 0 is a cost that does not grow, 1 one that grows
in proportion. CPU is for each proxy that the change concerns, so that 0 is proportional to those proxies alone.
";

fn title(name: &str) -> &'static str {
    match name {
        "B1" => "One endpoint moves ten times a second; 200 of 1,000 proxies are its clients.",
        "B2" => {
            "A policy changes: the timeout of one service, that of the mesh, a permission. 1,000 proxies."
        }
        "B3" => {
            "Nothing that concerns a proxy happens: nothing at all, 100 writes of status a second, the same document."
        }
        "B4" => "1,000 proxies connect at once, connect anew with what they have, and again after a restart.",
        "B5" => "Resident memory with 1,000 proxies that reach 20 services each.",
        "B6" => {
            "A policy from a global control plane to zones, durable in each; a zone that is new, and zones that come back."
        }
        "B6b" => "From the request at global to the last acknowledgement in three zones.",
        "B9" => "The 50 replicas of a service are replaced; 40 of 2,000 proxies are its clients.",
        "B10" => "Of 1,000 proxies, 10 never read, 10 refuse everything, and 10 connect anew each second.",
        "B12" => "One permission and one route are edited among 2,000 and 1,000.",
        "raft" => "Writes to a cluster of three global control planes, beside etcd.",
        _ => "",
    }
}

fn chapter(range: &Range) -> String {
    let mut text = format!("\n### By {}\n\n{}.\n", range.key, range.of);
    for (file, plot) in plots(range) {
        let _ = write!(text, "\n![{}](benchmarks/{file})\n", plot.title);
    }
    let number =
        |exponent: Option<f64>| exponent.map(|exponent| format!("{exponent:.2}")).unwrap_or_default();
    let first: Vec<String> = range.points.iter().map(|point| short(point.x)).collect();
    let mut head = vec!["cost", "exponent", "of the floor"];
    head.extend(first.iter().map(String::as_str));
    let rows = range.exponents().into_iter().map(|(name, weft, floor)| {
        let mut row = vec![name.to_owned(), number(weft), number(floor)];
        let both = range.line(name, false).into_iter().zip(range.line(name, true));
        row.extend(both.map(|((_, weft), (_, floor))| format!("{} ({})", short(weft), short(floor))));
        row
    });
    let _ = write!(text, "\nEach with the floor's in brackets:\n\n{}", table(&head, rows));
    text
}

fn plots(range: &Range) -> Vec<(String, Plot<'_>)> {
    let of = |(file, title, unit, costs): &(&str, &str, &'static str, Lines)| {
        let lines = costs.iter().enumerate().flat_map(|(colour, (cost, name))| {
            [false, true].map(|floor| Line {
                name: if floor { format!("{name}, the floor") } else { format!("{name}, Weft") },
                points: range.line(cost, floor),
                colour,
                dashed: floor,
            })
        });
        let title = format!("{title}, by {}", range.key);
        let x = match range.key.as_str() {
            "manifests" => "distinct manifests",
            key => key,
        };
        (format!("{file}-by-{}.svg", range.key), Plot { title, x, y: unit, lines: lines.collect() })
    };
    PLOTS.iter().map(of).collect()
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&head.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
    text.push_str(&format!("|{}\n", "---|".repeat(head.len())));
    rows.for_each(|row| text.push_str(&line(&row)));
    text
}

#[cfg(test)]
mod tests {
    use super::super::growth::Point;
    use super::super::outcome::{Figure, Goal};
    use super::*;

    fn findings() -> Findings {
        let machine = Machine {
            cores: 2,
            processor: "one".into(),
            memory_gb: 8.0,
            kernel: "6".into(),
            load: "0 0 0".into(),
            rustc: "rustc 1".into(),
            revision: "abc".into(),
        };
        let mut findings = Findings::of(machine, true);
        for name in ["B10", "B2", "B6b", "B6"] {
            let mut outcome = Outcome::default();
            outcome.add(Figure::beside("x_ms", (3.0, 2.0)).goal(Goal::OfFloor(1.4)));
            findings.outcomes.insert(name.into(), outcome);
        }
        let point = |x: f64| Point { x, costs: [("storm_last_ack_ms".to_owned(), (3.0 * x, x))].into() };
        let points = vec![point(100.0), point(1000.0)];
        findings.ranges.push(Range { key: "proxies".into(), of: "all else the same".into(), points });
        findings
    }

    #[test]
    fn the_document_has_benches_in_order_verdicts_exponents_and_plots() {
        let text = findings().document();
        let places: Vec<_> = ["## B2", "## B6\n", "## B6b", "## B10"].map(|title| text.find(title)).to_vec();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
        assert!(text.contains("| x_ms | 3.00 | 2.00 | 1.50 | <= 1.4 x floor | MISSED |"), "{text}");
        assert!(text.contains("| storm_last_ack_ms | 1.00 | 1.00 | 300 (100) | 3000 (1000) |"), "{text}");
        assert!(text.contains("](benchmarks/ack-by-proxies.svg)"), "{text}");
    }

    #[test]
    fn findings_are_read_as_they_were_saved() {
        let file = std::env::temp_dir().join(format!("findings-{}.json", std::process::id()));
        let findings = findings();
        findings.save(&file).unwrap();
        let read = Findings::read(&file).unwrap();
        let top: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(read.document(), findings.document());
        assert_eq!((top["B2"]["x_ms"].as_f64(), top["B2"]["floor_x_ms"].as_f64()), (Some(3.0), Some(2.0)));
    }
}
