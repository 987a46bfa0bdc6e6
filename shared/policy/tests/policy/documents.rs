//! What is refused, with which path and reason, and what of Kuma 2.x is taken.
use crate::common::policy;
use serde_json::{Value, json};
use shared_policy::{validate, warnings};

fn problems(kind: &str, spec: Value) -> Vec<String> {
    validate(&policy(kind, "p", spec)).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn refused(kind: &str, spec: Value, starts: &[&str]) {
    let found = problems(kind, spec);
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found:?} does not start with {start:?}");
    }
}

#[track_caller]
fn taken(kind: &str, spec: Value) {
    assert_eq!(problems(kind, spec), Vec::<String>::new());
}

#[test]
fn a_problem_is_named_with_its_path() {
    let to_mesh = |conf: Value| json!({"to": [{"targetRef": {"kind": "Mesh"}, "default": conf}]});
    refused(
        "MeshTimeout",
        to_mesh(json!({"http": {"requestTimeout": "5"}})),
        &["spec.to[0].default.http.requestTimeout: \"5\" is not a duration"],
    );
    refused(
        "MeshTimeout",
        to_mesh(json!({"http": {"requestTimeuot": "5s"}})),
        &["spec.to[0].default.http.requestTimeuot: unknown field"],
    );
    refused(
        "MeshTimeout",
        to_mesh(json!({"connectionTimeout": "0s"})),
        &["spec.to[0].default.connectionTimeout: must be"],
    );
    refused(
        "MeshTimeout",
        to_mesh(json!({"connectionTimeout": null})),
        &["spec.to[0].default: sets no timeout"],
    );
    refused(
        "MeshTimeout",
        json!({"to": [{"targetRef": {"kind": "Mesh"}}]}),
        &["spec.to[0].default: is missing"],
    );
    refused(
        "MeshTimeout",
        json!({"to": [{"default": {"idleTimeout": "1s"}}]}),
        &["spec.to[0].targetRef: is missing"],
    );
    refused(
        "MeshTimeout",
        json!({"to": [{"targetRef": {"kind": "MeshService"}, "default": {"idleTimeout": "1s"}}]}),
        &["spec.to[0].targetRef.name: is missing"],
    );
    refused(
        "MeshTimeout",
        json!({"to": [], "sepc": 1}),
        &["spec.sepc: unknown field", "spec.to: cannot be empty"],
    );
    refused("MeshTimeout", json!({}), &["spec: needs to or rules or from"]);
    refused("MeshTimeout", json!({"to": {}}), &["spec.to: must be a list"]);
}

#[test]
fn all_problems_are_reported_at_once() {
    let spec = json!({
        "targetRef": {"kind": "Dataplan"},
        "to": [
            {"targetRef": {"kind": "Mesh"}, "default": {"idleTimeout": "x"}},
            {"targetRef": {"kind": "MeshGateway", "name": "g"}, "default": {"idleTimeout": "y"}, "extra": 1},
        ],
        "rules": [{"matches": [{"spiffeID": {"type": "Exakt", "value": "spiffe://a/b"}}], "default": {"idleTimeout": "z"}}],
    });
    refused(
        "MeshTimeout",
        spec,
        &[
            "spec.targetRef.kind: \"Dataplan\" cannot stand here",
            "spec.to[0].default.idleTimeout: ",
            "spec.to[1].extra: unknown field",
            "spec.to[1].targetRef.kind: MeshGateway is a kind of Kuma 2.x that is gone",
            "spec.to[1].default.idleTimeout: ",
            "spec.rules[0].matches[0].spiffeID.type: unknown variant `Exakt`",
            "spec.rules[0].default.idleTimeout: ",
        ],
    );
}

#[test]
fn what_would_have_no_effect_is_refused() {
    let rule = json!({"default": {"http": [{"abort": {"httpStatus": 500, "percentage": 1}}]}});
    refused(
        "MeshFaultInjection",
        json!({"to": [rule]}),
        &["spec.to: MeshFaultInjection has no to: write rules or from"],
    );
    let idle = json!({"idleTimeout": "1s"});
    let route = json!({"to": [{"targetRef": {"kind": "MeshHTTPRoute", "name": "r"}, "default": idle}]});
    refused("MeshTimeout", route, &["spec.to[0].default.idleTimeout: cannot differ by route"]);
    let caller = json!({"rules": [{"matches": [{"spiffeID": {"type": "Exact", "value": "spiffe://a/b"}}], "default": idle}]});
    refused("MeshTimeout", caller, &["spec.rules[0].default.idleTimeout: cannot differ by caller"]);
    let sectioned = json!({
        "targetRef": {"kind": "Dataplane", "sectionName": "main"},
        "to": [{"targetRef": {"kind": "Mesh"}, "default": idle}],
    });
    refused("MeshTimeout", sectioned, &["spec.targetRef.sectionName: selects one inbound"]);
    let both = json!({
        "rules": [{"default": idle}],
        "from": [{"targetRef": {"kind": "Mesh"}, "default": idle}],
    });
    refused("MeshTimeout", both, &["spec: from and rules cannot both be given"]);
    let gateways = json!({
        "targetRef": {"kind": "Mesh", "proxyTypes": ["Gateway"]},
        "rules": [{"default": idle}],
    });
    refused("MeshTimeout", gateways, &["spec.targetRef.proxyTypes: selects built-in gateways"]);
}

