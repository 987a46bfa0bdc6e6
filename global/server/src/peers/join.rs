//! An empty disk that is told where a cluster is: shows its token, checks who answers, and writes what it is given.
use super::{papers::Papers, service, token::JoinToken, wire};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use global_consensus::Joined;
use proto::peer::JoinRequest;
use shared_identity::ca;
use shared_node::file;
use std::{path::Path, time::Duration};
use tonic::Code;

/// One node's whole answer; it may have to ask the leader, and wait for an election.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often the nodes are tried before the start fails.
const ROUNDS: usize = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// Who wants in.
pub struct Applicant<'a> {
    pub data_dir: &'a Path,
    pub peers: &'a [String],
    pub token_file: &'a Path,
    pub address: String,
    pub link: String,
}

/// Trades the token for a certificate, the CA and the seal key, and writes them. The node's id is new.
pub async fn run(applicant: Applicant<'_>) -> Result<Joined> {
    let text = file::read(applicant.token_file, "the join token")?;
    let token = JoinToken::parse(&text).map_err(|why| {
        anyhow!("the join token in {} cannot be used: {why}", applicant.token_file.display())
    })?;
    let node_id = service::fresh_id();
    let (key_pem, csr) = ca::request_key()?;
    let ask = JoinRequest {
        token: token.to_string(),
        node_id,
        address: applicant.address.clone(),
        link: applicant.link.clone(),
        csr,
        version: shared_node::VERSION.to_owned(),
    };
    let mut last = anyhow!("no peer is named");
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        for peer in applicant.peers {
            let mut door = wire::door(peer, &token.ca)?;
            let answer = tokio::time::timeout(PATIENCE, door.join(ask.clone())).await;
            let status = match answer {
                Ok(Ok(reply)) => {
                    let reply = reply.into_inner();
                    let shown = ca::fingerprint(&reply.ca_pem)?;
                    ensure!(shown == token.ca, "{peer} gave another CA than the token names");
                    let (seal, ca_key) = service::open(&reply, &token, node_id)
                        .with_context(|| format!("{peer} gave what cannot be opened"))?;
                    let tls = applicant.data_dir.join("tls");
                    file::private_dir(&tls)?;
                    file::write_private(&tls.join("ca.key"), ca_key.as_bytes())?;
                    file::write_public(&tls.join("ca.crt"), reply.ca_pem.as_bytes())?;
                    // A serving certificate of another CA is of no use any more.
                    let _ = std::fs::remove_file(tls.join("server.crt"));
                    file::write_private(&applicant.data_dir.join("seal.key"), &seal)?;
                    let papers = Papers { ca_pem: reply.ca_pem, chain_pem: reply.chain_pem, key_pem };
                    papers.write(applicant.data_dir)?;
                    tracing::info!(
                        peer,
                        cluster_id = reply.cluster_id,
                        node_id = format!("{node_id:016x}"),
                        "this node has joined a cluster"
                    );
                    return Ok(Joined { cluster_id: reply.cluster_id, node_id });
                }
                Ok(Err(status)) => status,
                Err(_) => tonic::Status::deadline_exceeded("no answer"),
            };
            if status.code() == Code::PermissionDenied {
                bail!("{peer} does not let this node in: {}", status.message());
            }
            last = anyhow!("cannot join through {peer}: {}", causes(&status));
            tracing::warn!(peer, reason = %last, "not joined yet");
        }
    }
    Err(last)
}

/// tonic keeps apart what went wrong below it: a certificate, a socket.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
