use super::*;
use crate::floor::build;
use prost::Message as _;

fn response(kind: Kind, resources: &[(&str, Vec<u8>)], removed: &[&str], take: impl FnOnce(&Response<'_>)) {
    let resources = resources.iter().map(|(name, body)| Item { name, version: "1", body }).collect();
    take(&Response {
        type_url: kind.type_url(),
        nonce: "n",
        version: "v",
        resources,
        removed: removed.to_vec(),
    });
}

fn envoy() -> Envoy {
    Envoy::new(Protocol::Delta, Arc::default(), false)
}

fn clusters(names: &[&'static str], stat: usize) -> Vec<(&'static str, Vec<u8>)> {
    names.iter().map(|name| (*name, build::cluster(name, 600 + stat).encode_to_vec())).collect()
}

fn endpoints(name: &'static str) -> (&'static str, Vec<u8>) {
    (name, build::assignment(name, &["10.0.0.1".to_owned()], 0).encode_to_vec())
}

/// The requests as a reader tells them: `cds ack`, `eds +a +b`, `sds -x`, `lds`.
fn told(requests: &[Request]) -> Vec<String> {
    let tell = |request: &Request| {
        let mut text = request.kind.unwrap().name().to_owned();
        request.subscribe.iter().for_each(|name| text += &format!(" +{name}"));
        request.unsubscribe.iter().for_each(|name| text += &format!(" -{name}"));
        request.have.iter().for_each(|(name, version)| text += &format!(" {name}={version}"));
        if request.error.is_some() {
            text += " nack";
        } else if !request.nonce.is_empty() {
            text += " ack";
        }
        text
    };
    requests.iter().map(tell).collect()
}

fn take(envoy: &mut Envoy, kind: Kind, resources: &[(&str, Vec<u8>)], removed: &[&str]) -> Vec<String> {
    let mut requests = Vec::new();
    response(kind, resources, removed, |response| {
        requests = told(&envoy.take(response, Instant::now(), false).unwrap().requests);
    });
    requests
}

fn secrets() -> Vec<(&'static str, Vec<u8>)> {
    [build::IDENTITY, build::TRUST].map(|name| (name, build::secret(name, 100).encode_to_vec())).to_vec()
}

/// Brings an Envoy up with clusters `a` and `b` and one listener.
fn started() -> Envoy {
    let mut envoy = envoy();
    assert_eq!(told(&envoy.open()), ["cds"]);
    let asked = take(&mut envoy, Kind::Cluster, &clusters(&["a", "b"], 0), &[]);
    let sds = format!("sds +{} +{}", build::TRUST, build::IDENTITY);
    assert_eq!(asked, [sds.as_str(), "eds +a +b", "cds ack"]);
    assert_eq!(take(&mut envoy, Kind::Endpoint, &[endpoints("a")], &[]), ["eds ack"]);
    assert_eq!(take(&mut envoy, Kind::Secret, &secrets(), &[]), ["sds ack"]);
    // Only now is every cluster warm.
    assert_eq!(take(&mut envoy, Kind::Endpoint, &[endpoints("b")], &[]), ["lds", "eds ack"]);
    let listener = build::outbound_listener("l", "r", 0).encode_to_vec();
    assert_eq!(take(&mut envoy, Kind::Listener, &[("l", listener)], &[]), ["rds +r", "lds ack"]);
    assert!(!envoy.is_live());
    let route = build::routes("r", "a", 1, 100).encode_to_vec();
    assert_eq!(take(&mut envoy, Kind::Route, &[("r", route)], &[]), ["rds ack"]);
    assert!(envoy.is_live());
    assert_eq!(envoy.endpoints(), 2);
    envoy
}

#[test]
fn a_cold_start_asks_in_envoys_order() {
    started();
}

#[test]
fn a_mesh_without_clusters_still_gets_its_listeners() {
    let mut envoy = envoy();
    envoy.open();
    assert_eq!(take(&mut envoy, Kind::Cluster, &[], &[]), ["cds ack", "lds"]);
    assert_eq!(take(&mut envoy, Kind::Listener, &[], &[]), ["lds ack"]);
    assert!(envoy.is_live());
}

#[test]
fn a_cluster_that_changes_withholds_the_answer_until_its_assignment_comes() {
    let mut envoy = started();
    assert!(take(&mut envoy, Kind::Cluster, &clusters(&["a"], 0), &[]) == ["cds ack"], "the same again");
    assert!(
        take(&mut envoy, Kind::Cluster, &clusters(&["a"], 9), &[]).is_empty(),
        "withheld, and no new question"
    );
    assert_eq!(take(&mut envoy, Kind::Endpoint, &[endpoints("a")], &[]), ["cds ack", "eds ack"]);
    assert!(take(&mut envoy, Kind::Cluster, &clusters(&["b"], 9), &[]).is_empty());
    let due = envoy.due().unwrap();
    assert!(envoy.tick(due - Duration::from_millis(1)).is_empty());
    assert_eq!(told(&envoy.tick(due)), ["cds ack"]);
    assert_eq!(envoy.stalls, 1);
}

#[test]
fn what_is_removed_is_asked_for_no_more() {
    let mut envoy = started();
    assert_eq!(take(&mut envoy, Kind::Cluster, &[], &["b"]), ["eds -b", "cds ack"]);
    assert_eq!(take(&mut envoy, Kind::Endpoint, &[], &["a"]), ["eds ack"]);
    assert!(envoy.held(Kind::Endpoint).contains_key("a"), "in use, so it is kept");
    assert_eq!(take(&mut envoy, Kind::Listener, &[], &["l"]), ["lds ack"]);
    let end = envoy.due().unwrap();
    assert_eq!(told(&envoy.tick(end)), ["rds -r"]);
    assert_eq!(
        take(&mut envoy, Kind::Cluster, &[], &["a"]),
        [
            "eds -a".to_owned(),
            "cds ack".to_owned(),
            format!("sds -{}", build::IDENTITY),
            format!("sds -{}", build::TRUST)
        ]
    );
}

#[test]
fn a_refusal_keeps_what_was_there() {
    let mut envoy = started();
    envoy.refusing = true;
    let before = envoy.held(Kind::Cluster)["a"].hash;
    assert_eq!(take(&mut envoy, Kind::Cluster, &clusters(&["a"], 9), &[]), ["cds nack"]);
    assert_eq!(envoy.held(Kind::Cluster)["a"].hash, before);
    assert_eq!(take(&mut envoy, Kind::Cluster, &[], &[]), ["cds ack"], "nothing to refuse");
}

#[test]
fn a_reconnection_asks_for_everything_at_once_with_versions() {
    let mut envoy = started();
    let sds = format!("sds +{i} +{t} {i}=1 {t}=1", i = build::IDENTITY, t = build::TRUST);
    assert_eq!(
        told(&envoy.open()),
        ["cds a=1 b=1", "lds l=1", "eds +a +b a=1 b=1", "rds +r r=1", sds.as_str()]
    );
    assert_eq!(take(&mut envoy, Kind::Cluster, &[], &[]), ["cds ack"]);
    assert_eq!(take(&mut envoy, Kind::Listener, &[], &[]), ["lds ack"]);
}

#[test]
fn state_of_the_world_repeats_all_names_and_removes_by_absence() {
    let mut envoy = Envoy::new(Protocol::Sotw, Arc::default(), false);
    envoy.open();
    take(&mut envoy, Kind::Cluster, &clusters(&["a"], 0), &[]);
    take(&mut envoy, Kind::Secret, &secrets(), &[]);
    take(&mut envoy, Kind::Endpoint, &[endpoints("a")], &[]);
    response(Kind::Cluster, &clusters(&["a", "b"], 0), &[], |response| {
        let requests = envoy.take(response, Instant::now(), false).unwrap().requests;
        let eds: Vec<&str> = requests[0].names.iter().map(|name| &**name).collect();
        assert_eq!((requests.len(), eds, requests[0].version.as_str()), (1, vec!["a", "b"], "v"));
    });
    assert_eq!(take(&mut envoy, Kind::Endpoint, &[endpoints("b")], &[]), ["cds ack", "eds ack"]);
    take(&mut envoy, Kind::Cluster, &clusters(&["b"], 0), &[]);
    assert_eq!(envoy.held(Kind::Cluster).len(), 1);
}

#[test]
fn a_refusal_of_the_state_of_the_world_keeps_the_version_and_answers_the_newest_nonce() {
    let mut envoy = Envoy::new(Protocol::Sotw, Arc::default(), false);
    envoy.open();
    take(&mut envoy, Kind::Cluster, &clusters(&["a"], 0), &[]);
    let assignment = endpoints("a");
    let resources = vec![Item { name: assignment.0, version: "2", body: &assignment.1 }];
    let newer = Response {
        type_url: Kind::Endpoint.type_url(),
        nonce: "n2",
        version: "v2",
        resources,
        removed: vec![],
    };
    envoy.refusing = true;
    let refusal = envoy.take(&newer, Instant::now(), false).unwrap().requests;
    assert_eq!((refusal.len(), refusal[0].nonce.as_str(), refusal[0].version.as_str()), (1, "n2", ""));
    envoy.refusing = false;
    response(Kind::Cluster, &clusters(&["a", "b"], 0), &[], |response| {
        let asked = envoy.take(response, Instant::now(), false).unwrap().requests;
        let asked = asked.iter().find(|request| request.kind == Some(Kind::Endpoint)).unwrap();
        let names: Vec<&str> = asked.names.iter().map(|name| &**name).collect();
        assert_eq!((asked.nonce.as_str(), asked.version.as_str(), names), ("n2", "", vec!["a", "b"]));
    });
}

#[test]
fn what_is_waited_for_is_told_until_all_is_there() {
    let mut starting = envoy();
    starting.open();
    take(&mut starting, Kind::Cluster, &clusters(&["a"], 0), &[]);
    let awaits = starting.awaits();
    for what in ["eds a", "a to warm its cluster", "listeners"] {
        assert!(awaits.iter().any(|said| said == what), "{awaits:?}");
    }
    assert!(started().awaits().is_empty());
}
