//! The node that a proxy says it is, as Kuma's agent configures it.
use crate::wire::request::Node;
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::value::Kind as ProtoKind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value as ProtoValue};
use prost::Message as _;
use serde_json::Value;

/// An Envoy 1.40 lists this many extensions, and its first message weighs about 61 kB with them.
pub const EXTENSIONS: usize = 516;

/// The node of one proxy. `metadata` is that of the bootstrap.
pub fn node(id: &str, cluster: &str, metadata: &Value, common: &Bytes) -> Node {
    let own = core::Node {
        id: id.to_owned(),
        cluster: cluster.to_owned(),
        metadata: metadata.as_object().map(|fields| Struct {
            fields: fields.iter().map(|(key, value)| (key.clone(), proto(value))).collect(),
        }),
        user_agent_name: "envoy".into(),
        ..core::Node::default()
    };
    Node { own: own.encode_to_vec().into(), common: common.clone() }
}

/// What all nodes have in common: as many extensions as an Envoy, of the same size.
pub fn extensions(count: usize) -> Bytes {
    let extension = |index: usize| core::Extension {
        name: format!("envoy.filters.simulated.extension_{index:04}"),
        category: "envoy.filters.http".into(),
        type_urls: vec![format!("envoy.extensions.filters.simulated.v3.Extension{index:04}")],
        ..core::Extension::default()
    };
    let node = core::Node { extensions: (0..count).map(extension).collect(), ..core::Node::default() };
    node.encode_to_vec().into()
}

fn proto(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => ProtoKind::NullValue(0),
        Value::Bool(value) => ProtoKind::BoolValue(*value),
        Value::Number(value) => ProtoKind::NumberValue(value.as_f64().unwrap_or_default()),
        Value::String(value) => ProtoKind::StringValue(value.clone()),
        Value::Array(values) => {
            ProtoKind::ListValue(ListValue { values: values.iter().map(proto).collect() })
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.clone(), proto(value))).collect();
            ProtoKind::StructValue(Struct { fields })
        }
    };
    ProtoValue { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_weighs_as_much_as_an_envoys() {
        let common = extensions(EXTENSIONS);
        assert!((55_000..68_000).contains(&common.len()), "{}", common.len());
        let metadata = serde_json::json!({"dataplane.resource": "{}", "features": ["a", 1, true, null]});
        let node = node("default.web", "web", &metadata, &common);
        let whole = [node.own, node.common].concat();
        let decoded = core::Node::decode(whole.as_slice()).unwrap();
        assert_eq!((decoded.id.as_str(), decoded.extensions.len()), ("default.web", EXTENSIONS));
        assert_eq!(decoded.metadata.unwrap().fields.len(), 2);
    }
}
