//! The names of Envoy's resources, as people know them from Kuma's metrics and dumps.
use zone_index::Destination;

pub(crate) const TRUST_BUNDLE: &str = "system_trust_bundle";

pub(crate) fn identity_cert(mesh: &str) -> String {
    format!("identity_cert:secret:{mesh}")
}

pub(crate) fn inbound(address: &str, port: u16) -> String {
    format!("inbound:{}", socket(address, port))
}

pub(crate) fn outbound(address: &str, port: u16) -> String {
    format!("outbound:{}", socket(address, port))
}

fn socket(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// The application behind an inbound.
pub(crate) fn local_cluster(port: u16) -> String {
    format!("localhost:{port}")
}

/// `<mesh>_<name>_<namespace>_<zone>_<kind>_<port>`; the service tag for a service that is taken as a whole.
pub(crate) fn cluster(destination: &Destination) -> String {
    let key = &destination.key;
    match &destination.service_tag {
        Some(tag) if destination.port == 0 => tag.clone(),
        _ => {
            let (short, port) = (&key.short, destination.port);
            format!("{}_{}_{}_{}_{short}_{port}", key.mesh, key.name, key.namespace, key.zone)
        }
    }
}

/// The routes of requests to a destination, shared by all listeners that lead there.
pub(crate) fn routes(destination: &Destination) -> String {
    format!("outbound:{}", cluster(destination))
}

/// A name as a part of a metric's name: `.` would split it.
pub(crate) fn stat_prefix(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kuma_gives() {
        assert_eq!(inbound("10.0.0.1", 80), "inbound:10.0.0.1:80");
        assert_eq!(outbound("fd00::1", 80), "outbound:[fd00::1]:80");
        assert_eq!(stat_prefix("a.b:80"), "a_b_80");
    }
}
