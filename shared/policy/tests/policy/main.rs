//! The crate through its public face: documents in, merged configurations out.
mod common;
mod conformance;
mod documents;
mod laws;
mod merging;
