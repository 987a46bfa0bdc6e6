//! The other nodes of global: who they are, how they are reached, how a new one gets in.
//!
//! ```text
//! papers    key and certificate of this node, from the cluster's CA          wire     consensus's Transport over gRPC
//! token     a join token: made, shown once, checked, used up                 service  the peer port: Peers and Door
//! join      what an empty disk does with --join                  upkeep   certificates that near their end
//! ```
//!
//! All voters hold the CA's key and the seal key. A certificate names its node as `weft://<cluster>/node/<id>`, and every
//! call is checked against that name on both sides.
pub mod join;
pub mod papers;
pub mod service;
pub mod token;
pub mod upkeep;
pub mod wire;
