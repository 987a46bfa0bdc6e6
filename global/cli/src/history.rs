//! `weftctl history`, `diff` and `rollback`: former versions, as the server retains them.
use crate::{
    app::Session,
    args::{Diff as DiffArgs, Format, History as HistoryArgs, Rollback},
    client::{Client, Expected, Request},
    documents,
    exit::{Code, Failure},
    follow, get, out,
};
use comfy_table::Cell;
use reqwest::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use shared_api::history::{AsOf, Diff, Differs, History};
use shared_model::{Kind, ResourceKey};
use similar::TextDiff;

/// Lines of context around a change.
const CONTEXT: usize = 3;

pub async fn run(session: &Session, args: HistoryArgs) -> Result<(), Failure> {
    let (_, key) = key_of(&args.kind, &args.mesh.mesh, &args.name)?;
    let history: History = ask(&session.client()?, &["_history"], query_of(&key)).await?;
    if args.output != Format::Table {
        return show(&history, args.output);
    }
    let user = |user: &str| if user.is_empty() { "-".to_owned() } else { user.to_owned() };
    let rows = history.items.iter().map(|item| {
        vec![
            Cell::new(item.revision),
            Cell::new(item.time.format("%Y-%m-%d %H:%M:%SZ")),
            Cell::new(user(&item.user)),
            Cell::new(
                serde_json::to_value(item.operation)
                    .ok()
                    .and_then(|v| v.as_str().map(str::to_owned))
                    .unwrap_or_default(),
            ),
        ]
    });
    out::table(&["REVISION", "TIME", "USER", "OPERATION"], rows.collect())
}

pub async fn diff(session: &Session, args: DiffArgs) -> Result<(), Failure> {
    let client = session.client()?;
    let mut query = vec![("from", args.from.to_string())];
    let to = match args.to {
        Some(to) => to,
        None => newest(&client).await?,
    };
    query.push(("to", to.to_string()));
    if let (Some(kind), Some(name)) = (&args.kind, &args.name) {
        query.extend(query_of(&key_of(kind, &args.mesh.mesh, name)?.1));
    }
    let diff: Diff = ask(&client, &["_history", "diff"], query).await?;
    match args.output {
        Format::Table => {
            for differs in &diff.documents {
                out::text(&unified(differs, diff.from, diff.to, out::has_colours())?)?;
            }
            Ok(())
        }
        format => show(&diff, format),
    }
}

pub async fn rollback(session: &Session, args: Rollback) -> Result<(), Failure> {
    let (kind, key) = key_of(&args.kind, &args.mesh.mesh, &args.name)?;
    let client = if args.wait { session.waiting_client()? } else { session.client()? };
    let mut query = query_of(&key);
    query.push(("revision", args.to.to_string()));
    let then: AsOf = ask(&client, &["_history", "as-of"], query).await?;
    let path = get::item_path(kind, &key.mesh, &key.name);
    let now = client.get(&path).await?;
    let now: Option<Value> = match now.status {
        StatusCode::NOT_FOUND => None,
        _ => Some(now.good().map_err(anyhow::Error::from)?.json()?),
    };
    let expected = match &now {
        Some(now) => Expected::At(now["revision"].as_u64().unwrap_or_default()),
        None => Expected::Absent,
    };
    let differs = Differs {
        kind: key.kind.clone(),
        mesh: key.mesh.clone(),
        name: key.name.clone(),
        hidden: false,
        from: now,
        to: then.document,
    };
    let body = differs.to.as_ref().map(documents::to_send);
    if body == differs.from.as_ref().map(documents::to_send) {
        return out::line(format_args!("{key}: is as it was at revision {}", args.to));
    }
    if args.dry_run {
        let from = differs.from.as_ref().and_then(|now| now["revision"].as_u64()).unwrap_or_default();
        return out::text(&unified(&differs, from, args.to, out::has_colours())?);
    }
    let method = if body.is_some() { Method::PUT } else { Method::DELETE };
    let request =
        Request { method, path: &path, body: body.as_ref(), expected: Some(expected), ..Request::default() };
    let reply = client.send(request).await?;
    if reply.status == StatusCode::CONFLICT {
        let message = format!("{key} was written meanwhile: look at `weftctl history` and try again");
        return Err(Failure::new(Code::Error, message));
    }
    let reply: Value = reply.good().map_err(anyhow::Error::from)?.json()?;
    let revision = reply["revision"].as_u64().unwrap_or_default();
    let done = if body.is_some() { "is again what it was" } else { "is deleted, as it was" };
    out::line(format_args!("{key}: {done} at revision {} (revision {revision})", args.to))?;
    match args.wait {
        true => follow::follow(&client, &[revision], session.wait_for()).await?.end(),
        false => Ok(()),
    }
}

