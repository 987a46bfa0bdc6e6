//! Sealing: authenticated encryption (ChaCha20-Poly1305) of what must not leave its owner.
//!
//! Layout: one byte of version, 12 bytes of nonce, ciphertext with tag. The context (a name) is authenticated, so that
//! a sealed value cannot be passed off as another.
use crate::Error;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::fmt;

const VERSION: u8 = 1;
const NONCE: usize = 12;

/// A key that only the owner of the secrets holds.
#[derive(Clone)]
pub struct SealKey([u8; 32]);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", self.id())
    }
}

impl SealKey {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        SealKey(bytes)
    }

    /// The key itself, for whoever keeps it.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Eight bytes of a digest of the key, hexadecimal: names the key without telling it.
    pub fn id(&self) -> String {
        let digest =
            ring::digest::digest(&ring::digest::SHA256, &[b"weft seal key id".as_slice(), &self.0].concat());
        digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Seals `plain`. A nonce must never be used twice with one key: take 12 random bytes.
    pub fn seal(&self, nonce: [u8; NONCE], context: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut sealed = plain.to_vec();
        self.key()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut sealed)
            .expect("a secret is far below the cipher's limit of 256 GiB");
        [&[VERSION], nonce.as_slice(), &sealed].concat()
    }

    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let (version, rest) = sealed.split_first().ok_or(Error::Sealed)?;
        let (nonce, body) = rest.split_at_checked(NONCE).ok_or(Error::Sealed)?;
        if *version != VERSION {
            return Err(Error::Sealed);
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Sealed)?;
        let mut body = body.to_vec();
        let plain =
            self.key().open_in_place(nonce, Aad::from(context), &mut body).map_err(|_| Error::Sealed)?;
        Ok(plain.to_vec())
    }

    fn key(&self) -> LessSafeKey {
        LessSafeKey::new(
            UnboundKey::new(&CHACHA20_POLY1305, &self.0).expect("32 bytes are the cipher's key length"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_with_its_key_and_its_context() {
        let key = SealKey::from_bytes([7; 32]);
        let sealed = key.seal([1; 12], b"name", b"secret");
        assert_eq!(key.open(b"name", &sealed).expect("opens"), b"secret");
        assert!(key.open(b"other", &sealed).is_err());
        assert!(SealKey::from_bytes([8; 32]).open(b"name", &sealed).is_err());
        for cut in 0..sealed.len() {
            assert!(key.open(b"name", &sealed[..cut]).is_err());
        }
        assert!(!format!("{key:?}").contains("7, 7"));
    }
}
