//! `MeshHTTPRoute`: where requests to a service go, by path, method, headers and query, and what is changed on the way.
//!
//! Rules of several policies about one service merge by their matches: the stronger policy's filters and backends
//! replace the weaker's. The result is one rule per match, in the order in which Envoy must try them.
use crate::{
    BackendRef,
    facts::Target,
    grammar::{Grammar, To},
    matched::Matched,
    merge,
    policy::Policy,
    target_ref::MESH_SERVICE,
};
use serde_json::Value;
use shared_model::Kri;

mod check;
mod document;

pub use document::{
    HeaderMatch, HeaderModifier, HeaderValue, HttpMatch, Method, NameMatch, PathMatch, PathRewrite,
    QueryMatch, Scheme,
};

pub const KIND: &str = "MeshHTTPRoute";

pub static GRAMMAR: Grammar = Grammar {
    kind: KIND,
    to: Some(To { kinds: &[MESH_SERVICE], field: "rules", check: check::check }),
    from: None,
    rules: None,
};

/// What happens to the requests of one match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The route that decides, the strongest of those that have a part in it.
    pub route: Kri,
    pub matches: HttpMatch,
    /// In the order in which they are written.
    pub filters: Vec<Filter>,
    /// Empty: the destination itself. Weights may be zero, not all of them.
    pub backends: Vec<WeightedBackend>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    pub backend: BackendRef,
    pub weight: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    RequestHeaders(HeaderModifier),
    ResponseHeaders(HeaderModifier),
    Redirect(Redirect),
    Rewrite(Rewrite),
    Mirror(Mirror),
}

/// An answer that sends the caller elsewhere; what is `None` stays as in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub scheme: Option<Scheme>,
    pub hostname: Option<String>,
    pub path: Option<PathRewrite>,
    pub port: Option<u16>,
    /// One of 301, 302, 303, 307, 308.
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    pub hostname: Option<String>,
    pub path: Option<PathRewrite>,
    /// The host becomes the one that the endpoint was found by.
    pub host_to_backend: bool,
}

/// A copy of requests, whose answer nobody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub backend: BackendRef,
    pub percentage: super::fault_injection::Percentage,
}

/// Rules for requests to a destination; the first that matches applies, and a request that none matches goes to the
/// destination itself. Empty: no route speaks of the destination.
pub fn outbound(matched: &Matched, target: &Target) -> Vec<Rule> {
    struct Merged<'a> {
        matches: Vec<HttpMatch>,
        conf: Value,
        route: &'a Policy,
        /// Of the strongest part: the rank of its policy, and its place there.
        strength: (usize, std::cmp::Reverse<usize>),
    }
    let mut merged: Vec<Merged> = Vec::new();
    for (rank, (policy, conf)) in matched.outbound(KIND, target, None).into_iter().enumerate() {
        for (place, rule) in document::rules(conf).into_iter().enumerate() {
            let strength = (rank, std::cmp::Reverse(place));
            match merged.iter_mut().find(|other| other.matches == rule.matches) {
                Some(other) => {
                    merge::patch(&mut other.conf, &rule.default);
                    (other.route, other.strength) = (policy, strength);
                }
                None => {
                    merged.push(Merged { matches: rule.matches, conf: rule.default, route: policy, strength })
                }
            }
        }
    }
    let mut rules = Vec::new();
    for Merged { matches, conf, route, strength } in merged {
        let (filters, backends) = document::default(&conf);
        for matches in matches {
            let rule = Rule {
                route: route.kri.clone(),
                matches,
                filters: filters.clone(),
                backends: backends.clone(),
            };
            rules.push((strength, rule));
        }
    }
    // Stable: what is equal in precedence keeps the order of its place in the document.
    rules.sort_by(|(a, one), (b, other)| {
        (other.matches.precedence(), *b).cmp(&(one.matches.precedence(), *a))
    });
    rules.into_iter().map(|(_, rule)| rule).collect()
}

/// Every destination that a route may send requests to.
pub(crate) fn backends(policy: &Policy) -> Vec<BackendRef> {
    let mut backends: Vec<BackendRef> = Vec::new();
    for rule in policy.to.iter().flat_map(|(_, conf)| document::rules(conf)) {
        let (filters, weighted) = document::default(&rule.default);
        let mirrors = filters.into_iter().filter_map(|filter| match filter {
            Filter::Mirror(mirror) => Some(mirror.backend),
            _ => None,
        });
        for backend in weighted.into_iter().map(|weighted| weighted.backend).chain(mirrors) {
            if !backends.contains(&backend) {
                backends.push(backend);
            }
        }
    }
    backends
}
