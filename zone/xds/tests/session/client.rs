//! A client that behaves as Envoy does, and laws that hold whatever happens on the way.
//!
//! It applies what is good of a refused response; a cluster that changes warms until its assignment comes, and the
//! answer to clusters is withheld meanwhile; assignments are asked for when a cluster is new and never again; routes
//! when a listener is new. A removal of an assignment or route in use is ignored.
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::rpc::Status;
use proptest::prelude::*;
use prost::Message;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};
use zone_xds::{Effect, Encoded, Session, Snapshot, Type};

/// What runs: the text, and the version under which the server will hear of it after a reconnection, if it was acknowledged.
#[derive(Clone, Debug, PartialEq)]
struct Running {
    text: String,
    tracked: Option<String>,
}

#[derive(Default)]
struct Client {
    running: BTreeMap<Type, BTreeMap<String, Running>>,
    warming: BTreeSet<String>,
    withheld: Option<DeltaDiscoveryRequest>,
    listeners_asked: bool,
    outbox: VecDeque<DeltaDiscoveryRequest>,
    inbox: VecDeque<DeltaDiscoveryResponse>,
    /// Of a reconnection: clusters that the server cannot know of.
    leaked: BTreeSet<String>,
}

fn request(kind: Type) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.type_url().into(), ..Default::default() }
}

impl Client {
    fn of(&self, kind: Type) -> impl Iterator<Item = (&String, &Running)> {
        self.running.get(&kind).into_iter().flatten()
    }

    fn get(&self, kind: Type, name: &str) -> Option<&Running> {
        self.running.get(&kind)?.get(name)
    }

    /// The clusters to which the routes in use lead.
    fn routed_to(&self) -> BTreeSet<&str> {
        self.of(Type::Route)
            .filter(|(name, _)| self.get(Type::Listener, name).is_some())
            .filter_map(|(_, route)| route.text.split_once("->").map(|(_, cluster)| cluster))
            .collect()
    }

    fn connect(&mut self) {
        self.outbox.clear();
        self.inbox.clear();
        self.withheld = None;
        // One that had endpoints goes on with these, after a while: Envoy keeps them for that.
        let endpoints = self.running.get(&Type::Endpoint).cloned().unwrap_or_default();
        self.warming.retain(|name| !endpoints.contains_key(name));
        let first = self.running.is_empty();
        let mut clusters = request(Type::Cluster);
        clusters.initial_resource_versions = self.versions(Type::Cluster);
        self.outbox.push_back(clusters);
        self.listeners_asked = !first;
        if first {
            return;
        }
        let untracked = self.of(Type::Cluster).filter(|(_, running)| running.tracked.is_none());
        let untracked: Vec<String> = untracked.map(|(name, _)| name.clone()).collect();
        self.leaked.extend(untracked);
        let mut listeners = request(Type::Listener);
        listeners.initial_resource_versions = self.versions(Type::Listener);
        self.outbox.push_back(listeners);
        for (kind, user) in [(Type::Endpoint, Type::Cluster), (Type::Route, Type::Listener)] {
            let names: Vec<String> = self.of(user).map(|(name, _)| name.clone()).collect();
            if !names.is_empty() {
                let mut all = request(kind);
                all.initial_resource_versions = self.versions(kind);
                all.initial_resource_versions.retain(|name, _| names.contains(name));
                all.resource_names_subscribe = names;
                self.outbox.push_back(all);
            }
        }
    }

    fn versions(&self, kind: Type) -> std::collections::HashMap<String, String> {
        self.of(kind).filter_map(|(name, running)| Some((name.clone(), running.tracked.clone()?))).collect()
    }

