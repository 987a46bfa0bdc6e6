//! `MeshTimeout`: how long connections, requests and streams may take.
use crate::{
    facts::{InboundFacts, Target},
    grammar::{Context, From, Grammar, Rules, To, typed},
    matched::{InboundRule, Matched},
    target_ref::{Destination, MESH, MESH_HTTP_ROUTE, MESH_SERVICE},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared_model::{Duration, Kri, Problem};

pub const KIND: &str = "MeshTimeout";

pub static GRAMMAR: Grammar = Grammar {
    kind: KIND,
    to: Some(To { kinds: &[MESH, MESH_SERVICE, MESH_HTTP_ROUTE], field: "default", check }),
    from: Some(From { kinds: &[MESH], check }),
    rules: Some(Rules { matches: true, check }),
};

/// What is absent was set by no policy. A zero switches the timeout off, except for connecting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Conf {
    pub connection_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub http: Http,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Http {
    pub request_timeout: Option<Duration>,
    pub stream_idle_timeout: Option<Duration>,
    pub max_stream_duration: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub request_headers_timeout: Option<Duration>,
}

/// Timeouts towards a destination; with `route`, of the requests that this MeshHTTPRoute has taken. An item about the
/// route stands in for those about the service.
pub fn outbound(matched: &Matched, target: &Target, route: Option<&Kri>) -> Conf {
    matched.merged_outbound(KIND, target, route)
}

/// Timeouts of connections that come in. The first rule that matches applies.
pub fn inbound(matched: &Matched, inbound: &InboundFacts) -> Vec<InboundRule<Conf>> {
    matched.merged_inbound(KIND, inbound)
}

fn check(conf: &Value, context: &Context) -> Vec<Problem> {
    typed(conf, |conf: &Conf| {
        let mut problems = Vec::new();
        if conf.connection_timeout == Some(Duration::ZERO) {
            problems.push(Problem::new("connectionTimeout", "must be more than 0s"));
        }
        if *conf == Conf::default() {
            problems.push(Problem::new("", "sets no timeout"));
        }
        let of_connections = [
            ("connectionTimeout", conf.connection_timeout),
            ("idleTimeout", conf.idle_timeout),
            ("http.maxStreamDuration", conf.http.max_stream_duration),
            ("http.maxConnectionDuration", conf.http.max_connection_duration),
            ("http.requestHeadersTimeout", conf.http.request_headers_timeout),
        ];
        let narrowed = match context.destination {
            Some(Destination::Route { .. }) => Some("route"),
            _ if context.peers.iter().any(|peer| peer.spiffe.is_some()) => Some("caller"),
            _ => None,
        };
        for (path, _) in of_connections.iter().filter(|(_, value)| value.is_some()) {
            if let Some(what) = narrowed {
                let reason = format!(
                    "cannot differ by {what}: only http.requestTimeout and http.streamIdleTimeout can"
                );
                problems.push(Problem::new(*path, reason));
            }
        }
        problems
    })
}
