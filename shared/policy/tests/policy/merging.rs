//! Which policies apply to whom, which of them wins, and what comes out.
use crate::common::{Proxy, compile, map, policy, with_backend};
use serde_json::{Value, json};
use shared_model::{Duration, Kri, Resource, labels};
use shared_policy::{
    BackendRef, Match, Matched, Policy, Principal, SpiffeMatch,
    kinds::{
        fault_injection,
        http_route::{self, Filter, PathMatch},
        timeout, tls, traffic_permission,
    },
};
use std::sync::Arc;

fn secs(secs: u64) -> Option<Duration> {
    Some(Duration::from_secs(secs))
}

fn idle(name: &str, top: Value, secs: u64) -> Resource {
    let to = json!([{"targetRef": {"kind": "Mesh"}, "default": {"idleTimeout": format!("{secs}s")}}]);
    policy("MeshTimeout", name, json!({"targetRef": top, "to": to}))
}

fn idle_of(proxy: &Proxy, policies: &[Resource]) -> Option<Duration> {
    let matched = proxy.matched(policies);
    with_backend(|target| timeout::outbound(&matched, target, None)).idle_timeout
}

#[test]
fn the_more_specific_policy_overrides() {
    let proxy = Proxy::web();
    let dataplane = |fields: Value| {
        let mut top = json!({"kind": "Dataplane"});
        top.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        top
    };
    // From weak to strong; names are such that they alone would say the opposite.
    let tops = [
        json!({"kind": "Mesh"}),
        dataplane(json!({"labels": {"app": "web"}})),
        dataplane(json!({"name": "web-1"})),
        json!({"kind": "MeshSubset", "tags": {"version": "v2"}}),
        json!({"kind": "MeshService", "name": "web"}),
        json!({"kind": "MeshServiceSubset", "name": "web", "tags": {"version": "v1"}}),
    ];
    for upto in 1..=tops.len() {
        let policies =
            tops[..upto].iter().enumerate().map(|(i, top)| idle(&format!("p{i}"), top.clone(), i as u64 + 1));
        assert_eq!(idle_of(&proxy, &policies.collect::<Vec<_>>()), secs(upto as u64));
    }
}

#[test]
fn ties_go_to_origin_then_role_then_destination_then_name() {
    let proxy = Proxy::web();
    let mesh = || json!({"kind": "Mesh"});
    let zone = idle("z", mesh(), 2).with_label(labels::ORIGIN, "zone").with_label(labels::ZONE, "east");
    let global = idle("a", mesh(), 1).with_label(labels::ORIGIN, "global");
    assert_eq!(idle_of(&proxy, &[zone.clone(), global.clone()]), secs(2));
    let producer = idle("z", mesh(), 3).with_label(labels::POLICY_ROLE, "producer");
    assert_eq!(idle_of(&proxy, &[producer, global.clone()]), secs(3));
    let to_service =
        json!([{"targetRef": {"kind": "MeshService", "name": "backend"}, "default": {"idleTimeout": "4s"}}]);
    let to_service = policy("MeshTimeout", "z", json!({"to": to_service}));
    assert_eq!(idle_of(&proxy, &[to_service, idle("a", mesh(), 5)]), secs(4));
    assert_eq!(idle_of(&proxy, &[idle("aaa", mesh(), 6), idle("zzz", mesh(), 7)]), secs(6));
    let renamed = idle("zzz", mesh(), 8).with_label(labels::DISPLAY_NAME, "aa");
    assert_eq!(idle_of(&proxy, &[idle("aaa", mesh(), 6), renamed]), secs(8));
}

#[test]
fn a_policy_reaches_its_mesh_its_zone_and_its_namespace() {
    let proxy = Proxy::web();
    let mesh = || json!({"kind": "Mesh"});
    let mut other_mesh = idle("a", mesh(), 1);
    other_mesh.mesh = "other".to_owned();
    let other_zone = idle("b", mesh(), 2).with_label(labels::ORIGIN, "zone").with_label(labels::ZONE, "west");
    let shadow = idle("c", mesh(), 3).with_label(labels::EFFECT, "shadow");
    let consumer =
        idle("d", mesh(), 4).with_label(labels::POLICY_ROLE, "consumer").with_label(labels::NAMESPACE, "n");
    let held_back = [other_mesh, other_zone.clone(), shadow.clone(), consumer.clone()];
    assert!(proxy.matched(&held_back).is_empty());
    assert!(compile(&[shadow])[0].is_shadow());
    let producer = other_zone.with_label(labels::POLICY_ROLE, "producer");
    assert_eq!(idle_of(&proxy, &[producer]), secs(2));
    let mut there = Proxy::web();
    there.labels.insert(labels::NAMESPACE.to_owned(), "n".to_owned());
    assert_eq!(idle_of(&there, &[consumer]), secs(4));
}

