//! The streams to zones, as the leader sees them.
use crate::{Error, membership::Membership};
use proto::{
    link::{RaftCall, RaftReply, RaftRequest},
    peer::{ZoneReplica, change},
};
use shared_raft::{
    LEARNER_BIT,
    wire::{self, AppendEntriesResponse, InstallSnapshotResponse},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

type Vote = openraft::Vote<u64>;

/// Why the streams of a zone end that is no more.
pub(crate) const DELETED: &str = "the zone was deleted";

/// Where the link server registers the streams that zones have opened.
#[derive(Clone)]
pub struct Links {
    membership: Membership,
    registry: Arc<Registry>,
    /// One stream enters at a time.
    entering: Arc<tokio::sync::Mutex<()>>,
}

impl Links {
    pub(crate) fn new(membership: Membership, registry: Arc<Registry>) -> Links {
        Links { membership, registry, entering: Arc::default() }
    }

    /// Registers an open stream of a zone's replica. A replica that is not known becomes a learner, beside others of its
    /// zone. Refused: an id that is not a learner's, one of another zone, and one more than a zone may have. The same
    /// replica again replaces its stream before. A node that does not lead keeps the stream for the day when it does.
    pub async fn attach(
        &self,
        node_id: u64,
        zone: &str,
        outbox: mpsc::Sender<RaftRequest>,
    ) -> Result<Attached, Error> {
        if node_id & LEARNER_BIT == 0 {
            return Err(Error::NotALearner { node_id });
        }
        let _one_at_a_time = self.entering.lock().await;
        let members = self.membership.view().nodes;
        let known = members.get(&node_id);
        if let Some(member) = known.filter(|member| member.zone != zone) {
            return Err(Error::OtherZone { node_id, found: member.zone.clone(), wanted: zone.to_owned() });
        }
        let link = Arc::new(Link::new(zone, outbox));
        self.registry.insert(node_id, link.clone());
        let attached = Attached { node_id, link, registry: self.registry.clone() };
        if known.is_none() {
            let replica = ZoneReplica { node_id, zone: zone.to_owned() };
            self.membership.change(change::Kind::AddZone(replica)).await?;
        }
        // What was committed while it was away it learns now, not with the next heartbeat.
        self.membership.beat().await?;
        Ok(attached)
    }

    /// Drops all replicas of a zone that is no more, and closes its stream.
    pub async fn forget(&self, zone: &str) -> Result<(), Error> {
        self.registry.close_zone(zone, DELETED);
        self.membership.change(change::Kind::ForgetZone(zone.to_owned())).await
    }

    /// The replicas that follow, connected or not: id and zone.
    pub async fn followers(&self) -> Result<BTreeMap<u64, String>, Error> {
        let members = self.membership.view().nodes;
        Ok(members
            .into_iter()
            .filter(|(id, _)| id & LEARNER_BIT != 0)
            .map(|(id, member)| (id, member.zone))
            .collect())
    }
}

/// A registered stream; dropping it says that the stream is gone.
pub struct Attached {
    node_id: u64,
    link: Arc<Link>,
    registry: Arc<Registry>,
}

impl Attached {
    /// Takes a zone's reply. One that no honest learner gives closes the link instead of reaching Raft.
    pub fn answered(&self, reply: RaftReply) {
        self.link.answered(reply);
    }

    /// Returns the reason when the stream must be closed: a violation of the protocol, the same replica on a newer
    /// stream, or the end of its zone.
    pub async fn closed(&self) -> String {
        self.link.closed().await
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.link.close("the stream has ended");
        self.registry.remove(self.node_id, &self.link);
    }
}

/// The open streams by replica.
pub(crate) struct Registry {
    links: Mutex<BTreeMap<u64, Arc<Link>>>,
    /// Since when replicas have no stream to this node.
    away: Mutex<BTreeMap<u64, Instant>>,
    /// Counts the streams that were opened: those who wait for one look again.
    opened: watch::Sender<u64>,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry { links: Mutex::default(), away: Mutex::default(), opened: watch::channel(0).0 }
    }
}

impl Registry {
    pub fn get(&self, node_id: u64) -> Option<Arc<Link>> {
        self.links().get(&node_id).filter(|link| link.is_open()).cloned()
    }

    /// The stream of a replica; one that is away is given some time to come.
    pub async fn wait_for(&self, node_id: u64, patience: Duration) -> Option<Arc<Link>> {
        let mut opened = self.opened.subscribe();
        let come = async {
            loop {
                opened.borrow_and_update();
                if let Some(link) = self.get(node_id) {
                    return Some(link);
                }
                opened.changed().await.ok()?;
            }
        };
        tokio::time::timeout(patience, come).await.ok().flatten()
    }

    fn insert(&self, node_id: u64, link: Arc<Link>) {
        if let Some(before) = self.links().insert(node_id, link) {
            before.close("the zone has dialled again");
        }
        self.opened.send_modify(|opened| *opened += 1);
    }

    /// The open streams: replica and zone.
    pub fn open(&self) -> BTreeMap<u64, String> {
        let links = self.links();
        let open = links.iter().filter(|(_, link)| link.is_open());
        open.map(|(id, link)| (*id, link.zone.clone())).collect()
    }

