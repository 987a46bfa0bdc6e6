//! One actor per connected Envoy: a loop without judgement. What it knows comes from the epoch, what it sends is decided
//! by its [`Session`].
//!
//! ```text
//! Envoy's words --answer--> Session --effects--> outbox, progress, insights
//! Wake::Latest  --view, certificate, manifest--> offer --^
//!               --endpoints that moved---------> offer --^
//! ```
//!
//! A proxy that should have a certificate is offered nothing until it is there, and until the trust in its authority
//! has been read: without these its listeners would be taken from it. One that has no view, since its Dataplane or its
//! mesh is gone, keeps what it has.
use super::admission::Credential;
use super::slot::{News, Slot};
use super::{Connected, Wake};
use crate::ads::{Outgoing, Requests};
use crate::certificates::{Certificate, Certificates, Holder};
use crate::insights::{Counts, Insights};
use crate::metrics::{self, ByType, Metrics};
use crate::progress::Progress;
use crate::verify::Oracle;
use crate::world::World;
use actix::prelude::*;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tonic::Status;
use zone_index::{IdentitySpec, ProxyId, ProxyView};
use zone_xds::{Effect, Encoded, Manifests, Session, Type};

/// Responses that may wait for a slow peer. A session has one of each type on its way; a peer that lets more than that
/// pile up does not read.
pub const OUTBOX: usize = 32;

/// An Envoy that has not answered a response by then never will: it gives up on warming after 15 s.
const ANSWER: Duration = Duration::from_secs(120);

/// How long a proxy that does not acknowledge keeps others from starting.
const TURN: Duration = Duration::from_secs(1);

/// How long to wait with the next attempt when a certificate could not be issued.
const RETRY: Duration = Duration::from_secs(1);

/// What a stream is made of.
pub struct Parts {
    pub id: ProxyId,
    /// Names the stream in the insights.
    pub stream: String,
    pub metadata: Value,
    pub first: DeltaDiscoveryRequest,
    pub requests: Requests,
    pub outbox: mpsc::Sender<Outgoing>,
    pub credential: Credential,
    /// Its turn to be given all that it needs; others wait for theirs.
    pub turn: Option<OwnedSemaphorePermit>,
    pub shared: Arc<Shared>,
}

/// What all actors share.
pub struct Shared {
    pub world: watch::Receiver<World>,
    pub certificates: Arc<Certificates>,
    pub insights: Arc<Insights>,
    pub progress: Arc<Progress>,
    pub manifests: Arc<Manifests>,
    pub oracle: Oracle,
    pub metrics: Metrics,
}

pub struct ProxyActor {
    id: ProxyId,
    stream: String,
    /// Until the actor has started.
    start: Option<(DeltaDiscoveryRequest, Requests, Value)>,
    outbox: mpsc::Sender<Outgoing>,
    credential: Credential,
    /// Until the first wake.
    is_new: bool,
    shared: Arc<Shared>,
    session: Session,
    certificate: Option<(IdentitySpec, Arc<Certificate>)>,
    /// A certificate is on its way.
    waiting: bool,
    counted: [Counts; 5],
    /// The epoch that was offered last as a whole.
    offered: u64,
    /// A newer epoch could not be offered yet; it will be.
    behind: bool,
    /// Until all that the proxy needs has reached it.
    turn: Option<OwnedSemaphorePermit>,
    /// What could not be built.
    problems: Vec<String>,
    /// The resources that Envoy refused, and why, as long as they are held back.
    refusals: BTreeMap<(Type, String), String>,
    /// The response of each type that waits for its answer: its number, and since when.
    unanswered: [Option<(u64, Instant)>; 5],
    /// The unanswered will be looked at.
    watched: bool,
    holder: Holder,
    slot: Arc<Slot>,
    _connected: Connected,
}

impl ProxyActor {
    pub(super) fn new(parts: Parts, connected: Connected, slot: Arc<Slot>) -> ProxyActor {
        let Parts { id, stream, metadata, first, requests, outbox, credential, turn, shared } = parts;
        let holder = Holder { proxy: id.clone(), stream: stream.clone() };
        ProxyActor {
            id,
            stream,
            start: Some((first, requests, metadata)),
            outbox,
            credential,
            is_new: true,
            shared,
            session: Session::new(),
            certificate: None,
            waiting: false,
            counted: [Counts::default(); 5],
            offered: 0,
            behind: true,
            turn,
            problems: Vec::new(),
            refusals: BTreeMap::new(),
            unanswered: [None; 5],
            watched: false,
            holder,
            slot,
            _connected: connected,
        }
    }

