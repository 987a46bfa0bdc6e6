//! What is said on one link, decided without a clock, a socket or a lock.
//!
//! ```text
//! Event: Message, Raft, Tick, Call, Stop  -->  ZoneSession  -->  Effect: Send, Answered, Heard, Progress, Inventory,
//!                                                                        Submit, Reply, Close
//! ```
//!
//! A link is alive by what it carries: a zone of which two beats did not come is gone, whatever TCP says.
use proto::link::{
    Beat, Call, CallReply, FromZone, Inventory, RaftReply, RaftRequest, RevisionProgress, Submit, Submitted,
    from_zone, submit::Change, to_zone,
};
use shared_model::Revision;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Both sides send a beat this often.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How often a link looks at itself.
pub const TICK_EVERY: Duration = Duration::from_millis(500);
/// A link without a beat for so long is closed: two have not come, with some time for their way.
pub const SILENCE_MAX: Duration = Duration::from_millis(2_500);
/// Questions that may be open on one link.
const CALLS_MAX: usize = 64;
/// Messages that a zone may send between two of our beats. One that says everything anew sends some hundreds; all zones
/// are heard by one thread.
const MESSAGES_MAX: u32 = 20_000;
/// The largest resource that a zone may submit, in bytes. A MeshTrust with many authorities has some thousands.
const SUBMISSION_MAX: usize = 256 << 10;
/// How long a zone may take to answer a question.
const CALL_MAX: Duration = Duration::from_secs(10);

/// A question of an operator, with the ticket under which the answer is expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub ticket: u64,
    pub mesh: String,
    pub name: String,
    pub what: String,
    pub query: String,
}

/// Everything that can wake a link.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Message(FromZone),
    Raft(RaftRequest),
    /// Once each [`TICK_EVERY`], with the revision of this side and whether the zone may still be here.
    Tick {
        revision: Revision,
        standing: Result<(), String>,
    },
    Call(Question),
    /// Somebody else ends the link.
    Stop(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Send(to_zone::Kind),
    Answered(RaftReply),
    /// The zone holds this revision.
    Heard(Revision),
    Progress(Vec<RevisionProgress>),
    Inventory(Inventory),
    Submit(Submit),
    Reply {
        ticket: u64,
        reply: CallReply,
    },
    Close(String),
}

/// One link, from its welcome to its end.
#[derive(Debug)]
pub struct ZoneSession {
    last_beat: Instant,
    /// When this side has sent its last one.
    beaten: Option<Instant>,
    /// Since then.
    messages: u32,
    calls: BTreeMap<u64, Instant>,
}

impl ZoneSession {
    pub fn new(now: Instant) -> Self {
        ZoneSession { last_beat: now, beaten: None, messages: 0, calls: BTreeMap::new() }
    }

    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::Message(message) => self.message(message, now),
            Event::Raft(request) => vec![Effect::Send(to_zone::Kind::Raft(request))],
            Event::Tick { revision, standing } => self.tick(revision, standing, now),
            Event::Call(question) => self.call(question, now),
            Event::Stop(reason) => vec![Effect::Close(reason)],
        }
    }

    fn message(&mut self, message: FromZone, now: Instant) -> Vec<Effect> {
        self.messages += 1;
        if self.messages > MESSAGES_MAX {
            let reason = format!("it sends more than {MESSAGES_MAX} messages between two beats");
            return vec![Effect::Close(reason)];
        }
        let effect = match message.kind {
            Some(from_zone::Kind::Hello(_)) => Effect::Close("a second hello came".to_owned()),
            Some(from_zone::Kind::Raft(reply)) => Effect::Answered(reply),
            Some(from_zone::Kind::Beat(beat)) => {
                self.last_beat = now;
                Effect::Heard(Revision(beat.revision))
            }
            Some(from_zone::Kind::Progress(progress)) => Effect::Progress(progress.revisions),
            Some(from_zone::Kind::Inventory(inventory)) => Effect::Inventory(inventory),
            Some(from_zone::Kind::Submit(Submit { id, change: Some(Change::Put(bytes)) }))
                if bytes.len() > SUBMISSION_MAX =>
            {
                let error = format!("the resource has {} bytes, {SUBMISSION_MAX} are allowed", bytes.len());
                Effect::Send(to_zone::Kind::Submitted(Submitted { id, revision: 0, error }))
            }
            Some(from_zone::Kind::Submit(submit)) => Effect::Submit(submit),
            Some(from_zone::Kind::Reply(reply)) => match self.calls.remove(&reply.id) {
                Some(_) => Effect::Reply { ticket: reply.id, reply },
                // Late, or never asked: nobody waits.
                None => return Vec::new(),
            },
            // A newer zone says something that this version does not know.
            None => return Vec::new(),
        };
        vec![effect]
    }

    fn tick(&mut self, revision: Revision, standing: Result<(), String>, now: Instant) -> Vec<Effect> {
        if let Err(reason) = standing {
            return vec![Effect::Close(reason)];
        }
        let silence = now.saturating_duration_since(self.last_beat);
        if silence >= SILENCE_MAX {
            return vec![Effect::Close(format!("no beat for {:.1} s", silence.as_secs_f64()))];
        }
        let mut effects = Vec::new();
        // A tick that comes a little early is no reason to wait for the next.
        if self
            .beaten
            .is_none_or(|beaten| now.saturating_duration_since(beaten) + TICK_EVERY / 2 >= BEAT_EVERY)
        {
            self.beaten = Some(now);
            self.messages = 0;
            effects.push(Effect::Send(to_zone::Kind::Beat(Beat { revision: revision.0 })));
        }
        let late = self.calls.extract_if(.., |_, asked| now.saturating_duration_since(*asked) >= CALL_MAX);
        effects.extend(late.map(|(ticket, _)| refused(ticket, 504, "the zone did not answer in time")));
        effects
    }

    fn call(&mut self, question: Question, now: Instant) -> Vec<Effect> {
        let Question { ticket, mesh, name, what, query } = question;
        if self.calls.len() >= CALLS_MAX {
            return vec![refused(ticket, 503, "too many questions are open to this zone")];
        }
        self.calls.insert(ticket, now);
        vec![Effect::Send(to_zone::Kind::Call(Call { id: ticket, mesh, name, what, query }))]
    }
}

