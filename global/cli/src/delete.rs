//! `weftctl delete`.
use crate::{app::Session, args::Delete, client::Request, exit::Failure, follow, get, out};
use reqwest::Method;
use serde_json::Value;
use shared_model::ResourceKey;

pub async fn run(session: &Session, args: Delete) -> Result<(), Failure> {
    let kind = get::kind_of(&args.kind)?;
    let mesh = if kind.is_mesh_scoped() { args.mesh.mesh.as_str() } else { "" };
    let key = ResourceKey::new(kind.name, mesh, &args.name);
    let client = if args.wait { session.waiting_client()? } else { session.client()? };
    let path = get::item_path(kind, mesh, &args.name);
    let request = Request { method: Method::DELETE, path: &path, ..Request::default() };
    let reply = client.send(request).await?.good().map_err(anyhow::Error::from)?;
    let body: Value = if reply.body.trim().is_empty() { Value::Null } else { reply.json()? };
    let Some(revision) = body["revision"].as_u64() else {
        return out::line(format_args!("{key}: deleted"));
    };
    out::line(format_args!("{key}: deleted at revision {revision}"))?;
    match args.wait {
        true => follow::follow(&client, &[revision], session.wait_for()).await?.end(),
        false => Ok(()),
    }
}
