//! What is wrong with the rules of a route. Paths are relative to the item's `rules`.
use super::document::{
    BackendDocument, DefaultDocument, FilterDocument, FilterKind, HeaderModifier, HttpMatch, NameMatch,
    PathMatch, PathRewrite, RuleDocument,
};
use crate::grammar::Context;
use serde_json::Value;
use shared_model::{Problem, strict};

/// More cannot be told apart from a mistake, and their sum must fit Envoy's.
const WEIGHT_MAX: u32 = 1_000_000;

pub(super) fn check(conf: &Value, _: &Context) -> Vec<Problem> {
    let Value::Array(rules) = conf else { return vec![Problem::new("", "must be a list")] };
    if rules.is_empty() {
        return vec![Problem::new("", "cannot be empty")];
    }
    let mut problems = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        let mut put = |path: &str, found: Vec<Problem>| {
            problems.extend(found.into_iter().map(|problem| problem.under(path).under(&format!("[{i}]"))));
        };
        let rule = match strict::read::<RuleDocument>(rule, "") {
            Ok(rule) => rule,
            Err(problem) => {
                put("", vec![problem]);
                continue;
            }
        };
        for (m, one) in rule.matches.iter().enumerate() {
            put(&format!("matches[{m}]"), check_match(one));
        }
        match strict::read::<DefaultDocument>(&rule.default, "") {
            Ok(default) => put("default", check_default(&default, &rule.matches)),
            Err(problem) => put("default", vec![problem]),
        }
    }
    problems
}

fn check_match(one: &HttpMatch) -> Vec<Problem> {
    let mut problems = Vec::new();
    let regex = |path: String, text: &str| {
        let error = regex::Regex::new(text).err()?;
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Some(Problem::new(path, format!("is not a regular expression: {reason}")))
    };
    match &one.path {
        Some(PathMatch::Exact(path) | PathMatch::PathPrefix(path)) if !path.starts_with('/') => {
            problems.push(Problem::new("path.value", format!("{path:?} must start with '/'")));
        }
        Some(PathMatch::PathPrefix(path)) if path.len() > 1 && path.ends_with('/') => {
            let reason = format!("{path:?} must not end with '/': a prefix always ends where a segment does");
            problems.push(Problem::new("path.value", reason));
        }
        Some(PathMatch::RegularExpression(path)) if path.is_empty() => {
            problems.push(Problem::new("path.value", "cannot be empty"));
        }
        Some(PathMatch::RegularExpression(path)) => problems.extend(regex("path.value".to_owned(), path)),
        _ => {}
    }
    for (i, header) in one.headers.iter().enumerate() {
        let path = format!("headers[{i}]");
        problems.extend(check_header_name(format!("{path}.name"), &header.name));
        match header.kind {
            NameMatch::Present | NameMatch::Absent if !header.value.is_empty() => {
                let reason = format!("must be left out with type {:?}", header.kind);
                problems.push(Problem::new(format!("{path}.value"), reason));
            }
            NameMatch::Present | NameMatch::Absent => {}
            _ if header.value.is_empty() => {
                problems.push(Problem::new(format!("{path}.value"), "is missing"));
            }
            NameMatch::RegularExpression => problems.extend(regex(format!("{path}.value"), &header.value)),
            NameMatch::Exact | NameMatch::Prefix => {}
        }
    }
    for (i, query) in one.query_params.iter().enumerate() {
        let path = format!("queryParams[{i}]");
        if query.name.is_empty() {
            problems.push(Problem::new(format!("{path}.name"), "cannot be empty"));
        }
        if one.query_params[..i].iter().any(|other| other.name == query.name) {
            problems.push(Problem::new(format!("{path}.name"), format!("{:?} is there twice", query.name)));
        }
        match query.kind {
            NameMatch::Exact => {}
            NameMatch::RegularExpression => problems.extend(regex(format!("{path}.value"), &query.value)),
            other => {
                let reason = format!("{other:?} is for headers only: Exact or RegularExpression");
                problems.push(Problem::new(format!("{path}.type"), reason));
            }
        }
    }
    problems
}

