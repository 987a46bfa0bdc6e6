//! The session from outside: scripts of events with the effects they have, and laws over a client that behaves as
//! Envoy does.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod client;
mod limits;
mod script;