    /// Looks at the newest epoch and offers what it says.
    fn refresh(&mut self, ctx: &mut Context<Self>) {
        // What is found there is part of the newest epoch.
        self.slot.take();
        self.behind = true;
        let epoch = self.shared.world.borrow().epoch.clone();
        let Some(view) = epoch.view_of(&self.id) else {
            tracing::debug!(mesh = self.id.mesh, proxy = self.id.name, "the proxy is not in the index");
            return self.keep(epoch.number(), ctx);
        };
        let certificate = match &view.identity {
            None => None,
            Some(spec) => match self.shared.certificates.cached(spec, &self.holder) {
                Some(certificate) => Some((spec.clone(), certificate)),
                None => return self.obtain(spec.clone(), ctx),
            },
        };
        self.show(certificate);
        let domain = view.identity.as_ref().map(|spec| &spec.authority.trust_domain);
        if domain.is_some_and(|domain| view.trust.get(domain).is_none_or(Vec::is_empty)) {
            // The index wakes the proxy when it has read the authority's MeshTrust.
            tracing::debug!(mesh = self.id.mesh, proxy = self.id.name, "the trust is not read yet");
            return;
        }
        self.offer(&view, epoch.number(), ctx);
    }

    /// Nothing new is said to the proxy: it is done with `generation` once it has what it was given before.
    fn keep(&mut self, generation: u64, ctx: &mut Context<Self>) {
        self.behind = false;
        match self.session.snapshot().cloned() {
            None => self.shared.progress.acknowledged(&self.id, generation, false),
            Some(snapshot) => {
                let effects = self.session.offer(snapshot, generation);
                self.perform(effects, ctx);
            }
        }
    }

    fn offer(&mut self, view: &ProxyView, generation: u64, ctx: &mut Context<Self>) {
        let started = Instant::now();
        let identity = self.certificate.as_ref().map(|(_, certificate)| &certificate.identity);
        let (snapshot, problems) = self.shared.manifests.assemble(view, identity);
        metrics::observe(&self.shared.metrics.assemble, started.elapsed());
        self.shared.oracle.snapshot(&snapshot, view, identity);
        (self.offered, self.behind) = (generation, false);
        let effects = self.session.offer(Arc::new(snapshot), generation);
        let held: BTreeSet<(Type, &str)> = self.session.held().map(|(kind, name, _)| (kind, name)).collect();
        self.refusals.retain(|(kind, name), _| held.contains(&(*kind, name.as_str())));
        self.problems = problems.iter().map(ToString::to_string).collect();
        self.state_problems();
        if effects.iter().any(|effect| matches!(effect, Effect::Send(_))) {
            self.shared.progress.pushed(&self.id, generation);
        }
        self.perform(effects, ctx);
    }

    /// Offers other endpoints, which are all that is new.
    fn move_endpoints(&mut self, assignments: &[Arc<Encoded>], generation: u64, ctx: &mut Context<Self>) {
        // What is older was offered with the whole, and what cannot be offered yet will be.
        if self.behind || generation <= self.offered {
            return;
        }
        let effects = self.session.offer_assignments(assignments, generation);
        if effects.iter().any(|effect| matches!(effect, Effect::Send(_))) {
            self.shared.progress.pushed(&self.id, generation);
        }
        if self.shared.oracle.is_on() {
            self.verify(generation);
        }
        self.perform(effects, ctx);
    }

    fn verify(&self, generation: u64) {
        let view = self.shared.world.borrow().epoch.view_of(&self.id);
        // When the world has moved on meanwhile, the next look compares.
        if let Some((view, snapshot)) =
            view.filter(|view| view.epoch == generation).zip(self.session.snapshot())
        {
            let identity = self.certificate.as_ref().map(|(_, certificate)| &certificate.identity);
            self.shared.oracle.snapshot(snapshot, &view, identity);
        }
    }

