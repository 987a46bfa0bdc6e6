//! Weft's own wires, generated at build time. Envoy's wires come from `envoy-types`.
//!
//! [`link`] is the stream between a zone and global: Raft entries down, acknowledgements, progress and inventory up.
//! [`peer`] is what the nodes of global say to each other.

/// `weft.link.v1`: the zone link.
pub mod link {
    #![allow(clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("weft.link.v1");

    /// A message larger than this is refused by both sides, in bytes. Snapshots travel in chunks far below it.
    pub const MESSAGE_MAX: usize = 16 << 20;
}

/// `weft.peer.v1`: between the nodes of global.
pub mod peer {
    #![allow(clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("weft.peer.v1");

    /// A message larger than this is refused by both sides, in bytes.
    pub const MESSAGE_MAX: usize = 16 << 20;
}
