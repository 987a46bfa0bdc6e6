//! A discovery request of either protocol, written straight into the frame of gRPC that carries it.
use super::{Kind, Protocol};
use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::sync::Arc;

pub type Name = Arc<str>;

/// `google.rpc.Code.INTERNAL`, with which Envoy refuses.
const INTERNAL: u64 = 13;

/// The node of a first message: what is the proxy's own, and what all proxies have in common.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub own: Bytes,
    /// More fields of the same message, shared by the fleet.
    pub common: Bytes,
}

/// What a proxy says. Fields that the protocol of the stream does not have are not written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub kind: Option<Kind>,
    pub nonce: String,
    pub error: Option<String>,
    pub subscribe: Vec<Name>,
    pub unsubscribe: Vec<Name>,
    /// `initial_resource_versions`.
    pub have: Vec<(Name, Box<str>)>,
    /// State of the world: the version that is held, and everything that is wanted.
    pub version: String,
    pub names: Vec<Name>,
}

impl Request {
    /// The message in its frame; `node` goes with the first one of a stream.
    pub fn frame(&self, protocol: Protocol, node: Option<&Node>) -> Bytes {
        let node_len = node.map_or(0, |node| node.own.len() + node.common.len());
        let mut frame = BytesMut::with_capacity(192 + node_len);
        frame.put_slice(&[0; 5]);
        let type_url = self.kind.map_or("", Kind::type_url);
        let put_node = |tag: u32, frame: &mut BytesMut| {
            if let Some(node) = node {
                encode_key(tag, WireType::LengthDelimited, frame);
                encode_varint(node_len as u64, frame);
                frame.put_slice(&node.own);
                frame.put_slice(&node.common);
            }
        };
        match protocol {
            Protocol::Delta => {
                put_node(1, &mut frame);
                text(2, type_url, &mut frame);
                self.subscribe.iter().for_each(|name| text(3, name, &mut frame));
                self.unsubscribe.iter().for_each(|name| text(4, name, &mut frame));
                for (name, version) in &self.have {
                    encode_key(5, WireType::LengthDelimited, &mut frame);
                    encode_varint((text_len(name) + text_len(version)) as u64, &mut frame);
                    text(1, name, &mut frame);
                    text(2, version, &mut frame);
                }
                text(6, &self.nonce, &mut frame);
                self.refusal(7, &mut frame);
            }
            Protocol::Sotw => {
                text(1, &self.version, &mut frame);
                put_node(2, &mut frame);
                self.names.iter().for_each(|name| text(3, name, &mut frame));
                text(4, type_url, &mut frame);
                text(5, &self.nonce, &mut frame);
                self.refusal(6, &mut frame);
            }
        }
        let len = u32::try_from(frame.len() - 5).expect("a request is far below 4 GiB");
        frame[1..5].copy_from_slice(&len.to_be_bytes());
        frame.freeze()
    }

    fn refusal(&self, tag: u32, frame: &mut BytesMut) {
        if let Some(reason) = &self.error {
            encode_key(tag, WireType::LengthDelimited, frame);
            encode_varint((2 + text_len(reason)) as u64, frame);
            encode_key(1, WireType::Varint, frame);
            encode_varint(INTERNAL, frame);
            text(2, reason, frame);
        }
    }
}

/// Writes a text in a field below 16, unless it is empty.
fn text(tag: u32, text: &str, frame: &mut BytesMut) {
    if !text.is_empty() {
        encode_key(tag, WireType::LengthDelimited, frame);
        encode_varint(text.len() as u64, frame);
        frame.put_slice(text.as_bytes());
    }
}

fn text_len(text: &str) -> usize {
    if text.is_empty() { 0 } else { 1 + encoded_len_varint(text.len() as u64) + text.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::config::core::v3 as core;
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
    use prost::Message as _;

    fn request() -> Request {
        Request {
            kind: Some(Kind::Endpoint),
            nonce: "7".into(),
            error: Some("no".into()),
            subscribe: vec!["a".into(), "b".into()],
            unsubscribe: vec!["c".into()],
            have: vec![("a".into(), "1f".into()), ("b".into(), "".into())],
            version: "v1".into(),
            names: vec!["a".into(), "b".into()],
        }
    }

    fn node() -> Node {
        let own = core::Node { id: "default.web".into(), ..Default::default() };
        let extension = core::Extension { name: "x".into(), ..Default::default() };
        let common = core::Node { extensions: vec![extension], ..Default::default() };
        Node { own: own.encode_to_vec().into(), common: common.encode_to_vec().into() }
    }

    #[test]
    fn a_delta_request_decodes_as_envoys_message() {
        let frame = request().frame(Protocol::Delta, Some(&node()));
        assert_eq!(u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize, frame.len() - 5);
        let decoded = DeltaDiscoveryRequest::decode(&frame[5..]).unwrap();
        let node = decoded.node.unwrap();
        assert_eq!((node.id.as_str(), node.extensions.len()), ("default.web", 1));
        assert_eq!(decoded.type_url, Kind::Endpoint.type_url());
        assert_eq!(decoded.resource_names_subscribe, ["a", "b"]);
        assert_eq!(decoded.resource_names_unsubscribe, ["c"]);
        assert_eq!(decoded.initial_resource_versions.len(), 2);
        assert_eq!(decoded.initial_resource_versions["a"], "1f");
        assert_eq!(decoded.response_nonce, "7");
        let error = decoded.error_detail.unwrap();
        assert_eq!((error.code, error.message.as_str()), (13, "no"));
    }

    #[test]
    fn a_request_for_the_state_of_the_world_decodes_as_envoys_message() {
        let frame = request().frame(Protocol::Sotw, Some(&node()));
        let decoded = DiscoveryRequest::decode(&frame[5..]).unwrap();
        assert_eq!(decoded.node.unwrap().id, "default.web");
        assert_eq!((decoded.version_info.as_str(), decoded.response_nonce.as_str()), ("v1", "7"));
        assert_eq!(decoded.resource_names, ["a", "b"]);
        assert_eq!(decoded.type_url, Kind::Endpoint.type_url());
        assert_eq!(decoded.error_detail.unwrap().code, 13);
    }
}
