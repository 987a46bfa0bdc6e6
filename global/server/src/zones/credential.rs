//! What a zone shows on its link: a certificate of the cluster's CA that says which zone it is, which store of that zone,
//! and from which token it was made. Pure.
//!
//! ```text
//! weft://<cluster>/zone/<zone>/<zone id>      who
//! weft://<cluster>/zone-token/<kid>/<jti>     by whose leave, hexadecimal: revoking the token takes the certificate too
//! ```
use shared_identity::{
    ca::{self, Authority},
    hex,
};
use shared_model::Timestamp;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub zone: String,
    pub zone_id: String,
    pub kid: String,
    pub jti: String,
}

impl Credential {
    /// Reads a certificate that was verified against the cluster's CA, and when it ends. None for one that is no zone's.
    pub fn of(cluster_id: &str, der: &[u8]) -> Option<(Credential, Timestamp)> {
        let uris = ca::uris(der).ok()?;
        let under = |prefix: String| uris.iter().find_map(|uri| uri.strip_prefix(&prefix)?.split_once('/'));
        let (zone, zone_id) = under(format!("weft://{cluster_id}/zone/"))?;
        let (kid, jti) = under(format!("weft://{cluster_id}/zone-token/"))?;
        let credential = Credential {
            zone: zone.to_owned(),
            zone_id: zone_id.to_owned(),
            kid: unhex(kid)?,
            jti: unhex(jti)?,
        };
        Some((credential, ca::not_after_of(der).ok()?))
    }

    /// Signs the key of a request.
    pub fn issue(
        &self,
        authority: &Authority,
        cluster_id: &str,
        csr_pem: &str,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<String, shared_identity::Error> {
        let uris = [
            format!("weft://{cluster_id}/zone/{}/{}", self.zone, self.zone_id),
            format!(
                "weft://{cluster_id}/zone-token/{}/{}",
                hex(self.kid.as_bytes()),
                hex(self.jti.as_bytes())
            ),
        ];
        authority.issue_requested_client(csr_pem, "weft zone", &uris, now, lifetime)
    }
}

fn unhex(text: &str) -> Option<String> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    let bytes: Option<Vec<u8>> = digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_tells_its_zone_in_its_own_cluster_only() {
        shared_node::tls::install_crypto();
        let now = Timestamp::from_timestamp(1_800_000_000, 0).expect("a time");
        let hour = Duration::from_secs(3600);
        let authority = Authority::generate("weft test", None, now, 10 * hour).expect("an authority");
        let (_, csr) = ca::request_key().expect("a key");
        let credential = Credential {
            zone: "east".into(),
            zone_id: "6ba7b810-9dad-11d1-80b4-00c04fd430c8".into(),
            kid: "1".into(),
            jti: "any/thing at all".into(),
        };
        let chain = credential.issue(&authority, "c", &csr, now, hour).expect("issued");
        let leaf = shared_node::tls::leaf_of(&chain).expect("a leaf");
        assert_eq!(Credential::of("c", &leaf), Some((credential.clone(), now + hour)));
        assert_eq!(Credential::of("d", &leaf), None);
        // No node of global, and the other way round.
        assert_eq!(crate::peers::papers::node_of("c", &leaf), None);
        let node = crate::peers::papers::issue(&authority, "c", 7, &csr).expect("issued");
        assert_eq!(Credential::of("c", &shared_node::tls::leaf_of(&node).expect("a leaf")), None);
        let unrevocable = Credential { jti: String::new(), ..credential };
        let chain = unrevocable.issue(&authority, "c", &csr, now, hour).expect("issued");
        let leaf = shared_node::tls::leaf_of(&chain).expect("a leaf");
        assert_eq!(Credential::of("c", &leaf).map(|(found, _)| found), Some(unrevocable));
    }
}
