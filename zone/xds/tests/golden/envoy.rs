//! Envoy's own reading: the resources as a static configuration, with what would come over the stream put in its place.
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("WEFT_ENVOY") {
        return Some(path.into());
    }
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/envoy");
    tool.exists().then_some(tool)
}

pub fn validate(resources: &Value) -> Result<(), String> {
    let Some(envoy) = binary() else { return Ok(()) };
    let file = tempfile::Builder::new().suffix(".json").tempfile().expect("a temporary file");
    serde_json::to_writer(&file, &bootstrap(resources)).expect("the bootstrap is written");
    let output = Command::new(&envoy)
        .args(["--mode", "validate", "--disable-hot-restart", "--log-level", "warn", "-c"])
        .arg(file.path())
        .output()
        .map_err(|error| format!("{}: {error}", envoy.display()))?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(said);
    }
    match said.lines().find(|line| line.contains("deprecated")) {
        Some(line) => Err(line.to_owned()),
        None => Ok(()),
    }
}

fn bootstrap(resources: &Value) -> Value {
    let by = |list: &str, key: &str| -> BTreeMap<String, Value> {
        let items = resources[list].as_array().into_iter().flatten();
        items.map(|item| (item[key].as_str().unwrap_or_default().to_owned(), item.clone())).collect()
    };
    let streamed = Streamed { routes: by("routes", "name"), assignments: by("endpoints", "clusterName") };
    json!({
        "node": { "id": "golden", "cluster": "golden" },
        "layeredRuntime": { "layers": [{
            "name": "weft",
            "staticLayer": { "re2.max_program_size.error_level": 4_294_967_295_u32 },
        }] },
        "staticResources": {
            "clusters": streamed.inline(&resources["clusters"]),
            "listeners": streamed.inline(&resources["listeners"]),
            "secrets": resources["secrets"],
        },
    })
}

struct Streamed {
    routes: BTreeMap<String, Value>,
    assignments: BTreeMap<String, Value>,
}

impl Streamed {
    fn inline(&self, value: &Value) -> Value {
        match value {
            Value::Array(items) => items.iter().map(|item| self.inline(item)).collect(),
            Value::Object(fields) => self.inline_fields(fields),
            other => other.clone(),
        }
    }

    fn inline_fields(&self, fields: &Map<String, Value>) -> Value {
        let mut out = Map::new();
        for (key, value) in fields {
            match key.as_str() {
                "rds" => {
                    let name = value["routeConfigName"].as_str().expect("a name");
                    let routes = self.routes.get(name).unwrap_or_else(|| panic!("no routes {name}"));
                    out.insert("routeConfig".to_owned(), routes.clone());
                }
                "edsClusterConfig" => {
                    let name = fields["name"].as_str().expect("a name");
                    let assignment =
                        self.assignments.get(name).unwrap_or_else(|| panic!("no endpoints {name}"));
                    out.insert("loadAssignment".to_owned(), assignment.clone());
                    out.insert("type".to_owned(), json!("STATIC"));
                }
                "type" if fields.contains_key("edsClusterConfig") => {}
                // A secret without a source is a static one.
                "sdsConfig" => {}
                _ => {
                    out.insert(key.clone(), self.inline(value));
                }
            }
        }
        Value::Object(out)
    }
}
