//! What was measured: as JSON, and as a table for people.
use crate::fleet::{Holding, Sums};
use crate::usage::Usage;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub control_plane: String,
    pub protocol: crate::wire::Protocol,
    pub style: crate::documents::Style,
    pub proxies: usize,
    pub services: usize,
    pub scope: usize,
    pub seed: u64,
    /// How Dataplanes got in: `metadata` or `rest`.
    pub register: String,
    pub cores: usize,
    pub load_average: String,
    /// The mean count and size of what a proxy holds, by type.
    pub holdings: BTreeMap<&'static str, Holding>,
    pub phases: Vec<Phase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<crate::verify::Verified>,
}

/// One stretch of time, with what was measured in it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Phase {
    pub name: String,
    pub seconds: f64,
    /// Of the control plane's process: CPU used in the phase, memory at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<Usage>,
    /// Of the simulator's own.
    pub simulator: Usage,
    pub fleet: Sums,
    pub spreads: BTreeMap<&'static str, Spread>,
    pub figures: BTreeMap<&'static str, f64>,
}

/// A distribution, in the unit that its name ends with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    pub count: usize,
    pub mean: f64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let Some(max) = values.last().copied() else { return Spread::default() };
        // The nearest rank: a value that was really measured.
        let rank =
            |share: f64| values[((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1];
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Spread { count: values.len(), mean, p50: rank(0.5), p99: rank(0.99), max }
    }

    /// Of nanoseconds, in milliseconds.
    pub fn of_nanos(values: impl IntoIterator<Item = u64>) -> Spread {
        Spread::of(values.into_iter().map(|nanos| nanos as f64 / 1e6).collect())
    }
}

/// Measures a phase from its beginning.
pub struct Meter {
    name: String,
    started: Instant,
    control_plane: Option<Usage>,
    simulator: Usage,
    fleet: Sums,
}

impl Meter {
    pub fn start(name: impl Into<String>, control_plane: Option<Usage>, fleet: Sums) -> Meter {
        let simulator = Usage::of_this_process().unwrap_or_default();
        Meter { name: name.into(), started: Instant::now(), control_plane, simulator, fleet }
    }

    pub fn end(self, control_plane: Option<Usage>, fleet: Sums) -> Phase {
        let since = |now: Usage, before: Usage| Usage { cpu_s: now.cpu_s - before.cpu_s, ..now };
        Phase {
            seconds: self.started.elapsed().as_secs_f64(),
            control_plane: control_plane.zip(self.control_plane).map(|(now, before)| since(now, before)),
            simulator: since(Usage::of_this_process().unwrap_or_default(), self.simulator),
            fleet: fleet.since(self.fleet),
            name: self.name,
            ..Phase::default()
        }
    }
}

impl Phase {
    pub fn cpu_s(&self) -> f64 {
        self.control_plane.map_or(0.0, |usage| usage.cpu_s)
    }
}

impl Report {
    pub fn table(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{}: {} proxies, {} services, scope {}, seed {}, documents of {}, Dataplanes by {}, {:?}; {} cores, load {}",
            self.control_plane,
            self.proxies,
            self.services,
            self.scope,
            self.seed,
            serde_json::to_string(&self.style).unwrap_or_default().trim_matches('"'),
            self.register,
            self.protocol,
            self.cores,
            self.load_average.trim(),
        );
        let bytes: f64 =
            self.holdings.values().map(|held| held.resources_per_proxy * held.bytes_per_resource).sum();
        let _ = write!(text, "a proxy holds {:.1} kB:", bytes / 1e3);
        for (kind, held) in &self.holdings {
            let _ =
                write!(text, " {kind} {:.1} x {:.0} B", held.resources_per_proxy, held.bytes_per_resource);
        }
        text.push('\n');
        let mut table = Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header(["phase", "what", "n", "mean", "p50", "p99", "max"]);
        for phase in &self.phases {
            for (what, spread) in &phase.spreads {
                let numbers =
                    [spread.mean, spread.p50, spread.p99, spread.max].map(|value| format!("{value:.2}"));
                let mut row = vec![phase.name.clone(), (*what).to_owned(), spread.count.to_string()];
                row.extend(numbers);
                table.add_row(row);
            }
        }
        aligned(&mut table, 2);
        let _ = writeln!(text, "{table}");
        let mut table = Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        let head = [
            "phase",
            "s",
            "cp CPU s",
            "cp MB",
            "cp peak MB",
            "sim CPU s",
            "responses",
            "resources",
            "MB",
            "broken",
        ];
        table.set_header(head);
        for phase in &self.phases {
            let usage = phase.control_plane.unwrap_or_default();
            let row = [
                phase.name.clone(),
                format!("{:.2}", phase.seconds),
                format!("{:.2}", usage.cpu_s),
                format!("{:.1}", usage.rss_kb as f64 / 1e3),
                format!("{:.1}", usage.peak_kb as f64 / 1e3),
                format!("{:.2}", phase.simulator.cpu_s),
                phase.fleet.responses.to_string(),
                phase.fleet.resources.to_string(),
                format!("{:.2}", phase.fleet.bytes as f64 / 1e6),
                phase.fleet.breaks.to_string(),
            ];
            table.add_row(row);
        }
        aligned(&mut table, 1);
        let _ = writeln!(text, "{table}");
        for phase in &self.phases {
            for (name, figure) in &phase.figures {
                let _ = writeln!(text, "{}: {name} = {figure:.3}", phase.name);
            }
        }
        if let Some(verified) = &self.verified {
            let _ = writeln!(text, "{verified}");
        }
        text
    }
}

fn aligned(table: &mut Table, from: usize) {
    for index in from..table.column_count() {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The load of the machine, as the kernel tells it.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_ascii_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_shows_values_that_were_measured() {
        let spread = Spread::of((1..=200).map(f64::from).collect());
        assert_eq!(
            (spread.count, spread.mean, spread.p50, spread.p99, spread.max),
            (200, 100.5, 100.0, 198.0, 200.0)
        );
        assert_eq!(Spread::of(vec![]), Spread::default());
        assert_eq!(Spread::of_nanos([2_000_000]).p99, 2.0);
    }
}
