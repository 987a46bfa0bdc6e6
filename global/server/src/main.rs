//! `global-cp`: see `global-cp --help`.
use std::process::ExitCode;

fn main() -> ExitCode {
    shared_node::tls::install_crypto();
    shared_node::exit::run(global_server::cli::main)
}
