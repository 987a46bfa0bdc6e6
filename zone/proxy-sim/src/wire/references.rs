//! What a resource names: the assignment of a cluster, the routes of a listener, the secrets of either, and how many
//! endpoints an assignment has. Everything else in a resource is Envoy's business.
use super::fields::{Fields, Value};
use super::response::any;
use super::{Kind, Malformed};

/// What one resource refers to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct References<'a> {
    /// Assignments of a cluster, or route configurations of a listener, to be asked for by name.
    pub names: Vec<&'a str>,
    pub secrets: Vec<&'a str>,
    /// How many endpoints an assignment has.
    pub endpoints: u32,
}

/// `Cluster.DiscoveryType.EDS`.
const EDS: u64 = 3;
const CONNECTION_MANAGER: &[u8] = b"http_connection_manager.v3.HttpConnectionManager";

pub fn read(kind: Kind, body: &[u8]) -> Result<References<'_>, Malformed> {
    let mut found = References::default();
    match kind {
        Kind::Cluster => cluster(body, &mut found)?,
        Kind::Listener => listener(body, &mut found)?,
        Kind::Endpoint => found.endpoints = endpoints(body)?,
        Kind::Route | Kind::Secret => {}
    }
    Ok(found)
}

fn cluster<'a>(body: &'a [u8], found: &mut References<'a>) -> Result<(), Malformed> {
    let (mut name, mut service, mut discovered) = ("", "", false);
    for field in Fields::of(body) {
        match field? {
            (1, value) => name = value.text()?,
            (2, value) => discovered = value == Value::Varint(EDS),
            (3, value) => service = text_of(value.bytes()?, 2)?,
            (24, value) => transport_socket(value.bytes()?, found)?,
            (43, value) => each(value.bytes()?, 3, |socket| transport_socket(socket, found))?,
            _ => {}
        }
    }
    if discovered {
        found.names.push(if service.is_empty() { name } else { service });
    }
    Ok(())
}

fn listener<'a>(body: &'a [u8], found: &mut References<'a>) -> Result<(), Malformed> {
    for field in Fields::of(body) {
        // The filter chains, and the default one.
        let (3 | 25, value) = field? else { continue };
        for field in Fields::of(value.bytes()?) {
            match field? {
                (3, filter) => each(filter.bytes()?, 4, |config| connection_manager(config, found))?,
                (6, socket) => transport_socket(socket.bytes()?, found)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// The name of the routes that a connection manager asks for, from the `Any` around it.
fn connection_manager<'a>(config: &'a [u8], found: &mut References<'a>) -> Result<(), Malformed> {
    if !bytes_of(config, 1)?.ends_with(CONNECTION_MANAGER) {
        return Ok(());
    }
    each(any(config)?, 3, |rds| {
        insert(&mut found.names, text_of(rds, 2)?);
        Ok(())
    })
}

/// The secrets of a TLS context: upstream and downstream have the common part in the same field.
fn transport_socket<'a>(socket: &'a [u8], found: &mut References<'a>) -> Result<(), Malformed> {
    each(socket, 3, |config| {
        if !bytes_of(config, 1)?.ends_with(b"TlsContext") {
            return Ok(());
        }
        each(any(config)?, 1, |common| {
            for field in Fields::of(common) {
                match field? {
                    // A certificate, or what is trusted, each by itself.
                    (6 | 7, value) => secret(value.bytes()?, found)?,
                    // What is trusted, beside what is written out.
                    (8, value) => each(value.bytes()?, 2, |config| secret(config, found))?,
                    _ => {}
                }
            }
            Ok(())
        })
    })
}

/// A secret that comes by discovery: one without a source is a static one of the bootstrap.
fn secret<'a>(config: &'a [u8], found: &mut References<'a>) -> Result<(), Malformed> {
    let (mut name, mut discovered) = ("", false);
    for field in Fields::of(config) {
        match field? {
            (1, value) => name = value.text()?,
            (2, _) => discovered = true,
            _ => {}
        }
    }
    if discovered {
        insert(&mut found.secrets, name);
    }
    Ok(())
}

fn endpoints(body: &[u8]) -> Result<u32, Malformed> {
    let mut count = 0;
    each(body, 2, |locality| {
        each(locality, 2, |_| {
            count += 1;
            Ok(())
        })
    })?;
    Ok(count)
}

fn insert<'a>(names: &mut Vec<&'a str>, name: &'a str) {
    if !names.contains(&name) {
        names.push(name);
    }
}

fn each<'a>(
    message: &'a [u8],
    tag: u32,
    mut visit: impl FnMut(&'a [u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    for field in Fields::of(message) {
        let (found, value) = field?;
        if found == tag {
            visit(value.bytes()?)?;
        }
    }
    Ok(())
}

fn bytes_of(message: &[u8], tag: u32) -> Result<&[u8], Malformed> {
    let mut last: &[u8] = &[];
    each(message, tag, |bytes| {
        last = bytes;
        Ok(())
    })?;
    Ok(last)
}

fn text_of(message: &[u8], tag: u32) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes_of(message, tag)?).map_err(|_| Malformed("a text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floor::build;
    use prost::Message as _;

    #[test]
    fn a_cluster_names_its_assignment_and_its_secrets() {
        let body = build::cluster("web", 900).encode_to_vec();
        let found = read(Kind::Cluster, &body).unwrap();
        assert_eq!(found.names, ["web"]);
        assert_eq!(found.secrets, [build::TRUST, build::IDENTITY]);
        let mut named = build::cluster("web", 0);
        named.eds_cluster_config.as_mut().unwrap().service_name = "other".into();
        assert_eq!(read(Kind::Cluster, &named.encode_to_vec()).unwrap().names, ["other"]);
        let plain = envoy_types::pb::envoy::config::cluster::v3::Cluster {
            name: "local".into(),
            ..Default::default()
        };
        assert_eq!(read(Kind::Cluster, &plain.encode_to_vec()).unwrap(), References::default());
    }

    #[test]
    fn a_listener_names_its_routes_and_its_secrets() {
        let outbound = build::outbound_listener("outbound:1", "routes", 100).encode_to_vec();
        assert_eq!(read(Kind::Listener, &outbound).unwrap().names, ["routes"]);
        let inbound = build::inbound_listener("inbound:1", 100).encode_to_vec();
        let found = read(Kind::Listener, &inbound).unwrap();
        assert!(found.names.is_empty());
        assert_eq!(found.secrets, [build::TRUST, build::IDENTITY]);
    }

    #[test]
    fn the_endpoints_of_an_assignment_are_counted() {
        let addresses: Vec<String> = (1..=7).map(|i| format!("10.0.0.{i}")).collect();
        let body = build::assignment("web", &addresses, 200).encode_to_vec();
        assert_eq!(read(Kind::Endpoint, &body).unwrap().endpoints, 7);
    }
}
