use super::*;
use proptest::prelude::*;
use serde_json::json;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_timestamp_millis(ms).expect("a time")
}

fn mesh(name: &str) -> Resource {
    Resource::new(kind::MESH, "", name, json!({}))
}

fn timeout(mesh: &str, name: &str, value: u64) -> Resource {
    Resource::new("MeshTimeout", mesh, name, json!({ "to": [{ "value": value }] }))
}

fn put(resource: &Resource) -> Command {
    Command::put(resource, Expected::Any, at(1_000))
}

fn delete(resource: &Resource) -> Command {
    Command::delete(resource.key(), Expected::Any, at(2_000))
}

fn with_mesh() -> Catalog {
    let mut catalog = Catalog::new();
    assert_eq!(
        catalog.apply(&put(&mesh("default"))),
        Outcome::Stored { revision: Revision(1), created: true }
    );
    catalog
}

#[test]
fn a_put_sets_times_and_the_revision_and_keeps_the_time_of_creation() {
    let mut catalog = with_mesh();
    let first = timeout("default", "t", 1);
    catalog.apply(&Command::put(&first, Expected::Absent, at(5_000)));
    let outcome = catalog.apply(&Command::put(&timeout("default", "t", 2), Expected::At(2), at(6_000)));
    assert_eq!(outcome, Outcome::Stored { revision: Revision(3), created: false });
    let stored = catalog.get(&first.key()).expect("it was put");
    assert_eq!(
        (stored.creation_time, stored.modification_time, stored.revision),
        (at(5_000), at(6_000), Revision(3))
    );
    assert_eq!(catalog.applied_at(Revision(2)), Some(at(5_000)));
    assert_eq!(catalog.applied_at(Revision(4)), None);
}

#[test]
fn the_same_content_again_makes_no_revision() {
    let mut catalog = with_mesh();
    catalog.apply(&put(&timeout("default", "t", 1)));
    let again = Command::put(&timeout("default", "t", 1), Expected::Any, at(9_000));
    assert_eq!(catalog.apply(&again), Outcome::Unchanged { revision: Revision(2) });
    assert_eq!(catalog.revision(), Revision(2));
}

