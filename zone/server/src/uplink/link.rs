//! One link, from dialling to its end.
use super::submissions::Submissions;
use super::{Open, Uplink};
use crate::inspect;
use crate::inventory::Told;
use crate::tracker::Report;
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use proto::link::from_zone::Kind as Up;
use proto::link::to_zone::Kind as Down;
use proto::link::zone_link_client::ZoneLinkClient;
use proto::link::{
    Beat, Call, CallReply, FromZone, Hello, MESSAGE_MAX, Progress, RaftCall, RaftReply, RaftRequest, Refusal,
    RevisionProgress, ToZone, Welcome,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use zone_index::ProxyId;

/// To connect, to shake hands and to be welcomed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Both sides beat each second.
const BEAT: Duration = Duration::from_secs(1);
/// A link on which nothing was heard for so many beats is dead, whatever TCP says.
const SILENCE: Duration = Duration::from_secs(5);
/// Progress is gathered for so long: a thousand proxies acknowledge within some milliseconds, and each is no message.
const PROGRESS: Duration = Duration::from_millis(5);
/// Inventory is for people, and may be a little older.
const INVENTORY: Duration = Duration::from_millis(500);
const SUBMISSIONS: Duration = Duration::from_millis(50);
/// Messages that may wait for the wire.
const OUTBOX: usize = 64;
/// Reports in one message: with all their refusals they stay below its limit.
const REPORTS: usize = 50;
/// Refusals that are told of one revision: what many proxies refuse is understood from a few.
const REFUSALS: usize = 100;

/// Dials an address and serves the link until it ends. `Ok`: the other side closed it.
pub async fn run(uplink: &Uplink, url: &str) -> Result<()> {
    let (outbox, messages) = mpsc::channel(OUTBOX);
    let mut inbound = dial(uplink, url, &outbox, messages).await?;
    let first = timeout(PATIENCE, inbound.message()).await.context("global did not welcome us in time")??;
    let Some(ToZone { kind: Some(Down::Welcome(welcome)) }) = first else {
        bail!("global did not begin with a welcome");
    };
    follow(uplink, &welcome)?;
    let up = uplink.is_up(url, &welcome);
    let (told, submissions) = (Told::default(), Submissions::default());
    let link = Link { uplink, up, outbox, told, submissions, reported: 0 };
    link.serve(inbound).await
}

async fn dial(
    uplink: &Uplink,
    url: &str,
    outbox: &mpsc::Sender<FromZone>,
    messages: mpsc::Receiver<FromZone>,
) -> Result<tonic::Streaming<ToZone>> {
    let target = &uplink.target;
    // Read each time: both may be replaced while the zone runs.
    let (ca, token) = target.read()?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .tls_config(tls)?
        .connect_timeout(PATIENCE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE)
        .keep_alive_while_idle(true);
    let channel = timeout(PATIENCE, endpoint.connect()).await.context("global does not answer")?;
    let channel = channel.map_err(|error| anyhow::anyhow!("cannot reach global: {}", causes(&error)))?;
    let mut client = ZoneLinkClient::new(channel)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let identity = uplink.learner.identity();
    let hello = Hello {
        zone: target.zone.clone(),
        instance: target.instance.clone(),
        node_id: identity.node_id,
        version: shared_node::VERSION.to_owned(),
        cluster_id: identity.cluster_id,
        revision: uplink.feeds.world.borrow().followed.0,
    };
    outbox.send(FromZone { kind: Some(Up::Hello(hello)) }).await?;
    let mut request = tonic::Request::new(ReceiverStream::new(messages));
    let bearer = format!("Bearer {token}").parse().context("the zone token is not text of one line")?;
    request.metadata_mut().insert("authorization", bearer);
    let opened = timeout(PATIENCE, client.follow(request)).await.context("global does not answer")?;
    let stream = opened.map_err(|status| anyhow::anyhow!("global refused the link: {}", status.message()))?;
    Ok(stream.into_inner())
}

/// A zone follows one cluster for ever: what another one says is not a newer state of the same.
fn follow(uplink: &Uplink, welcome: &Welcome) -> Result<()> {
    ensure!(!welcome.cluster_id.is_empty(), "global does not tell which cluster it is");
    uplink.learner.set_cluster_id(&welcome.cluster_id)?;
    Ok(())
}

struct Link<'a> {
    uplink: &'a Uplink,
    up: Open<'a>,
    outbox: mpsc::Sender<FromZone>,
    told: Told,
    submissions: Submissions,
    /// Up to where progress was told.
    reported: u64,
}