fn check_default(default: &DefaultDocument, matches: &[HttpMatch]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (i, filter) in default.filters.iter().enumerate() {
        let path = format!("filters[{i}]");
        problems.extend(check_filter(filter, matches).into_iter().map(|problem| problem.under(&path)));
        let once = !matches!(filter.kind, FilterKind::RequestMirror);
        if once && default.filters[..i].iter().any(|other| other.kind == filter.kind) {
            problems.push(Problem::new(format!("{path}.type"), format!("{:?} is there twice", filter.kind)));
        }
    }
    let has = |kind: FilterKind| default.filters.iter().any(|filter| filter.kind == kind);
    if has(FilterKind::RequestRedirect) && has(FilterKind::UrlRewrite) {
        problems.push(Problem::new("filters", "a request is either redirected or rewritten, not both"));
    }
    if has(FilterKind::RequestRedirect) && !default.backend_refs.is_empty() {
        problems.push(Problem::new(
            "backendRefs",
            "a request that is redirected reaches no backend: leave it out",
        ));
    }
    for (i, backend) in default.backend_refs.iter().enumerate() {
        let path = format!("backendRefs[{i}]");
        problems.extend(check_backend(backend).into_iter().map(|problem| problem.under(&path)));
        if backend.weight.is_some_and(|weight| weight > WEIGHT_MAX) {
            problems
                .push(Problem::new(format!("{path}.weight"), format!("must be between 0 and {WEIGHT_MAX}")));
        }
    }
    if !default.backend_refs.is_empty()
        && default.backend_refs.iter().all(|backend| backend.weight == Some(0))
    {
        problems.push(Problem::new("backendRefs", "all weights are 0: no request would have a backend"));
    }
    problems
}

fn check_filter(filter: &FilterDocument, matches: &[HttpMatch]) -> Vec<Problem> {
    let given = [
        (
            FilterKind::RequestHeaderModifier,
            "requestHeaderModifier",
            filter.request_header_modifier.is_some(),
        ),
        (
            FilterKind::ResponseHeaderModifier,
            "responseHeaderModifier",
            filter.response_header_modifier.is_some(),
        ),
        (FilterKind::RequestRedirect, "requestRedirect", filter.request_redirect.is_some()),
        (FilterKind::UrlRewrite, "urlRewrite", filter.url_rewrite.is_some()),
        (FilterKind::RequestMirror, "requestMirror", filter.request_mirror.is_some()),
    ];
    let mut problems = Vec::new();
    for (kind, field, given) in given {
        if kind == filter.kind && !given {
            problems.push(Problem::new(field, "is missing"));
        }
        if kind != filter.kind && given {
            problems.push(Problem::new(field, "does not belong to this type of filter"));
        }
    }
    let modifiers = [
        ("requestHeaderModifier", &filter.request_header_modifier),
        ("responseHeaderModifier", &filter.response_header_modifier),
    ];
    for (field, modifier) in modifiers.into_iter().filter_map(|(field, one)| Some((field, one.as_ref()?))) {
        problems.extend(check_modifier(modifier).into_iter().map(|problem| problem.under(field)));
    }
    let hostname = |path: &str, name: &Option<String>| {
        let name = name.as_ref()?;
        let part = |part: &str| {
            !part.is_empty()
                && part.len() <= 63
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        let good = name.len() <= 253 && name.split('.').all(part);
        (!good).then(|| Problem::new(path, format!("{name:?} is not a host name")))
    };
    if let Some(redirect) = &filter.request_redirect {
        let path = "requestRedirect";
        problems.extend(hostname(&format!("{path}.hostname"), &redirect.hostname));
        problems.extend(check_rewrite(&format!("{path}.path"), redirect.path.as_ref(), matches));
        if redirect.port == Some(0) {
            problems.push(Problem::new(format!("{path}.port"), "must be between 1 and 65535"));
        }
        if redirect.status_code.is_some_and(|code| ![301, 302, 303, 307, 308].contains(&code)) {
            problems.push(Problem::new(format!("{path}.statusCode"), "must be 301, 302, 303, 307 or 308"));
        }
    }
    if let Some(rewrite) = &filter.url_rewrite {
        let path = "urlRewrite";
        problems.extend(hostname(&format!("{path}.hostname"), &rewrite.hostname));
        problems.extend(check_rewrite(&format!("{path}.path"), rewrite.path.as_ref(), matches));
        if rewrite.hostname.is_some() && rewrite.host_to_backend_hostname {
            let reason = "cannot be given beside hostname";
            problems.push(Problem::new(format!("{path}.hostToBackendHostname"), reason));
        }
        if rewrite.hostname.is_none() && rewrite.path.is_none() && !rewrite.host_to_backend_hostname {
            problems
                .push(Problem::new(path, "rewrites nothing: give hostname, path or hostToBackendHostname"));
        }
    }
    if let Some(mirror) = &filter.request_mirror {
        let path = "requestMirror.backendRef";
        problems.extend(check_backend(&mirror.backend_ref).into_iter().map(|problem| problem.under(path)));
        if mirror.backend_ref.weight.is_some() {
            problems.push(Problem::new(format!("{path}.weight"), "a mirror has a percentage, no weight"));
        }
    }
    problems
}

fn check_modifier(modifier: &HeaderModifier) -> Vec<Problem> {
    let mut problems = Vec::new();
    if *modifier == HeaderModifier::default() {
        problems.push(Problem::new("", "changes nothing: give set, add or remove"));
    }
    for (field, values) in [("set", &modifier.set), ("add", &modifier.add)] {
        for (i, header) in values.iter().enumerate() {
            problems.extend(check_header_name(format!("{field}[{i}].name"), &header.name));
            if header.value.chars().any(|c| c.is_control() && c != '\t') {
                problems
                    .push(Problem::new(format!("{field}[{i}].value"), "must not hold control characters"));
            }
        }
    }
    for (i, name) in modifier.remove.iter().enumerate() {
        problems.extend(check_header_name(format!("remove[{i}]"), name));
    }
    problems
}

/// The form of a field name of RFC 9110.
fn check_header_name(path: String, name: &str) -> Option<Problem> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let good = !name.is_empty() && name.len() <= 256 && name.chars().all(token);
    (!good).then(|| Problem::new(path, format!("{name:?} is not the name of a header")))
}