#[test]
fn an_item_is_about_a_service_by_any_of_its_names() {
    let names = |target: Value| {
        let item = json!({"targetRef": target, "default": {"idleTimeout": "1s"}});
        idle_of(&Proxy::web(), &[policy("MeshTimeout", "p", json!({"to": [item]}))]).is_some()
    };
    for about in [
        json!({"kind": "MeshService", "name": "backend"}),
        json!({"kind": "MeshService", "name": "backend_tag"}),
        json!({"kind": "MeshService", "name": "backend", "sectionName": "http"}),
        json!({"kind": "MeshService", "name": "backend", "sectionName": "8080"}),
        json!({"kind": "MeshService", "labels": {"team": "a"}}),
        json!({"kind": "MeshService", "labels": {"kuma.io/display-name": "backend", "kuma.io/zone": "east"}}),
    ] {
        assert!(names(about.clone()), "{about}");
    }
    for other in [
        json!({"kind": "MeshService", "name": "back"}),
        json!({"kind": "MeshService", "name": "backend", "sectionName": "grpc"}),
        json!({"kind": "MeshService", "name": "backend", "namespace": "n"}),
        json!({"kind": "MeshService", "labels": {"team": "b"}}),
        json!({"kind": "MeshService", "labels": {"kuma.io/zone": "west"}}),
        json!({"kind": "MeshHTTPRoute", "name": "backend"}),
    ] {
        let conf = json!({"http": {"requestTimeout": "1s"}});
        let item = json!({"targetRef": other, "default": conf});
        let matched = Proxy::web().matched(&[policy("MeshTimeout", "p", json!({"to": [item]}))]);
        assert_eq!(
            with_backend(|target| timeout::outbound(&matched, target, None)),
            timeout::Conf::default(),
            "{other}"
        );
    }
}

#[test]
fn an_item_about_a_route_stands_in_for_those_about_its_service() {
    let item = |target: Value, conf: Value| json!({"targetRef": target, "default": conf});
    let http = |field: &str, value: &str| json!({"http": {field: value}});
    let spec = json!({"to": [
        item(json!({"kind": "MeshHTTPRoute", "name": "canary"}), http("requestTimeout", "1s")),
        item(json!({"kind": "Mesh"}), http("streamIdleTimeout", "2s")),
        item(json!({"kind": "MeshService", "name": "backend"}), http("requestTimeout", "3s")),
    ]});
    let matched = Proxy::web().matched(&[policy("MeshTimeout", "p", spec)]);
    let ask = |route: Option<&Kri>| with_backend(|target| timeout::outbound(&matched, target, route)).http;
    let canary = Kri::parse("kri_mhttpr_default___canary_rule0").expect("a KRI");
    let other = Kri::parse("kri_mhttpr_default___other_").expect("a KRI");
    assert_eq!(
        (ask(Some(&canary)).request_timeout, ask(Some(&canary)).stream_idle_timeout),
        (secs(1), secs(2))
    );
    assert_eq!((ask(Some(&other)).request_timeout, ask(None).request_timeout), (secs(3), secs(3)));
}

fn spiffe(kind: &str, value: &str) -> Value {
    json!({"spiffeID": {"type": kind, "value": value}})
}

#[test]
fn a_narrower_caller_inherits_what_it_leaves_open() {
    let request = |value: &str| json!({"http": {"requestTimeout": value}});
    let spec = json!({"rules": [
        {"matches": [spiffe("Exact", "spiffe://a/x/y")], "default": {"http": {"streamIdleTimeout": "4s"}}},
        {"matches": [spiffe("Prefix", "spiffe://a/x/")], "default": request("3s")},
        {"default": {"idleTimeout": "1s", "http": {"requestTimeout": "2s"}}},
    ]});
    let proxy = Proxy::web();
    let matched = proxy.matched(&[policy("MeshTimeout", "p", spec)]);
    let rules = timeout::inbound(&matched, &proxy.inbounds[0]);
    let seen: Vec<_> = rules
        .iter()
        .map(|rule| {
            let http = &rule.conf.http;
            let id = rule.matches.as_ref().and_then(|one| one.spiffe.as_ref()).map(SpiffeMatch::value);
            (id, rule.conf.idle_timeout, http.request_timeout, http.stream_idle_timeout)
        })
        .collect();
    assert_eq!(
        seen,
        [
            (Some("spiffe://a/x/y"), secs(1), secs(3), secs(4)),
            (Some("spiffe://a/x/"), secs(1), secs(3), None),
            (None, secs(1), secs(2), None),
        ]
    );
    assert_eq!(rules[0].origins.len(), 1);
}

