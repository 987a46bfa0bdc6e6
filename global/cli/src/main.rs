//! `weftctl`: what a person or a script types to talk to a control plane.
//!
//! It talks to the REST API only, of `global-cp` or of a standalone `zone-cp`, and holds no state but the file of
//! servers. Documents are read and validated here with the same code that the servers use, so that most mistakes are
//! found before anything is sent.
//!
//! ```text
//! args --> servers (which one) --> client (HTTP, sentences for failures)
//!            apply  get  delete  status  inspect  generate  config  history  backup  cluster  zone
//!              \--> documents (files, stdin)   \--> follow (waiting, progress)   --> out (lines, tables, yaml, json)
//! ```
mod app;
mod apply;
mod args;
mod backup;
mod client;
mod cluster;
mod config;
mod delete;
mod documents;
mod exit;
mod follow;
mod generate;
mod get;
mod history;
mod inspect;
mod out;
mod servers;
mod status;
mod tables;
mod zone;

fn main() -> std::process::ExitCode {
    app::main()
}