    /// How long each of these replicas has been without a stream; of one that was never seen, since the first question.
    /// What is known of others is forgotten.
    pub fn away(&self, replicas: &BTreeSet<u64>) -> BTreeMap<u64, Duration> {
        let open = self.open();
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        away.retain(|id, _| replicas.contains(id) && !open.contains_key(id));
        for id in replicas.iter().filter(|id| !open.contains_key(id)) {
            away.entry(*id).or_insert(now);
        }
        away.iter().map(|(id, since)| (*id, now.duration_since(*since))).collect()
    }

    fn remove(&self, node_id: u64, link: &Arc<Link>) {
        let mut links = self.links();
        if links.get(&node_id).is_some_and(|current| Arc::ptr_eq(current, link)) {
            links.remove(&node_id);
            drop(links);
            self.away.lock().unwrap_or_else(PoisonError::into_inner).insert(node_id, Instant::now());
        }
    }

    pub fn close_zone(&self, zone: &str, reason: &str) {
        for link in self.links().values().filter(|link| link.zone == zone) {
            link.close(reason);
        }
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a learner said, after the check at the door.
pub(crate) enum Answer {
    Append(AppendEntriesResponse),
    Snapshot(InstallSnapshotResponse),
}

pub(crate) type AnswerReceiver = oneshot::Receiver<Result<Answer, String>>;

/// One stream.
pub(crate) struct Link {
    zone: String,
    outbox: mpsc::Sender<RaftRequest>,
    next_id: AtomicU64,
    asked: Mutex<BTreeMap<u64, Asked>>,
    closed: watch::Sender<Option<String>>,
}

/// A request without an answer yet. `can_conflict` is false for one that begins where every log begins.
struct Asked {
    call: RaftCall,
    vote: Vote,
    can_conflict: bool,
    done: oneshot::Sender<Result<Answer, String>>,
}

impl Link {
    fn new(zone: &str, outbox: mpsc::Sender<RaftRequest>) -> Link {
        Link {
            zone: zone.to_owned(),
            outbox,
            next_id: AtomicU64::new(1),
            asked: Mutex::default(),
            closed: watch::channel(None).0,
        }
    }

    /// Puts a request on the stream. Whoever drops the receiver asks no more.
    pub async fn ask(
        &self,
        call: RaftCall,
        vote: Vote,
        can_conflict: bool,
        body: Vec<u8>,
    ) -> Result<AnswerReceiver, String> {
        let room = self.outbox.reserve().await.map_err(|_| "the stream has ended".to_owned())?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        {
            let mut asked = self.asked();
            asked.retain(|_, asked| !asked.done.is_closed());
            asked.insert(id, Asked { call, vote, can_conflict, done });
        }
        // Closing empties the list first: a request that came after would wait for ever.
        if !self.is_open() {
            self.asked().remove(&id);
            return Err("the stream is closed".to_owned());
        }
        room.send(RaftRequest { id, call: call.into(), body: body.into() });
        Ok(answer)
    }

    pub fn is_open(&self) -> bool {
        self.closed.borrow().is_none()
    }

    fn answered(&self, reply: RaftReply) {
        // A reply to what nobody asks any more is late, no offence.
        let Some(asked) = self.asked().remove(&reply.id) else { return };
        let answer = if reply.error.is_empty() {
            match check(&asked, &reply.body) {
                Ok(answer) => Ok(answer),
                Err(violation) => {
                    tracing::warn!(zone = self.zone, violation, "the link is closed");
                    self.close(&violation);
                    Err(violation)
                }
            }
        } else {
            Err(reply.error)
        };
        // Who no longer waits has given up on the request.
        let _ = asked.done.send(answer);
    }

    fn close(&self, reason: &str) {
        self.closed.send_if_modified(|closed| {
            let first = closed.is_none();
            closed.get_or_insert_with(|| reason.to_owned());
            first
        });
        self.asked().clear();
    }

    async fn closed(&self) -> String {
        let mut closed = self.closed.subscribe();
        let reason = closed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| "the stream has ended".to_owned())
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<u64, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// openraft steps down when an answer carries a higher vote, and panics at some that make no sense.
fn check(asked: &Asked, body: &[u8]) -> Result<Answer, String> {
    match asked.call {
        RaftCall::Append => match wire::decode(body).map_err(|error| error.to_string())? {
            AppendEntriesResponse::HigherVote(vote) => {
                Err(format!("the zone claims a vote of {vote}, the leader's is {}", asked.vote))
            }
            AppendEntriesResponse::PartialSuccess(_) => {
                Err("the zone claims to have taken a part".to_owned())
            }
            AppendEntriesResponse::Conflict if !asked.can_conflict => {
                Err("the zone claims a conflict before the first entry".to_owned())
            }
            response => Ok(Answer::Append(response)),
        },
        RaftCall::Snapshot => {
            let response: InstallSnapshotResponse = wire::decode(body).map_err(|error| error.to_string())?;
            if response.vote > asked.vote {
                return Err(format!(
                    "the zone claims a vote of {}, the leader's is {}",
                    response.vote, asked.vote
                ));
            }
            Ok(Answer::Snapshot(response))
        }
        RaftCall::Unspecified => Err("the zone answers what was never asked".to_owned()),
    }
}
