//! Conditions on callers in the three languages that Envoy has for them.
//!
//! Authorisation asks the certificate itself, name by name. Routes and filters see all URIs of the certificate joined
//! by commas, so there a condition is a regular expression over the list; a URI of ours never holds a comma.
use crate::envoy::{any, escape, exact, extension, prefix, regex};
use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::{SubstitutionFormatString, substitution_format_string::Format},
            listener::v3::{Filter, filter::ConfigType},
            rbac::v3::{
                Principal as Rbac,
                principal::{Authenticated, Identifier, Set},
            },
        },
        extensions::{
            filters::{
                common::set_filter_state::v3::{FilterStateValue, filter_state_value},
                network::set_filter_state::v3::Config as SetFilterState,
            },
            matching::common_inputs::{network::v3::ServerNameInput, ssl::v3::UriSanInput},
        },
        r#type::matcher::v3::{FilterStateMatcher, StringMatcher, filter_state_matcher},
    },
    xds::r#type::matcher::v3::{
        RegexMatcher, StringMatcher as XdsString,
        matcher::matcher_list::{
            Predicate,
            predicate::{MatchType, PredicateList, SinglePredicate, single_predicate},
        },
        regex_matcher::{EngineType, GoogleRe2},
        string_matcher::MatchPattern,
    },
};
use shared_policy::{Match, Principal, SpiffeMatch};

/// All URIs of the caller's certificate, joined by commas.
const URIS: &str = "weft.peer.uris";
/// The server name that the caller asked for.
const SERVER_NAME: &str = "weft.peer.server_name";

/// What of the caller the conditions of a listener look at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// The URIs as a value of the connection, for routes.
    pub uris: bool,
    /// The server name as a value of the connection.
    pub server_name: bool,
    /// The server name as such, which only the inspection of the first bytes tells.
    pub inspection: bool,
}

impl Asked {
    pub fn note(&mut self, principal: &Principal) {
        let sni = principal.except.iter().chain([&principal.peer]).any(|peer| peer.sni.is_some());
        self.server_name |= sni;
        self.inspection |= sni;
    }

    /// The filter that keeps what was asked for with the connection.
    pub fn filter(self) -> Option<Filter> {
        let keep = |key: &str, format: &str| FilterStateValue {
            key: Some(filter_state_value::Key::ObjectKey(key.to_owned())),
            factory_key: "envoy.string".to_owned(),
            value: Some(filter_state_value::Value::FormatString(SubstitutionFormatString {
                format: Some(Format::TextFormatSource(crate::envoy::inline(format))),
                ..SubstitutionFormatString::default()
            })),
            skip_if_empty: true,
            ..FilterStateValue::default()
        };
        let mut on_downstream_tls_handshake = Vec::new();
        if self.uris {
            on_downstream_tls_handshake.push(keep(URIS, "%DOWNSTREAM_PEER_URI_SAN%"));
        }
        if self.server_name {
            on_downstream_tls_handshake.push(keep(SERVER_NAME, "%REQUESTED_SERVER_NAME%"));
        }
        let config = SetFilterState { on_downstream_tls_handshake, ..SetFilterState::default() };
        (!config.on_downstream_tls_handshake.is_empty()).then(|| Filter {
            name: "envoy.filters.network.set_filter_state".to_owned(),
            config_type: Some(ConfigType::TypedConfig(any(&config))),
        })
    }
}

/// A caller as authorisation names it. Callers without a certificate are never meant.
pub(crate) fn identifier(principal: &Principal) -> Rbac {
    let peer = |peer: &Match| {
        let name = |matcher: StringMatcher| {
            rbac(Identifier::Authenticated(Authenticated { principal_name: Some(matcher) }))
        };
        let mut all = Vec::new();
        all.extend(peer.spiffe.as_ref().map(|id| match id {
            SpiffeMatch::Exact(id) => name(exact(id)),
            SpiffeMatch::Prefix(id) => name(prefix(id)),
        }));
        all.extend(peer.tag_uris().map(|uri| name(exact(&uri))));
        all.extend(
            peer.sni.as_ref().map(|sni| rbac(Identifier::FilterState(state(SERVER_NAME, exact(sni))))),
        );
        match all.len() {
            0 => rbac(Identifier::Authenticated(Authenticated::default())),
            1 => all.remove(0),
            _ => rbac(Identifier::AndIds(Set { ids: all })),
        }
    };
    let own = peer(&principal.peer);
    match principal.except.as_slice() {
        [] => own,
        except => both(own, not(any_of(except.iter().map(peer).collect()))),
    }
}

