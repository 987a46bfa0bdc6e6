//! Who a stream says that it is, and whether its token lets it be that.
mod tokens;

pub use tokens::Tokens;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::protobuf::{Struct, Value as ProtoValue, value::Kind as ProtoKind};
use serde_json::{Value, json};
use shared_identity::token::{self, TokenError};
use shared_model::core::Dataplane;
use shared_model::{Resource, document, kind, labels, strict};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokens::Secrets;
use zone_index::ProxyId;

/// Marks a Dataplane that came with its proxy and leaves with it.
pub const LIFECYCLE: &str = "weft.io/lifecycle";
pub const LIFECYCLE_PROXY: &str = "proxy";

/// A Dataplane that names a thousand outbounds weighs about 100 kB; this is far above any, in bytes.
const DATAPLANE_MAX: usize = 1 << 20;

/// An Envoy's metadata weighs a few kB. Of more than this only what names its programs is shown, in bytes.
const METADATA_MAX: usize = 64 << 10;

/// What a stream's first message says.
#[derive(Debug)]
pub struct Introduction {
    pub id: ProxyId,
    /// The Dataplane that the proxy brings along, with the labels that the control plane computes.
    pub resource: Option<Resource>,
    /// The node's metadata, for the insight.
    pub metadata: Value,
}

/// Reads the node of a first message.
pub fn introduce(node: Option<&Node>, zone: &str) -> Result<Introduction, String> {
    let node = node.ok_or("the first message names no node")?;
    let (mesh, name) =
        node.id.split_once('.').ok_or_else(|| format!("{:?} is not a node id: <mesh>.<name>", node.id))?;
    if mesh.is_empty() {
        return Err(format!("{:?} names no mesh: zone proxies are not supported yet", node.id));
    }
    if let Some(problem) = shared_model::names::check_mesh("mesh", mesh) {
        return Err(problem.to_string());
    }
    if let Some(problem) = shared_model::names::check_name("name", name) {
        return Err(problem.to_string());
    }
    let mut metadata = node.metadata.as_ref().map_or(Value::Null, |fields| json_object(fields, 0));
    let text = metadata.get("dataplane.resource").and_then(Value::as_str).map(str::to_owned);
    // It is the Dataplane, which the insight stands beside.
    metadata.as_object_mut().map(|fields| fields.remove("dataplane.resource"));
    if metadata.to_string().len() > METADATA_MAX {
        let version = metadata["version"].take();
        let version = if version.to_string().len() > METADATA_MAX { Value::Null } else { version };
        metadata =
            json!({"version": version, "omitted": format!("more than {METADATA_MAX} bytes of metadata")});
    }
    let id = ProxyId { mesh: mesh.to_owned(), name: name.to_owned() };
    let resource = text.map(|text| dataplane(&text, &id, zone)).transpose()?;
    Ok(Introduction { id, resource, metadata })
}

/// Reads a Dataplane that a proxy brings, checks it fully, and fills in the computed labels.
pub fn dataplane(text: &str, id: &ProxyId, zone: &str) -> Result<Resource, String> {
    let told = |problems: Vec<shared_model::Problem>| {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        format!("the Dataplane is not valid: {}", all.join("; "))
    };
    if text.len() > DATAPLANE_MAX {
        return Err(format!("the Dataplane has {} bytes, {DATAPLANE_MAX} are allowed", text.len()));
    }
    let value = document::parse(text).map_err(|problem| told(vec![problem]))?;
    let mut resource = Resource::from_json(&value).map_err(told)?;
    if resource.kind != kind::DATAPLANE {
        return Err(format!("{} is no Dataplane", resource.key()));
    }
    if (&resource.mesh, &resource.name) != (&id.mesh, &id.name) {
        return Err(format!(
            "the Dataplane is {}/{}, but the proxy says {}/{}",
            resource.mesh, resource.name, id.mesh, id.name
        ));
    }
    let problems = shared_policy::validate(&resource);
    if !problems.is_empty() {
        return Err(told(problems));
    }
    let computed = [
        (labels::MESH, id.mesh.as_str()),
        (labels::ORIGIN, labels::ORIGIN_ZONE),
        (labels::ZONE, zone),
        (labels::ENV, "universal"),
        (labels::PROXY_TYPE, "sidecar"),
        (LIFECYCLE, LIFECYCLE_PROXY),
    ];
    for (label, value) in computed {
        match resource.labels.get(label) {
            Some(given) if given != value => {
                return Err(format!("label {label} must be {value:?} or left out, not {given:?}"));
            }
            _ => resource.labels.insert(label.to_owned(), value.to_owned()),
        };
    }
    resource.status = None;
    Ok(resource)
}

