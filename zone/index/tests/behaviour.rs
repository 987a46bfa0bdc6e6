//! What the index makes of a zone's resources, told by example.
use serde_json::{Value, json};
use shared_model::core::dataplane::BackendRef;
use shared_model::{Resource, ResourceKey, Revision, Timestamp};
use std::collections::BTreeSet;
use std::sync::Arc;
use zone_index::{Change, Index, MtlsMode, ProxyId, ProxyView, Source};

struct Zone(Index);

impl Zone {
    /// A zone with a mesh, of which nothing more is said.
    fn new() -> Zone {
        let mut zone = Zone(Index::new("z1"));
        zone.follow(Resource::new("Mesh", "", "m", json!({})));
        zone
    }

    fn with_mtls(mode: &str) -> Zone {
        let mut zone = Zone::new();
        let backend = json!({"name": "ca", "type": "builtin", "mode": mode});
        zone.follow(Resource::new(
            "Mesh",
            "",
            "m",
            json!({"mtls": {"enabledBackend": "ca", "backends": [backend]}}),
        ));
        zone
    }

    fn change(&mut self, change: Change) -> Vec<String> {
        self.0.apply([change]).proxies.into_iter().map(|id| id.name).collect()
    }

    fn follow(&mut self, resource: Resource) -> Vec<String> {
        self.change(Change::Put(Source::Followed, Arc::new(resource)))
    }

    fn own(&mut self, resource: Resource) -> Vec<String> {
        self.change(Change::Put(Source::Owned, Arc::new(resource)))
    }

    fn view(&self, name: &str) -> ProxyView {
        self.0.epoch().view_of(&ProxyId::new("m", name)).expect("the proxy has a view")
    }

    fn problems(&self, kind: &str, name: &str) -> Vec<String> {
        let epoch = self.0.epoch();
        let problems = epoch.problems().get(&ResourceKey::new(kind, "m", name));
        problems.into_iter().flatten().map(ToString::to_string).collect()
    }

    /// Where the only outbound of a proxy leads: name, port, endpoints.
    fn reached(&self, proxy: &str) -> (String, u16, Vec<String>) {
        let view = self.view(proxy);
        let destination =
            view.destinations.get(&view.outbounds[0].destination).expect("it is reached").clone();
        let endpoint = |e: &zone_index::Endpoint| {
            format!("{}:{}{}", e.address, e.port, if e.healthy { "" } else { " unhealthy" })
        };
        (destination.name.clone(), destination.port, destination.endpoints.iter().map(endpoint).collect())
    }
}

fn server(name: &str, address: &str, port: u16, service: &str) -> Resource {
    let inbound = json!({"port": port, "tags": {"kuma.io/service": service, "kuma.io/protocol": "http"}});
    Resource::new("Dataplane", "m", name, json!({"networking": {"address": address, "inbound": [inbound]}}))
}

fn client(name: &str, address: &str, outbounds: &[Value]) -> Resource {
    let outbound = |(i, to): (usize, &Value)| match to {
        Value::String(tag) => json!({"port": 1000 + i, "tags": {"kuma.io/service": tag}}),
        backend => json!({"port": 1000 + i, "backendRef": backend}),
    };
    let outbounds: Vec<Value> = outbounds.iter().enumerate().map(outbound).collect();
    Resource::new("Dataplane", "m", name, json!({"networking": {"address": address, "outbound": outbounds}}))
}

fn service(name: &str, selector: Value, ports: Value) -> Resource {
    Resource::new("MeshService", "m", name, json!({"selector": selector, "ports": ports}))
}

fn backend(name: &str) -> BackendRef {
    BackendRef { kind: "MeshService".into(), name: name.into(), ..BackendRef::default() }
}

fn identity(name: &str, labels: Value, path: &str) -> Resource {
    let spec = json!({
        "selector": {"dataplane": {"matchLabels": labels}},
        "spiffeID": {"trustDomain": "{{ .Mesh }}.{{ .Zone }}", "path": path},
        "provider": {"type": "Bundled"},
    });
    Resource::new("MeshIdentity", "m", name, spec)
}

