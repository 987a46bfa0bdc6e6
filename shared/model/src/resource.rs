//! The envelope that every resource shares, and its two shapes on the wire.
use crate::{kind, kind::Shape, kri::Kri, labels, labels::Labels, names, problem::Problem};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// A point in time, UTC.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// The counter of a catalog: one step per command that changed it. 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What names a resource within one catalog. `mesh` is empty for global kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceKey {
    pub kind: String,
    pub mesh: String,
    pub name: String,
}

impl ResourceKey {
    pub fn new(kind: impl Into<String>, mesh: impl Into<String>, name: impl Into<String>) -> Self {
        ResourceKey { kind: kind.into(), mesh: mesh.into(), name: name.into() }
    }
}

impl fmt::Display for ResourceKey {
    /// `MeshTimeout default/slow`, or `Zone zone-1` for a global kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mesh.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            mesh => write!(f, "{} {mesh}/{}", self.kind, self.name),
        }
    }
}

/// A resource as it is stored: envelope, and the spec as a JSON object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    pub kind: String,
    /// Empty for global kinds.
    pub mesh: String,
    pub name: String,
    #[serde(default)]
    pub labels: Labels,
    pub spec: Value,
    #[serde(default)]
    pub status: Option<Value>,
    pub creation_time: Timestamp,
    pub modification_time: Timestamp,
    /// The revision that wrote it last; 0 before it is stored.
    #[serde(default)]
    pub revision: Revision,
}

/// How deep a document may be nested. No kind comes near it, and readers of JSON stop at 128, also when a document stands
/// inside a list.
pub const DEPTH_MAX: usize = 64;

/// Keys of the envelope on the wire; in a flat document all others are the spec's.
const ENVELOPE: &[&str] =
    &["type", "mesh", "name", "labels", "creationTime", "modificationTime", "kri", "revision", "status"];

impl Resource {
    /// A resource that is not stored yet: epoch times, revision 0.
    pub fn new(kind: &str, mesh: &str, name: &str, spec: Value) -> Self {
        Resource {
            kind: kind.to_owned(),
            mesh: mesh.to_owned(),
            name: name.to_owned(),
            labels: Labels::new(),
            spec,
            status: None,
            creation_time: Timestamp::UNIX_EPOCH,
            modification_time: Timestamp::UNIX_EPOCH,
            revision: Revision(0),
        }
    }

    pub fn with_label(mut self, key: &str, value: impl Into<String>) -> Self {
        self.labels.insert(key.to_owned(), value.into());
        self
    }

    pub fn key(&self) -> ResourceKey {
        ResourceKey::new(&self.kind, &self.mesh, &self.name)
    }

    /// What the user called it, before a synchronisation renamed it.
    pub fn display_name(&self) -> &str {
        self.labels.get(labels::DISPLAY_NAME).map_or(self.name.as_str(), String::as_str)
    }

    /// The zone that owns it, if a zone does.
    pub fn zone(&self) -> Option<&str> {
        self.labels.get(labels::ZONE).map(String::as_str)
    }

    /// True when both say the same to the mesh: labels, spec and status. Times and revisions do not count.
    pub fn same_content(&self, other: &Resource) -> bool {
        self.labels == other.labels && self.spec == other.spec && self.status == other.status
    }

    /// The JSON that the REST API serves and `weftctl` shows.
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        let shape = kind::by_name(&self.kind).map_or(Shape::Spec, |kind| kind.shape);
        out.insert("type".into(), self.kind.clone().into());
        if !self.mesh.is_empty() {
            out.insert("mesh".into(), self.mesh.clone().into());
        }
        out.insert("name".into(), self.name.clone().into());
        let time = |t: Timestamp| Value::from(t.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
        out.insert("creationTime".into(), time(self.creation_time));
        out.insert("modificationTime".into(), time(self.modification_time));
        out.insert("revision".into(), self.revision.0.into());
        if !self.labels.is_empty() {
            out.insert("labels".into(), serde_json::json!(self.labels));
        }
        if let Some(kri) = Kri::of(self) {
            out.insert("kri".into(), kri.to_string().into());
        }
        match (shape, &self.spec) {
            (Shape::Flat, Value::Object(spec)) => out.extend(spec.clone()),
            _ => {
                out.insert("spec".into(), self.spec.clone());
            }
        }
        if let Some(status) = &self.status {
            out.insert("status".into(), status.clone());
        }
        Value::Object(out)
    }

