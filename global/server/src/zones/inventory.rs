//! The proxies of all zones as their zones tell them: in memory, indexed, and in a table of their own on disk. Never through
//! Raft: they are many, they change fast, and each node of global is told by every zone itself.
//!
//! ```text
//! link --Feed::take--> Stock (pure, indexed) <--page, tallies-- api::Core
//!                        |
//!                        +--each two seconds, what has changed--> Table (a file for each replica that tells)
//! ```
//!
//! A zone tells everything first and then what changes, numbered so that a gap is seen. It goes on where it stopped when
//! both sides are still the same ([`Inventory::resumes`]), also after a restart of global. What is known of a zone that is
//! away stays, with its age. Measured with 100,000 proxies of 2 kB (`tests/inventory.rs`): 1.6 kB of memory each beside
//! the documents, with the sender in the same process.
mod order;
mod proxy;
mod source;
mod stock;
mod table;
mod terms;

use proxy::{Found, Update};
pub use stock::ReplicaId;

use anyhow::Result;
use global_consensus::Consensus;
use proto::link::{Hello, Inventory as Message};
use shared_api::proxies::{Selection, Tally};
use shared_model::{ResourceKey, Timestamp, kind};
use source::{Presence, Source, Unwritten};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};
use stock::Stock;
use table::{Batch, Head, Table};
use tokio_util::sync::CancellationToken;

/// What has changed is written this often, all together.
const WRITE_EVERY: Duration = Duration::from_secs(2);
/// After a disk has refused.
const WRITE_AGAIN: Duration = Duration::from_secs(30);
/// When a quiet zone was heard last is written this often.
const HEARD_EVERY: Duration = Duration::from_secs(30);
/// A file may hold so much that is past, in bytes, beside as much as what it is for.
const PAST_MAX: u64 = 8 << 20;
/// Proxies of one message that are named in the log when they are left out.
const NAMED: usize = 5;

pub struct Inventory {
    stock: RwLock<Stock>,
    table: Mutex<Kept>,
}

/// The table, and when it is written.
struct Kept {
    table: Option<Table>,
    /// The disk has refused: not before then.
    after: Option<Instant>,
    heard: Instant,
}

impl Inventory {
    /// Reads what zones have told before. A table that cannot be read or written is said, and everything goes on without.
    pub fn open(dir: &Path) -> Arc<Inventory> {
        let mut stock = Stock::default();
        let table = Table::open(dir, |zone, replica, head, told| {
            let source = stock.source_or_new(zone, replica);
            source.presence.heard(head.seen);
            source.instance = head.instance;
            (source.sequence, source.whole) = (head.sequence, head.sequence > 0);
            stock.store(zone, replica, Update::read(zone, told));
            if let Some(source) = stock.source_mut(zone, replica) {
                source.unwritten = Unwritten::default();
            }
        });
        let table = table.map_err(|error| {
            tracing::error!(dir = %dir.display(), %error, "inventories are not kept on disk");
        });
        if stock.len(None) > 0 {
            tracing::info!(proxies = stock.len(None), "what zones have told before is read");
        }
        let kept = Kept { table: table.ok(), after: None, heard: Instant::now() };
        Arc::new(Inventory { stock: RwLock::new(stock), table: Mutex::new(kept) })
    }

    /// A link was opened.
    pub fn linked(self: &Arc<Self>, hello: &Hello, link: u64) -> Feed {
        let (zone, replica) = (hello.zone.clone(), hello.node_id);
        let mut stock = self.write();
        stock.linked(&zone, replica, link, &hello.instance, shared_node::time::now());
        stock.forget_some(&zone);
        stock.choose_again(&zone);
        let presence = stock.source_or_new(&zone, replica).presence.clone();
        drop(stock);
        Feed { inventory: self.clone(), zone, replica, link, presence }
    }

    /// The process that has told what is known of a replica's proxies, and how far: it may go on there.
    pub fn resumes(&self, zone: &str, replica: ReplicaId) -> Option<(String, u64)> {
        self.read().source(zone, replica)?.resumes()
    }

    /// Drops what is known of a zone that was deleted.
    pub fn forget(&self, zone: &str) {
        if self.write().forget(zone) {
            tracing::info!(zone, "the inventory of a deleted zone is dropped");
        }
    }

    /// One page of a selection, and how many it selects in all.
    pub fn page(&self, selection: &Selection, offset: usize, size: usize) -> (usize, Vec<Found>) {
        self.read().page(selection, offset, size)
    }

    /// Finds a proxy by the name that a list shows: its zone's own, or the hashed one where two zones use the same.
    pub fn get(&self, mesh: &str, name: &str) -> Option<Found> {
        self.read().get(mesh, name)
    }

    /// How many proxies a mesh has, or all have.
    pub fn len(&self, mesh: Option<&str>) -> usize {
        self.read().len(mesh)
    }

    pub fn tallies(&self) -> BTreeMap<String, Tally> {
        self.read().tallies()
    }

    /// Which replica of its zone can answer questions about a proxy.
    pub fn keeper(&self, zone: &str, mesh: &str, name: &str) -> Option<ReplicaId> {
        self.read().keeper(zone, mesh, name)
    }