    /// Shows what is wrong: what could not be built, and what Envoy has refused.
    fn state_problems(&self) {
        let refused =
            self.refusals.iter().map(|((_, name), reason)| format!("envoy refused {name}: {reason}"));
        self.shared.insights.problems(&self.id, self.problems.iter().cloned().chain(refused).collect());
    }

    /// Notes which certificate the proxy has now.
    fn show(&mut self, certificate: Option<(IdentitySpec, Arc<Certificate>)>) {
        let serial = |held: &Option<(IdentitySpec, Arc<Certificate>)>| {
            held.as_ref().map(|(_, certificate)| certificate.identity.version.clone())
        };
        if serial(&certificate) != serial(&self.certificate)
            && let Some((spec, certificate)) = &certificate
        {
            let backend = &spec.authority.identity;
            self.shared.insights.certified(&self.id, backend, certificate.not_before, certificate.not_after);
        }
        self.certificate = certificate;
    }

    /// Asks for a certificate, and looks again when it is there.
    fn obtain(&mut self, spec: IdentitySpec, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.waiting, true) {
            return;
        }
        let certificates = self.shared.certificates.clone();
        let holder = self.holder.clone();
        let issue = async move { certificates.obtain(&spec, &holder).await };
        ctx.spawn(issue.into_actor(self).map(|issued, this, ctx| {
            this.waiting = false;
            match issued {
                Ok(_) => this.refresh(ctx),
                Err(error) => {
                    let (mesh, proxy) = (&this.id.mesh, &this.id.name);
                    tracing::error!(
                        mesh,
                        proxy,
                        error = format!("{error:#}"),
                        "no certificate for the proxy"
                    );
                    ctx.run_later(RETRY, |this, ctx| this.refresh(ctx));
                }
            }
        }));
    }

    fn perform(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::Send(response) => match self.outbox.try_send(Ok(Box::new(response))) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Closed(_)) => ctx.stop(),
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        tracing::warn!(
                            mesh = self.id.mesh,
                            proxy = self.id.name,
                            "the proxy does not read: closed"
                        );
                        ctx.stop();
                    }
                },
                Effect::Acknowledged { generation, pushed } => {
                    self.turn = None;
                    self.shared.progress.acknowledged(&self.id, generation, pushed);
                }
                Effect::Refused { generation, type_url, resource, reason } => {
                    self.refused(generation, type_url, resource, reason.trim());
                }
                Effect::Close(reason) => self.end(Status::resource_exhausted(reason), ctx),
            }
        }
        self.count();
        self.expect_answers(ctx);
    }

    fn refused(&mut self, generation: u64, type_url: &str, resource: Option<String>, reason: &str) {
        let kind = Type::of_url(type_url);
        tracing::warn!(
            mesh = self.id.mesh,
            proxy = self.id.name,
            generation,
            kind = kind.map(Type::name),
            resource,
            reason,
            "envoy refused a resource, which is held back"
        );
        let what = resource.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        self.shared.progress.refused(&self.id, generation, &format!("{what}{reason}"));
        if let Some((kind, name)) = kind.zip(resource) {
            self.refusals.insert((kind, name), reason.to_owned());
            self.state_problems();
        }
    }

    /// Notes which responses wait for their answer. Of a type there is one at a time.
    fn expect_answers(&mut self, ctx: &mut Context<Self>) {
        for (counts, waits) in self.counted.iter().zip(&mut self.unanswered) {
            let is_due = counts.sent > counts.acknowledged + counts.rejected;
            let known = waits.filter(|(sent, _)| *sent == counts.sent);
            *waits = is_due.then(|| known.unwrap_or_else(|| (counts.sent, Instant::now())));
        }
        if self.unanswered.iter().any(Option::is_some) && !std::mem::replace(&mut self.watched, true) {
            ctx.run_later(ANSWER, Self::check_answers);
        }
    }

    /// Lets a peer go that does not answer.
    fn check_answers(&mut self, ctx: &mut Context<Self>) {
        self.watched = false;
        if self.unanswered.iter().flatten().any(|(_, since)| since.elapsed() >= ANSWER) {
            let reason = format!("a response was not answered for {} s", ANSWER.as_secs());
            return self.end(Status::deadline_exceeded(reason), ctx);
        }
        self.expect_answers(ctx);
    }

    /// Carries the session's counters to metrics and insights.
    fn count(&mut self) {
        let mut moved = false;
        for (kind, before) in Type::ALL.into_iter().zip(&mut self.counted) {
            let counters = self.session.counters(kind);
            let now = Counts { sent: counters.sent, acknowledged: counters.acked, rejected: counters.nacked };
            if now == *before {
                continue;
            }
            let (metrics, by) = (&self.shared.metrics, ByType { r#type: kind.name() });
            metrics.responses_sent.get_or_create(&by).inc_by(now.sent - before.sent);
            metrics.responses_acknowledged.get_or_create(&by).inc_by(now.acknowledged - before.acknowledged);
            metrics.responses_refused.get_or_create(&by).inc_by(now.rejected - before.rejected);
            *before = now;
            moved = true;
        }
        if moved {
            let counts = Type::ALL.into_iter().map(Type::name).zip(self.counted);
            self.shared.insights.counted(&self.id, &self.stream, counts, shared_node::time::now());
        }
    }

    /// Tells the peer why, if it still listens, and ends the stream.
    fn end(&mut self, status: Status, ctx: &mut Context<Self>) {
        tracing::info!(mesh = self.id.mesh, proxy = self.id.name, reason = status.message(), "stream closed");
        let _ = self.outbox.try_send(Err(status));
        ctx.stop();
    }
}

impl Actor for ProxyActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some((first, requests, metadata)) = self.start.take() else { return };
        self.shared.insights.connected(&self.id, &self.stream, &metadata, shared_node::time::now());
        tracing::info!(mesh = self.id.mesh, proxy = self.id.name, "proxy connected");
        let effects = self.session.answer(&first);
        self.perform(effects, ctx);
        ctx.run_later(TURN, |this, _| this.turn = None);
        ctx.add_stream(requests);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.shared.insights.disconnected(&self.id, &self.stream, shared_node::time::now());
        tracing::info!(mesh = self.id.mesh, proxy = self.id.name, "proxy disconnected");
    }
}

