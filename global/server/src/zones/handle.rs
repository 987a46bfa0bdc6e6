//! The address of a connected zone's actor.
use super::{actor::ZoneActor, session::Question};
use actix::Addr;
use proto::link::CallReply;
use tokio::sync::oneshot;

/// Asks a zone and waits for its answer elsewhere.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub(super) struct Ask {
    pub question: Question,
    pub answer: oneshot::Sender<CallReply>,
}

/// Ends a link.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub(super) struct Stop(pub String);

/// Clones speak to the same actor.
#[derive(Clone)]
pub struct ZoneHandle(pub(super) Addr<ZoneActor>);

impl ZoneHandle {
    /// Asks the zone about one of its proxies. An error says why there is no answer.
    pub async fn call(&self, question: Question) -> Result<CallReply, String> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(Ask { question, answer }).map_err(|_| "the zone is busy or gone".to_owned())?;
        answered.await.map_err(|_| "the link ended before the answer".to_owned())
    }

    /// Ends the link; the zone is told the reason.
    pub fn stop(&self, reason: &str) {
        // Not bounded by the mailbox: there is at most one end for each link. A link that is gone needs none.
        self.0.do_send(Stop(reason.to_owned()));
    }
}
