//! TLS: the certificate that a server shows, made on the first start, and the roots that a client trusts.
use crate::{file, time};
use anyhow::{Context as _, Result};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use shared_identity::ca::{self, Authority};
use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The authority of one installation outlives every certificate that it issues.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * DAY.as_secs());
/// A leaf that ends sooner than this is made anew at the next start.
const RENEW_BEFORE: Duration = Duration::from_secs(120 * DAY.as_secs());

/// Chooses the one provider of cryptography for the process. Call it first; later calls do nothing.
pub fn install_crypto() {
    // An error says that it was installed before, by an earlier call of this function.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A server's certificate, and the authority that clients have to trust.
#[derive(Clone)]
pub struct ServingCert {
    pub ca_pem: String,
    pub chain_pem: String,
    key_pem: String,
}

impl ServingCert {
    /// Reads `<dir>/{ca,server}.{crt,key}`, or makes them: an authority once, and a leaf whenever it is missing, near
    /// its end, of another authority or key, or lacks one of `names`. The leaf also holds `localhost`, the host's name and its addresses.
    pub fn load_or_make(dir: &Path, names: &[String]) -> Result<ServingCert> {
        file::private_dir(dir)?;
        let at = |name: &str| dir.join(name);
        let now = time::now();
        let authority = if at("ca.crt").exists() {
            let (cert, key) =
                (file::read(&at("ca.crt"), "the CA")?, file::read(&at("ca.key"), "the CA's key")?);
            Authority::from_pem(&cert, &key)
                .with_context(|| format!("cannot use the CA in {}", dir.display()))?
        } else {
            let made = Authority::generate("weft control plane", None, now, CA_LIFETIME)?;
            file::write_private(&at("ca.key"), made.key_pem().as_bytes())?;
            file::write_public(&at("ca.crt"), made.cert_pem().as_bytes())?;
            made
        };
        let names: Vec<String> = wanted_names(names).into_iter().collect();
        let list = format!("{}\n{}", names.join("\n"), authority.cert_pem());
        let current = || -> Option<(String, String)> {
            let chain = std::fs::read_to_string(at("server.crt")).ok()?;
            let key = std::fs::read_to_string(at("server.key")).ok()?;
            let same = std::fs::read_to_string(at("server.names")).ok()? == list;
            let fresh = shared_identity::ca::not_after(&chain).ok()? > now + RENEW_BEFORE;
            // A crash between two files leaves a pair that does not fit.
            let fits = || certified(&chain, &key).is_ok();
            (same && fresh && fits()).then_some((chain, key))
        };
        let (chain_pem, key_pem) = match current() {
            Some(found) => found,
            None => {
                let leaf = authority.issue_server("weft control plane", &names, now, LEAF_LIFETIME)?;
                file::write_private(&at("server.key"), leaf.key_pem.as_bytes())?;
                file::write_public(&at("server.crt"), leaf.chain_pem.as_bytes())?;
                file::write_public(&at("server.names"), list.as_bytes())?;
                (leaf.chain_pem, leaf.key_pem)
            }
        };
        Ok(ServingCert { ca_pem: authority.cert_pem().to_owned(), chain_pem, key_pem })
    }

    /// The server's side of TLS 1.2 and 1.3, for HTTP/1.1 and HTTP/2.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>> {
        Ok(server_config(self.shown()?))
    }

    /// To be shown, and replaced later.
    pub fn shown(&self) -> Result<Arc<Shown>> {
        Shown::new(&self.chain_pem, &self.key_pem)
    }

    /// Shows this one from now on.
    pub fn renew(&self, shown: &Shown) -> Result<()> {
        shown.replace(&self.chain_pem, &self.key_pem)
    }
}

