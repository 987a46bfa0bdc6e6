//! How far revisions have come in the zones, as the zones report it. Pure: clocks come in.
//!
//! ```text
//! committed(revision, now)        when a revision was seen here first
//! linked(revision, restarted)     a zone has connected and holds this revision on its disk
//! beat(revision)                  a zone holds this revision
//! reported(report, now)           touched, acknowledged, pending, refused --> time from commit to the complete report
//! of(revision)                    what all that says of one revision
//! ```
//!
//! A zone that goes through several revisions in one step reports the newest of them. So a revision without a report is
//! done when the next later one is, and without any, once two beats in a row carried it or more: reports travel ahead of
//! beats on the same stream.
use proto::link::RevisionProgress;
use shared_api::{ProxyRefusal, ZoneStatus};
use shared_model::{Revision, Timestamp};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Revisions whose progress is kept: those that somebody may still watch.
pub const KEPT: usize = 1_024;

/// What is kept of a proxy's reason, and of a name, in characters. Envoy's reasons are a line or two.
const REASON_MAX: usize = 2_000;
const NAME_MAX: usize = 253;

/// Refusals that are shown of one revision in one zone. A policy that every proxy refuses is understood from a few.
const REFUSALS_KEPT: usize = 100;

/// When the newest revisions were seen here first, by a clock that never jumps.
#[derive(Debug, Default)]
pub struct Commits {
    seen: BTreeMap<Revision, Instant>,
    newest: Revision,
}

impl Commits {
    /// Everything up to `newest` was there before this process: nobody can tell when it was committed.
    pub fn after(newest: Revision) -> Self {
        Commits { seen: BTreeMap::new(), newest }
    }

    pub fn committed(&mut self, revision: Revision, now: Instant) {
        let first = (self.newest.0 + 1).max(revision.0.saturating_sub(KEPT as u64 - 1));
        for number in first..=revision.0 {
            self.seen.insert(Revision(number), now);
        }
        self.newest = self.newest.max(revision);
        while self.seen.len() > KEPT {
            self.seen.pop_first();
        }
    }

    fn since(&self, revision: Revision, now: Instant) -> Option<Duration> {
        self.seen.get(&revision).map(|committed| now.saturating_duration_since(*committed))
    }
}

#[derive(Clone, Debug, Default)]
struct Report {
    applied: Option<Timestamp>,
    touched: u32,
    acknowledged: u32,
    pending: u32,
    refused: Vec<ProxyRefusal>,
    /// From the commit to the first report without a pending proxy.
    took: Option<Duration>,
}

/// What one zone has said.
#[derive(Debug, Default)]
pub struct Progress {
    reports: BTreeMap<Revision, Report>,
    /// Carried by the newest beat, and by the one before it.
    beat: Revision,
    settled: Revision,
}

impl Progress {
    /// A link was opened. A zone that has restarted waits for none of its earlier proxies: they come back and get the
    /// newest, so nothing that was pending then is pending now.
    pub fn linked(&mut self, revision: Revision, restarted: bool) {
        if restarted {
            self.reports.retain(|_, report| report.pending == 0);
        }
        self.settled = self.settled.min(revision);
        self.beat = revision;
    }

    /// Answers whether that changes what can be said of any revision.
    pub fn beat(&mut self, revision: Revision) -> bool {
        let before = (self.settled, self.beat);
        self.settled = self.beat.min(revision);
        self.beat = revision;
        before != (self.settled, self.beat)
    }

    /// Takes a report. Answers how long the revision took, the first time that it is complete and touched somebody. A
    /// revision that was never committed is none.
    pub fn reported(&mut self, said: RevisionProgress, commits: &Commits, now: Instant) -> Option<Duration> {
        let revision = Revision(said.revision);
        if revision > commits.newest {
            return None;
        }
        let before = self.reports.get(&revision);
        let known = before.and_then(|report| report.took);
        let took = match said.pending {
            0 => known.or_else(|| commits.since(revision, now)),
            _ => None,
        };
        let refused = said.refused.into_iter().take(REFUSALS_KEPT);
        let report = Report {
            applied: Timestamp::from_timestamp_millis(said.applied_unix_ms),
            touched: said.touched,
            acknowledged: said.acknowledged,
            pending: said.pending,
            refused: refused
                .map(|r| ProxyRefusal {
                    mesh: cut(r.mesh, NAME_MAX),
                    proxy: cut(r.proxy, NAME_MAX),
                    reason: cut(r.reason, REASON_MAX),
                })
                .collect(),
            took,
        };
        let counted = before.is_some_and(|before| before.took.is_some() && before.touched > 0);
        let answer = took.filter(|_| report.touched > 0 && !counted);
        self.reports.insert(revision, report);
        while self.reports.len() > KEPT {
            self.reports.pop_first();
        }
        answer
    }

