//! Who is who: SPIFFE ids and certificates of proxies, tokens of users, zones and proxies, and the sealing of secrets.
//!
//! Pure: the time comes in as an argument and so do names and lifetimes. Keys are made here, by the one library that
//! makes them well; that is the only randomness, and no decision depends on it.
//!
//! ```text
//! ca:    Authority --issue--> Issued (certificate, key)     renew_at: is it time to rotate?
//! token: SigningKey --issue--> JWT --verify(VerificationKeys)--> claims
//! seal:  SealKey: what must not leave its owner is stored only as ciphertext
//! names: under which names the keys lie in the catalog
//! ```
pub mod ca;
pub mod known;
pub mod names;
pub mod seal;
pub mod token;

/// SHA-256: of one part as it is, of several each with its length before it.
pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    match parts {
        [only] => context.update(only),
        several => several.iter().for_each(|part| {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }),
    }
    context.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What went wrong with a key, a certificate or a sealed secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("certificate: {0}")]
    Certificate(String),
    #[error("key: {0}")]
    Key(String),
    #[error("token: {0}")]
    Token(String),
    #[error("sealed data cannot be opened: wrong key, wrong context, or damaged")]
    Sealed,
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Error::Certificate(error.to_string())
    }
}