fn key_of(kind: &str, mesh: &str, name: &str) -> Result<(&'static Kind, ResourceKey), Failure> {
    let kind = get::kind_of(kind)?;
    let mesh = if kind.is_mesh_scoped() { mesh } else { "" };
    Ok((kind, ResourceKey::new(kind.name, mesh, name)))
}

fn query_of(key: &ResourceKey) -> Vec<(&'static str, String)> {
    let mut query = vec![("kind", key.kind.clone()), ("name", key.name.clone())];
    if !key.mesh.is_empty() {
        query.push(("mesh", key.mesh.clone()));
    }
    query
}

async fn ask<T: DeserializeOwned>(
    client: &Client,
    path: &[&str],
    query: Vec<(&str, String)>,
) -> Result<T, Failure> {
    let reply = client.send(Request { path, query, ..Request::default() }).await?;
    Ok(reply.good().map_err(anyhow::Error::from)?.json()?)
}

/// Every read tells the newest revision that it has seen; all may read the meshes.
async fn newest(client: &Client) -> Result<u64, Failure> {
    let reply = client.get(&["meshes"]).await?;
    let seen = reply.revision;
    reply.good().map_err(anyhow::Error::from)?;
    seen.ok_or_else(|| Failure::new(Code::Error, "the server does not tell its newest revision: give --to"))
}

fn show(value: &impl Serialize, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => out::json(value),
        _ => out::yaml(&serde_json::to_value(value).map_err(anyhow::Error::from)?),
    }
}

fn unified(differs: &Differs, from: u64, to: u64, colours: bool) -> Result<String, Failure> {
    let key = ResourceKey::new(&*differs.kind, &*differs.mesh, &*differs.name);
    if differs.hidden {
        return Ok(format!("# {key}: written between revision {from} and {to}, its content is not shown\n"));
    }
    let yaml = |document: &Option<Value>| match document {
        Some(document) => out::to_yaml(&documents::to_send(document)),
        None => Ok(String::new()),
    };
    let (old, new) = (yaml(&differs.from)?, yaml(&differs.to)?);
    let name = |revision: u64, document: &Option<Value>| match document {
        Some(_) => format!("{key} revision {revision}"),
        None => "/dev/null".to_owned(),
    };
    let diff = TextDiff::from_lines(&old, &new);
    let (before, after) = (name(from, &differs.from), name(to, &differs.to));
    let text = diff.unified_diff().context_radius(CONTEXT).header(&before, &after).to_string();
    Ok(if colours { coloured(&text) } else { text })
}

fn coloured(text: &str) -> String {
    let colour = |line: &str| match line.as_bytes().first() {
        _ if line.starts_with("---") || line.starts_with("+++") => "1",
        Some(b'+') => "32",
        Some(b'-') => "31",
        Some(b'@') => "36",
        _ => "0",
    };
    text.lines().map(|line| format!("\u{1b}[{}m{line}\u{1b}[0m\n", colour(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_diff_is_of_yaml_and_says_what_was_not_there() {
        let document = |value: &str| {
            Some(
                json!({"type": "MeshTimeout", "mesh": "m", "name": "t", "revision": 9, "spec": {"value": value}}),
            )
        };
        let mut differs = Differs {
            kind: "MeshTimeout".into(),
            mesh: "m".into(),
            name: "t".into(),
            hidden: false,
            from: document("5s"),
            to: document("6s"),
        };
        let text = unified(&differs, 3, 4, false).expect("rendered");
        assert!(
            text.starts_with("--- MeshTimeout m/t revision 3\n+++ MeshTimeout m/t revision 4\n@@"),
            "{text}"
        );
        assert!(text.contains("\n-  value: 5s\n+  value: 6s\n") && !text.contains("revision: 9"), "{text}");
        assert!(unified(&differs, 3, 4, true).expect("rendered").contains("\u{1b}[32m+  value: 6s\u{1b}[0m"));
        differs.from = None;
        assert!(unified(&differs, 3, 4, false).expect("rendered").starts_with("--- /dev/null\n"));
        differs.hidden = true;
        assert!(unified(&differs, 3, 4, false).expect("rendered").contains("not shown"));
    }
}