    /// Reads the wire form, strictly: unknown kinds and unknown fields of the envelope are problems. Times and the
    /// revision are the store's and are ignored on the way in.
    pub fn from_json(document: &Value) -> Result<Resource, Vec<Problem>> {
        let Value::Object(fields) = document else {
            return Err(vec![Problem::new(
                "",
                "a document is a mapping with type, name and, for most, mesh and spec",
            )]);
        };
        if !is_flatter_than(document, DEPTH_MAX) {
            return Err(vec![Problem::new("", format!("is nested deeper than {DEPTH_MAX} levels"))]);
        }
        let kind = match fields.get("type") {
            Some(Value::String(name)) => known_kind(name).map_err(|problem| vec![problem])?,
            Some(_) => return Err(vec![Problem::new("type", "must be a string")]),
            None if fields.contains_key("apiVersion") || fields.contains_key("kind") => {
                let reason = "is missing: this is a Kubernetes document, apply it with kubectl or write its Universal form";
                return Err(vec![Problem::new("type", reason)]);
            }
            None => return Err(vec![Problem::new("type", "is missing")]),
        };
        let mut problems = Vec::new();
        let mut text = |field: &str| match fields.get(field) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(_) => {
                problems.push(Problem::new(field, "must be a string"));
                String::new()
            }
        };
        let name = text("name");
        let mut mesh = text("mesh");
        if kind.is_mesh_scoped() {
            if mesh.is_empty() {
                mesh = "default".to_owned();
            }
            problems.extend(names::check_mesh("mesh", &mesh));
        } else if !mesh.is_empty() {
            problems.push(Problem::new("mesh", format!("{} belongs to no mesh: leave it out", kind.name)));
        }
        problems.extend(match kind.name {
            kind::MESH | kind::ZONE => names::check_mesh("name", &name),
            _ => names::check_name("name", &name),
        });
        let labels: Labels = match fields.get("labels") {
            None | Some(Value::Null) => Labels::new(),
            Some(value) => crate::strict::read(value, "labels").unwrap_or_else(|problem| {
                problems.push(problem);
                Labels::new()
            }),
        };
        problems.extend(labels::check(&labels));
        let spec = match kind.shape {
            Shape::Flat => {
                let own = fields.iter().filter(|(key, _)| !ENVELOPE.contains(&key.as_str()));
                Value::Object(own.map(|(key, value)| (key.clone(), value.clone())).collect())
            }
            Shape::Spec => {
                for key in fields.keys().filter(|key| *key != "spec" && !ENVELOPE.contains(&key.as_str())) {
                    problems.push(Problem::new(key.as_str(), "unknown field"));
                }
                match fields.get("spec") {
                    None | Some(Value::Null) => Value::Object(Map::new()),
                    Some(spec @ Value::Object(_)) => spec.clone(),
                    Some(_) => {
                        problems.push(Problem::new("spec", "must be a mapping"));
                        Value::Null
                    }
                }
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut resource = Resource::new(kind.name, &mesh, &name, spec);
        resource.labels = labels;
        resource.status = fields.get("status").filter(|status| !status.is_null()).cloned();
        Ok(resource)
    }
}

fn is_flatter_than(value: &Value, levels: usize) -> bool {
    let inside = |value: &Value| levels > 0 && is_flatter_than(value, levels - 1);
    match value {
        Value::Array(items) => items.iter().all(inside),
        Value::Object(fields) => fields.values().all(inside),
        _ => true,
    }
}

/// Finds a kind that this version stores, or says why not.
pub fn known_kind(name: &str) -> Result<&'static kind::Kind, Problem> {
    let reason = match kind::by_name(name) {
        Some(kind) if kind.supported => return Ok(kind),
        Some(_) => format!("{name} is known, but this version of weft does not apply it yet"),
        None => match (kind::retired(name), kind::nearest(name)) {
            (Some(advice), _) => format!("{name} is a kind of Kuma 2.x that is gone: {advice}"),
            (None, Some(near)) => format!("unknown type {name:?}, did you mean {near:?}?"),
            (None, None) => format!("unknown type {name:?}"),
        },
    };
    Err(Problem::new("type", reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_shapes_survive_the_wire() {
        let flat = json!({"type": "Mesh", "name": "default", "mtls": {"enabledBackend": "ca"}});
        let mesh = Resource::from_json(&flat).expect("a mesh");
        assert_eq!(mesh.spec, json!({"mtls": {"enabledBackend": "ca"}}));
        assert_eq!(Resource::from_json(&mesh.to_json()), Ok(mesh));
        let new = json!({"type": "MeshTimeout", "mesh": "m", "name": "t", "spec": {"to": []}});
        let timeout = Resource::from_json(&new).expect("a timeout");
        assert_eq!(Resource::from_json(&timeout.to_json()), Ok(timeout));
    }

    #[test]
    fn what_is_nested_deeper_than_any_reader_goes_is_refused() {
        let nested = |levels: usize| {
            let conf = (0..levels).fold(json!(1), |inner, _| json!([inner]));
            Resource::from_json(&json!({"type": "MeshTimeout", "name": "a", "spec": {"x": conf}}))
        };
        assert!(nested(DEPTH_MAX - 2).is_ok());
        let problems = nested(DEPTH_MAX - 1).expect_err("refused");
        assert_eq!(problems[0].to_string(), "is nested deeper than 64 levels");
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_path() {
        let problems = |value: Value| Resource::from_json(&value).expect_err("refused").remove(0).to_string();
        assert_eq!(
            problems(json!({"type": "MeshTimeuot", "name": "a"})),
            "type: unknown type \"MeshTimeuot\", did you mean \"MeshTimeout\"?"
        );
        assert!(problems(json!({"type": "TrafficRoute", "name": "a"})).contains("MeshHTTPRoute"));
        assert_eq!(problems(json!({"type": "MeshTimeout", "name": "a", "sepc": {}})), "sepc: unknown field");
        assert!(problems(json!({"type": "Zone", "mesh": "x", "name": "a"})).starts_with("mesh:"));
    }
}
