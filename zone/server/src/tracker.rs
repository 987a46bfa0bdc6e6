//! How far each revision has come among the proxies of this zone.
//!
//! ```text
//! applied(revision, touched)      --> pending: the connected proxies that it may give something new to
//! acknowledged(proxy, generation) --> done for every revision up to that generation; counted if something was sent
//! refused(proxy, generation)      --> noted; the proxy still settles by its next acknowledgement, as refused
//! gone(proxy)                     --> nobody waits for it any more
//! ```
//!
//! Pure: the time comes in. A proxy that a revision does not touch, or that holds a later one, is done. Memory is
//! bounded by the number of revisions that are kept; the oldest is forgotten first.
use shared_model::{Revision, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use zone_index::ProxyId;

/// Revisions whose progress is kept: those that somebody may still watch.
pub const KEPT: usize = 1_024;

/// Progress of the newest revisions of one catalog.
#[derive(Debug, Default)]
pub struct Tracker {
    revisions: BTreeMap<Revision, Entry>,
    /// Revisions in which a proxy is pending.
    waiting: BTreeMap<ProxyId, BTreeSet<Revision>>,
    /// When each revision moved last, on a clock that counts the moves.
    changed: BTreeMap<Revision, u64>,
    clock: u64,
    newest: Revision,
}

#[derive(Debug)]
struct Entry {
    generation: u64,
    commanded: Timestamp,
    applied: Timestamp,
    pending: BTreeSet<ProxyId>,
    acknowledged: u32,
    /// A proxy that refuses the same in every revision has one text for all of them.
    refused: BTreeMap<ProxyId, Arc<str>>,
    settled: Option<Timestamp>,
}

/// What is known of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub revision: Revision,
    pub applied: Timestamp,
    /// Proxies that it gave something new to, or may still.
    pub touched: u32,
    pub acknowledged: u32,
    pub pending: u32,
    pub refused: Vec<(ProxyId, Arc<str>)>,
    /// When the last proxy was done; `None` while some are pending.
    pub settled: Option<Timestamp>,
}

/// A proxy is done with a revision, so long after its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    pub revision: Revision,
    pub after: Duration,
    /// It was the last one.
    pub settled: bool,
}

impl Tracker {
    /// A revision was applied to the index as `generation`; `touched` are the connected proxies whose view may differ.
    pub fn applied(
        &mut self,
        revision: Revision,
        generation: u64,
        commanded: Timestamp,
        now: Timestamp,
        touched: BTreeSet<ProxyId>,
    ) {
        for proxy in &touched {
            self.waiting.entry(proxy.clone()).or_default().insert(revision);
        }
        let settled = touched.is_empty().then_some(now);
        let entry = Entry {
            generation,
            commanded,
            applied: now,
            pending: touched,
            acknowledged: 0,
            refused: BTreeMap::new(),
            settled,
        };
        self.revisions.insert(revision, entry);
        self.newest = self.newest.max(revision);
        self.touch(revision);
        while self.revisions.len() > KEPT {
            if let Some((oldest, entry)) = self.revisions.pop_first() {
                self.changed.remove(&oldest);
                for proxy in entry.pending {
                    self.forget(&proxy, oldest);
                }
            }
        }
    }

    /// The proxy holds all of `generation`. `pushed`: something had to be sent for it.
    pub fn acknowledged(
        &mut self,
        proxy: &ProxyId,
        generation: u64,
        pushed: bool,
        now: Timestamp,
    ) -> Vec<Done> {
        self.settle(
            proxy,
            now,
            |entry| entry.generation <= generation,
            |entry| {
                if pushed && !entry.refused.contains_key(proxy) {
                    entry.acknowledged += 1;
                }
            },
        )
    }

    /// The proxy refused something of `generation`.
    pub fn refused(&mut self, proxy: &ProxyId, generation: u64, reason: &str) {
        let waiting = self.waiting.get(proxy).into_iter().flatten();
        let reached: Vec<Revision> = waiting
            .filter(|revision| {
                self.revisions.get(revision).is_some_and(|entry| entry.generation <= generation)
            })
            .copied()
            .collect();
        let Some(first) = reached.first() else { return };
        let before = self.revisions.range(..*first).rev().find_map(|(_, entry)| entry.refused.get(proxy));
        let reason =
            before.filter(|before| ***before == *reason).cloned().unwrap_or_else(|| Arc::from(reason));
        for revision in reached {
            if let Some(entry) = self.revisions.get_mut(&revision) {
                entry.refused.insert(proxy.clone(), reason.clone());
                self.touch(revision);
            }
        }
    }

