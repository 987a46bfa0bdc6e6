//! What the zone follows and what it owns, read as one.
//!
//! A standalone zone follows nothing. Of what a federated zone follows, its own resources come back from global as
//! echoes; the owned ones count. Meshes that a zone kept from a time when it stood alone do not count once it follows a
//! global.
use shared_api::signing::verification_keys;
use shared_catalog::Catalog;
use shared_identity::names::Purpose;
use shared_identity::token::VerificationKeys;
use shared_model::{Kind, Resource, ResourceKey, kind};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The two sources of a zone's state.
#[derive(Clone)]
pub struct Catalogs {
    zone: Arc<str>,
    followed: Option<watch::Receiver<Arc<Catalog>>>,
    owned: watch::Receiver<Arc<Catalog>>,
}

impl Catalogs {
    pub fn new(
        zone: &str,
        followed: Option<watch::Receiver<Arc<Catalog>>>,
        owned: watch::Receiver<Arc<Catalog>>,
    ) -> Catalogs {
        Catalogs { zone: zone.into(), followed, owned }
    }

    pub fn is_federated(&self) -> bool {
        self.followed.is_some()
    }

    /// What comes from global; empty in a standalone zone.
    pub fn followed(&self) -> Arc<Catalog> {
        self.followed.as_ref().map(|followed| followed.borrow().clone()).unwrap_or_default()
    }

    pub fn owned(&self) -> Arc<Catalog> {
        self.owned.borrow().clone()
    }

    /// Returns when either source has moved on since this receiver looked last; false when both are closed.
    pub async fn changed(&mut self) -> bool {
        match &mut self.followed {
            None => self.owned.changed().await.is_ok(),
            Some(followed) => tokio::select! {
                changed = followed.changed() => changed.is_ok(),
                changed = self.owned.changed() => changed.is_ok(),
            },
        }
    }

    /// Both sources, marked as seen.
    pub fn see(&mut self) -> (Arc<Catalog>, Arc<Catalog>) {
        let followed = self.followed.as_mut().map(|followed| followed.borrow_and_update().clone());
        (followed.unwrap_or_default(), self.owned.borrow_and_update().clone())
    }

    pub fn has_mesh(&self, mesh: &str) -> bool {
        self.get(&ResourceKey::new(kind::MESH, "", mesh)).is_some()
    }

    pub fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        let owned = self.owned().get(key).filter(|resource| self.counts_as_owned(resource)).cloned();
        owned.or_else(|| self.followed().get(key).filter(|resource| !self.is_echo(resource)).cloned())
    }

    pub fn list(&self, kind: &str, mesh: Option<&str>) -> Vec<Arc<Resource>> {
        let (followed, owned) = (self.followed(), self.owned());
        let mut all = BTreeMap::new();
        all.extend(followed.list(kind, mesh).filter(|r| !self.is_echo(r)).map(|r| (r.key(), r.clone())));
        all.extend(owned.list(kind, mesh).filter(|r| self.counts_as_owned(r)).map(|r| (r.key(), r.clone())));
        all.into_values().collect()
    }

    /// True when the resource is global's: it is there, and the zone does not own it.
    pub fn is_followed(&self, key: &ResourceKey) -> bool {
        let owned = self.owned().get(key).is_some_and(|resource| self.counts_as_owned(resource));
        !owned && self.followed().get(key).is_some_and(|resource| !self.is_echo(resource))
    }

    /// The public keys that check tokens of this purpose, with the tokens that were revoked.
    pub fn keys(&self, purpose: &Purpose) -> VerificationKeys {
        let list = |kind: &'static Kind, mesh: &str| self.list(kind.name, (!mesh.is_empty()).then_some(mesh));
        verification_keys(purpose, list, |key| self.get(key))
    }

    /// False for what a zone wrote when it stood alone and global writes now.
    pub fn counts_as_owned(&self, resource: &Resource) -> bool {
        !(self.is_federated() && matches!(resource.kind.as_str(), kind::MESH | kind::ZONE))
    }

    pub fn is_echo(&self, resource: &Resource) -> bool {
        resource.zone() == Some(&*self.zone)
    }
}