#[test]
fn inbound_rules_keep_to_the_inbounds_that_are_selected() {
    let proxy = Proxy::web();
    let mode = |top: Value, i: usize| {
        let spec = json!({"targetRef": top, "rules": [{"default": {"mode": "Permissive"}}]});
        tls::inbound(&proxy.matched(&[policy("MeshTLS", "p", spec)]), &proxy.inbounds[i]).is_some()
    };
    for (top, first, second) in [
        (json!({"kind": "Mesh"}), true, true),
        (json!({"kind": "Dataplane", "sectionName": "main"}), true, false),
        (json!({"kind": "Dataplane", "sectionName": "80"}), true, false),
        (json!({"kind": "Dataplane", "sectionName": "81"}), false, true),
        (json!({"kind": "Dataplane", "labels": {"app": "other"}}), false, false),
        (json!({"kind": "MeshSubset", "tags": {"version": "v2"}}), false, true),
        (json!({"kind": "MeshSubset", "tags": {"version": "v2", "app": "web"}}), false, true),
        (json!({"kind": "MeshSubset", "tags": {"kuma.io/zone": "east"}}), true, true),
        (json!({"kind": "MeshService", "name": "other"}), false, false),
    ] {
        assert_eq!((mode(top.clone(), 0), mode(top.clone(), 1)), (first, second), "{top}");
    }
}

#[test]
fn tls_parameters_come_from_policies_of_the_whole_mesh() {
    let proxy = Proxy::web();
    let whole =
        json!({"rules": [{"default": {"mode": "Strict", "tlsVersion": {"min": "TLS12", "max": "TLS13"}}}]});
    let one = json!({"targetRef": {"kind": "Dataplane"}, "rules": [{"default": {"mode": "Permissive"}}]});
    let matched = proxy.matched(&[policy("MeshTLS", "a", whole), policy("MeshTLS", "b", one)]);
    assert_eq!(tls::inbound(&matched, &proxy.inbounds[0]), Some(tls::Mode::Permissive));
    let parameters = tls::parameters(&matched);
    assert_eq!((parameters.min, parameters.max), (Some(tls::Version::Tls12), Some(tls::Version::Tls13)));
    assert_eq!(tls::parameters(&Matched::default()), tls::Parameters::default());
}

fn rule(path: Value, default: Value) -> Value {
    json!({"matches": [{"path": path}], "default": default})
}

fn routes(policies: &[Resource]) -> Vec<http_route::Rule> {
    let matched = Proxy::web().matched(policies);
    with_backend(|target| http_route::outbound(&matched, target))
}

fn route(name: &str, rules: Value) -> Resource {
    let to = json!([{"targetRef": {"kind": "MeshService", "name": "backend"}, "rules": rules}]);
    policy("MeshHTTPRoute", name, json!({"to": to}))
}

#[test]
fn routes_stand_in_the_order_in_which_envoy_tries_them() {
    let path = |kind: &str, value: &str| json!({"type": kind, "value": value});
    let rules = json!([
        {"matches": [{"headers": [{"name": "X-A", "value": "1"}]}], "default": {}},
        rule(path("PathPrefix", "/"), json!({})),
        rule(path("PathPrefix", "/a"), json!({})),
        rule(path("RegularExpression", "/.*"), json!({})),
        rule(path("PathPrefix", "/a/b"), json!({})),
        {"matches": [{"path": path("PathPrefix", "/a")}, {"path": path("PathPrefix", "/a"), "method": "GET"}], "default": {}},
        rule(path("Exact", "/a"), json!({})),
    ]);
    let seen: Vec<String> = routes(&[route("r", rules)])
        .iter()
        .map(|rule| {
            let path = match &rule.matches.path {
                None => "",
                Some(
                    PathMatch::Exact(path) | PathMatch::PathPrefix(path) | PathMatch::RegularExpression(path),
                ) => path,
            };
            let headers: Vec<&str> = rule.matches.headers.iter().map(|header| header.name.as_str()).collect();
            format!(
                "{path} {} {}",
                rule.matches.method.map_or("", |method| method.as_str()),
                headers.join(",")
            )
        })
        .collect();
    assert_eq!(seen, ["/a  ", "/a/b  ", "/a GET ", "/a  ", "/a  ", "/.*  ", "  x-a", "/  "]);
}

