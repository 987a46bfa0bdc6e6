//! Weft's own wires, generated at build time. Envoy's wires come from `envoy-types`.
//!
//! [`link`] is the stream between a zone and global: Raft entries down, acknowledgements, progress and inventory up.

/// `weft.link.v1`: the zone link.
pub mod link {
    #![allow(clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("weft.link.v1");

    /// A message larger than this is refused by both sides, in bytes. Snapshots travel in chunks far below it.
    pub const MESSAGE_MAX: usize = 16 << 20;
}
