//! The judge. Revisions order all writes, so it needs no search: it resolves each write to its revision, by its
//! acknowledgement or by whoever found its value, and compares what each answer says with what was known before.
use super::{Did, Expected, Found, Moment, Operation, Place, ReadKind, UNTOLD, Written};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What no correct cluster could have answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// An acknowledged write is not there, and no later one took its place.
    LostWrite {
        key: String,
        value: String,
        revision: u64,
    },
    /// A linearizable read has seen less than what was answered before it began.
    StaleRead {
        key: String,
        node: String,
        seen: u64,
        known: u64,
    },
    /// A read has seen a revision but not a write at or below it.
    HoleInRead {
        key: String,
        node: String,
        seen: u64,
        missing: u64,
    },
    /// The same node answered with an older revision than before.
    WentBack {
        node: String,
        before: u64,
        after: u64,
    },
    /// A write got a revision that is not above what was answered before it began.
    WriteInThePast {
        key: String,
        value: String,
        revision: u64,
        known: u64,
    },
    AppliedTwice {
        key: String,
        value: String,
        revisions: [u64; 2],
    },
    /// Two writes share a revision.
    RevisionShared {
        revision: u64,
        values: [String; 2],
    },
    /// Nobody wrote this value there, or not yet.
    FromNowhere {
        key: String,
        value: String,
    },
    /// The cluster said that it had refused this write.
    RefusedButApplied {
        key: String,
        value: String,
    },
    /// A write was acknowledged although something else was stored than it expected.
    ExpectationIgnored {
        key: String,
        value: String,
        between: u64,
    },
    /// Two writes of one value: the harness is wrong, nothing can be judged.
    ValueReused {
        value: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::LostWrite { key, value, revision } => {
                write!(f, "{key}={value} was acknowledged at revision {revision} and is lost")
            }
            Violation::StaleRead { key, node, seen, known } => write!(
                f,
                "a linearizable read of {key} at {node} has seen {seen} when {known} had been answered"
            ),
            Violation::HoleInRead { key, node, seen, missing } => {
                write!(f, "a read of {key} at {node} claims revision {seen} and lacks {missing}")
            }
            Violation::WentBack { node, before, after } => {
                write!(f, "{node} answered with revision {before} and then with {after}")
            }
            Violation::WriteInThePast { key, value, revision, known } => {
                write!(f, "{key}={value} got revision {revision} when {known} had been answered before it")
            }
            Violation::AppliedTwice { key, value, revisions: [first, second] } => {
                write!(f, "{key}={value} was applied twice, at {first} and at {second}")
            }
            Violation::RevisionShared { revision, values: [first, second] } => {
                write!(f, "revision {revision} is of two writes, {first} and {second}")
            }
            Violation::FromNowhere { key, value } => {
                write!(f, "{key}={value} was read and nobody had written it")
            }
            Violation::RefusedButApplied { key, value } => {
                write!(f, "{key}={value} was refused and is there")
            }
            Violation::ExpectationIgnored { key, value, between } => {
                write!(f, "{key}={value} was acknowledged over revision {between}, which it did not expect")
            }
            Violation::ValueReused { value } => write!(f, "the value {value} was written twice by the test"),
        }
    }
}

/// What became of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub violations: BTreeSet<Violation>,
    pub acknowledged: u64,
    /// Writes whose outcome their client never learned.
    pub unknown: u64,
    pub refused: u64,
    pub linearizable_reads: u64,
    pub stale_reads: u64,
}

impl Verdict {
    pub fn lost(&self) -> u64 {
        let lost = |violation: &&Violation| matches!(violation, Violation::LostWrite { .. });
        self.violations.iter().filter(lost).count() as u64
    }

    pub fn is_good(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} writes acknowledged, {} unknown, {} refused; {} linearizable and {} stale reads",
            self.acknowledged, self.unknown, self.refused, self.linearizable_reads, self.stale_reads
        )?;
        for violation in self.violations.iter().take(SHOWN) {
            write!(f, "; {violation}")?;
        }
        match self.violations.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Violations that a sentence has room for.
const SHOWN: usize = 5;

