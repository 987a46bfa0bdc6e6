//! What a node shows its peers: a certificate of the cluster's CA that names it.
use anyhow::{Context as _, Result, anyhow};
use shared_identity::ca::{self, Authority};
use shared_node::{file, time};
use std::{path::Path, time::Duration};

const DAY: Duration = Duration::from_secs(24 * 3600);
const LIFETIME: Duration = Duration::from_secs(365 * DAY.as_secs());
/// A certificate that ends sooner is made anew.
const RENEW_BEFORE: Duration = Duration::from_secs(120 * DAY.as_secs());

/// Every node is reached under this name, beside its own: those who join know no other.
const ANY: &str = "node.peers.weft.internal";

/// A node's certificate and key, and the CA of its cluster, all PEM.
#[derive(Clone)]
pub struct Papers {
    pub ca_pem: String,
    pub chain_pem: String,
    pub key_pem: String,
}

/// The DNS name that the certificate of a node holds. It is not looked up.
pub fn name_of(node_id: Option<u64>) -> String {
    node_id.map_or_else(|| ANY.to_owned(), |node_id| format!("node-{node_id:016x}.peers.weft.internal"))
}

fn uri_of(cluster_id: &str, node_id: u64) -> String {
    format!("weft://{cluster_id}/node/{node_id:016x}")
}

/// The node that a verified certificate names, if it is one of this cluster.
pub fn node_of(cluster_id: &str, der: &[u8]) -> Option<u64> {
    let prefix = format!("weft://{cluster_id}/node/");
    let uris = ca::uris(der).ok()?;
    uris.iter().find_map(|uri| u64::from_str_radix(uri.strip_prefix(&prefix)?, 16).ok())
}

/// The cluster's CA in a data directory.
pub fn authority(dir: &Path) -> Result<Authority> {
    let read = |name: &str| file::read(&dir.join("tls").join(name), "the cluster's CA");
    Ok(Authority::from_pem(&read("ca.crt")?, &read("ca.key")?)?)
}

/// Signs the key of a request for a node. Gives the chain, CA included.
pub fn issue(authority: &Authority, cluster_id: &str, node_id: u64, csr_pem: &str) -> Result<String> {
    let names = [name_of(Some(node_id)), name_of(None)];
    let uri = uri_of(cluster_id, node_id);
    Ok(authority.issue_requested(csr_pem, &names, &uri, time::now(), LIFETIME)?)
}

impl Papers {
    /// Reads `tls/peer.{crt,key}` of a data directory, or makes them from the CA there when they are missing, name
    /// another node or are near their end.
    pub fn load_or_make(dir: &Path, cluster_id: &str, node_id: u64) -> Result<Papers> {
        let authority = authority(dir)?;
        let ca_pem = authority.cert_pem().to_owned();
        let (crt, key) = (dir.join("tls/peer.crt"), dir.join("tls/peer.key"));
        let current = || -> Option<Papers> {
            let chain_pem = std::fs::read_to_string(&crt).ok()?;
            let key_pem = std::fs::read_to_string(&key).ok()?;
            let fresh = ca::not_after(&chain_pem).ok()? > time::now() + RENEW_BEFORE;
            let of_ca = chain_pem.ends_with(&ca_pem);
            let named = named(&chain_pem, cluster_id)? == node_id;
            (fresh && of_ca && named).then(|| Papers { ca_pem: ca_pem.clone(), chain_pem, key_pem })
        };
        if let Some(papers) = current() {
            return Ok(papers);
        }
        let (key_pem, csr_pem) = ca::request_key()?;
        let chain_pem = issue(&authority, cluster_id, node_id, &csr_pem)?;
        let papers = Papers { ca_pem, chain_pem, key_pem };
        papers.write(dir)?;
        Ok(papers)
    }

    pub fn write(&self, dir: &Path) -> Result<()> {
        file::write_private(&dir.join("tls/peer.key"), self.key_pem.as_bytes())?;
        file::write_public(&dir.join("tls/peer.crt"), self.chain_pem.as_bytes())
    }
}

fn named(chain_pem: &str, cluster_id: &str) -> Option<u64> {
    let leaf = shared_node::tls::leaf_of(chain_pem).ok()?;
    node_of(cluster_id, &leaf)
}

/// The node that the certificate in a data directory names, in whatever cluster.
pub fn former_owner(dir: &Path) -> Option<String> {
    let chain = std::fs::read_to_string(dir.join("tls/peer.crt")).ok()?;
    let leaf = shared_node::tls::leaf_of(&chain).ok()?;
    ca::uris(&leaf).ok()?.into_iter().next()
}

/// `host:port` of a URL `https://host:port` or of `host:port` itself.
pub fn host_and_port(text: &str) -> Result<(String, u16)> {
    let bad = || anyhow!("{text:?} is not of the form https://host:5683");
    let rest = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    let (host, port) = rest.rsplit_once(':').ok_or_else(bad)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().ok().with_context(|| format!("{text:?} has no port"))?;
    if host.is_empty() || host.contains('/') {
        return Err(bad());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn papers_name_their_node_and_stay_until_the_node_is_another() {
        shared_node::tls::install_crypto();
        let dir = tempfile::tempdir().expect("a directory");
        shared_node::tls::ServingCert::load_or_make(&dir.path().join("tls"), &[]).expect("a CA");
        let first = Papers::load_or_make(dir.path(), "c", 7).expect("made");
        let again = Papers::load_or_make(dir.path(), "c", 7).expect("read");
        assert_eq!(first.chain_pem, again.chain_pem);
        let other = Papers::load_or_make(dir.path(), "c", 8).expect("made anew");
        let leaf = shared_node::tls::leaf_of(&other.chain_pem).expect("a leaf");
        assert_eq!(node_of("c", &leaf), Some(8));
        assert_eq!(node_of("d", &leaf), None);
        assert_eq!(former_owner(dir.path()).as_deref(), Some("weft://c/node/0000000000000008"));
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        assert_eq!(host_and_port("https://a.b:5683").expect("good"), ("a.b".into(), 5683));
        assert_eq!(host_and_port("[::1]:1").expect("good"), ("::1".into(), 1));
        for bad in ["a", ":1", "a:x", "http://a:1"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
