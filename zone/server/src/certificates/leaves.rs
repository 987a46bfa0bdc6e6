//! The certificates that are at hand, and which streams hold each. Pure: the time and the jitter come in.
use super::Certificate;
use shared_identity::ca::renew_at;
use shared_model::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use zone_index::{IdentitySpec, ProxyId};

/// One stream of a proxy. A proxy that comes back may be there before its older stream is seen to have ended, and the
/// end of the one must not take the certificate from the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    pub proxy: ProxyId,
    pub stream: String,
}

#[derive(Default)]
pub struct Leaves {
    leaves: BTreeMap<Arc<IdentitySpec>, Leaf>,
    /// What each stream holds, so that its end costs no search. It is seldom more than one.
    held: BTreeMap<Holder, Vec<Arc<IdentitySpec>>>,
}

struct Leaf {
    spec: Arc<IdentitySpec>,
    certificate: Arc<Certificate>,
    renew_at: Timestamp,
    holders: BTreeSet<Holder>,
}

/// What is to be done about certificates that are due.
#[derive(Debug, Default, PartialEq)]
pub struct Due {
    pub renew: Vec<IdentitySpec>,
    /// Nobody held these: they are dropped.
    pub dropped: Vec<IdentitySpec>,
}

impl Leaves {
    /// The certificate of this identity, if it is still good; `holder` is noted.
    pub fn take(&mut self, spec: &IdentitySpec, holder: &Holder, now: Timestamp) -> Option<Arc<Certificate>> {
        let leaf = self.leaves.get_mut(spec).filter(|leaf| leaf.certificate.not_after > now)?;
        if !leaf.holders.contains(holder) {
            leaf.holders.insert(holder.clone());
            self.held.entry(holder.clone()).or_default().push(leaf.spec.clone());
        }
        Some(leaf.certificate.clone())
    }

    /// Keeps a certificate unless one of the same identity is still fresh when it was issued, as when two were made at
    /// once. Answers whether it was kept.
    pub fn keep(&mut self, spec: &IdentitySpec, certificate: Certificate, jitter: f64) -> bool {
        let before = self.leaves.get_mut(spec);
        if before.as_ref().is_some_and(|leaf| leaf.renew_at > certificate.not_before) {
            return false;
        }
        let holders = before.map(|leaf| std::mem::take(&mut leaf.holders)).unwrap_or_default();
        let renew_at = renew_at(certificate.not_before, certificate.not_after, jitter);
        let spec = Arc::new(spec.clone());
        let leaf = Leaf { spec: spec.clone(), certificate: Arc::new(certificate), renew_at, holders };
        self.leaves.insert(spec, leaf);
        true
    }

    /// The stream has ended.
    pub fn leave(&mut self, holder: &Holder) {
        for spec in self.held.remove(holder).unwrap_or_default() {
            if let Some(leaf) = self.leaves.get_mut(&spec) {
                leaf.holders.remove(holder);
            }
        }
    }

    pub fn due(&mut self, now: Timestamp) -> Due {
        let mut due = Due::default();
        self.leaves.retain(|spec, leaf| {
            let (is_due, is_held) = (leaf.renew_at <= now, !leaf.holders.is_empty());
            match (is_due, is_held) {
                (true, true) => due.renew.push((**spec).clone()),
                (true, false) => due.dropped.push((**spec).clone()),
                (false, _) => {}
            }
            !is_due || is_held
        });
        due
    }

    /// The proxies that hold a certificate of this identity.
    pub fn holders(&self, spec: &IdentitySpec) -> impl Iterator<Item = &ProxyId> {
        self.leaves.get(spec).into_iter().flat_map(|leaf| &leaf.holders).map(|holder| &holder.proxy)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::spec;
    use super::*;
    use std::time::Duration;
    use zone_xds::Identity;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn certificate(from: i64) -> Certificate {
        let identity = Identity { chain_pem: "c".into(), key_pem: "k".into(), version: from.to_string() };
        Certificate { identity, not_before: at(from), not_after: at(from) + Duration::from_secs(90) }
    }

    fn holder(stream: &str) -> Holder {
        Holder { proxy: ProxyId::new("default", "web-1"), stream: stream.to_owned() }
    }

    #[test]
    fn the_end_of_an_older_stream_does_not_take_the_certificate_from_the_newer_one() {
        let mut leaves = Leaves::default();
        assert!(leaves.keep(&spec(), certificate(0), 0.0));
        assert!(leaves.take(&spec(), &holder("old"), at(1)).is_some());
        assert!(leaves.take(&spec(), &holder("new"), at(2)).is_some());
        leaves.leave(&holder("old"));
        assert_eq!(leaves.due(at(70)), Due { renew: vec![spec()], dropped: Vec::new() });
        assert_eq!(leaves.holders(&spec()).count(), 1);
        leaves.leave(&holder("new"));
        assert_eq!(leaves.due(at(70)), Due { renew: Vec::new(), dropped: vec![spec()] });
        assert!(leaves.held.is_empty() && leaves.leaves.is_empty());
    }

    #[test]
    fn of_two_that_were_made_at_once_the_first_stays_and_one_that_has_ended_is_not_given() {
        let mut leaves = Leaves::default();
        assert!(leaves.keep(&spec(), certificate(0), 0.0));
        assert!(!leaves.keep(&spec(), certificate(1), 0.0));
        assert_eq!(leaves.take(&spec(), &holder("s"), at(89)).unwrap().identity.version, "0");
        assert!(leaves.take(&spec(), &holder("s"), at(90)).is_none());
        assert!(leaves.keep(&spec(), certificate(61), 0.0));
        assert_eq!(leaves.holders(&spec()).count(), 1, "holders stay over a renewal");
    }
}
