//! Certificates of the proxies: one authority per mesh and identity, made in this zone; leaves cached per identity.
//!
//! ```text
//! obtain(spec) --authority: memory, else the sealed secret, else made and its MeshTrust published--> leaf, cached
//! renew_due    --two thirds of a leaf's life are over--> a new leaf, and its holders are woken
//! ```
//!
//! Leaves are sealed in the store too, behind the proxies' backs: a zone that starts again gives each proxy the
//! certificate that it has, and a storm of returning proxies costs no key. One that was not written in time is issued
//! anew.
//!
//! Keys are made on blocking threads, never where proxies are served. The authority's key is sealed in the store and
//! never leaves the zone; the trust in it does.
mod kept;
mod leaves;

pub use leaves::Holder;

use crate::metrics::Metrics;
use anyhow::{Context as _, Result, ensure};
use kept::Kept;
use leaves::Leaves;
use serde::{Deserialize, Serialize};
use shared_catalog::{Expected, Outcome};
use shared_identity::ca::Authority;
use shared_model::core::MeshTrust;
use shared_model::{Resource, ResourceKey, Timestamp, kind, labels, strict};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
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
    leaves: Mutex<Leaves>,
    /// Identities whose leaf is being issued. Replicas that come together wait for one.
    flights: Mutex<BTreeMap<IdentitySpec, Arc<tokio::sync::Mutex<()>>>>,
    /// As many are issued at once as there are cores: more threads would only take them from each other.
    issuing: Semaphore,
    /// Leaves on their way to the store.
    writes: TaskTracker,
}

impl Certificates {
    pub fn new(zone: &str, store: Arc<dyn ZoneStore>, metrics: Metrics) -> Certificates {
        let (authorities, leaves, flights) = Default::default();
        let issuing = Semaphore::new(std::thread::available_parallelism().map_or(1, |cores| cores.get()));
        let writes = TaskTracker::new();
        Certificates { zone: zone.to_owned(), store, metrics, authorities, leaves, flights, issuing, writes }
    }

    /// Waits until all that was issued is in the store.
    pub async fn written(&self) {
        self.writes.close();
        self.writes.wait().await;
    }

    /// Reads the leaves that an earlier run has issued. What cannot be used is forgotten: it is issued anew.
    pub async fn load(&self) -> Result<()> {
        let now = shared_node::time::now();
        for name in self.store.secret_names(kept::PREFIX).await? {
            let read = self.store.secret(&name).await.ok().flatten();
            let kept =
                read.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok()).and_then(Kept::read);
            match kept.filter(|(spec, leaf)| leaf.not_after > now && kept::name(spec) == name) {
                Some((spec, leaf)) => {
                    self.lock().keep(&spec, leaf, rand::random());
                }
                None => self.store.delete_secret(&name).await?,
            }
        }
        Ok(())
    }

    /// The certificate of this identity, if one is there and still good; `holder` is noted.
    pub fn cached(&self, spec: &IdentitySpec, holder: &Holder) -> Option<Arc<Certificate>> {
        self.lock().take(spec, holder, shared_node::time::now())
    }

    /// The certificate of this identity; issues one when there is none.
    pub async fn obtain(&self, spec: &IdentitySpec, holder: &Holder) -> Result<Arc<Certificate>> {
        if let Some(certificate) = self.cached(spec, holder) {
            return Ok(certificate);
        }
        let flight = lock(&self.flights).entry(spec.clone()).or_default().clone();
        let turn = flight.lock().await;
        let obtained = match self.cached(spec, holder) {
            Some(certificate) => Ok(certificate),
            None => self.issue(spec).await.and_then(|certificate| {
                self.keep(spec, certificate);
                self.cached(spec, holder).context("the certificate has ended already")
            }),
        };
        drop(turn);
        let mut flights = lock(&self.flights);
        // The map's own, and this one.
        if Arc::strong_count(&flight) <= 2 {
            flights.remove(spec);
        }
        obtained
    }

    /// The stream has ended.
    pub fn leave(&self, holder: &Holder) {
        self.lock().leave(holder);
    }

    /// Renews what is due and gives the proxies that hold it. What nobody holds is forgotten instead.
    pub async fn renew_due(&self, now: Timestamp) -> BTreeSet<ProxyId> {
        let due = self.lock().due(now);
        for spec in due.dropped {
            let name = kept::name(&spec);
            if let Err(error) = self.store.delete_secret(&name).await {
                tracing::warn!(name, %error, "a certificate that nobody holds stays in the store");
            }
        }
        let mut woken = BTreeSet::new();
        for spec in due.renew {
            match self.issue(&spec).await {
                Ok(certificate) => {
                    self.keep(&spec, certificate);
                    woken.extend(self.lock().holders(&spec).cloned());
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

    /// Sees to it that the trust in an authority is published, also after somebody removed it. What a user has added to
    /// it stays.
    pub async fn ensure_trust(&self, spec: &AuthoritySpec) -> Result<()> {
        let authority = self.authority(spec).await?;
        let key = ResourceKey::new(kind::MESH_TRUST, &spec.mesh, trust_name(spec));
        let stored = self.store.catalog().borrow().get(&key).cloned();
        let stored = stored.and_then(|stored| strict::read::<MeshTrust>(&stored.spec, "").ok());
        let is_there = stored.is_some_and(|trust| {
            let own = authority.cert_pem();
            trust.trust_domain == spec.trust_domain && trust.ca_bundles.iter().any(|ca| ca.pem.value == own)
        });
        if is_there { Ok(()) } else { self.publish(spec, &authority).await }
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
        // Nobody closes it.
        let _turn = self.issuing.acquire().await.ok();
        let (uris, lifetime, now) = (spec.uris.clone(), spec.lifetime.0, shared_node::time::now());
        let issued =
            tokio::task::spawn_blocking(move || authority.issue_workload(&uris, now, lifetime)).await??;
        ensure!(issued.not_after > now, "the lifetime of {} is {}", spec.spiffe_id, spec.lifetime);
        self.metrics.certificates_issued.inc();
        let identity =
            Identity { chain_pem: issued.chain_pem, key_pem: issued.key_pem, version: issued.serial };
        Ok(Certificate { identity, not_before: issued.not_before, not_after: issued.not_after })
    }

    /// Keeps a leaf, and has it sealed in the store while the proxy is served.
    fn keep(&self, spec: &IdentitySpec, certificate: Certificate) {
        let name = kept::name(spec);
        let kept = serde_json::to_vec(&Kept::of(spec, &certificate));
        if !self.lock().keep(spec, certificate, rand::random()) {
            return;
        }
        let store = self.store.clone();
        self.writes.spawn(async move {
            let written = match kept {
                Ok(bytes) => store.put_secret(&name, &bytes).await.map_err(anyhow::Error::from),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = written {
                tracing::warn!(
                    name,
                    error = format!("{error:#}"),
                    "a certificate will not outlive a restart"
                );
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Leaves> {
        lock(&self.leaves)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A MeshIdentity whose trust domain was changed has an authority of its own for each.
fn trust_name(spec: &AuthoritySpec) -> String {
    format!("{}.{}", spec.identity, spec.trust_domain.replace('_', "-"))
}

#[cfg(test)]
mod tests;