    /// What is known of one revision in this zone.
    pub fn of(&self, zone: &str, online: bool, revision: Revision) -> ZoneStatus {
        let mut status = ZoneStatus { zone: zone.to_owned(), online, ..ZoneStatus::default() };
        if let Some(report) = self.reports.get(&revision) {
            status.applied = true;
            status.applied_at = report.applied;
            status.touched = report.touched;
            status.acknowledged = report.acknowledged;
            status.pending = report.pending;
            status.refused.clone_from(&report.refused);
            status.done = report.pending == 0;
            status.apply_to_ack_ms = report.took.map(|took| took.as_secs_f64() * 1000.0);
            return status;
        }
        let later = self.reports.range(revision..).next().map(|(_, report)| report);
        status.applied = later.is_some() || revision <= self.beat;
        status.done = match later {
            Some(report) => report.pending == 0,
            None => revision <= self.settled,
        };
        // Older than everything that is kept: those who still held it up are not known any more.
        if self.reports.len() >= KEPT && self.reports.keys().next().is_some_and(|oldest| revision < *oldest) {
            status.done = status.applied;
        }
        status
    }
}

fn cut(text: String, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        // A slice of a large message must not keep all of it alive.
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::link::Refusal;

    fn said(revision: u64, touched: u32, pending: u32) -> RevisionProgress {
        RevisionProgress {
            revision,
            applied_unix_ms: 1_800_000_000_000,
            touched,
            acknowledged: touched - pending,
            pending,
            ..RevisionProgress::default()
        }
    }

    struct Script {
        progress: Progress,
        commits: Commits,
        start: Instant,
    }

    impl Script {
        fn new() -> Self {
            Script { progress: Progress::default(), commits: Commits::default(), start: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn commit(&mut self, revision: u64, ms: u64) {
            let now = self.at(ms);
            self.commits.committed(Revision(revision), now);
        }

        fn report(&mut self, said: RevisionProgress, ms: u64) -> Option<u128> {
            let now = self.at(ms);
            self.progress.reported(said, &self.commits, now).map(|took| took.as_millis())
        }

        fn done(&self, revision: u64) -> bool {
            self.progress.of("east", true, Revision(revision)).done
        }
    }

    #[test]
    fn the_time_runs_from_the_commit_to_the_complete_report_and_counts_once() {
        let mut script = Script::new();
        script.commit(5, 100);
        assert_eq!(script.report(said(5, 2, 1), 110), None);
        assert!(!script.done(5));
        assert_eq!(script.report(said(5, 2, 0), 140), Some(40));
        assert_eq!(script.report(said(5, 2, 0), 900), None);
        let status = script.progress.of("east", true, Revision(5));
        assert_eq!((status.done, status.apply_to_ack_ms, status.acknowledged), (true, Some(40.0), 2));
    }

    #[test]
    fn a_zone_says_nothing_of_revisions_to_come() {
        let mut script = Script::new();
        script.commit(5, 0);
        assert_eq!(script.report(said(u64::MAX, 1, 0), 1), None);
        assert!(!script.done(6) && !script.progress.of("east", true, Revision(6)).applied);
    }

    #[test]
    fn a_revision_that_touches_nobody_is_done_but_not_measured() {
        let mut script = Script::new();
        script.commit(5, 0);
        assert_eq!(script.report(said(5, 0, 0), 10), None);
        assert!(script.done(5));
        assert_eq!(script.progress.of("east", true, Revision(5)).apply_to_ack_ms, Some(10.0));
    }

    #[test]
    fn a_revision_without_a_report_follows_the_next_later_one() {
        let mut script = Script::new();
        script.commit(8, 0);
        script.report(said(7, 3, 1), 0);
        assert!(!script.done(6));
        script.report(said(7, 3, 0), 1);
        assert!(script.done(6));
        assert!(!script.done(8));
    }

    #[test]
    fn without_any_report_two_beats_must_carry_it() {
        let mut script = Script::new();
        script.progress.linked(Revision(9), true);
        assert!(script.progress.of("east", true, Revision(9)).applied && !script.done(9));
        script.progress.beat(Revision(9));
        assert!(script.done(9));
        script.progress.beat(Revision(10));
        assert!(!script.done(10));
        script.progress.beat(Revision(10));
        assert!(script.done(10));
    }

    #[test]
    fn a_restarted_zone_is_not_held_to_proxies_of_its_earlier_life() {
        let mut script = Script::new();
        script.commit(5, 0);
        script.report(said(5, 2, 1), 0);
        script.progress.linked(Revision(5), false);
        assert!(!script.done(5));
        script.progress.linked(Revision(5), true);
        script.progress.beat(Revision(5));
        assert!(script.done(5));
    }

    #[test]
    fn memory_is_bounded_by_revisions_and_by_refusals() {
        let mut script = Script::new();
        let refusal = |reason: &str| Refusal { mesh: "m".into(), proxy: "p".into(), reason: reason.into() };
        let refused = vec![refusal("no"); 500];
        for revision in 1..=3 * KEPT as u64 {
            script.commit(revision, 0);
            script.report(RevisionProgress { refused: refused.clone(), ..said(revision, 1, 0) }, 0);
        }
        assert_eq!((script.progress.reports.len(), script.commits.seen.len()), (KEPT, KEPT));
        let newest = 3 * KEPT as u64;
        assert_eq!(script.progress.of("east", true, Revision(newest)).refused.len(), REFUSALS_KEPT);
        let refused = vec![refusal(&"ü".repeat(10_000))];
        script.report(RevisionProgress { refused, ..said(newest, 1, 0) }, 0);
        let shown = script.progress.of("east", true, Revision(newest)).refused;
        assert_eq!(shown[0].reason.chars().count(), REASON_MAX + 1);
        assert!(script.done(1));
    }
}
