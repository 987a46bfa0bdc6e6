use super::*;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::VecDeque;
use std::sync::Arc;
use zone_xds::{Effect, Session, Snapshot};

type Holding = BTreeMap<String, String>;

/// A session, and a client that applies what is good of a response and takes absence for removal, as Envoy does.
#[derive(Default)]
struct Stream {
    session: Session,
    translation: Translation,
    generation: u64,
    holding: BTreeMap<Type, Holding>,
    /// Everything that absence ever took.
    lost: BTreeSet<String>,
    /// The reason of a refusal does not tell what was bad.
    is_mute: bool,
    /// Reasons tell also what was good.
    blames_all: bool,
    refused: BTreeSet<String>,
}

/// A text of `name=stat`; one with `bad` in it is refused.
fn snapshot(clusters: &str, listeners: &str) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::empty();
    let split = |text: &str| -> Vec<(String, String)> {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        pairs.map(|(name, stat)| (name.to_owned(), stat.to_owned())).collect()
    };
    for (name, stat) in split(clusters) {
        snapshot.insert(&ClusterLoadAssignment { cluster_name: name.clone(), ..Default::default() });
        snapshot.insert(&Cluster { name, alt_stat_name: stat, ..Default::default() });
    }
    for (name, stat) in split(listeners) {
        snapshot.insert(&Listener { name, stat_prefix: stat, ..Default::default() });
    }
    Arc::new(snapshot)
}

/// A resource as the client reads it.
fn read(kind: Type, body: &[u8]) -> (String, String) {
    match kind {
        Type::Cluster => Cluster::decode(body).map(|it| (it.name, it.alt_stat_name)),
        Type::Listener => Listener::decode(body).map(|it| (it.name, it.stat_prefix)),
        _ => ClusterLoadAssignment::decode(body).map(|it| (it.cluster_name, String::new())),
    }
    .unwrap()
}

fn asked(kind: Type, names: &[&str], nonce: &str) -> Asked {
    let told = DiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.into(),
        version_info: "of an earlier stream".into(),
        ..DiscoveryRequest::default()
    };
    Asked::decode(told.encode_to_vec().as_slice()).unwrap()
}

impl Stream {
    /// The same client on a new stream.
    fn reconnected(self) -> Stream {
        let Stream { holding, is_mute, blames_all, .. } = self;
        Stream { holding, is_mute, blames_all, ..Stream::default() }.opened()
    }

    fn opened(mut self) -> Stream {
        for kind in [Type::Cluster, Type::Listener] {
            self.say(asked(kind, &[], ""));
        }
        let held = self.names(Type::Cluster);
        if !held.is_empty() {
            let held: Vec<&str> = held.iter().map(String::as_str).collect();
            self.say(asked(Type::Endpoint, &held, ""));
        }
        self
    }

    fn say(&mut self, asked: Asked) {
        let effects = match self.translation.hear(asked) {
            Heard { request, again: None } => {
                request.map(|request| self.session.answer(&request)).unwrap_or_default()
            }
            heard => panic!("nothing was told yet: {heard:?}"),
        };
        self.perform(effects);
    }

    fn offer(&mut self, snapshot: &Arc<Snapshot>) {
        self.generation += 1;
        let effects = self.session.offer(snapshot.clone(), self.generation);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        let mut steps = 0;
        while let Some(effect) = effects.pop_front() {
            steps += 1;
            assert!(steps < 2_000, "it does not end");
            match effect {
                Effect::Send(response) => {
                    for asked in self.take(response) {
                        let Heard { request, again } = self.translation.hear(asked);
                        let said = request.map(|request| self.session.answer(&request)).unwrap_or_default();
                        effects.extend(again.map(Effect::Send).into_iter().chain(said));
                    }
                }
                Effect::Refused { resource, .. } => self.refused.extend(resource),
                Effect::Acknowledged { .. } => {}
                Effect::Close(reason) => panic!("{reason}"),
            }
        }
    }

