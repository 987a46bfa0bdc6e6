//! Global secrets on their way into the log and out of it.
//!
//! The log goes to every zone. What zones need of the global secrets are the public halves of signing keys and the lists
//! of revoked tokens; every other one is an administrator's, and travels sealed with a key that only global holds. The
//! private halves of signing keys are sealed by their maker and stay so.
use shared_api::{Keyring, signing};
use shared_identity::names;
use shared_model::{Resource, core::Secret, kind, strict};
use std::sync::Arc;

pub struct Secrets {
    keys: Keyring,
}

impl Secrets {
    pub fn new(keys: impl Into<Keyring>) -> Self {
        Secrets { keys: keys.into() }
    }

    /// What goes into the log in place of `resource`. `stored` is what is there under its name: the same content keeps the
    /// same bytes, so that writing it again is no change.
    pub fn close(&self, mut resource: Resource, stored: Option<&Resource>) -> Resource {
        if !is_sealed(&resource) {
            return resource;
        }
        let Some(plain) = bytes(&resource) else { return resource };
        if let Some(stored) = stored.filter(|stored| self.plain(stored).as_ref() == Some(&plain)) {
            resource.spec = stored.spec.clone();
            return resource;
        }
        let sealed = self.keys.seal(rand::random(), context(&resource).as_bytes(), &plain);
        resource.spec["data"] = Secret::of(&sealed).data.into();
        resource
    }

    /// What an administrator sees of a resource of the log.
    pub fn open(&self, stored: &Arc<Resource>) -> Arc<Resource> {
        let Some(plain) = is_sealed(stored).then(|| self.plain(stored)).flatten() else {
            return stored.clone();
        };
        let mut opened = Resource::clone(stored);
        opened.spec["data"] = Secret::of(&plain).data.into();
        Arc::new(opened)
    }

    /// A secret sealed with the key that seals now, when it is sealed with another.
    pub fn resealed(&self, stored: &Resource) -> Option<Resource> {
        if names::is_private_key(&stored.key()) {
            return signing::resealed(&self.keys, stored);
        }
        if !is_sealed(stored) {
            return None;
        }
        let (context, sealed) = (context(stored), bytes(stored)?);
        if self.keys.current().open(context.as_bytes(), &sealed).is_ok() {
            return None;
        }
        let plain = self.keys.open(context.as_bytes(), &sealed).ok()?;
        let mut resealed = stored.clone();
        let sealed = self.keys.seal(rand::random(), context.as_bytes(), &plain);
        resealed.spec["data"] = Secret::of(&sealed).data.into();
        Some(resealed)
    }

    fn plain(&self, stored: &Resource) -> Option<Vec<u8>> {
        self.keys.open(context(stored).as_bytes(), &bytes(stored)?).ok()
    }
}

fn is_sealed(resource: &Resource) -> bool {
    let key = resource.key();
    key.kind == kind::GLOBAL_SECRET && !names::is_for_zones(&key) && !names::is_private_key(&key)
}

/// A sealed value is bound to its name.
fn context(resource: &Resource) -> String {
    format!("global secret {}", resource.name)
}

fn bytes(resource: &Resource) -> Option<Vec<u8>> {
    strict::read::<Secret>(&resource.spec, "").ok()?.bytes().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use shared_identity::seal::SealKey;

    fn secret(name: &str, text: &str) -> Resource {
        Resource::new(kind::GLOBAL_SECRET, "", name, json!(Secret::of(text.as_bytes())))
    }

    #[test]
    fn what_is_an_administrators_is_sealed_and_opens_again() {
        let secrets = Secrets::new(SealKey::from_bytes([7; 32]));
        let plain = secret("backup-password", "hunter2");
        let stored = Arc::new(secrets.close(plain.clone(), None));
        assert_ne!(stored.spec, plain.spec);
        assert_eq!(*secrets.open(&stored), plain);
        assert_eq!(secrets.close(plain.clone(), Some(&stored)), *stored, "the same again");
        assert_ne!(secrets.close(secret("backup-password", "other"), Some(&stored)), *stored);
        let mut moved = Resource::clone(&stored);
        moved.name = "other".into();
        assert_eq!(*secrets.open(&Arc::new(moved.clone())), moved, "under another name it stays closed");
    }

    #[test]
    fn what_zones_need_and_what_is_not_global_is_left_as_it_is() {
        let secrets = Secrets::new(SealKey::from_bytes([7; 32]));
        for name in ["zone-token-signing-public-key-1", "user-token-revocations", "user-token-signing-key-1"]
        {
            assert_eq!(secrets.close(secret(name, "x"), None), secret(name, "x"), "{name}");
        }
        let of_mesh = Resource::new(kind::SECRET, "default", "ca", json!(Secret::of(b"x")));
        assert_eq!(secrets.close(of_mesh.clone(), None), of_mesh);
    }
}
