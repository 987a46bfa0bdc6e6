use super::*;
use proto::link::{Inventory as Message, ProxyEntry, ProxyName};
use serde_json::json;
use shared_api::listing;

const MESHES: [&str; 2] = ["default", "payments"];

fn now() -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000, 0).expect("a time")
}

fn entry(mesh: &str, name: &str, service: &str, connected: bool) -> ProxyEntry {
    let dataplane = json!({"type": "Dataplane", "mesh": mesh, "name": name,
        "labels": {"team": service.chars().rev().collect::<String>()},
        "networking": {"address": "10.0.0.1", "inbound": [{"port": 80, "tags": {"kuma.io/service": service}}]}});
    let mut link = json!({"connectTime": "2026-01-01T00:00:00Z", "version": {"envoy": {"version": "1.30"}}});
    if !connected {
        link["disconnectTime"] = "2026-01-01T00:01:00Z".into();
    }
    let bytes = |value: serde_json::Value| value.to_string().into_bytes().into();
    ProxyEntry {
        mesh: mesh.into(),
        name: name.into(),
        dataplane: bytes(dataplane),
        insight: bytes(json!({"subscriptions": [link]})),
    }
}

fn plain(name: &str) -> ProxyEntry {
    entry("default", name, "web", true)
}

fn whole(sequence: u64, upserts: Vec<ProxyEntry>) -> Message {
    Message { sequence, complete: true, upserts, ..Message::default() }
}

fn delta(sequence: u64, upserts: Vec<ProxyEntry>, removed: &[&str]) -> Message {
    let removed = removed.iter().map(|name| ProxyName { mesh: "default".into(), name: (*name).into() });
    Message { sequence, upserts, removed: removed.collect(), ..Message::default() }
}

