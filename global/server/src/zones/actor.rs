//! The loop of one link: hands every event to the session and does what it says.
//!
//! A panic in here ends this link alone. What it held is released by drop, so the zone shows as offline, dials again, and
//! gets a new actor: that is the supervision, with the zone's own pause between attempts.
use super::{
    diverged::Diverged,
    handle::{Ask, Stop},
    session::{Effect, Event, TICK_EVERY, ZoneSession},
    state::Connection,
    submission::{self, Admitted},
};
use crate::metrics::Metrics;
use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, StreamHandler,
    WrapFuture as _,
};
use futures::{StreamExt as _, future::join_all};
use global_consensus::{Attached, Consensus};
use proto::link::{CallReply, FromZone, Member, Members, RaftRequest, Submit, Submitted, ToZone, to_zone};
use shared_catalog::{Command, Expected};
use shared_model::{ResourceKey, Revision};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};
use tokio::sync::{mpsc, mpsc::error::TrySendError, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{Instrument as _, field::Empty};

/// What travels to a zone and has not left yet. A zone that does not read loses its link.
pub const OUTBOX: usize = 256;
/// Submissions of a zone that wait to be stored. A zone waits for the answers to some tens of them.
const SUBMISSIONS: usize = 1_024;
/// Submissions that are put to the catalog together.
const TOGETHER: usize = 64;

pub type Outbox = mpsc::Sender<Result<ToZone, Status>>;
/// Says why a zone that has a link may have none any more.
pub type Standing = Box<dyn FnMut() -> Result<(), String> + Send>;

/// What an actor needs of its house.
#[derive(Clone)]
pub struct House {
    pub consensus: Consensus,
    pub metrics: Metrics,
    pub diverged: Diverged,
}

/// What is handed over when a link opens.
pub struct Opened {
    pub connection: Connection,
    pub inbound: Streaming<FromZone>,
    pub outbox: Outbox,
    pub raft: mpsc::Receiver<RaftRequest>,
    pub attached: Attached,
    pub standing: Standing,
}

/// What a link holds. Dropped in this order: whoever sees that the link is gone finds its replica free.
struct Held {
    attached: Attached,
    connection: Connection,
}

pub struct ZoneActor {
    house: House,
    session: ZoneSession,
    held: Arc<Held>,
    outbox: Outbox,
    standing: Standing,
    asked: BTreeMap<u64, oneshot::Sender<CallReply>>,
    submissions: mpsc::Sender<Submit>,
}

impl ZoneActor {
    /// Builds the actor inside its arbiter and connects it to its streams.
    pub fn create(house: House, opened: Opened, ctx: &mut Context<Self>) -> ZoneActor {
        let Opened { connection, inbound, outbox, raft, attached, standing } = opened;
        let (submissions, waiting) = mpsc::channel(SUBMISSIONS);
        ctx.add_stream(inbound.map(FromStream));
        ctx.add_stream(ReceiverStream::new(raft));
        let actor = ZoneActor {
            session: ZoneSession::new(Instant::now()),
            held: Arc::new(Held { attached, connection }),
            asked: BTreeMap::new(),
            house,
            outbox,
            standing,
            submissions,
        };
        let (house, zone, outbox) =
            (actor.house.clone(), actor.held.connection.zone().to_owned(), actor.outbox.clone());
        ctx.spawn(tell_members(house.consensus.clone(), outbox.clone()).into_actor(&actor));
        ctx.spawn(store(house, zone, waiting, outbox).into_actor(&actor));
        actor
    }

    fn on(&mut self, event: Event, ctx: &mut Context<Self>) {
        for effect in self.session.on(event, Instant::now()) {
            self.perform(effect, ctx);
        }
    }

    fn perform(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Send(kind) => match self.outbox.try_send(Ok(ToZone { kind: Some(kind) })) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => self.close("it does not read what it is sent", ctx),
                Err(TrySendError::Closed(_)) => self.close("the stream ended", ctx),
            },
            Effect::Answered(reply) => self.held.attached.answered(reply),
            Effect::Heard(revision) => self.held.connection.beat(revision),
            Effect::Progress(reports) => {
                let newest = self.house.consensus.catalog().borrow().revision();
                self.held.connection.progress(reports, newest);
            }
            Effect::Inventory(message) => {
                // Thousands of documents: read elsewhere, while this link waits and the others on this thread do not.
                let feed = self.held.connection.feed().clone();
                let taken = tokio::task::spawn_blocking(move || feed.take(message)).into_actor(self);
                ctx.wait(taken.map(|taken, actor, ctx| {
                    let taken = taken.map_err(|panic| format!("its inventory cannot be read: {panic}"));
                    if let Err(reason) = taken.and_then(|taken| taken) {
                        actor.close(&reason, ctx);
                    }
                }));
            }
            Effect::Submit(submit) => {
                if self.submissions.try_send(submit).is_err() {
                    self.close("it submits faster than can be stored", ctx);
                }
            }
            Effect::Reply { ticket, reply } => {
                if let Some(answer) = self.asked.remove(&ticket) {
                    // Who no longer waits has gone away.
                    let _ = answer.send(reply);
                }
            }
            Effect::Close(reason) => self.close(&reason, ctx),
        }
    }

    fn close(&mut self, reason: &str, ctx: &mut Context<Self>) {
        tracing::warn!(
            zone = self.held.connection.zone(),
            link = self.held.connection.id(),
            reason,
            "a zone link is closed"
        );
        // A zone that does not read learns it from the end of the stream.
        let _ = self.outbox.try_send(Err(Status::unavailable(reason.to_owned())));
        ctx.stop();
    }
}