#[test]
fn what_is_not_as_expected_is_refused_and_changes_nothing() {
    let mut catalog = with_mesh();
    let resource = timeout("default", "t", 1);
    let refused = |catalog: &mut Catalog, command: Command| match catalog.apply(&command) {
        Outcome::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    let expecting = |expected| Command::put(&resource, expected, at(1));
    assert_eq!(refused(&mut catalog, expecting(Expected::At(7))), Refusal::Conflict { actual: Revision(0) });
    assert_eq!(refused(&mut catalog, delete(&resource)), Refusal::NotFound);
    catalog.apply(&expecting(Expected::At(0)));
    assert_eq!(refused(&mut catalog, expecting(Expected::Absent)), Refusal::Exists { revision: Revision(2) });
    let other = Command::delete(resource.key(), Expected::At(1), at(1));
    assert_eq!(refused(&mut catalog, other), Refusal::Conflict { actual: Revision(2) });
    let lost = put(&timeout("nowhere", "t", 1));
    assert_eq!(refused(&mut catalog, lost), Refusal::UnknownMesh("nowhere".to_owned()));
    let garbage = Command::Put { resource: b"{".to_vec(), expected: Expected::Any, at_ms: 0 };
    assert!(matches!(refused(&mut catalog, garbage), Refusal::Malformed(_)));
    assert_eq!(catalog.revision(), Revision(2));
}

#[test]
fn a_mesh_goes_with_all_that_is_in_it_at_one_revision_but_not_while_it_has_dataplanes() {
    let mut catalog = with_mesh();
    let dataplane = Resource::new(kind::DATAPLANE, "default", "web-1", json!({}));
    catalog.apply(&put(&mesh("other")));
    catalog.apply(&put(&timeout("other", "kept", 1)));
    catalog.apply(&put(&timeout("default", "a", 1)));
    catalog.apply(&put(&dataplane));
    let refusal = Refusal::MeshInUse { dataplanes: 1 };
    assert_eq!(catalog.apply(&delete(&mesh("default"))), Outcome::Refused(refusal));
    catalog.apply(&delete(&dataplane));
    let before = catalog.revision();
    assert_eq!(catalog.apply(&delete(&mesh("default"))), Outcome::Deleted { revision: before.next() });
    let changes = catalog.changes_since(before).expect("nothing is forgotten");
    let gone: Vec<String> = changes.iter().map(|change| change.key().to_string()).collect();
    assert_eq!(gone, ["Mesh default", "MeshTimeout default/a"]);
    assert!(changes.iter().all(|change| change.revision() == before.next()));
    assert_eq!(catalog.len(), 2);
}

#[test]
fn a_catalog_whose_meshes_are_elsewhere_takes_resources_of_any_mesh() {
    let mut catalog = Catalog::with_meshes(Meshes::Elsewhere);
    assert!(matches!(catalog.apply(&put(&timeout("far", "t", 1))), Outcome::Stored { .. }));
    let read = Catalog::decode(&catalog.encode()).expect("it was just written");
    assert_eq!(read.meshes(), Meshes::Elsewhere);
}

#[test]
fn a_list_is_of_one_kind_and_ordered() {
    let mut catalog = with_mesh();
    catalog.apply(&put(&mesh("m2")));
    for (mesh, name) in [("m2", "a"), ("default", "b"), ("default", "a")] {
        catalog.apply(&put(&timeout(mesh, name, 1)));
    }
    catalog.apply(&put(&Resource::new("MeshTLS", "default", "x", json!({}))));
    let names =
        |mesh| -> Vec<String> { catalog.list("MeshTimeout", mesh).map(|r| r.key().to_string()).collect() };
    assert_eq!(names(None), ["MeshTimeout default/a", "MeshTimeout default/b", "MeshTimeout m2/a"]);
    assert_eq!(names(Some("default")), ["MeshTimeout default/a", "MeshTimeout default/b"]);
    assert_eq!(catalog.list(kind::MESH, None).count(), 2);
}

#[test]
fn a_follower_that_is_too_far_behind_or_ahead_compares_with_the_whole() {
    let mut catalog = with_mesh();
    assert_eq!(catalog.changes_since(Revision(2)), None);
    let resource = timeout("default", "t", 1);
    for _ in 0..=TOMBSTONES_KEPT {
        catalog.apply(&put(&resource));
        catalog.apply(&delete(&resource));
    }
    assert_eq!(catalog.tombstones.len(), TOMBSTONES_KEPT);
    assert_eq!(catalog.applied.len(), APPLIED_KEPT);
    assert_eq!(catalog.changes_since(Revision(2)), None);
    assert!(catalog.changes_since(Revision(3)).is_some());
}

#[test]
fn damaged_bytes_are_refused() {
    let bytes = with_mesh().encode();
    assert!(matches!(Catalog::decode(&[]), Err(crate::Error::Damaged(_))));
    assert!(matches!(Catalog::decode(&[9, 0]), Err(crate::Error::Newer(9))));
    for length in 1..bytes.len() {
        assert!(Catalog::decode(&bytes[..length]).is_err(), "{length}");
    }
    let long = [bytes.as_slice(), &[0]].concat();
    assert!(Catalog::decode(&long).is_err());
}

/// Commands that meet often: few meshes, few names, all expectations, numbers of every shape.
fn commands() -> impl Strategy<Value = Vec<Command>> {
    let key = (
        prop_oneof![Just(kind::MESH), Just(kind::DATAPLANE), Just("MeshTimeout"), Just("MeshNew")],
        0..2,
        0..4,
    );
    let expected = prop_oneof![
        5 => Just(Expected::Any),
        1 => Just(Expected::Absent),
        1 => (0..40u64).prop_map(Expected::At)
    ];
    let number = prop_oneof![
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        Just(json!("5s"))
    ];
    let command = (key, expected, number, 0..3, any::<i64>()).prop_map(
        |((kind, mesh, name), expected, number, verb, at_ms)| {
            let (mesh, name) = match kind {
                kind::MESH => (String::new(), format!("m{mesh}")),
                _ => (format!("m{mesh}"), format!("n{name}")),
            };
            let resource =
                Resource::new(kind, &mesh, &name, json!({ "value": number })).with_label("l", name.as_str());
            match verb {
                0 => Command::Delete { key: resource.key(), expected, at_ms },
                _ => Command::Put { resource: serde_json::to_vec(&resource).expect("JSON"), expected, at_ms },
            }
        },
    );
    prop::collection::vec(command, 0..80)
}

/// Some of the commands with keys, which meet.
fn some_once(commands: Vec<Command>) -> Vec<Command> {
    let keyed = |(place, command): (usize, Command)| match place % 3 {
        0 => command.once([place as u8 % 7; 16]),
        _ => command,
    };
    commands.into_iter().enumerate().map(keyed).collect()
}

#[test]
fn a_command_that_is_sent_again_counts_once() {
    let mut catalog = with_mesh();
    let first = put(&timeout("default", "t", 1)).once([1; 16]);
    let stored = catalog.apply(&first);
    assert_eq!(stored, Outcome::Stored { revision: Revision(2), created: true });
    catalog.apply(&put(&timeout("default", "t", 2)));
    let mut again = Catalog::decode(&catalog.encode()).expect("it was just written");
    assert_eq!((catalog.apply(&first), again.apply(&first)), (stored.clone(), stored));
    assert_eq!((catalog.revision(), again.revision()), (Revision(3), Revision(3)));
    for n in 0..ANSWERS_KEPT as u64 {
        let key = u128::from(n + 1_000).to_le_bytes();
        catalog.apply(&delete(&mesh("none")).once(key));
    }
    assert_eq!((catalog.answers.len(), catalog.answered.len()), (ANSWERS_KEPT, ANSWERS_KEPT));
    assert_eq!(catalog.apply(&first), Outcome::Stored { revision: Revision(4), created: false });
}

fn epoch(number: u32, mark: u32) -> Epoch {
    Epoch { number, mark }
}

#[test]
fn the_history_of_a_resource_tells_who_did_what_and_when() {
    let mut catalog = with_mesh();
    let key = timeout("default", "t", 1).key();
    catalog.apply(&Command::put(&timeout("default", "t", 1), Expected::Any, at(10)).by("jane"));
    catalog.apply(&Command::put(&timeout("default", "t", 2), Expected::Any, at(20)).by("joe").once([1; 16]));
    catalog.apply(&Command::delete(key.clone(), Expected::Any, at(30)).once([2; 16]).by("jane"));
    catalog.apply(&Command::put(&timeout("default", "t", 3), Expected::Any, at(30)));
    let told = |catalog: &Catalog| -> Vec<(u64, i64, String, Operation)> {
        let versions = catalog.history(&key).expect("told");
        versions.into_iter().map(|v| (v.revision.0, v.at.timestamp_millis(), v.by, v.operation)).collect()
    };
    let expected = vec![
        (5, 30, String::new(), Operation::Created),
        (4, 30, "jane".to_owned(), Operation::Deleted),
        (3, 20, "joe".to_owned(), Operation::Updated),
        (2, 10, "jane".to_owned(), Operation::Created),
    ];
    assert_eq!(told(&catalog), expected);
    assert_eq!(told(&Catalog::decode(&catalog.encode()).expect("just written")), expected);
    let values: Vec<Option<u64>> = (1..=5)
        .map(|revision| match catalog.as_of(&key, Revision(revision)).expect("retained") {
            AsOf::Stored(resource) => resource.spec["to"][0]["value"].as_u64(),
            _ => None,
        })
        .collect();
    assert_eq!(values, [None, Some(1), Some(2), None, Some(3)]);
    let newest = Revision(5);
    assert_eq!(catalog.as_of(&key, Revision(6)), Err(Untold::TooNew { asked: Revision(6), newest }));
}

#[test]
fn of_a_secret_only_that_it_was_written_is_kept_and_of_a_dataplane_nothing() {
    let mut catalog = with_mesh();
    let secret = |text: &str| Resource::new(kind::SECRET, "default", "s", json!({ "data": text }));
    catalog.apply(&put(&secret("b25l")).by("jane"));
    catalog.apply(&put(&secret("dHdv")));
    let key = secret("").key();
    assert_eq!(catalog.as_of(&key, Revision(2)), Ok(AsOf::Forgotten));
    assert_eq!(catalog.history(&key).expect("told")[1].by, "jane");
    let bytes = catalog.encode();
    assert!(!bytes.windows(4).any(|part| part == b"b25l") && bytes.windows(4).any(|part| part == b"dHdv"));
    let dataplane = Resource::new(kind::DATAPLANE, "default", "web-1", json!({}));
    catalog.apply(&put(&dataplane));
    catalog.apply(&delete(&dataplane));
    assert_eq!(catalog.history(&dataplane.key()), Err(Untold::NoHistory(kind::DATAPLANE.to_owned())));
    assert_eq!(catalog.history.former.len(), 1);
}

#[test]
fn a_restored_catalog_begins_an_epoch_that_only_those_continue_who_saw_nothing_later() {
    let mut old = with_mesh();
    old.apply(&put(&Resource::new(kind::ZONE, "", "east", json!({}))));
    let mut new = Catalog::decode(&old.encode()).expect("just written");
    old.apply(&put(&mesh("later")));
    new.begin_epoch(0xab, Revision(1_000));
    let second = epoch(2, 0xab);
    assert_eq!(
        (new.epoch(), new.revision(), new.shared_until(Epoch::FIRST)),
        (second, Revision(1_000), Some(Revision(2)))
    );
    assert_eq!(new.changes_since(Revision(2)), None, "who comes from before compares with the whole");
    assert_eq!(new.continues(Epoch::FIRST, Revision(2)), Ok(()));
    let later = Divergence::Later { seen: Revision(3), epoch: Epoch::FIRST, after: Revision(2), now: second };
    assert_eq!(new.continues(Epoch::FIRST, old.revision()), Err(later));
    assert_eq!(new.continues(second, Revision(1_000)), Ok(()));
    let other = epoch(2, 0xcd);
    assert!(matches!(new.continues(other, Revision(1)), Err(Divergence::Elsewhere { .. })));
    assert_eq!(new.continues(other, Revision(0)), Ok(()));

    let accept = |zone: &str, epoch| Command::AcceptEpoch { zone: zone.to_owned(), epoch, at_ms: 1 };
    assert_eq!(new.apply(&accept("west", second)), Outcome::Refused(Refusal::NotFound));
    assert_eq!(new.apply(&accept("east", Epoch::FIRST)), Outcome::Refused(Refusal::OtherEpoch(second)));
    assert!(!new.has_accepted("east"));
    assert_eq!(
        new.apply(&accept("east", second)),
        Outcome::Stored { revision: Revision(1_001), created: true }
    );
    assert_eq!(new.apply(&accept("east", second)), Outcome::Unchanged { revision: Revision(1_001) });
    let mut third = Catalog::decode(&new.encode()).expect("just written");
    assert!(third.has_accepted("east") && third == new);
    third.begin_epoch(0xef, Revision(5));
    assert_eq!((third.revision(), third.has_accepted("east")), (Revision(1_002), false));
    assert_eq!(third.continues(Epoch::FIRST, Revision(2)), Ok(()));
    assert_eq!(third.continues(second, Revision(1_001)), Ok(()));
}

proptest! {
    #[test]
    fn what_is_retained_is_told_as_it_was_and_what_is_not_is_refused(
        commands in commands().prop_map(some_once),
        versions in 0..40u32,
        bytes in 0..9_000u64,
    ) {
        let mut catalog = Catalog::new();
        let limits = Retention { versions, bytes };
        catalog.apply(&Command::Retain(limits));
        let mut states = vec![catalog.clone()];
        for command in &commands {
            catalog.apply(command);
            if catalog.revision() > states.last().expect("the first").revision() {
                states.push(catalog.clone());
            }
            prop_assert!(catalog.history.former.len() <= versions as usize);
        }
        let read = Catalog::decode(&catalog.encode()).expect("just written");
        prop_assert_eq!(&read, &catalog);
        let known = |resource: &&Arc<Resource>| resource.kind != kind::DATAPLANE;
        for state in &states {
            let revision = state.revision();
            let mut keys: std::collections::BTreeSet<_> = catalog.iter().filter(known).map(|r| r.key()).collect();
            keys.extend(state.iter().filter(known).map(|r| r.key()));
            for key in keys {
                let told = read.as_of(&key, revision);
                if revision < catalog.oldest_retained() {
                    let too_old = matches!(told, Err(Untold::TooOld { .. }));
                    prop_assert!(too_old);
                    continue;
                }
                let was = state.get(&key).map_or(AsOf::Absent, |resource| AsOf::Stored(resource.clone()));
                prop_assert_eq!(told, Ok(was));
                let touched = read.touched_between(revision, catalog.revision()).expect("retained");
                prop_assert!(state.get(&key) == catalog.get(&key) || touched.contains(&key));
            }
        }
        if versions == 0 || bytes == 0 {
            prop_assert_eq!(catalog.history.former.len(), 0);
        }
    }
}

proptest! {
    #[test]
    fn the_same_commands_give_the_same_bytes(commands in commands().prop_map(some_once)) {
        let (mut one, mut two) = (Catalog::new(), Catalog::new());
        for command in &commands {
            let wire = bincode::serde::encode_to_vec(command, bincode::config::standard()).expect("encodes");
            let (copy, _) = bincode::serde::decode_from_slice::<Command, _>(&wire, bincode::config::standard()).expect("decodes");
            prop_assert_eq!(one.apply(command), two.apply(&copy));
        }
        prop_assert_eq!(one.encode(), two.encode());
    }

    #[test]
    fn a_snapshot_in_the_middle_makes_no_difference(commands in commands().prop_map(some_once), cut in 0..80usize) {
        let (before, after) = commands.split_at(cut.min(commands.len()));
        let mut whole = Catalog::new();
        before.iter().for_each(|command| { whole.apply(command); });
        let mut read = Catalog::decode(&whole.encode()).expect("it was just written");
        prop_assert_eq!(&read, &whole);
        for command in after {
            prop_assert_eq!(read.apply(command), whole.apply(command));
        }
        prop_assert_eq!(read.encode(), whole.encode());
    }

    #[test]
    fn changes_folded_over_an_old_catalog_give_the_new_one(commands in commands(), cut in 0..80usize) {
        let (before, after) = commands.split_at(cut.min(commands.len()));
        let mut catalog = Catalog::new();
        before.iter().for_each(|command| { catalog.apply(command); });
        let old = catalog.clone();
        after.iter().for_each(|command| { catalog.apply(command); });
        let mut folded: std::collections::BTreeMap<_, _> = old.iter().map(|r| (r.key(), r.clone())).collect();
        let mut last = old.revision();
        for change in catalog.changes_since(old.revision()).expect("nothing is forgotten") {
            prop_assert!(change.revision() >= last && change.revision() <= catalog.revision());
            last = change.revision();
            match change {
                Change::Put(resource) => { folded.insert(resource.key(), resource); }
                Change::Deleted { key, .. } => { folded.remove(&key); }
            }
        }
        prop_assert!(folded.values().eq(catalog.iter()));
    }

    #[test]
    fn a_revision_is_one_step_and_only_for_a_change(commands in commands()) {
        let mut catalog = Catalog::new();
        for command in &commands {
            let before = catalog.clone();
            match catalog.apply(command) {
                Outcome::Stored { revision, .. } | Outcome::Deleted { revision } => {
                    prop_assert_eq!(revision, before.revision().next());
                    prop_assert_eq!(catalog.revision(), revision);
                }
                Outcome::Unchanged { .. } | Outcome::Refused(_) => prop_assert_eq!(&catalog, &before),
            }
            prop_assert_eq!(catalog.written.len(), catalog.resources.len());
        }
    }
}
