fn main() -> std::process::ExitCode {
    zone_proxy_sim::cli::main()
}
