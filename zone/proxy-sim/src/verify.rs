//! Whether every proxy ended with what a fresh control plane gives it from the final documents alone.
//!
//! Secrets are compared by name: their keys are random. All else is compared by the hash of its bytes.
use crate::envoy::Held;
use crate::fleet::Fleet;
use crate::wire::Kind;
use crate::wire::request::Name;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// How many differences are told.
const TOLD: usize = 10;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verified {
    pub proxies: usize,
    pub equal: usize,
    /// The first of them, in words.
    pub differences: Vec<String>,
    /// Proxies that do not take part: those that were told to misbehave.
    pub left_out: usize,
}

impl Verified {
    pub fn is_good(&self) -> bool {
        self.equal == self.proxies
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "verified: {} of {} proxies hold what a fresh control plane gives",
            self.equal, self.proxies
        )?;
        if self.left_out > 0 {
            write!(f, ", {} left out", self.left_out)?;
        }
        self.differences.iter().try_for_each(|difference| write!(f, "\n  {difference}"))
    }
}

/// Compares two fleets of the same graph, proxy by proxy.
pub fn compare(measured: &Fleet, fresh: &Fleet, left_out: impl Fn(usize) -> bool) -> Verified {
    let mut verified = Verified::default();
    for (one, other) in measured.proxies.iter().zip(&fresh.proxies) {
        if left_out(one.index) {
            verified.left_out += 1;
            continue;
        }
        let mut differences = Vec::new();
        for kind in Kind::ALL {
            differ(kind, one.envoy().held(kind), other.envoy().held(kind), &mut differences);
        }
        verified.proxies += 1;
        verified.equal += usize::from(differences.is_empty());
        let room = TOLD.saturating_sub(verified.differences.len());
        verified
            .differences
            .extend(differences.into_iter().take(room).map(|what| format!("{}: {what}", one.name)));
    }
    verified
}

fn differ(
    kind: Kind,
    one: &BTreeMap<Name, Held>,
    other: &BTreeMap<Name, Held>,
    differences: &mut Vec<String>,
) {
    let kind_name = kind.name();
    for (name, held) in one {
        match other.get(name) {
            None => differences
                .push(format!("{kind_name} {name} is held, and a fresh control plane does not give it")),
            Some(fresh) if kind != Kind::Secret && fresh.hash != held.hash => {
                differences.push(format!(
                    "{kind_name} {name} differs ({} bytes, fresh {}){}",
                    held.len,
                    fresh.len,
                    difference(held, fresh)
                ));
            }
            Some(_) => {}
        }
    }
    for name in other.keys().filter(|name| !one.contains_key(*name)) {
        differences.push(format!("{kind_name} {name} is not held"));
    }
}

/// Where two bodies part, when they were kept.
fn difference(held: &Held, fresh: &Held) -> String {
    let (Some(held), Some(fresh)) = (&held.body, &fresh.body) else { return String::new() };
    let at = held.iter().zip(fresh).take_while(|(one, other)| one == other).count();
    let around = |body: &[u8]| {
        let part = &body[at.saturating_sub(40)..body.len().min(at + 40)];
        part.escape_ascii().to_string()
    };
    format!(": at byte {at} \"{}\", fresh \"{}\"", around(held), around(fresh))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::Envoy;
    use crate::wire::Protocol;
    use crate::wire::response::{Item, Response};
    use std::sync::Arc;
    use std::time::Instant;

    fn holding(kind: Kind, resources: &[(&str, &[u8])]) -> Envoy {
        let mut envoy = Envoy::new(Protocol::Delta, Arc::default(), true);
        let resources = resources.iter().map(|(name, body)| Item { name, version: "1", body }).collect();
        let response = Response { type_url: kind.type_url(), nonce: "1", resources, ..Response::default() };
        envoy.take(&response, Instant::now(), false).unwrap();
        envoy
    }

    #[test]
    fn what_differs_is_named() {
        let told = |kind, one: &[(&str, &[u8])], other: &[(&str, &[u8])]| {
            let mut differences = Vec::new();
            differ(kind, holding(kind, one).held(kind), holding(kind, other).held(kind), &mut differences);
            differences
        };
        assert!(
            told(Kind::Route, &[("a", b""), ("b", b"\x0a\x01x")], &[("a", b""), ("b", b"\x0a\x01x")])
                .is_empty()
        );
        let differences =
            told(Kind::Route, &[("a", b"\x0a\x01x"), ("b", b"")], &[("a", b"\x0a\x01y"), ("c", b"")]);
        assert_eq!(differences.len(), 3);
        assert!(differences[0].contains("rds a differs (3 bytes, fresh 3): at byte 2"), "{differences:?}");
        assert!(told(Kind::Secret, &[("a", b"\x0a\x01x")], &[("a", b"\x0a\x01y")]).is_empty());
    }
}
