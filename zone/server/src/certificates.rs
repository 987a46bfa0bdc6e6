//! Certificates of the proxies: one authority per mesh and identity, made in this zone; leaves cached per identity.
//!
//! ```text
//! obtain(spec) --authority: memory, else the sealed secret, else made and its MeshTrust published--> leaf, cached
//! renew_due    --two thirds of a leaf's life are over--> a new leaf, and its holders are woken
//! ```
//!
//! Keys are made on blocking threads, never where proxies are served. The authority's key is sealed in the store and
//! never leaves the zone; the trust in it does.
use crate::metrics::Metrics;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use shared_catalog::{Expected, Outcome};
use shared_identity::ca::{Authority, renew_at};
use shared_model::core::MeshTrust;
use shared_model::{Resource, ResourceKey, Timestamp, kind, labels};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use zone_index::{AuthoritySpec, IdentitySpec, ProxyId};
use zone_store::ZoneStore;
use zone_xds::Identity;

/// An authority of a mesh lives this long. Its leaves live hours.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A certificate of a proxy.
#[derive(Debug)]
pub struct Certificate {
    pub identity: Identity,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

struct Leaf {
    certificate: Arc<Certificate>,
    renew_at: Timestamp,
    holders: BTreeSet<ProxyId>,
}

/// The sealed form of an authority.
#[derive(Serialize, Deserialize)]
struct Sealed {
    certificate: String,
    key: String,
}

/// The zone's issuer.
pub struct Certificates {
    zone: String,
    store: Arc<dyn ZoneStore>,
    metrics: Metrics,
    /// One maker at a time, so that two first proxies of a mesh share an authority.
    authorities: tokio::sync::Mutex<BTreeMap<AuthoritySpec, Arc<Authority>>>,
    leaves: Mutex<BTreeMap<IdentitySpec, Leaf>>,
}

impl Certificates {
    pub fn new(zone: &str, store: Arc<dyn ZoneStore>, metrics: Metrics) -> Certificates {
        let (authorities, leaves) = Default::default();
        Certificates { zone: zone.to_owned(), store, metrics, authorities, leaves }
    }

    /// The certificate of this identity, if one is there and still good; `holder` is noted.
    pub fn cached(&self, spec: &IdentitySpec, holder: &ProxyId) -> Option<Arc<Certificate>> {
        let mut leaves = self.lock();
        let leaf = leaves.get_mut(spec)?;
        if leaf.certificate.not_after <= shared_node::time::now() {
            return None;
        }
        if !leaf.holders.contains(holder) {
            leaf.holders.insert(holder.clone());
        }
        Some(leaf.certificate.clone())
    }

    /// The certificate of this identity; issues one when there is none.
    pub async fn obtain(&self, spec: &IdentitySpec, holder: &ProxyId) -> Result<Arc<Certificate>> {
        if let Some(certificate) = self.cached(spec, holder) {
            return Ok(certificate);
        }
        let certificate = self.issue(spec).await?;
        Ok(self.keep(spec, certificate, Some(holder)))
    }

    /// The proxy holds none any more.
    pub fn leave(&self, holder: &ProxyId) {
        for leaf in self.lock().values_mut() {
            leaf.holders.remove(holder);
        }
    }

    /// Renews what is due and gives the proxies that hold it. What nobody holds is forgotten instead.
    pub async fn renew_due(&self, now: Timestamp) -> BTreeSet<ProxyId> {
        let due: Vec<IdentitySpec> = {
            let mut leaves = self.lock();
            leaves.retain(|_, leaf| leaf.renew_at > now || !leaf.holders.is_empty());
            leaves.iter().filter(|(_, leaf)| leaf.renew_at <= now).map(|(spec, _)| spec.clone()).collect()
        };
        let mut woken = BTreeSet::new();
        for spec in due {
            match self.issue(&spec).await {
                Ok(certificate) => {
                    self.keep(&spec, certificate, None);
                    woken.extend(self.lock().get(&spec).map(|leaf| leaf.holders.clone()).unwrap_or_default());
                }
                // The old one is good for another third of its life; the next round tries again.
                Err(error) => {
                    tracing::error!(
                        identity = spec.spiffe_id,
                        error = format!("{error:#}"),
                        "cannot renew a certificate"
                    );
                }
            }
        }
        woken
    }

    /// The authority, which is made when there is none yet; and its MeshTrust, which is published when it is not there.
    pub async fn authority(&self, spec: &AuthoritySpec) -> Result<Arc<Authority>> {
        let mut authorities = self.authorities.lock().await;
        if let Some(authority) = authorities.get(spec) {
            return Ok(authority.clone());
        }
        let authority = Arc::new(self.load_or_make(spec).await?);
        self.publish(spec, &authority).await?;
        authorities.insert(spec.clone(), authority.clone());
        Ok(authority)
    }

