//! `MeshHTTPRoute`: requests of the application, sent where the routes say, changed on the way, or answered at once.
//!
//! A prefix means whole segments of a path, which takes two of Envoy's routes: the path itself, and all that lies below
//! it.
use crate::{
    envoy::{exact, percent, prefix, regex, regex_matcher},
    memo::Same,
    names,
    outbound::{Draft, target},
};
use envoy_types::pb::envoy::{
    config::{
        core::v3::{
            HeaderValue, HeaderValueOption, RuntimeFractionalPercent, header_value_option::HeaderAppendAction,
        },
        route::v3::{
            DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, Route, RouteAction,
            RouteMatch, WeightedCluster,
            header_matcher::HeaderMatchSpecifier,
            query_parameter_matcher::QueryParameterMatchSpecifier,
            redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
            route::Action,
            route_action::{ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy},
            route_match::PathSpecifier,
            weighted_cluster::ClusterWeight,
        },
    },
    r#type::matcher::v3::RegexMatchAndSubstitute,
};
use shared_model::Problem;
use shared_policy::{
    BackendRef,
    kinds::http_route::{
        self, Filter, HeaderMatch, HeaderModifier, HttpMatch, NameMatch, PathMatch, PathRewrite, QueryMatch,
        Redirect, Rewrite, Rule, Scheme,
    },
};
use std::{collections::BTreeSet, sync::Arc};
use zone_index::{Destination, Front, ProxyView};

/// What the routes say of a destination.
pub(crate) fn rules(destination: &Destination, view: &ProxyView) -> Vec<Rule> {
    match destination.protocol.is_http() {
        true => http_route::outbound(&view.policies, &target(destination)),
        false => Vec::new(),
    }
}

/// Where the references of rules about a destination lead, each by itself.
pub(crate) fn resolved(
    rules: &[Rule],
    destination: &Destination,
    view: &ProxyView,
) -> Vec<Option<Same<Front>>> {
    let resolve = |backend: &BackendRef| {
        let found = view.destinations.resolve(backend, Some(destination.port))?;
        Some(Same(found.front().clone()))
    };
    let mut resolved = Vec::new();
    for rule in rules {
        resolved.extend(rule.backends.iter().map(|weighted| resolve(&weighted.backend)));
        resolved.extend(rule.filters.iter().filter_map(|filter| match filter {
            Filter::Mirror(mirror) => Some(resolve(&mirror.backend)),
            _ => None,
        }));
    }
    resolved
}

/// Fills in the routes, the catch-all last, and answers with the destinations that they lead to.
pub(crate) fn outbound(
    draft: &mut Draft,
    rules: &[Rule],
    view: &ProxyView,
    problems: &mut Vec<Problem>,
) -> Vec<Arc<Destination>> {
    let mut reached = Vec::new();
    for rule in rules {
        let mut backends = Backends { draft, view, reached: &mut reached, missing: BTreeSet::new() };
        let action = action(rule, &mut backends);
        for missing in backends.missing {
            let reason =
                format!("MeshHTTPRoute {} leads to {missing}, which does not exist", rule.route.name);
            problems.push(Problem::new("", reason));
        }
        if let Some(action) = action {
            let routes = routes(rule, &action);
            draft.routes.extend(routes.into_iter().map(|route| (Some(rule.route.clone()), route)));
        }
    }
    let everything = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(names::cluster(draft.destination))),
        ..RouteAction::default()
    };
    draft.routes.push((
        None,
        Route {
            r#match: Some(RouteMatch {
                path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
                ..RouteMatch::default()
            }),
            action: Some(Action::Route(everything)),
            ..Route::default()
        },
    ));
    reached
}

/// Finds the clusters behind references, and keeps what was found and what was not.
struct Backends<'a, 'b> {
    draft: &'a Draft<'b>,
    view: &'a ProxyView,
    reached: &'a mut Vec<Arc<Destination>>,
    missing: BTreeSet<String>,
}

impl Backends<'_, '_> {
    fn cluster(&mut self, backend: &BackendRef) -> Option<String> {
        match self.view.destinations.resolve(backend, Some(self.draft.destination.port)) {
            Some(destination) => {
                self.reached.push(destination.clone());
                Some(names::cluster(destination))
            }
            None => {
                let port = backend.port.map(|port| format!(" port {port}")).unwrap_or_default();
                let name = if backend.name.is_empty() {
                    format!("{:?}", backend.labels)
                } else {
                    backend.name.clone()
                };
                self.missing.insert(format!("{} {name}{port}", backend.kind));
                None
            }
        }
    }
}

