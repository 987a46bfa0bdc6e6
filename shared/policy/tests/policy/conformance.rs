//! Kuma's published cases that lie in this crate's field, when they are at hand beside the repository.
use crate::common::map;
use serde_json::Value;
use shared_model::{Resource, core::Dataplane, document, kind};
use shared_policy::{
    InboundFacts, Match, Matched, Policy, Principal, ProxyFacts, Target,
    kinds::{timeout, traffic_permission},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The folders of a set whose name starts so; `None` when there is no data.
fn cases(set: &str, prefix: &str) -> Option<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance").join(set);
    let Ok(entries) = root.read_dir() else {
        println!("skipped: no conformance data in {set}");
        return None;
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect();
    paths.sort();
    Some(paths)
}

fn file(case: &Path, ends: &str) -> Option<String> {
    let mut paths: Vec<PathBuf> =
        case.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let path = paths.into_iter().find(|path| path.to_string_lossy().ends_with(ends))?;
    std::fs::read_to_string(path).ok()
}

fn yaml(case: &Path, ends: &str) -> Option<Value> {
    document::parse(&file(case, ends)?).ok()
}

/// The resources of a file; `None` when one is of a kind that is not supported, which puts the case out of this field.
fn resources(text: &str) -> Option<Vec<Resource>> {
    document::read_all(text).into_iter().map(|document| document.content.ok()).collect()
}

/// The policies of a file, each under a name of its own: the data repeats names.
fn policies(resources: &[Resource]) -> Option<Vec<Arc<Policy>>> {
    let policies = resources.iter().filter(|one| kind::by_name(&one.kind).is_some_and(|kind| kind.policy));
    let compiled = policies.enumerate().map(|(i, policy)| {
        let mut policy = policy.clone().with_label("kuma.io/display-name", policy.display_name());
        policy.name = format!("{}-{i}", policy.name);
        Policy::compile(&policy).ok().map(Arc::new)
    });
    compiled.collect()
}

fn inbounds(dataplane: &Dataplane) -> Vec<InboundFacts> {
    let facts = dataplane.networking.inbound.iter().map(|inbound| InboundFacts {
        address: dataplane.inbound_address(inbound).to_owned(),
        port: inbound.port,
        section: inbound.section(),
        protocol: inbound.protocol(),
        tags: inbound.tags.clone(),
    });
    facts.collect()
}

#[test]
fn documents_are_refused_for_the_same_fields() {
    let Some(cases) = cases("validators", "MeshTLS") else { return };
    for case in cases {
        let spec = yaml(&case, ".input.yaml").expect("a spec");
        let expected = yaml(&case, ".output.yaml");
        let found = shared_policy::validate(&Resource::new("MeshTLS", "default", "test", spec));
        let violations = expected.as_ref().and_then(|expected| expected["violations"].as_array());
        assert_eq!(violations.is_none(), found.is_empty(), "{case:?}: {found:?}");
        for field in violations.into_iter().flatten().filter_map(|violation| violation["field"].as_str()) {
            assert!(
                found.iter().any(|problem| problem.path == field),
                "{case:?}: {field} is not in {found:?}"
            );
        }
    }
}

#[test]
fn policies_are_selected_and_ordered_alike() {
    let Some(mut all) = cases("matchers", "dataplanepolicies__") else { return };
    all.extend(cases("matchers", "dataplane-kind__").unwrap_or_default());
    let mut compared = 0;
    for case in all {
        let variants = file(&case, "uni-zone.golden.yaml").is_some();
        let golden = yaml(&case, if variants { "uni-zone.golden.yaml" } else { ".golden.yaml" });
        let (Some(golden), Some(dataplane), Some(text)) =
            (golden, file(&case, ".dataplane.yaml"), file(&case, ".policies.yaml"))
        else {
            continue;
        };
        let (Some(dataplane), Some(mut resources)) = (resources(&dataplane), resources(&text)) else {
            println!("skipped: {case:?} has kinds that are not supported");
            continue;
        };
        if variants {
            for one in &mut resources {
                let placed = map(&[("kuma.io/origin", "zone"), ("kuma.io/zone", "zone-uni")]);
                one.labels.extend(placed);
            }
        }
        let Some(policies) = policies(&resources) else {
            println!("skipped: {case:?} has forms that are refused");
            continue;
        };
        let Ok(spec) = serde_json::from_value::<Dataplane>(dataplane[0].spec.clone()) else {
            println!("skipped: {case:?} is about a gateway");
            continue;
        };
        let inbounds = inbounds(&spec);
        let facts = ProxyFacts {
            mesh: &dataplane[0].mesh,
            name: &dataplane[0].name,
            zone: "zone-uni",
            labels: &dataplane[0].labels,
            inbounds: &inbounds,
        };
        let matched = Matched::of(&policies, &facts);
        let seen: Vec<Value> = matched
            .iter()
            .map(|policy| {
                let place: usize =
                    policy.key.name.rsplit('-').next().and_then(|i| i.parse().ok()).expect("a number");
                resources[place].spec.clone()
            })
            .collect();
        let expected: Vec<Value> =
            golden["items"].as_array().into_iter().flatten().map(|item| item["spec"].clone()).collect();
        assert_eq!(seen, expected, "{case:?}");
        compared += 1;
    }
    assert!(compared > 5, "{compared}");
}

#[test]
fn timeouts_to_services_and_routes_merge_alike() {
    let Some(cases) = cases("rules", "resourcerules__mt_") else { return };
    let mut compared = 0;
    for case in cases {
        let input = file(&case, ".input.yaml").expect("an input");
        let golden = yaml(&case, "/global-uni.golden.yaml").expect("a golden");
        let Some(resources) = resources(&input) else { continue };
        let Some(policies) = policies(&resources) else { continue };
        let labels = BTreeMap::new();
        let facts = ProxyFacts { mesh: "mesh-1", name: "p", zone: "z", labels: &labels, inbounds: &[] };
        let matched = Matched::of(&policies, &facts);
        for (kri, rule) in golden.as_object().into_iter().flatten() {
            let kri = shared_model::Kri::parse(kri).expect("a KRI");
            let service = shared_model::Kri { short: "msvc".into(), name: "backend".into(), ..kri.clone() };
            let (asked, route) = match kri.short.as_str() {
                "msvc" => (kri.clone(), None),
                "mhttpr" => (service, Some(&kri)),
                _ => continue,
            };
            let target = Target { kri: &asked, port: 80, labels: &labels, service_tag: None };
            let conf = timeout::outbound(&matched, &target, route);
            let expected: timeout::Conf = serde_json::from_value(rule["Conf"][0].clone()).expect("timeouts");
            assert_eq!(conf, expected, "{case:?} {kri}");
            compared += 1;
        }
    }
    assert!(compared > 5, "{compared}");
}

#[test]
fn permissions_of_2x_decide_alike() {
    let Some(mut all) = cases("rules", "from__") else { return };
    all.extend(cases("matchers", "fromrules__").unwrap_or_default());
    let mut compared = 0;
    for case in all {
        let Some(golden) = yaml(&case, ".golden.yaml") else { continue };
        let text = file(&case, ".input.yaml").or_else(|| file(&case, ".policies.yaml")).expect("policies");
        let Some(resources) = resources(&text) else { continue };
        if resources.iter().any(|one| one.kind != traffic_permission::KIND || one.spec["from"].is_null()) {
            continue;
        }
        let dataplane = file(&case, ".dataplane.yaml").and_then(|text| self::resources(&text)?.pop());
        let spec: Option<Dataplane> =
            dataplane.as_ref().and_then(|one| serde_json::from_value(one.spec.clone()).ok());
        // Without a proxy the data means: all of these policies, at this inbound, in the order of the file.
        let anywhere = |(i, mut one): (usize, Resource)| {
            if dataplane.is_none() {
                one.spec["targetRef"] = serde_json::json!({"kind": "Mesh"});
                one.labels.insert("kuma.io/display-name".into(), format!("p{}", 99 - i));
            }
            one
        };
        let anywhere: Vec<Resource> = resources.iter().cloned().enumerate().map(anywhere).collect();
        let Some(policies) = policies(&anywhere) else { continue };
        let listener = InboundFacts {
            address: "127.0.0.1".into(),
            port: 80,
            section: "80".into(),
            ..Default::default()
        };
        let inbounds = spec.as_ref().map_or(vec![listener], inbounds);
        let labels = dataplane.as_ref().map(|one| one.labels.clone()).unwrap_or_default();
        let name = dataplane.as_ref().map_or("p", |one| one.name.as_str());
        let facts =
            ProxyFacts { mesh: &resources[0].mesh, name, zone: "z", labels: &labels, inbounds: &inbounds };
        let matched = Matched::of(&policies, &facts);
        for inbound in &inbounds {
            let rules = &golden["Rules"][format!("{}:{}", inbound.address, inbound.port)];
            let rules = rules.as_array().map_or(&[][..], Vec::as_slice);
            let permissions = traffic_permission::inbound(&matched, inbound);
            for caller in callers(rules) {
                let first = rules.iter().find(|rule| in_subset(&rule["Subset"], &caller));
                let expected = first.and_then(|rule| rule["Conf"]["action"].as_str()).unwrap_or("Deny");
                assert_eq!(decide(&permissions, &caller), expected, "{case:?} {caller:?} {permissions:#?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 50, "{compared}");
}

type Tags = BTreeMap<String, String>;

/// Callers with every pair of the tags that the rules speak of, and with none.
fn callers(rules: &[Value]) -> Vec<Tags> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let named = rules.iter().flat_map(|rule| rule["Subset"].as_array().into_iter().flatten());
    let pairs: Vec<(String, String)> = named.map(|tag| (text(&tag["Key"]), text(&tag["Value"]))).collect();
    let mut callers = vec![Tags::new()];
    for one in &pairs {
        for other in &pairs {
            callers.push([one.clone(), other.clone()].into_iter().collect());
        }
    }
    callers.sort();
    callers.dedup();
    callers
}

fn in_subset(subset: &Value, caller: &Tags) -> bool {
    subset.as_array().into_iter().flatten().all(|tag| {
        let has =
            caller.get(tag["Key"].as_str().unwrap_or_default()).map(String::as_str) == tag["Value"].as_str();
        has != tag["Not"].as_bool().unwrap_or_default()
    })
}

fn decide(permissions: &traffic_permission::Permissions, caller: &Tags) -> &'static str {
    let holds = |one: &Match| one.tags.iter().all(|(key, value)| caller.get(key) == Some(value));
    let includes = |one: &Principal| holds(&one.peer) && !one.except.iter().any(holds);
    match permissions {
        one if one.deny.iter().any(includes) => "Deny",
        one if one.shadow_deny.iter().any(includes) => "AllowWithShadowDeny",
        one if one.allow.iter().any(includes) => "Allow",
        _ => "Deny",
    }
}

#[test]
fn documents_of_the_policies_set_are_taken() {
    let mut seen = 0;
    for kind in ["meshtimeout", "meshhttproute", "meshtls", "meshtrafficpermission", "meshfaultinjection"] {
        let Some(cases) = cases(&format!("policies/{kind}"), "") else { return };
        for case in cases.iter().filter(|case| case.is_dir()) {
            let text = file(case, "input.yaml").expect("an input");
            let documents = document::read_all(&text);
            for resource in documents.into_iter().filter_map(|document| document.content.ok()) {
                let problems = shared_policy::validate(&resource);
                // One case sets a status that Envoy itself refuses.
                let good = |path: &str| path.ends_with("abort.httpStatus");
                let policy = kind::by_name(&resource.kind).is_some_and(|kind| kind.policy);
                assert!(
                    !policy || problems.iter().all(|problem| good(&problem.path)),
                    "{case:?}: {problems:?}"
                );
                seen += usize::from(policy);
            }
        }
    }
    assert!(seen > 8, "{seen}");
}
