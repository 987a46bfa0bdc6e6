//! `weftctl get`: one resource or all of a kind, as a table, YAML or JSON.
use crate::{
    app::Session,
    args::{Filters, Format, Get},
    client::{Client, Request},
    exit::{Code, Failure},
    out, tables,
};
use anyhow::{anyhow, bail};
use reqwest::Url;
use serde_json::Value;
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
            Format::Table => tables::Table::of(kind).page(&[item]),
            Format::Yaml => out::yaml(&item),
            Format::Json => out::json(&out::Ordered(&item)),
        };
    }
    if kind.name != kind::DATAPLANE && (!args.filters.tag.is_empty() || args.filters.status.is_some()) {
        return Err(Failure::usage(format!(
            "--tag and --status are for Dataplanes, not for a {}",
            kind.name
        )));
    }
    let mut path = if args.all_meshes { vec![kind.path] } else { collection_path(kind, mesh) };
    path.extend(overview.then_some("_overview"));
    let mut pages = Pages::new(&client, &path, &args.filters);
    let mut table = tables::Table::of(kind);
    let is_empty = show(args.output, &mut pages, |items| table.page(items)).await?;
    if is_empty && args.output == Format::Table {
        let place =
            if mesh.is_empty() || args.all_meshes { String::new() } else { format!(" in mesh {mesh}") };
        eprintln!("there is no {}{place}", kind.name);
    }
    Ok(())
}

/// Prints a list page by page, so that a long one is neither waited for nor held. Answers whether there was nothing.
pub async fn show(
    output: Format,
    pages: &mut Pages<'_>,
    mut table: impl FnMut(&[Value]) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    let mut shown = 0;
    loop {
        let Some(items) = pages.next().await? else { break };
        match output {
            Format::Table if items.is_empty() => {}
            Format::Table => table(&items)?,
            Format::Yaml => {
                for (i, item) in items.iter().enumerate() {
                    if shown + i > 0 {
                        out::line("---")?;
                    }
                    out::yaml(item)?;
                }
            }
            Format::Json => {
                if shown == 0 {
                    out::line(format_args!("{{\n  \"total\": {},\n  \"items\": [", pages.total))?;
                }
                for (i, item) in items.iter().enumerate() {
                    let comma = if shown + i > 0 { ",\n" } else { "" };
                    let text =
                        serde_json::to_string_pretty(&out::Ordered(item)).map_err(anyhow::Error::from)?;
                    out::part(format_args!("{comma}    {}", text.replace('\n', "\n    ")))?;
                }
            }
        }
        shown += items.len();
    }
    if output == Format::Json {
        let newline = if shown > 0 { "\n" } else { "" };
        out::line(format_args!("{newline}  ],\n  \"next\": null\n}}"))?;
    }
    Ok(shown == 0)
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

/// A list, page by page. Of the next page's address only the offset is used: the server may be known under another name
/// than the one it gives itself.
pub struct Pages<'a> {
    client: &'a Client,
    path: &'a [&'a str],
    query: Vec<(String, String)>,
    /// Where the next page begins; none behind the last.
    offset: Option<usize>,
    /// How many are still wanted.
    left: usize,
    /// How many there are on the server; known with the first page.
    pub total: u64,
}

impl<'a> Pages<'a> {
    pub fn new(client: &'a Client, path: &'a [&'a str], filters: &Filters) -> Pages<'a> {
        let Filters { part, zone, label, tag, status, size } = filters;
        let mut query: Vec<(String, String)> = Vec::new();
        for (key, value) in [("name", part), ("zone", zone), ("status", status)] {
            query.extend(value.iter().map(|value| (key.to_owned(), value.clone())));
        }
        query.extend(label.iter().map(|(key, value)| (format!("filter[labels.{key}]"), value.clone())));
        query.extend(tag.iter().map(|(key, value)| ("tag".to_owned(), format!("{key}:{value}"))));
        Pages { client, path, query, offset: Some(0), left: size.unwrap_or(usize::MAX), total: 0 }
    }

    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<Value>>> {
        let Some(offset) = self.offset.filter(|_| self.left > 0) else { return Ok(None) };
        let mut query: Vec<(&str, String)> =
            self.query.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        query.extend([("size", PAGE.min(self.left).to_string()), ("offset", offset.to_string())]);
        let reply =
            self.client.send(Request { path: self.path, query, ..Request::default() }).await?.good()?;
        let mut page: Value = reply.json()?;
        self.total = page["total"].as_u64().unwrap_or_default();
        let Value::Array(mut items) = page["items"].take() else {
            bail!("the server's answer is not a list");
        };
        items.truncate(self.left);
        self.left -= items.len();
        self.offset = match page["next"].as_str() {
            None => None,
            Some(next) => {
                let url = Url::parse(next).ok();
                let pair = url.as_ref().and_then(|url| url.query_pairs().find(|(key, _)| key == "offset"));
                let after =
                    pair.and_then(|(_, value)| value.parse::<usize>().ok()).filter(|after| *after > offset);
                let endless = || anyhow!("the server's list has a next page without an end: {next:?}");
                Some(after.ok_or_else(endless)?)
            }
        };
        Ok(Some(items))
    }
}

/// Reads a list to its end.
pub async fn list(client: &Client, path: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut pages = Pages::new(client, path, &Filters::default());
    let mut items = Vec::new();
    while let Some(page) = pages.next().await? {
        items.extend(page);
    }
    Ok(items)
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
