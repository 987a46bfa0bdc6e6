use super::*;
use proto::link::{ProxyEntry, ProxyName};
use serde_json::json;

fn entry(name: &str) -> ProxyEntry {
    let dataplane =
        json!({"type": "Dataplane", "mesh": "default", "name": name, "networking": {"address": "10.0.0.1"}});
    ProxyEntry {
        mesh: "default".into(),
        name: name.into(),
        dataplane: dataplane.to_string().into_bytes().into(),
        insight: br#"{"subscriptions":[{"connectTime":"2026-01-01T00:00:00Z"}]}"#.as_slice().into(),
    }
}

fn hello() -> Hello {
    Hello { zone: "east".into(), instance: "east-1".into(), node_id: 7, ..Hello::default() }
}

fn names(inventory: &Inventory) -> Vec<String> {
    inventory.page(&Selection::default(), 0, 10).1.into_iter().map(|found| found.name).collect()
}

#[test]
fn a_restart_shows_what_was_told_with_its_age_and_the_zone_goes_on_behind_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let inventory = Inventory::open(dir.path());
    let feed = inventory.linked(&hello(), 1);
    let upserts = vec![entry("a"), entry("b")];
    feed.take(Message { sequence: 1, complete: true, upserts, ..Message::default() }).expect("taken");
    inventory.flush(false);
    let gone = ProxyName { mesh: "default".into(), name: "a".into() };
    feed.take(Message { sequence: 2, upserts: vec![entry("c")], removed: vec![gone], ..Message::default() })
        .expect("taken");
    inventory.flush(true);
    drop(inventory);

    let inventory = Inventory::open(dir.path());
    assert_eq!(names(&inventory), ["b", "c"]);
    let found = inventory.get("default", "b").expect("there");
    assert!(found.age.stale_since.is_some() && found.age.seen <= shared_node::time::now());
    assert_eq!(inventory.resumes("east", 7), Some(("east-1".to_owned(), 2)));
    let feed = inventory.linked(&hello(), 1);
    feed.take(Message { sequence: 3, ..Message::default() }).expect("taken");
    assert_eq!(inventory.get("default", "b").expect("there").age.stale_since, None);
    feed.ended(shared_node::time::now());
    inventory.forget("east");
    inventory.flush(false);
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
}

#[test]
fn a_whole_that_broke_off_is_asked_for_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let inventory = Inventory::open(dir.path());
    let feed = inventory.linked(&hello(), 1);
    let begin =
        Message { sequence: 1, complete: true, more: true, upserts: vec![entry("a")], ..Message::default() };
    feed.take(begin).expect("taken");
    inventory.flush(false);
    let inventory = Inventory::open(dir.path());
    assert_eq!((names(&inventory), inventory.resumes("east", 7)), (vec!["a".to_owned()], None));
}

#[test]
fn a_file_that_holds_mostly_what_is_past_is_written_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let inventory = Inventory::open(dir.path());
    let feed = inventory.linked(&hello(), 1);
    let mut large = entry("a");
    let mut largest = 0;
    for sequence in 1..=120 {
        large.insight = json!({"n": sequence, "x": "x".repeat(200 << 10)}).to_string().into_bytes().into();
        let upserts = vec![large.clone()];
        feed.take(Message { sequence, complete: sequence == 1, upserts, ..Message::default() })
            .expect("taken");
        inventory.flush(false);
        let file =
            std::fs::read_dir(dir.path()).expect("a directory").next().expect("a file").expect("a file");
        largest = largest.max(file.metadata().expect("a file").len());
    }
    assert!(largest > PAST_MAX && largest < PAST_MAX + (1 << 20), "{largest}");
    assert_eq!(names(&Inventory::open(dir.path())), ["a"]);
}

#[test]
fn a_disk_that_refuses_costs_nothing_but_the_table() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().join("inventory");
    let inventory = Inventory::open(&place);
    let feed = inventory.linked(&hello(), 1);
    feed.take(Message { sequence: 1, complete: true, upserts: vec![entry("a")], ..Message::default() })
        .expect("taken");
    // A file stands where the table was.
    std::fs::remove_dir(&place).expect("removed");
    std::fs::write(&place, "").expect("written");
    inventory.flush(false);
    assert_eq!(names(&inventory), ["a"]);
    std::fs::remove_file(&place).expect("removed");
    std::fs::create_dir(&place).expect("made");
    inventory.flush(false);
    assert_eq!(std::fs::read_dir(&place).expect("a directory").count(), 0, "too early");
    inventory.table.lock().expect("not poisoned").after = None;
    inventory.flush(false);
    assert_eq!(names(&Inventory::open(&place)), ["a"]);
}