    /// The proxy has left for good.
    pub fn gone(&mut self, proxy: &ProxyId, now: Timestamp) -> Vec<Done> {
        self.settle(proxy, now, |_| true, |_| {})
    }

    /// What is known of a revision itself.
    pub fn report(&self, revision: Revision) -> Option<Report> {
        let entry = self.revisions.get(&revision)?;
        let pending = count(entry.pending.iter().filter(|proxy| !entry.refused.contains_key(proxy)).count());
        let refused: Vec<_> =
            entry.refused.iter().map(|(proxy, reason)| (proxy.clone(), reason.clone())).collect();
        Some(Report {
            revision,
            applied: entry.applied,
            touched: entry.acknowledged + pending + count(refused.len()),
            acknowledged: entry.acknowledged,
            pending,
            refused,
            settled: entry.settled,
        })
    }

    /// The same of the revision itself, or of the step that it was a part of: the next later one that is known.
    pub fn report_of_step(&self, revision: Revision) -> Option<Report> {
        let forgotten = self.revisions.len() >= KEPT
            && self.revisions.keys().next().is_some_and(|oldest| revision < *oldest);
        let (step, _) = self.revisions.range(revision..).next().filter(|_| !forgotten)?;
        self.report(*step)
    }

    /// The newest revision that was applied.
    pub fn newest(&self) -> Revision {
        self.newest
    }

    /// Reports of what moved since a reader's last call, and what it has to say the next time. A reader begins with 0,
    /// and gets everything that is kept.
    pub fn changed_since(&self, seen: u64) -> (u64, Vec<Report>) {
        let moved = self.changed.iter().filter(|(_, at)| **at > seen);
        (self.clock, moved.filter_map(|(revision, _)| self.report(*revision)).collect())
    }

    fn touch(&mut self, revision: Revision) {
        self.clock += 1;
        self.changed.insert(revision, self.clock);
    }

    fn settle(
        &mut self,
        proxy: &ProxyId,
        now: Timestamp,
        reached: impl Fn(&Entry) -> bool,
        count: impl Fn(&mut Entry),
    ) -> Vec<Done> {
        let waiting: Vec<Revision> = self.waiting.get(proxy).into_iter().flatten().copied().collect();
        let mut done = Vec::new();
        for revision in waiting {
            let Some(entry) = self.revisions.get_mut(&revision).filter(|entry| reached(entry)) else {
                continue;
            };
            entry.pending.remove(proxy);
            count(entry);
            // A clock that runs behind global's would give a time below zero: then count from here.
            let after = (now - entry.commanded).to_std().or_else(|_| (now - entry.applied).to_std());
            let settled = entry.pending.is_empty();
            if settled {
                entry.settled = Some(now);
            }
            done.push(Done { revision, after: after.unwrap_or_default(), settled });
            self.touch(revision);
            self.forget(proxy, revision);
        }
        done
    }

