//! `weftctl get`: one resource or all of a kind, as a table, YAML or JSON.
use crate::{
    app::Session,
    args::{Format, Get},
    client::{Client, Request},
    exit::{Code, Failure},
    out, tables,
};
use anyhow::{anyhow, bail};
use reqwest::Url;
use serde_json::{Value, json};
use shared_model::{Kind, kind, resource};

/// Resources per page.
const PAGE: usize = 500;

pub async fn run(session: &Session, args: Get) -> Result<(), Failure> {
    let kind = kind_of(&args.kind)?;
    let client = session.client()?;
    let mesh = if kind.is_mesh_scoped() { args.mesh.mesh.as_str() } else { "" };
    // Only the table shows what is known at run time; the others show the resource, as it can be applied again.
    let overview = args.output == Format::Table && matches!(kind.name, kind::DATAPLANE | kind::ZONE);
    if let Some(name) = &args.name {
        let mut path = item_path(kind, mesh, name);
        path.extend(overview.then_some("_overview"));
        let item: Value = client.read(&path).await?;
        return match args.output {
            Format::Table => tables::show(kind, &[item]),
            Format::Yaml => out::yaml(&item),
            Format::Json => out::json(&out::Ordered(&item)),
        };
    }
    let mut path = if args.all_meshes { vec![kind.path] } else { collection_path(kind, mesh) };
    path.extend(overview.then_some("_overview"));
    let items = list(&client, &path).await?;
    match args.output {
        Format::Table if items.is_empty() => {
            let place =
                if mesh.is_empty() || args.all_meshes { String::new() } else { format!(" in mesh {mesh}") };
            eprintln!("there is no {}{place}", kind.name);
            Ok(())
        }
        Format::Table => tables::show(kind, &items),
        Format::Json => {
            let list = json!({"total": items.len(), "items": items, "next": null});
            out::json(&out::Ordered(&list))
        }
        Format::Yaml => {
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out::line("---")?;
                }
                out::yaml(item)?;
            }
            Ok(())
        }
    }
}

/// The kind that a person means. A kind that is not is wrong usage, with what was probably meant.
pub fn kind_of(text: &str) -> Result<&'static Kind, Failure> {
    let known = |kind: &'static Kind| match resource::known_kind(kind.name) {
        Ok(kind) => Ok(kind),
        Err(problem) => Err(Failure::new(Code::Error, problem.reason)),
    };
    if let Some(kind) = kind::by_any_name(text).or_else(|| kind::by_path(text)) {
        return known(kind);
    }
    let retired =
        kind::RETIRED.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim_end_matches('s')));
    let advice = match (retired, kind::nearest(text)) {
        (Some((_, advice)), _) => format!("it is a kind of Kuma 2.x that is gone: {advice}"),
        (None, Some(near)) => format!("did you mean {near}?"),
        (None, None) => {
            let names: Vec<&str> =
                kind::KINDS.iter().filter(|kind| kind.supported).map(|kind| kind.name).collect();
            format!("kinds are {}", names.join(", "))
        }
    };
    Err(Failure::usage(format!("there is no kind {text:?}: {advice}")))
}

pub fn collection_path<'a>(kind: &'static Kind, mesh: &'a str) -> Vec<&'a str> {
    if kind.is_mesh_scoped() { vec!["meshes", mesh, kind.path] } else { vec![kind.path] }
}

pub fn item_path<'a>(kind: &'static Kind, mesh: &'a str, name: &'a str) -> Vec<&'a str> {
    let mut path = collection_path(kind, mesh);
    path.push(name);
    path
}

/// Reads a list to its end, page by page. Of the next page's address only the offset is used: the server may be known
/// under another name than the one it gives itself.
pub async fn list(client: &Client, path: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut items = Vec::new();
    let mut offset = 0;
    loop {
        let query = vec![("size", PAGE.to_string()), ("offset", offset.to_string())];
        let reply = client.send(Request { path, query, ..Request::default() }).await?.good()?;
        let mut page: Value = reply.json()?;
        match page["items"].take() {
            Value::Array(more) => items.extend(more),
            _ => bail!("the server's answer is not a list"),
        }
        let Some(next) = page["next"].as_str() else { return Ok(items) };
        let url = Url::parse(next).ok();
        let pair = url.as_ref().and_then(|url| url.query_pairs().find(|(key, _)| key == "offset"));
        let after = pair.and_then(|(_, value)| value.parse::<usize>().ok()).filter(|after| *after > offset);
        offset =
            after.ok_or_else(|| anyhow!("the server's list has a next page without an end: {next:?}"))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_goes_by_any_of_its_names() {
        for text in ["MeshTimeout", "meshtimeout", "meshtimeouts", "mt", "mesh-timeout", "MESHTIMEOUTS"] {
            assert_eq!(kind_of(text).expect(text).name, "MeshTimeout");
        }
        for text in ["dataplanes", "dp", "zones", "meshes", "secret", "meshidentities", "globalsecrets"] {
            assert!(kind_of(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_no_kind_is_answered_with_advice() {
        let failure = |text: &str| kind_of(text).expect_err("no kind");
        let near = failure("meshtimout");
        assert_eq!(
            (near.code, near.message.as_deref()),
            (Code::Usage, Some("there is no kind \"meshtimout\": did you mean MeshTimeout?"))
        );
        assert!(failure("trafficroutes").message.is_some_and(|text| text.contains("write a MeshHTTPRoute")));
        assert!(failure("x").message.is_some_and(|text| text.contains("kinds are Mesh, ")));
        assert!(failure("meshretry").message.is_some_and(|text| text.contains("does not apply it yet")));
    }
}
