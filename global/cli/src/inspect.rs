//! `weftctl inspect`: what is known of proxies and zones at run time.
use crate::{
    app::Session,
    args::{Filters, Format, Inspect, InspectDataplane, What},
    client::Client,
    exit::Failure,
    get, out,
    tables::{self, Connection},
};
use anyhow::anyhow;
use comfy_table::Cell;
use serde_json::Value;
use shared_model::{Problem, Resource, Timestamp, core::Dataplane, kind, strict};
use shared_policy::{InboundFacts, Policy, ProxyFacts};
use std::time::SystemTime;

pub async fn run(session: &Session, args: Inspect) -> Result<(), Failure> {
    let client = session.client()?;
    match args {
        Inspect::Dataplane(args) => dataplane(&client, args).await,
        Inspect::Dataplanes { mesh, output } => {
            let header = [
                "NAME",
                "STATUS",
                "SINCE",
                "ENVOY",
                "SENT",
                "ACKNOWLEDGED",
                "REFUSED",
                "CERTIFICATE UNTIL",
                "ZONE",
                "SEEN",
            ];
            let path = ["meshes", &mesh.mesh, "dataplanes", "_overview"];
            if show(&client, output, &path, &header, dataplane_row).await? {
                eprintln!("there is no Dataplane in mesh {}", mesh.mesh);
            }
            Ok(())
        }
        Inspect::Zones { output } => {
            let header = ["NAME", "STATUS", "SINCE", "ENABLED", "VERSION"];
            if show(&client, output, &["zones", "_overview"], &header, zone_row).await? {
                eprintln!("there is no Zone");
            }
            Ok(())
        }
    }
}

/// Prints a list. Answers whether a table would have been empty.
async fn show(
    client: &Client,
    output: Format,
    path: &[&str],
    header: &[&str],
    row: fn(&Value, Timestamp) -> Vec<Cell>,
) -> Result<bool, Failure> {
    let now = Timestamp::from(SystemTime::now());
    let mut printed = out::Printed::default();
    let mut pages = get::Pages::new(client, path, &Filters::default());
    let page =
        |items: &[Value]| out::page(header, items.iter().map(|item| row(item, now)).collect(), &mut printed);
    Ok(get::show(output, &mut pages, page).await? && output == Format::Table)
}

fn dataplane_row(item: &Value, now: Timestamp) -> Vec<Cell> {
    let insight = &item["dataplaneInsight"];
    let connection = Connection::of(insight);
    let [state, seen] = tables::proxy_state(item, now);
    let last = insight["subscriptions"].as_array().and_then(|all| all.last()).unwrap_or(&Value::Null);
    let total = &last["status"]["total"];
    vec![
        tables::text(&item["name"]),
        state,
        Cell::new(connection.since().map_or("-".to_owned(), |since| tables::ago(since, now))),
        tables::text(&last["version"]["envoy"]["version"]),
        tables::text(&total["responsesSent"]),
        tables::text(&total["responsesAcknowledged"]),
        tables::text(&total["responsesRejected"]),
        tables::text(&insight["mTLS"]["certificateExpirationTime"]),
        Cell::new(tables::zone(item)),
        seen,
    ]
}

fn zone_row(item: &Value, now: Timestamp) -> Vec<Cell> {
    let insight = &item["zoneInsight"];
    let connection = Connection::of(insight);
    let last = insight["subscriptions"].as_array().and_then(|all| all.last()).unwrap_or(&Value::Null);
    let enabled = item["zone"]["enabled"].as_bool().unwrap_or(true);
    vec![
        tables::text(&item["name"]),
        connection.cell(),
        Cell::new(connection.since().map_or("-".to_owned(), |since| tables::ago(since, now))),
        Cell::new(if enabled { "yes" } else { "no" }),
        tables::text(&last["version"]["kumaCp"]["version"]),
    ]
}

async fn dataplane(client: &Client, args: InspectDataplane) -> Result<(), Failure> {
    let (mesh, name) = (args.mesh.mesh.as_str(), args.name.as_str());
    let what = match args.what {
        What::Policies => return policies(client, mesh, name).await,
        What::ConfigDump => "xds",
        What::Stats => "stats",
        What::Clusters => "clusters",
    };
    let reply =
        client.get(&["meshes", mesh, "dataplanes", name, what]).await?.good().map_err(anyhow::Error::from)?;
    match serde_json::from_str::<Value>(&reply.body) {
        Ok(json) if args.what == What::ConfigDump => out::json(&json),
        _ => out::text(&reply.body),
    }
}

/// The policies that select a proxy, found by the same code that the zones use.
async fn policies(client: &Client, mesh: &str, name: &str) -> Result<(), Failure> {
    let document: Value = client.read(&["meshes", mesh, "dataplanes", name]).await?;
    let resource = read(&document)?;
    let proxy: Dataplane =
        strict::read(&resource.spec, "").map_err(|problem| unreadable(&document, &[problem]))?;
    let inbounds: Vec<InboundFacts> = proxy
        .networking
        .inbound
        .iter()
        .map(|inbound| InboundFacts {
            address: proxy.inbound_address(inbound).to_owned(),
            port: inbound.port,
            section: inbound.section(),
            protocol: inbound.protocol(),
            tags: inbound.tags.clone(),
        })
        .collect();
    let zone = resource.zone().unwrap_or_default();
    let facts = ProxyFacts {
        mesh,
        name: resource.display_name(),
        zone,
        labels: &resource.labels,
        inbounds: &inbounds,
    };
    let mut rows = Vec::new();
    for kind in kind::KINDS.iter().filter(|kind| kind.policy && kind.supported) {
        for item in get::list(client, &get::collection_path(kind, mesh)).await? {
            let policy = Policy::compile(&read(&item)?).map_err(|problems| unreadable(&item, &problems))?;
            if policy.selects(&facts) {
                let note = if policy.is_shadow() { "shadow: does not apply" } else { "" };
                rows.push(vec![
                    Cell::new(kind.name),
                    tables::text(&item["name"]),
                    Cell::new(tables::target(&item["spec"])),
                    Cell::new(tables::origin(&item)),
                    tables::revision(&item["revision"]),
                    Cell::new(note),
                ]);
            }
        }
    }
    if rows.is_empty() {
        eprintln!("no policy selects {mesh}/{name}");
        return Ok(());
    }
    out::table(&["KIND", "NAME", "TARGET", "ORIGIN", "REVISION", ""], rows)
}

/// What a server stored was valid to it; a newer server may store what this version cannot read.
fn read(document: &Value) -> anyhow::Result<Resource> {
    Resource::from_json(document).map_err(|problems| unreadable(document, &problems))
}

fn unreadable(document: &Value, problems: &[Problem]) -> anyhow::Error {
    let problems: Vec<String> = problems.iter().map(Problem::to_string).collect();
    let (kind, name) = (tables::plain(&document["type"]), tables::plain(&document["name"]));
    anyhow!("this version of weftctl cannot read {kind} {name}: {}", problems.join("; "))
}
