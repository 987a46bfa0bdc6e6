//! What can go wrong on a replica's disk and between a replica and its leader.
use crate::space::for_people;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the data directory {} belongs to {found}, not to {wanted}", .dir.display())]
    OtherOwner { dir: PathBuf, found: String, wanted: String },
    #[error("the data directory {} is in use by another process", .dir.display())]
    InUse { dir: PathBuf },
    /// Checksums, holes or missing files. The replica must not go on; a zone's may start anew on an empty disk.
    #[error("the data directory {} is damaged: {what}", .dir.display())]
    Damaged { dir: PathBuf, what: String },
    #[error("cannot {action} {}: {source}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot use the store in {}: {source}", .dir.display())]
    Store { dir: PathBuf, source: std::io::Error },
    /// It passes: the replica may be opened again once there is room.
    #[error("the disk of {} is full: {reason}", .dir.display())]
    Full { dir: PathBuf, reason: String },
    #[error(
        "the file system of {} has {} free, less than the reserve of {}: writes are refused until there is room",
        .dir.display(), for_people(.free), for_people(.reserve)
    )]
    NoRoom { dir: PathBuf, free: u64, reserve: u64 },
    #[error("this replica follows cluster {found}, not {wanted}")]
    OtherCluster { found: String, wanted: String },
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The leader's log is not the one that this replica has applied: global was restored from an old backup.
    #[error("the leader's log contradicts what this replica has applied at index {index}")]
    Diverged { index: u64 },
    #[error("raft has stopped: {0}")]
    Stopped(String),
}