#[test]
fn an_endpoint_touches_only_the_proxies_that_reach_it() {
    let mut zone = Zone::new();
    zone.own(server("web-1", "10.0.0.1", 80, "web"));
    zone.own(server("api-1", "10.0.0.2", 80, "api"));
    zone.own(client("to-web", "10.0.1.1", &[json!("web")]));
    zone.own(client("to-api", "10.0.1.2", &[json!("api")]));
    assert_eq!(zone.own(server("web-2", "10.0.0.3", 80, "web")), ["to-web", "web-2"]);
    assert_eq!(zone.reached("to-web"), ("web".into(), 80, vec!["10.0.0.1:80".into(), "10.0.0.3:80".into()]));
    let mut not_ready = server("web-2", "10.0.0.3", 80, "web");
    not_ready.spec["networking"]["inbound"][0]["state"] = json!("NotReady");
    assert_eq!(zone.own(not_ready), ["to-web", "web-2"]);
    assert_eq!(zone.reached("to-web").2, ["10.0.0.1:80", "10.0.0.3:80 unhealthy"]);
    let gone = Change::Delete(Source::Owned, ResourceKey::new("Dataplane", "m", "web-2"));
    assert_eq!(zone.change(gone), ["to-web", "web-2"]);
    assert_eq!(zone.reached("to-web").2, ["10.0.0.1:80"]);
}

#[test]
fn storing_the_generated_services_changes_nothing_and_the_last_one_outlives_its_dataplanes() {
    let mut zone = Zone::with_mtls("STRICT");
    zone.own(server("web-1", "10.0.0.1", 80, "web"));
    zone.own(client(
        "c",
        "10.0.1.1",
        &[json!("web"), json!({"kind": "MeshService", "name": "web", "port": 80})],
    ));
    let view = zone.view("c");
    assert_eq!(view.outbounds[0].destination.to_string(), "kri_msvc_m_z1__web_80");
    assert_eq!(view.outbounds[1].destination, view.outbounds[0].destination);
    let wanted = zone.0.epoch().services_wanted();
    assert_eq!(wanted.len(), 1);
    assert_eq!(
        wanted[0].spec,
        json!({
            "selector": {"dataplaneTags": {"kuma.io/service": "web"}},
            "ports": [{"port": 80, "targetPort": 80, "appProtocol": "http"}],
            "identities": [{"type": "ServiceTag", "value": "web"}],
        })
    );
    let before = zone.0.epoch().services_changed_at();
    assert!(zone.own(wanted[0].clone()).is_empty());
    assert_eq!(zone.0.epoch().services_changed_at(), before);
    assert_eq!(zone.0.epoch().services_wanted(), wanted);
    zone.change(Change::Delete(Source::Owned, ResourceKey::new("Dataplane", "m", "web-1")));
    assert!(zone.0.epoch().services_wanted().is_empty());
    assert_eq!(zone.reached("c"), ("web".into(), 80, vec![]));
    assert!(zone.view("c").destinations.iter().all(|destination| destination.tls.is_some()));
}

#[test]
fn a_workload_without_service_tags_gets_a_service_by_its_label() {
    let mut zone = Zone::new();
    zone.follow(identity("one", json!({}), "/workload/{{ .Workload }}"));
    let inbound = json!({"port": 8080, "name": "http", "protocol": "http"});
    let dataplane = Resource::new(
        "Dataplane",
        "m",
        "w-1",
        json!({"networking": {"address": "10.0.0.1", "inbound": [inbound]}}),
    );
    zone.own(dataplane.with_label("kuma.io/workload", "shop"));
    zone.own(
        client("c", "10.0.1.1", &[json!({"kind": "MeshService", "name": "shop"})])
            .with_label("kuma.io/workload", "c"),
    );
    let wanted = zone.0.epoch().services_wanted().remove(0);
    assert_eq!(
        wanted.spec["selector"],
        json!({"dataplaneLabels": {"matchLabels": {"kuma.io/workload": "shop"}}})
    );
    assert_eq!(
        wanted.spec["identities"],
        json!([{"type": "SpiffeID", "value": "spiffe://m.z1/workload/shop"}])
    );
    let view = zone.view("c");
    let destination = view.destinations.get(&view.outbounds[0].destination).expect("it is reached");
    let tls = destination.tls.as_ref().expect("all proxies have an identity");
    assert!(tls.spiffe_ids.contains("spiffe://m.z1/workload/shop"));
    assert!(tls.sni.ends_with(".shop.8080.m.ms"));
    assert_eq!(view.outbounds[0].destination.section, "http");
}

