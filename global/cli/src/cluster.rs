//! `weftctl cluster`: the nodes of the global control plane.
use crate::{
    app::Session,
    args::{Cluster, Format},
    client::{Client, Request},
    exit::Failure,
    out,
};
use comfy_table::Cell;
use reqwest::Method;
use serde_json::{Value, json};
use shared_api::{ClusterNode, ClusterStatus, SealKeyStatus};
use std::time::Duration;

/// A handover or a new voter takes longer than a read.
const CHANGE_WITHIN: Duration = Duration::from_secs(30);

pub async fn run(session: &Session, args: Cluster) -> Result<(), Failure> {
    let client = session.client()?;
    match args {
        Cluster::Status { output } => status(&client, output).await,
        Cluster::JoinToken { valid_for } => out::line(token(&client, valid_for).await?),
        Cluster::Add { data_dir, valid_for } => add(&client, &data_dir, valid_for).await,
        Cluster::Promote { node } => change(&client, Method::POST, &node, Some("promote")).await,
        Cluster::Remove { node } => change(&client, Method::DELETE, &node, None).await,
        Cluster::RotateSealKey { output } => rotate(&client, output).await,
        Cluster::TransferLeadership { node } => {
            change(&client, Method::POST, &node, Some("transfer-leadership")).await
        }
    }
}

async fn status(client: &Client, output: Format) -> Result<(), Failure> {
    let status: ClusterStatus = client.read(&["_cluster"]).await?;
    match output {
        Format::Json => return out::json(&status),
        Format::Yaml => return out::yaml(&serde_json::to_value(&status).map_err(anyhow::Error::from)?),
        Format::Table => {}
    }
    let epoch = if status.epoch.is_empty() { "1" } else { &status.epoch };
    out::line(format_args!("cluster {}, epoch {epoch}", status.cluster_id))?;
    let header = ["NODE", "ROLE", "TERM", "LAST", "APPLIED", "REVISION", "LAG", "ADDRESS", "VERSION"];
    out::table(&header, status.nodes.iter().map(row).collect())
}

fn row(node: &ClusterNode) -> Vec<Cell> {
    let number = |number: Option<u64>| Cell::new(number.map_or("-".to_owned(), |number| number.to_string()));
    let good = ["leader", "follower", "learner"].contains(&node.role.as_str());
    vec![
        Cell::new(&node.node),
        out::verdict(&node.role, good),
        number(node.term),
        number(node.last_index),
        number(node.applied_index),
        number(node.revision),
        number(node.lag),
        Cell::new(&node.address),
        Cell::new(node.version.as_deref().unwrap_or("-")),
    ]
}

async fn token(client: &Client, valid_for: Duration) -> Result<String, Failure> {
    let body = json!({"validFor": shared_model::Duration(valid_for).to_string()});
    let path = &["_cluster", "join-tokens"];
    let request = Request { method: Method::POST, path, body: Some(&body), ..Request::default() };
    let reply = client.send(request).await?.good().map_err(anyhow::Error::from)?;
    Ok(reply.body.trim().to_owned())
}

/// All that has to be typed on the new machine.
async fn add(client: &Client, data_dir: &str, valid_for: Duration) -> Result<(), Failure> {
    let status: ClusterStatus = client.read(&["_cluster"]).await?;
    let token = token(client, valid_for).await?;
    let joins: Vec<String> =
        status.nodes.iter().map(|node| format!("--join https://{}", node.address)).collect();
    let valid_for = shared_model::Duration(valid_for);
    out::line(format_args!("# on the new node, within {valid_for}; the token is good once"))?;
    out::line(format_args!("umask 077; echo {token} > join-token"))?;
    let joins = joins.join(" ");
    out::line(format_args!("global-cp run --data-dir {data_dir} {joins} --join-token-file join-token"))
}

async fn rotate(client: &Client, output: Format) -> Result<(), Failure> {
    let path = &["_cluster", "seal-key", "rotate"];
    let request = Request { method: Method::POST, path, within: Some(CHANGE_WITHIN), ..Request::default() };
    let status: SealKeyStatus = client.send(request).await?.good().map_err(anyhow::Error::from)?.json()?;
    match output {
        Format::Json => return out::json(&status),
        Format::Yaml => return out::yaml(&serde_json::to_value(&status).map_err(anyhow::Error::from)?),
        Format::Table => {}
    }
    let SealKeyStatus { key_id, replaces, resealed, nodes, missing } = status;
    out::line(format_args!("seal key {key_id} replaces {replaces}: {resealed} secrets are sealed anew"))?;
    out::line(format_args!("nodes that have it: {}", nodes.join(", ")))?;
    if !missing.is_empty() {
        out::line(format_args!("nodes that fetch it when they are back: {}", missing.join(", ")))?;
    }
    out::line("copy <data-dir>/seal.key of a node to where the key is kept: newer backups need it")
}

async fn change(client: &Client, method: Method, wanted: &str, verb: Option<&str>) -> Result<(), Failure> {
    let status: ClusterStatus = client.read(&["_cluster"]).await?;
    let node = find(&status, wanted)?;
    let mut path = vec!["_cluster", "nodes", &node.node];
    path.extend(verb);
    let request = Request { method, path: &path, within: Some(CHANGE_WITHIN), ..Request::default() };
    let _: Value = client.send(request).await?.good().map_err(anyhow::Error::from)?.json()?;
    let done = match verb {
        Some("promote") => "votes",
        Some(_) => "leads",
        None => "is no node of the cluster any more",
    };
    out::line(format_args!("{} ({}) {done}", node.node, node.address))
}

/// By address, or by as much of the id as tells the node from the others.
fn find<'a>(status: &'a ClusterStatus, wanted: &str) -> Result<&'a ClusterNode, Failure> {
    let matches = |node: &&ClusterNode| node.address == wanted || node.node.starts_with(wanted);
    let found: Vec<&ClusterNode> = status.nodes.iter().filter(matches).collect();
    match found[..] {
        [only] => Ok(only),
        [] => Err(Failure::usage(format!("no node of the cluster is called {wanted:?}"))),
        _ => Err(Failure::usage(format!("{wanted:?} is the beginning of several nodes' ids"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_goes_by_its_address_or_the_beginning_of_its_id() {
        let node = |id: &str, address: &str| ClusterNode {
            node: id.to_owned(),
            address: address.to_owned(),
            ..ClusterNode::default()
        };
        let nodes = vec![node("12ab", "a:1"), node("12cd", "b:1")];
        let status = ClusterStatus { nodes, ..ClusterStatus::default() };
        assert_eq!(find(&status, "12a").expect("found").address, "a:1");
        assert_eq!(find(&status, "b:1").expect("found").node, "12cd");
        assert!(find(&status, "12").is_err() && find(&status, "x").is_err());
    }
}
