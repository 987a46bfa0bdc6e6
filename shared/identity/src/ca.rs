//! Certificate authorities and the leaves that they issue. All keys are P-256.
use crate::Error;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use shared_model::Timestamp;
use std::{fmt, time::Duration};

/// Clocks differ a little: what is issued is valid from this much before it was issued.
const BACKDATE: Duration = Duration::from_secs(60);

/// A certificate authority: its certificate and its key.
pub struct Authority {
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A leaf certificate with its key. `Debug` hides the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The leaf, then what is needed to reach the root.
    pub chain_pem: String,
    pub key_pem: String,
    /// Hexadecimal.
    pub serial: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(***)")
    }
}

impl Authority {
    /// Makes an authority with a new key. With a trust domain it carries `spiffe://<trust domain>` as its name.
    pub fn generate(
        common_name: &str,
        trust_domain: Option<&str>,
        not_before: Timestamp,
        lifetime: Duration,
    ) -> Result<Authority, Error> {
        let key = KeyPair::generate()?;
        let mut params = params(common_name, not_before, lifetime);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        if let Some(domain) = trust_domain {
            params.subject_alt_names.push(SanType::URI(text(&format!("spiffe://{domain}"))?));
        }
        let cert_pem = params.self_signed(&key)?.pem();
        Ok(Authority { cert_pem, issuer: Issuer::new(params, key) })
    }

    pub fn from_pem(cert: &str, key: &str) -> Result<Authority, Error> {
        let key = KeyPair::from_pem(key).map_err(|error| Error::Key(error.to_string()))?;
        Ok(Authority { cert_pem: cert.to_owned(), issuer: Issuer::from_ca_cert_pem(cert, key)? })
    }

    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for a proxy, which serves and calls under these URIs (its SPIFFE id first).
    pub fn issue_workload(
        &self,
        uris: &[String],
        not_before: Timestamp,
        lifetime: Duration,
    ) -> Result<Issued, Error> {
        let names = uris.iter().map(|uri| Ok(SanType::URI(text(uri)?))).collect::<Result<Vec<_>, Error>>()?;
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue("", names, usages, not_before, lifetime)
    }

    /// A certificate for a server that is reached under these DNS names and IP addresses.
    pub fn issue_server(
        &self,
        common_name: &str,
        names: &[String],
        not_before: Timestamp,
        lifetime: Duration,
    ) -> Result<Issued, Error> {
        let names = names
            .iter()
            .map(|name| match name.parse() {
                Ok(ip) => Ok(SanType::IpAddress(ip)),
                Err(_) => Ok(SanType::DnsName(text(name)?)),
            })
            .collect::<Result<Vec<_>, Error>>()?;
        self.issue(common_name, names, vec![ExtendedKeyUsagePurpose::ServerAuth], not_before, lifetime)
    }

    /// A certificate for the key of a request, to serve and to call under `names` (DNS) and `uri`. What the request asks
    /// for beside its key is of no account. Gives the leaf, then this authority.
    pub fn issue_requested(
        &self,
        csr_pem: &str,
        names: &[String],
        uri: &str,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<String, Error> {
        let mut sans = vec![SanType::URI(text(uri)?)];
        for name in names {
            sans.push(SanType::DnsName(text(name)?));
        }
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign_request(csr_pem, "weft node", sans, usages, now, lifetime)
    }

    /// A certificate for the key of a request, to call under these URIs. Gives the leaf, then this authority.
    pub fn issue_requested_client(
        &self,
        csr_pem: &str,
        common_name: &str,
        uris: &[String],
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<String, Error> {
        let sans = uris.iter().map(|uri| Ok(SanType::URI(text(uri)?))).collect::<Result<Vec<_>, Error>>()?;
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign_request(csr_pem, common_name, sans, usages, now, lifetime)
    }

    fn sign_request(
        &self,
        csr_pem: &str,
        common_name: &str,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<String, Error> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem)?;
        let params = leaf(common_name, names, usages, now, lifetime);
        let leaf = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(format!("{}{}", leaf.pem(), self.cert_pem))
    }

    fn issue(
        &self,
        common_name: &str,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Issued, Error> {
        let key = KeyPair::generate()?;
        let params = leaf(common_name, names, usages, now, lifetime);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate.der())
            .map_err(|error| Error::Certificate(error.to_string()))?;
        Ok(Issued {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            serial: parsed.raw_serial_as_string().replace(':', ""),
            not_before: now,
            not_after: now + lifetime,
        })
    }
}

fn leaf(
    common_name: &str,
    names: Vec<SanType>,
    usages: Vec<ExtendedKeyUsagePurpose>,
    now: Timestamp,
    lifetime: Duration,
) -> CertificateParams {
    let mut params = params(common_name, now, lifetime);
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages;
    params.use_authority_key_identifier_extension = true;
    params
}

fn params(common_name: &str, now: Timestamp, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if !common_name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, common_name);
    }
    let at = |time: Timestamp| {
        rcgen::date_time_ymd(1970, 1, 1)
            + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
    };
    params.not_before = at(now - BACKDATE);
    params.not_after = at(now + lifetime);
    params
}

fn text(value: &str) -> Result<rcgen::string::Ia5String, Error> {
    value.try_into().map_err(|_| Error::Certificate(format!("{value:?} is not plain ASCII")))
}

/// When to renew: after two thirds of the lifetime, and up to a tenth earlier by `jitter` (0 to 1), so that what was
/// issued together is not renewed together.
pub fn renew_at(not_before: Timestamp, not_after: Timestamp, jitter: f64) -> Timestamp {
    let lifetime = (not_after - not_before).to_std().unwrap_or_default();
    not_before + lifetime.mul_f64(2.0 / 3.0 - 0.1 * jitter.clamp(0.0, 1.0))
}

