//! Messages between replicas as bytes: the leader's and a candidate's, commands on their way to the leader, the answers.
//!
//! A version byte, then bincode. What comes from a network is bounded by [`LIMIT`] before anything is allocated for it.
use crate::{Error, TypeConfig};
use openraft::raft;
use serde::{Serialize, de::DeserializeOwned};
use shared_catalog::{Command, Outcome};

pub type AppendEntriesRequest = raft::AppendEntriesRequest<TypeConfig>;
pub type AppendEntriesResponse = raft::AppendEntriesResponse<u64>;
pub type InstallSnapshotRequest = raft::InstallSnapshotRequest<TypeConfig>;
pub type InstallSnapshotResponse = raft::InstallSnapshotResponse<u64>;
pub type VoteRequest = raft::VoteRequest<u64>;
pub type VoteResponse = raft::VoteResponse<u64>;

/// A body larger than this is refused, in bytes: the largest message of a link.
pub const LIMIT: usize = 16 << 20;

const VERSION: u8 = 1;

/// A message between replicas.
pub trait Message: Serialize + DeserializeOwned {}

impl Message for AppendEntriesRequest {}
impl Message for AppendEntriesResponse {}
impl Message for InstallSnapshotRequest {}
impl Message for InstallSnapshotResponse {}
impl Message for VoteRequest {}
impl Message for VoteResponse {}
impl Message for Command {}
impl Message for Outcome {}

pub fn encode(message: &impl Message) -> Vec<u8> {
    let mut body = vec![VERSION];
    bincode::serde::encode_into_std_write(message, &mut body, bincode::config::standard())
        .expect("a vector takes all that is written to it");
    body
}

pub fn decode<M: Message>(body: &[u8]) -> Result<M, Error> {
    let malformed = |reason: String| Error::Malformed(reason);
    let (version, rest) = body.split_first().ok_or_else(|| malformed("it is empty".to_owned()))?;
    if *version != VERSION {
        return Err(malformed(format!("it has form {version}, this version reads {VERSION}")));
    }
    if rest.len() > LIMIT {
        return Err(malformed(format!("it has {} bytes, the limit is {LIMIT}", rest.len())));
    }
    match bincode::serde::decode_from_slice(rest, bincode::config::standard().with_limit::<LIMIT>()) {
        Ok((message, read)) if read == rest.len() => Ok(message),
        Ok((_, read)) => Err(malformed(format!("{} bytes follow it", rest.len() - read))),
        Err(error) => Err(malformed(error.to_string())),
    }
}