/// One replica's link, which has the number of the replica.
struct Link(&'static str, ReplicaId);

impl Link {
    fn open(stock: &mut Stock, zone: &'static str, replica: ReplicaId) -> Link {
        stock.linked(zone, replica, replica, &format!("{zone}-{replica}"), now());
        Link(zone, replica)
    }

    fn say(&self, stock: &mut Stock, message: Message) -> Result<Vec<String>, String> {
        stock.take(self.0, self.1, self.1, Update::read(self.0, message))
    }

    fn end(self, stock: &mut Stock) {
        stock.ended(self.0, self.1, self.1, now());
        stock.choose_again(self.0);
    }
}

fn names(stock: &Stock) -> Vec<String> {
    let (total, page) = stock.page(&Selection::default(), 0, usize::MAX);
    assert_eq!((total, stock.len(None)), (page.len(), page.len()));
    page.into_iter().map(|found| found.name).collect()
}

/// Nothing is left of those who have gone.
fn assert_empty(stock: &Stock) {
    assert_eq!(stock.slots.len(), stock.free.len());
    assert_eq!((stock.order.len(), stock.tallies().len()), (0, 0));
    assert!(
        stock.zones.values().all(|zone| zone.meshes.is_empty() && zone.sources.values().all(|s| s.size == 0))
    );
    assert!(stock.terms.containing(About::Label, labels::ZONE, "").is_empty());
}

#[test]
fn deltas_follow_the_whole_in_order() {
    let mut stock = Stock::default();
    let east = Link::open(&mut stock, "east", 1);
    assert_eq!(east.say(&mut stock, whole(1, vec![plain("b"), plain("a")])), Ok(vec![]));
    assert_eq!(names(&stock), ["a", "b"]);
    assert_eq!(east.say(&mut stock, delta(2, vec![plain("c")], &["a"])), Ok(vec![]));
    assert_eq!(names(&stock), ["b", "c"]);
    assert_eq!(east.say(&mut stock, delta(4, vec![], &["b"])), Err("inventory 4 came after 2".into()));
    assert_eq!(names(&stock), ["b", "c"]);
    let found = stock.get("default", "c").expect("there");
    assert_eq!((found.zone.as_str(), found.age.stale_since), ("east", None));
    assert_eq!(stock.keeper("east", "default", "c"), Some(1));
    assert_eq!(east.say(&mut stock, delta(3, vec![], &["b", "c"])), Ok(vec![]));
    assert_empty(&stock);
}

#[test]
fn a_whole_in_several_messages_hides_nothing_until_its_end() {
    let mut stock = Stock::default();
    let east = Link::open(&mut stock, "east", 1);
    east.say(&mut stock, whole(1, vec![plain("a"), plain("b")])).expect("taken");
    let east = Link::open(&mut stock, "east", 1);
    assert!(stock.get("default", "a").expect("there").age.stale_since.is_some());
    assert!(east.say(&mut stock, delta(7, vec![plain("c")], &[])).is_err(), "it began with a later message");
    let east = Link::open(&mut stock, "east", 1);
    east.say(&mut stock, Message { more: true, ..whole(9, vec![plain("b")]) }).expect("taken");
    assert_eq!(names(&stock), ["a", "b"]);
    assert_eq!(stock.source("east", 1).expect("known").resumes(), None);
    east.say(&mut stock, delta(10, vec![plain("c")], &[])).expect("taken");
    assert_eq!(names(&stock), ["b", "c"]);
    assert_eq!(stock.source("east", 1).expect("known").resumes(), Some(("east-1".into(), 10)));
    let size = |names: &[&str]| {
        names.iter().map(|n| plain(n).dataplane.len() + plain(n).insight.len()).sum::<usize>()
    };
    assert_eq!(stock.source("east", 1).expect("known").size, size(&["b", "c"]));
}

#[test]
fn a_process_goes_on_where_it_stopped_and_another_one_does_not() {
    let mut stock = Stock::default();
    let east = Link::open(&mut stock, "east", 1);
    east.say(&mut stock, whole(5, vec![plain("a")])).expect("taken");
    east.end(&mut stock);
    assert!(stock.get("default", "a").expect("there").age.stale_since.is_some());
    let east = Link::open(&mut stock, "east", 1);
    east.say(&mut stock, delta(6, vec![plain("b")], &[])).expect("taken");
    assert_eq!(names(&stock), ["a", "b"]);
    assert_eq!(stock.get("default", "a").expect("there").age.stale_since, None);
    stock.linked("east", 1, 1, "restarted", now());
    assert!(east.say(&mut stock, delta(7, vec![], &["b"])).is_err());
}

#[test]
fn a_proxy_that_cannot_be_read_does_not_hide_the_others() {
    let mut stock = Stock::default();
    let east = Link::open(&mut stock, "east", 1);
    let mut message = whole(1, vec![plain("a"), plain("b")]);
    message.upserts[0].dataplane = b"{}".as_slice().into();
    assert_eq!(east.say(&mut stock, message).expect("taken").len(), 1);
    assert_eq!(names(&stock), ["b"]);
}

#[test]
fn what_a_zone_may_tell_is_bounded_and_what_is_known_may_change() {
    let mut stock = Stock::default();
    let east = Link::open(&mut stock, "east", 1);
    east.say(&mut stock, whole(1, vec![plain("b")])).expect("taken");
    stock.source_mut("east", 1).expect("known").size = WHOLE_MAX;
    let problems = east.say(&mut stock, delta(2, vec![plain("b"), plain("c")], &[])).expect("taken");
    assert_eq!(problems, ["default/c: the zone has told too much already"]);
    assert_eq!(names(&stock), ["b"]);
    assert_eq!(east.say(&mut stock, whole(3, vec![plain("c")])), Ok(vec![]));
    assert_eq!(names(&stock), ["c"]);
}

#[test]
fn proxies_of_one_name_in_two_zones_have_names_that_tell_them_apart() {
    let mut stock = Stock::default();
    for (replica, zone) in [(1, "east"), (2, "west")] {
        let link = Link::open(&mut stock, zone, replica);
        link.say(&mut stock, whole(1, vec![plain("a"), plain(&format!("of-{zone}"))])).expect("taken");
    }
    let (total, page) = stock.page(&Selection::default(), 0, 10);
    let shown: Vec<String> = page.iter().map(|found| found.dataplane().name).collect();
    assert!(total == 4 && shown[0].starts_with("a-") && shown[0] != shown[1], "{shown:?}");
    assert_eq!(shown[2..], ["of-east", "of-west"]);
    assert!(stock.get("default", "a").is_none());
    assert_eq!(stock.get("default", &shown[0]).expect("there").zone, "east");
    assert_eq!(stock.get("default", &shown[1]).expect("there").zone, "west");
    assert!(stock.get("payments", &shown[1]).is_none() && stock.get("default", "ö").is_none());
    // Whoever is alone again has its own name, and answers to both.
    stock.source_mut("west", 2).expect("known").ended(2, now());
    assert!(!stock.forget("east") && stock.forget("west") && !stock.forget("west"));
    assert_eq!(names(&stock), ["a", "of-east"]);
    assert_eq!(stock.get("default", "a").expect("there").zone, "east");
    assert!(stock.get("default", &shown[0]).is_some() && stock.get("default", &shown[1]).is_none());
}

#[test]
fn of_several_replicas_the_one_that_has_the_proxy_speaks() {
    let mut stock = Stock::default();
    let first = Link::open(&mut stock, "east", 1);
    let second = Link::open(&mut stock, "east", 2);
    first.say(&mut stock, whole(1, vec![entry("default", "a", "web", false), plain("b")])).expect("taken");
    second.say(&mut stock, whole(1, vec![plain("a")])).expect("taken");
    assert_eq!(names(&stock), ["a", "b"]);
    assert_eq!(
        (stock.keeper("east", "default", "a"), stock.keeper("east", "default", "b")),
        (Some(2), Some(1))
    );
    assert_eq!(stock.tallies()["default"].online, 2);
    // What a replica left behind yields to what one that is there says.
    second.end(&mut stock);
    assert_eq!(stock.keeper("east", "default", "a"), Some(1));
    assert_eq!(stock.tallies()["default"].online, 1);
    // A disk that was wiped comes back as another one, and says what is there.
    first.end(&mut stock);
    let third = Link::open(&mut stock, "east", 3);
    third.say(&mut stock, whole(1, vec![plain("c")])).expect("taken");
    assert_eq!(names(&stock), ["c"]);
    assert_eq!(stock.sources().map(|(_, id, _)| id).collect::<Vec<_>>(), [3]);
    third.say(&mut stock, delta(2, vec![], &["c"])).expect("taken");
    assert_empty(&stock);
    // And disks that come and go without a word are forgotten.
    for replica in 4..100 {
        Link::open(&mut stock, "east", replica).end(&mut stock);
        stock.forget_some("east");
    }
    assert_eq!(stock.sources().count(), REPLICAS_KEPT);
}

#[test]
fn the_disk_lacks_what_has_changed_and_nothing_else() {
    let mut stock = Stock::default();
    let east = Link::open(&mut stock, "east", 1);
    east.say(&mut stock, whole(1, vec![plain("a"), plain("b")])).expect("taken");
    let taken =
        |stock: &mut Stock| std::mem::take(&mut stock.source_mut("east", 1).expect("known").unwritten);
    assert_eq!(taken(&mut stock).changed.len(), 2);
    // The whole once more: only what differs is news.
    let east = Link::open(&mut stock, east.0, east.1);
    east.say(&mut stock, whole(1, vec![plain("a"), entry("default", "b", "web", false)])).expect("taken");
    let lacks = taken(&mut stock);
    let changed: Vec<String> =
        lacks.changed.iter().filter_map(|slot| Some(stock.telling(*slot, 1)?.0.1)).collect();
    assert_eq!((changed, lacks.gone.len(), lacks.head), (vec!["b".to_owned()], 0, true));
    east.say(&mut stock, delta(2, vec![plain("c")], &["a"])).expect("taken");
    east.say(&mut stock, delta(3, vec![plain("a")], &["b"])).expect("taken");
    let lacks = taken(&mut stock);
    let gone: Vec<&str> = lacks.gone.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!((lacks.changed.len(), gone), (2, vec!["b"]));
    assert!(taken(&mut stock).is_empty());
}

/// Whatever is asked, the indexes answer what a walk through all documents would.
#[test]
fn a_page_is_what_a_walk_through_all_documents_gives() {
    let mut stock = Stock::default();
    for (replica, zone) in [(1, "east"), (2, "west"), (3, "north")] {
        let link = Link::open(&mut stock, zone, replica);
        let upserts = (0..400_usize).map(|i| {
            let service = if i % 40 == 7 { "rare".to_owned() } else { format!("web-{}", i % 3) };
            entry(MESHES[i % 5 / 4], &format!("{zone}-{i:03}"), &service, i % 7 != 0)
        });
        link.say(&mut stock, whole(1, upserts.collect())).expect("taken");
        // Some go, some change.
        let gone: Vec<String> = (0..400).step_by(11).map(|i| format!("{zone}-{i:03}")).collect();
        let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
        let changed = (0..400_usize).step_by(13).map(|i| plain(&format!("{zone}-{i:03}")));
        link.say(&mut stock, delta(2, changed.collect(), &gone)).expect("taken");
        if zone == "north" {
            link.end(&mut stock);
        }
    }
    let (total, all) = stock.page(&Selection::default(), 0, usize::MAX);
    let all: Vec<_> = all.iter().map(|found| (found.dataplane(), found.insight())).collect();
    assert!(total == all.len() && total > 1_000);
    assert!(all.is_sorted_by_key(|(dataplane, _)| (dataplane.mesh.clone(), dataplane.name.clone())));
    let status = |status| Selection { status: Some(status), ..Selection::default() };
    let mut selections = vec![
        Selection { mesh: Some("payments".into()), ..Selection::default() },
        Selection { mesh: Some("none".into()), ..Selection::default() },
        Selection { name: "t-11".into(), ..Selection::default() },
        Selection { zone: "west".into(), ..Selection::default() },
        Selection { zone: "nowhere".into(), ..Selection::default() },
        Selection { gateways: Some(true), ..Selection::default() },
        Selection { gateways: Some(false), ..Selection::default() },
    ];
    selections.extend(Wanted::ALL.map(|(_, wanted)| status(wanted)));
    for (tag, team) in [("web", "0-bew"), ("rare", "erar"), ("eb-1", "erar"), ("none", "1-bew")] {
        let tags = vec![("kuma.io/service".to_owned(), tag.to_owned())];
        let labels: BTreeMap<String, String> = [("team".to_owned(), team.to_owned())].into();
        selections.push(Selection { tags: tags.clone(), ..Selection::default() });
        selections.push(Selection { tags: tags.clone(), labels: labels.clone(), ..Selection::default() });
        selections.push(Selection {
            labels,
            mesh: Some("default".into()),
            zone: "east".into(),
            ..Selection::default()
        });
        let online = Some(Wanted::Is(Status::Online));
        selections.push(Selection { tags, status: online, name: "3".into(), ..Selection::default() });
    }
    for selection in selections {
        let selects = |(dataplane, insight): &&(_, _)| listing::selects(&selection, dataplane, Some(insight));
        let walked: Vec<&str> =
            all.iter().filter(selects).map(|(dataplane, _)| dataplane.name.as_str()).collect();
        for (offset, size) in [(0, 10), (5, 50), (0, usize::MAX), (2_000, 10)] {
            let (total, page) = stock.page(&selection, offset, size);
            let page: Vec<&str> = page.iter().map(|found| found.name.as_str()).collect();
            let wanted: Vec<&str> = walked.iter().skip(offset).take(size).copied().collect();
            assert_eq!((total, page), (walked.len(), wanted), "{selection:?} {offset} {size}");
        }
    }
    let tallies = stock.tallies();
    for mesh in MESHES {
        let of_mesh = all.iter().filter(|(dataplane, _)| dataplane.mesh == mesh);
        let counted = of_mesh.fold(Tally::default(), |mut tally, (dataplane, insight)| {
            tally.add(&shared_api::proxies::tally_of(dataplane, Some(insight)));
            tally
        });
        assert_eq!(tallies[mesh], counted, "{mesh}");
    }
}
