//! Messages as people read them. The API's types have no JSON of their own, but their package ships descriptors.
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use std::fmt::Write;

pub fn descriptors() -> DescriptorPool {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .expect("cargo knows the workspace");
    let package =
        metadata.packages.iter().find(|package| package.name == "envoy-types").expect("a dependency");
    let file = package.manifest_path.with_file_name("src").join("generated/types.bin");
    let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    DescriptorPool::decode(bytes.as_slice()).expect("descriptors")
}

pub fn messages<M: Message + Name>(pool: &DescriptorPool, messages: Vec<M>) -> Value {
    let descriptor = pool.get_message_by_name(&M::full_name()).expect("the type is described");
    let one = |message: M| {
        let bytes = message.encode_to_vec();
        let message = DynamicMessage::decode(descriptor.clone(), bytes.as_slice()).expect("the same type");
        serde_json::to_value(&message).expect("JSON")
    };
    messages.into_iter().map(one).collect()
}

/// Block style, keys sorted.
pub fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0);
    out
}

fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort();
            for (i, key) in keys.into_iter().enumerate() {
                let pad = if i == 0 { 0 } else { indent };
                write!(out, "{:pad$}{}:", "", scalar(key)).unwrap();
                child(out, &fields[key], indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                let pad = if i == 0 { 0 } else { indent };
                write!(out, "{:pad$}- ", "").unwrap();
                if is_block(item) {
                    block(out, item, indent + 2);
                } else {
                    writeln!(out, "{}", flow(item)).unwrap();
                }
            }
        }
        other => writeln!(out, "{}", flow(other)).unwrap(),
    }
}

fn child(out: &mut String, value: &Value, indent: usize) {
    if !is_block(value) {
        writeln!(out, " {}", flow(value)).unwrap();
        return;
    }
    let indent = if value.is_array() { indent } else { indent + 2 };
    write!(out, "\n{:indent$}", "").unwrap();
    block(out, value, indent);
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// Quoted unless it could be nothing but text.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '(')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.(,)@ ".contains(c))
        && !text.ends_with(' ')
        && !["true", "false", "null", "yes", "no", "on", "off"].contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { serde_json::to_string(text).expect("a string") }
}
