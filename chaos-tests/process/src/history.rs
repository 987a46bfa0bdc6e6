//! What clients of a cluster did and saw, and the judge of it.
//!
//! Each client notes when it asked and when it was answered, by one clock. [`check`] is pure: it takes the notes of all
//! clients and says what no correct cluster could have answered. Every write carries a value that no other write carries,
//! so that a value found anywhere leads back to its write.
//!
//! ```text
//!   writer  |---put a=7, unknown-------------------------?
//!   writer     |--put b=8--@12|
//!   reader            |---get b: 8@12, seen 12---|             @ revision
//! ```
mod check;
mod record;
#[cfg(test)]
mod tests;

pub use check::{Verdict, Violation, check};
pub use record::{Clock, Pending, Recorder};

/// As what a read has seen: its answer does not tell. A zone tells the revisions of resources, not its own.
pub const UNTOLD: u64 = 0;

/// Nanoseconds since the history began.
pub type Moment = u64;

/// Who answered. A global node that was killed learns anew what is committed, so it is another place after its restart; a
/// zone is the same place for ever, because its revisions never go back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub node: String,
    pub life: u32,
}

/// One thing that a client did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: u32,
    pub begin: Moment,
    /// When the client knew. Of no account for a write whose outcome is unknown: it may come to pass at any time after.
    pub end: Moment,
    pub did: Did,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    Wrote { key: String, value: String, expected: Expected, outcome: Written },
    Read { key: String, place: Place, kind: ReadKind, seen: u64, found: Option<Found> },
}

/// What a writer asked to be stored before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Any,
    Absent,
    At(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Acknowledged(u64),
    /// The cluster says that it has not happened and will not.
    Refused,
    /// No answer, or one that leaves it open.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    Linearizable,
    Stale,
}

/// A value, and the revision of the write that it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub value: String,
    pub revision: u64,
}
