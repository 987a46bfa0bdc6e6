//! The keys of an owner of secrets: one that seals, and those before it, for as long as something may be sealed with them.
use shared_identity::{Error, seal::SealKey};
use std::sync::{Arc, PoisonError, RwLock};

/// Clones are the same keys.
#[derive(Clone, Debug)]
pub struct Keyring(Arc<RwLock<Vec<SealKey>>>);

impl From<SealKey> for Keyring {
    fn from(key: SealKey) -> Keyring {
        Keyring::new(key, Vec::new())
    }
}

impl Keyring {
    pub fn new(current: SealKey, former: Vec<SealKey>) -> Keyring {
        let mut keys = vec![current];
        keys.extend(former);
        Keyring(Arc::new(RwLock::new(keys)))
    }

    /// From now on this key seals; the others open.
    pub fn replace(&self, current: SealKey, former: Vec<SealKey>) {
        let mut keys = vec![current];
        keys.extend(former);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The key that seals.
    pub fn current(&self) -> SealKey {
        self.keys().swap_remove(0)
    }

    /// All keys, the one that seals first.
    pub fn keys(&self) -> Vec<SealKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn find(&self, id: &str) -> Option<SealKey> {
        self.keys().into_iter().find(|key| key.id() == id)
    }

    pub fn seal(&self, nonce: [u8; 12], context: &[u8], plain: &[u8]) -> Vec<u8> {
        self.current().seal(nonce, context, plain)
    }

    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let mut tried = Err(Error::Sealed);
        for key in self.keys() {
            tried = key.open(context, sealed);
            if tried.is_ok() {
                break;
            }
        }
        tried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_key_seals_and_all_open() {
        let (old, new) = (SealKey::from_bytes([1; 32]), SealKey::from_bytes([2; 32]));
        let ring = Keyring::from(old.clone());
        let sealed = ring.seal([0; 12], b"name", b"secret");
        ring.replace(new.clone(), vec![old]);
        assert_eq!(ring.open(b"name", &sealed).expect("opens"), b"secret");
        assert!(new.open(b"name", &ring.seal([0; 12], b"name", b"other")).is_ok());
        ring.replace(new, Vec::new());
        assert!(ring.open(b"name", &sealed).is_err());
    }
}