fn check_rewrite(path: &str, rewrite: Option<&PathRewrite>, matches: &[HttpMatch]) -> Vec<Problem> {
    let (field, value) = match rewrite {
        None => return Vec::new(),
        Some(PathRewrite::Full { replace_full_path }) => ("replaceFullPath", replace_full_path),
        Some(PathRewrite::Prefix { replace_prefix_match }) => ("replacePrefixMatch", replace_prefix_match),
    };
    let mut problems = Vec::new();
    if !value.starts_with('/') {
        problems.push(Problem::new(format!("{path}.{field}"), format!("{value:?} must start with '/'")));
    }
    let prefix = |one: &HttpMatch| matches!(one.path, None | Some(PathMatch::PathPrefix(_)));
    if field == "replacePrefixMatch" && !matches.iter().all(prefix) {
        let reason = "ReplacePrefixMatch needs matches by PathPrefix only";
        problems.push(Problem::new(format!("{path}.type"), reason));
    }
    problems
}

fn check_backend(backend: &BackendDocument) -> Vec<Problem> {
    let mut problems = Vec::new();
    match backend.kind.as_str() {
        "MeshService" => {
            match (backend.name.is_empty(), backend.labels.is_empty()) {
                (true, true) => problems.push(Problem::new("name", "is missing: give a name or labels")),
                (false, false) => {
                    problems.push(Problem::new("labels", "name and labels cannot both be given"))
                }
                _ => {}
            }
            if !backend.tags.is_empty() {
                problems.push(Problem::new("tags", "a MeshService has no tags"));
            }
        }
        "MeshServiceSubset" => {
            let reason = "MeshServiceSubset of Kuma 2.x is gone: make the subset a MeshService of its own and name that";
            problems.push(Problem::new("kind", reason));
        }
        "MeshExternalService" | "MeshMultiZoneService" => {
            let reason = format!("{} is known, but this version of weft does not reach it yet", backend.kind);
            problems.push(Problem::new("kind", reason));
        }
        other => problems.push(Problem::new("kind", format!("{other:?} cannot stand here: MeshService"))),
    }
    if !backend.namespace.is_empty() {
        problems.push(Problem::new("namespace", "is not supported yet: name the service by labels"));
    }
    if !backend.section_name.is_empty() {
        problems.push(Problem::new("sectionName", "a backend's port is named by port"));
    }
    if !backend.mesh.is_empty() {
        problems.push(Problem::new(
            "mesh",
            "crossing meshes is a feature of Kuma 2.x's built-in gateway: leave it out",
        ));
    }
    if backend.port == Some(0) {
        problems.push(Problem::new("port", "must be between 1 and 65535"));
    }
    problems
}
