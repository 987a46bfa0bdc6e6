//! `MeshFaultInjection`: requests that come in are aborted, delayed or slowed down, for tests of the callers.
use crate::{
    facts::InboundFacts,
    grammar::{Context, From, Grammar, Rules, typed},
    matched::{Matched, disjoint},
    peer::Principal,
    target_ref::FROM,
};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use shared_model::{Duration, Kri, Problem};

pub const KIND: &str = "MeshFaultInjection";

pub static GRAMMAR: Grammar = Grammar {
    kind: KIND,
    to: None,
    from: Some(From { kinds: FROM, check }),
    rules: Some(Rules { matches: true, check }),
};

/// Faults for the requests of some callers. Of an inbound's rules at most one applies to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRule {
    pub from: Principal,
    /// All apply, in this order.
    pub faults: Vec<Fault>,
    /// The policies that had a part in it, the weakest first.
    pub origins: Vec<Kri>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    #[serde(default)]
    pub abort: Option<Abort>,
    #[serde(default)]
    pub delay: Option<Delay>,
    #[serde(default)]
    pub response_bandwidth: Option<ResponseBandwidth>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Abort {
    pub http_status: u16,
    pub percentage: Percentage,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    pub value: Duration,
    pub percentage: Percentage,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponseBandwidth {
    pub limit: Bandwidth,
    pub percentage: Percentage,
}

/// A share of requests, exact: millionths of the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percentage {
    millionths: u32,
}

impl Percentage {
    pub const WHOLE: Percentage = Percentage { millionths: 1_000_000 };

    /// Reads a decimal number from 0 to 100 with at most four decimals.
    pub fn parse(text: &str) -> Result<Percentage, String> {
        let bad =
            || format!("{text:?} is not a percentage: a number from 0 to 100 with at most four decimals");
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
        let fraction = fraction.trim_end_matches('0');
        if whole.is_empty() || whole.len() > 3 || fraction.len() > 4 || !digits(whole) || !digits(fraction) {
            return Err(bad());
        }
        let millionths: u32 = format!("{whole}{fraction:0<4}").parse().map_err(|_| bad())?;
        if millionths > 1_000_000 { Err(bad()) } else { Ok(Percentage { millionths }) }
    }

    pub fn millionths(self) -> u32 {
        self.millionths
    }

    /// Numerator and denominator, the smallest of 100, 10 000 and 1 000 000 that is exact.
    pub fn fraction(self) -> (u32, u32) {
        let exact = [100, 10_000]
            .into_iter()
            .find(|denominator| self.millionths.is_multiple_of(1_000_000 / denominator));
        let denominator = exact.unwrap_or(1_000_000);
        (self.millionths / (1_000_000 / denominator), denominator)
    }
}

impl<'de> Deserialize<'de> for Percentage {
    /// Documents write a number or a string; floating point never comes between.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::Number(number) => number.to_string(),
            Value::String(text) => text,
            _ => return Err(D::Error::custom("must be a number or a string")),
        };
        Percentage::parse(&text).map_err(D::Error::custom)
    }
}

/// A rate of bytes, in thousands of bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bandwidth {
    pub kbps: u64,
}

impl Bandwidth {
    /// Reads `50Mbps`: a whole number and `kbps`, `Mbps` or `Gbps`, with or without a space.
    pub fn parse(text: &str) -> Result<Bandwidth, String> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let scale = match text[end..].strip_prefix(' ').unwrap_or(&text[end..]) {
            "kbps" => Some(1),
            "Mbps" => Some(1_000),
            "Gbps" => Some(1_000_000),
            _ => None,
        };
        let kbps = scale.and_then(|scale| text[..end].parse::<u64>().ok()?.checked_mul(scale));
        let kbps = kbps.filter(|kbps| *kbps > 0);
        kbps.map(|kbps| Bandwidth { kbps }).ok_or_else(|| {
            format!("{text:?} is not a bandwidth: write for example \"50Mbps\" (kbps, Mbps or Gbps)")
        })
    }
}

impl<'de> Deserialize<'de> for Bandwidth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Bandwidth::parse(&text).map_err(D::Error::custom)
    }
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Conf {
    http: Vec<Fault>,
}

/// Faults of requests to an inbound, those of the narrowest condition first. A rule without faults is left out: its
/// callers are exceptions of the wider rules.
pub fn inbound(matched: &Matched, inbound: &InboundFacts) -> Vec<FaultRule> {
    let rules = matched.merged_inbound::<Conf>(KIND, inbound);
    disjoint(&rules, |_, _| true)
        .into_iter()
        .filter(|(_, rule)| !rule.conf.http.is_empty())
        .map(|(from, rule)| FaultRule { from, faults: rule.conf.http.clone(), origins: rule.origins.clone() })
        .collect()
}

fn check(conf: &Value, _: &Context) -> Vec<Problem> {
    typed(conf, |conf: &Conf| {
        let mut problems = Vec::new();
        for (i, fault) in conf.http.iter().enumerate() {
            if let Some(abort) =
                fault.abort.as_ref().filter(|abort| !(200..=599).contains(&abort.http_status))
            {
                let reason = format!("{} is not a status of a response: 200 to 599", abort.http_status);
                problems.push(Problem::new(format!("http[{i}].abort.httpStatus"), reason));
            }
            if fault.abort.is_none() && fault.delay.is_none() && fault.response_bandwidth.is_none() {
                problems.push(Problem::new(format!("http[{i}]"), "needs abort, delay or responseBandwidth"));
            }
        }
        problems
    })
}
