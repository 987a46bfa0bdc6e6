//! `weftctl zone`: what an operator decides about zones.
use crate::{app::Session, args::Zone, client::Request, exit::Failure, get, out};
use reqwest::Method;
use serde_json::{Value, json};

pub async fn run(session: &Session, args: Zone) -> Result<(), Failure> {
    let client = session.client()?;
    match args {
        Zone::AcceptRestore { mut zones, all } => {
            if all {
                let found = get::list(&client, &["zones"]).await?;
                zones.extend(found.iter().filter_map(|zone| zone["name"].as_str().map(str::to_owned)));
            }
            for zone in &zones {
                let path = &["_cluster", "zones", zone, "accept-restore"];
                let request = Request { method: Method::POST, path, ..Request::default() };
                let reply = client.send(request).await?.good().map_err(anyhow::Error::from)?;
                let revision = reply.json::<Value>()?["revision"].as_u64().unwrap_or_default();
                out::line(format_args!(
                    "zone {zone} may follow the restored control plane (revision {revision})"
                ))?;
            }
            Ok(())
        }
        Zone::Rebind { zone, to } => {
            let body = to.as_ref().map_or_else(|| json!({}), |to| json!({"zoneId": to}));
            let path = &["zones", &zone, "_rebind"];
            let request = Request { method: Method::POST, path, body: Some(&body), ..Request::default() };
            let reply = client.send(request).await?.good().map_err(anyhow::Error::from)?;
            let revision = reply.json::<Value>()?["revision"].as_u64().unwrap_or_default();
            let whom = to
                .map_or_else(|| "the next one to come".to_owned(), |to| format!("the zone with the id {to}"));
            out::line(format_args!("the name {zone} is for {whom} (revision {revision})"))
        }
    }
}
