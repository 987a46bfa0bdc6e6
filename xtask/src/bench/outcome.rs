//! What a bench found: figures, the same of the floor, and what is to be reached.
use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// So many times what the floor has.
    OfFloor(f64),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Ends with its unit.
    pub name: String,
    pub value: f64,
    pub floor: Option<f64>,
    pub goals: Vec<Goal>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub figures: Vec<Figure>,
    /// Proxies whose final configuration was compared with a fresh one's, and is the same.
    pub verified: u64,
    /// What a reader must know to read the figures.
    pub notes: Vec<String>,
    /// Each figure of each round, when there were several.
    rounds: Vec<Vec<f64>>,
}

impl Goal {
    fn bound(self, floor: Option<f64>) -> Option<f64> {
        match self {
            Goal::AtMost(bound) | Goal::AtLeast(bound) => Some(bound),
            Goal::OfFloor(times) => floor.map(|floor| floor * times),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::AtMost(bound) => write!(f, "<= {}", short(*bound)),
            Goal::AtLeast(bound) => write!(f, ">= {}", short(*bound)),
            Goal::OfFloor(times) => write!(f, "<= {times} x floor"),
        }
    }
}

impl Figure {
    pub fn of(name: impl Into<String>, value: f64) -> Figure {
        Figure { name: name.into(), value, floor: None, goals: Vec::new() }
    }

    /// A figure and that of the floor.
    pub fn beside(name: impl Into<String>, (value, floor): (f64, f64)) -> Figure {
        Figure { floor: Some(floor), ..Figure::of(name, value) }
    }

    pub fn goal(mut self, goal: Goal) -> Figure {
        self.goals.push(goal);
        self
    }

    pub fn ratio(&self) -> Option<f64> {
        self.floor.filter(|floor| *floor > 0.0).map(|floor| self.value / floor)
    }

    /// `None` where nothing is to be reached.
    pub fn is_met(&self) -> Option<bool> {
        let met = |goal: &Goal| {
            goal.bound(self.floor).is_some_and(|bound| match goal {
                Goal::AtLeast(_) => self.value >= bound,
                _ => self.value <= bound,
            })
        };
        (!self.goals.is_empty()).then(|| self.goals.iter().all(met))
    }

    /// Name, value, floor, ratio, goal, verdict.
    pub fn row(&self) -> [String; 6] {
        let goals = self.goals.iter().map(Goal::to_string).collect::<Vec<_>>().join(", ");
        let verdict = self.is_met().map_or("", |met| if met { "met" } else { "MISSED" });
        [
            self.name.clone(),
            short(self.value),
            self.floor.map(short).unwrap_or_default(),
            self.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            goals,
            verdict.to_owned(),
        ]
    }
}

pub const HEAD: [&str; 6] = ["figure", "Weft", "floor", "ratio", "goal", "reached"];

impl Outcome {
    pub fn of(verified: u64) -> Outcome {
        Outcome { verified, ..Outcome::default() }
    }

    pub fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Each figure's median over rounds that measured the same.
    pub fn median(rounds: Vec<Outcome>) -> Result<Outcome> {
        let mut outcome = rounds.first().cloned().context("no round was run")?;
        if rounds.len() == 1 {
            return Ok(outcome);
        }
        outcome.verified = rounds.iter().map(|round| round.verified).sum();
        for (at, figure) in outcome.figures.iter_mut().enumerate() {
            let of_round: Vec<&Figure> = rounds.iter().filter_map(|round| round.figures.get(at)).collect();
            figure.value = middle(of_round.iter().map(|figure| figure.value));
            figure.floor = figure.floor.map(|_| middle(of_round.iter().filter_map(|figure| figure.floor)));
            outcome.rounds.push(of_round.iter().map(|figure| figure.value).collect());
        }
        Ok(outcome)
    }

    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header(HEAD);
        table.add_rows(self.figures.iter().map(Figure::row));
        for index in 1..=3 {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = table.to_string();
        for note in &self.notes {
            text.push_str(&format!("\n{note}"));
        }
        if self.verified > 0 {
            text.push_str(&format!("\n{} proxies hold what a fresh control plane gives", self.verified));
        }
        text
    }

    /// Every figure under its name, and that of the floor under `floor_…`.
    pub fn json(&self) -> Value {
        let mut all = Map::new();
        for (at, figure) in self.figures.iter().enumerate() {
            all.insert(figure.name.clone(), figure.value.into());
            if let Some(floor) = figure.floor {
                all.insert(format!("floor_{}", figure.name), floor.into());
            }
            if let Some(rounds) = self.rounds.get(at) {
                all.entry("rounds").or_insert_with(|| json!({}))[&figure.name] = json!(rounds);
            }
            if let Some(met) = figure.is_met() {
                let words: Vec<String> = figure.goals.iter().map(Goal::to_string).collect();
                all.entry("goals").or_insert_with(|| json!({}))[&figure.name] =
                    json!({"goal": words.join(", "), "met": met});
            }
        }
        all.insert("verified_proxies".into(), self.verified.into());
        all.insert("notes".into(), json!(self.notes));
        all.into()
    }
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[odd / 2],
        even => (values[even / 2 - 1] + values[even / 2]) / 2.0,
    }
}

/// With three digits that matter.
pub fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_when_all_its_parts_are() {
        let figure = |value| {
            Figure::beside("x_ms", (value, 10.0)).goal(Goal::OfFloor(1.4)).goal(Goal::AtMost(12.0)).is_met()
        };
        assert_eq!([11.0, 13.0, 15.0].map(figure), [Some(true), Some(false), Some(false)]);
        assert_eq!(Figure::of("x_ms", 1.0).is_met(), None);
        assert_eq!(
            Figure::of("x_ms", 1.0).goal(Goal::OfFloor(2.0)).is_met(),
            Some(false),
            "there is no floor"
        );
    }

    #[test]
    fn the_rounds_give_their_median() {
        let round = |value| {
            let mut outcome = Outcome::of(5);
            outcome.add(Figure::beside("x_ms", (value, value / 2.0)));
            outcome
        };
        let outcome = Outcome::median(vec![round(4.0), round(90.0), round(2.0)]).unwrap();
        let json = outcome.json();
        assert_eq!((json["x_ms"].as_f64(), json["floor_x_ms"].as_f64()), (Some(4.0), Some(2.0)));
        assert_eq!((json["rounds"]["x_ms"].clone(), outcome.verified), (json!([4.0, 90.0, 2.0]), 15));
        assert!(Outcome::median(vec![]).is_err());
    }
}
