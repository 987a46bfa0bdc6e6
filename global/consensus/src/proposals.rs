//! Commands on their way into the log: what waits goes as one entry, while the entries before it are on their way.
use crate::{Error, consensus::stopped};
use openraft::error::ClientWriteError;
use shared_catalog::{Command, Outcome};
use shared_raft::{Batch, LogStore, Raft};
use std::sync::Arc;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};

/// How much one entry gathers before it goes.
const BATCH_COMMANDS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// How many entries are on their way at once. Disks and wires are busy with a few; more would only make them smaller.
const ON_THEIR_WAY: usize = 4;

/// A command, and who waits for its outcome and the index of its entry.
pub(crate) struct Waiting {
    pub command: Command,
    pub done: oneshot::Sender<Result<(Outcome, u64), Error>>,
}

pub(crate) type Waiters = Vec<oneshot::Sender<Result<(Outcome, u64), Error>>>;

/// Proposes what waits as one entry, while more gathers behind it. Holds back while the leadership is handed over.
pub(crate) async fn gather(
    raft: Raft,
    log: LogStore,
    mut open: watch::Receiver<bool>,
    mut proposals: mpsc::Receiver<Waiting>,
) {
    let ways = Arc::new(Semaphore::new(ON_THEIR_WAY));
    let mut answers = JoinSet::new();
    loop {
        // First a way, then what to send on it: what comes while all are taken goes together.
        let Ok(way) = ways.clone().acquire_owned().await else { return };
        let Some((commands, waiters)) = gathered(&mut proposals).await else { return };
        if open.wait_for(|open| *open).await.is_err() {
            return;
        }
        let leads = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            metrics.current_leader == Some(metrics.id)
        };
        if !leads {
            refuse(waiters, &Error::NotLeader);
            continue;
        }
        let sent = match raft.client_write_ff(Batch(commands)).await {
            Ok(sent) => sent,
            Err(error) => {
                refuse(waiters, &why(&log, error));
                continue;
            }
        };
        while answers.try_join_next().is_some() {}
        let log = log.clone();
        answers.spawn(async move {
            let _way = way;
            match sent.await {
                Ok(Ok(response)) => {
                    for (waiter, outcome) in waiters.into_iter().zip(response.data) {
                        // Who no longer waits does not want to know.
                        let _ = waiter.send(Ok((outcome, response.log_id.index)));
                    }
                }
                // openraft says the same of an entry that it has just cut from its log: another node may have it.
                Ok(Err(ClientWriteError::ForwardToLeader(_))) => {
                    refuse(waiters, &Error::Unknown("the leadership was lost meanwhile".to_owned()));
                }
                Ok(Err(error)) => refuse(waiters, &stopped(error)),
                Err(_) => refuse(waiters, &why(&log, "it ended with writes on their way")),
            }
        });
    }
}

/// The commands that wait now, at least one.
pub(crate) async fn gathered(waiting: &mut mpsc::Receiver<Waiting>) -> Option<(Vec<Command>, Waiters)> {
    let first = waiting.recv().await?;
    let mut bytes = first.command.size();
    let (mut commands, mut waiters) = (vec![first.command], vec![first.done]);
    while commands.len() < BATCH_COMMANDS && bytes < BATCH_BYTES {
        let Ok(next) = waiting.try_recv() else { break };
        bytes += next.command.size();
        commands.push(next.command);
        waiters.push(next.done);
    }
    Some((commands, waiters))
}

pub(crate) fn refuse(waiters: Waiters, error: &Error) {
    for waiter in waiters {
        let _ = waiter.send(Err(error.clone()));
    }
}

/// The disk tells better than openraft why it has stopped. Whether the command was stored is unknown all the same.
fn why(log: &LogStore, error: impl std::fmt::Display) -> Error {
    Error::Stopped(log.why_failed().map_or_else(|| error.to_string(), |failed| failed.to_string()))
}
