//! A zone without proxies: a replica on a disk of its own, and a link to every node of global.
use super::link::{self, Papers};
use anyhow::{Context as _, Result, bail};
use proto::link::Members;
use shared_raft::{Learner, Storage};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{OnceCell, watch},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

/// The first and the longest pause after a link that ended by itself, as a zone's control plane has them.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Where zones dial first, and whose certificates they trust.
pub struct Door {
    pub seeds: Vec<String>,
    pub ca_pem: String,
}

/// The newest revision that a zone has on its disk and has applied, and since when.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub revision: u64,
    pub at: Instant,
    pub unix_ms: i64,
}

impl Held {
    fn now(revision: u64) -> Held {
        Held { revision, at: Instant::now(), unix_ms: shared_node::time::now().timestamp_millis() }
    }
}

/// What links share.
pub struct Replica {
    pub name: String,
    pub zone_id: String,
    pub token: String,
    pub door: Arc<Door>,
    pub learner: Learner,
    pub papers: OnceCell<Papers>,
    pub held: watch::Sender<Held>,
    pub roster: watch::Sender<Roster>,
    pub traffic: Traffic,
    /// Why a link ended last.
    problem: Mutex<String>,
}

/// The nodes of global, and those to which a link is open, by their ids.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    index: u64,
    members: BTreeMap<u64, String>,
    open: BTreeMap<u64, String>,
}

impl Roster {
    /// Keeps the newest list that any node tells.
    pub fn take(&mut self, members: Members) {
        if members.index >= self.index && !members.members.is_empty() {
            self.index = members.index;
            self.members = members.members.into_iter().map(|member| (member.node_id, member.link)).collect();
        }
    }

    /// Every member that is not linked by another address; where to begin as long as none is known.
    fn wanted(&self, seeds: &[String]) -> BTreeSet<String> {
        if self.members.is_empty() {
            return seeds.iter().cloned().collect();
        }
        let unlinked = self.members.iter().filter(|(node_id, _)| !self.open.contains_key(node_id));
        unlinked.map(|(_, url)| url).chain(self.open.values()).cloned().collect()
    }

    fn is_whole(&self) -> bool {
        !self.members.is_empty() && self.members.keys().all(|node_id| self.open.contains_key(node_id))
    }
}

/// What came in from global.
#[derive(Default)]
pub struct Traffic {
    bytes: AtomicU64,
    snapshots: AtomicU64,
}

impl Traffic {
    pub fn received(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub fn snapshot(&self) {
        self.snapshots.fetch_add(1, Relaxed);
    }
}

/// An open link; dropping it says that it has ended.
pub struct Open<'a> {
    replica: &'a Replica,
    node_id: u64,
    url: String,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.replica.roster.send_modify(|roster| {
            if roster.open.get(&self.node_id) == Some(&self.url) {
                roster.open.remove(&self.node_id);
            }
        });
    }
}

impl Replica {
    pub fn opened(&self, node_id: u64, url: &str) -> Open<'_> {
        self.roster.send_modify(|roster| drop(roster.open.insert(node_id, url.to_owned())));
        Open { replica: self, node_id, url: url.to_owned() }
    }

    fn problem(&self) -> String {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells when the replica has more. Ends when it stops.
    async fn watch(&self) {
        let mut catalog = self.learner.catalog();
        while catalog.changed().await.is_ok() {
            let revision = catalog.borrow_and_update().revision().0;
            self.held.send_replace(Held::now(revision));
        }
    }

    /// Keeps a link to every node.
    async fn follow(self: Arc<Self>) {
        let mut roster = self.roster.subscribe();
        let mut dialled = BTreeSet::new();
        let mut links = JoinSet::new();
        loop {
            let wanted = roster.borrow_and_update().wanted(&self.door.seeds);
            for url in wanted {
                if dialled.insert(url.clone()) {
                    links.spawn(self.clone().keep(url));
                }
            }
            tokio::select! {
                _ = roster.changed() => {}
                Some(Ok(url)) = links.join_next() => drop(dialled.remove(&url)),
            }
        }
    }

    /// Keeps a link to one address for as long as that is wanted, and gives the address back.
    async fn keep(self: Arc<Self>, url: String) -> String {
        let mut pause = PAUSE.0;
        loop {
            let begin = Instant::now();
            if let Err(error) = link::run(&self, &url).await {
                *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = format!("{url}: {error:#}");
            }
            if begin.elapsed() > PAUSE.1 {
                pause = PAUSE.0;
            }
            sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            pause = (pause * 2).min(PAUSE.1);
            if !self.roster.borrow().wanted(&self.door.seeds).contains(&url) {
                return url;
            }
        }
    }
}

