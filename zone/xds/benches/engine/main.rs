//! What a change costs, without sockets: `cargo bench -p zone-xds`.
mod mesh;

use divan::{Bencher, black_box};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use mesh::{Style, Zone, identity};
use prost::Message;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use zone_index::ProxyId;
use zone_xds::{Effect, Encoded, Identity, Manifests, Response, Session, Type, assemble};

fn main() {
    divan::main();
}

/// What proxies share.
struct Works {
    manifests: Manifests,
    identity: Identity,
}

impl Works {
    fn new() -> Works {
        Works { manifests: Manifests::default(), identity: identity() }
    }
}

/// A connected proxy whose Envoy acknowledges at once.
struct Client {
    id: ProxyId,
    session: Session,
    /// The types of which it has named what it wants.
    asked: BTreeSet<Type>,
}

impl Client {
    fn connect(zone: &Zone, works: &Works, id: ProxyId) -> Client {
        let mut client = Client { id, session: Session::new(), asked: BTreeSet::new() };
        client.refresh(zone, works);
        let first = client.session.answer(&request(Type::Cluster));
        client.take(first);
        let listeners = client.session.answer(&request(Type::Listener));
        client.take(listeners);
        client
    }

    fn refresh(&mut self, zone: &Zone, works: &Works) {
        let epoch = zone.index.epoch();
        let view = epoch.view_of(&self.id).expect("a view");
        let (snapshot, _) = works.manifests.assemble(&view, Some(&works.identity));
        let effects = self.session.offer(Arc::new(snapshot), epoch.number());
        self.take(effects);
    }

    fn move_endpoints(&mut self, assignments: &[Arc<Encoded>], generation: u64) {
        let effects = self.session.offer_assignments(assignments, generation);
        self.take(effects);
    }

    /// Answers as Envoy does: subscribes to what clusters and listeners name, and acknowledges.
    fn take(&mut self, effects: Vec<Effect>) {
        let mut effects = std::collections::VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let Effect::Send(response) = effect else { continue };
            effects.extend(self.read(&response));
        }
    }

    fn read(&mut self, response: &Response) -> Vec<Effect> {
        let kind = Type::of_url(response.type_url).expect("a type");
        let mut effects = Vec::new();
        let subscribed = match kind {
            Type::Cluster => Some(Type::Endpoint),
            Type::Listener => Some(Type::Route),
            _ => None,
        };
        if let Some(kind) = subscribed.filter(|kind| self.asked.insert(*kind)) {
            let mut bytes = Vec::new();
            response.encode_into(&mut bytes);
            let decoded = DeltaDiscoveryResponse::decode(bytes.as_slice()).expect("a response");
            let mut names = request(kind);
            names.resource_names_subscribe = decoded.resources.iter().map(|r| r.name.clone()).collect();
            if kind == Type::Route {
                names.resource_names_subscribe = self.session_routes().into_iter().collect();
            } else {
                names.resource_names_subscribe.retain(|name| !name.starts_with("localhost"));
                let mut secrets = request(Type::Secret);
                secrets.resource_names_subscribe =
                    vec!["identity_cert:secret:default".into(), "system_trust_bundle".into()];
                effects.extend(self.session.answer(&secrets));
            }
            effects.extend(self.session.answer(&names));
        }
        let mut ack = request(kind);
        ack.response_nonce = response.nonce.clone();
        effects.extend(self.session.answer(&ack));
        effects
    }

    fn session_routes(&self) -> Vec<String> {
        let number: usize = self.id.name[3..].parse().expect("a number");
        routes_of(number)
    }
}

thread_local! {
    static SERVICES: std::cell::Cell<usize> = const { std::cell::Cell::new(100) };
}

fn routes_of(i: usize) -> Vec<String> {
    let services = SERVICES.get();
    let to = |k: usize| (i % services + k) % services;
    (1..=mesh::SCOPE.min(services - 1))
        .map(|k| format!("outbound:default_svc-{}__east_msvc_8080", to(k)))
        .collect()
}

fn request(kind: Type) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.type_url().into(), ..Default::default() }
}

fn fleet(style: Style, proxies: usize, services: usize) -> (Zone, Works, Vec<Client>) {
    connected(Zone::styled(style, proxies, services))
}

fn connected(zone: Zone) -> (Zone, Works, Vec<Client>) {
    SERVICES.set(zone.services);
    let works = Works::new();
    let clients: Vec<Client> = zone.ids().into_iter().map(|id| Client::connect(&zone, &works, id)).collect();
    for client in &clients {
        assert_eq!(client.session.acked(), zone.index.epoch().number(), "{}", client.id);
    }
    (zone, works, clients)
}