/// `None`: none of its backends exists, and the rule is left out.
fn action(rule: &Rule, backends: &mut Backends) -> Option<Action> {
    let redirect = rule.filters.iter().find_map(|filter| match filter {
        Filter::Redirect(redirect) => Some(redirect),
        _ => None,
    });
    if let Some(redirect) = redirect {
        return Some(Action::Redirect(redirect_action(redirect)));
    }
    let weighted: Vec<(String, u32)> = match rule.backends.as_slice() {
        [] => vec![(names::cluster(backends.draft.destination), 1)],
        listed => {
            let found = listed.iter().filter_map(|one| Some((backends.cluster(&one.backend)?, one.weight)));
            found.collect()
        }
    };
    if weighted.is_empty() {
        return None;
    }
    let mut shares: Vec<(String, u32)> = Vec::new();
    for (cluster, weight) in weighted.into_iter().filter(|(_, weight)| *weight > 0) {
        // Envoy wants each cluster once.
        match shares.iter_mut().find(|(other, _)| *other == cluster) {
            Some((_, sum)) => *sum = sum.saturating_add(weight),
            None => shares.push((cluster, weight)),
        }
    }
    let cluster_specifier = match shares.as_slice() {
        // The backends that are left have no share: nobody answers.
        [] => {
            return Some(Action::DirectResponse(DirectResponseAction { status: 500, ..Default::default() }));
        }
        [(cluster, _)] => ClusterSpecifier::Cluster(cluster.clone()),
        shares => {
            let weight = |(name, weight): &(String, u32)| ClusterWeight {
                name: name.clone(),
                weight: crate::envoy::number(*weight),
                ..ClusterWeight::default()
            };
            let clusters = shares.iter().map(weight).collect();
            ClusterSpecifier::WeightedClusters(WeightedCluster { clusters, ..WeightedCluster::default() })
        }
    };
    let mut action = RouteAction { cluster_specifier: Some(cluster_specifier), ..RouteAction::default() };
    for filter in &rule.filters {
        match filter {
            Filter::Mirror(mirror) => {
                if let Some(cluster) = backends.cluster(&mirror.backend) {
                    let share = RuntimeFractionalPercent {
                        default_value: Some(percent(mirror.percentage)),
                        ..RuntimeFractionalPercent::default()
                    };
                    action.request_mirror_policies.push(RequestMirrorPolicy {
                        cluster,
                        runtime_fraction: Some(share),
                        ..RequestMirrorPolicy::default()
                    });
                }
            }
            Filter::Rewrite(Rewrite { hostname, host_to_backend, .. }) => {
                action.host_rewrite_specifier = match hostname {
                    Some(host) => Some(HostRewriteSpecifier::HostRewriteLiteral(host.clone())),
                    None => host_to_backend
                        .then(|| crate::envoy::yes().map(HostRewriteSpecifier::AutoHostRewrite))
                        .flatten(),
                };
            }
            Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) | Filter::Redirect(_) => {}
        }
    }
    Some(Action::Route(action))
}

/// The ways in which a path can match, for each of which a rewrite of the path looks different.
#[derive(Clone, Copy, PartialEq)]
enum Part<'a> {
    /// Anything, or a path as a whole, or by a pattern.
    Whole,
    /// The prefix itself, without more.
    Prefix(&'a str),
    Below(&'a str),
}

fn routes(rule: &Rule, action: &Action) -> Vec<Route> {
    let matches = paths(&rule.matches);
    matches.into_iter().map(|(specifier, part)| route(rule, action.clone(), specifier, part)).collect()
}

fn paths(matches: &HttpMatch) -> Vec<(PathSpecifier, Part<'_>)> {
    match &matches.path {
        None => vec![(PathSpecifier::Prefix("/".to_owned()), Part::Whole)],
        Some(PathMatch::Exact(path)) => vec![(PathSpecifier::Path(path.clone()), Part::Whole)],
        Some(PathMatch::RegularExpression(pattern)) => {
            vec![(PathSpecifier::SafeRegex(regex_matcher(pattern)), Part::Whole)]
        }
        Some(PathMatch::PathPrefix(path)) => match path.trim_end_matches('/') {
            "" => vec![(PathSpecifier::Prefix("/".to_owned()), Part::Below(""))],
            path => vec![
                (PathSpecifier::Path(path.to_owned()), Part::Prefix(path)),
                (PathSpecifier::Prefix(format!("{path}/")), Part::Below(path)),
            ],
        },
    }
}

fn route(rule: &Rule, action: Action, path: PathSpecifier, part: Part) -> Route {
    let HttpMatch { method, headers, query_params, .. } = &rule.matches;
    let method = method.map(|method| header_matcher(":method", exact(method.as_str())));
    let mut route = Route {
        name: rule.route.to_string(),
        r#match: Some(RouteMatch {
            headers: method.into_iter().chain(headers.iter().map(header)).collect(),
            query_parameters: query_params.iter().map(query).collect(),
            path_specifier: Some(path),
            ..RouteMatch::default()
        }),
        action: Some(action),
        ..Route::default()
    };
    for filter in &rule.filters {
        match filter {
            Filter::RequestHeaders(HeaderModifier { remove, .. }) => {
                route.request_headers_to_remove.extend(remove.iter().cloned());
            }
            Filter::ResponseHeaders(HeaderModifier { remove, .. }) => {
                route.response_headers_to_remove.extend(remove.iter().cloned());
            }
            _ => {}
        }
        match filter {
            Filter::RequestHeaders(modifier) => route.request_headers_to_add.extend(header_values(modifier)),
            Filter::ResponseHeaders(modifier) => {
                route.response_headers_to_add.extend(header_values(modifier))
            }
            Filter::Rewrite(Rewrite { path: Some(rewrite), .. }) => {
                if let Some(Action::Route(action)) = &mut route.action {
                    match new_path(rewrite, part) {
                        NewPath::Whole(path) => action.regex_rewrite = Some(replace_all(&path)),
                        NewPath::Prefix(prefix) => action.prefix_rewrite = prefix,
                    }
                }
            }
            Filter::Redirect(Redirect { path: Some(rewrite), .. }) => {
                if let Some(Action::Redirect(action)) = &mut route.action {
                    action.path_rewrite_specifier = Some(match new_path(rewrite, part) {
                        NewPath::Whole(path) => PathRewriteSpecifier::PathRedirect(path),
                        NewPath::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
                    });
                }
            }
            _ => {}
        }
    }
    route
}