    fn forget(&mut self, proxy: &ProxyId, revision: Revision) {
        if let Some(waiting) = self.waiting.get_mut(proxy) {
            waiting.remove(&revision);
            if waiting.is_empty() {
                self.waiting.remove(proxy);
            }
        }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(name: &str) -> ProxyId {
        ProxyId { mesh: "default".into(), name: name.into() }
    }

    fn touched(names: &[&str]) -> BTreeSet<ProxyId> {
        names.iter().map(|name| proxy(name)).collect()
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_timestamp_millis(1_800_000_000_000 + ms).unwrap()
    }

    fn counts(tracker: &Tracker, revision: u64) -> (u32, u32, u32, usize) {
        let report = tracker.report(Revision(revision)).unwrap();
        (report.touched, report.acknowledged, report.pending, report.refused.len())
    }

    #[test]
    fn a_revision_is_settled_by_its_last_proxy() {
        let mut tracker = Tracker::default();
        tracker.applied(Revision(5), 50, at(0), at(2), touched(&["a", "b"]));
        assert_eq!(counts(&tracker, 5), (2, 0, 2, 0));
        let done = |ms, settled| Done { revision: Revision(5), after: Duration::from_millis(ms), settled };
        assert_eq!(tracker.acknowledged(&proxy("a"), 50, true, at(10)), [done(10, false)]);
        assert_eq!(tracker.acknowledged(&proxy("b"), 50, true, at(20)), [done(20, true)]);
        assert_eq!(counts(&tracker, 5), (2, 2, 0, 0));
        assert_eq!(tracker.report(Revision(5)).unwrap().settled, Some(at(20)));
    }

    #[test]
    fn who_holds_a_later_one_is_done_and_who_was_given_nothing_is_not_counted() {
        let mut tracker = Tracker::default();
        tracker.applied(Revision(5), 50, at(0), at(0), touched(&["a", "b"]));
        tracker.applied(Revision(6), 51, at(1), at(1), touched(&["a"]));
        tracker.acknowledged(&proxy("a"), 51, true, at(2));
        tracker.acknowledged(&proxy("b"), 50, false, at(3));
        assert_eq!(counts(&tracker, 5), (1, 1, 0, 0));
        assert_eq!(counts(&tracker, 6), (1, 1, 0, 0));
    }

    #[test]
    fn an_older_acknowledgement_says_nothing_of_a_newer_revision() {
        let mut tracker = Tracker::default();
        tracker.applied(Revision(6), 51, at(0), at(0), touched(&["a"]));
        tracker.acknowledged(&proxy("a"), 50, true, at(1));
        assert_eq!(counts(&tracker, 6), (1, 0, 1, 0));
    }

    #[test]
    fn a_refusal_is_shown_with_its_reason_and_is_not_pending() {
        let mut tracker = Tracker::default();
        tracker.applied(Revision(5), 50, at(0), at(0), touched(&["a"]));
        tracker.refused(&proxy("a"), 50, "no such filter");
        assert_eq!(counts(&tracker, 5), (1, 0, 0, 1));
        tracker.acknowledged(&proxy("a"), 50, true, at(1));
        assert_eq!(counts(&tracker, 5), (1, 0, 0, 1));
        assert_eq!(tracker.report(Revision(5)).unwrap().refused, [(proxy("a"), "no such filter".into())]);
    }

    #[test]
    fn a_refusal_that_is_repeated_in_every_revision_is_one_text() {
        let mut tracker = Tracker::default();
        for revision in 1..=3 {
            tracker.applied(Revision(revision), revision, at(0), at(0), touched(&["a"]));
            tracker.refused(&proxy("a"), revision, "port in use");
            tracker.acknowledged(&proxy("a"), revision, true, at(1));
        }
        let text = |revision| tracker.report(Revision(revision)).unwrap().refused[0].1.clone();
        assert!(Arc::ptr_eq(&text(1), &text(2)) && Arc::ptr_eq(&text(2), &text(3)));
    }

    #[test]
    fn a_revision_within_a_longer_step_is_as_far_as_the_step() {
        let mut tracker = Tracker::default();
        tracker.applied(Revision(2), 20, at(0), at(0), touched(&[]));
        tracker.applied(Revision(9), 21, at(0), at(0), touched(&["a"]));
        let pending =
            |tracker: &Tracker, revision| tracker.report_of_step(Revision(revision)).map(|r| r.pending);
        assert_eq!((pending(&tracker, 2), pending(&tracker, 5)), (Some(0), Some(1)));
        assert_eq!(pending(&tracker, 10), None, "it has not been applied yet");
        tracker.acknowledged(&proxy("a"), 21, true, at(1));
        assert_eq!(pending(&tracker, 5), Some(0));
    }

    #[test]
    fn nobody_waits_for_a_proxy_that_has_left() {
        let mut tracker = Tracker::default();
        tracker.applied(Revision(5), 50, at(0), at(0), touched(&["a"]));
        assert_eq!(tracker.gone(&proxy("a"), at(1)).len(), 1);
        assert_eq!(counts(&tracker, 5), (0, 0, 0, 0));
    }

    #[test]
    fn what_changed_is_told_once_and_everything_again_when_asked() {
        let mut tracker = Tracker::default();
        tracker.applied(Revision(5), 50, at(0), at(0), touched(&[]));
        let (seen, reports) = tracker.changed_since(0);
        assert_eq!(reports.len(), 1);
        assert_eq!(tracker.changed_since(seen), (seen, vec![]));
        assert_eq!(tracker.changed_since(0).1.len(), 1);
    }

    #[test]
    fn the_oldest_is_forgotten_first_and_nothing_leaks() {
        let mut tracker = Tracker::default();
        for revision in 0..3 * KEPT as u64 {
            tracker.applied(Revision(revision), revision, at(0), at(0), touched(&["a", "b"]));
        }
        assert_eq!(tracker.revisions.len(), KEPT);
        assert_eq!(tracker.waiting[&proxy("a")].len(), KEPT);
        assert_eq!(tracker.changed.len(), KEPT);
        assert!(tracker.report(Revision(0)).is_none());
    }
}
