//! Under which names signing keys lie in the catalog. They are Kuma's, so that its tools find the public halves.
use shared_model::{ResourceKey, kind};

/// What a key signs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    User,
    Zone,
    Dataplane { mesh: String },
}

impl Purpose {
    /// The private half: sealed, of use to global alone.
    pub fn private_key(&self, kid: &str) -> ResourceKey {
        self.key("signing-key", kid)
    }

    /// The public half, for everyone who checks tokens.
    pub fn public_key(&self, kid: &str) -> ResourceKey {
        self.key("signing-public-key", kid)
    }

    /// The list of revoked token ids, separated by commas.
    pub fn revocations(&self) -> ResourceKey {
        match self {
            Purpose::User => ResourceKey::new(kind::GLOBAL_SECRET, "", "user-token-revocations"),
            Purpose::Zone => ResourceKey::new(kind::GLOBAL_SECRET, "", "zone-token-revocations"),
            Purpose::Dataplane { mesh } => {
                ResourceKey::new(kind::SECRET, mesh, format!("dataplane-token-revocations-{mesh}"))
            }
        }
    }

    /// The key's id, when the resource is a public half for this purpose.
    pub fn public_kid<'a>(&self, key: &'a ResourceKey) -> Option<&'a str> {
        self.kid(key, "signing-public-key")
    }

    /// The key's id, when the resource is a private half for this purpose.
    pub fn private_kid<'a>(&self, key: &'a ResourceKey) -> Option<&'a str> {
        self.kid(key, "signing-key")
    }

    fn kid<'a>(&self, key: &'a ResourceKey, what: &str) -> Option<&'a str> {
        let first = self.key(what, "");
        (key.kind == first.kind && key.mesh == first.mesh)
            .then(|| key.name.strip_prefix(&first.name))
            .flatten()
    }

    fn key(&self, what: &str, kid: &str) -> ResourceKey {
        match self {
            Purpose::User => ResourceKey::new(kind::GLOBAL_SECRET, "", format!("user-token-{what}-{kid}")),
            Purpose::Zone => ResourceKey::new(kind::GLOBAL_SECRET, "", format!("zone-token-{what}-{kid}")),
            Purpose::Dataplane { mesh } => {
                ResourceKey::new(kind::SECRET, mesh, format!("dataplane-token-{what}-{mesh}-{kid}"))
            }
        }
    }
}

/// True for the private half of any signing key: its content is shown to nobody.
pub fn is_private_key(key: &ResourceKey) -> bool {
    let dataplane = || Purpose::Dataplane { mesh: key.mesh.clone() };
    [Purpose::User, Purpose::Zone, dataplane()].iter().any(|purpose| purpose.private_kid(key).is_some())
}

/// True for a global secret that zones check tokens with: public halves of keys, and lists of revoked tokens.
pub fn is_for_zones(key: &ResourceKey) -> bool {
    let is_revocations = || {
        let own = [Purpose::User, Purpose::Zone].iter().any(|purpose| purpose.revocations().name == key.name);
        own || key.name.starts_with("dataplane-token-revocations-")
    };
    let is_public = || [Purpose::User, Purpose::Zone].iter().any(|purpose| purpose.public_kid(key).is_some());
    key.kind == kind::GLOBAL_SECRET && (is_public() || is_revocations())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_kid_and_no_other_purpose_takes_it() {
        let mesh = Purpose::Dataplane { mesh: "m".into() };
        assert_eq!(mesh.public_kid(&mesh.public_key("3")), Some("3"));
        assert_eq!(mesh.private_kid(&mesh.public_key("3")), None);
        assert_eq!(Purpose::User.public_kid(&Purpose::Zone.public_key("1")), None);
        assert!(is_private_key(&mesh.private_key("1")) && !is_private_key(&mesh.public_key("1")));
        assert!(
            is_for_zones(&Purpose::Zone.public_key("1")) && !is_for_zones(&Purpose::Zone.private_key("1"))
        );
        assert!(is_for_zones(&ResourceKey::new(kind::GLOBAL_SECRET, "", "dataplane-token-revocations-m")));
        assert!(!is_for_zones(&ResourceKey::new(kind::GLOBAL_SECRET, "", "admin-user-token")));
    }
}
