//! The form in which a certificate is sealed in the store, so that a restart gives proxies what they have.
use super::Certificate;
use serde::{Deserialize, Serialize};
use shared_model::{Duration, Timestamp};
use zone_index::{AuthoritySpec, IdentitySpec};
use zone_xds::Identity;

/// Under which names the certificates of proxies are sealed.
pub const PREFIX: &str = "leaf/";

#[derive(Serialize, Deserialize)]
pub struct Kept {
    mesh: String,
    identity: String,
    trust_domain: String,
    uris: Vec<String>,
    lifetime: Duration,
    chain: String,
    key: String,
    serial: String,
    not_before_ms: i64,
    not_after_ms: i64,
}

impl Kept {
    pub fn of(spec: &IdentitySpec, certificate: &Certificate) -> Kept {
        let IdentitySpec { authority, uris, lifetime, .. } = spec;
        Kept {
            mesh: authority.mesh.clone(),
            identity: authority.identity.clone(),
            trust_domain: authority.trust_domain.clone(),
            uris: uris.clone(),
            lifetime: *lifetime,
            chain: certificate.identity.chain_pem.clone(),
            key: certificate.identity.key_pem.clone(),
            serial: certificate.identity.version.clone(),
            not_before_ms: certificate.not_before.timestamp_millis(),
            not_after_ms: certificate.not_after.timestamp_millis(),
        }
    }

    /// `None` when it names nobody or no time.
    pub fn read(self) -> Option<(IdentitySpec, Certificate)> {
        let time = Timestamp::from_timestamp_millis;
        let (not_before, not_after) = (time(self.not_before_ms)?, time(self.not_after_ms)?);
        let authority =
            AuthoritySpec { mesh: self.mesh, identity: self.identity, trust_domain: self.trust_domain };
        let spiffe_id = self.uris.first()?.clone();
        let spec = IdentitySpec { authority, spiffe_id, uris: self.uris, lifetime: self.lifetime };
        let identity = Identity { chain_pem: self.chain, key_pem: self.key, version: self.serial };
        Some((spec, Certificate { identity, not_before, not_after }))
    }
}

/// The name of an identity's secret: all that tells it from another. The first of `uris` is the SPIFFE id.
pub fn name(spec: &IdentitySpec) -> String {
    let IdentitySpec { authority, uris, lifetime, .. } = spec;
    format!(
        "{PREFIX}{}/{}/{}/{lifetime}/{}",
        authority.mesh,
        authority.identity,
        authority.trust_domain,
        uris.join(" ")
    )
}