#[test]
fn a_service_tag_on_several_ports_is_reached_as_a_whole() {
    let mut zone = Zone::new();
    zone.own(server("web-1", "127.0.0.1", 8001, "web"));
    zone.own(server("web-2", "127.0.0.1", 8002, "web"));
    zone.own(client("c", "10.0.1.1", &[json!("web")]));
    assert_eq!(zone.reached("c"), ("web".into(), 0, vec!["127.0.0.1:8001".into(), "127.0.0.1:8002".into()]));
}

#[test]
fn a_users_service_keeps_its_name_and_routes_by_port() {
    let mut zone = Zone::new();
    zone.own(server("web-1", "10.0.0.1", 80, "web"));
    zone.own(client("c", "10.0.1.1", &[json!({"kind": "MeshService", "name": "web", "port": 9090})]));
    assert_eq!(
        zone.problems("Dataplane", "c"),
        ["networking.outbound[0]: leads nowhere: no MeshService is named \"web\" and the port 9090"]
    );
    assert!(zone.view("c").outbounds.is_empty());
    let ports = json!([{"port": 9090, "targetPort": 80, "appProtocol": "http"}]);
    let by_hand = service("web", json!({"dataplaneRef": {"name": "web-1"}}), ports);
    assert_eq!(zone.own(by_hand), ["c"]);
    assert_eq!(zone.reached("c"), ("web".into(), 9090, vec!["10.0.0.1:80".into()]));
    assert!(zone.0.epoch().services_wanted().is_empty());
    assert!(zone.problems("Dataplane", "c").is_empty());
}

#[test]
fn the_own_zones_service_comes_first_and_echoes_do_not_count() {
    let mut zone = Zone::new();
    let selector = || json!({"dataplaneTags": {"kuma.io/service": "web"}});
    let elsewhere = service("web-x1", selector(), json!([{"port": 80}]))
        .with_label("kuma.io/display-name", "web")
        .with_label("kuma.io/zone", "z2");
    zone.follow(elsewhere.clone());
    zone.own(client("c", "10.0.1.1", &[json!("web")]));
    assert_eq!(zone.view("c").outbounds[0].destination.zone, "z2");
    assert!(zone.reached("c").2.is_empty());
    let mut echo = elsewhere.with_label("kuma.io/zone", "z1");
    echo.name = "web-x2".into();
    assert!(zone.follow(echo).is_empty());
    assert_eq!(zone.own(server("web-1", "10.0.0.1", 80, "web")), ["c", "web-1"]);
    assert_eq!(zone.view("c").outbounds[0].destination.zone, "z1");
}

#[test]
fn a_2x_mesh_names_proxies_by_service_and_shows_their_tags() {
    let mut zone = Zone::with_mtls("PERMISSIVE");
    zone.own(server("web-1", "10.0.0.1", 80, "web"));
    zone.own(client("c", "10.0.1.1", &[json!("web")]));
    let view = zone.view("web-1");
    let identity = view.identity.expect("the mesh gives one");
    assert_eq!(view.mtls, MtlsMode::Permissive);
    assert_eq!(
        identity.uris,
        [
            "spiffe://m/web",
            "kuma://kuma.io/protocol/http",
            "kuma://kuma.io/service/web",
            "kuma://kuma.io/zone/z1"
        ]
    );
    assert_eq!(identity.authority.identity, "mtls-ca");
    assert_eq!(zone.0.epoch().authorities_wanted(), [identity.authority]);
    // No service of that name can be posed as.
    assert_eq!(zone.view("c").identity.expect("the mesh gives one").spiffe_id, "spiffe://m/dataplane/c");
    let view = zone.view("c");
    let tls = view.destinations.iter().next().and_then(|destination| destination.tls.clone());
    assert_eq!(
        tls.expect("it has an identity").spiffe_ids.into_iter().collect::<Vec<_>>(),
        ["spiffe://m/web"]
    );
}