/// A new key, and the request for a certificate of it, both PEM.
pub fn request_key() -> Result<(String, String), Error> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&key)?;
    Ok((key.serialize_pem(), request.pem()?))
}

/// SHA-256 of the first certificate in a PEM text, hexadecimal.
pub fn fingerprint(pem: &str) -> Result<String, Error> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .map_err(|error| Error::Certificate(error.to_string()))?;
    Ok(fingerprint_of(&block.contents))
}

/// SHA-256 of a certificate in DER, hexadecimal.
pub fn fingerprint_of(der: &[u8]) -> String {
    crate::hex(&crate::digest(&[der]))
}

/// Whether the first certificate in a PEM text may sign others.
pub fn is_authority(pem: &str) -> Result<bool, Error> {
    let bad = |reason: String| Error::Certificate(reason);
    let (_, block) =
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| bad(error.to_string()))?;
    let certificate = block.parse_x509().map_err(|error| bad(error.to_string()))?;
    Ok(certificate.is_ca())
}

/// The URIs among the names of a certificate in DER.
pub fn uris(der: &[u8]) -> Result<Vec<String>, Error> {
    let bad = |reason: String| Error::Certificate(reason);
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|error| bad(error.to_string()))?;
    let names = certificate.subject_alternative_name().map_err(|error| bad(error.to_string()))?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    Ok(names
        .iter()
        .filter_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
        .collect())
}

/// Until when a PEM certificate is valid.
pub fn not_after(pem: &str) -> Result<Timestamp, Error> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .map_err(|error| Error::Certificate(error.to_string()))?;
    not_after_of(&block.contents)
}

/// Until when a certificate in DER is valid.
pub fn not_after_of(der: &[u8]) -> Result<Timestamp, Error> {
    let bad = |reason: String| Error::Certificate(reason);
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|error| bad(error.to_string()))?;
    let seconds = certificate.validity().not_after.timestamp();
    Timestamp::from_timestamp(seconds, 0).ok_or_else(|| bad(format!("{seconds} is no time")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> Timestamp {
        Timestamp::from_timestamp(1_800_000_000, 0).expect("a time")
    }

    #[test]
    fn a_leaf_verifies_against_its_authority_even_after_the_authority_was_stored() {
        let made = Authority::generate("weft test", Some("default"), now(), 10 * HOUR).expect("an authority");
        let again = Authority::from_pem(made.cert_pem(), &made.key_pem()).expect("the same authority");
        for authority in [made, again] {
            let uris = ["spiffe://default/web".to_owned(), "kuma://kuma.io/service/web".to_owned()];
            let leaf = authority.issue_workload(&uris, now(), HOUR).expect("a leaf");
            let (_, leaf_pem) = x509_parser::pem::parse_x509_pem(leaf.chain_pem.as_bytes()).expect("pem");
            let (_, root_pem) =
                x509_parser::pem::parse_x509_pem(authority.cert_pem().as_bytes()).expect("pem");
            let (leaf_cert, root) =
                (leaf_pem.parse_x509().expect("x509"), root_pem.parse_x509().expect("x509"));
            assert_eq!(leaf_cert.issuer(), root.subject());
            let names = format!("{:?}", leaf_cert.subject_alternative_name().expect("san"));
            assert!(names.contains("spiffe://default/web"), "{names}");
            assert_eq!(not_after(&leaf.chain_pem).expect("a time"), now() + HOUR);
            assert!(!format!("{leaf:?}").contains("PRIVATE"));
        }
    }

    #[test]
    fn a_requested_leaf_has_the_names_that_the_authority_chose() {
        let authority = Authority::generate("weft test", None, now(), 10 * HOUR).expect("an authority");
        let (key, csr) = request_key().expect("a key");
        let names = ["node-1.peers".to_owned()];
        let chain = authority.issue_requested(&csr, &names, "weft://c/node/1", now(), HOUR).expect("a leaf");
        assert!(key.contains("PRIVATE KEY") && chain.ends_with(authority.cert_pem()));
        let (rest, leaf) = x509_parser::pem::parse_x509_pem(chain.as_bytes()).expect("pem");
        assert_eq!(uris(&leaf.contents).expect("names"), ["weft://c/node/1"]);
        let (_, ca) = x509_parser::pem::parse_x509_pem(rest).expect("pem");
        assert_eq!(fingerprint_of(&ca.contents), fingerprint(authority.cert_pem()).expect("pem"));
        assert!(authority.issue_requested("rubbish", &names, "weft://c", now(), HOUR).is_err());

        let client_uris = ["weft://c/zone/east/1".to_owned(), "weft://c/token/2".to_owned()];
        let chain =
            authority.issue_requested_client(&csr, "weft zone", &client_uris, now(), HOUR).expect("a leaf");
        let (_, leaf) = x509_parser::pem::parse_x509_pem(chain.as_bytes()).expect("pem");
        assert_eq!(uris(&leaf.contents).expect("names"), client_uris);
        assert_eq!(not_after_of(&leaf.contents).expect("a time"), now() + HOUR);
        let parsed = leaf.parse_x509().expect("x509");
        let usage = parsed.extended_key_usage().expect("readable").expect("there").value;
        assert!(usage.client_auth && !usage.server_auth);
    }

    #[test]
    fn renewal_comes_well_before_the_end_and_not_all_at_once() {
        let end = now() + HOUR;
        let (early, late) = (renew_at(now(), end, 1.0), renew_at(now(), end, 0.0));
        assert!(now() + HOUR / 2 < early && early < late && late < end);
    }
}
