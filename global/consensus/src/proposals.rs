//! Commands on their way into the log: what waits goes as one entry.
use crate::{Error, consensus::stopped};
use openraft::error::{ClientWriteError, RaftError};
use shared_catalog::{Command, Outcome};
use shared_raft::{Batch, Raft};
use tokio::sync::{mpsc, oneshot, watch};

/// How much one entry gathers before it goes.
const BATCH_COMMANDS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// A command, and who waits for its outcome and the index of its entry.
pub(crate) struct Waiting {
    pub command: Command,
    pub done: oneshot::Sender<Result<(Outcome, u64), Error>>,
}

/// Proposes what waits as one entry, while more gathers behind it. Holds back while the leadership is handed over.
pub(crate) async fn gather(
    raft: Raft,
    mut open: watch::Receiver<bool>,
    mut proposals: mpsc::Receiver<Waiting>,
) {
    while let Some(first) = proposals.recv().await {
        if open.wait_for(|open| *open).await.is_err() {
            return;
        }
        let mut bytes = first.command.size();
        let mut commands = vec![first.command];
        let mut waiters = vec![first.done];
        while commands.len() < BATCH_COMMANDS && bytes < BATCH_BYTES {
            let Ok(next) = proposals.try_recv() else { break };
            bytes += next.command.size();
            commands.push(next.command);
            waiters.push(next.done);
        }
        let leads = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            metrics.current_leader == Some(metrics.id)
        };
        if !leads {
            for waiter in waiters {
                let _ = waiter.send(Err(Error::NotLeader));
            }
            continue;
        }
        match raft.client_write(Batch(commands)).await {
            Ok(response) => {
                for (waiter, outcome) in waiters.into_iter().zip(response.data) {
                    // Who no longer waits does not want to know.
                    let _ = waiter.send(Ok((outcome, response.log_id.index)));
                }
            }
            Err(error) => {
                let error = match error {
                    // openraft says the same of an entry that it has just cut from its log: another node may have it.
                    RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
                        Error::Unknown("the leadership was lost meanwhile".to_owned())
                    }
                    error => stopped(error),
                };
                for waiter in waiters {
                    let _ = waiter.send(Err(error.clone()));
                }
            }
        }
    }
}
