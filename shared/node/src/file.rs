//! Files: read with a clear error, written at once or not at all.
use anyhow::{Context as _, Result};
use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

/// Reads a text file; `what` names it in the error ("the zone token").
pub fn read(path: &Path, what: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("cannot read {what}: there is no file {}", path.display()),
        ErrorKind::PermissionDenied => {
            anyhow::anyhow!("cannot read {what}: no permission to read {}", path.display())
        }
        ErrorKind::InvalidData => anyhow::anyhow!("cannot read {what}: {} is not text", path.display()),
        _ => anyhow::anyhow!("cannot read {what} from {}: {error}", path.display()),
    })
}

/// Makes a directory with its parents; only the owner may enter it.
pub fn private_dir(path: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Writes a secret: mode 0600, complete or not at all, on the disk when it returns.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, 0o600)
}

/// Writes a file that everyone may read: complete or not at all, on the disk when it returns.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, 0o644)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let attempt = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        fs::File::open(dir)?.sync_all()
    };
    attempt().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads 32 bytes of key material, or makes and stores them with `make` when there are none yet.
pub fn key_or_make(path: &Path, make: impl FnOnce() -> [u8; 32]) -> Result<[u8; 32]> {
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|bytes: Vec<u8>| {
            anyhow::anyhow!("{} holds {} bytes, a key has 32", path.display(), bytes.len())
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = make();
            write_private(path, &key)?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read the key {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        write_private(&path, b"one").expect("written");
        write_private(&path, b"two").expect("replaced");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path, "the token").expect("read"), "two");
        let error = read(&dir.path().join("none"), "the token").expect_err("missing").to_string();
        assert!(error.starts_with("cannot read the token: there is no file"), "{error}");
    }

    #[test]
    fn a_key_is_made_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        assert_eq!(key_or_make(&path, || [1; 32]).expect("made"), [1; 32]);
        assert_eq!(key_or_make(&path, || [2; 32]).expect("read"), [1; 32]);
        fs::write(&path, b"short").expect("damaged");
        assert!(key_or_make(&path, || [2; 32]).is_err());
    }
}