#[test]
fn ranges_of_faults_are_checked() {
    let faults = |fault: Value| json!({"rules": [{"default": {"http": [fault]}}]});
    let abort =
        |status: u16, percentage: Value| json!({"abort": {"httpStatus": status, "percentage": percentage}});
    for percentage in [json!(0), json!(100), json!("12.5"), json!(33.3), json!("0.0001")] {
        taken("MeshFaultInjection", faults(abort(503, percentage)));
    }
    for percentage in
        [json!(101), json!(-1), json!("100.1"), json!("x"), json!("0.00001"), json!("1e1"), json!("")]
    {
        refused(
            "MeshFaultInjection",
            faults(abort(503, percentage)),
            &["spec.rules[0].default.http[0].abort.percentage: "],
        );
    }
    for status in [199, 600, 0] {
        refused(
            "MeshFaultInjection",
            faults(abort(status, json!(1))),
            &["spec.rules[0].default.http[0].abort.httpStatus: "],
        );
    }
    let limit = |limit: &str| faults(json!({"responseBandwidth": {"limit": limit, "percentage": 1}}));
    taken("MeshFaultInjection", limit("50Mbps"));
    for bad in ["50", "Mbps", "0kbps", "5 mbps", "5.5Mbps", "99999999999999999999Gbps"] {
        refused(
            "MeshFaultInjection",
            limit(bad),
            &["spec.rules[0].default.http[0].responseBandwidth.limit: "],
        );
    }
    refused("MeshFaultInjection", faults(json!({})), &["spec.rules[0].default.http[0]: needs abort, delay"]);
}

fn route(rule: Value) -> Value {
    json!({"to": [{"targetRef": {"kind": "MeshService", "name": "backend"}, "rules": [rule]}]})
}

#[test]
fn matches_of_routes_are_checked() {
    let one = |one: Value| route(json!({"matches": [one], "default": {}}));
    let at = |path: &str| format!("spec.to[0].rules[0].matches[0].{path}: ");
    for (bad, path) in [
        (json!({"path": {"type": "PathPrefix", "value": "v1"}}), "path.value"),
        (json!({"path": {"type": "PathPrefix", "value": "/v1/"}}), "path.value"),
        (json!({"path": {"type": "RegularExpression", "value": "/("}}), "path.value"),
        (json!({"path": {"type": "Prefix", "value": "/"}}), "path.type"),
        (json!({"method": "FETCH"}), "method"),
        (json!({"headers": [{"name": "a b", "value": "x"}]}), "headers[0].name"),
        (json!({"headers": [{"name": "a", "type": "Present", "value": "x"}]}), "headers[0].value"),
        (json!({"headers": [{"name": "a"}]}), "headers[0].value"),
        (json!({"queryParams": [{"name": "a", "type": "Prefix", "value": "x"}]}), "queryParams[0].type"),
        (json!({"queryParam": []}), "queryParam"),
    ] {
        refused("MeshHTTPRoute", one(bad), &[&at(path)]);
    }
    taken("MeshHTTPRoute", one(json!({"path": {"type": "PathPrefix", "value": "/"}})));
    refused(
        "MeshHTTPRoute",
        json!({"to": [{"targetRef": {"kind": "MeshService", "name": "b"}, "rules": []}]}),
        &["spec.to[0].rules: cannot be empty"],
    );
    refused(
        "MeshHTTPRoute",
        json!({"to": [{"targetRef": {"kind": "Mesh"}, "rules": [{"default": {}}]}]}),
        &["spec.to[0].targetRef.kind: \"Mesh\" cannot stand here: MeshService"],
    );
    let hostnames = json!({"to": [{
        "targetRef": {"kind": "MeshService", "name": "b"}, "hostnames": ["a"], "rules": [{"default": {}}],
    }]});
    refused("MeshHTTPRoute", hostnames, &["spec.to[0].hostnames: unknown field"]);
}