#[test]
fn the_most_specific_identity_wins_and_one_that_cannot_be_filled_in_fails_closed() {
    let mut zone = Zone::new();
    zone.follow(identity("all", json!({}), "/all"));
    zone.follow(identity("team", json!({"team": "a"}), "/role/{{ label \"role\" }}"));
    let web = |name: &str, address: &str| server(name, address, 80, "web").with_label("team", "a");
    zone.own(server("plain", "10.0.0.9", 80, "other"));
    zone.own(web("web-1", "10.0.0.1").with_label("role", "front"));
    zone.own(client("c", "10.0.1.1", &[json!("web")]));
    assert_eq!(zone.view("plain").identity.expect("it is selected").spiffe_id, "spiffe://m.z1/all");
    assert_eq!(zone.view("web-1").identity.expect("it is selected").spiffe_id, "spiffe://m.z1/role/front");
    let sound = zone.reached("c");
    assert_eq!(zone.own(web("web-2", "10.0.0.2")), ["web-2"]);
    let broken = zone.view("web-2");
    assert_eq!((broken.identity, broken.mtls), (None, MtlsMode::Strict));
    let problem = "MeshIdentity \"team\" gives no identity: the proxy has no label \"role\"";
    assert_eq!(zone.problems("Dataplane", "web-2"), [problem]);
    assert_eq!(zone.reached("c"), sound);
    assert!(zone.view("c").destinations.iter().all(|destination| destination.tls.is_some()));
}

#[test]
fn tls_waits_until_all_proxies_of_a_service_have_an_identity() {
    let mut zone = Zone::new();
    zone.own(server("web-1", "10.0.0.1", 80, "web").with_label("team", "a"));
    zone.own(server("web-2", "10.0.0.2", 80, "web"));
    zone.own(client("c", "10.0.1.1", &[json!("web")]));
    let has_tls =
        |zone: &Zone| zone.view("c").destinations.iter().all(|destination| destination.tls.is_some());
    assert_eq!(zone.follow(identity("a", json!({"team": "a"}), "/a")), ["web-1"]);
    assert!(!has_tls(&zone));
    zone.own(server("web-2", "10.0.0.2", 80, "web").with_label("team", "a"));
    assert!(has_tls(&zone));
}

#[test]
fn of_two_dataplanes_on_one_socket_the_older_keeps_it() {
    let mut zone = Zone::new();
    let made_at = |mut dataplane: Resource, second| {
        dataplane.creation_time = Timestamp::from_timestamp(second, 0).expect("a time");
        dataplane
    };
    zone.own(made_at(server("web-1", "10.0.0.1", 80, "web"), 10));
    zone.own(client("c", "10.0.1.1", &[json!("web"), json!("api")]));
    zone.own(made_at(server("api-1", "10.0.0.1", 80, "api"), 20));
    let problem =
        "networking.inbound[0].port: 10.0.0.1:80 is held by the older Dataplane m/web-1: this is no endpoint";
    assert_eq!(zone.problems("Dataplane", "api-1"), [problem]);
    assert!(zone.problems("Dataplane", "web-1").is_empty());
    assert_eq!(zone.reached("c").2, ["10.0.0.1:80"]);
    zone.change(Change::Delete(Source::Owned, ResourceKey::new("Dataplane", "m", "web-1")));
    assert!(zone.problems("Dataplane", "api-1").is_empty());
}

