//! A discovery response of either protocol, as borrowed slices.
use super::fields::Fields;
use super::{Malformed, Protocol};

/// What one response says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Response<'a> {
    pub type_url: &'a str,
    pub nonce: &'a str,
    /// `version_info`, which an answer in state of the world repeats.
    pub version: &'a str,
    pub resources: Vec<Item<'a>>,
    pub removed: Vec<&'a str>,
}

/// One resource of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Item<'a> {
    pub name: &'a str,
    /// Its own version in delta; that of the response in state of the world.
    pub version: &'a str,
    pub body: &'a [u8],
}

impl<'a> Response<'a> {
    pub fn read(protocol: Protocol, message: &'a [u8]) -> Result<Response<'a>, Malformed> {
        let mut response = Response::default();
        for field in Fields::of(message) {
            match field? {
                (1, value) => response.version = value.text()?,
                (2, value) => response.resources.push(match protocol {
                    Protocol::Delta => delta_item(value.bytes()?)?,
                    Protocol::Sotw => named_item(any(value.bytes()?)?)?,
                }),
                (4, value) => response.type_url = value.text()?,
                (5, value) => response.nonce = value.text()?,
                (6, value) if protocol == Protocol::Delta => response.removed.push(value.text()?),
                _ => {}
            }
        }
        if protocol == Protocol::Sotw {
            let version = response.version;
            response.resources.iter_mut().for_each(|item| item.version = version);
        }
        Ok(response)
    }
}

fn delta_item(resource: &[u8]) -> Result<Item<'_>, Malformed> {
    let mut item = Item::default();
    for field in Fields::of(resource) {
        match field? {
            (1, value) => item.version = value.text()?,
            (2, value) => item.body = any(value.bytes()?)?,
            (3, value) => item.name = value.text()?,
            _ => {}
        }
    }
    Ok(item)
}

/// The value of an `Any`.
pub(super) fn any(message: &[u8]) -> Result<&[u8], Malformed> {
    for field in Fields::of(message) {
        if let (2, value) = field? {
            return value.bytes();
        }
    }
    Ok(&[])
}

/// Every type that a proxy gets has its name in field 1.
fn named_item(body: &[u8]) -> Result<Item<'_>, Malformed> {
    for field in Fields::of(body) {
        if let (1, value) = field? {
            return Ok(Item { name: value.text()?, version: "", body });
        }
    }
    Err(Malformed("a resource has no name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Kind;
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::service::discovery::v3::{
        DeltaDiscoveryResponse, DiscoveryResponse, Resource,
    };
    use envoy_types::pb::google::protobuf::Any;
    use proptest::prelude::{any as arbitrary, prop_assert, prop_assert_eq, proptest};
    use prost::Message as _;

    fn wrapped(name: &str, stat: &str) -> Any {
        let cluster = Cluster { name: name.into(), alt_stat_name: stat.into(), ..Cluster::default() };
        Any { type_url: Kind::Cluster.type_url().into(), value: cluster.encode_to_vec() }
    }

    proptest! {
        #[test]
        fn a_walk_over_a_delta_response_finds_what_a_decode_finds(
            resources in proptest::collection::vec(("[a-z]{1,9}", "[a-f0-9]{0,16}", ".{0,40}"), 0..9),
            removed in proptest::collection::vec("[a-z:.0-9]{0,20}", 0..5),
            nonce in "[0-9]{0,6}",
        ) {
            let response = DeltaDiscoveryResponse {
                system_version_info: "12".into(),
                type_url: Kind::Cluster.type_url().into(),
                nonce,
                removed_resources: removed,
                resources: resources.iter().map(|(name, version, stat)| Resource {
                    name: name.clone(), version: version.clone(), aliases: vec!["x".into()],
                    resource: Some(wrapped(name, stat)), ..Resource::default()
                }).collect(),
                ..DeltaDiscoveryResponse::default()
            };
            let bytes = response.encode_to_vec();
            let walked = Response::read(Protocol::Delta, &bytes).unwrap();
            let decoded = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(walked.type_url, decoded.type_url);
            prop_assert_eq!(walked.nonce, decoded.nonce);
            prop_assert_eq!(walked.removed, decoded.removed_resources);
            prop_assert_eq!(walked.resources.len(), decoded.resources.len());
            for (walked, decoded) in walked.resources.iter().zip(decoded.resources) {
                prop_assert_eq!(walked.name, decoded.name);
                prop_assert_eq!(walked.version, decoded.version);
                prop_assert_eq!(walked.body, decoded.resource.unwrap().value);
            }
        }

        #[test]
        fn a_walk_over_a_state_of_the_world_finds_what_a_decode_finds(
            names in proptest::collection::vec("[a-z]{1,9}", 0..9),
        ) {
            let response = DiscoveryResponse {
                version_info: "v7".into(),
                type_url: Kind::Cluster.type_url().into(),
                nonce: "3".into(),
                resources: names.iter().map(|name| wrapped(name, "")).collect(),
                ..DiscoveryResponse::default()
            };
            let bytes = response.encode_to_vec();
            let walked = Response::read(Protocol::Sotw, &bytes).unwrap();
            prop_assert_eq!((walked.version, walked.nonce), ("v7", "3"));
            let found: Vec<&str> = walked.resources.iter().map(|item| item.name).collect();
            prop_assert_eq!(found, names);
            prop_assert!(walked.resources.iter().all(|item| item.version == "v7"));
        }

        #[test]
        fn rubbish_is_an_error_or_nothing_but_no_panic(bytes in proptest::collection::vec(arbitrary::<u8>(), 0..200)) {
            let _ = Response::read(Protocol::Delta, &bytes);
            let _ = Response::read(Protocol::Sotw, &bytes);
        }
    }
}