/// Judges a history. Its order is of no account.
pub fn check(history: &[Operation]) -> Verdict {
    let mut judge = Judge::default();
    judge.gather_writes(history);
    for read in history {
        judge.trace_to_a_write(read);
    }
    for operation in history {
        judge.look_for_holes(operation);
        judge.compare_expectation(operation);
    }
    judge.follow_time(history);
    judge.look_for_lost_writes(history);
    judge.verdict
}

struct Write<'a> {
    key: &'a str,
    begin: Moment,
    outcome: Written,
}

#[derive(Default)]
struct Judge<'a> {
    verdict: Verdict,
    /// By value.
    writes: BTreeMap<&'a str, Write<'a>>,
    /// What is known of where writes went.
    revision_of: BTreeMap<&'a str, u64>,
    value_at: BTreeMap<u64, &'a str>,
    by_key: BTreeMap<&'a str, BTreeSet<u64>>,
}

impl<'a> Judge<'a> {
    fn accuse(&mut self, violation: Violation) {
        self.verdict.violations.insert(violation);
    }

    fn gather_writes(&mut self, history: &'a [Operation]) {
        for operation in history {
            match &operation.did {
                Did::Wrote { key, value, outcome, .. } => {
                    match outcome {
                        Written::Acknowledged(_) => self.verdict.acknowledged += 1,
                        Written::Refused => self.verdict.refused += 1,
                        Written::Unknown => self.verdict.unknown += 1,
                    }
                    let write = Write { key, begin: operation.begin, outcome: *outcome };
                    if self.writes.insert(value, write).is_some() {
                        self.accuse(Violation::ValueReused { value: value.clone() });
                    }
                    if let Written::Acknowledged(revision) = outcome {
                        self.resolve(key, value, *revision);
                    }
                }
                Did::Read { kind: ReadKind::Linearizable, .. } => self.verdict.linearizable_reads += 1,
                Did::Read { kind: ReadKind::Stale, .. } => self.verdict.stale_reads += 1,
            }
        }
    }

    /// A write is at this revision, by this witness.
    fn resolve(&mut self, key: &'a str, value: &'a str, revision: u64) {
        let first = *self.revision_of.entry(value).or_insert(revision);
        if first != revision {
            let revisions = [first.min(revision), first.max(revision)];
            self.accuse(Violation::AppliedTwice { key: key.to_owned(), value: value.to_owned(), revisions });
        }
        let other = *self.value_at.entry(revision).or_insert(value);
        if other != value {
            let values = [other.min(value).to_owned(), other.max(value).to_owned()];
            self.accuse(Violation::RevisionShared { revision, values });
        }
        self.by_key.entry(key).or_default().insert(revision);
    }

    fn trace_to_a_write(&mut self, read: &'a Operation) {
        let Did::Read { key, found: Some(Found { value, revision }), .. } = &read.did else { return };
        let nowhere = Violation::FromNowhere { key: key.clone(), value: value.clone() };
        match self.writes.get(value.as_str()) {
            Some(write) if write.key == key && write.begin <= read.end => {
                if write.outcome == Written::Refused {
                    self.accuse(Violation::RefusedButApplied { key: key.clone(), value: value.clone() });
                }
                self.resolve(key, value, *revision);
            }
            _ => self.accuse(nowhere),
        }
    }

    /// What a read has seen contains every write up to there.
    fn look_for_holes(&mut self, read: &Operation) {
        let Did::Read { key, place, seen, found, .. } = &read.did else { return };
        let found = found.as_ref().map_or(0, |found| found.revision);
        let newest = self.by_key.get(key.as_str()).and_then(|known| known.range(..=seen).next_back());
        if let Some(missing) = newest.copied().filter(|newest| *newest > found) {
            let node = place.node.clone();
            self.accuse(Violation::HoleInRead { key: key.clone(), node, seen: *seen, missing });
        }
    }

    fn compare_expectation(&mut self, write: &Operation) {
        let Did::Wrote { key, value, expected, outcome: Written::Acknowledged(revision) } = &write.did else {
            return;
        };
        let above = match expected {
            Expected::Any => return,
            Expected::Absent => 0,
            Expected::At(revision) => *revision,
        };
        let mut between = self.by_key.get(key.as_str()).into_iter().flatten();
        if let Some(between) = between.find(|known| **known > above && *known < revision).copied() {
            self.accuse(Violation::ExpectationIgnored { key: key.clone(), value: value.clone(), between });
        }
    }