    /// Sees to it that the trust in an authority is published, also after somebody removed it.
    pub async fn ensure_trust(&self, spec: &AuthoritySpec) -> Result<()> {
        let authority = self.authority(spec).await?;
        let key = ResourceKey::new(kind::MESH_TRUST, &spec.mesh, trust_name(spec));
        let there = self.store.catalog().borrow().get(&key).is_some();
        if there { Ok(()) } else { self.publish(spec, &authority).await }
    }

    async fn load_or_make(&self, spec: &AuthoritySpec) -> Result<Authority> {
        let name = format!("ca/{}/{}/{}", spec.mesh, spec.identity, spec.trust_domain);
        if let Some(bytes) = self.store.secret(&name).await? {
            let sealed: Sealed =
                serde_json::from_slice(&bytes).with_context(|| format!("the secret {name}"))?;
            return Ok(Authority::from_pem(&sealed.certificate, &sealed.key)?);
        }
        let now = shared_node::time::now();
        let (common_name, domain) =
            (format!("{} {} {}", spec.mesh, spec.identity, self.zone), spec.trust_domain.clone());
        let make = move || Authority::generate(&common_name, Some(&domain), now, AUTHORITY_LIFETIME);
        let made = tokio::task::spawn_blocking(make).await??;
        let sealed = Sealed { certificate: made.cert_pem().to_owned(), key: made.key_pem() };
        self.store.put_secret(&name, &serde_json::to_vec(&sealed)?).await?;
        tracing::info!(
            mesh = spec.mesh,
            identity = spec.identity,
            trust_domain = spec.trust_domain,
            "an authority was made"
        );
        Ok(made)
    }

    async fn publish(&self, spec: &AuthoritySpec, authority: &Authority) -> Result<()> {
        let trust = MeshTrust::of(&spec.trust_domain, authority.cert_pem());
        let resource =
            Resource::new(kind::MESH_TRUST, &spec.mesh, &trust_name(spec), serde_json::to_value(trust)?)
                .with_label(labels::MESH, &spec.mesh)
                .with_label(labels::ORIGIN, labels::ORIGIN_ZONE)
                .with_label(labels::ZONE, &self.zone)
                .with_label(labels::ENV, "universal");
        match self.store.put(resource, Expected::Any).await? {
            Outcome::Refused(refusal) => {
                anyhow::bail!("the MeshTrust of {} is refused: {refusal}", spec.trust_domain)
            }
            _ => Ok(()),
        }
    }

    async fn issue(&self, spec: &IdentitySpec) -> Result<Certificate> {
        let authority = self.authority(&spec.authority).await?;
        let (uris, lifetime, now) = (spec.uris.clone(), spec.lifetime.0, shared_node::time::now());
        let issued =
            tokio::task::spawn_blocking(move || authority.issue_workload(&uris, now, lifetime)).await??;
        ensure!(issued.not_after > now, "the lifetime of {} is {}", spec.spiffe_id, spec.lifetime);
        self.metrics.certificates_issued.inc();
        let identity =
            Identity { chain_pem: issued.chain_pem, key_pem: issued.key_pem, version: issued.serial };
        Ok(Certificate { identity, not_before: issued.not_before, not_after: issued.not_after })
    }

    /// Keeps a leaf; of two that were made at once, the first stays when both are fresh.
    fn keep(
        &self,
        spec: &IdentitySpec,
        certificate: Certificate,
        holder: Option<&ProxyId>,
    ) -> Arc<Certificate> {
        let renew_at = renew_at(certificate.not_before, certificate.not_after, rand::random());
        let mut leaves = self.lock();
        let before = leaves.remove(spec);
        let mut leaf = match before {
            Some(leaf) if leaf.renew_at > certificate.not_before => leaf,
            before => {
                let holders = before.map(|leaf| leaf.holders).unwrap_or_default();
                Leaf { certificate: Arc::new(certificate), renew_at, holders }
            }
        };
        leaf.holders.extend(holder.cloned());
        let certificate = leaf.certificate.clone();
        leaves.insert(spec.clone(), leaf);
        certificate
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IdentitySpec, Leaf>> {
        self.leaves.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A MeshIdentity whose trust domain was changed has an authority of its own for each.
fn trust_name(spec: &AuthoritySpec) -> String {
    format!("{}.{}", spec.identity, spec.trust_domain.replace('_', "-"))
}

#[cfg(test)]
mod tests;
