//! `zone-cp`, the control plane of a zone.
fn main() -> std::process::ExitCode {
    zone_server::heap::bound();
    shared_node::exit::run(zone_server::cli::main)
}