/// The merged timeouts of one destination.
#[divan::bench]
fn merge_of_policies(bencher: Bencher) {
    let zone = Zone::new(100, 100);
    let view = zone.index.epoch().view_of(&zone.id(0)).expect("a view");
    let destination = view.destinations.iter().next().expect("a destination").clone();
    let target = shared_policy::Target {
        kri: &destination.key,
        port: destination.port,
        labels: &destination.labels,
        service_tag: destination.service_tag.as_deref(),
    };
    bencher.bench_local(|| shared_policy::kinds::timeout::outbound(&view.policies, black_box(&target), None));
}

/// A view, from the index.
#[divan::bench]
fn view(bencher: Bencher) {
    let zone = Zone::new(100, 100);
    let (epoch, id) = (zone.index.epoch(), zone.id(0));
    bencher.bench_local(|| epoch.view_of(black_box(&id)));
}

/// All resources of one proxy, from nothing.
#[divan::bench]
fn full_generation_from_scratch(bencher: Bencher) {
    let (zone, identity) = (Zone::new(100, 100), identity());
    let view = zone.index.epoch().view_of(&zone.id(0)).expect("a view");
    bencher.bench_local(|| assemble(black_box(&view), Some(&identity)));
}

/// The same when another replica has most of it.
#[divan::bench]
fn full_generation_of_a_replica(bencher: Bencher) {
    let (zone, works) = (Zone::new(200, 100), Works::new());
    let view = |i| zone.index.epoch().view_of(&zone.id(i)).expect("a view");
    let _first = works.manifests.assemble(&view(0), Some(&works.identity));
    let second = view(100);
    bencher.bench_local(|| works.manifests.assemble(black_box(&second), Some(&works.identity)));
}

/// All resources of 1,000 proxies in 100 services: what a storm generates.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn full_generation_of_1000(bencher: Bencher) {
    let zone = Zone::new(1000, 100);
    let ids = zone.ids();
    bencher.bench_local(|| generate(&zone, &Works::new(), &ids));
}

fn generate(zone: &Zone, works: &Works, ids: &[ProxyId]) -> usize {
    let epoch = zone.index.epoch();
    let one = |id| works.manifests.assemble(&epoch.view_of(id).expect("a view"), Some(&works.identity)).0;
    let snapshots: Vec<_> = ids.iter().map(one).collect();
    snapshots.iter().map(|snapshot| snapshot.len(Type::Cluster)).sum()
}

/// Both generations of documents, which must cost the same.
const STYLES: [Style; 2] = [Style::Tags, Style::Labels];

/// An endpoint moves and reaches all its clients, answers included: P, S.
#[divan::bench(sample_count = 20, sample_size = 1, args = [(1000, 100), (300, 100), (1000, 1000)])]
fn endpoint_moves(bencher: Bencher, (proxies, services): (usize, usize)) {
    endpoint(bencher, fleet(Style::Tags, proxies, services));
}

#[divan::bench(sample_count = 20, sample_size = 1, args = STYLES)]
fn endpoint_moves_by_style(bencher: Bencher, style: Style) {
    endpoint(bencher, fleet(style, 1000, 100));
}

fn endpoint(bencher: Bencher, (mut zone, works, mut clients): (Zone, Works, Vec<Client>)) {
    let mut place = 1;
    bencher.bench_local(|| {
        place = place % 200 + 1;
        let moved = zone.dataplane(0, place + 1);
        change(&mut zone, &works, &mut clients, moved)
    });
}

/// A timeout for the whole mesh changes and reaches all.
#[divan::bench(sample_count = 10, sample_size = 1, args = STYLES)]
fn mesh_wide_timeout(bencher: Bencher, style: Style) {
    let (mut zone, works, mut clients) = fleet(style, 1000, 100);
    let mut seconds = 1;
    bencher.bench_local(|| {
        seconds += 1;
        let timeout = zone.timeout(seconds);
        change(&mut zone, &works, &mut clients, timeout)
    });
}

/// A timeout for one service changes and reaches its 200 clients.
#[divan::bench(sample_count = 20, sample_size = 1, args = STYLES)]
fn timeout_of_one_service(bencher: Bencher, style: Style) {
    let (mut zone, works, mut clients) = fleet(style, 1000, 100);
    let mut seconds = 1;
    bencher.bench_local(|| {
        seconds += 1;
        let timeout = zone.timeout_of(50, seconds);
        change(&mut zone, &works, &mut clients, timeout)
    });
}

