//! Forged histories are found out, and what a correct register answers is not.
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn put(begin: Moment, end: Moment, key: &str, value: &str, outcome: Written) -> Operation {
    let did = Did::Wrote { key: key.to_owned(), value: value.to_owned(), expected: Expected::Any, outcome };
    Operation { client: 1, begin, end, did }
}

fn expecting(mut write: Operation, wanted: Expected) -> Operation {
    if let Did::Wrote { expected, .. } = &mut write.did {
        *expected = wanted;
    }
    write
}

fn get(begin: Moment, end: Moment, key: &str, seen: u64, found: Option<(&str, u64)>) -> Operation {
    let place = Place { node: "one".to_owned(), life: 0 };
    let found = found.map(|(value, revision)| Found { value: value.to_owned(), revision });
    let did = Did::Read { key: key.to_owned(), place, kind: ReadKind::Linearizable, seen, found };
    Operation { client: 2, begin, end, did }
}

fn stale(mut read: Operation) -> Operation {
    if let Did::Read { kind, .. } = &mut read.did {
        *kind = ReadKind::Stale;
    }
    read
}

fn at(mut read: Operation, node: &str, life: u32) -> Operation {
    if let Did::Read { place, .. } = &mut read.did {
        *place = Place { node: node.to_owned(), life };
    }
    read
}

use Written::{Acknowledged, Refused, Unknown};

#[test]
fn a_correct_history_is_accepted() {
    let history = [
        put(0, 10, "a", "1", Acknowledged(5)),
        put(5, 50, "a", "2", Unknown),
        put(6, 16, "b", "3", Refused),
        get(20, 30, "a", 5, Some(("1", 5))),
        // The unknown write comes to pass, late.
        get(60, 70, "a", 7, Some(("2", 7))),
        // An older state of another node is no offence where it was asked for.
        stale(at(get(80, 90, "a", 5, Some(("1", 5))), "two", 0)),
        expecting(put(100, 110, "a", "4", Acknowledged(8)), Expected::At(7)),
        // The content may be newer than the revision that the answer names.
        get(105, 120, "a", 7, Some(("4", 8))),
        // Another life of a node may know less.
        stale(at(get(130, 140, "a", 8, Some(("4", 8))), "two", 1)),
        stale(at(get(150, 160, "a", 7, Some(("2", 7))), "two", 2)),
    ];
    let verdict = check(&history);
    assert!(verdict.is_good(), "{verdict}");
    assert_eq!((verdict.acknowledged, verdict.unknown, verdict.refused), (2, 1, 1));
    assert_eq!((verdict.linearizable_reads, verdict.stale_reads), (3, 3));
}

#[test]
fn an_unknown_write_may_be_absent_for_ever() {
    let history = [put(0, 10, "a", "1", Unknown), get(20, 30, "a", 9, None)];
    assert!(check(&history).is_good());
}

fn accused(history: &[Operation]) -> Vec<Violation> {
    check(history).violations.into_iter().collect()
}

#[test]
fn forged_an_acknowledged_write_is_lost() {
    let history = [put(0, 10, "a", "1", Acknowledged(5)), get(20, 30, "a", 9, None)];
    let verdict = check(&history);
    assert_eq!(verdict.lost(), 1);
    assert!(verdict.to_string().contains("a=1 was acknowledged at revision 5 and is lost"), "{verdict}");
    // Also when the whole state went back to before it.
    let history = [
        put(0, 4, "a", "1", Acknowledged(5)),
        put(5, 10, "a", "2", Acknowledged(6)),
        get(20, 30, "a", 5, Some(("1", 5))),
    ];
    assert_eq!(check(&history).lost(), 1);
}

#[test]
fn forged_a_linearizable_read_is_stale() {
    let history = [
        put(0, 10, "a", "1", Acknowledged(5)),
        put(11, 20, "a", "2", Acknowledged(6)),
        at(get(21, 30, "a", 5, Some(("1", 5))), "two", 0),
        get(40, 50, "a", 6, Some(("2", 6))),
    ];
    let expected = Violation::StaleRead { key: "a".to_owned(), node: "two".to_owned(), seen: 5, known: 6 };
    assert_eq!(accused(&history), [expected]);
    // The same answer to who asked for a stale one, or while the write was on its way, is good.
    let mut asked = history.clone();
    asked[2] = stale(asked[2].clone());
    assert!(check(&asked).is_good());
    let mut overlapping = history;
    overlapping[2].begin = 15;
    assert!(check(&overlapping).is_good());
}

#[test]
fn forged_a_revision_goes_back() {
    let history = [
        put(0, 10, "a", "1", Acknowledged(5)),
        stale(get(11, 12, "a", 5, Some(("1", 5)))),
        stale(get(13, 14, "a", 4, None)),
    ];
    let expected = Violation::WentBack { node: "one".to_owned(), before: 5, after: 4 };
    assert_eq!(accused(&history), [expected]);
}

