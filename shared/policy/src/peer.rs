//! Who calls: the conditions that inbound rules put on the other side of a connection.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A condition on the SPIFFE id of the caller's certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", deny_unknown_fields)]
pub enum SpiffeMatch {
    Exact(String),
    /// The id starts with this text.
    Prefix(String),
}

impl SpiffeMatch {
    pub fn value(&self) -> &str {
        match self {
            SpiffeMatch::Exact(value) | SpiffeMatch::Prefix(value) => value,
        }
    }

    /// True when all that `other` lets in is let in here too.
    fn covers(&self, other: &SpiffeMatch) -> bool {
        match self {
            SpiffeMatch::Exact(id) => *other == SpiffeMatch::Exact(id.clone()),
            SpiffeMatch::Prefix(prefix) => other.value().starts_with(prefix),
        }
    }
}

/// A condition on a connection; every given part must hold, and with none given it always holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Match {
    pub spiffe: Option<SpiffeMatch>,
    /// The server name that the caller asked for.
    pub sni: Option<String>,
    /// Tags of the caller, as `from` of a 2.x document asks for them. A certificate shows each as a URI, see
    /// [`tag_uri`].
    pub tags: BTreeMap<String, String>,
}

/// The URI by which a certificate shows a tag of its proxy.
pub fn tag_uri(key: &str, value: &str) -> String {
    format!("kuma://{key}/{value}")
}

impl Match {
    pub fn is_any(&self) -> bool {
        *self == Match::default()
    }

    /// The URIs of the tags, all of which the caller's certificate must carry.
    pub fn tag_uris(&self) -> impl Iterator<Item = String> {
        self.tags.iter().map(|(key, value)| tag_uri(key, value))
    }

    /// True when every connection that `other` describes is described by this too.
    pub fn covers(&self, other: &Match) -> bool {
        let spiffe = match (&self.spiffe, &other.spiffe) {
            (None, _) => true,
            (Some(own), Some(theirs)) => own.covers(theirs),
            (Some(_), None) => false,
        };
        let sni = self.sni.is_none() || self.sni == other.sni;
        spiffe && sni && self.tags.iter().all(|(key, value)| other.tags.get(key) == Some(value))
    }

    /// What both describe; `None` when no connection can be both.
    pub fn overlap(&self, other: &Match) -> Option<Match> {
        let spiffe = match (&self.spiffe, &other.spiffe) {
            (Some(own), Some(theirs)) if own.covers(theirs) => Some(theirs.clone()),
            (Some(own), Some(theirs)) if theirs.covers(own) => Some(own.clone()),
            (Some(_), Some(_)) => return None,
            (own, theirs) => own.clone().or_else(|| theirs.clone()),
        };
        let sni = match (&self.sni, &other.sni) {
            (Some(own), Some(theirs)) if own != theirs => return None,
            (own, theirs) => own.clone().or_else(|| theirs.clone()),
        };
        let mut tags = self.tags.clone();
        for (key, value) in &other.tags {
            if tags.insert(key.clone(), value.clone()).is_some_and(|own| own != *value) {
                return None;
            }
        }
        Some(Match { spiffe, sni, tags })
    }

    /// Orders conditions so that one that is covered by another never stands before it: none, prefixes from short to
    /// long, exact ids; then by server name, then by tags.
    pub fn specificity(&self) -> (usize, usize, bool, usize) {
        let (exact, length) = match &self.spiffe {
            None => (0, 0),
            Some(SpiffeMatch::Prefix(prefix)) => (1, prefix.len()),
            Some(SpiffeMatch::Exact(_)) => (2, 0),
        };
        (exact, length, self.sni.is_some(), self.tags.len())
    }
}

/// Some connections except others: the peer's condition holds and none of the exceptions does.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    pub peer: Match,
    /// Each lies within `peer`.
    pub except: Vec<Match>,
}

impl Principal {
    pub fn is_any(&self) -> bool {
        self.peer.is_any() && self.except.is_empty()
    }
}

impl From<Match> for Principal {
    fn from(peer: Match) -> Self {
        Principal { peer, except: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Match {
        Match { spiffe: Some(SpiffeMatch::Prefix(text.into())), ..Match::default() }
    }

    fn exact(text: &str) -> Match {
        Match { spiffe: Some(SpiffeMatch::Exact(text.into())), ..Match::default() }
    }

    fn sni(text: &str) -> Match {
        Match { sni: Some(text.into()), ..Match::default() }
    }

    #[test]
    fn a_prefix_covers_what_starts_with_it() {
        assert!(prefix("spiffe://a/").covers(&exact("spiffe://a/b")));
        assert!(prefix("spiffe://a/").covers(&prefix("spiffe://a/b")));
        assert!(!exact("spiffe://a/").covers(&prefix("spiffe://a/")));
        assert!(Match::default().covers(&sni("x")) && !sni("x").covers(&Match::default()));
    }

    #[test]
    fn an_overlap_lies_within_both() {
        assert_eq!(prefix("spiffe://a/").overlap(&exact("spiffe://b/x")), None);
        assert_eq!(sni("x").overlap(&sni("y")), None);
        let both = prefix("spiffe://a/").overlap(&sni("x")).expect("they overlap");
        assert!(prefix("spiffe://a/").covers(&both) && sni("x").covers(&both));
        assert!(both.specificity() > sni("x").specificity());
    }
}
