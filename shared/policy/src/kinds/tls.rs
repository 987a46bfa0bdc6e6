//! `MeshTLS`: whether inbounds take plaintext too, and which versions and ciphers TLS uses.
use crate::{
    facts::InboundFacts,
    grammar::{Context, From, Grammar, Rules},
    matched::Matched,
    merge,
    target_ref::MESH,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared_model::{Problem, strict};

pub const KIND: &str = "MeshTLS";

pub static GRAMMAR: Grammar = Grammar {
    kind: KIND,
    to: None,
    from: Some(From { kinds: &[MESH], check }),
    rules: Some(Rules { matches: false, check }),
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    Strict,
    /// Plaintext is taken beside TLS.
    Permissive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    #[serde(rename = "TLSAuto")]
    Auto,
    #[serde(rename = "TLS10")]
    Tls10,
    #[serde(rename = "TLS11")]
    Tls11,
    #[serde(rename = "TLS12")]
    Tls12,
    #[serde(rename = "TLS13")]
    Tls13,
}

/// What both sides of a connection may speak. The same for all proxies of a mesh, so that they understand each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    pub min: Option<Version>,
    pub max: Option<Version>,
    /// Empty: Envoy's own choice.
    pub ciphers: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Conf {
    mode: Option<Mode>,
    tls_version: Option<VersionRange>,
    tls_ciphers: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct VersionRange {
    min: Option<Version>,
    max: Option<Version>,
}

/// The cipher suites of TLS 1.2 that Envoy has.
const CIPHERS: &[&str] = &[
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// The mode of an inbound, when a policy sets one.
pub fn inbound(matched: &Matched, inbound: &InboundFacts) -> Option<Mode> {
    merged(matched.inbound(KIND, inbound).into_iter().map(|(_, item)| &item.conf)).mode
}

/// Versions and ciphers of every connection of the proxy. Only policies for the whole mesh may set them.
pub fn parameters(matched: &Matched) -> Parameters {
    let whole_mesh = matched.iter().filter(|policy| policy.kind == KIND && policy.is_for_whole_mesh());
    let conf = merged(whole_mesh.flat_map(|policy| policy.inbound.iter().map(|item| &item.conf)));
    let range = conf.tls_version.unwrap_or_default();
    Parameters { min: range.min, max: range.max, ciphers: conf.tls_ciphers.unwrap_or_default() }
}

fn merged<'a>(confs: impl Iterator<Item = &'a Value>) -> Conf {
    merge::fold(confs).and_then(|conf| serde_json::from_value(conf).ok()).unwrap_or_default()
}

fn check(conf: &Value, context: &Context) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut own = conf.clone();
    if context.top.kind != MESH {
        for field in ["tlsCiphers", "tlsVersion"] {
            if own.as_object_mut().and_then(|fields| fields.remove(field)).is_some() {
                let reason = "both sides of a connection must agree: only a policy with targetRef kind Mesh may set it";
                problems.push(Problem::new(field, reason));
            }
        }
    }
    match strict::read::<Conf>(&own, "") {
        Err(problem) => problems.push(problem),
        Ok(conf) => {
            let range = conf.tls_version.unwrap_or_default();
            let bounded = |version: Option<Version>| version.filter(|version| *version != Version::Auto);
            if let (Some(min), Some(max)) = (bounded(range.min), bounded(range.max))
                && min > max
            {
                problems.push(Problem::new("tlsVersion.min", "must not be higher than tlsVersion.max"));
            }
            for (i, cipher) in conf.tls_ciphers.iter().flatten().enumerate() {
                if !CIPHERS.contains(&cipher.as_str()) {
                    let reason = format!("{cipher:?} is not a cipher: {}", CIPHERS.join(", "));
                    problems.push(Problem::new(format!("tlsCiphers[{i}]"), reason));
                }
            }
        }
    }
    problems
}