/// A token that was good when the stream was opened.
pub struct Credential {
    token: Box<str>,
    mesh: Box<str>,
    tokens: Arc<Tokens>,
    /// What there was of secrets when it was checked.
    checked_with: Secrets,
}

impl Credential {
    /// Checks `token` for this proxy as it describes itself, and as it is stored when it is: whoever may act as the new
    /// one must also be the one who was there.
    pub fn check(
        token: &str,
        id: &ProxyId,
        described: &[&Resource],
        tokens: &Arc<Tokens>,
    ) -> Result<Credential, String> {
        let token = token.trim();
        let checked = tokens.check(token, &id.mesh, shared_node::time::now());
        let (claims, checked_with) =
            checked.map_err(|error| format!("the dataplane token is refused: {error}"))?;
        for resource in described {
            // Few tokens are bound to tags, and a Dataplane is long.
            let tags = match claims.tags.is_empty() {
                true => BTreeMap::new(),
                false => {
                    strict::read::<Dataplane>(&resource.spec, "").map(|spec| spec.tags()).unwrap_or_default()
                }
            };
            token::check_dataplane(&claims, &id.mesh, &id.name, &tags, &resource.labels)?;
        }
        let (token, mesh) = (token.into(), id.mesh.as_str().into());
        Ok(Credential { token, mesh, tokens: tokens.clone(), checked_with })
    }

    /// Whether the keys and revocations of now still let it in. That it has expired meanwhile does not end a stream.
    pub fn recheck(&self) -> Result<(), String> {
        match self.tokens.check(&self.token, &self.mesh, shared_node::time::now()) {
            Ok(_) | Err(TokenError::Expired(_)) => Ok(()),
            Err(error) => Err(format!("the dataplane token is refused: {error}")),
        }
    }

    /// True when a key or a revocation may have come since it was checked.
    pub fn is_stale(&self) -> bool {
        self.tokens.secrets() != self.checked_with
    }
}

/// Metadata deeper than this is cut: nothing of ours is.
const DEPTH: usize = 16;

fn json_object(fields: &Struct, depth: usize) -> Value {
    if depth > DEPTH {
        return Value::Null;
    }
    Value::Object(fields.fields.iter().map(|(key, value)| (key.clone(), json(value, depth))).collect())
}

