//! One simulated Envoy: a loop around its connection and its [`Envoy`]. It takes orders and stamps what it gets.
use crate::connection::{Dial, Stream};
use crate::documents::{Replica, replicas_in};
use crate::envoy::Envoy;
use crate::graph::Random;
use crate::wire::request::{Node, Request};
use crate::wire::response::Response;
use crate::wire::{Kind, Protocol};
use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use h2::SendStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Envoy's backoff between two attempts to open the stream.
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What a proxy shall do. The number makes two orders of the same kind different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// No connection.
    Stay,
    Run,
    /// Drops the connection at once and opens another one.
    Reconnect(u64),
    /// Keeps the connection and reads nothing from it, as an Envoy that is stopped.
    Freeze,
}

/// What a proxy has seen. Times are nanoseconds since the fleet's clock began; 0 is never.
#[derive(Debug, Default)]
pub struct Stats {
    pub responses: AtomicU64,
    pub resources: AtomicU64,
    /// Of messages, without frames.
    pub bytes: AtomicU64,
    pub refusals: AtomicU64,
    pub connects: AtomicU64,
    pub breaks: AtomicU64,
    pub stalls: AtomicU64,
    /// The first moment at which everything that was asked for was there.
    pub live_at: AtomicU64,
    /// The last response, whatever it held. It is answered in the same breath.
    pub last_response: AtomicU64,
    /// The last response that changed what is held.
    pub last_change: AtomicU64,
    /// Resources and bytes by [`Kind`], in the order of `Kind::ALL`.
    pub by_kind: [[AtomicU64; 2]; 5],
}

/// A receipt of the endpoint that moves: how often it had moved, and when that was known here.
pub type Receipt = (u32, u64);

/// The replicas of a rollout that one assignment had, and when it came.
pub type Sighting = (Vec<Replica>, u64);

/// What the proxies of a zone share.
pub struct Common {
    pub dial: Dial,
    pub protocol: Protocol,
    pub start: Instant,
    /// True while the endpoint that moves is followed.
    pub count_moves: AtomicBool,
    /// True while the replicas of a rollout are looked for.
    pub sight_replicas: AtomicBool,
}

/// A time of the fleet's clock.
pub fn nanos_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
}

pub struct Proxy {
    pub index: usize,
    pub name: String,
    token: Arc<str>,
    node: Node,
    pub orders: watch::Sender<Order>,
    pub stats: Stats,
    pub receipts: Mutex<Vec<Receipt>>,
    sightings: Mutex<Vec<Sighting>>,
    envoy: Mutex<Envoy>,
    /// Why the last stream ended.
    broken: Mutex<Option<String>>,
    common: Arc<Common>,
}

/// Why a stream is left.
enum End {
    Ordered,
    Broken(anyhow::Error),
}

impl Proxy {
    pub fn new(
        index: usize,
        name: String,
        token: Arc<str>,
        node: Node,
        envoy: Envoy,
        common: Arc<Common>,
    ) -> Proxy {
        let orders = watch::Sender::new(Order::Stay);
        let (stats, receipts, sightings, broken) = Default::default();
        let envoy = Mutex::new(envoy);
        Proxy { index, name, token, node, orders, stats, receipts, sightings, envoy, broken, common }
    }

    pub fn envoy(&self) -> MutexGuard<'_, Envoy> {
        self.envoy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn order(&self, order: Order) {
        self.orders.send_replace(order);
    }