enum NewPath {
    /// Instead of the path, whatever it was.
    Whole(String),
    /// Instead of the part that matched.
    Prefix(String),
}

fn new_path(rewrite: &PathRewrite, part: Part) -> NewPath {
    match (rewrite, part) {
        (PathRewrite::Full { replace_full_path }, _) => NewPath::Whole(replace_full_path.clone()),
        (PathRewrite::Prefix { replace_prefix_match: prefix }, Part::Prefix(_) | Part::Whole) => {
            NewPath::Whole(if prefix.is_empty() { "/".to_owned() } else { prefix.clone() })
        }
        (PathRewrite::Prefix { replace_prefix_match: prefix }, Part::Below(_)) => {
            NewPath::Prefix(format!("{}/", prefix.trim_end_matches('/')))
        }
    }
}

fn replace_all(path: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute { pattern: Some(regex_matcher(".*")), substitution: path.replace('\\', r"\\") }
}

fn redirect_action(redirect: &Redirect) -> RedirectAction {
    let code = match redirect.status {
        301 => RedirectResponseCode::MovedPermanently,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::Found,
    };
    let scheme = redirect.scheme.map(|scheme| match scheme {
        Scheme::Http => SchemeRewriteSpecifier::SchemeRedirect("http".to_owned()),
        Scheme::Https => SchemeRewriteSpecifier::SchemeRedirect("https".to_owned()),
    });
    RedirectAction {
        host_redirect: redirect.hostname.clone().unwrap_or_default(),
        port_redirect: redirect.port.unwrap_or_default().into(),
        response_code: code.into(),
        scheme_rewrite_specifier: scheme,
        ..RedirectAction::default()
    }
}

/// A value is text: Envoy would read `%...%` as a command.
fn header_values(modifier: &HeaderModifier) -> impl Iterator<Item = HeaderValueOption> {
    let set = modifier.set.iter().map(|header| (header, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = modifier.add.iter().map(|header| (header, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).map(|(header, action)| HeaderValueOption {
        header: Some(HeaderValue {
            key: header.name.clone(),
            value: header.value.replace('%', "%%"),
            ..HeaderValue::default()
        }),
        append_action: action.into(),
        ..HeaderValueOption::default()
    })
}

fn header_matcher(
    name: &str,
    value: envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher,
) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(value)),
        ..HeaderMatcher::default()
    }
}

fn header(one: &HeaderMatch) -> HeaderMatcher {
    let present = |present| HeaderMatcher {
        name: one.name.clone(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(present)),
        ..HeaderMatcher::default()
    };
    match one.kind {
        NameMatch::Exact => header_matcher(&one.name, exact(&one.value)),
        NameMatch::Prefix => header_matcher(&one.name, prefix(&one.value)),
        NameMatch::RegularExpression => header_matcher(&one.name, regex(&one.value)),
        NameMatch::Present => present(true),
        NameMatch::Absent => present(false),
    }
}

fn query(one: &QueryMatch) -> QueryParameterMatcher {
    let specifier = match one.kind {
        NameMatch::RegularExpression => QueryParameterMatchSpecifier::StringMatch(regex(&one.value)),
        NameMatch::Present => QueryParameterMatchSpecifier::PresentMatch(true),
        NameMatch::Absent => QueryParameterMatchSpecifier::PresentMatch(false),
        NameMatch::Prefix => QueryParameterMatchSpecifier::StringMatch(prefix(&one.value)),
        NameMatch::Exact => QueryParameterMatchSpecifier::StringMatch(exact(&one.value)),
    };
    QueryParameterMatcher { name: one.name.clone(), query_parameter_match_specifier: Some(specifier) }
}