fn json(value: &ProtoValue, depth: usize) -> Value {
    match &value.kind {
        None | Some(ProtoKind::NullValue(_)) => Value::Null,
        Some(ProtoKind::BoolValue(value)) => Value::from(*value),
        Some(ProtoKind::NumberValue(value)) => Value::from(*value),
        Some(ProtoKind::StringValue(value)) => Value::from(value.as_str()),
        Some(ProtoKind::StructValue(fields)) => json_object(fields, depth + 1),
        Some(ProtoKind::ListValue(_)) if depth > DEPTH => Value::Null,
        Some(ProtoKind::ListValue(list)) => list.values.iter().map(|value| json(value, depth + 1)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogs::Catalogs;
    use shared_catalog::{Catalog, Command, Expected, Meshes};
    use shared_model::Timestamp;
    use tokio::sync::watch;

    fn node(id: &str, resource: Option<&str>) -> Node {
        let value = |text: &str| ProtoValue { kind: Some(ProtoKind::StringValue(text.into())) };
        let fields = resource.map(|text| ("dataplane.resource".to_owned(), value(text)));
        Node {
            id: id.into(),
            metadata: Some(Struct { fields: fields.into_iter().collect() }),
            ..Node::default()
        }
    }

    const WEB: &str =
        r#"{"type":"Dataplane","mesh":"default","name":"web.1","networking":{"address":"10.0.0.1"}}"#;

    #[test]
    fn a_proxy_introduces_itself_with_its_dataplane() {
        let told = introduce(Some(&node("default.web.1", Some(WEB))), "east").unwrap();
        assert_eq!((told.id.mesh.as_str(), told.id.name.as_str()), ("default", "web.1"));
        let resource = told.resource.unwrap();
        assert_eq!(resource.zone(), Some("east"));
        assert_eq!(resource.labels[LIFECYCLE], LIFECYCLE_PROXY);
        assert!(introduce(Some(&node("default.web.1", None)), "east").unwrap().resource.is_none());
    }

    #[test]
    fn huge_metadata_is_not_kept_and_a_huge_dataplane_is_refused() {
        let mut node = node("default.web.1", Some(WEB));
        let text = |text: String| ProtoValue { kind: Some(ProtoKind::StringValue(text)) };
        let fields = &mut node.metadata.as_mut().unwrap().fields;
        fields.insert("padding".into(), text("x".repeat(METADATA_MAX)));
        fields.insert("version".into(), text("1.40".into()));
        let told = introduce(Some(&node), "east").unwrap();
        assert_eq!(told.metadata["version"], "1.40");
        assert!(told.metadata.to_string().len() < 1_000 && told.resource.is_some());
        let huge = format!("{WEB}{}", " ".repeat(DATAPLANE_MAX));
        let fields = &mut node.metadata.as_mut().unwrap().fields;
        fields.insert("dataplane.resource".into(), text(huge));
        assert!(introduce(Some(&node), "east").unwrap_err().contains("bytes"));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let refused =
            |id: &str, resource: Option<&str>| introduce(Some(&node(id, resource)), "east").unwrap_err();
        assert!(introduce(None, "east").is_err());
        assert!(refused("web", None).contains("node id"));
        assert!(refused(".web", None).contains("zone proxies"));
        assert!(refused("default.", None).contains("name"));
        assert!(refused("default.other", Some(WEB)).contains("but the proxy says default/other"));
        assert!(refused("default.web.1", Some("{{{")).contains("not valid"));
        let unknown = WEB.replace("\"address\"", "\"adress\"");
        assert!(refused("default.web.1", Some(&unknown)).contains("adress"));
        let foreign = WEB.replace("\"networking\"", "\"labels\":{\"kuma.io/zone\":\"west\"},\"networking\"");
        assert!(refused("default.web.1", Some(&foreign)).contains("kuma.io/zone"));
    }

    #[test]
    fn a_credential_is_stale_once_a_secret_has_changed() {
        let mut catalog = Catalog::with_meshes(Meshes::Elsewhere);
        let (owned, feed) = watch::channel(Arc::new(catalog.clone()));
        let tokens = Tokens::new(Catalogs::new("east", None, feed));
        let checked_with = tokens.secrets();
        let credential = Credential { token: "".into(), mesh: "default".into(), tokens, checked_with };
        for (kind, stale) in [(kind::MESH_SERVICE, false), (kind::SECRET, true)] {
            let resource = Resource::new(kind, "default", "a", json!({}));
            catalog.apply(&Command::put(&resource, Expected::Any, Timestamp::UNIX_EPOCH));
            owned.send_replace(Arc::new(catalog.clone()));
            assert_eq!(credential.is_stale(), stale, "{kind}");
        }
    }
}