    fn take(&mut self, response: Response) -> Vec<Asked> {
        let told = self.translation.tell(response);
        let mut bytes = Vec::new();
        told.encode_into(&mut bytes);
        assert_eq!(bytes.len(), told.encoded_len());
        let response = DiscoveryResponse::decode(bytes.as_slice()).unwrap();
        let kind = Type::of_url(&response.type_url).unwrap();
        let read: Holding = response.resources.iter().map(|any| read(kind, &any.value)).collect();
        assert_eq!(read.len(), response.resources.len(), "nothing comes twice");
        let held = self.holding.entry(kind).or_default();
        if is_told_as_a_whole(kind) {
            let absent: Vec<String> = held.keys().filter(|name| !read.contains_key(*name)).cloned().collect();
            held.retain(|name, _| read.contains_key(name));
            self.lost.extend(absent);
        }
        let (bad, good): (Holding, Holding) = read.into_iter().partition(|(_, stat)| stat.contains("bad"));
        let mut blamed: Vec<&String> = bad.keys().collect();
        if self.blames_all {
            blamed.extend(good.keys());
        }
        let reason = match self.is_mute {
            true => "no".to_owned(),
            false => format!("Error adding/updating {blamed:?}: cannot bind"),
        };
        let before: BTreeSet<String> = held.keys().cloned().collect();
        held.extend(good);
        let is_new = held.keys().any(|name| !before.contains(name));
        let names = self.names(Type::Cluster);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut answer = asked(kind, if kind == Type::Endpoint { &names } else { &[] }, &response.nonce);
        if !bad.is_empty() {
            answer.error_detail = Some(rpc::Status { code: 13, message: reason, ..Default::default() });
        }
        let nonce = |lane: &Lane| lane.nonce.clone();
        let assignments = self.translation.lanes.get(&Type::Endpoint).map(nonce).unwrap_or_default();
        let ask = (kind == Type::Cluster && is_new).then(|| asked(Type::Endpoint, &names, &assignments));
        ask.into_iter().chain([answer]).collect()
    }

