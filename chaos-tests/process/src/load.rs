//! Traffic in the background while something is broken and repaired.
use crate::{http::Connection, tally::Tally};
use std::{net::SocketAddr, time::Duration};
use tokio::{sync::watch, task::JoinHandle};

/// The time between two requests: a steady trickle that leaves the processors to those that are tested.
const PACE: Duration = Duration::from_millis(5);

/// Requests one after the other until it is stopped.
pub struct Load {
    stop: watch::Sender<bool>,
    task: JoinHandle<Tally>,
}

impl Load {
    pub fn start(address: SocketAddr) -> Load {
        let (stop, stopped) = watch::channel(false);
        Load { stop, task: tokio::spawn(run(address, stopped)) }
    }

    /// Stops it; what came back in all that time.
    pub async fn stop(self) -> Tally {
        self.stop.send_replace(true);
        self.task.await.unwrap_or_default()
    }
}

async fn run(address: SocketAddr, stopped: watch::Receiver<bool>) -> Tally {
    let mut tally = Tally::default();
    let mut kept: Option<Connection> = None;
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !*stopped.borrow() {
        pace.tick().await;
        if kept.as_ref().is_none_or(Connection::is_closed) {
            kept = Connection::open(address).await.ok();
        }
        let answer = match &mut kept {
            Some(connection) => connection.get("/").await.ok(),
            None => None,
        };
        match answer {
            Some(answer) => tally.count(answer.status, &answer.body),
            None => {
                tally.count(0, b"");
                kept = None;
            }
        }
    }
    tally
}
