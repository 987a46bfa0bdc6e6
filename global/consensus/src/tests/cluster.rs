//! Several voters over channels that can be cut: no sockets, real disks.
use super::{Zone, put, reaches};
use crate::{Answering, Consensus, Error, Joined, Links, Setup, Transport, new_node_id};
use proto::peer::{Peer, Request, change};
use shared_catalog::{Catalog, Command, Expected, Outcome};
use shared_model::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// What lies between the nodes.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<Wires>>);

#[derive(Default)]
struct Wires {
    nodes: BTreeMap<String, Consensus>,
    /// Addresses that nobody reaches, and that reach nobody.
    cut: BTreeSet<String>,
}

/// One node's end.
struct Wire {
    net: Net,
    own: String,
}

impl Transport for Wire {
    fn call(&self, address: &str, request: Request) -> Answering {
        let (net, own, to) = (self.net.clone(), self.own.clone(), address.to_owned());
        Box::pin(async move {
            let from = request.from;
            let target = net.reach(&own, &to)?;
            let reply = target.answer(from, request).await;
            // The answer may be lost on a way that was cut meanwhile.
            net.reach(&own, &to)?;
            Ok(reply)
        })
    }
}

impl Net {
    fn reach(&self, from: &str, to: &str) -> Result<Consensus, String> {
        let wires = self.0.lock().expect("a lock");
        let cut = wires.cut.contains(from) || wires.cut.contains(to);
        wires.nodes.get(to).filter(|_| !cut).cloned().ok_or_else(|| format!("no way to {to}"))
    }

    fn cut(&self, address: &str, is_cut: bool) {
        let mut wires = self.0.lock().expect("a lock");
        match is_cut {
            true => wires.cut.insert(address.to_owned()),
            false => wires.cut.remove(address),
        };
    }

    fn setup(&self, dir: &Path, address: &str) -> Setup {
        let transport = Arc::new(Wire { net: self.clone(), own: address.to_owned() });
        let link = format!("https://{address}");
        Setup { address: address.to_owned(), link, transport, version: "1".into(), ..Setup::alone(dir) }
    }

    async fn open(&self, setup: Setup) -> Node {
        let address = setup.address.clone();
        let dir = setup.dir.clone();
        let (consensus, links) = Consensus::open(setup).await.expect("opened");
        self.0.lock().expect("a lock").nodes.insert(address.clone(), consensus.clone());
        Node { net: self.clone(), address, dir, consensus, links }
    }
}

struct Node {
    net: Net,
    address: String,
    dir: std::path::PathBuf,
    consensus: Consensus,
    links: Links,
}

impl Node {
    fn id(&self) -> u64 {
        self.consensus.node_id()
    }

    /// As a process that is killed: nothing answers any more, and nothing was said.
    async fn kill(self) -> (std::path::PathBuf, String) {
        self.net.0.lock().expect("a lock").nodes.remove(&self.address);
        self.consensus.shutdown().await;
        (self.dir, self.address)
    }

    async fn stores(&self, name: &str, value: u64) -> Outcome {
        self.consensus.propose(put(name, value)).await.expect("stored")
    }