#[test]
fn filters_and_backends_of_routes_are_checked() {
    let prefix = json!([{"path": {"type": "PathPrefix", "value": "/v1"}}]);
    let conf = |default: Value| route(json!({"matches": prefix, "default": default}));
    let at = |path: &str| format!("spec.to[0].rules[0].default.{path}");
    let filter = |filter: Value| json!({"filters": [filter]});
    for (bad, path) in [
        (filter(json!({"type": "RequestMiror"})), "filters[0].type: unknown variant"),
        (filter(json!({"type": "RequestMirror"})), "filters[0].requestMirror: is missing"),
        (
            filter(json!({"type": "RequestRedirect", "requestRedirect": {"statusCode": 200}})),
            "filters[0].requestRedirect.statusCode: ",
        ),
        (
            filter(json!({"type": "RequestRedirect", "requestRedirect": {"port": 0}})),
            "filters[0].requestRedirect.port: ",
        ),
        (
            filter(json!({"type": "RequestRedirect", "requestRedirect": {"port": 70000}})),
            "filters[0].requestRedirect.port: ",
        ),
        (
            filter(json!({"type": "RequestRedirect", "requestRedirect": {"hostname": "A_b"}})),
            "filters[0].requestRedirect.hostname: ",
        ),
        (filter(json!({"type": "URLRewrite", "urlRewrite": {}})), "filters[0].urlRewrite: rewrites nothing"),
        (
            filter(
                json!({"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "x"}}}),
            ),
            "filters[0].urlRewrite.path.replaceFullPath: ",
        ),
        (
            filter(
                json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a:", "value": ""}]}}),
            ),
            "filters[0].requestHeaderModifier.set[0].name: ",
        ),
        (
            filter(
                json!({"type": "RequestMirror", "requestMirror": {"percentage": 101, "backendRef": {"kind": "MeshService", "name": "a"}}}),
            ),
            "filters[0].requestMirror.percentage: ",
        ),
        (json!({"backendRefs": [{"kind": "MeshService"}]}), "backendRefs[0].name: "),
        (
            json!({"backendRefs": [{"kind": "MeshService", "name": "a", "weight": -1}]}),
            "backendRefs[0].weight: ",
        ),
        (
            json!({"backendRefs": [{"kind": "MeshService", "name": "a", "weight": 0}]}),
            "backendRefs: all weights are 0",
        ),
        (json!({"backendRefs": [{"kind": "MeshService", "name": "a", "port": 0}]}), "backendRefs[0].port: "),
        (
            json!({"backendRefs": [{"kind": "MeshServiceSubset", "name": "a", "tags": {"version": "v1"}}]}),
            "backendRefs[0].kind: MeshServiceSubset of Kuma 2.x is gone",
        ),
        (
            json!({"backendRefs": [{"kind": "MeshExternalService", "name": "a"}]}),
            "backendRefs[0].kind: MeshExternalService is known",
        ),
    ] {
        refused("MeshHTTPRoute", conf(bad), &[&at(path)]);
    }
    let rewrite = json!({"filters": [{
        "type": "URLRewrite",
        "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2"}},
    }]});
    taken("MeshHTTPRoute", conf(rewrite.clone()));
    let exact = route(json!({"matches": [{"path": {"type": "Exact", "value": "/v1"}}], "default": rewrite}));
    refused("MeshHTTPRoute", exact, &["spec.to[0].rules[0].default.filters[0].urlRewrite.path.type: "]);
}

#[test]
fn permissions_name_whom_they_are_about() {
    let lists = |conf: Value| json!({"rules": [{"default": conf}]});
    taken(
        "MeshTrafficPermission",
        lists(json!({"allow": [{"spiffeID": {"type": "Prefix", "value": "spiffe://a/"}}]})),
    );
    refused("MeshTrafficPermission", lists(json!({})), &["spec.rules[0].default: names nobody"]);
    refused(
        "MeshTrafficPermission",
        lists(json!({"allow": [{}]})),
        &["spec.rules[0].default.allow[0]: needs a spiffeID"],
    );
    refused(
        "MeshTrafficPermission",
        lists(json!({"deny": [{"spiffeID": {"type": "Exact", "value": "web"}}]})),
        &["spec.rules[0].default.deny[0].spiffeID.value: \"web\" is not a SPIFFE id"],
    );
    let from =
        |action: &str| json!({"from": [{"targetRef": {"kind": "Mesh"}, "default": {"action": action}}]});
    taken("MeshTrafficPermission", from("AllowWithShadowDeny"));
    refused(
        "MeshTrafficPermission",
        from("ALLOW"),
        &["spec.from[0].default.action: unknown variant `ALLOW`"],
    );
}

#[test]
fn forms_of_2x_are_taken_with_a_warning() {
    let spec = json!({
        "targetRef": {"kind": "MeshSubset", "tags": {"version": "v1"}},
        "from": [
            {"targetRef": {"kind": "Mesh"}, "default": {"action": "Deny"}},
            {"targetRef": {"kind": "MeshServiceSubset", "name": "web", "tags": {"a": "b"}}, "default": {"action": "Allow"}},
        ],
    });
    let document = policy("MeshTrafficPermission", "p", spec);
    assert_eq!(validate(&document), Vec::new());
    let warnings = warnings(&document);
    let starts: Vec<&str> = warnings.iter().filter_map(|text| text.split(':').next()).collect();
    assert_eq!(starts, ["spec.targetRef", "spec.from", "spec.from[1].targetRef"]);
}

#[test]
fn every_supported_kind_is_validated() {
    for kind in shared_model::kind::KINDS.iter().filter(|kind| kind.policy) {
        let found = problems(kind.name, json!({}));
        assert!(!found.is_empty(), "{}", kind.name);
        assert_eq!(kind.supported, found[0].starts_with("spec:"), "{found:?}");
    }
    assert!(!problems("Mesh", json!({"mtls": {"enabledBackend": "absent"}})).is_empty());
}