    /// Why its last stream ended, if it did not end by order.
    pub fn trouble(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn take_receipts(&self) -> Vec<Receipt> {
        std::mem::take(&mut *self.receipts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn sightings(&self) -> MutexGuard<'_, Vec<Sighting>> {
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows its orders until nobody can give any.
    pub async fn run(self: Arc<Proxy>) {
        let mut orders = self.orders.subscribe();
        let mut random = Random(self.index as u64);
        let mut backoff = BACKOFF;
        loop {
            if *orders.borrow_and_update() == Order::Stay {
                if orders.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let since = Instant::now();
            match self.stream(&mut orders).await {
                End::Ordered => backoff = BACKOFF,
                End::Broken(error) => {
                    self.stats.breaks.fetch_add(1, Relaxed);
                    *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{error:#}"));
                    if since.elapsed() > BACKOFF_MAX {
                        backoff = BACKOFF;
                    }
                    // Jittered, as Envoy's.
                    let wait = backoff.mul_f64(random.below(1000) as f64 / 1000.0);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        changed = orders.changed() => if changed.is_err() { return },
                    }
                }
            }
        }
    }

    async fn stream(&self, orders: &mut watch::Receiver<Order>) -> End {
        let common = &self.common;
        let opened = tokio::select! {
            opened = common.dial.open(common.protocol.path(), &self.token) => opened,
            _ = orders.changed() => return End::Ordered,
        };
        let Stream { connection, mut requests, mut responses } = match opened {
            Ok(stream) => stream,
            Err(error) => return End::Broken(error),
        };
        self.stats.connects.fetch_add(1, Relaxed);
        let first = self.envoy().open();
        if let Err(error) = self.say(&mut requests, first, true) {
            return End::Broken(error);
        }
        tokio::pin!(connection);
        loop {
            let due = self.envoy().due();
            tokio::select! {
                // First what the connection brings, then what the stream makes of it.
                biased;
                ended = &mut connection => {
                    let error = ended.map_or_else(anyhow::Error::from, |()| anyhow!("the connection was closed"));
                    return End::Broken(error);
                }
                changed = orders.changed() => {
                    let order = *orders.borrow_and_update();
                    match (changed, order) {
                        (Ok(()), Order::Run) => {}
                        (Ok(()), Order::Freeze) => {
                            // Nothing polls the connection, so nothing is read from its socket.
                            let _ = orders.changed().await;
                            return End::Ordered;
                        }
                        (Err(_), _) | (Ok(()), Order::Stay | Order::Reconnect(_)) => return End::Ordered,
                    }
                }
                more = responses.more() => {
                    let taken = more.and_then(|chunk| {
                        responses.messages(chunk, |message| self.take(message, &mut requests))
                    });
                    if let Err(error) = taken {
                        return End::Broken(error);
                    }
                }
                () = until(due), if due.is_some() => {
                    let asked = self.tick();
                    if let Err(error) = self.say(&mut requests, asked, false) {
                        return End::Broken(error);
                    }
                }
            }
        }
    }

    fn tick(&self) -> Vec<Request> {
        let mut envoy = self.envoy();
        let asked = envoy.tick(Instant::now());
        self.stats.stalls.store(envoy.stalls, Relaxed);
        // What has waited in vain serves as it is from now on.
        if self.stats.live_at.load(Relaxed) == 0 && envoy.is_live() {
            self.stats.live_at.store(nanos_since(self.common.start), Relaxed);
        }
        asked
    }

    fn take(&self, message: &[u8], requests: &mut SendStream<Bytes>) -> Result<()> {
        let now = nanos_since(self.common.start);
        let response = Response::read(self.common.protocol, message)?;
        let Some(kind) = Kind::of_url(response.type_url) else {
            bail!("a response of type {}", response.type_url)
        };
        let mut envoy = self.envoy();
        let taken = envoy.take(&response, Instant::now(), self.common.count_moves.load(Relaxed))?;
        let live = self.stats.live_at.load(Relaxed) == 0 && envoy.is_live();
        drop(envoy);
        let stats = &self.stats;
        let add = |counter: &AtomicU64, n: usize| counter.fetch_add(n as u64, Relaxed);
        add(&stats.responses, 1);
        add(&stats.resources, response.resources.len());
        add(&stats.bytes, message.len());
        add(&stats.by_kind[kind.index()][0], response.resources.len());
        add(&stats.by_kind[kind.index()][1], message.len());
        add(&stats.refusals, usize::from(taken.refused));
        if let Some(moves) = taken.moves {
            self.receipts.lock().unwrap_or_else(PoisonError::into_inner).push((moves, now));
        }
        if kind == Kind::Endpoint && self.common.sight_replicas.load(Relaxed) {
            let seen = response.resources.iter().map(|item| replicas_in(item.body));
            self.sightings().extend(seen.filter(|replicas| !replicas.is_empty()).map(|seen| (seen, now)));
        }
        self.say(requests, taken.requests, false)?;
        // Stamped after the answer was given to the connection, whose next poll writes it.
        if taken.changed > 0 {
            stats.last_change.store(now, Relaxed);
        }
        if live {
            stats.live_at.store(now, Relaxed);
        }
        stats.last_response.store(now, Relaxed);
        Ok(())
    }

    fn say(&self, stream: &mut SendStream<Bytes>, requests: Vec<Request>, first: bool) -> Result<()> {
        for (at, request) in requests.into_iter().enumerate() {
            let node = (first && at == 0).then_some(&self.node);
            stream.send_data(request.frame(self.common.protocol, node), false)?;
        }
        Ok(())
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