    /// Reads one response. `clean`: nothing was ever refused, and the order of makes and breaks must be right.
    fn read(&mut self, response: DeltaDiscoveryResponse, clean: bool) {
        let kind = Type::of_url(&response.type_url).expect("a type");
        let mut answer = request(kind);
        answer.response_nonce = response.nonce;
        let bad = |text: &str| text.contains("bad");
        let texts: Vec<(String, String, String)> = response
            .resources
            .into_iter()
            .map(|resource| {
                let text = String::from_utf8_lossy(&resource.resource.expect("a body").value).into_owned();
                (resource.name, resource.version, text)
            })
            .collect();
        let refused = texts.iter().any(|(_, _, text)| bad(text));
        let (mut subscribe, mut unsubscribe) = (Vec::new(), Vec::new());
        for (name, version, text) in texts.into_iter().filter(|(_, _, text)| !bad(text)) {
            // A response is applied in part only for clusters.
            if refused && kind != Type::Cluster {
                continue;
            }
            let tracked = (!refused).then_some(version);
            let before = self
                .running
                .entry(kind)
                .or_default()
                .insert(name.clone(), Running { text: text.clone(), tracked });
            let same = before.as_ref().is_some_and(|before| before.text == text);
            match kind {
                Type::Cluster => {
                    if before.is_none() {
                        subscribe.push(name.clone());
                    }
                    if !same {
                        self.warming.insert(name);
                    }
                }
                Type::Endpoint => {
                    if self.get(Type::Cluster, &name).is_some() {
                        self.warming.remove(&name);
                    } else {
                        self.running.entry(kind).or_default().remove(&name);
                    }
                }
                // What is not subscribed to any more is not looked at.
                Type::Route if self.get(Type::Listener, &name).is_none() => {
                    self.running.entry(kind).or_default().remove(&name);
                }
                Type::Listener if before.is_none() => subscribe.push(name),
                Type::Route if clean => {
                    let cluster = text.split_once("->").expect("a destination").1;
                    assert!(
                        self.get(Type::Cluster, cluster).is_some(),
                        "a route to {cluster} came before the cluster"
                    );
                }
                _ => {}
            }
        }
        for name in response.removed_resources {
            match kind {
                Type::Cluster => {
                    if clean {
                        assert!(
                            !self.routed_to().contains(name.as_str()),
                            "{name} was removed while a route leads to it"
                        );
                    }
                    if self.running.entry(kind).or_default().remove(&name).is_some() {
                        self.warming.remove(&name);
                        self.running.entry(Type::Endpoint).or_default().remove(&name);
                        unsubscribe.push(name);
                    }
                }
                Type::Listener => {
                    if self.running.entry(kind).or_default().remove(&name).is_some() {
                        unsubscribe.push(name);
                    }
                }
                Type::Endpoint => {
                    assert!(self.get(kind, &name).is_none(), "the endpoints of {name} were taken away");
                    self.warming.remove(&name);
                }
                Type::Route => assert!(self.get(kind, &name).is_none(), "the routes {name} were taken away"),
                Type::Secret => {}
            }
        }
        let used = if kind == Type::Cluster { Type::Endpoint } else { Type::Route };
        if !subscribe.is_empty() || !unsubscribe.is_empty() {
            for name in &unsubscribe {
                self.running.entry(used).or_default().remove(name);
            }
            let names = DeltaDiscoveryRequest {
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                ..request(used)
            };
            self.outbox.push_back(names);
        }
        if refused {
            answer.error_detail = Some(Status { code: 13, message: "bad".into(), ..Status::default() });
        }
        if kind == Type::Cluster && !refused {
            self.withheld = Some(answer);
        } else {
            self.outbox.push_back(answer);
        }
        if self.warming.is_empty() {
            self.outbox.extend(self.withheld.take());
            if !self.listeners_asked {
                self.listeners_asked = true;
                self.outbox.push_back(request(Type::Listener));
            }
        }
    }
}

/// A client, a session, and the wire between them.
struct Wire {
    client: Client,
    session: Session,
    snapshot: Arc<Snapshot>,
    generation: u64,
    unanswered: BTreeMap<String, u32>,
    clean: bool,
}