impl Link<'_> {
    async fn serve(mut self, mut inbound: tonic::Streaming<ToZone>) -> Result<()> {
        let feeds = &self.uplink.feeds;
        let mut ticks = feeds.progress.ticks();
        let mut insights = feeds.insights.changes();
        let mut world = feeds.world.clone();
        let mut catalogs = feeds.catalogs.clone();
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let (mut next_progress, mut next_inventory, mut next_submissions) = (heard, heard, heard);
        let (broken_tx, mut broken) = mpsc::channel(1);
        self.report().await?;
        self.inventory().await?;
        self.submit().await?;
        loop {
            tokio::select! {
                message = inbound.message() => {
                    let message = message.map_err(|status| anyhow::anyhow!("the link broke: {}", status.message()))?;
                    let Some(message) = message else { return Ok(()) };
                    heard = Instant::now();
                    self.take(message, &broken_tx).await?;
                }
                Some(error) = broken.recv() => return Err(error),
                () = sleep_until(heard + SILENCE) => bail!("nothing was heard from global for {} s", SILENCE.as_secs()),
                _ = beats.tick() => {
                    // Reports travel ahead of the beat that says they are complete.
                    let revision = world.borrow().followed.0;
                    self.report().await?;
                    self.send(Up::Beat(Beat { revision })).await?;
                    self.submit().await?;
                }
                changed = throttled(next_progress, ticks.changed()) => {
                    changed?;
                    self.report().await?;
                    next_progress = Instant::now() + PROGRESS;
                }
                changed = throttled(next_inventory, async { tokio::select! { c = insights.changed() => c, c = world.changed() => c } }) => {
                    changed?;
                    self.inventory().await?;
                    next_inventory = Instant::now() + INVENTORY;
                }
                open = throttled(next_submissions, catalogs.changed()) => {
                    ensure!(open, "the zone's state is closed");
                    self.submit().await?;
                    next_submissions = Instant::now() + SUBMISSIONS;
                }
            }
        }
    }

    async fn take(&mut self, message: ToZone, broken: &mpsc::Sender<anyhow::Error>) -> Result<()> {
        match message.kind {
            Some(Down::Raft(request)) => self.replicate(request, broken.clone()),
            Some(Down::Submitted(answer)) => {
                self.submissions.answered(&answer, &self.uplink.feeds.catalogs.owned(), Instant::now());
                self.submit().await?;
            }
            Some(Down::Call(call)) => self.ask(call),
            // That it came is what counts.
            Some(Down::Beat(_)) => {}
            Some(Down::Members(members)) => self.uplink.members(members)?,
            Some(Down::Welcome(_)) => bail!("global welcomed us twice"),
            // A newer global may say what this version does not know.
            None => {}
        }
        Ok(())
    }

    /// Hands a message of the leader to the learner, and its answer back.
    fn replicate(&self, request: RaftRequest, broken: mpsc::Sender<anyhow::Error>) {
        let (learner, outbox) = (self.uplink.learner.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let answer = match request.call() {
                RaftCall::Append => learner.append(&request.body).await,
                RaftCall::Snapshot => learner.snapshot(&request.body).await,
                RaftCall::Unspecified => {
                    Err(shared_raft::Error::Malformed("an unknown call of raft".to_owned()))
                }
            };
            let (body, error) = match answer {
                Ok(body) => (Bytes::from(body), String::new()),
                Err(error) => (Bytes::new(), error.to_string()),
            };
            // To follow would take back what proxies already have: an operator has to decide.
            let diverged = (!error.is_empty()).then(|| anyhow::anyhow!("cannot follow global: {error}"));
            let reply = RaftReply { id: request.id, body, error };
            // The link has ended when nobody takes it.
            let _ = outbox.send(FromZone { kind: Some(Up::Raft(reply)) }).await;
            if let Some(error) = diverged {
                let _ = broken.send(error).await;
            }
        });
    }

    fn ask(&self, call: Call) {
        let (catalogs, outbox) = (self.uplink.feeds.catalogs.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let asked =
                inspect::ask(&catalogs, &ProxyId::new(call.mesh, call.name), &call.what, &call.query).await;
            let (status, content_type, body) = match asked {
                Ok((_, body)) if body.len() > MESSAGE_MAX / 2 => {
                    let reason = format!("the answer has {} bytes: ask at the zone", body.len());
                    (413, "text/plain".to_owned(), Bytes::from(reason))
                }
                Ok((content_type, body)) => (200, content_type, body),
                Err(refused) => (
                    u32::from(refused.status().as_u16()),
                    "text/plain".to_owned(),
                    Bytes::from(refused.to_string()),
                ),
            };
            let reply = CallReply { id: call.id, status, content_type, body };
            let _ = outbox.send(FromZone { kind: Some(Up::Reply(reply)) }).await;
        });
    }

    async fn report(&mut self) -> Result<()> {
        let (seen, reports) = self.uplink.feeds.progress.followed_since(self.reported);
        self.reported = seen;
        for some in reports.chunks(REPORTS) {
            let revisions = some.iter().map(progress).collect();
            self.send(Up::Progress(Progress { revisions })).await?;
        }
        Ok(())
    }

    async fn inventory(&mut self) -> Result<()> {
        let feeds = &self.uplink.feeds;
        let epoch = feeds.world.borrow().epoch.clone();
        for message in self.told.catch_up(&epoch, &feeds.insights) {
            send(&self.outbox, Up::Inventory(message)).await?;
        }
        Ok(())
    }

    /// Every node of global would store the same: one is enough.
    async fn submit(&mut self) -> Result<()> {
        if !self.up.is_first() {
            return Ok(());
        }
        let feeds = &self.uplink.feeds;
        let (owned, followed) = (feeds.catalogs.owned(), feeds.catalogs.followed());
        for submit in self.submissions.due(&self.uplink.target.zone, &owned, &followed, Instant::now()) {
            feeds.metrics.submitted.inc();
            self.send(Up::Submit(submit)).await?;
        }
        Ok(())
    }

    async fn send(&self, kind: Up) -> Result<()> {
        send(&self.outbox, kind).await
    }
}

async fn send(outbox: &mpsc::Sender<FromZone>, kind: Up) -> Result<()> {
    // A full outbox is a peer that does not read: it must not stop the beats of the loop for ever.
    let sent = timeout(SILENCE, outbox.send(FromZone { kind: Some(kind) })).await;
    sent.context("global does not read from the link")?.context("the link was closed")
}

/// Waits until `from`, then for `event`.
async fn throttled<T>(from: Instant, event: impl Future<Output = T>) -> T {
    sleep_until(from).await;
    event.await
}

fn progress(report: &Report) -> RevisionProgress {
    let refusal = |(id, reason): &(ProxyId, Arc<str>)| Refusal {
        mesh: id.mesh.clone(),
        proxy: id.name.clone(),
        reason: reason.to_string(),
    };
    RevisionProgress {
        revision: report.revision.0,
        applied_unix_ms: report.applied.timestamp_millis(),
        touched: report.touched,
        acknowledged: report.acknowledged,
        pending: report.pending,
        refused: report.refused.iter().take(REFUSALS).map(refusal).collect(),
        acknowledged_unix_ms: report.settled.map_or(0, |settled| settled.timestamp_millis()),
    }
}

/// An error with its causes, which tonic keeps apart.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
