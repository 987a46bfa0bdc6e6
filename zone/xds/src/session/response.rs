//! A response in the form in which it is sent: a small head, and shared slices.
use bytes::{BufMut, Bytes};
use prost::encoding::string;

/// One `DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    pub type_url: &'static str,
    pub nonce: String,
    /// For people who read a capture; Envoy does not rely on it.
    pub system_version: String,
    /// Each one element of the field `resources`, with its tag and length.
    pub resources: Vec<Bytes>,
    pub removed: Vec<String>,
}

impl Response {
    /// The number of bytes that [`Response::encode_into`] writes.
    pub fn encoded_len(&self) -> usize {
        let text = |tag: u32, text: &String| if text.is_empty() { 0 } else { string::encoded_len(tag, text) };
        text(1, &self.system_version)
            + string::encoded_len(4, &self.type_url.to_owned())
            + text(5, &self.nonce)
            + string::encoded_len_repeated(6, &self.removed)
            + self.resources.iter().map(Bytes::len).sum::<usize>()
    }

    /// Writes the message. The concatenation of encoded fields is a valid message, so the shared slices are copied
    /// once and nothing is encoded again.
    pub fn encode_into(&self, buf: &mut impl BufMut) {
        let text = |tag: u32, text: &String, buf: &mut _| {
            if !text.is_empty() {
                string::encode(tag, text, buf);
            }
        };
        text(1, &self.system_version, buf);
        text(4, &self.type_url.to_owned(), buf);
        text(5, &self.nonce, buf);
        string::encode_repeated(6, &self.removed, buf);
        for chunk in &self.resources {
            buf.put_slice(chunk);
        }
    }
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response")
            .field("type_url", &self.type_url)
            .field("nonce", &self.nonce)
            .field("resources", &self.resources.len())
            .field("removed", &self.removed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Encoded, Type};
    use envoy_types::pb::envoy::{
        config::cluster::v3::Cluster, service::discovery::v3::DeltaDiscoveryResponse,
    };
    use prost::Message;

    #[test]
    fn a_response_decodes_as_envoys_message() {
        let cluster = |name: &str| Cluster { name: name.into(), ..Cluster::default() };
        let response = Response {
            type_url: Type::Cluster.type_url(),
            nonce: "7".into(),
            system_version: "812".into(),
            resources: vec![Encoded::of(&cluster("a")).chunk, Encoded::of(&cluster("b")).chunk],
            removed: vec!["c".into(), "d".into()],
        };
        let mut bytes = Vec::new();
        response.encode_into(&mut bytes);
        assert_eq!(bytes.len(), response.encoded_len());
        let decoded = DeltaDiscoveryResponse::decode(bytes.as_slice()).expect("Envoy's message");
        assert_eq!(decoded.type_url, Type::Cluster.type_url());
        assert_eq!((decoded.nonce.as_str(), decoded.system_version_info.as_str()), ("7", "812"));
        assert_eq!(decoded.removed_resources, ["c", "d"]);
        let names: Vec<&str> = decoded.resources.iter().map(|resource| resource.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
