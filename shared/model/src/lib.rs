//! The nouns of the mesh: what a resource is, how it is named, and how documents are read.
//!
//! Everything here is plain data and total functions: no IO, no clock, no randomness. The crate knows the shape of
//! every kind's envelope and the fields of the core kinds; what policies mean is `shared-policy`'s business.
//!
//! ```text
//! YAML or JSON text --document--> Resource --core--> typed spec (Mesh, Dataplane, MeshService, ...)
//!                                    |
//!                                    +--kind: scope, REST path, who may write it, which shape it has on the wire
//!                                    +--kri:  its name across meshes and zones
//! ```
pub mod core;
pub mod document;
pub mod duration;
pub mod kind;
pub mod kri;
pub mod labels;
pub mod names;
pub mod problem;
pub mod resource;
pub mod selector;
pub mod strict;

pub use duration::Duration;
pub use kind::{Kind, Scope, Shape};
pub use kri::Kri;
pub use problem::Problem;
pub use resource::{Resource, ResourceKey, Revision, Timestamp};
