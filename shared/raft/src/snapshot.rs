//! Snapshots: one file, replaced as a whole, verified before it counts.
//!
//! ```text
//! file:  WEFTSNAP | version 1 | meta's length 4 | meta as a record | body
//! body:  checksum 4 | catalog                     what travels to a replica, verified there before it replaces
//! ```
use crate::{Error, identity::replace, record, types::SnapshotMeta};
use shared_catalog::Catalog;
use std::{
    fs,
    io::{self, Cursor},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};

const MAGIC: &[u8; 9] = b"WEFTSNAP\x01";
const META_KEY: &[u8] = b"snapshot";

/// The bytes of a snapshot on their way. All replicas that are sent one share it.
#[derive(Clone, Debug)]
pub enum SnapshotBody {
    Sending(Cursor<Arc<[u8]>>),
    Receiving(Cursor<Vec<u8>>),
}

impl SnapshotBody {
    pub(crate) fn empty() -> SnapshotBody {
        SnapshotBody::Receiving(Cursor::new(Vec::new()))
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            SnapshotBody::Sending(bytes) => bytes.get_ref(),
            SnapshotBody::Receiving(bytes) => bytes.get_ref(),
        }
    }
}

impl AsyncRead for SnapshotBody {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            SnapshotBody::Sending(bytes) => Pin::new(bytes).poll_read(cx, buf),
            SnapshotBody::Receiving(bytes) => Pin::new(bytes).poll_read(cx, buf),
        }
    }
}

impl AsyncSeek for SnapshotBody {
    fn start_seek(self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        match self.get_mut() {
            SnapshotBody::Sending(bytes) => Pin::new(bytes).start_seek(position),
            SnapshotBody::Receiving(bytes) => Pin::new(bytes).start_seek(position),
        }
    }

    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        match self.get_mut() {
            SnapshotBody::Sending(bytes) => Pin::new(bytes).poll_complete(cx),
            SnapshotBody::Receiving(bytes) => Pin::new(bytes).poll_complete(cx),
        }
    }
}

impl AsyncWrite for SnapshotBody {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            SnapshotBody::Sending(_) => Poll::Ready(Err(io::ErrorKind::PermissionDenied.into())),
            SnapshotBody::Receiving(bytes) => Pin::new(bytes).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A body whose checksum matches, and what it is of.
type Verified = (SnapshotMeta, Arc<[u8]>);

/// Where the newest snapshot is kept. All calls block.
pub(crate) struct Snapshots {
    path: PathBuf,
    newest: Mutex<Option<Newest>>,
}

struct Newest {
    meta: SnapshotMeta,
    /// Alive while somebody is sent it; else it is read from the file again.
    body: Option<Weak<[u8]>>,
}

impl Snapshots {
    /// Reads and verifies the newest snapshot of a data directory.
    pub fn open(dir: &Path) -> Result<(Snapshots, Option<(SnapshotMeta, Catalog)>), Error> {
        let snapshots = Snapshots { path: dir.join("snapshot"), newest: Mutex::new(None) };
        let read = match snapshots.read() {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((snapshots, None)),
            Err(source) => return Err(Error::Io { action: "read", path: snapshots.path, source }),
        };
        let damaged = |what| Error::Damaged { dir: dir.to_owned(), what: format!("snapshot: {what}") };
        let (meta, body) = read.map_err(damaged)?;
        let catalog = open_body(&body).map_err(damaged)?;
        *snapshots.newest.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Newest { meta: meta.clone(), body: None });
        Ok((snapshots, Some((meta, catalog))))
    }

    /// Makes a snapshot the newest one, unless there is a newer: a build may end after an install.
    pub fn keep(&self, meta: &SnapshotMeta, body: &Arc<[u8]>) -> io::Result<()> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.as_ref().is_some_and(|newest| newest.meta.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        let head = record::encode(META_KEY, meta);
        let length = u32::try_from(head.len()).expect("a membership is small").to_le_bytes();
        replace(&self.path, &[MAGIC, &length, &head, body])?;
        *newest = Some(Newest { meta: meta.clone(), body: Some(Arc::downgrade(body)) });
        Ok(())
    }

    pub fn newest(&self) -> io::Result<Option<Verified>> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(newest) = newest.as_mut() else { return Ok(None) };
        if let Some(body) = newest.body.as_ref().and_then(Weak::upgrade) {
            return Ok(Some((newest.meta.clone(), body)));
        }
        let (meta, body) = self.read()?.map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?;
        *newest = Newest { meta: meta.clone(), body: Some(Arc::downgrade(&body)) };
        Ok(Some((meta, body)))
    }

    /// The outer error is the disk's, the inner one says what is damaged.
    fn read(&self) -> io::Result<Result<Verified, String>> {
        fs::read(&self.path).map(|file| parse(&file))
    }
}

fn parse(file: &[u8]) -> Result<Verified, String> {
    let cut = || "the file is cut off".to_owned();
    let rest = file.strip_prefix(MAGIC.as_slice()).ok_or("the file does not begin as one of this version")?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let (meta, body) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(cut)?;
    let meta = record::decode(META_KEY, meta)?;
    verify(body)?;
    Ok((meta, Arc::from(body)))
}

/// The catalog as it travels.
pub(crate) fn close_body(catalog: &Catalog) -> Arc<[u8]> {
    let bytes = catalog.encode();
    let sum = crc32fast::hash(&bytes).to_le_bytes();
    sum.into_iter().chain(bytes).collect()
}

pub(crate) fn open_body(body: &[u8]) -> Result<Catalog, String> {
    Catalog::decode(verify(body)?).map_err(|error| error.to_string())
}

fn verify(body: &[u8]) -> Result<&[u8], String> {
    let (sum, bytes) = body.split_first_chunk::<4>().ok_or("the body is cut off")?;
    if crc32fast::hash(bytes).to_le_bytes() != *sum {
        return Err("the body's checksum does not match".to_owned());
    }
    Ok(bytes)
}
