//! Laws of merging, over random policies.
use crate::common::{Proxy, compile, map, policy, with_backend};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared_model::{Resource, labels};
use shared_policy::{
    Match, Matched, Principal,
    kinds::{fault_injection, http_route, timeout, tls, traffic_permission},
};
use std::collections::BTreeMap;

type Tags = BTreeMap<String, String>;

fn top() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"kind": "Mesh"})),
        Just(json!({"kind": "Dataplane", "labels": {"app": "web"}})),
        Just(json!({"kind": "Dataplane", "name": "web-1"})),
        Just(json!({"kind": "MeshSubset", "tags": {"version": "v1"}})),
        Just(json!({"kind": "MeshService", "name": "web"})),
    ]
}

fn tags() -> impl Strategy<Value = Tags> {
    proptest::collection::btree_map("[ab]", "[xy]", 1..3)
}

fn caller() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"kind": "Mesh"})),
        tags().prop_map(|tags| json!({"kind": "MeshSubset", "tags": tags}))
    ]
}

fn timeouts() -> impl Strategy<Value = Value> {
    let http =
        |field: &'static str| (1u8..9).prop_map(move |secs| json!({"http": {field: format!("{secs}s")}}));
    prop_oneof![http("requestTimeout"), http("streamIdleTimeout")]
}

fn rules() -> impl Strategy<Value = Value> {
    let spiffe = prop_oneof![
        Just(json!({"spiffeID": {"type": "Exact", "value": "spiffe://a/x"}})),
        Just(json!({"spiffeID": {"type": "Prefix", "value": "spiffe://a/"}})),
        Just(
            json!({"spiffeID": {"type": "Prefix", "value": "spiffe://"}, "sni": {"type": "Exact", "value": "s"}})
        ),
        Just(json!({"sni": {"type": "Exact", "value": "s"}})),
    ];
    let matches = proptest::collection::vec(spiffe, 0..3);
    let rule = (matches, timeouts()).prop_map(|(matches, conf)| json!({"matches": matches, "default": conf}));
    proptest::collection::vec(rule, 1..4).prop_map(|rules| json!({"rules": rules}))
}

fn to() -> impl Strategy<Value = Value> {
    let target = prop_oneof![
        Just(json!({"kind": "Mesh"})),
        Just(json!({"kind": "MeshService", "name": "backend"})),
        Just(json!({"kind": "MeshService", "name": "backend", "sectionName": "http"})),
        Just(json!({"kind": "MeshService", "labels": {"team": "a"}})),
    ];
    let item = (target, timeouts()).prop_map(|(target, conf)| json!({"targetRef": target, "default": conf}));
    proptest::collection::vec(item, 1..4).prop_map(|items| json!({"to": items}))
}

fn routes() -> impl Strategy<Value = Value> {
    let rule = ("/[ab]", "[xyz]").prop_map(|(path, backend)| {
        let backends = json!([{"kind": "MeshService", "name": backend}]);
        json!({"matches": [{"path": {"type": "PathPrefix", "value": path}}], "default": {"backendRefs": backends}})
    });
    proptest::collection::vec(rule, 1..3).prop_map(
        |rules| json!({"to": [{"targetRef": {"kind": "MeshService", "name": "backend"}, "rules": rules}]}),
    )
}

fn permissions() -> impl Strategy<Value = Value> {
    let action = prop_oneof![Just("Allow"), Just("Deny"), Just("AllowWithShadowDeny")];
    let item = (caller(), action)
        .prop_map(|(caller, action)| json!({"targetRef": caller, "default": {"action": action}}));
    proptest::collection::vec(item, 1..5).prop_map(|items| json!({"from": items}))
}

fn faults() -> impl Strategy<Value = Value> {
    let item = (caller(), 500u16..504).prop_map(|(caller, status)| {
        json!({"targetRef": caller, "default": {"http": [{"abort": {"httpStatus": status, "percentage": 1}}]}})
    });
    proptest::collection::vec(item, 1..4).prop_map(|items| json!({"from": items}))
}

fn modes() -> impl Strategy<Value = Value> {
    prop_oneof![Just("Strict"), Just("Permissive")]
        .prop_map(|mode| json!({"rules": [{"default": {"mode": mode}}]}))
}

fn one() -> impl Strategy<Value = (Resource, bool)> {
    let spec = prop_oneof![
        rules().prop_map(|spec| ("MeshTimeout", spec)),
        to().prop_map(|spec| ("MeshTimeout", spec)),
        routes().prop_map(|spec| ("MeshHTTPRoute", spec)),
        permissions().prop_map(|spec| ("MeshTrafficPermission", spec)),
        faults().prop_map(|spec| ("MeshFaultInjection", spec)),
        modes().prop_map(|spec| ("MeshTLS", spec)),
    ];
    (spec, top(), any::<bool>()).prop_map(|((kind, mut spec), top, zone)| {
        spec["targetRef"] = top;
        (policy(kind, "", spec), zone)
    })
}

/// Policies with names of their own.
fn policies() -> impl Strategy<Value = Vec<Resource>> {
    proptest::collection::vec(one(), 0..7).prop_map(|drawn| {
        let named = drawn.into_iter().enumerate().map(|(i, (mut policy, zone))| {
            policy.name = format!("p{i}");
            if zone {
                policy.with_label(labels::ORIGIN, "zone").with_label(labels::ZONE, "east")
            } else {
                policy
            }
        });
        named.collect()
    })
}