impl Actor for ZoneActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(TICK_EVERY, |actor, ctx| {
            let revision = actor.house.consensus.catalog().borrow().revision();
            let standing = (actor.standing)();
            actor.on(Event::Tick { revision, standing }, ctx);
        });
        let held = self.held.clone();
        let closed = async move { held.attached.closed().await };
        ctx.spawn(closed.into_actor(self).map(|reason, actor, ctx| actor.on(Event::Stop(reason), ctx)));
    }
}

/// What came from the zone; the type keeps it apart from the other stream.
struct FromStream(Result<FromZone, Status>);

impl StreamHandler<FromStream> for ZoneActor {
    fn handle(&mut self, FromStream(message): FromStream, ctx: &mut Context<Self>) {
        match message {
            Ok(message) => self.on(Event::Message(message), ctx),
            Err(status) => self.on(Event::Stop(format!("the stream broke: {}", status.message())), ctx),
        }
    }

    fn finished(&mut self, ctx: &mut Context<Self>) {
        self.on(Event::Stop("the zone hung up".to_owned()), ctx);
    }
}

impl StreamHandler<RaftRequest> for ZoneActor {
    fn handle(&mut self, request: RaftRequest, ctx: &mut Context<Self>) {
        self.on(Event::Raft(request), ctx);
    }

    fn finished(&mut self, ctx: &mut Context<Self>) {
        self.on(Event::Stop("consensus has let go of the zone".to_owned()), ctx);
    }
}

impl Handler<Ask> for ZoneActor {
    type Result = ();

    fn handle(&mut self, Ask { question, answer }: Ask, ctx: &mut Context<Self>) {
        self.asked.insert(question.ticket, answer);
        self.on(Event::Call(question), ctx);
    }
}

impl Handler<Stop> for ZoneActor {
    type Result = ();

    fn handle(&mut self, Stop(reason): Stop, ctx: &mut Context<Self>) {
        self.on(Event::Stop(reason), ctx);
    }
}

/// Tells a zone where the nodes of global are, now and whenever that changes. Ends with its actor.
async fn tell_members(consensus: Consensus, outbox: Outbox) {
    let mut known = BTreeMap::new();
    loop {
        let (index, members) = consensus.members_other_than(&known).await;
        let reachable = members.iter().filter(|(_, member)| !member.link.is_empty());
        let listed = reachable.map(|(id, member)| Member { node_id: *id, link: member.link.clone() });
        let kind = Some(to_zone::Kind::Members(Members { index, members: listed.collect() }));
        if outbox.send(Ok(ToZone { kind })).await.is_err() {
            return;
        }
        known = members;
    }
}

/// Stores what a zone submits: in its order where one resource is written twice, else many at once. Ends with its actor.
async fn store(house: House, zone: String, mut waiting: mpsc::Receiver<Submit>, outbox: Outbox) {
    let writer = format!("zone {zone}");
    let mut submits = Vec::with_capacity(TOGETHER);
    while waiting.recv_many(&mut submits, TOGETHER).await > 0 {
        let mut batch = Vec::new();
        let mut keys: BTreeSet<ResourceKey> = BTreeSet::new();
        for submit in submits.drain(..) {
            // A deletion looks for what an earlier submission may only be about to store, and one write of a resource
            // after the other: both wait for what is on its way.
            let deletes = matches!(submit.change, Some(proto::link::submit::Change::Delete(_)));
            if deletes && !batch.is_empty() {
                propose(&house, &zone, &outbox, std::mem::take(&mut batch)).await;
                keys.clear();
            }
            let catalog = house.consensus.catalog().borrow().clone();
            let admitted = submission::admit(&zone, &submit, &catalog);
            let now = shared_node::time::now();
            let (key, command) = match admitted {
                Ok(Admitted::Put(resource)) => {
                    (resource.key(), Command::put(&resource, Expected::Any, now).by(&writer))
                }
                Ok(Admitted::Delete(key)) => {
                    (key.clone(), Command::delete(key, Expected::Any, now).by(&writer))
                }
                Ok(Admitted::Nothing) => {
                    answer(&outbox, submit.id, Ok(catalog.revision())).await;
                    continue;
                }
                Err(reason) => {
                    tracing::warn!(zone, reason, "a submission of a zone is refused");
                    house.metrics.submitted(false);
                    answer(&outbox, submit.id, Err(reason)).await;
                    continue;
                }
            };
            if !keys.insert(key.clone()) {
                propose(&house, &zone, &outbox, std::mem::take(&mut batch)).await;
                keys = BTreeSet::from([key]);
            }
            batch.push((submit.id, command));
        }
        propose(&house, &zone, &outbox, batch).await;
    }
}

async fn propose(house: &House, zone: &str, outbox: &Outbox, batch: Vec<(u64, Command)>) {
    let proposals = batch.into_iter().map(|(id, command)| async move {
        let span = tracing::debug_span!("submission", zone, id, revision = Empty);
        let stored = match house.consensus.propose(command).instrument(span.clone()).await {
            Ok(shared_catalog::Outcome::Refused(refusal)) => Err(refusal.to_string()),
            Ok(outcome) => Ok(outcome.revision().unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        };
        house.metrics.submitted(stored.is_ok());
        match &stored {
            Ok(revision) => drop(span.record("revision", revision.0)),
            Err(reason) => tracing::warn!(zone, reason, "a submission of a zone is not stored"),
        }
        answer(outbox, id, stored).await;
    });
    join_all(proposals).await;
}

async fn answer(outbox: &Outbox, id: u64, stored: Result<Revision, String>) {
    let (revision, error) = match stored {
        Ok(revision) => (revision.0, String::new()),
        Err(reason) => (0, reason),
    };
    let kind = Some(to_zone::Kind::Submitted(Submitted { id, revision, error }));
    // A link that has ended needs no answer.
    let _ = outbox.send(Ok(ToZone { kind })).await;
}
