//! One link, from dialling to its end.
use super::credentials::Credential;
use super::submissions::Submissions;
use super::{Ended, Open, Target, Uplink};
use crate::inspect;
use crate::inventory::Telling;
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
use shared_catalog::Catalog;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use zone_index::ProxyId;

/// To connect, to shake hands and to be welcomed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Both sides beat each second.
const BEAT: Duration = Duration::from_secs(1);
/// A link on which two beats did not come is dead, whatever TCP says.
const SILENCE: Duration = Duration::from_secs(3);
/// How long global may not read what it is sent.
const STUCK: Duration = Duration::from_secs(5);
/// Which part of its certificate's time a link lasts when there is a newer one: not all links end together.
const LASTS: (f64, f64) = (0.6, 0.9);
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

/// Dials an address and serves the link until it ends. `Ok`: nothing went wrong on this side.
pub async fn run(uplink: &Uplink, url: &str) -> Result<Ended> {
    let (outbox, messages) = mpsc::channel(OUTBOX);
    let credential = uplink.credential(url).await?;
    let mut inbound = dial(uplink, url, &credential, &outbox, messages).await?;
    let first = timeout(PATIENCE, inbound.message()).await.context("global did not welcome us in time")??;
    let Some(ToZone { kind: Some(Down::Welcome(welcome)) }) = first else {
        bail!("global did not begin with a welcome");
    };
    follow(uplink, &welcome)?;
    check_epoch(&uplink.feeds.catalogs.followed(), &welcome)?;
    let up = uplink.is_up(url, &welcome);
    let told = uplink.told.of(&welcome, &uplink.target.instance);
    let submissions = Submissions::default();
    let lasts = LASTS.0 + (LASTS.1 - LASTS.0) * rand::random::<f64>();
    let link = Link { uplink, up, outbox, told, submissions, reported: 0, credential, lasts };
    link.serve(inbound).await
}

pub type Client = ZoneLinkClient<Channel>;

/// Connects to an address, and shows a certificate if there is one.
pub async fn connect(target: &Target, url: &str, credential: Option<&Credential>) -> Result<Client> {
    // Read each time: it may be replaced while the zone runs.
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(target.ca()?));
    if let Some(Credential { chain_pem, key_pem, .. }) = credential {
        tls = tls.identity(Identity::from_pem(chain_pem, key_pem));
    }
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .tls_config(tls)?
        .connect_timeout(PATIENCE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE)
        .keep_alive_while_idle(true);
    let channel = timeout(PATIENCE, endpoint.connect()).await.context("global does not answer")?;
    let channel = channel.map_err(|error| anyhow::anyhow!("cannot reach global: {}", causes(&error)))?;
    Ok(ZoneLinkClient::new(channel)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX))
}

async fn dial(
    uplink: &Uplink,
    url: &str,
    credential: &Credential,
    outbox: &mpsc::Sender<FromZone>,
    messages: mpsc::Receiver<FromZone>,
) -> Result<tonic::Streaming<ToZone>> {
    let target = &uplink.target;
    let mut client = connect(target, url, Some(credential)).await?;
    let identity = uplink.learner.identity();
    let followed = uplink.feeds.catalogs.followed();
    let hello = Hello {
        epoch: followed.epoch().to_string(),
        seen: followed.revision().0,
        zone: target.zone.clone(),
        instance: target.instance.clone(),
        node_id: identity.node_id,
        version: shared_node::VERSION.to_owned(),
        cluster_id: identity.cluster_id,
        revision: uplink.feeds.world.borrow().followed.0,
        zone_id: uplink.feeds.zone_id.clone(),
    };
    outbox.send(FromZone { kind: Some(Up::Hello(hello)) }).await?;
    let request = ReceiverStream::new(messages);
    let opened = timeout(PATIENCE, client.follow(request)).await.context("global does not answer")?;
    let stream = opened.map_err(|status| {
        let reason = causes(&status);
        // By global, which knows why, or in the handshake, which tells only after it.
        if status.code() == Code::Unauthenticated || reason.contains("fatal alert") {
            uplink.credentials.refused(credential);
        }
        let reason = if status.source().is_some() { &reason } else { status.message() };
        anyhow::anyhow!("{reason}").context("global refused the link")
    })?;
    Ok(stream.into_inner())
}

