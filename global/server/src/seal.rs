//! Where the seal key comes from, and where it is kept.
//!
//! ```text
//! --seal-key-file, WEFT_SEAL_KEY    an operator's: never written, never changed by the program
//! <data-dir>/seal.key               else: made at the first start, or handed over by the cluster
//! <data-dir>/seal.key.former        the one before, while something may still be sealed with it
//! ```
use crate::backup::unhex;
use anyhow::{Context as _, Result, ensure};
use shared_api::Keyring;
use shared_identity::seal::SealKey;
use shared_node::file;
use std::{fs, io::ErrorKind, path::Path};

const FILE: &str = "seal.key";
const FORMER: &str = "seal.key.former";
const VARIABLE: &str = "WEFT_SEAL_KEY";
const KEY: usize = 32;

/// The keys of a node, and whether they are its own to change.
#[derive(Clone)]
pub struct SealKeys {
    pub ring: Keyring,
    pub is_given: bool,
}

/// What the operator gives, or what lies in the data directory.
pub fn given(dir: &Path, key_file: Option<&Path>) -> Result<Option<Keyring>> {
    match outside(key_file)? {
        Some(ring) => Ok(Some(ring)),
        None => inside(dir),
    }
}

/// The keys of a node that starts; the first node of a cluster makes one.
pub fn open_or_make(dir: &Path, key_file: Option<&Path>) -> Result<SealKeys> {
    if let Some(ring) = outside(key_file)? {
        return Ok(SealKeys { ring, is_given: true });
    }
    if let Some(ring) = inside(dir)? {
        return Ok(SealKeys { ring, is_given: false });
    }
    let ring = Keyring::from(SealKey::from_bytes(rand::random()));
    keep(dir, &ring)?;
    Ok(SealKeys { ring, is_given: false })
}

/// Whether a node that starts has a key.
pub fn is_there(dir: &Path, key_file: Option<&Path>) -> bool {
    key_file.is_some() || std::env::var_os(VARIABLE).is_some() || dir.join(FILE).exists()
}

/// Writes the keys into a data directory. The former ones go first: at no moment is a key missing.
pub fn keep(dir: &Path, ring: &Keyring) -> Result<()> {
    let keys = ring.keys();
    let former: Vec<u8> = keys[1..].iter().flat_map(|key| *key.bytes()).collect();
    let path = dir.join(FORMER);
    if former.is_empty() {
        file::write_private(&dir.join(FILE), keys[0].bytes())?;
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        };
    }
    file::write_private(&path, &former)?;
    file::write_private(&dir.join(FILE), keys[0].bytes())
}

fn outside(key_file: Option<&Path>) -> Result<Option<Keyring>> {
    if let Some(path) = key_file {
        let bytes = fs::read(path).with_context(|| format!("cannot read the seal key {}", path.display()))?;
        let ring =
            parse(&bytes).with_context(|| format!("the seal key {} cannot be used", path.display()))?;
        return Ok(Some(ring));
    }
    match std::env::var(VARIABLE) {
        Ok(text) => parse(text.as_bytes()).map(Some).with_context(|| format!("{VARIABLE} cannot be used")),
        Err(_) => Ok(None),
    }
}

fn inside(dir: &Path) -> Result<Option<Keyring>> {
    let read = |name: &str| match fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read the key {}", dir.join(name).display())),
    };
    let Some(current) = read(FILE)? else { return Ok(None) };
    ensure!(
        current.len() == KEY,
        "{} holds {} bytes, a key has {KEY}",
        dir.join(FILE).display(),
        current.len()
    );
    let mut keys = raw(&current);
    keys.extend(raw(&read(FORMER)?.unwrap_or_default()));
    Ok(Some(Keyring::new(keys.remove(0), keys)))
}

/// One key as 32 bytes; or keys as 64 hexadecimal digits each, apart by blanks or commas, the one that seals first.
fn parse(bytes: &[u8]) -> Result<Keyring> {
    if bytes.len() == KEY {
        return Ok(Keyring::new(raw(bytes).remove(0), Vec::new()));
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    let mut keys = Vec::new();
    for word in words {
        let key = unhex(word).ok().filter(|key| key.len() == KEY);
        keys.extend(raw(&key.context("a seal key is 32 bytes, or 64 hexadecimal digits")?));
    }
    ensure!(!keys.is_empty(), "it is empty: a seal key is 32 bytes, or 64 hexadecimal digits");
    Ok(Keyring::new(keys.remove(0), keys))
}

fn raw(bytes: &[u8]) -> Vec<SealKey> {
    bytes.as_chunks::<KEY>().0.iter().map(|key| SealKey::from_bytes(*key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ring: &Keyring) -> Vec<String> {
        ring.keys().iter().map(SealKey::id).collect()
    }

    #[test]
    fn keys_are_read_as_they_were_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = open_or_make(dir.path(), None).expect("made");
        assert!(!made.is_given);
        let (old, new) = (made.ring.current(), SealKey::from_bytes([2; 32]));
        made.ring.replace(new, vec![old]);
        keep(dir.path(), &made.ring).expect("kept");
        assert_eq!(ids(&inside(dir.path()).expect("read").expect("there")), ids(&made.ring));
        made.ring.replace(made.ring.current(), Vec::new());
        keep(dir.path(), &made.ring).expect("kept");
        assert_eq!(ids(&inside(dir.path()).expect("read").expect("there")), ids(&made.ring));
        assert!(!dir.path().join(FORMER).exists());
    }

    #[test]
    fn an_operators_key_is_bytes_or_digits() {
        let digits = format!("{}, {}\n", "07".repeat(32), "08".repeat(32));
        let of = |byte| SealKey::from_bytes([byte; 32]).id();
        assert_eq!(ids(&parse(digits.as_bytes()).expect("two keys")), [of(7), of(8)]);
        assert_eq!(ids(&parse(&[9; 32]).expect("a key")), [of(9)]);
        for bad in ["", "0707", "zz", &"07".repeat(33)] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        fs::write(&path, [9; 32]).expect("written");
        let keys = open_or_make(dir.path(), Some(&path)).expect("read");
        assert!(keys.is_given && !dir.path().join(FILE).exists());
    }
}
