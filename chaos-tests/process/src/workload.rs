//! Clients that write and read all the time, while faults happen.
use crate::{
    client::{Client, Doors, Wish},
    history::{Expected, ReadKind, Recorder},
};
use std::time::Duration;
use tokio::{sync::watch, task::JoinSet, time::sleep};

/// Shared registers, which all clients write and read.
const REGISTERS: u32 = 4;

/// The load is there to notice faults, not to hide them on a small machine.
const PAUSE: Duration = Duration::from_millis(15);

/// How long a writer tries one write.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub writers: u32,
    pub readers: u32,
    /// Between two requests of one client.
    pub pause: Duration,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { writers: 4, readers: 3, pause: PAUSE }
    }
}

/// Ends when it is dropped, then at once; better by [`Workload::stop`].
pub struct Workload {
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Workload {
    pub fn start(plan: Plan, doors: &Doors, recorder: &Recorder) -> Workload {
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for _ in 0..plan.writers {
            clients.spawn(write(Client::new(doors, recorder), plan.pause, stopped.clone()));
        }
        for _ in 0..plan.readers {
            clients.spawn(read(Client::new(doors, recorder), plan.pause, stopped.clone()));
        }
        Workload { stop, clients }
    }

    /// Returns when every client has ended what it was at.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.clients.join_next().await.is_some() {}
    }
}

fn register() -> String {
    format!("register-{}", rand::random_range(0..REGISTERS))
}

async fn write(mut client: Client, pause: Duration, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        let any = Wish { expected: Expected::Any, once: true, patience: PATIENCE };
        match rand::random_range(0..8) {
            // A key for each write: every acknowledgement can be looked for in the end.
            0..4 => {
                let key = client.new_key();
                client.put(&key, Wish { expected: Expected::Absent, ..any }, None).await;
            }
            4 => {
                client.put(&register(), any, None).await;
            }
            // Sent once: without an answer it stays open.
            5 => {
                client.put(&register(), Wish { once: false, ..any }, None).await;
            }
            once => {
                let key = register();
                if let Ok(door) = client.doors.any()
                    && let Ok(found) = client.get(&key, ReadKind::Linearizable, &door).await
                {
                    let expected = found.map_or(Expected::Absent, |found| Expected::At(found.revision));
                    client.put(&key, Wish { expected, once: once == 6, ..any }, None).await;
                }
            }
        }
        sleep(pause).await;
    }
}

async fn read(mut client: Client, pause: Duration, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        let kind = if rand::random_bool(0.6) { ReadKind::Linearizable } else { ReadKind::Stale };
        if let Ok(door) = client.doors.any() {
            // What is not answered is not judged.
            client.get(&register(), kind, &door).await.ok();
        }
        sleep(pause).await;
    }
}
