//! The certificate that a proxy shows.
use std::fmt;

/// A certificate chain and its key, as they go into the proxy's secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The leaf first.
    pub chain_pem: String,
    pub key_pem: String,
    /// What tells one issue from the next, such as the serial number.
    pub version: String,
}

/// Without the key: identities end up in logs of views.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("version", &self.version).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_not_printed() {
        let identity = Identity { chain_pem: "chain".into(), key_pem: "hush".into(), version: "1".into() };
        assert!(!format!("{identity:?}").contains("hush"));
    }
}