pub struct Zone {
    replica: Arc<Replica>,
    watch: JoinHandle<()>,
    follow: Option<JoinHandle<()>>,
}

impl Zone {
    /// Makes the zone's disk. It does not dial yet.
    pub async fn open(name: &str, token: String, dir: &Path, door: Arc<Door>) -> Result<Zone> {
        let (role, dir) = (format!("zone {name}"), dir.join(name));
        let open = move || Storage::open(&dir, &role, || shared_raft::learner_id(rand::random()));
        let learner = Learner::start(tokio::task::spawn_blocking(open).await??).await?;
        let revision = learner.catalog().borrow().revision().0;
        let replica = Arc::new(Replica {
            name: name.to_owned(),
            zone_id: format!("{:032x}", rand::random::<u128>()),
            token,
            door,
            learner,
            papers: OnceCell::new(),
            held: watch::Sender::new(Held::now(revision)),
            roster: watch::Sender::default(),
            traffic: Traffic::default(),
            problem: Mutex::default(),
        });
        let watched = replica.clone();
        let watch = tokio::spawn(async move { watched.watch().await });
        Ok(Zone { replica, watch, follow: None })
    }

    /// Opens a link to every node, and keeps them open.
    pub fn dial(&mut self) {
        self.follow.get_or_insert_with(|| tokio::spawn(self.replica.clone().follow()));
    }

    /// Ends all links where they stand.
    pub async fn hang_up(&mut self) {
        if let Some(follow) = self.follow.take() {
            follow.abort();
            // It was cancelled.
            let _ = follow.await;
        }
        let mut roster = self.replica.roster.subscribe();
        // The links end with their tasks.
        let _ = roster.wait_for(|roster| roster.open.is_empty()).await;
    }

    /// Waits for a link to every node of global. How many they are.
    pub async fn linked(&self, patience: Duration) -> Result<usize> {
        let mut roster = self.replica.roster.subscribe();
        match timeout(patience, roster.wait_for(Roster::is_whole)).await {
            Ok(whole) => Ok(whole.context("the zone has ended")?.open.len()),
            Err(_) => bail!("{} has not all its links: {}", self.replica.name, self.replica.problem()),
        }
    }

    /// Waits until the zone has a revision on its disk and has applied it. When that was, or later if it has more by now.
    pub async fn holds(&self, revision: u64, patience: Duration) -> Result<Instant> {
        let mut held = self.replica.held.subscribe();
        let holds = timeout(patience, held.wait_for(|held| held.revision >= revision)).await;
        match holds {
            Ok(held) => Ok(held.context("the zone has ended")?.at),
            Err(_) => bail!(
                "{} does not have revision {revision}, it has {}: {}",
                self.replica.name,
                self.replica.held.borrow().revision,
                self.replica.problem()
            ),
        }
    }

    /// Resources that the zone holds.
    pub fn resources(&self) -> usize {
        self.replica.learner.catalog().borrow().len()
    }

    /// Bytes and chunks of snapshots that came in since this was last asked.
    pub fn received(&self) -> (u64, u64) {
        let Traffic { bytes, snapshots } = &self.replica.traffic;
        (bytes.swap(0, Relaxed), snapshots.swap(0, Relaxed))
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        self.watch.abort();
        if let Some(follow) = &self.follow {
            follow.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::link::Member;

    fn members(index: u64, nodes: &[(u64, &str)]) -> Members {
        let member = |(node_id, link): &(u64, &str)| Member { node_id: *node_id, link: (*link).to_owned() };
        Members { index, members: nodes.iter().map(member).collect() }
    }

    #[test]
    fn a_seed_leads_to_all_members_and_each_is_dialled_by_one_address() {
        let seeds = ["seed".to_owned()];
        let wanted = |roster: &Roster| roster.wanted(&seeds).into_iter().collect::<Vec<_>>();
        let mut roster = Roster::default();
        assert_eq!((wanted(&roster), roster.is_whole()), (vec!["seed".to_owned()], false));
        roster.open.insert(1, "seed".to_owned());
        roster.take(members(5, &[(1, "a"), (2, "b")]));
        roster.take(members(4, &[(9, "old")]));
        assert_eq!((wanted(&roster), roster.is_whole()), (vec!["b".to_owned(), "seed".to_owned()], false));
        roster.open.insert(2, "b".to_owned());
        assert!(roster.is_whole());
        roster.open.clear();
        assert_eq!(wanted(&roster), ["a", "b"]);
    }
}