#[test]
fn forged_a_zone_that_tells_no_revision_goes_back() {
    let writes = [put(0, 10, "a", "1", Acknowledged(5)), put(11, 12, "a", "2", Acknowledged(6))];
    let read = |begin, found| stale(at(get(begin, begin + 1, "a", UNTOLD, found), "zone", 0));
    let forward = [read(20, Some(("1", 5))), read(30, Some(("2", 6)))];
    assert!(check(&[writes.as_slice(), &forward].concat()).is_good());
    let back = [read(20, Some(("2", 6))), read(30, Some(("1", 5)))];
    let expected = Violation::WentBack { node: "zone".to_owned(), before: 6, after: 5 };
    assert_eq!(accused(&[writes.as_slice(), &back].concat()), [expected]);
    let gone = [read(20, Some(("2", 6))), read(30, None)];
    let expected = Violation::WentBack { node: "zone".to_owned(), before: 6, after: 0 };
    assert_eq!(accused(&[writes.as_slice(), &gone].concat()), [expected]);
}

#[test]
fn forged_a_reader_sees_another_reader_go_back() {
    let history = [
        put(0, 100, "a", "1", Unknown),
        get(11, 12, "a", 5, Some(("1", 5))),
        at(get(13, 14, "a", 4, None), "two", 0),
        at(get(20, 21, "a", 5, Some(("1", 5))), "two", 0),
    ];
    let expected = Violation::StaleRead { key: "a".to_owned(), node: "two".to_owned(), seen: 4, known: 5 };
    assert_eq!(accused(&history), [expected]);
}

#[test]
fn forged_a_write_is_applied_twice() {
    let history = [
        put(0, 10, "a", "1", Acknowledged(5)),
        put(11, 20, "a", "2", Acknowledged(6)),
        get(30, 40, "a", 7, Some(("1", 7))),
    ];
    let expected = Violation::AppliedTwice { key: "a".to_owned(), value: "1".to_owned(), revisions: [5, 7] };
    assert_eq!(accused(&history), [expected]);
}

#[test]
fn forged_a_hole_in_a_state() {
    let history = [
        put(0, 10, "a", "1", Acknowledged(5)),
        put(0, 10, "b", "2", Acknowledged(6)),
        stale(get(5, 20, "a", 6, None)),
        get(30, 40, "a", 6, Some(("1", 5))),
    ];
    let expected = Violation::HoleInRead { key: "a".to_owned(), node: "one".to_owned(), seen: 6, missing: 5 };
    assert_eq!(accused(&history), [expected]);
}

#[test]
fn forged_values_from_nowhere_and_from_the_future() {
    let nowhere = |key: &str| Violation::FromNowhere { key: key.to_owned(), value: "1".to_owned() };
    assert_eq!(accused(&[get(0, 1, "a", 5, Some(("1", 5)))]), [nowhere("a")]);
    let other_key = [put(0, 1, "a", "1", Acknowledged(5)), get(2, 3, "b", 5, Some(("1", 5)))];
    assert_eq!(accused(&other_key), [nowhere("b")]);
    let future = [get(0, 1, "a", 5, Some(("1", 5))), put(2, 3, "a", "1", Unknown)];
    assert_eq!(accused(&future), [nowhere("a")]);
}

#[test]
fn forged_a_refused_write_is_there() {
    let history = [put(0, 1, "a", "1", Refused), get(2, 3, "a", 5, Some(("1", 5)))];
    let expected = Violation::RefusedButApplied { key: "a".to_owned(), value: "1".to_owned() };
    assert_eq!(accused(&history), [expected]);
}

#[test]
fn forged_a_write_over_what_it_did_not_expect() {
    let history = [
        put(0, 1, "a", "1", Acknowledged(5)),
        put(2, 3, "a", "2", Acknowledged(6)),
        expecting(put(4, 5, "a", "3", Acknowledged(7)), Expected::At(5)),
    ];
    let ignored = |value: &str, between| Violation::ExpectationIgnored {
        key: "a".to_owned(),
        value: value.to_owned(),
        between,
    };
    assert_eq!(accused(&history), [ignored("3", 6)]);
    let history = [
        put(0, 1, "a", "1", Acknowledged(5)),
        expecting(put(2, 3, "a", "2", Acknowledged(6)), Expected::Absent),
    ];
    assert_eq!(accused(&history), [ignored("2", 5)]);
}

#[test]
fn forged_revisions_of_writes() {
    let shared = [put(0, 9, "a", "1", Acknowledged(5)), put(0, 9, "b", "2", Acknowledged(5))];
    let expected = Violation::RevisionShared { revision: 5, values: ["1".to_owned(), "2".to_owned()] };
    assert_eq!(accused(&shared), [expected]);
    let past = [put(0, 1, "a", "1", Acknowledged(5)), put(2, 3, "b", "2", Acknowledged(4))];
    let expected =
        Violation::WriteInThePast { key: "b".to_owned(), value: "2".to_owned(), revision: 4, known: 5 };
    assert_eq!(accused(&past), [expected]);
}

#[test]
fn a_test_that_writes_one_value_twice_is_told() {
    let history = [put(0, 1, "a", "1", Acknowledged(5)), put(2, 3, "a", "1", Unknown)];
    assert_eq!(accused(&history), [Violation::ValueReused { value: "1".to_owned() }]);
}