/// A permission for one service changes and reaches its 10 instances.
#[divan::bench(sample_count = 20, sample_size = 1, args = STYLES)]
fn permission_for_one_service(bencher: Bencher, style: Style) {
    let (mut zone, works, mut clients) = fleet(style, 1000, 100);
    let mut caller = 0;
    bencher.bench_local(|| {
        caller = (caller + 1) % 100;
        let withdrawal = zone.withdrawal("withdrawn", 50, caller);
        change(&mut zone, &works, &mut clients, withdrawal)
    });
}

/// 1,000 proxies under 2,000 permissions and 1,000 routes.
fn many_policies() -> (Zone, Works, Vec<Client>) {
    let mut zone = Zone::new(1000, 100);
    let permissions = (0..2000).map(|i| zone.withdrawal(&format!("permission-{i}"), i % 100, i / 20));
    let routes = (0..1000).map(|i| zone.route(&format!("route-{i}"), i % 100, &format!("/{}", i / 100)));
    let changes: Vec<_> = permissions.chain(routes).collect();
    zone.index.apply(changes);
    connected(zone)
}

/// One route of a thousand changes and reaches the 200 clients of its service.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn one_route_of_many(bencher: Bencher) {
    let (mut zone, works, mut clients) = many_policies();
    let mut edit = 0;
    bencher.bench_local(|| {
        edit += 1;
        let route = zone.route("route-50", 50, &format!("/edit-{edit}"));
        change(&mut zone, &works, &mut clients, route)
    });
}

/// One permission of two thousand changes and reaches the 10 instances of its service.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn one_permission_of_many(bencher: Bencher) {
    let (mut zone, works, mut clients) = many_policies();
    let mut edit = 0;
    bencher.bench_local(|| {
        edit += 1;
        let permission = zone.withdrawal("permission-50", 50, edit % 100);
        change(&mut zone, &works, &mut clients, permission)
    });
}

fn change(zone: &mut Zone, works: &Works, clients: &mut [Client], change: zone_index::Change) -> usize {
    let touched = zone.index.apply([change]);
    let generation = zone.index.epoch().number();
    let mut assignments: BTreeMap<_, Arc<Encoded>> = BTreeMap::new();
    for id in &touched.proxies {
        let number: usize = id.name[3..].parse().expect("a number");
        let Some(moved) = touched.moved.get(id) else {
            clients[number].refresh(zone, works);
            continue;
        };
        let moved: Vec<_> = moved
            .iter()
            .map(|destination| {
                let made = || works.manifests.assignment(destination);
                assignments.entry(destination.key.clone()).or_insert_with(made).clone()
            })
            .collect();
        clients[number].move_endpoints(&moved, generation);
    }
    touched.proxies.len()
}

/// A session decides that it has nothing to send.
#[divan::bench]
fn nothing_changed(bencher: Bencher) {
    let (zone, works, mut clients) = fleet(Style::Tags, 100, 100);
    let view = zone.index.epoch().view_of(&zone.id(0)).expect("a view");
    let snapshot = Arc::new(works.manifests.assemble(&view, Some(&works.identity)).0);
    let mut generation = 1_000;
    bencher.bench_local(|| {
        generation += 1;
        clients[0].session.offer(snapshot.clone(), generation)
    });
}

/// What everybody shares of one assignment.
#[divan::bench]
fn encoding_of_an_assignment(bencher: Bencher) {
    let zone = Zone::new(1000, 100);
    let view = zone.index.epoch().view_of(&zone.id(0)).expect("a view");
    let destination = view.destinations.iter().next().expect("a destination").clone();
    bencher.bench_local(|| Manifests::default().assignment(black_box(&destination)));
}

/// The bytes of a response with all clusters of a proxy.
#[divan::bench]
fn encoding_of_a_response(bencher: Bencher) {
    let (zone, identity) = (Zone::new(100, 100), identity());
    let view = zone.index.epoch().view_of(&zone.id(0)).expect("a view");
    let (snapshot, _) = assemble(&view, Some(&identity));
    let response = Response {
        type_url: Type::Cluster.type_url(),
        nonce: "1".into(),
        system_version: "1".into(),
        resources: snapshot.iter(Type::Cluster).map(|resource| resource.chunk.clone()).collect(),
        removed: Vec::new(),
    };
    bencher.bench_local(|| {
        let mut bytes = Vec::with_capacity(response.encoded_len());
        response.encode_into(&mut bytes);
        bytes
    });
}
