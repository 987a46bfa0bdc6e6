//! What the store that Weft is compared with shows its clients and its members: the same kind of key and certificate.
use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::{fs, path::Path};

/// Writes `ca.crt`, `node.crt` and `node.key`.
pub fn make(dir: &Path) -> Result<()> {
    let (ca_key, node_key) = (KeyPair::generate()?, KeyPair::generate()?);
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = authority.self_signed(&ca_key)?;
    let mut node = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    node.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let node = node.signed_by(&node_key, &Issuer::new(authority, ca_key))?;
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("ca.crt", ca.pem())?;
    write("node.crt", node.pem())?;
    write("node.key", node_key.serialize_pem())
}
