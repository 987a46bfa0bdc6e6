//! What a replica's records are kept in: the one seam between the log and a database.
//!
//! A store keeps entries under their index and a few marks under a name, as bytes. It knows nothing of what they mean, has
//! one writer, and promises one thing: after [`Store::sync`] everything written before is there, whatever becomes of the
//! process or of the power. Its errors are those of the disk; damage is [`io::ErrorKind::InvalidData`].
mod sled;

pub(crate) use self::sled::{Sled, is_there};

use std::{io, ops::Range};

pub(crate) trait Store: Send + Sync {
    fn mark(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    fn set_mark(&self, name: &str, value: Option<Vec<u8>>) -> io::Result<()>;

    /// Gives the entries of a range in order, until `each` answers false.
    fn entries(&self, range: Range<u64>, each: &mut dyn FnMut(u64, Vec<u8>) -> bool) -> io::Result<()>;

    /// After a crash before the next sync the first of them may be there, each as a whole.
    fn append(&self, entries: Vec<(u64, Vec<u8>)>) -> io::Result<()>;

    /// Removes the entries before an index.
    fn remove_before(&self, index: u64) -> io::Result<()>;

    /// Removes the entries from an index on. After a crash the last of them may be gone, and there is no hole.
    fn remove_from(&self, index: u64) -> io::Result<()>;

    /// Returns once everything written before is on disk.
    fn sync(&self) -> io::Result<()>;
}

/// Whether an error says that the disk takes no more: a full file system, a quota, a limit for the size of files. It is the
/// one kind of failure that passes by itself.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
