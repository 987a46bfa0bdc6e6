//! `weft-dp`: sits beside an application, gets its proxy a configuration, runs the proxy, and goes when it goes.
//!
//! It asks the zone for Envoy's bootstrap over verified TLS, starts Envoy, passes signals on, lets connections finish
//! before it ends, and ends with Envoy's own status. It knows nothing of meshes beyond the document that it hands over;
//! once Envoy runs, all configuration comes to Envoy directly.
//!
//! ```text
//! args --> dataplane, token --> bootstrap (ask until answered) --> envoy (find, check, start on a leash)
//!                                                                              |
//!      signals, drained?, ended? --> supervise (decides) --> signals to Envoy, admin (drain)
//! ```
mod admin;
mod app;
mod args;
mod bootstrap;
mod dataplane;
mod envoy;
mod leash;
mod supervise;
mod token;

fn main() -> std::process::ExitCode {
    app::main()
}
