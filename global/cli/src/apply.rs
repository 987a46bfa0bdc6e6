//! `weftctl apply`: all documents are read and validated first; only when all are good, each is sent and reported.
use crate::{
    app::Session,
    args::{Apply, DryRun},
    client::{Client, Refused, Reply, Request},
    documents::{self, Document},
    exit::{Code, Failure},
    follow, get, out,
};
use anyhow::Context;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use shared_api::WriteReply;
use shared_model::{Resource, kind};
use std::collections::BTreeMap;

pub async fn run(session: &Session, args: Apply) -> Result<(), Failure> {
    let mut sources = documents::sources(&args.file)?;
    if !args.vars.is_empty() {
        let values: BTreeMap<String, String> = args.vars.iter().cloned().collect();
        for source in &mut sources {
            documents::fill_in(source, &values)?;
        }
    }
    let documents = documents::read(&sources);
    if documents.is_empty() {
        return Err(Failure::new(Code::Error, "there is no document in the input"));
    }
    let resources = all_good(documents)?;
    match args.dry_run {
        Some(DryRun::Local) => {
            for resource in &resources {
                warn(resource, &shared_policy::warnings(resource));
                out::line(format_args!("{}: valid (not sent)", resource.key()))?;
            }
            Ok(())
        }
        Some(DryRun::Server) => {
            send_all(&session.client()?, &resources, true).await?;
            Ok(())
        }
        None => {
            let client = if args.wait { session.waiting_client()? } else { session.client()? };
            let revisions = send_all(&client, &resources, false).await?;
            match args.wait {
                true => follow::follow(&client, &revisions, session.wait_for()).await?.end(),
                false => Ok(()),
            }
        }
    }
}

/// The resources, Meshes first, or a report on every document.
fn all_good(documents: Vec<Document>) -> Result<Vec<Resource>, Failure> {
    let bad = documents.iter().filter(|document| !document.problems.is_empty()).count();
    if bad > 0 {
        for Document { place, resource, problems } in &documents {
            let name = resource.as_ref().map(|resource| format!("{}: ", resource.key())).unwrap_or_default();
            for problem in problems {
                eprintln!("{place}: {name}{problem}");
            }
            if problems.is_empty() {
                eprintln!("{place}: {name}valid, not sent");
            }
        }
        let all = documents.len();
        let message = match (bad, all) {
            (1, 1) => "the document is not valid: nothing was sent".to_owned(),
            (1, _) => format!("1 of {all} documents is not valid: nothing was sent"),
            _ => format!("{bad} of {all} documents are not valid: nothing was sent"),
        };
        return Err(Failure::new(Code::Error, message));
    }
    let mut resources: Vec<Resource> =
        documents.into_iter().filter_map(|document| document.resource).collect();
    resources.sort_by_key(|resource| resource.kind != kind::MESH);
    Ok(resources)
}

/// Sends each resource and says what became of it. A refused one does not keep the others back; a server that does not
/// answer does.
async fn send_all(client: &Client, resources: &[Resource], dry_run: bool) -> Result<Vec<u64>, Failure> {
    let meshes: Vec<&str> = resources
        .iter()
        .filter(|resource| resource.kind == kind::MESH)
        .map(|mesh| mesh.name.as_str())
        .collect();
    let meshes = meshes.join(",");
    let mut revisions = Vec::new();
    let mut refused = 0;
    for (sent, resource) in resources.iter().enumerate() {
        let answer =
            if dry_run { check(client, resource, &meshes).await } else { put(client, resource).await };
        match answer {
            Ok((said, reply)) => {
                warn(resource, &reply.warnings);
                out::line(format_args!("{}: {said}", resource.key()))?;
                revisions.extend(reply.revision);
            }
            Err(error) => match error.downcast_ref::<Refused>() {
                Some(refusal) => {
                    refused += 1;
                    eprintln!("{}: refused: {refusal}", resource.key());
                }
                None => {
                    let left = resources.len() - sent;
                    let left = if left > 1 && !dry_run {
                        format!("; {left} documents were not stored")
                    } else {
                        String::new()
                    };
                    return Err(Failure::new(Code::Error, format!("{error:#}{left}")));
                }
            },
        }
    }
    if refused > 0 {
        let all = resources.len();
        let message = match (refused, all) {
            (1, 1) => "the document was refused".to_owned(),
            (1, _) => format!("1 of {all} documents was refused"),
            _ => format!("{refused} of {all} documents were refused"),
        };
        return Err(Failure::new(Code::Error, message));
    }
    revisions.sort_unstable();
    revisions.dedup();
    Ok(revisions)
}

/// Stores one resource. What is there before tells an update from a document that changes nothing.
async fn put(client: &Client, resource: &Resource) -> anyhow::Result<(String, WriteReply)> {
    let kind = kind::by_name(&resource.kind).context("a resource is only read with a known kind")?;
    let path = get::item_path(kind, &resource.mesh, &resource.name);
    let before = client.get(&path).await?;
    let before: Option<u64> = match before.status {
        StatusCode::OK => before.json::<Value>()?["revision"].as_u64(),
        _ => None,
    };
    let body = documents::to_send(&resource.to_json());
    let request = Request { method: Method::PUT, path: &path, body: Some(&body), ..Request::default() };
    let reply = client.send(request).await?.good()?;
    let created = reply.status == StatusCode::CREATED;
    let reply = write_reply(&reply)?;
    let said = match reply.revision {
        Some(revision) if created => format!("created at revision {revision}"),
        Some(revision) if Some(revision) == before => format!("unchanged (revision {revision})"),
        Some(revision) => format!("updated at revision {revision}"),
        None if created => "created".to_owned(),
        None => "updated".to_owned(),
    };
    Ok((said, reply))
}

/// Asks what storing a resource would do, once the Meshes of the same call are there.
async fn check(client: &Client, resource: &Resource, meshes: &str) -> anyhow::Result<(String, WriteReply)> {
    let body = documents::to_send(&resource.to_json());
    let query = vec![("assume", meshes.to_owned())];
    let request =
        Request { method: Method::POST, path: &["_check"], query, body: Some(&body), ..Request::default() };
    let reply = client.send(request).await?.good()?;
    let said = if reply.status == StatusCode::CREATED { "would be created" } else { "would be updated" };
    Ok((said.to_owned(), WriteReply { revision: None, ..write_reply(&reply)? }))
}

/// Kuma's own server answers a write with an empty body or `{}`.
fn write_reply(reply: &Reply) -> anyhow::Result<WriteReply> {
    if reply.body.trim().is_empty() { Ok(WriteReply::default()) } else { reply.json() }
}

fn warn(resource: &Resource, warnings: &[String]) {
    for warning in warnings {
        eprintln!("warning: {}: {warning}", resource.key());
    }
}