/// A zone follows one cluster for ever: what another one says is not a newer state of the same.
fn follow(uplink: &Uplink, welcome: &Welcome) -> Result<()> {
    ensure!(!welcome.cluster_id.is_empty(), "global does not tell which cluster it is");
    uplink.learner.set_cluster_id(&welcome.cluster_id)?;
    Ok(())
}

/// Global asks the same before it answers. But a zone must not lose what its proxies have to one that does not ask.
fn check_epoch(followed: &Catalog, welcome: &Welcome) -> Result<()> {
    let (own, seen) = (followed.epoch(), followed.revision());
    let is_same = welcome.epoch.is_empty() || welcome.epoch == own.to_string();
    let is_part = welcome.shared_until.is_some_and(|until| seen.0 <= until);
    ensure!(
        is_same || is_part || welcome.accepted || seen.0 == 0,
        "this zone has seen revision {seen} of epoch {own}, which epoch {} of global does not hold: global was restored from an older state",
        welcome.epoch
    );
    if !is_same && seen.0 > 0 {
        tracing::warn!(epoch = welcome.epoch, former = %own, %seen, "global was restored: the zone follows it into its new epoch");
    }
    Ok(())
}

struct Link<'a> {
    uplink: &'a Uplink,
    up: Open<'a>,
    outbox: mpsc::Sender<FromZone>,
    told: Telling<'a>,
    submissions: Submissions,
    /// Up to where progress was told.
    reported: u64,
    /// What opened the link, and for which part of its time.
    credential: Credential,
    lasts: f64,
}

impl Link<'_> {
    async fn serve(mut self, mut inbound: tonic::Streaming<ToZone>) -> Result<Ended> {
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
                    let message = message
                        .map_err(|status| anyhow::anyhow!("{}", status.message()).context("the link broke"))?;
                    let Some(message) = message else { return Ok(Ended::Closed) };
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
                    if self.is_outdated() {
                        return Ok(Ended::Renewed);
                    }
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

    /// Global ends a link with the certificate that opened it: before that, it is opened anew.
    fn is_outdated(&self) -> bool {
        let past = self.credential.is_past(self.lasts, shared_node::time::now());
        past && self.uplink.credentials.current().is_some_and(|newer| newer != self.credential)
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
        for message in self.told.told.catch_up(&epoch, &feeds.insights) {
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
    let sent = timeout(STUCK, outbox.send(FromZone { kind: Some(kind) })).await;
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
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let told = cause.to_string();
        // Some repeat what they wrap.
        if !text.ends_with(&told) {
            text = format!("{text}: {told}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_catalog::{Command, Expected};
    use shared_model::{Resource, Timestamp};

    #[test]
    fn a_zone_does_not_follow_into_an_epoch_that_lacks_what_it_has_seen() {
        let mut followed = Catalog::new();
        for name in ["a", "b"] {
            let mesh = Resource::new("Mesh", "", name, serde_json::json!({}));
            followed.apply(&Command::put(&mesh, Expected::Any, Timestamp::UNIX_EPOCH));
        }
        let welcome = |epoch: &str, shared_until, accepted| Welcome {
            epoch: epoch.to_owned(),
            shared_until,
            accepted,
            ..Welcome::default()
        };
        let restored = "2-0000abcd";
        for good in [welcome("1", None, false), welcome("", None, false), welcome(restored, Some(2), false)] {
            check_epoch(&followed, &good).expect("it goes on");
        }
        check_epoch(&followed, &welcome(restored, Some(1), true)).expect("an operator has said so");
        check_epoch(&Catalog::new(), &welcome(restored, None, false)).expect("it has seen nothing");
        for bad in [welcome(restored, Some(1), false), welcome(restored, None, false)] {
            let refused = check_epoch(&followed, &bad).expect_err("refused").to_string();
            assert!(refused.contains("revision 2 of epoch 1") && refused.contains(restored), "{refused}");
        }
    }
}
