//! `MeshTimeout`: the timeouts of routes, connections and clusters, and what holds where no policy says anything.
use crate::{
    envoy::duration,
    inbound, outbound,
    outbound::{ClusterDraft, target},
    peer::route_conditions,
};
use envoy_types::pb::envoy::config::{
    core::v3::HttpProtocolOptions,
    route::v3::{Route, RouteAction, RouteMatch, route::Action, route_action, route_match::PathSpecifier},
};
use shared_model::Duration;
use shared_policy::kinds::timeout::{self, Conf};
use zone_index::ProxyView;

const CONNECT: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(3600);
const REQUEST: Duration = Duration::from_secs(15);
const STREAM_IDLE: Duration = Duration::from_secs(30 * 60);

/// Every request goes to the application. Callers for whom a rule says other timeouts have a route of their own in front
/// of that of all others.
pub(crate) fn inbound(draft: &mut inbound::Draft, view: &ProxyView) {
    let rules = timeout::inbound(&view.policies, &draft.view.facts);
    let everyone = rules.iter().find(|rule| rule.matches.is_none()).map(|rule| rule.conf.clone());
    // Rules for some callers only leave the others without a limit on requests.
    let unlimited = everyone.is_none() && !rules.is_empty();
    let by_caller = if draft.view.protocol.is_http() { rules.as_slice() } else { &[] };
    for rule in by_caller {
        let Some(peer) = &rule.matches else {
            // Rules behind the one for everyone would never apply.
            break;
        };
        let mut action = to_application(&draft.cluster);
        set_request_timeouts(&mut action, &rule.conf);
        let filter_state = route_conditions(peer, &mut draft.asked);
        draft.routes.push(route(action, RouteMatch { filter_state, ..every_path() }));
    }
    let conf = everyone.unwrap_or_default();
    let mut action = to_application(&draft.cluster);
    if unlimited {
        action.timeout = Some(duration(Duration::ZERO));
    } else {
        set_request_timeouts(&mut action, &conf);
    }
    draft.routes.push(route(action, every_path()));
    draft.request_headers_timeout = conf.http.request_headers_timeout.unwrap_or(Duration::ZERO);
    draft.tcp_idle_timeout = conf.idle_timeout.unwrap_or(IDLE);
    draft.connect_timeout = conf.connection_timeout.unwrap_or(CONNECT);
    draft.local_http = connection_options(&conf);
}

pub(crate) fn outbound(draft: &mut outbound::Draft, view: &ProxyView) {
    let target = target(draft.destination);
    for (route, envoy_route) in &mut draft.routes {
        if let Some(Action::Route(action)) = &mut envoy_route.action {
            set_request_timeouts(action, &timeout::outbound(&view.policies, &target, route.as_ref()));
        }
    }
    let conf = timeout::outbound(&view.policies, &target, None);
    draft.request_headers_timeout = conf.http.request_headers_timeout.unwrap_or(Duration::ZERO);
    draft.tcp_idle_timeout = conf.idle_timeout.unwrap_or(IDLE);
}

pub(crate) fn cluster(draft: &mut ClusterDraft, view: &ProxyView) {
    let conf = timeout::outbound(&view.policies, &target(draft.destination), None);
    draft.connect_timeout = conf.connection_timeout.unwrap_or(CONNECT);
    draft.http = connection_options(&conf);
}

fn set_request_timeouts(action: &mut RouteAction, conf: &Conf) {
    action.timeout = Some(duration(conf.http.request_timeout.unwrap_or(REQUEST)));
    action.idle_timeout = Some(duration(conf.http.stream_idle_timeout.unwrap_or(STREAM_IDLE)));
}

/// Zero is no limit.
fn connection_options(conf: &Conf) -> HttpProtocolOptions {
    HttpProtocolOptions {
        idle_timeout: Some(duration(conf.idle_timeout.unwrap_or(IDLE))),
        max_connection_duration: Some(duration(conf.http.max_connection_duration.unwrap_or(Duration::ZERO))),
        max_stream_duration: Some(duration(conf.http.max_stream_duration.unwrap_or(Duration::ZERO))),
        ..HttpProtocolOptions::default()
    }
}

fn to_application(cluster: &str) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..RouteAction::default()
    }
}

fn every_path() -> RouteMatch {
    RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..RouteMatch::default() }
}

fn route(action: RouteAction, matches: RouteMatch) -> Route {
    Route { r#match: Some(matches), action: Some(Action::Route(action)), ..Route::default() }
}