    /// Writes what changes until the shutdown, and drops what deleted zones have told.
    pub async fn keep(self: Arc<Self>, consensus: Consensus, shutdown: CancellationToken) -> Result<()> {
        let mut ends = false;
        while !ends {
            tokio::select! {
                () = shutdown.cancelled() => ends = true,
                () = tokio::time::sleep(WRITE_EVERY) => {}
            }
            let inventory = self.clone();
            if let Err(panic) = tokio::task::spawn_blocking(move || inventory.flush(ends)).await {
                tracing::error!(%panic, "the inventory could not be written");
            }
            if !ends {
                self.forget_deleted(&consensus).await;
            }
        }
        Ok(())
    }

    /// A zone is deleted when it is not in a catalog that is as new as any: one that lags says nothing.
    async fn forget_deleted(&self, consensus: &Consensus) {
        let missing = || {
            let catalog = consensus.catalog().borrow().clone();
            let stock = self.read();
            let zones: BTreeSet<String> = stock.sources().map(|(zone, ..)| zone.to_string()).collect();
            let is_there = |zone: &str| catalog.get(&ResourceKey::new(kind::ZONE, "", zone)).is_some();
            zones.into_iter().filter(|zone| !is_there(zone)).collect::<Vec<_>>()
        };
        if !missing().is_empty() && consensus.catch_up().await.is_ok() {
            missing().iter().for_each(|zone| self.forget(zone));
        }
    }

    /// Writes what the disk lacks. `last`: also when everybody was heard.
    fn flush(&self, last: bool) {
        let mut kept = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if kept.after.is_some_and(|after| now < after) {
            return;
        }
        let heard = last || now.duration_since(kept.heard) >= HEARD_EVERY;
        if heard {
            kept.heard = now;
        }
        let Kept { table: Some(table), after, .. } = &mut *kept else { return };
        let due: Vec<(Arc<str>, ReplicaId)> = {
            let stock = self.read();
            let is_due = |source: &Source| !source.unwritten.is_empty() || heard && source.is_linked();
            let due = stock.sources().filter(|(_, _, source)| is_due(source));
            due.map(|(zone, replica, _)| (zone.clone(), replica)).collect()
        };
        *after = None;
        for (zone, replica) in due {
            let size = table.size(&zone, replica);
            let Some(batch) = self.batch(zone, replica, size) else { continue };
            if let Err(error) = table.write(&batch) {
                tracing::warn!(zone = &*batch.zone, %error, "an inventory is not written");
                if let Some(source) = self.write().source_mut(&batch.zone, batch.replica) {
                    source.unwritten.all = true;
                }
                *after = Some(now + WRITE_AGAIN);
            }
        }
        let stock = self.read();
        table.retain(|zone, replica| stock.source(zone, replica).is_some());
    }

    /// Takes what the disk lacks of one replica, whose file has so many bytes.
    fn batch(&self, zone: Arc<str>, replica: ReplicaId, size: Option<u64>) -> Option<Batch> {
        let mut stock = self.write();
        let source = stock.source_mut(&zone, replica)?;
        let unwritten = std::mem::take(&mut source.unwritten);
        let needed = source.size as u64;
        let all = unwritten.all || size.is_none_or(|size| size > 2 * needed + PAST_MAX);
        let sequence = if source.whole { source.sequence } else { 0 };
        let head = Head { seen: source.presence.last(), instance: source.instance.clone(), sequence };
        let changed = match all {
            true => stock.told_by(&zone, replica),
            false => unwritten.changed.iter().filter_map(|slot| stock.telling(*slot, replica)).collect(),
        };
        let gone = if all { Vec::new() } else { unwritten.gone.into_iter().collect() };
        Some(Batch { zone, replica, head, all, changed, gone })
    }

    fn read(&self) -> RwLockReadGuard<'_, Stock> {
        self.stock.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Stock> {
        self.stock.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open link's way into the inventory. A link that was replaced changes nothing any more.
#[derive(Clone)]
pub struct Feed {
    inventory: Arc<Inventory>,
    zone: String,
    replica: ReplicaId,
    link: u64,
    presence: Arc<Presence>,
}

impl Feed {
    /// Takes the next message. It may hold thousands of documents: this is no call for a thread that others wait for. The
    /// reason of an error closes the link.
    pub fn take(&self, message: Message) -> Result<(), String> {
        let update = Update::read(&self.zone, message);
        let problems = self.inventory.write().take(&self.zone, self.replica, self.link, update)?;
        for problem in problems.iter().take(NAMED) {
            tracing::warn!(zone = self.zone, problem, "a proxy of the inventory is left out");
        }
        if let Some(more) = problems.len().checked_sub(NAMED).filter(|more| *more > 0) {
            tracing::warn!(zone = self.zone, more, "more proxies of the inventory are left out");
        }
        Ok(())
    }

    pub fn heard(&self, now: Timestamp) {
        self.presence.heard(now);
    }

    pub fn ended(&self, now: Timestamp) {
        let mut stock = self.inventory.write();
        stock.ended(&self.zone, self.replica, self.link, now);
        stock.choose_again(&self.zone);
    }
}

#[cfg(test)]
mod tests;
