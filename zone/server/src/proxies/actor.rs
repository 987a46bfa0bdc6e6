//! One actor per connected Envoy: a loop without judgement. What it knows comes from the epoch, what it sends is decided
//! by its [`Session`].
//!
//! ```text
//! Envoy's words --answer--> Session --effects--> outbox, progress, insights
//! Wake::Latest  --view, certificate, assemble--> offer --^
//! ```
//!
//! A proxy that should have a certificate is offered nothing until it is there: without it, what would be assembled
//! would be open to everybody.
use super::admission::Credential;
use super::{Connected, Wake};
use crate::certificates::{Certificate, Certificates};
use crate::insights::{Counts, Insights};
use crate::metrics::{self, ByType, Metrics};
use crate::progress::Progress;
use crate::world::World;
use actix::prelude::*;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use zone_index::{IdentitySpec, ProxyId, ProxyView};
use zone_xds::{Effect, Response, Session, Type};

/// Responses that may wait for a slow peer. A session has one of each type on its way; a peer that lets more than that
/// pile up does not read.
pub const OUTBOX: usize = 32;

/// How long to wait with the next attempt when a certificate could not be issued.
const RETRY: Duration = Duration::from_secs(1);

/// What a stream is made of.
pub struct Parts {
    pub id: ProxyId,
    /// Names the stream in the insights.
    pub stream: String,
    pub metadata: Value,
    pub first: DeltaDiscoveryRequest,
    pub requests: tonic::Streaming<DeltaDiscoveryRequest>,
    pub outbox: mpsc::Sender<Result<Response, Status>>,
    pub credential: Credential,
    pub shared: Arc<Shared>,
}

/// What all actors share.
pub struct Shared {
    pub world: watch::Receiver<World>,
    pub certificates: Arc<Certificates>,
    pub insights: Arc<Insights>,
    pub progress: Arc<Progress>,
    pub metrics: Metrics,
}

pub struct ProxyActor {
    id: ProxyId,
    stream: String,
    /// Until the actor has started.
    start: Option<(DeltaDiscoveryRequest, tonic::Streaming<DeltaDiscoveryRequest>, Value)>,
    outbox: mpsc::Sender<Result<Response, Status>>,
    credential: Credential,
    shared: Arc<Shared>,
    session: Session,
    certificate: Option<(IdentitySpec, Arc<Certificate>)>,
    /// A certificate is on its way.
    waiting: bool,
    counted: [Counts; 5],
    latest: Arc<AtomicBool>,
    _connected: Connected,
}

impl ProxyActor {
    pub(super) fn new(parts: Parts, connected: Connected, latest: Arc<AtomicBool>) -> ProxyActor {
        let Parts { id, stream, metadata, first, requests, outbox, credential, shared } = parts;
        ProxyActor {
            id,
            stream,
            start: Some((first, requests, metadata)),
            outbox,
            credential,
            shared,
            session: Session::new(),
            certificate: None,
            waiting: false,
            counted: [Counts::default(); 5],
            latest,
            _connected: connected,
        }
    }

    /// Looks at the newest epoch and offers what it says.
    fn refresh(&mut self, ctx: &mut Context<Self>) {
        self.latest.store(false, Ordering::Release);
        let epoch = self.shared.world.borrow().epoch.clone();
        let Some(view) = epoch.view_of(&self.id) else {
            tracing::debug!(mesh = self.id.mesh, proxy = self.id.name, "the proxy is not in the index");
            return;
        };
        let certificate = match &view.identity {
            None => None,
            Some(spec) => match self.shared.certificates.cached(spec, &self.id) {
                Some(certificate) => Some((spec.clone(), certificate)),
                None => return self.obtain(spec.clone(), ctx),
            },
        };
        self.show(certificate);
        self.offer(&view, epoch.number(), ctx);
    }

    fn offer(&mut self, view: &ProxyView, generation: u64, ctx: &mut Context<Self>) {
        let started = Instant::now();
        let identity = self.certificate.as_ref().map(|(_, certificate)| &certificate.identity);
        let (snapshot, problems) = zone_xds::assemble(view, identity);
        metrics::observe(&self.shared.metrics.assemble, started.elapsed());
        let problems = view.problems.iter().chain(&problems).map(ToString::to_string).collect();
        self.shared.insights.problems(&self.id, problems);
        let effects = self.session.offer(Arc::new(snapshot), generation);
        self.perform(effects, ctx);
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
        let id = self.id.clone();
        let issue = async move { certificates.obtain(&spec, &id).await };
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
                Effect::Send(response) => match self.outbox.try_send(Ok(response)) {
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
                    self.shared.progress.acknowledged(&self.id, generation, pushed);
                }
                Effect::Refused { generation, type_url, resource, reason } => {
                    tracing::warn!(
                        mesh = self.id.mesh,
                        proxy = self.id.name,
                        generation,
                        kind = Type::of_url(type_url).map(Type::name),
                        resource,
                        reason,
                        "envoy refused a resource, which is held back"
                    );
                    let what = resource.map(|name| format!("{name}: ")).unwrap_or_default();
                    self.shared.progress.refused(&self.id, generation, &format!("{what}{reason}"));
                }
                Effect::Close(reason) => self.end(Status::resource_exhausted(reason), ctx),
            }
        }
        self.count();
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
        self.shared.insights.connected(&self.id, &self.stream, metadata, shared_node::time::now());
        tracing::info!(mesh = self.id.mesh, proxy = self.id.name, "proxy connected");
        let effects = self.session.answer(&first);
        self.perform(effects, ctx);
        ctx.add_stream(requests);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.shared.insights.disconnected(&self.id, &self.stream, shared_node::time::now());
        self.shared.certificates.leave(&self.id);
        tracing::info!(mesh = self.id.mesh, proxy = self.id.name, "proxy disconnected");
    }
}

impl StreamHandler<Result<DeltaDiscoveryRequest, Status>> for ProxyActor {
    fn handle(&mut self, item: Result<DeltaDiscoveryRequest, Status>, ctx: &mut Self::Context) {
        let request = match item {
            Ok(request) => request,
            Err(status) => {
                tracing::debug!(mesh = self.id.mesh, proxy = self.id.name, %status, "the stream broke");
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
            Wake::Latest => self.refresh(ctx),
            Wake::Recheck => {
                if let Err(reason) = self.credential.recheck() {
                    self.end(Status::unauthenticated(reason), ctx);
                }
            }
            Wake::End(status) => self.end(status, ctx),
        }
    }
}