fn refused(ticket: u64, status: u32, reason: &'static str) -> Effect {
    let body = reason.as_bytes().into();
    Effect::Reply { ticket, reply: CallReply { id: ticket, status, content_type: "text/plain".into(), body } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(session: &mut ZoneSession, now: Instant) -> Vec<Effect> {
        session.on(Event::Tick { revision: Revision(7), standing: Ok(()) }, now)
    }

    fn from_zone(kind: from_zone::Kind) -> Event {
        Event::Message(FromZone { kind: Some(kind) })
    }

    fn question(ticket: u64) -> Event {
        let text = String::new;
        Event::Call(Question { ticket, mesh: text(), name: text(), what: text(), query: text() })
    }

    #[test]
    fn a_link_lives_by_its_beats() {
        let start = Instant::now();
        let mut session = ZoneSession::new(start);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(tick(&mut session, at(2_400)), [Effect::Send(to_zone::Kind::Beat(Beat { revision: 7 }))]);
        assert_eq!(tick(&mut session, at(2_449)), [], "a beat each second");
        session.on(from_zone(from_zone::Kind::Beat(Beat { revision: 5 })), at(2_450));
        assert!(matches!(tick(&mut session, at(4_900))[..], [Effect::Send(_)]));
        // Other messages are no sign of life: a stuck zone may still have some in its pipe.
        session.on(from_zone(from_zone::Kind::Raft(RaftReply::default())), at(4_940));
        assert!(matches!(tick(&mut session, at(4_950))[..], [Effect::Close(_)]));
    }

    #[test]
    fn a_zone_that_may_not_be_here_any_more_loses_its_link() {
        let start = Instant::now();
        let mut session = ZoneSession::new(start);
        let event = Event::Tick { revision: Revision(7), standing: Err("it was deleted".into()) };
        let effects = session.on(event, start);
        assert_eq!(effects, [Effect::Close("it was deleted".into())]);
    }

    #[test]
    fn every_question_is_answered_once() {
        let start = Instant::now();
        let mut session = ZoneSession::new(start);
        let reply =
            |id| from_zone(from_zone::Kind::Reply(CallReply { id, status: 200, ..CallReply::default() }));
        assert!(matches!(session.on(question(1), start)[..], [Effect::Send(to_zone::Kind::Call(_))]));
        assert!(matches!(session.on(reply(1), start)[..], [Effect::Reply { ticket: 1, .. }]));
        assert_eq!(session.on(reply(1), start), []);
        session.on(question(2), start);
        session.last_beat = start + CALL_MAX;
        let effects = tick(&mut session, start + CALL_MAX);
        assert!(
            matches!(&effects[1], Effect::Reply { ticket: 2, reply } if reply.status == 504),
            "{effects:?}"
        );
        for ticket in 3..3 + CALLS_MAX as u64 {
            assert!(matches!(session.on(question(ticket), start)[..], [Effect::Send(_)]));
        }
        let effects = session.on(question(1_000), start);
        assert!(matches!(&effects[0], Effect::Reply { ticket: 1_000, reply } if reply.status == 503));
    }

    #[test]
    fn a_zone_that_floods_loses_its_link() {
        let start = Instant::now();
        let mut session = ZoneSession::new(start);
        let beat = || from_zone(from_zone::Kind::Beat(Beat { revision: 1 }));
        let mut now = start;
        for _ in 0..3 {
            for _ in 0..MESSAGES_MAX {
                assert!(matches!(session.on(beat(), now)[..], [Effect::Heard(_)]));
            }
            now += BEAT_EVERY;
            tick(&mut session, now);
        }
        for _ in 0..MESSAGES_MAX {
            session.on(beat(), now);
        }
        assert!(matches!(session.on(beat(), now)[..], [Effect::Close(_)]));
    }

    #[test]
    fn a_submission_that_is_too_large_is_answered_and_not_kept() {
        let start = Instant::now();
        let mut session = ZoneSession::new(start);
        let submit = |size: usize| {
            let change = Some(Change::Put(vec![b' '; size].into()));
            from_zone(from_zone::Kind::Submit(Submit { id: 7, change }))
        };
        assert!(matches!(session.on(submit(SUBMISSION_MAX), start)[..], [Effect::Submit(_)]));
        let effects = session.on(submit(SUBMISSION_MAX + 1), start);
        let [Effect::Send(to_zone::Kind::Submitted(answer))] = &effects[..] else { panic!("{effects:?}") };
        assert!(answer.id == 7 && answer.error.contains("bytes"), "{answer:?}");
    }

    #[test]
    fn what_is_unknown_is_passed_over_and_a_second_hello_is_not() {
        let start = Instant::now();
        let mut session = ZoneSession::new(start);
        assert_eq!(session.on(Event::Message(FromZone { kind: None }), start), []);
        let hello = from_zone(from_zone::Kind::Hello(proto::link::Hello::default()));
        assert!(matches!(session.on(hello, start)[..], [Effect::Close(_)]));
    }
}