impl Wire {
    fn new(clean: bool) -> Wire {
        let mut client = Client::default();
        client.connect();
        Wire {
            client,
            session: Session::new(),
            snapshot: Arc::default(),
            generation: 0,
            unanswered: BTreeMap::new(),
            clean,
        }
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(response) => {
                    let waiting = self.unanswered.entry(response.type_url.to_owned()).or_default();
                    *waiting += 1;
                    assert_eq!(*waiting, 1, "two responses in flight: {response:?}");
                    let mut bytes = Vec::new();
                    response.encode_into(&mut bytes);
                    self.client
                        .inbox
                        .push_back(DeltaDiscoveryResponse::decode(bytes.as_slice()).expect("a response"));
                }
                Effect::Close(reason) => panic!("{reason}"),
                Effect::Refused { resource, .. } => {
                    assert!(!self.clean && resource.is_some(), "nothing was bad")
                }
                Effect::Acknowledged { generation, .. } => assert!(generation <= self.generation),
            }
        }
    }

    fn step(&mut self, event: &Event) {
        match event {
            Event::Offer(state) => {
                self.snapshot = Arc::new(state.snapshot());
                self.generation += 1;
                let effects = self.session.offer(self.snapshot.clone(), self.generation);
                self.take(effects);
            }
            Event::Move(cluster, version) => {
                // One that is there gets other endpoints, by itself.
                let name = format!("c{cluster}");
                let text = format!("e{version}").into_bytes();
                let moved = Arc::new(Encoded::from_bytes(Type::Endpoint, &name, text));
                if self.generation > 0 {
                    if self.snapshot.get(Type::Endpoint, &name).is_some() {
                        let snapshot = Arc::make_mut(&mut self.snapshot);
                        snapshot.insert_encoded(Type::Endpoint, &name, (*moved).clone());
                    }
                    self.generation += 1;
                }
                let effects = self.session.offer_assignments([&moved], self.generation);
                self.take(effects);
            }
            Event::ToServer => {
                if let Some(request) = self.client.outbox.pop_front() {
                    if !request.response_nonce.is_empty() {
                        *self.unanswered.get_mut(&request.type_url).expect("a response") -= 1;
                    }
                    let effects = self.session.answer(&request);
                    self.take(effects);
                }
            }
            Event::ToClient => {
                if let Some(response) = self.client.inbox.pop_front() {
                    self.client.read(response, self.clean);
                }
            }
            Event::Reconnect => {
                self.unanswered.clear();
                self.session = Session::new();
                self.client.connect();
                if self.generation > 0 {
                    let effects = self.session.offer(self.snapshot.clone(), self.generation);
                    self.take(effects);
                }
            }
        }
    }

    fn rest(&mut self) {
        for _ in 0..1_000 {
            if self.client.outbox.is_empty() && self.client.inbox.is_empty() {
                return;
            }
            self.step(&Event::ToServer);
            self.step(&Event::ToClient);
        }
        panic!("the two never come to rest");
    }

    fn check(&self) {
        let text = |kind, name: &str| -> Option<String> {
            let chunk = self.snapshot.get(kind, name)?.chunk.clone();
            let response = DeltaDiscoveryResponse::decode(chunk).expect("a chunk");
            Some(
                String::from_utf8_lossy(&response.resources[0].resource.as_ref().expect("a body").value)
                    .into_owned(),
            )
        };
        let held: BTreeSet<(Type, String)> =
            self.session.held().map(|(kind, name, _)| (kind, name.to_owned())).collect();
        assert!(self.client.warming.is_empty(), "still warming: {:?}", self.client.warming);
        assert_eq!(self.session.acked(), self.generation, "held: {held:?}");
        for kind in [Type::Cluster, Type::Listener, Type::Route] {
            for name in self.snapshot.names(kind) {
                let running = self.client.get(kind, name).map(|running| running.text.clone());
                let wanted = text(kind, name).expect("it is there");
                let unasked = kind == Type::Route && self.client.get(Type::Listener, name).is_none();
                if wanted.contains("bad") {
                    assert!(unasked || held.contains(&(kind, name.to_string())), "{kind} {name}");
                } else if !unasked {
                    assert_eq!(running, Some(wanted), "{kind} {name}");
                }
            }
        }
        let keeps_old = held.iter().any(|(kind, _)| matches!(kind, Type::Listener | Type::Route));
        for (name, _) in self.client.of(Type::Cluster) {
            let known = self.snapshot.get(Type::Cluster, name).is_some();
            assert!(known || keeps_old || self.client.leaked.contains(name), "{name} was forgotten");
            if known {
                let endpoints = self.client.get(Type::Endpoint, name).map(|running| running.text.clone());
                match text(Type::Endpoint, name) {
                    Some(wanted) => assert_eq!(endpoints, Some(wanted), "{name}"),
                    None => assert!(
                        endpoints.is_some_and(|text| !text.starts_with('e')),
                        "{name} keeps its endpoints"
                    ),
                }
            }
        }
        for (name, _) in self.client.of(Type::Listener) {
            assert!(self.snapshot.get(Type::Listener, name).is_some(), "the listener {name} was forgotten");
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Offer(State),
    Move(u8, u8),
    ToServer,
    ToClient,
    Reconnect,
}

/// Clusters with their versions and, unless they have none, those of their endpoints; listeners with the versions of
/// themselves and of their routes, and the cluster to which these lead.
#[derive(Clone, Debug)]
struct State {
    clusters: BTreeMap<u8, (u8, Option<u8>)>,
    listeners: BTreeMap<u8, (u8, u8, u8)>,
    bad_from: u8,
}

impl State {
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::empty();
        let mut put = |kind, name: &str, text: String| {
            snapshot.insert_encoded(kind, name, Encoded::from_bytes(kind, name, text.into_bytes()));
        };
        let version = |version: u8| {
            if version >= self.bad_from { format!("bad{version}") } else { format!("v{version}") }
        };
        for (name, (cluster, endpoints)) in &self.clusters {
            put(Type::Cluster, &format!("c{name}"), version(*cluster));
            if let Some(endpoints) = endpoints {
                put(Type::Endpoint, &format!("c{name}"), format!("e{endpoints}"));
            }
        }
        for (name, (listener, route, to)) in &self.listeners {
            let to = self.clusters.keys().nth(usize::from(*to) % self.clusters.len().max(1));
            if let Some(to) = to {
                put(Type::Listener, &format!("l{name}"), version(*listener));
                put(Type::Route, &format!("l{name}"), format!("{}->c{to}", version(*route)));
            }
        }
        snapshot
    }
}

