//! One link of a simulated zone to one node of global: what a zone without proxies says on it.
use super::zone::{Held, Replica};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use prost::Message as _;
use proto::link::{
    Beat, Enrolment, FromZone, Hello, Inventory, MESSAGE_MAX, Progress, RaftCall, RaftReply, RaftRequest,
    RevisionProgress, ToZone, Welcome, from_zone::Kind as Up, to_zone::Kind as Down,
    zone_link_client::ZoneLinkClient,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

// The times are those of a zone's control plane.
const PATIENCE: Duration = Duration::from_secs(10);
const BEAT: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(3);
const PROGRESS: Duration = Duration::from_millis(5);
const OUTBOX: usize = 64;

/// What global has given a zone to show.
pub struct Papers {
    chain_pem: String,
    key_pem: String,
}

/// Trades the zone's token for a certificate.
pub async fn enrol(zone: &Replica, url: &str) -> Result<Papers> {
    let (key_pem, csr) = shared_identity::ca::request_key()?;
    let mut request = Request::new(Enrolment {
        zone: zone.name.clone(),
        zone_id: zone.zone_id.clone(),
        csr,
        cluster_id: zone.learner.identity().cluster_id,
        version: shared_node::VERSION.to_owned(),
    });
    request.metadata_mut().insert("authorization", format!("Bearer {}", zone.token.trim()).parse()?);
    let mut client = connect(&zone.door.ca_pem, url, None).await?;
    let enrolled =
        timeout(PATIENCE, client.enrol(request)).await.context("global does not enrol the zone")?;
    Ok(Papers { chain_pem: enrolled?.into_inner().chain_pem, key_pem })
}

async fn connect(ca_pem: &str, url: &str, papers: Option<&Papers>) -> Result<ZoneLinkClient<Channel>> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem));
    if let Some(Papers { chain_pem, key_pem }) = papers {
        tls = tls.identity(Identity::from_pem(chain_pem, key_pem));
    }
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .tls_config(tls)?
        .connect_timeout(PATIENCE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE)
        .keep_alive_while_idle(true);
    let channel = timeout(PATIENCE, endpoint.connect()).await.context("global does not answer")??;
    Ok(ZoneLinkClient::new(channel)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX))
}

/// Dials a node and serves the link until it ends.
pub async fn run(zone: &Arc<Replica>, url: &str) -> Result<()> {
    let papers = zone.papers.get_or_try_init(|| enrol(zone, url)).await?;
    let mut client = connect(&zone.door.ca_pem, url, Some(papers)).await?;
    let (outbox, messages) = mpsc::channel(OUTBOX);
    send(&outbox, Up::Hello(hello(zone))).await?;
    let opened = timeout(PATIENCE, client.follow(ReceiverStream::new(messages))).await;
    let mut inbound = opened.context("global does not answer")??.into_inner();
    let first = timeout(PATIENCE, inbound.message()).await.context("no welcome came")??;
    let Some(ToZone { kind: Some(Down::Welcome(welcome)) }) = first else {
        bail!("global did not begin with a welcome");
    };
    ensure!(!welcome.cluster_id.is_empty(), "global does not tell which cluster it is");
    zone.learner.set_cluster_id(&welcome.cluster_id)?;
    let _open = zone.opened(welcome.node_id, url);
    serve(zone, &welcome, inbound, outbox).await
}

fn hello(zone: &Replica) -> Hello {
    let identity = zone.learner.identity();
    let catalog = zone.learner.catalog().borrow().clone();
    Hello {
        zone: zone.name.clone(),
        instance: format!("{}-simulated", zone.name),
        node_id: identity.node_id,
        version: shared_node::VERSION.to_owned(),
        cluster_id: identity.cluster_id,
        revision: catalog.revision().0,
        zone_id: zone.zone_id.clone(),
        epoch: catalog.epoch().to_string(),
        seen: catalog.revision().0,
    }
}

async fn serve(
    zone: &Arc<Replica>,
    welcome: &Welcome,
    mut inbound: Streaming<ToZone>,
    outbox: mpsc::Sender<FromZone>,
) -> Result<()> {
    let mut held = zone.held.subscribe();
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let mut next_progress = heard;
    let (broken_tx, mut broken) = mpsc::channel(1);
    let newest = *held.borrow_and_update();
    send(&outbox, progress(newest)).await?;
    // There are no proxies: a whole of nothing.
    let sequence = welcome.inventory_sequence + 1;
    send(&outbox, Up::Inventory(Inventory { sequence, complete: true, ..Inventory::default() })).await?;
    loop {
        tokio::select! {
            message = inbound.message() => {
                let Some(message) = message? else { bail!("global closed the link") };
                heard = Instant::now();
                zone.traffic.received(message.encoded_len());
                match message.kind {
                    Some(Down::Raft(request)) => replicate(zone, request, &outbox, &broken_tx),
                    Some(Down::Members(members)) => zone.roster.send_modify(|roster| roster.take(members)),
                    // Nothing else is asked of a zone without proxies.
                    _ => {}
                }
            }
            Some(error) = broken.recv() => return Err(error),
            () = sleep_until(heard + SILENCE) => bail!("nothing was heard from global"),
            _ = beats.tick() => {
                let revision = held.borrow().revision;
                send(&outbox, Up::Beat(Beat { revision })).await?;
            }
            changed = async { sleep_until(next_progress).await; held.changed().await } => {
                changed.context("the replica has stopped")?;
                let newest = *held.borrow_and_update();
                send(&outbox, progress(newest)).await?;
                next_progress = Instant::now() + PROGRESS;
            }
        }
    }
}

/// No proxy is touched: a revision is settled as it is applied.
fn progress(held: Held) -> Up {
    let of_revision = RevisionProgress {
        revision: held.revision,
        applied_unix_ms: held.unix_ms,
        acknowledged_unix_ms: held.unix_ms,
        ..RevisionProgress::default()
    };
    Up::Progress(Progress { revisions: vec![of_revision] })
}

/// The answer goes out once the replica's disk has what the message brought.
fn replicate(
    zone: &Arc<Replica>,
    request: RaftRequest,
    outbox: &mpsc::Sender<FromZone>,
    broken: &mpsc::Sender<anyhow::Error>,
) {
    let (zone, outbox, broken) = (zone.clone(), outbox.clone(), broken.clone());
    tokio::spawn(async move {
        let taken = match request.call() {
            RaftCall::Append => zone.learner.append(&request.body).await,
            RaftCall::Snapshot => {
                zone.traffic.snapshot();
                zone.learner.snapshot(&request.body).await
            }
            RaftCall::Unspecified => Err(shared_raft::Error::Malformed("an unknown call of raft".to_owned())),
        };
        let (body, error) = match taken {
            Ok(body) => (Bytes::from(body), String::new()),
            Err(error) => (Bytes::new(), error.to_string()),
        };
        let why = (!error.is_empty()).then(|| anyhow::anyhow!("the replica refuses: {error}"));
        // The link has ended when nobody takes it.
        let _ = send(&outbox, Up::Raft(RaftReply { id: request.id, body, error })).await;
        if let Some(why) = why {
            let _ = broken.send(why).await;
        }
    });
}

async fn send(outbox: &mpsc::Sender<FromZone>, kind: Up) -> Result<()> {
    outbox.send(FromZone { kind: Some(kind) }).await.context("the link was closed")
}
