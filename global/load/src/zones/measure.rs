//! What is measured with zones that follow.
use super::{Crowd, Newcomer, Policies, Reconnect, Return, Zone};
use crate::{
    global::{Api, Document},
    run::Measured,
};
use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::time::{Duration, Instant};
use tokio::{sync::watch, task::JoinHandle};

/// Writes that are made for the warmth of all caches.
const WARM_UP: usize = 5;

/// Who fills the catalog, at the same time.
const WRITERS: usize = 128;

/// Of the writes while nobody measures their time: so many that an entry of the log carries a few.
const CHANGERS: usize = 8;

/// The least number of writes while all is calm.
const AT_LEAST: usize = 20;

impl Crowd {
    pub(super) async fn policies(&self) -> Result<Policies> {
        let document = self.nodes.document("load-policy");
        let (mut after_acknowledgement, mut after_sending, mut acknowledgement) =
            (Vec::new(), Vec::new(), Vec::new());
        let mut begin = Instant::now();
        for number in 0..WARM_UP + self.load.policies {
            if number == WARM_UP {
                begin = Instant::now();
            }
            let sent = Instant::now();
            let revision = self.api.put(&document, number as u64).await?;
            let acknowledged = Instant::now();
            let last = self.all_hold(revision).await?;
            if number >= WARM_UP {
                // Zones may have it before the writer is told.
                after_acknowledgement.push(last.saturating_duration_since(acknowledged));
                after_sending.push(last.saturating_duration_since(sent));
                acknowledgement.push(acknowledged - sent);
            }
        }
        let of = |took| Measured::of(took, begin.elapsed(), Vec::new());
        Ok(Policies {
            zones: self.zones.len(),
            after_acknowledgement: of(after_acknowledgement)?,
            after_sending: of(after_sending)?,
            acknowledgement: of(acknowledgement)?,
        })
    }

    pub(super) async fn reconnect(&mut self) -> Result<Reconnect> {
        let writer = Writer::start(self.api.clone(), self.nodes.document("load-writer"), self.load.pause);
        let (mut calm, mut storms) = (Vec::new(), Vec::new());
        let (mut linked_s, mut following_s) = (0.0_f64, 0.0_f64);
        for _ in 0..self.load.reconnect {
            // What the storm before has left is over, and the caches are warm.
            writer.writes(WARM_UP, self.load.patience).await?;
            let begin = Instant::now();
            writer.writes(AT_LEAST, self.load.patience).await?;
            tokio::time::sleep_until((begin + self.load.calm).into()).await;
            let broken = Instant::now();
            for zone in &mut self.zones {
                zone.hang_up().await;
            }
            self.zones.iter_mut().for_each(Zone::dial);
            self.linked().await?;
            linked_s = linked_s.max(broken.elapsed().as_secs_f64());
            let following = self.all_hold(writer.newest()).await?;
            following_s = following_s.max(following.saturating_duration_since(broken).as_secs_f64());
            calm.push((begin, broken));
            storms.push((broken, following));
        }
        let written = writer.stop().await?;
        let within = |(begin, end): &(Instant, Instant)| end.saturating_duration_since(*begin);
        let of = |times: &[(Instant, Instant)], belongs: &dyn Fn(&Write, &(Instant, Instant)) -> bool| {
            let mine = written.iter().filter(|write| times.iter().any(|time| belongs(write, time)));
            let took = mine.map(|write| write.end - write.begin).collect();
            Measured::of(took, times.iter().map(within).sum(), Vec::new())
        };
        let before = of(&calm, &|write, (begin, end)| write.begin >= *begin && write.end <= *end)?;
        // Also what was on its way when the links broke.
        let during = of(&storms, &|write, (begin, end)| write.end > *begin && write.begin < *end)?;
        let zones = self.zones.len();
        let slowdown = during.mean_ms / before.mean_ms;
        Ok(Reconnect { zones, linked_s, following_s, before, during, slowdown })
    }