fn state(bad_from: u8) -> impl Strategy<Value = State> {
    let clusters = prop::collection::btree_map(0..4u8, (0..4u8, prop::option::weighted(0.9, 0..3u8)), 0..4);
    let listeners = prop::collection::btree_map(0..2u8, (0..4u8, 0..4u8, 0..4u8), 0..3);
    (clusters, listeners).prop_map(move |(clusters, listeners)| State { clusters, listeners, bad_from })
}

fn events(bad_from: u8) -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => state(bad_from).prop_map(Event::Offer),
        3 => (0..4u8, 0..6u8).prop_map(|(cluster, version)| Event::Move(cluster, version)),
        8 => Just(Event::ToServer),
        8 => Just(Event::ToClient),
        1 => Just(Event::Reconnect),
    ];
    prop::collection::vec(event, 1..60)
}

fn run(events: &[Event], clean: bool) {
    let mut wire = Wire::new(clean);
    for event in events {
        wire.step(event);
    }
    if wire.generation == 0 {
        return;
    }
    wire.rest();
    wire.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_client_ends_with_the_snapshot(events in events(u8::MAX)) {
        run(&events, false);
    }

    #[test]
    fn what_is_refused_is_held_back_and_the_rest_arrives(events in events(3)) {
        run(&events, false);
    }

    #[test]
    fn clusters_are_made_before_they_are_used_and_removed_after(one in state(u8::MAX), other in state(u8::MAX), third in state(u8::MAX)) {
        let mut wire = Wire::new(true);
        for state in [one, other, third] {
            wire.step(&Event::Offer(state));
            wire.rest();
            wire.check();
        }
    }
}
