//! Where faults are played: a cluster that is kept from one to the next while it stays whole, and the judgement of what
//! its clients saw.
use crate::{
    globals::Globals,
    history::{Verdict, Violation, check},
    programs::Programs,
    workload::{Plan, Workload},
};
use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

pub struct Stage {
    /// Fewer rounds.
    pub quick: bool,
    pub programs: Programs,
    /// What was measured, by name.
    pub figures: BTreeMap<String, f64>,
    /// Writes of all clusters so far.
    pub acknowledged: u64,
    dir: PathBuf,
    clusters: u32,
    kept: Option<Kept>,
}

struct Kept {
    globals: Globals,
    /// What was found in it already, by an earlier fault.
    told: BTreeSet<Violation>,
    counted: u64,
}

impl Stage {
    pub fn new(programs: Programs, dir: &Path, quick: bool) -> Stage {
        let dir = dir.to_owned();
        Stage { quick, programs, figures: BTreeMap::new(), acknowledged: 0, dir, clusters: 0, kept: None }
    }

    /// A directory of its own for the next cluster.
    pub fn new_dir(&mut self) -> Result<PathBuf> {
        self.clusters += 1;
        let dir = self.dir.join(format!("cluster-{}", self.clusters));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// A cluster of so many nodes that is whole: the one that is there, or a new one.
    pub async fn globals(&mut self, count: usize) -> Result<&mut Globals> {
        if self.kept.as_ref().is_none_or(|kept| kept.globals.nodes.len() != count) {
            self.kept = None;
            let dir = self.new_dir()?;
            let home = dir.clone();
            let globals =
                Globals::start(&self.programs, &dir, count, |name| home.join(name), BTreeMap::new()).await?;
            self.keep(globals);
        }
        self.current()
    }

    /// A cluster that a fault has started in its own way.
    pub fn keep(&mut self, globals: Globals) -> &mut Globals {
        let kept = self.kept.insert(Kept { globals, told: BTreeSet::new(), counted: 0 });
        &mut kept.globals
    }

    /// The cluster as it is.
    pub fn current(&mut self) -> Result<&mut Globals> {
        self.kept.as_mut().map(|kept| &mut kept.globals).context("there is no cluster")
    }

    /// Ends the cluster.
    pub fn clear(&mut self) {
        self.kept = None;
    }

    /// Brings the cluster back to its whole self, reads everything that was ever written, and judges all that was seen.
    /// What an earlier fault was told is not told again.
    pub async fn judge(&mut self) -> Result<Verdict> {
        let Some(kept) = &mut self.kept else { return Ok(Verdict::default()) };
        kept.globals.restore().await.context("after the fault")?;
        kept.globals.audit().await?;
        let mut verdict = check(&kept.globals.recorder.so_far());
        verdict.violations.retain(|violation| kept.told.insert(violation.clone()));
        self.acknowledged +=
            verdict.acknowledged - std::mem::replace(&mut kept.counted, verdict.acknowledged);
        Ok(verdict)
    }

    pub fn logs(&self) -> Option<&Path> {
        self.kept.as_ref().map(|kept| kept.globals.dir.as_path())
    }
}

impl Globals {
    pub fn load(&self) -> Workload {
        Workload::start(Plan::default(), &self.doors, &self.recorder)
    }
}

/// The value below which this share of the values lies; the largest for the share 1.
pub fn percentile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<Duration> = (1..=50).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 0.5), Duration::from_millis(25));
        assert_eq!(percentile(&values, 0.99), Duration::from_millis(50));
        assert_eq!(percentile(&values[..1], 0.5), Duration::from_millis(1));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
