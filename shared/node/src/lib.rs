//! What every program starts with: telemetry, TLS, listeners, diagnostics, shutdown, files, and one way to fail.
//!
//! Nothing here knows of meshes. A program's `app.rs` wires these parts; nothing here spawns on its own but the
//! connections of a listener that it was told to serve.
pub mod diagnostics;
pub mod exit;
pub mod file;
pub mod serve;
pub mod shutdown;
pub mod telemetry;
pub mod time;
pub mod tls;

/// The version that every program prints and sends.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