#[test]
fn rules_with_the_same_matches_merge_and_the_stronger_route_owns_them() {
    let path = json!({"type": "PathPrefix", "value": "/v1"});
    let backend =
        |name: &str, weight: u32| json!({"kind": "MeshService", "name": name, "port": 80, "weight": weight});
    let filter = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["server"]}});
    let mirror = json!({"type": "RequestMirror", "requestMirror": {"percentage": "0.5", "backendRef": {"kind": "MeshService", "name": "copy"}}});
    let weak = route(
        "weak",
        json!([rule(path.clone(), json!({"filters": [filter], "backendRefs": [backend("x", 1)]}))]),
    );
    let strong =
        route("strong", json!([rule(path, json!({"backendRefs": [backend("a", 90), backend("b", 10)]}))]));
    let rules = routes(&[weak.clone(), strong.clone()]);
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0].route.name, "strong");
    let weights: Vec<_> =
        rules[0].backends.iter().map(|one| (one.backend.name.as_str(), one.weight)).collect();
    assert_eq!(weights, [("a", 90), ("b", 10)]);
    assert!(matches!(rules[0].filters.as_slice(), [Filter::ResponseHeaders(_)]));
    let mirrored = route("mirrored", json!([{"default": {"filters": [mirror]}}]));
    let backends: Vec<BackendRef> =
        compile(&[strong, mirrored.clone()]).iter().flat_map(|policy| policy.backends()).collect();
    let names: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "copy"]);
    let rules = routes(&[mirrored]);
    assert_eq!(rules[0].matches, http_route::HttpMatch::default());
    match &rules[0].filters[0] {
        Filter::Mirror(mirror) => assert_eq!(mirror.percentage.fraction(), (50, 10_000)),
        other => panic!("{other:?}"),
    }
    assert!(routes(&[]).is_empty());
}

#[test]
fn faults_apply_once_to_a_request() {
    let fault = |status: u16| json!({"http": [{"abort": {"httpStatus": status, "percentage": "62.9"}}]});
    let spec = json!({"from": [
        {"targetRef": {"kind": "Mesh"}, "default": fault(500)},
        {"targetRef": {"kind": "MeshService", "name": "client"}, "default": fault(503)},
        {"targetRef": {"kind": "MeshService", "name": "spared"}, "default": {"http": []}},
    ]});
    let proxy = Proxy::web();
    let rules = fault_injection::inbound(
        &proxy.matched(&[policy("MeshFaultInjection", "p", spec)]),
        &proxy.inbounds[0],
    );
    let service = |name: &str| Match { tags: map(&[("kuma.io/service", name)]), ..Match::default() };
    let statuses: Vec<_> =
        rules.iter().map(|rule| rule.faults[0].abort.as_ref().map(|abort| abort.http_status)).collect();
    assert_eq!(statuses, [Some(503), Some(500)]);
    assert_eq!(rules[0].from, Principal::from(service("client")));
    assert_eq!(
        rules[1].from,
        Principal { peer: Match::default(), except: vec![service("client"), service("spared")] }
    );
    let percentage = rules[0].faults[0].abort.as_ref().map(|abort| abort.percentage.fraction());
    assert_eq!(percentage, Some((6290, 10_000)));
    let uris: Vec<String> = service("client").tag_uris().collect();
    assert_eq!(uris, ["kuma://kuma.io/service/client"]);
}

#[test]
fn permissions_of_all_rules_add_up() {
    let proxy = Proxy::web();
    let allow = json!({"rules": [{"default": {"allow": [spiffe("Prefix", "spiffe://a/")]}}]});
    let deny = json!({
        "targetRef": {"kind": "Dataplane", "name": "web-1"},
        "rules": [{"default": {
            "deny": [spiffe("Exact", "spiffe://a/x")],
            "allowWithShadowDeny": [spiffe("Exact", "spiffe://b/y")],
            "allow": [spiffe("Prefix", "spiffe://a/")],
        }}],
    });
    let kind = "MeshTrafficPermission";
    let permissions = traffic_permission::inbound(
        &proxy.matched(&[policy(kind, "a", allow), policy(kind, "b", deny)]),
        &proxy.inbounds[0],
    );
    let one = |spiffe: SpiffeMatch| vec![Principal::from(Match { spiffe: Some(spiffe), ..Match::default() })];
    assert_eq!(permissions.deny, one(SpiffeMatch::Exact("spiffe://a/x".into())));
    assert_eq!(permissions.shadow_deny, one(SpiffeMatch::Exact("spiffe://b/y".into())));
    assert_eq!(permissions.allow, one(SpiffeMatch::Prefix("spiffe://a/".into())));
    let nothing = traffic_permission::inbound(&Matched::default(), &proxy.inbounds[0]);
    assert_eq!(nothing, traffic_permission::Permissions::default());
}

#[test]
fn matched_policies_are_shared_and_named() {
    let policies: Vec<Arc<Policy>> =
        compile(&[idle("b", json!({"kind": "Mesh"}), 1), idle("a", json!({"kind": "Mesh"}), 2)]);
    let matched = Matched::of(&policies, &Proxy::web().facts());
    let names: Vec<&str> = matched.iter().map(|policy| policy.key.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!(matched.keys().len(), 2);
}