#[test]
fn what_cannot_be_used_is_held_back_alone() {
    let mut zone = Zone::new();
    zone.own(server("web-1", "10.0.0.1", 80, "web"));
    assert!(zone.follow(Resource::new("MeshTimeout", "m", "bad", json!({"nonsense": 1}))).is_empty());
    assert!(!zone.problems("MeshTimeout", "bad").is_empty());
    zone.own(Resource::new("Dataplane", "m", "bad", json!({"networking": {"address": "nowhere"}})));
    assert!(!zone.problems("Dataplane", "bad").is_empty());
    zone.own(client("c", "10.0.1.1", &[json!("web"), json!("missing")]));
    assert_eq!(
        zone.problems("Dataplane", "c"),
        ["networking.outbound[1]: leads nowhere: nothing serves kuma.io/service \"missing\""]
    );
    let view = zone.view("c");
    assert_eq!((view.outbounds.len(), view.problems.len()), (1, 1));
    assert_eq!(zone.own(server("late", "10.0.0.2", 80, "missing")), ["c", "late"]);
    assert!(zone.problems("Dataplane", "c").is_empty());
    assert!(zone.0.epoch().view_of(&ProxyId::new("m", "bad")).is_none());
}

#[test]
fn a_policy_touches_whom_it_selects_or_selected() {
    let mut zone = Zone::new();
    for (name, team) in [("a-1", "a"), ("b-1", "b"), ("b-2", "b")] {
        zone.own(
            server(name, &format!("10.0.0.{}", name.len() + usize::from(name.as_bytes()[2])), 80, "x")
                .with_label("team", team),
        );
    }
    let timeout = |team: &str| {
        let to = json!([{"targetRef": {"kind": "Mesh"}, "default": {"connectionTimeout": "1s"}}]);
        let top = json!({"kind": "Dataplane", "labels": {"team": team}});
        Resource::new("MeshTimeout", "m", "t", json!({"targetRef": top, "to": to}))
    };
    let key = timeout("a").key();
    assert_eq!(zone.follow(timeout("b")), ["b-1", "b-2"]);
    assert_eq!(zone.0.epoch().matched(&key), 2);
    assert!(zone.follow(timeout("b")).is_empty());
    assert_eq!(zone.follow(timeout("a")), ["a-1", "b-1", "b-2"]);
    assert_eq!(zone.0.epoch().matched(&key), 1);
    assert!(zone.follow(timeout("a").with_label("kuma.io/effect", "shadow")).contains(&"a-1".to_owned()));
    assert!(zone.follow(timeout("b").with_label("kuma.io/effect", "shadow")).is_empty());
    assert_eq!(zone.0.epoch().matched(&key), 2);
    assert!(zone.view("b-1").policies.keys().is_empty());
}

#[test]
fn a_routes_backend_is_reached_by_the_clients_of_the_routed_service_only() {
    let mut zone = Zone::new();
    zone.own(server("web-1", "10.0.0.1", 80, "web"));
    zone.own(client("to-web", "10.0.1.1", &[json!("web")]));
    zone.own(server("api-1", "10.0.0.2", 80, "api"));
    zone.own(client("to-api", "10.0.1.2", &[json!("api")]));
    let rule = json!({
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "default": {"backendRefs": [{"kind": "MeshService", "name": "web-v2", "weight": 1}]},
    });
    let to = json!([{"targetRef": {"kind": "MeshService", "name": "web"}, "rules": [rule]}]);
    zone.follow(Resource::new(
        "MeshHTTPRoute",
        "m",
        "split",
        json!({"targetRef": {"kind": "Mesh"}, "to": to}),
    ));
    assert_eq!(
        zone.problems("MeshHTTPRoute", "split"),
        ["a route leads nowhere: no MeshService is named \"web-v2\""]
    );
    assert_eq!(zone.own(server("v2-1", "10.0.0.3", 80, "web-v2")), ["to-web", "v2-1"]);
    assert!(zone.problems("MeshHTTPRoute", "split").is_empty());
    assert_eq!(
        zone.view("to-web").destinations.resolve(&backend("web-v2"), Some(80)).map(|d| d.port),
        Some(80)
    );
    assert_eq!(zone.view("to-api").destinations.resolve(&backend("web-v2"), Some(80)), None);
    assert_eq!(zone.own(server("v2-2", "10.0.0.4", 80, "web-v2")), ["to-web", "v2-2"]);
    zone.change(Change::Delete(Source::Followed, ResourceKey::new("MeshHTTPRoute", "m", "split")));
    assert_eq!(zone.own(server("v2-3", "10.0.0.5", 80, "web-v2")), ["v2-3"]);
}