/// Also when a panic ends it.
impl Drop for ProxyActor {
    fn drop(&mut self) {
        self.shared.certificates.leave(&self.holder);
    }
}

impl StreamHandler<Result<DeltaDiscoveryRequest, Status>> for ProxyActor {
    fn handle(&mut self, item: Result<DeltaDiscoveryRequest, Status>, ctx: &mut Self::Context) {
        let request = match item {
            Ok(request) => request,
            Err(status) => {
                tracing::debug!(mesh = self.id.mesh, proxy = self.id.name, %status, "the stream broke");
                // What could not be read is told to a peer that is still there.
                let _ = self.outbox.try_send(Err(status));
                return ctx.stop();
            }
        };
        // The node is told once; a stream that turns into another proxy was opened with a token for the first.
        let id = request.node.as_ref().map(|node| node.id.as_str()).filter(|id| !id.is_empty());
        if id.is_some_and(|id| id.split_once('.') != Some((&self.id.mesh, &self.id.name))) {
            return self.end(Status::invalid_argument("the node changed its id on an open stream"), ctx);
        }
        let effects = self.session.answer(&request);
        self.perform(effects, ctx);
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Wake> for ProxyActor {
    type Result = ();

    fn handle(&mut self, wake: Wake, ctx: &mut Self::Context) {
        match wake {
            // Who was not registered yet when a token was revoked was not told.
            Wake::Latest if std::mem::take(&mut self.is_new) && self.credential.is_stale() => {
                match self.credential.recheck() {
                    Ok(()) => self.refresh(ctx),
                    Err(reason) => self.end(Status::unauthenticated(reason), ctx),
                }
            }
            Wake::Latest => match self.slot.take() {
                News::Nothing => {}
                News::Whole => self.refresh(ctx),
                News::Moved { assignments, generation } => {
                    self.move_endpoints(&assignments, generation, ctx);
                }
            },
            Wake::Recheck => {
                if let Err(reason) = self.credential.recheck() {
                    self.end(Status::unauthenticated(reason), ctx);
                }
            }
            Wake::End(status) => self.end(status, ctx),
        }
    }
}