    pub(super) async fn newcomer(&mut self) -> Result<Newcomer> {
        let begin = Instant::now();
        let names = (0..self.load.newcomer).map(|number| format!("load-resource-{number:06}"));
        let newest = self.write_all(names, 0, WRITERS).await?;
        self.all_hold(newest).await?;
        let written_s = begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        let mut zone = self.zone(self.zones.len() + 1).await?;
        zone.dial();
        let holds = zone.holds(newest, self.load.patience).await?;
        let (bytes, snapshot_chunks) = zone.received();
        let resources = zone.resources();
        self.zones.push(zone);
        self.linked().await?;
        Ok(Newcomer {
            zones: self.zones.len(),
            resources,
            written_s,
            seconds: (holds - begin).as_secs_f64(),
            bytes,
            snapshot_chunks,
        })
    }

    pub(super) async fn comes_back(&mut self) -> Result<Return> {
        for zone in &mut self.zones {
            zone.hang_up().await;
            zone.received();
        }
        let names: Vec<String> =
            (0..self.load.changes).map(|number| format!("load-change-{number:06}")).collect();
        let bodies = names.iter().map(|name| self.nodes.document(name).body(1).len());
        let changed_bytes: usize = bodies.sum();
        let newest = self.write_all(names.into_iter(), 1, CHANGERS).await?;
        let begin = Instant::now();
        self.zones.iter_mut().for_each(Zone::dial);
        let seconds = (self.all_hold(newest).await? - begin).as_secs_f64();
        let received: Vec<(u64, u64)> = self.zones.iter().map(Zone::received).collect();
        let bytes = received.iter().map(|(bytes, _)| *bytes).max().context("there are no zones")?;
        Ok(Return {
            zones: self.zones.len(),
            resources: self.zones.iter().map(Zone::resources).max().unwrap_or_default(),
            changes: self.load.changes,
            changed_bytes,
            seconds,
            bytes,
            bytes_per_changed_byte: bytes as f64 / changed_bytes as f64,
            snapshot_chunks: received.iter().map(|(_, chunks)| chunks).sum(),
        })
    }

    /// Writes a document under each name; the newest revision.
    async fn write_all(
        &self,
        names: impl Iterator<Item = String>,
        number: u64,
        writers: usize,
    ) -> Result<u64> {
        let writes = stream::iter(names).map(|name| async move {
            let document = self.nodes.document(&name);
            self.api.put(&document, number).await.with_context(|| name)
        });
        writes
            .buffer_unordered(writers)
            .try_fold(0, |newest: u64, one| async move { Ok(newest.max(one)) })
            .await
    }
}

/// A write that was acknowledged.
struct Write {
    begin: Instant,
    end: Instant,
}

#[derive(Clone, Copy, Default)]
struct Written {
    count: usize,
    newest: u64,
}

/// Writes one after the other until it is stopped.
struct Writer {
    written: watch::Receiver<Written>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<Vec<Write>>>,
}

impl Writer {
    fn start(api: Api, document: Document, pause: Duration) -> Writer {
        let (tell, written) = watch::channel(Written::default());
        let stop = watch::Sender::new(false);
        let stopped = stop.subscribe();
        let task = tokio::spawn(async move {
            let mut writes = Vec::new();
            while !*stopped.borrow() {
                let begin = Instant::now();
                let newest = api.put(&document, writes.len() as u64).await?;
                writes.push(Write { begin, end: Instant::now() });
                tell.send_replace(Written { count: writes.len(), newest });
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
            Ok(writes)
        });
        Writer { written, stop, task }
    }

    /// Waits for so many more writes.
    async fn writes(&self, count: usize, patience: Duration) -> Result<()> {
        let mut written = self.written.clone();
        let goal = written.borrow().count + count;
        let reached = tokio::time::timeout(patience, written.wait_for(|written| written.count >= goal)).await;
        reached.context("writes take too long")?.context("a write was refused")?;
        Ok(())
    }

    fn newest(&self) -> u64 {
        self.written.borrow().newest
    }

    async fn stop(self) -> Result<Vec<Write>> {
        self.stop.send_replace(true);
        self.task.await?
    }
}