    /// Goes through all beginnings and ends in their order. What was answered before an operation began, it must respect.
    fn follow_time(&mut self, history: &[Operation]) {
        #[derive(PartialEq, Eq, PartialOrd, Ord)]
        enum Event {
            // At one moment first: only what ended strictly before counts.
            Begins,
            Ends,
        }
        let mut events: Vec<(Moment, Event, usize)> = history
            .iter()
            .enumerate()
            .flat_map(|(i, one)| [(one.begin, Event::Begins, i), (one.end, Event::Ends, i)])
            .collect();
        events.sort_unstable();
        let mut answered: u64 = 0;
        let mut at_place: BTreeMap<&Place, u64> = BTreeMap::new();
        let mut at_key: BTreeMap<(&Place, &str), u64> = BTreeMap::new();
        // What was known when each began: to anybody, of the place, of the key at the place.
        let mut known: Vec<(u64, u64, u64)> = vec![(0, 0, 0); history.len()];
        for (_, event, i) in events {
            match (&history[i].did, event) {
                (Did::Read { key, place, .. }, Event::Begins) => {
                    let here = at_place.get(place).copied().unwrap_or_default();
                    let of_key = at_key.get(&(place, key.as_str())).copied().unwrap_or_default();
                    known[i] = (answered, here, of_key);
                }
                (Did::Wrote { .. }, Event::Begins) => known[i].0 = answered,
                (Did::Wrote { outcome: Written::Acknowledged(revision), .. }, Event::Ends) => {
                    answered = answered.max(*revision);
                }
                (Did::Wrote { .. }, Event::Ends) => {}
                (Did::Read { key, place, kind, seen, found }, Event::Ends) => {
                    let found = found.as_ref().map_or(0, |found| found.revision);
                    let of_key = at_key.entry((place, key)).or_default();
                    *of_key = found.max(*of_key);
                    let seen = found.max(*seen);
                    let here = at_place.entry(place).or_default();
                    *here = seen.max(*here);
                    if *kind == ReadKind::Linearizable {
                        answered = answered.max(seen);
                    }
                }
            }
        }
        for (operation, (answered, here, of_key)) in history.iter().zip(known) {
            match &operation.did {
                Did::Wrote { key, value, outcome: Written::Acknowledged(revision), .. }
                    if *revision <= answered =>
                {
                    let (key, value, revision) = (key.clone(), value.clone(), *revision);
                    self.accuse(Violation::WriteInThePast { key, value, revision, known: answered });
                }
                Did::Read { key, place, kind, seen, found } => {
                    let node = place.node.clone();
                    if *kind == ReadKind::Linearizable && *seen < answered {
                        let (key, node) = (key.clone(), node.clone());
                        self.accuse(Violation::StaleRead { key, node, seen: *seen, known: answered });
                    }
                    let found = found.as_ref().map_or(0, |found| found.revision);
                    if *seen != UNTOLD && *seen < here {
                        self.accuse(Violation::WentBack { node, before: here, after: *seen });
                    } else if found < of_key {
                        self.accuse(Violation::WentBack { node, before: of_key, after: found });
                    }
                }
                Did::Wrote { .. } => {}
            }
        }
    }

    /// By the last linearizable read of each key.
    fn look_for_lost_writes(&mut self, history: &'a [Operation]) {
        let mut last: BTreeMap<&str, (&Operation, u64)> = BTreeMap::new();
        for read in history {
            let Did::Read { key, kind: ReadKind::Linearizable, found, .. } = &read.did else { continue };
            let found = found.as_ref().map_or(0, |found| found.revision);
            let entry = last.entry(key).or_insert((read, found));
            if read.begin >= entry.0.begin {
                *entry = (read, found);
            }
        }
        for write in history {
            let Did::Wrote { key, value, outcome: Written::Acknowledged(revision), .. } = &write.did else {
                continue;
            };
            let is_lost = |(read, found): &(&Operation, u64)| write.end < read.begin && found < revision;
            if last.get(key.as_str()).is_some_and(is_lost) {
                let (key, value) = (key.clone(), value.clone());
                self.accuse(Violation::LostWrite { key, value, revision: *revision });
            }
        }
    }
}
