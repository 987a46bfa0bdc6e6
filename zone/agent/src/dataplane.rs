//! The Dataplane that this proxy is: read from a file, filled in, and checked before anyone is asked.
use anyhow::{Context, Result, bail};
use serde_json::Value;
use shared_model::{Problem, Resource, core, document, kind};
use std::{collections::BTreeMap, io::Read, path::Path};

/// Who the proxy is, and the document that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    pub mesh: String,
    pub name: String,
    /// JSON text; `None` for a Dataplane that the zone has already.
    pub document: Option<String>,
}

/// A proxy whose Dataplane the zone has already.
pub fn named(mesh: Option<&str>, name: &str) -> Proxy {
    Proxy { mesh: mesh.unwrap_or("default").to_owned(), name: name.to_owned(), document: None }
}

/// Reads the text of a file, or stdin.
pub fn read(path: &Path) -> Result<String> {
    if path.as_os_str() != "-" {
        return shared_node::file::read(path, "the Dataplane");
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the Dataplane from stdin")?;
    Ok(text)
}

/// Reads the document of a proxy. `source` names it in errors. A name or mesh that was given must be the document's.
pub fn parse(source: &str, text: &str, values: &BTreeMap<String, String>) -> Result<Proxy> {
    let text = fill_in(source, text, values)?;
    let mut documents = document::read_all(&text);
    let resource: Resource = match (documents.pop(), documents.is_empty()) {
        (None, _) => bail!("{source} holds no document"),
        (Some(_), false) => bail!("{source} holds several documents: weft-dp runs one proxy"),
        (Some(one), true) => one.content.map_err(|problems| told(source, &problems))?,
    };
    if resource.kind != kind::DATAPLANE {
        bail!("{source} is a {}: weft-dp runs a Dataplane", resource.kind);
    }
    let problems = core::check(&resource).unwrap_or_default();
    if !problems.is_empty() {
        return Err(told(source, &problems));
    }
    for (key, is) in [("name", &resource.name), ("mesh", &resource.mesh)] {
        if let Some(given) = values.get(key).filter(|given| *given != is) {
            bail!("the {key} in {source} is {is:?}, but {given:?} was given");
        }
    }
    let mut document = resource.to_json();
    if let Value::Object(fields) = &mut document {
        // What the store sets is not ours to send.
        for key in ["creationTime", "modificationTime", "revision", "kri"] {
            fields.remove(key);
        }
    }
    Ok(Proxy { mesh: resource.mesh, name: resource.name, document: Some(document.to_string()) })
}

fn told(source: &str, problems: &[Problem]) -> anyhow::Error {
    let problems: Vec<String> = problems.iter().map(Problem::to_string).collect();
    anyhow::anyhow!("{source} is not a valid Dataplane: {}", problems.join("; "))
}

/// Fills in `{{ key }}`. A key without a value is an error that names it.
fn fill_in(source: &str, text: &str, values: &BTreeMap<String, String>) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (key, after) = after.split_once("}}").unwrap_or((after, ""));
        let key = key.trim();
        let Some(value) = values.get(key) else {
            let line = 1 + out.matches('\n').count() + before.matches('\n').count();
            bail!("{source}, line {line}: {{{{ {key} }}}} has no value: give -v {key}=VALUE");
        };
        out.push_str(before);
        out.push_str(value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "\
type: Dataplane
mesh: default
name: {{ name }}
networking:
  address: {{ address }}
  inbound:
    - port: 8080
";

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn error(text: &str, pairs: &[(&str, &str)]) -> String {
        parse("dp.yaml", text, &values(pairs)).expect_err("refused").to_string()
    }

    #[test]
    fn a_template_becomes_a_proxy() {
        let proxy = parse("dp.yaml", TEMPLATE, &values(&[("name", "web-1"), ("address", "10.0.0.1")]))
            .expect("a proxy");
        assert_eq!((proxy.mesh.as_str(), proxy.name.as_str()), ("default", "web-1"));
        let document: Value = serde_json::from_str(&proxy.document.expect("a document")).expect("JSON");
        assert_eq!(document["networking"]["address"], "10.0.0.1");
        assert!(document.get("creationTime").is_none(), "only what was written is sent");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_path() {
        let address = error(TEMPLATE, &[("name", "web-1")]);
        assert_eq!(address, "dp.yaml, line 5: {{ address }} has no value: give -v address=VALUE");
        let bad = error(TEMPLATE, &[("name", "web-1"), ("address", "here")]);
        assert_eq!(
            bad,
            "dp.yaml is not a valid Dataplane: networking.address: \"here\" is not an IP address"
        );
        assert!(error("type: Mesh\nname: m\n", &[]).contains("is a Mesh: weft-dp runs a Dataplane"));
        assert!(error("", &[]).contains("holds no document"));
        assert!(
            error("type: Dataplane\nname: a\nnetworking: {address: 1.1.1.1, x: 1}\n", &[])
                .contains("networking.x")
        );
        let two = "type: Dataplane\nname: a\nnetworking: {address: 1.1.1.1}\n---\ntype: Mesh\nname: b\n";
        assert!(error(two, &[]).contains("several documents"), "{}", error(two, &[]));
    }

    #[test]
    fn a_name_that_was_given_must_be_the_documents() {
        let text = "type: Dataplane\nname: a\nnetworking: {address: 1.1.1.1}\n";
        assert_eq!(error(text, &[("name", "b")]), "the name in dp.yaml is \"a\", but \"b\" was given");
        assert!(error(text, &[("mesh", "other")]).contains("the mesh in dp.yaml is \"default\""));
    }
}