    async fn role(&self, wanted: &str) {
        until(&format!("{} is {wanted}", self.address), || self.consensus.status().role == wanted).await;
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Cluster {
    net: Net,
    dirs: Vec<TempDir>,
    nodes: Vec<Node>,
}

impl Cluster {
    async fn of(size: usize) -> Cluster {
        let net = Net::default();
        let mut cluster = Cluster { net: net.clone(), dirs: Vec::new(), nodes: Vec::new() };
        let dir = TempDir::new().expect("a directory");
        cluster.nodes.push(net.open(net.setup(dir.path(), "node-1")).await);
        cluster.dirs.push(dir);
        for number in 2..=size {
            cluster.join(&format!("node-{number}")).await;
        }
        for node in &cluster.nodes {
            until("all vote", || node.consensus.view().voters().count() == size).await;
        }
        cluster
    }

    /// A new node with an empty disk.
    async fn join(&mut self, address: &str) {
        let first = &self.nodes[0].consensus;
        let node_id = new_node_id();
        let peer = Peer { node_id, address: address.into(), link: format!("https://{address}") };
        first.change(change::Kind::AddLearner(peer)).await.expect("taken in");
        let joined = Some(Joined { cluster_id: first.cluster_id(), node_id });
        let dir = TempDir::new().expect("a directory");
        let setup = Setup { joined, ..self.net.setup(dir.path(), address) };
        let node = self.net.open(setup).await;
        self.dirs.push(dir);
        self.nodes.push(node);
    }

    async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(place) = self.nodes.iter().position(|node| node.consensus.is_current_leader()) {
                return place;
            }
            assert!(Instant::now() < deadline, "no leader");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn agree(&self) -> Arc<Catalog> {
        let newest = self.nodes.iter().map(|node| node.consensus.catalog().borrow().revision()).max();
        let newest = newest.expect("nodes");
        let mut seen: Option<Arc<Catalog>> = None;
        for node in &self.nodes {
            let catalog = reaches(&mut node.consensus.catalog(), newest).await;
            if let Some(seen) = &seen {
                assert_eq!(seen.encode(), catalog.encode());
            }
            seen = Some(catalog);
        }
        seen.expect("nodes")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_grows_to_three_while_it_serves() {
    let mut cluster = Cluster::of(1).await;
    let first = cluster.nodes[0].consensus.clone();
    let writer = tokio::spawn(async move {
        let mut stored = 0;
        while first.view().voters().count() < 3 || stored < 200 {
            first.propose(put(&format!("m{stored}"), stored)).await.expect("stored");
            stored += 1;
        }
        stored
    });
    cluster.join("node-2").await;
    cluster.join("node-3").await;
    let stored = timeout(PATIENCE, writer).await.expect("in time").expect("no panic");
    let catalog = cluster.agree().await;
    assert_eq!(catalog.len() as u64, stored);
    for node in &cluster.nodes {
        let role = node.consensus.status().role;
        assert!(["leader", "follower"].contains(&role.as_str()), "{role}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_at_any_node_are_stored_once_and_read_everywhere() {
    let cluster = Cluster::of(3).await;
    for (place, node) in cluster.nodes.iter().enumerate() {
        let outcome = node.stores(&format!("m{place}"), 1).await;
        assert!(matches!(outcome, Outcome::Stored { created: true, .. }), "{outcome:?}");
        // Where it was written, it is there at once; elsewhere, once a read has caught up.
        for reader in &cluster.nodes {
            reader.consensus.catch_up().await.expect("a quorum");
            assert_eq!(reader.consensus.catalog().borrow().len(), place + 1);
        }
    }
    let follower = (cluster.leader().await + 1) % 3;
    let node = &cluster.nodes[follower].consensus;
    let once = put("once", 1).once([9; 16]);
    let first = node.propose(once.clone()).await.expect("stored");
    node.propose(put("once", 2)).await.expect("stored");
    assert_eq!(node.propose(once).await.expect("stored"), first);
    let stale = Command::put(
        &shared_model::Resource::new("Mesh", "", "once", serde_json::json!({})),
        Expected::At(first.revision().expect("stored").0),
        Timestamp::UNIX_EPOCH,
    );
    assert!(matches!(node.propose(stale).await, Ok(Outcome::Refused(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_leader_costs_less_than_a_second_and_no_acknowledged_write() {
    let mut cluster = Cluster::of(3).await;
    let mut stored = 0;
    let mut took = Vec::new();
    for _ in 0..5 {
        let leader = cluster.leader().await;
        for _ in 0..20 {
            cluster.nodes[(leader + 1) % 3].stores(&format!("m{stored}"), stored).await;
            stored += 1;
        }
        let (dir, address) = cluster.nodes.remove(leader).kill().await;
        let begin = Instant::now();
        cluster.nodes[0].stores(&format!("m{stored}"), stored).await;
        took.push(begin.elapsed());
        stored += 1;
        let back = cluster.net.open(cluster.net.setup(&dir, &address)).await;
        back.role("follower").await;
        cluster.nodes.push(back);
    }
    println!("writes went on after {took:?}");
    assert!(took.iter().all(|took| *took < Duration::from_secs(1)), "{took:?}");
    assert_eq!(cluster.agree().await.len() as u64, stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_refuses_and_the_majority_goes_on() {
    let cluster = Cluster::of(3).await;
    let old = cluster.leader().await;
    cluster.nodes[old].stores("before", 1).await;
    let term = cluster.nodes[old].consensus.status().term;
    cluster.net.cut(&cluster.nodes[old].address, true);
    let rest = &cluster.nodes[(old + 1) % 3];
    rest.stores("after", 1).await;
    let minority = &cluster.nodes[old].consensus;
    assert!(matches!(minority.propose(put("lost", 1)).await, Err(Error::NoQuorum)));
    assert!(matches!(minority.catch_up().await, Err(Error::NoQuorum)));
    assert!(!minority.is_current_leader());
    assert!(rest.consensus.catch_up().await.is_ok());
    cluster.net.cut(&cluster.nodes[old].address, false);
    cluster.nodes[old].role("follower").await;
    minority.catch_up().await.expect("a quorum");
    let catalog = cluster.agree().await;
    assert_eq!(catalog.len(), 2);
    // Once cut off and once back: no more terms than the one election.
    let now = rest.consensus.status().term;
    assert!(now <= term + 3, "term {term} became {now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_cut_off_does_not_unseat_the_leader() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let (term, id) = (cluster.nodes[leader].consensus.status().term, cluster.nodes[leader].id());
    let lost = &cluster.nodes[(leader + 1) % 3];
    for _ in 0..3 {
        cluster.net.cut(&lost.address, true);
        // Several of its patiences long: openraft alone would have stood for election by now.
        let end = Instant::now() + Duration::from_millis(1_200);
        while Instant::now() < end {
            cluster.nodes[leader].stores("beat", u64::from(end.elapsed().subsec_nanos())).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.net.cut(&lost.address, false);
        lost.consensus.catch_up().await.expect("a quorum");
    }
    let status = cluster.nodes[leader].consensus.status();
    assert_eq!((status.term, status.leader), (term, id));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_answered_as_new() {
    let mut cluster = Cluster::of(3).await;
    cluster.nodes[0].stores("before", 1).await;
    cluster.agree().await;
    let leader = cluster.leader().await;
    cluster.nodes.remove(leader).kill().await;
    cluster.nodes.pop().expect("a node").kill().await;
    let last = &cluster.nodes[0].consensus;
    assert!(matches!(last.propose(put("lost", 1)).await, Err(Error::NoQuorum | Error::Unknown(_))));
    assert!(matches!(last.catch_up().await, Err(Error::NoQuorum)));
    assert_eq!(last.catalog().borrow().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leadership_is_handed_over_while_it_is_written() {
    let cluster = Cluster::of(3).await;
    let old = cluster.leader().await;
    let target = (old + 1) % 3;
    let writer = cluster.nodes[(old + 2) % 3].consensus.clone();
    let writing = tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        for value in 0..150 {
            let begin = Instant::now();
            writer.propose(put("m", value)).await.expect("stored");
            longest = longest.max(begin.elapsed());
        }
        longest
    });
    let change = change::Kind::Transfer(cluster.nodes[target].id());
    cluster.nodes[(old + 2) % 3].consensus.change(change).await.expect("handed over");
    assert_eq!(cluster.leader().await, target);
    let longest = timeout(PATIENCE, writing).await.expect("in time").expect("no panic");
    println!("the longest write took {longest:?}");
    assert!(longest < Duration::from_millis(1_500), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_disk_comes_back_as_another_in_its_place() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].stores("before", 1).await;
    let lost = cluster.nodes.remove((leader + 1) % 3);
    let old_id = lost.id();
    let (_, address) = lost.kill().await;
    cluster.nodes[0].stores("meanwhile", 1).await;
    cluster.join(&address).await;
    let new = cluster.nodes.last().expect("joined");
    assert_ne!(new.id(), old_id);
    new.role("follower").await;
    for node in &cluster.nodes {
        let view = || node.consensus.view();
        until("it has taken the place", || view().configs.len() == 1 && view().voters().count() == 3).await;
        assert!(!view().nodes.contains_key(&old_id));
    }
    // Its old name is refused, and says nothing of the log that it had.
    let request = Request { cluster_id: new.consensus.cluster_id(), from: 1, to: old_id, kind: None };
    let reply = new.consensus.answer(1, request).await;
    assert!(format!("{reply:?}").contains("not"), "{reply:?}");
    assert_eq!(cluster.agree().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_removed_and_the_last_voter_stays() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let [one, two] = [(leader + 1) % 3, (leader + 2) % 3].map(|place| &cluster.nodes[place]);
    let consensus = &cluster.nodes[leader].consensus;
    let own = change::Kind::Remove(consensus.node_id());
    assert!(matches!(one.consensus.change(own).await, Err(Error::Membership(_))));
    consensus.change(change::Kind::Remove(one.id())).await.expect("removed");
    consensus.change(change::Kind::Remove(two.id())).await.expect("removed");
    assert!(consensus.change(change::Kind::Remove(consensus.node_id())).await.is_err());
    assert_eq!(consensus.members().len(), 1);
    // Who is out has no say any more, whatever it still shows.
    let commands = vec![shared_raft::wire::encode(&put("out", 1)).into()];
    let forward = proto::peer::Forward { commands };
    let kind = Some(proto::peer::request::Kind::Forward(forward));
    let request =
        Request { cluster_id: consensus.cluster_id(), from: one.id(), to: consensus.node_id(), kind };
    let reply = consensus.answer(one.id(), request).await;
    assert!(format!("{reply:?}").contains("is not a member"), "{reply:?}");
    cluster.nodes[leader].stores("alone", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_follows_the_leader_through_the_link_to_it() {
    let mut cluster = Cluster::of(3).await;
    let disk = TempDir::new().expect("a directory");
    let learner = Arc::new(super::learner(disk.path(), "zone-1").await);
    let mut streams = Vec::new();
    for node in &cluster.nodes {
        streams.push(Zone::link(&node.links, learner.clone(), Duration::ZERO).await);
    }
    cluster.nodes[1].stores("before", 1).await;
    let leader = cluster.leader().await;
    cluster.nodes.remove(leader).kill().await;
    cluster.nodes[0].stores("after", 1).await;
    let catalog = cluster.agree().await;
    let reached = reaches(&mut learner.catalog(), catalog.revision()).await;
    assert_eq!(reached.encode(), catalog.encode());
    let members = cluster.nodes[0].consensus.view().nodes;
    assert_eq!(members.values().filter(|member| member.zone == "zone-1").count(), 1);
}