/// Everything that can be asked.
fn answers(proxy: &Proxy, matched: &Matched) -> String {
    let outbound = with_backend(|target| {
        (timeout::outbound(matched, target, None), http_route::outbound(matched, target))
    });
    let inbound: Vec<_> = proxy
        .inbounds
        .iter()
        .map(|inbound| {
            (
                timeout::inbound(matched, inbound),
                fault_injection::inbound(matched, inbound),
                traffic_permission::inbound(matched, inbound),
                tls::inbound(matched, inbound),
            )
        })
        .collect();
    format!("{outbound:?} {inbound:?}")
}

fn holds(one: &Match, caller: &Tags) -> bool {
    one.spiffe.is_none()
        && one.sni.is_none()
        && one.tags.iter().all(|(key, value)| caller.get(key) == Some(value))
}

fn includes(principal: &Principal, caller: &Tags) -> bool {
    holds(&principal.peer, caller) && !principal.except.iter().any(|except| holds(except, caller))
}

/// Every caller that the tags of [`tags`] can tell apart.
fn callers() -> Vec<Tags> {
    let mut callers = Vec::new();
    for a in ["", "x", "y"] {
        for b in ["", "x", "y"] {
            callers.push(
                map(&[("a", a), ("b", b)]).into_iter().filter(|(_, value)| !value.is_empty()).collect(),
            );
        }
    }
    callers
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter_nor_does_one_that_comes_twice(
        (policies, shuffled) in policies().prop_flat_map(|policies| (Just(policies.clone()), Just(policies).prop_shuffle())),
        again in any::<bool>(),
    ) {
        let proxy = Proxy::web();
        let matched = proxy.matched(&policies);
        let (mut shuffled, twice) = (compile(&shuffled), compile(&policies));
        if again {
            shuffled.extend(twice);
        }
        let other = Matched::of(&shuffled, &proxy.facts());
        prop_assert_eq!(&matched, &other);
        prop_assert_eq!(answers(&proxy, &matched), answers(&proxy, &other));
    }

    #[test]
    fn what_is_drawn_is_valid_and_selected_as_it_says(policies in policies()) {
        let proxy = Proxy::web();
        let expected = compile(&policies).iter().filter(|policy| policy.selects(&proxy.facts())).count();
        prop_assert_eq!(proxy.matched(&policies).keys().len(), expected);
    }

    /// The translation of `from` against its meaning: the last item that names the caller decides.
    #[test]
    fn permissions_of_2x_mean_what_they_meant(spec in permissions()) {
        let proxy = Proxy::web();
        let matched = proxy.matched(&[policy("MeshTrafficPermission", "p", spec.clone())]);
        let permissions = traffic_permission::inbound(&matched, &proxy.inbounds[0]);
        for caller in callers() {
            let named = |item: &&Value| {
                let tags: Tags = serde_json::from_value(item["targetRef"]["tags"].clone()).unwrap_or_default();
                holds(&Match { tags, ..Match::default() }, &caller)
            };
            let items = spec["from"].as_array().expect("a list");
            let expected = items.iter().rfind(named).map(|item| item["default"]["action"].as_str().expect("text"));
            let lists =
                [("Deny", &permissions.deny), ("AllowWithShadowDeny", &permissions.shadow_deny), ("Allow", &permissions.allow)];
            let decided: Vec<&str> = lists
                .iter()
                .filter(|(_, list)| list.iter().any(|principal| includes(principal, &caller)))
                .map(|(action, _)| *action)
                .collect();
            prop_assert_eq!(decided, Vec::from_iter(expected), "{:?} {:?}", caller, permissions);
        }
    }

    #[test]
    fn at_most_one_rule_of_faults_applies_to_a_caller(spec in faults()) {
        let proxy = Proxy::web();
        let rules = fault_injection::inbound(&proxy.matched(&[policy("MeshFaultInjection", "p", spec.clone())]), &proxy.inbounds[0]);
        for caller in callers() {
            let named = |item: &&Value| {
                let tags: Tags = serde_json::from_value(item["targetRef"]["tags"].clone()).unwrap_or_default();
                holds(&Match { tags, ..Match::default() }, &caller)
            };
            let last = spec["from"].as_array().expect("a list").iter().rfind(named);
            let expected = last.map(|item| item["default"]["http"][0]["abort"]["httpStatus"].as_u64().expect("a number"));
            let applied: Vec<u64> = rules
                .iter()
                .filter(|rule| includes(&rule.from, &caller))
                .map(|rule| u64::from(rule.faults[0].abort.as_ref().expect("an abort").http_status))
                .collect();
            prop_assert_eq!(applied, Vec::from_iter(expected));
        }
    }

    /// A rule never stands behind one that takes all of its connections.
    #[test]
    fn the_first_rule_that_matches_is_the_narrowest(spec in rules()) {
        let proxy = Proxy::web();
        let matched = proxy.matched(&[policy("MeshTimeout", "p", spec)]);
        let rules = timeout::inbound(&matched, &proxy.inbounds[0]);
        let peers: Vec<Match> = rules.iter().map(|rule| rule.matches.clone().unwrap_or_default()).collect();
        for (i, narrow) in peers.iter().enumerate() {
            for wide in &peers[..i] {
                prop_assert!(!wide.covers(narrow), "{:?} before {:?}", wide, narrow);
                if let Some(both) = wide.overlap(narrow) {
                    prop_assert!(peers[..=i].contains(&both), "{both:?} is missing");
                }
            }
        }
    }
}