/// One request as the model takes it: at `begin + reaches` it happens, at `begin + lasts` it is answered.
#[derive(Clone, Debug)]
struct Asked {
    begin: Moment,
    reaches: Moment,
    lasts: Moment,
    key: u8,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Put,
    /// Its client never hears of it; whether it comes to pass, and how late.
    PutUnheard(Option<Moment>),
    /// Expects what the key has; or what it had some writes ago.
    PutExpecting {
        old: bool,
    },
    Get,
    /// At a replica that is behind by so many revisions.
    GetStale(u64),
}

fn asked() -> impl Strategy<Value = Asked> {
    let what = prop_oneof![
        3 => Just(What::Put),
        1 => proptest::option::of(0..400u64).prop_map(What::PutUnheard),
        2 => any::<bool>().prop_map(|old| What::PutExpecting { old }),
        3 => Just(What::Get),
        2 => (0..4u64).prop_map(What::GetStale),
    ];
    (0..1000u64, 1..40u64, 1..40u64, 0..3u8, what).prop_map(|(begin, reaches, more, key, what)| Asked {
        begin,
        reaches,
        lasts: reaches + more,
        key,
        what,
    })
}

/// A register that is correct by construction: all happens at one point in time, one after the other.
fn answers_of_the_model(asked: &[Asked]) -> Vec<Operation> {
    let happens = |one: &Asked| {
        let late = if let What::PutUnheard(Some(late)) = one.what { late } else { 0 };
        one.begin + one.reaches + late
    };
    let mut order: Vec<usize> = (0..asked.len()).collect();
    order.sort_by_key(|i| (happens(&asked[*i]), *i));
    let mut revision = 10;
    let mut writes: BTreeMap<u8, Vec<(String, u64)>> = BTreeMap::new();
    let mut replica = 0;
    let mut history = Vec::new();
    for i in order {
        let one = &asked[i];
        let (begin, end, key) = (one.begin, one.begin + one.lasts, one.key.to_string());
        let value = i.to_string();
        let stored = writes.entry(one.key).or_default();
        let mut store = |value: &str| {
            revision += 1;
            stored.push((value.to_owned(), revision));
            revision
        };
        match one.what {
            What::Put => {
                let revision = store(&value);
                history.push(put(begin, end, &key, &value, Acknowledged(revision)));
            }
            What::PutUnheard(comes) => {
                if comes.is_some() {
                    store(&value);
                }
                history.push(put(begin, end, &key, &value, Unknown));
            }
            What::PutExpecting { old } => {
                let back = if old { 2 } else { 1 };
                let place = stored.len().checked_sub(back);
                let expected = place.map_or(Expected::Absent, |place| Expected::At(stored[place].1));
                let holds = match expected {
                    Expected::At(revision) => stored.last().is_some_and(|last| last.1 == revision),
                    _ => stored.is_empty(),
                };
                let outcome = match holds {
                    true => {
                        revision += 1;
                        stored.push((value.clone(), revision));
                        Acknowledged(revision)
                    }
                    false => Refused,
                };
                history.push(expecting(put(begin, end, &key, &value, outcome), expected));
            }
            What::Get => {
                let found = stored.last().map(|(value, revision)| (value.as_str(), *revision));
                history.push(get(begin, end, &key, revision, found));
            }
            What::GetStale(behind) => {
                replica = replica.max(revision - behind);
                let found = stored.iter().rev().find(|(_, revision)| *revision <= replica);
                let found = found.map(|(value, revision)| (value.as_str(), *revision));
                history.push(stale(at(get(begin, end, &key, replica, found), "replica", 0)));
            }
        }
    }
    history
}

proptest! {
    #[test]
    fn what_a_correct_register_answers_is_accepted(asked in proptest::collection::vec(asked(), 1..80)) {
        let verdict = check(&answers_of_the_model(&asked));
        prop_assert!(verdict.is_good(), "{}", verdict);
    }

    /// A read after all else that answers without one of the acknowledged writes is found out, whichever it is.
    #[test]
    fn a_lost_write_is_found_whichever_it_is(
        asked in proptest::collection::vec(asked(), 1..80),
        which in any::<prop::sample::Index>(),
    ) {
        let mut history = answers_of_the_model(&asked);
        let acknowledged: Vec<(String, u64)> = history
            .iter()
            .filter_map(|one| match &one.did {
                Did::Wrote { key, outcome: Acknowledged(revision), .. } => Some((key.clone(), *revision)),
                _ => None,
            })
            .collect();
        prop_assume!(!acknowledged.is_empty());
        let (key, lost) = which.get(&acknowledged);
        let before = history.iter().filter_map(|one| match &one.did {
            Did::Wrote { key: other, value, outcome: Acknowledged(revision), .. }
                if other == key && revision < lost => Some((value.clone(), *revision)),
            _ => None,
        });
        let before = before.max_by_key(|(_, revision)| *revision);
        let found = before.as_ref().map(|(value, revision)| (value.as_str(), *revision));
        let audit = at(get(5_000, 5_001, key, 1_000, found), "auditor", 0);
        history.push(audit);
        prop_assert!(check(&history).lost() >= 1);
    }
}