    fn names(&self, kind: Type) -> Vec<String> {
        self.holding.get(&kind).into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    fn text(&self, kind: Type) -> String {
        let held = self.holding.get(&kind).into_iter().flatten();
        held.map(|(name, stat)| format!("{name}={stat}")).collect::<Vec<_>>().join(" ")
    }

    fn has(&self, clusters: &str, listeners: &str) {
        assert_eq!((&*self.text(Type::Cluster), &*self.text(Type::Listener)), (clusters, listeners));
    }
}

fn started(clusters: &str, listeners: &str) -> Stream {
    let mut stream = Stream::default().opened();
    stream.offer(&snapshot(clusters, listeners));
    stream
}

fn heard(translation: &mut Translation, asked: Asked) -> (String, Vec<String>, Vec<String>) {
    let request = translation.hear(asked).request.unwrap_or_default();
    (request.response_nonce, request.resource_names_subscribe, request.resource_names_unsubscribe)
}

fn told(kind: Type, nonce: &str) -> Response {
    Response {
        type_url: kind.type_url(),
        nonce: nonce.into(),
        system_version: String::new(),
        resources: Vec::new(),
        removed: Vec::new(),
    }
}

#[test]
fn names_become_what_is_new_and_what_is_gone() {
    let mut translation = Translation::default();
    let mut say = |names: &[&str]| {
        let (_, new, gone) = heard(&mut translation, asked(Type::Endpoint, names, ""));
        (new.join(" "), gone.join(" "))
    };
    assert_eq!(say(&["a", "b"]), ("a b".into(), String::new()));
    assert_eq!(say(&["b", "c"]), ("c".into(), "a".into()));
    assert_eq!(say(&["b", "c"]), (String::new(), String::new()));
    assert_eq!(say(&[]), (String::new(), "b c".into()));
}

#[test]
fn no_names_are_all_clusters_until_one_is_named() {
    let mut translation = Translation::default();
    let mut say = |names: &[&str]| {
        let (_, new, gone) = heard(&mut translation, asked(Type::Cluster, names, ""));
        (new.join(" "), gone.join(" "))
    };
    assert_eq!(say(&[]), ("*".into(), String::new()));
    assert_eq!(say(&["a"]), ("a".into(), "*".into()));
    assert_eq!(say(&[]), (String::new(), "a".into()));
}

#[test]
fn an_answer_counts_once_and_only_to_the_newest_response() {
    let mut translation = Translation::default();
    translation.hear(asked(Type::Endpoint, &["a"], ""));
    translation.tell(told(Type::Endpoint, "1"));
    assert_eq!(heard(&mut translation, asked(Type::Endpoint, &["a"], "1")).0, "1");
    assert_eq!(translation.hear(asked(Type::Endpoint, &["a"], "1")), Heard::default(), "said twice");
    translation.tell(told(Type::Endpoint, "2"));
    assert_eq!(translation.hear(asked(Type::Endpoint, &["a", "b"], "1")), Heard::default(), "too late");
    let (nonce, new, _) = heard(&mut translation, asked(Type::Endpoint, &["a", "b"], "2"));
    assert_eq!((nonce.as_str(), new), ("2", vec!["b".to_owned()]));
}

#[test]
fn a_client_gets_all_and_absence_removes() {
    let mut stream = started("a=1 b=1", "l=1 m=1");
    stream.has("a=1 b=1", "l=1 m=1");
    assert_eq!(stream.text(Type::Endpoint), "a= b=");
    stream.offer(&snapshot("a=2 b=1 c=1", "m=1"));
    stream.has("a=2 b=1 c=1", "m=1");
    stream.offer(&snapshot("c=1", "m=1"));
    stream.has("c=1", "m=1");
    assert_eq!(stream.lost, ["a", "b", "l"].map(str::to_owned).into());
    stream.offer(&snapshot("", ""));
    stream.has("", "");
}

#[test]
fn one_that_is_asked_for_by_name_comes_without_the_others() {
    let mut stream = Stream::default();
    stream.say(asked(Type::Listener, &["l"], ""));
    stream.say(asked(Type::Cluster, &[], ""));
    stream.offer(&snapshot("", "l=1 m=1"));
    stream.has("", "l=1");
}

#[test]
fn what_is_refused_is_held_back_and_nothing_else_is_lost() {
    for (is_mute, blames_all) in [(false, false), (true, false), (false, true)] {
        let mut stream = Stream { is_mute, blames_all, ..Stream::default() }.opened();
        stream.offer(&snapshot("a=1 b=1", "l=1 m=1 n=1"));
        stream.offer(&snapshot("a=1 b=1", "l=2 m=bad n=2 o=2 p=bad"));
        stream.has("a=1 b=1", "l=2 m=1 n=2 o=2");
        assert_eq!(stream.refused, ["m", "p"].map(str::to_owned).into());
        stream.offer(&snapshot("a=1 b=1", "l=2 m=3 n=2 o=2 p=3"));
        stream.has("a=1 b=1", "l=2 m=3 n=2 o=2 p=3");
        assert!(!["l", "m", "n"].iter().any(|name| stream.lost.contains(*name)), "{:?}", stream.lost);
    }
}

#[test]
fn a_refusal_after_a_reconnection_takes_nothing_that_runs() {
    let mut stream = started("a=1 b=1 c=1", "l=1 m=1 n=1").reconnected();
    stream.offer(&snapshot("a=1 b=1 c=2 d=bad", "l=1 m=1 n=2 ll=bad"));
    stream.has("a=1 b=1 c=2", "l=1 m=1 n=2");
    assert_eq!(stream.lost, BTreeSet::new());
    assert_eq!(stream.refused, ["d", "ll"].map(str::to_owned).into());
}

#[test]
fn a_presumption_that_was_wrong_costs_only_time() {
    let mut translation = Translation::default();
    let mut session = Session::new();
    let mut said = session.answer(&translation.hear(asked(Type::Listener, &[], "")).request.unwrap());
    said.extend(session.offer(snapshot("", "a=1 b=1 c=1"), 1));
    let mut tell = |response: Response, reason: &str| {
        let told = translation.tell(response);
        let mut bytes = Vec::new();
        told.encode_into(&mut bytes);
        let response = DiscoveryResponse::decode(bytes.as_slice()).unwrap();
        let names = response.resources.iter().map(|any| read(Type::Listener, &any.value).0);
        let names = names.collect::<Vec<_>>().join(" ");
        let mut answer = asked(Type::Listener, &[], &response.nonce);
        if !reason.is_empty() {
            answer.error_detail = Some(rpc::Status { message: reason.into(), ..Default::default() });
        }
        let Heard { request, again } = translation.hear(answer);
        let said = request.map(|request| session.answer(&request)).unwrap_or_default();
        let sent = said.iter().find_map(|effect| match effect {
            Effect::Send(response) => Some(response.clone()),
            _ => None,
        });
        (names, again, sent)
    };
    let Some(Effect::Send(first)) = said.pop() else { panic!("{said:?}") };
    let (names, again, sent) = tell(first, "listener b is no good");
    assert_eq!((&*names, again), ("a b c", None));
    let (names, again, sent) = tell(sent.unwrap(), "c it was");
    assert_eq!((&*names, sent), ("a c", None), "b was blamed, the others are presumed to run");
    let (names, again, sent) = tell(again.unwrap(), "");
    assert_eq!((&*names, again), ("a", None));
    let (names, again, sent) = tell(sent.unwrap(), "");
    assert_eq!((&*names, again), ("a b", None));
    let (names, again, _) = tell(sent.unwrap(), "c is bad");
    assert_eq!((&*names, again), ("a b c", None));
}

#[test]
fn a_name_within_another_one_is_not_blamed() {
    let set = |names: &[&str]| -> Set {
        names.iter().map(|name| (Bytes::from(name.to_string()), Bytes::new())).collect()
    };
    let response = told(Type::Listener, "1");
    let flight = Flight { response, added: Set::new(), offered: set(&["web", "web-2", "db"]) };
    assert_eq!(flight.blamed("no webs, my_web, web-2 and more"), set(&["web-2"]).into_keys().collect());
    assert_eq!(flight.blamed("[web-2: no], name: \"web\""), set(&["web-2", "web"]).into_keys().collect());
    assert!(flight.blamed(&"\u{e9}".repeat(REASON_MAX)).is_empty());
}

#[test]
fn whatever_happens_the_client_ends_with_what_is_good() {
    for seed in 0..150 {
        let mut random = StdRng::seed_from_u64(seed);
        let (is_mute, blames_all) = (random.random_bool(0.3), random.random_bool(0.2));
        let mut stream = Stream { is_mute, blames_all, ..Stream::default() }.opened();
        let mut texts = [String::new(), String::new()];
        for _ in 0..12 {
            for text in &mut texts {
                let some = ["a", "aa", "b", "c", "d"].into_iter().filter(|_| random.random_bool(0.6));
                let names: Vec<&str> = some.collect();
                let mut stat = || match random.random_range(0..6) {
                    0 => "bad".to_owned(),
                    stat => stat.to_string(),
                };
                *text = names.into_iter().map(|name| format!("{name}={} ", stat())).collect();
            }
            stream.offer(&snapshot(&texts[0], &texts[1]));
            if random.random_bool(0.2) {
                stream = stream.reconnected();
                stream.offer(&snapshot(&texts[0], &texts[1]));
            }
        }
        // In the end nothing is bad any more, and all of it is there.
        let [clusters, listeners] = texts.map(|text| text.replace("bad", "good"));
        stream.offer(&snapshot(&clusters, &listeners));
        stream.has(clusters.trim(), listeners.trim());
    }
}
