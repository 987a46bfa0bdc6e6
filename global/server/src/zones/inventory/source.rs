//! One teller of proxies: a replica of a zone, over the links that it has had. What it told stays when it goes.
use super::{
    proxy::{Age, Name, Update},
    terms::Slot,
};
use shared_model::Timestamp;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

/// Removals that wait for the disk; past so many the whole is written anew.
const GONE_MAX: usize = 100_000;

/// When a teller was heard last. Beats come without a lock.
#[derive(Debug, Default)]
pub struct Presence(AtomicI64);

impl Presence {
    pub fn heard(&self, now: Timestamp) {
        self.0.store(now.timestamp_millis(), Ordering::Relaxed);
    }

    pub fn last(&self) -> Timestamp {
        Timestamp::from_timestamp_millis(self.0.load(Ordering::Relaxed)).unwrap_or_default()
    }
}

#[derive(Debug)]
struct Link {
    id: u64,
    /// Of the process at the other end.
    instance: String,
    /// Nothing has come over it yet.
    fresh: bool,
    /// All that has changed before it has come.
    level: bool,
}

#[derive(Debug, Default)]
pub struct Source {
    /// The process that has told what is here, and how far.
    pub instance: String,
    pub sequence: u64,
    /// All that it told by then is here.
    pub whole: bool,
    /// Counts up with each whole that begins: what has an older one was not told again.
    pub generation: u32,
    /// Of the documents of this generation, in bytes.
    pub size: usize,
    pub presence: Arc<Presence>,
    /// The newest link that it has had.
    pub newest: u64,
    link: Option<Link>,
    /// What the disk does not have yet.
    pub unwritten: Unwritten,
}

#[derive(Debug, Default)]
pub struct Unwritten {
    /// Everything: the disk has nothing that could be built on.
    pub all: bool,
    pub changed: BTreeSet<Slot>,
    pub gone: BTreeSet<Name>,
    /// Who told, how far, or when it was heard last.
    pub head: bool,
}

impl Unwritten {
    pub fn is_empty(&self) -> bool {
        !self.all && !self.head && self.changed.is_empty() && self.gone.is_empty()
    }

    pub fn gone(&mut self, slot: Slot, name: Name) {
        self.changed.remove(&slot);
        self.gone.insert(name);
        if self.gone.len() > GONE_MAX {
            self.gone.clear();
            self.all = true;
        }
    }
}

impl Source {
    pub fn linked(&mut self, id: u64, instance: &str, now: Timestamp) {
        self.link = Some(Link { id, instance: instance.to_owned(), fresh: true, level: false });
        self.newest = id;
        self.presence.heard(now);
    }

    /// A link has ended. One that was replaced meanwhile ends nothing.
    pub fn ended(&mut self, id: u64, now: Timestamp) {
        if self.is_linked_by(id) {
            self.link = None;
            self.presence.heard(now);
            self.unwritten.head = true;
        }
    }

    pub fn is_linked(&self) -> bool {
        self.link.is_some()
    }

    pub fn is_linked_by(&self, id: u64) -> bool {
        self.link.as_ref().is_some_and(|link| link.id == id)
    }

    /// What is here is what the zone has: its link is open, and what changed before it has come.
    pub fn is_level(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.level)
    }

    pub fn age(&self) -> Age {
        let seen = self.presence.last();
        Age { seen, stale_since: (!self.is_level()).then_some(seen) }
    }

    /// Up to where a process may go on; none when it must tell the whole.
    pub fn resumes(&self) -> Option<(String, u64)> {
        self.whole.then(|| (self.instance.clone(), self.sequence))
    }

    /// Whether a message is the next one, and the begin of a whole. The reason of an error closes the link.
    pub fn next(&mut self, update: &Update) -> Result<(), String> {
        let link = self.link.as_mut().ok_or("the link has ended")?;
        let fresh = std::mem::replace(&mut link.fresh, false);
        let follows = update.sequence == self.sequence.wrapping_add(1);
        match (fresh, update.complete) {
            (true, true) => {}
            (true, false) if !(self.whole && self.instance == link.instance) => {
                return Err("the first inventory of a link is not the whole".to_owned());
            }
            _ if !follows => {
                return Err(format!("inventory {} came after {}", update.sequence, self.sequence));
            }
            _ => {}
        }
        self.sequence = update.sequence;
        self.unwritten.head = true;
        if update.complete {
            self.instance.clone_from(&link.instance);
            self.generation = self.generation.wrapping_add(1);
            (self.whole, self.size, link.level) = (false, 0, false);
        }
        Ok(())
    }

    /// The last message of what was to be told has come. Answers whether that ends a whole.
    pub fn told(&mut self) -> bool {
        if let Some(link) = &mut self.link {
            link.level = true;
        }
        !std::mem::replace(&mut self.whole, true)
    }
}
