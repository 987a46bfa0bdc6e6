//! `MeshFaultInjection`: a filter per fault, in front of the router and behind authorisation.
use crate::{
    envoy::{duration, extension, percent},
    http,
    inbound::Draft,
    peer::{negated, predicate},
};
use envoy_types::pb::{
    envoy::extensions::{
        common::matching::v3::ExtensionWithMatcher,
        filters::{
            common::{
                fault::v3::{
                    FaultDelay, FaultRateLimit,
                    fault_delay::FaultDelaySecifier,
                    fault_rate_limit::{FixedLimit, LimitType},
                },
                matcher::action::v3::SkipFilter,
            },
            http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
        },
    },
    xds::{
        core::v3::TypedExtensionConfig,
        r#type::matcher::v3::{
            Matcher,
            matcher::{
                MatcherList, MatcherType, OnMatch,
                matcher_list::{FieldMatcher, Predicate},
                on_match,
            },
        },
    },
};
use shared_policy::kinds::fault_injection::{self, Fault};
use zone_index::ProxyView;

const FILTER: &str = "envoy.filters.http.fault";

pub(crate) fn inbound(draft: &mut Draft, view: &ProxyView) {
    if !draft.view.protocol.is_http() {
        return;
    }
    for rule in fault_injection::inbound(&view.policies, &draft.view.facts) {
        let condition = predicate(&rule.from, &mut draft.asked);
        let name = rule.origins.last().map_or_else(|| FILTER.to_owned(), |origin| origin.to_string());
        for fault in &rule.faults {
            let fault = fault_filter(fault);
            draft.http_filters.push(match &condition {
                None => http::filter(FILTER, &fault),
                Some(condition) => http::filter(&name, &only_when(condition.clone(), &fault)),
            });
        }
    }
}

fn fault_filter(fault: &Fault) -> HttpFault {
    let delay = fault.delay.as_ref().map(|delay| FaultDelay {
        percentage: Some(percent(delay.percentage)),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(delay.value))),
    });
    let abort = fault.abort.as_ref().map(|abort| FaultAbort {
        percentage: Some(percent(abort.percentage)),
        error_type: Some(ErrorType::HttpStatus(abort.http_status.into())),
        ..FaultAbort::default()
    });
    let response_rate_limit = fault.response_bandwidth.as_ref().map(|bandwidth| FaultRateLimit {
        percentage: Some(percent(bandwidth.percentage)),
        limit_type: Some(LimitType::FixedLimit(FixedLimit { limit_kbps: bandwidth.limit.kbps })),
    });
    HttpFault { delay, abort, response_rate_limit, ..HttpFault::default() }
}

/// The filter is skipped unless the condition holds.
fn only_when(condition: Predicate, fault: &HttpFault) -> ExtensionWithMatcher {
    let skip = extension("skip", &SkipFilter {});
    let skip = TypedExtensionConfig { name: skip.name, typed_config: skip.typed_config };
    let unless = FieldMatcher {
        predicate: Some(negated(condition)),
        on_match: Some(OnMatch { on_match: Some(on_match::OnMatch::Action(skip)), ..OnMatch::default() }),
    };
    let matcher = Matcher {
        matcher_type: Some(MatcherType::MatcherList(MatcherList { matchers: vec![unless] })),
        ..Matcher::default()
    };
    ExtensionWithMatcher {
        xds_matcher: Some(matcher),
        extension_config: Some(extension(FILTER, fault)),
        ..ExtensionWithMatcher::default()
    }
}