/// A server's side of TLS 1.2 and 1.3, for HTTP/1.1 and HTTP/2.
pub fn server_config(shown: Arc<Shown>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Puts an authority that the operator brings where [`ServingCert::load_or_make`] finds it. Refused: a key that is not the
/// certificate's, a certificate that is no authority's, and another one than is there already.
pub fn bring_authority(dir: &Path, cert_file: &Path, key_file: &Path) -> Result<()> {
    let (cert, key) = (file::read(cert_file, "the CA")?, file::read(key_file, "the CA's key")?);
    let brought = || format!("cannot use the CA in {}", cert_file.display());
    certified(&cert, &key).with_context(brought)?;
    anyhow::ensure!(
        ca::is_authority(&cert).with_context(brought)?,
        "{}: it may not sign certificates",
        brought()
    );
    Authority::from_pem(&cert, &key).with_context(brought)?;
    let at = |name: &str| dir.join(name);
    if at("ca.crt").exists() {
        let there = file::read(&at("ca.crt"), "the CA")?;
        let same = ca::fingerprint(&there)? == ca::fingerprint(&cert)?;
        anyhow::ensure!(
            same,
            "{} is not the CA that is in use, {}: nobody would trust it",
            cert_file.display(),
            at("ca.crt").display()
        );
        return Ok(());
    }
    file::private_dir(dir)?;
    file::write_private(&at("ca.key"), key.as_bytes())?;
    file::write_public(&at("ca.crt"), cert.as_bytes())
}

/// The certificate that this process shows from now on, replaced while it runs: the next handshake shows the next one.
#[derive(Debug)]
pub struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    /// Fails for a certificate that is not the key's.
    pub fn new(chain_pem: &str, key_pem: &str) -> Result<Arc<Shown>> {
        Ok(Arc::new(Shown(RwLock::new(certified(chain_pem, key_pem)?))))
    }

    pub fn replace(&self, chain_pem: &str, key_pem: &str) -> Result<()> {
        let next = certified(chain_pem, key_pem)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    fn current(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(chain_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>> {
    let provider = rustls::crypto::ring::default_provider();
    Ok(Arc::new(CertifiedKey::from_der(certificates(chain_pem)?, private_key(key_pem)?, &provider)?))
}

/// A server's side of TLS 1.3, for HTTP/2, that asks clients for a certificate of the authorities in `ca_pem`. One that
/// shows none is let in too, and has no [`crate::serve::ClientCertificate`]; one that shows another is not.
pub fn mutual_server_config(ca_pem: &str, shown: Arc<Shown>) -> Result<Arc<ServerConfig>> {
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots(ca_pem)?)).allow_unauthenticated().build()?;
    let mut config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// A client's side of TLS 1.3 that shows a certificate, for HTTP/2.
pub fn mutual_client_config(ca_pem: &str, shown: Arc<Shown>) -> Result<ClientConfig> {
    let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(roots(ca_pem)?)
        .with_client_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// A client's side of TLS 1.3 that knows its authority only by fingerprint: the server must show it in its chain, and is
/// then verified against it as against any root.
pub fn pinned_client_config(fingerprint: &str) -> Result<ClientConfig> {
    let verifier = Arc::new(Pinned { fingerprint: fingerprint.to_owned() });
    let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Pinned {
    fingerprint: String,
}

impl Pinned {
    /// The usual verifier, with the pinned authority as its only root.
    fn verifier(&self, chain: &[CertificateDer<'_>]) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let pinned = chain.iter().find(|shown| ca::fingerprint_of(shown) == self.fingerprint);
        let pinned = pinned.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        WebPkiServerVerifier::builder(Arc::new(roots))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verifier = self.verifier(intermediates)?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).context("the key")
}

fn wanted_names(extra: &[String]) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = extra.iter().cloned().collect();
    names.extend(["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]);
    names.extend(host_name());
    let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let addresses = if_addrs::get_if_addrs().unwrap_or_default();
    names.extend(
        addresses
            .iter()
            .map(|interface| interface.ip())
            .filter(|ip| !link_local(ip))
            .map(|ip| ip.to_string()),
    );
    names
}

/// This host's name, if it is one that a certificate can hold.
pub fn host_name() -> Option<String> {
    let host = gethostname::gethostname().to_string_lossy().to_ascii_lowercase();
    let good = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    good.then_some(host)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().context("not PEM")?;
    anyhow::ensure!(!found.is_empty(), "holds no certificate");
    Ok(found)
}

/// The first certificate of a chain, in DER.
pub fn leaf_of(chain_pem: &str) -> Result<Vec<u8>> {
    certificates(chain_pem).map(|chain| chain[0].to_vec())
}

/// The roots in a PEM text.
pub fn roots(ca_pem: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// The client's side, trusting the authorities in `ca_pem` and nobody else.
pub fn client_config(ca_pem: &str) -> Result<ClientConfig> {
    Ok(ClientConfig::builder().with_root_certificates(roots(ca_pem)?).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_stays_and_the_leaf_follows_the_names() {
        install_crypto();
        let dir = tempfile::tempdir().expect("a directory");
        let first = ServingCert::load_or_make(dir.path(), &[]).expect("made");
        let again = ServingCert::load_or_make(dir.path(), &[]).expect("read");
        assert_eq!((&first.ca_pem, &first.chain_pem), (&again.ca_pem, &again.chain_pem));
        let named = ServingCert::load_or_make(dir.path(), &["cp.example".into()]).expect("made anew");
        assert_eq!(first.ca_pem, named.ca_pem);
        assert_ne!(first.chain_pem, named.chain_pem);
        named.server_config().expect("a server's side");
        client_config(&named.ca_pem).expect("a client's side");
        assert!(client_config("rubbish").is_err());
    }

    #[test]
    fn a_leaf_that_does_not_fit_is_made_anew() {
        install_crypto();
        let (dir, other) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let first = ServingCert::load_or_make(dir.path(), &[]).expect("made");
        ServingCert::load_or_make(other.path(), &[]).expect("made");
        let copy =
            |name: &str| std::fs::copy(other.path().join(name), dir.path().join(name)).expect("copied");
        copy("server.key");
        let second = ServingCert::load_or_make(dir.path(), &[]).expect("made anew");
        assert_ne!(first.chain_pem, second.chain_pem);
        second.server_config().expect("a pair that fits");
        // An operator brings another authority.
        copy("ca.crt");
        copy("ca.key");
        let third = ServingCert::load_or_make(dir.path(), &[]).expect("made anew");
        assert_ne!(second.chain_pem, third.chain_pem);
    }

    #[tokio::test]
    async fn a_certificate_is_replaced_while_connections_go_on() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        install_crypto();
        let dir = tempfile::tempdir().expect("a directory");
        let first = ServingCert::load_or_make(dir.path(), &[]).expect("made");
        let second = ServingCert::load_or_make(dir.path(), &["cp.example".into()]).expect("made anew");
        let shown = first.shown().expect("shown");
        let server = tokio_rustls::TlsAcceptor::from(
            mutual_server_config(&first.ca_pem, shown.clone()).expect("a server's side"),
        );
        let client = tokio_rustls::TlsConnector::from(Arc::new(client_config(&first.ca_pem).expect("roots")));
        let connect = async || {
            let (near, far) = tokio::io::duplex(64 << 10);
            let name = ServerName::try_from("localhost").expect("a name");
            let (near, far) = tokio::join!(client.connect(name, near), server.accept(far));
            (near.expect("connected"), far.expect("accepted"))
        };
        let leaf = |chain: &str| leaf_of(chain).expect("a leaf");
        let seen = |stream: &tokio_rustls::client::TlsStream<_>| {
            stream.get_ref().1.peer_certificates().expect("shown")[0].to_vec()
        };
        let (mut old, mut old_end) = connect().await;
        assert_eq!(seen(&old), leaf(&first.chain_pem));
        second.renew(&shown).expect("replaced");
        let (new, _end) = connect().await;
        assert_eq!(seen(&new), leaf(&second.chain_pem));
        old.write_all(b"still here").await.expect("written");
        let mut text = [0; 10];
        old_end.read_exact(&mut text).await.expect("read");
        assert_eq!(&text, b"still here");
        assert!(shown.replace(&first.chain_pem, &second.key_pem).is_err(), "a key of another certificate");
    }

    #[test]
    fn an_operator_brings_an_authority_once() {
        install_crypto();
        let (dir, own) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let tls = dir.path().join("tls");
        let made = ServingCert::load_or_make(own.path(), &[]).expect("made");
        let at = |name: &str| own.path().join(name);
        let refused = |cert: &str, key: &str| {
            format!("{:#}", bring_authority(&tls, &at(cert), &at(key)).expect_err("refused"))
        };
        assert!(refused("server.crt", "server.key").contains("may not sign"));
        assert!(refused("ca.crt", "server.key").contains("cannot use the CA"));
        assert!(!tls.exists(), "what is refused leaves nothing behind");
        bring_authority(&tls, &at("ca.crt"), &at("ca.key")).expect("brought");
        bring_authority(&tls, &at("ca.crt"), &at("ca.key")).expect("the same again");
        assert_eq!(ServingCert::load_or_make(&tls, &[]).expect("made").ca_pem, made.ca_pem);
        let other = tempfile::tempdir().expect("a directory");
        ServingCert::load_or_make(other.path(), &[]).expect("made");
        let error = bring_authority(&tls, &other.path().join("ca.crt"), &other.path().join("ca.key"));
        assert!(error.expect_err("refused").to_string().contains("is not the CA that is in use"));
    }
}