#[test]
fn trust_is_gathered_by_domain_and_concerns_those_with_an_identity() {
    let mut zone = Zone::new();
    zone.follow(identity("a", json!({"team": "a"}), "/a"));
    zone.own(server("with", "10.0.0.1", 80, "x").with_label("team", "a"));
    zone.own(server("without", "10.0.0.2", 80, "y"));
    let (one, two) = (include_str!("laws/one.pem"), include_str!("laws/two.pem"));
    let trust = |name: &str, pem: &str| {
        let bundle = json!({"type": "Pem", "pem": {"value": pem}});
        Resource::new("MeshTrust", "m", name, json!({"trustDomain": "td", "caBundles": [bundle]}))
    };
    assert_eq!(zone.own(trust("own", one)), ["with"]);
    assert_eq!(zone.follow(trust("other", two).with_label("kuma.io/zone", "z2")), ["with"]);
    let both: Vec<&str> = BTreeSet::from([one, two]).into_iter().collect();
    assert_eq!(zone.view("with").trust["td"], both);
    assert!(zone.view("without").trust.is_empty());
    // What cannot be read goes to nobody.
    let bad = trust("bad", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    let key = bad.key();
    assert!(zone.own(bad).is_empty());
    assert_eq!(zone.0.epoch().problems()[&key][0].path, "spec.caBundles[0].pem.value");
    assert_eq!(zone.view("with").trust["td"], both);
}

#[test]
fn a_repetition_touches_nobody_and_a_new_revision_is_shown() {
    let mut zone = Zone::new();
    zone.own(server("web-1", "10.0.0.1", 80, "web"));
    zone.own(client("c", "10.0.1.1", &[json!("web")]));
    let mut again = server("web-1", "10.0.0.1", 80, "web");
    again.revision = Revision(7);
    assert!(zone.own(again).is_empty());
    let shown = zone.0.epoch().dataplane(&ProxyId::new("m", "web-1")).map(|dataplane| dataplane.revision);
    assert_eq!(shown, Some(Revision(7)));
}

#[test]
fn a_proxy_of_a_mesh_that_is_not_there_has_no_view() {
    let mut zone = Zone(Index::new("z1"));
    assert!(zone.own(server("web-1", "10.0.0.1", 80, "web")).is_empty());
    assert!(zone.0.epoch().view_of(&ProxyId::new("m", "web-1")).is_none());
    assert!(zone.0.epoch().services_wanted().is_empty());
    assert_eq!(zone.follow(Resource::new("Mesh", "", "m", json!({}))), ["web-1"]);
    assert_eq!(zone.view("web-1").id.to_string(), "m/web-1");
    assert_eq!(zone.0.epoch().services_wanted().len(), 1);
}

#[test]
fn a_certificate_lives_long_enough_to_be_renewed() {
    let mut zone = Zone::new();
    zone.own(server("web-1", "10.0.0.1", 80, "web"));
    for (asked, given) in [("0s", 60), ("1s", 60), ("2h", 7200)] {
        let backend = json!({"name": "ca", "type": "builtin", "dpCert": {"rotation": {"expiration": asked}}});
        let mtls = json!({"mtls": {"enabledBackend": "ca", "backends": [backend]}});
        zone.follow(Resource::new("Mesh", "", "m", mtls));
        let lifetime = zone.view("web-1").identity.expect("an identity").lifetime;
        assert_eq!(lifetime, shared_model::Duration::from_secs(given), "{asked}");
    }
}