pub(crate) fn rbac(identifier: Identifier) -> Rbac {
    Rbac { identifier: Some(identifier) }
}

pub(crate) fn any_of(mut ids: Vec<Rbac>) -> Rbac {
    if ids.len() == 1 { ids.remove(0) } else { rbac(Identifier::OrIds(Set { ids })) }
}

pub(crate) fn both(one: Rbac, other: Rbac) -> Rbac {
    rbac(Identifier::AndIds(Set { ids: vec![one, other] }))
}

pub(crate) fn not(id: Rbac) -> Rbac {
    rbac(Identifier::NotId(Box::new(id)))
}

fn state(key: &str, value: StringMatcher) -> FilterStateMatcher {
    FilterStateMatcher {
        key: key.to_owned(),
        matcher: Some(filter_state_matcher::Matcher::StringMatch(value)),
    }
}

/// A condition as a route has it; all parts must hold.
pub(crate) fn route_conditions(peer: &Match, asked: &mut Asked) -> Vec<FilterStateMatcher> {
    let patterns = patterns(peer);
    asked.uris |= !patterns.is_empty();
    let mut parts: Vec<_> = patterns.iter().map(|pattern| state(URIS, regex(pattern))).collect();
    if let Some(sni) = &peer.sni {
        asked.server_name = true;
        asked.inspection = true;
        parts.push(state(SERVER_NAME, exact(sni)));
    }
    parts
}

/// A condition as a filter has it; `None` when it always holds.
pub(crate) fn predicate(principal: &Principal, asked: &mut Asked) -> Option<Predicate> {
    let mut all: Vec<Predicate> = of_peer(&principal.peer, asked).into_iter().collect();
    all.extend(principal.except.iter().filter_map(|peer| of_peer(peer, asked)).map(negated));
    conjunction(all)
}

fn of_peer(peer: &Match, asked: &mut Asked) -> Option<Predicate> {
    let uris = || extension("envoy.matching.inputs.uri_san", &UriSanInput {});
    let mut all: Vec<Predicate> = patterns(peer)
        .into_iter()
        .map(|regex| {
            let engine_type = Some(EngineType::GoogleRe2(GoogleRe2 {}));
            single(uris(), MatchPattern::SafeRegex(RegexMatcher { regex, engine_type }))
        })
        .collect();
    if let Some(sni) = &peer.sni {
        asked.inspection = true;
        let input = extension("envoy.matching.inputs.server_name", &ServerNameInput {});
        all.push(single(input, MatchPattern::Exact(sni.clone())));
    }
    conjunction(all)
}

fn single(
    input: envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig,
    pattern: MatchPattern,
) -> Predicate {
    use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
    let input = TypedExtensionConfig { name: input.name, typed_config: input.typed_config };
    let value = XdsString { match_pattern: Some(pattern), ..XdsString::default() };
    Predicate {
        match_type: Some(MatchType::SinglePredicate(SinglePredicate {
            input: Some(input),
            matcher: Some(single_predicate::Matcher::ValueMatch(value)),
        })),
    }
}

fn conjunction(mut all: Vec<Predicate>) -> Option<Predicate> {
    match all.len() {
        0 | 1 => all.pop(),
        _ => Some(Predicate { match_type: Some(MatchType::AndMatcher(PredicateList { predicate: all })) }),
    }
}

pub(crate) fn negated(predicate: Predicate) -> Predicate {
    Predicate { match_type: Some(MatchType::NotMatcher(Box::new(predicate))) }
}

/// Regular expressions over the joined URIs, all of which must match.
fn patterns(peer: &Match) -> Vec<String> {
    let id = peer.spiffe.as_ref().map(|id| match id {
        SpiffeMatch::Exact(id) => format!("(.*,)?{}(,.*)?", escape(id)),
        SpiffeMatch::Prefix(id) => format!("(.*,)?{}.*", escape(id)),
    });
    id.into_iter().chain(peer.tag_uris().map(|uri| format!("(.*,)?{}(,.*)?", escape(&uri)))).collect()
}
