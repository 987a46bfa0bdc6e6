//! One voter and zones over channels: no sockets, real disks.
mod cluster;
mod replicas;

use crate::{Attached, Consensus, Error, Links, Setup};
use openraft::SnapshotPolicy;
use proto::link::{RaftCall, RaftReply, RaftRequest};
use shared_catalog::{Catalog, Command, Expected, Outcome};
use shared_model::{Resource, Revision, Timestamp, kind};
use shared_raft::{Learner, Storage, learner_id, wire};
use std::{path::Path, sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn put(name: &str, value: u64) -> Command {
    let mut mesh = Resource::new(kind::MESH, "", name, serde_json::json!({ "value": value }));
    mesh.status = Some(serde_json::json!({ "share": value as f64 / 7.0 }));
    Command::put(&mesh, Expected::Any, Timestamp::UNIX_EPOCH)
}

async fn reaches(catalog: &mut watch::Receiver<Arc<Catalog>>, revision: Revision) -> Arc<Catalog> {
    let reached = timeout(PATIENCE, catalog.wait_for(|catalog| catalog.revision() >= revision)).await;
    reached.unwrap_or_else(|_| panic!("revision {revision} does not come")).expect("published").clone()
}

async fn fill(consensus: &Consensus, names: std::ops::Range<u64>) -> Arc<Catalog> {
    for name in names {
        let outcome = consensus.propose(put(&format!("m{name}"), name)).await.expect("stored");
        assert!(matches!(outcome, Outcome::Stored { .. }), "{outcome:?}");
    }
    consensus.catalog().borrow().clone()
}

fn small_snapshots() -> openraft::Config {
    openraft::Config {
        snapshot_policy: SnapshotPolicy::LogsSinceLast(20),
        max_in_snapshot_log_to_keep: 5,
        snapshot_max_chunk_size: 700,
        ..shared_raft::config()
    }
}

/// A zone: its learner and the two ends of its stream, with a one-way distance.
struct Zone {
    learner: Arc<Learner>,
    stream: JoinHandle<()>,
}

async fn learner(dir: &Path, zone: &str) -> Learner {
    let role = format!("zone {zone}");
    let storage =
        Storage::open(dir, &role, || learner_id(uuid::Uuid::new_v4().as_u64_pair().0)).expect("it opens");
    Learner::start(storage).await.expect("it starts")
}

async fn answer(learner: &Learner, request: &RaftRequest) -> RaftReply {
    let answer = match request.call() {
        RaftCall::Append => learner.append(&request.body).await,
        RaftCall::Snapshot => learner.snapshot(&request.body).await,
        RaftCall::Unspecified => panic!("an unknown call"),
    };
    match answer {
        Ok(body) => RaftReply { id: request.id, body: body.into(), error: String::new() },
        Err(error) => RaftReply { id: request.id, body: Default::default(), error: error.to_string() },
    }
}

impl Zone {
    async fn join(links: &Links, dir: &Path, zone: &str, distance: Duration) -> Zone {
        Zone::link(links, Arc::new(learner(dir, zone).await), distance).await
    }

    async fn link(links: &Links, learner: Arc<Learner>, distance: Duration) -> Zone {
        let zone = learner.identity().role["zone ".len()..].to_owned();
        let (outbox, mut requests) = mpsc::channel::<RaftRequest>(8);
        let attached = links.attach(learner.identity().node_id, &zone, outbox).await.expect("attached");
        let own = learner.clone();
        let stream = tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                tokio::time::sleep(distance).await;
                let reply = answer(&own, &request).await;
                tokio::time::sleep(distance).await;
                attached.answered(reply);
            }
        });
        Zone { learner, stream }
    }

    async fn leave(self) {
        self.stream.abort();
        let _ = self.stream.await;
        self.learner.shutdown().await;
    }

    async fn follows(&self, catalog: &Catalog) {
        let mut own = self.learner.catalog();
        let reached = reaches(&mut own, catalog.revision()).await;
        assert_eq!(*reached, *catalog);
        assert_eq!(reached.encode(), catalog.encode());
    }
}

#[tokio::test]
async fn a_restart_keeps_everything_and_leads_at_once() {
    let dir = TempDir::new().expect("a directory");
    let begin = Instant::now();
    let (consensus, _) = Consensus::start(dir.path()).await.expect("started");
    assert!(consensus.is_leader());
    let first_start = begin.elapsed();
    let before = fill(&consensus, 0..50).await;
    let (cluster, node) = (consensus.cluster_id(), consensus.node_id());
    consensus.shutdown().await;
    assert!(matches!(consensus.propose(put("late", 1)).await, Err(Error::Stopped(_))));
    drop(consensus);

    let begin = Instant::now();
    let (consensus, _) = Consensus::start(dir.path()).await.expect("started again");
    let second_start = begin.elapsed();
    assert!(first_start.max(second_start) < Duration::from_millis(900), "{first_start:?}, {second_start:?}");
    assert_eq!((consensus.cluster_id(), consensus.node_id()), (cluster, node));
    assert_eq!(**consensus.catalog().borrow(), *before);
    let outcome = consensus.propose(put("new", 1)).await.expect("stored");
    assert_eq!(outcome, Outcome::Stored { revision: Revision(51), created: true });
}

#[tokio::test]
async fn a_restart_after_snapshots_keeps_everything() {
    let dir = TempDir::new().expect("a directory");
    let (consensus, _) = Consensus::open(Setup { config: small_snapshots(), ..Setup::alone(dir.path()) })
        .await
        .expect("started");
    let before = fill(&consensus, 0..100).await;
    let wait = consensus.raft().wait(Some(PATIENCE));
    wait.metrics(|metrics| metrics.purged.is_some(), "the log is purged").await.expect("in time");
    consensus.shutdown().await;
    drop(consensus);
    let (consensus, _) = Consensus::start(dir.path()).await.expect("started again");
    assert_eq!(**consensus.catalog().borrow(), *before);
}

#[tokio::test]
async fn commands_that_wait_together_share_entries_and_keep_their_own_outcomes() {
    let dir = TempDir::new().expect("a directory");
    let (consensus, _) = Consensus::start(dir.path()).await.expect("started");
    let last = |consensus: &Consensus| consensus.raft().metrics().borrow().last_log_index.expect("a log");
    let before = last(&consensus);
    let proposals: Vec<_> = (0..500u64)
        .map(|n| {
            let consensus = consensus.clone();
            tokio::spawn(async move { consensus.propose(put(&format!("m{}", n % 250), n / 250)).await })
        })
        .collect();
    let mut revisions = std::collections::BTreeSet::new();
    for proposal in proposals {
        let outcome = proposal.await.expect("no panic").expect("an outcome");
        assert!(revisions.insert(outcome.revision().expect("stored")), "two of {outcome:?}");
    }
    assert_eq!(revisions.last(), Some(&Revision(500)));
    let entries = last(&consensus) - before;
    assert!(entries < 100, "{entries} entries for 500 commands");
    let too_large =
        Command::Put { resource: vec![0; crate::COMMAND_MAX + 1], expected: Expected::Any, at_ms: 0 };
    assert!(matches!(consensus.propose(too_large).await, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn a_zone_follows_by_entries_and_restarts_without_a_leader() {
    let (dir, zone_dir) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let (consensus, links) = Consensus::start(dir.path()).await.expect("started");
    fill(&consensus, 0..30).await;
    let zone = Zone::join(&links, zone_dir.path(), "zone-1", Duration::ZERO).await;
    let catalog = fill(&consensus, 30..60).await;
    zone.follows(&catalog).await;
    zone.leave().await;

    // Alone: what it has is there before anybody speaks to it.
    let alone = learner(zone_dir.path(), "zone-1").await;
    assert_eq!(**alone.catalog().borrow(), *catalog);
    alone.shutdown().await;
    drop(alone);

    let newer = fill(&consensus, 60..90).await;
    let zone = Zone::join(&links, zone_dir.path(), "zone-1", Duration::ZERO).await;
    zone.follows(&newer).await;
    assert_eq!(links.followers().await.expect("known").len(), 1);
}

#[tokio::test]
async fn a_zone_follows_by_snapshot_and_restarts_without_a_leader() {
    let (dir, zone_dir) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let (consensus, links) = Consensus::open(Setup { config: small_snapshots(), ..Setup::alone(dir.path()) })
        .await
        .expect("started");
    fill(&consensus, 0..150).await;
    consensus
        .propose(Command::delete(
            shared_model::ResourceKey::new(kind::MESH, "", "m3"),
            Expected::Any,
            Timestamp::UNIX_EPOCH,
        ))
        .await
        .expect("deleted");
    let catalog = consensus.catalog().borrow().clone();
    let wait = consensus.raft().wait(Some(PATIENCE));
    wait.metrics(|metrics| metrics.purged.is_some(), "the log is purged").await.expect("in time");
    let zone = Zone::join(&links, zone_dir.path(), "zone-1", Duration::from_millis(1)).await;
    zone.follows(&catalog).await;
    assert!(zone_dir.path().join("snapshot").exists());
    let catalog = fill(&consensus, 200..205).await;
    zone.follows(&catalog).await;
    zone.leave().await;
    let alone = learner(zone_dir.path(), "zone-1").await;
    assert_eq!(**alone.catalog().borrow(), *catalog);
}

#[tokio::test]
async fn a_zone_further_away_than_a_heartbeat_follows_all_the_same() {
    let (dir, zone_dir) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let (consensus, links) = Consensus::start(dir.path()).await.expect("started");
    let zone = Zone::join(&links, zone_dir.path(), "far", Duration::from_millis(70)).await;
    let catalog = fill(&consensus, 0..40).await;
    zone.follows(&catalog).await;
    let begin = Instant::now();
    let catalog = fill(&consensus, 40..41).await;
    zone.follows(&catalog).await;
    // The entry, then that it is committed: two ways there, one back, and what openraft's clock adds.
    assert!(begin.elapsed() < Duration::from_millis(600), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_zone_that_comes_back_hears_at_once_what_it_missed() {
    let (dir, zone_dir) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let (consensus, links) = Consensus::start(dir.path()).await.expect("started");
    let zone = Zone::join(&links, zone_dir.path(), "zone-1", Duration::ZERO).await;
    let known = fill(&consensus, 0..5).await;
    zone.follows(&known).await;
    zone.leave().await;
    let missed = fill(&consensus, 5..10).await;
    // Whatever was on its way when it left has failed by now: only its return can be what starts the next attempt.
    let mut metrics = consensus.raft().metrics();
    timeout(Duration::from_millis(1_200), async { while metrics.changed().await.is_ok() {} })
        .await
        .expect_err("raft goes on");
    let begin = Instant::now();
    let zone = Zone::join(&links, zone_dir.path(), "zone-1", Duration::ZERO).await;
    zone.follows(&missed).await;
    assert!(begin.elapsed() < Duration::from_millis(700), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn an_idle_zone_is_left_in_peace() {
    let dir = TempDir::new().expect("a directory");
    let zone_dir = TempDir::new().expect("a directory");
    let (consensus, links) = Consensus::start(dir.path()).await.expect("started");
    let learner = learner(zone_dir.path(), "zone-1").await;
    let (outbox, mut requests) = mpsc::channel::<RaftRequest>(8);
    let attached = links.attach(learner.identity().node_id, "zone-1", outbox).await.expect("attached");
    let catalog = fill(&consensus, 0..5).await;
    let mut own = learner.catalog();
    while own.borrow_and_update().revision() < catalog.revision() {
        let request = timeout(PATIENCE, requests.recv()).await.expect("in time").expect("open");
        attached.answered(answer(&learner, &request).await);
    }
    let mut asked = 0;
    let end = Instant::now() + Duration::from_millis(1500);
    while let Ok(Some(request)) = tokio::time::timeout_at(end, requests.recv()).await {
        asked += 1;
        attached.answered(answer(&learner, &request).await);
    }
    assert!(asked <= 2, "{asked} requests in 1.5 s without news");
}

/// Joins, and gives the first request that `wants` likes the reply that `lie` makes of it.
async fn lies(links: &Links, node_id: u64, lie: impl Fn(&RaftRequest) -> Vec<u8>) -> (Attached, String) {
    let (outbox, mut requests) = mpsc::channel::<RaftRequest>(8);
    let attached = links.attach(node_id, "liar", outbox).await.expect("attached");
    let request = timeout(PATIENCE, requests.recv()).await.expect("in time").expect("open");
    attached.answered(RaftReply { id: request.id, body: lie(&request).into(), error: String::new() });
    let reason = timeout(PATIENCE, attached.closed()).await.expect("closed in time");
    (attached, reason)
}

#[tokio::test]
async fn a_hostile_answer_closes_its_link_and_the_leader_stays() {
    let dir = TempDir::new().expect("a directory");
    let zone_dir = TempDir::new().expect("a directory");
    let (consensus, links) = Consensus::start(dir.path()).await.expect("started");
    fill(&consensus, 0..5).await;
    let honest = Zone::join(&links, zone_dir.path(), "honest", Duration::ZERO).await;
    let term = consensus.raft().metrics().borrow().current_term;
    let node_id = learner_id(1);
    let high = openraft::Vote::new_committed(term + 1000, 5);

    let (attached, reason) =
        lies(&links, node_id, |_| wire::encode(&wire::AppendEntriesResponse::HigherVote(high))).await;
    assert!(reason.contains("claims a vote"), "{reason}");
    drop(attached);
    let far = openraft::LogId::new(openraft::CommittedLeaderId::new(term + 9, 9), 9999);
    let (attached, reason) =
        lies(&links, node_id, |_| wire::encode(&wire::AppendEntriesResponse::PartialSuccess(Some(far))))
            .await;
    assert!(reason.contains("a part"), "{reason}");
    drop(attached);
    let (attached, reason) = lies(&links, node_id, |_| vec![1, 255, 255, 3]).await;
    assert!(!reason.is_empty());

    // While the liar's link is still registered, and after.
    let catalog = fill(&consensus, 5..10).await;
    honest.follows(&catalog).await;
    drop(attached);
    assert!(consensus.is_leader());
    assert_eq!(consensus.raft().metrics().borrow().current_term, term);
}

#[tokio::test]
async fn a_learner_that_claims_conflicts_for_ever_hurts_nobody() {
    let dir = TempDir::new().expect("a directory");
    let zone_dir = TempDir::new().expect("a directory");
    let (consensus, links) = Consensus::start(dir.path()).await.expect("started");
    let honest = Zone::join(&links, zone_dir.path(), "honest", Duration::ZERO).await;
    let (outbox, mut requests) = mpsc::channel::<RaftRequest>(8);
    let attached = links.attach(learner_id(1), "liar", outbox).await.expect("attached");
    let liar = tokio::spawn(async move {
        let mut told = 0;
        while let Some(request) = requests.recv().await {
            // Now a success, now a conflict: its log comes and goes.
            told += 1;
            let response = match told % 3 {
                0 => wire::AppendEntriesResponse::Success,
                _ => wire::AppendEntriesResponse::Conflict,
            };
            attached.answered(RaftReply {
                id: request.id,
                body: wire::encode(&response).into(),
                error: String::new(),
            });
        }
    });
    let catalog = fill(&consensus, 0..50).await;
    honest.follows(&catalog).await;
    assert!(consensus.is_leader());
    liar.abort();
}

#[tokio::test]
async fn a_zone_refuses_a_leader_that_was_restored_from_an_old_backup() {
    let (dir, zone_dir) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let backup = TempDir::new().expect("a directory");
    let (consensus, links) = Consensus::start(dir.path()).await.expect("started");
    fill(&consensus, 0..10).await;
    consensus.shutdown().await;
    drop((consensus, links));
    copy(dir.path(), backup.path());

    let (consensus, links) = Consensus::start(dir.path()).await.expect("started");
    let zone = Zone::join(&links, zone_dir.path(), "zone-1", Duration::ZERO).await;
    let catalog = fill(&consensus, 10..30).await;
    zone.follows(&catalog).await;
    zone.leave().await;
    consensus.shutdown().await;
    drop((consensus, links));

    let (consensus, links) = Consensus::start(backup.path()).await.expect("started");
    let restarted = learner(zone_dir.path(), "zone-1").await;
    let (outbox, mut requests) = mpsc::channel::<RaftRequest>(8);
    let attached = links.attach(restarted.identity().node_id, "zone-1", outbox).await.expect("attached");
    fill(&consensus, 100..105).await;
    let refused = async {
        while let Some(request) = requests.recv().await {
            let reply = answer(&restarted, &request).await;
            if reply.error.contains("contradicts") {
                return;
            }
            attached.answered(reply);
        }
    };
    // Either its history is contradicted or, if its new term is the lower one, its vote.
    tokio::select! {
        () = refused => {}
        reason = attached.closed() => assert!(reason.contains("claims a vote"), "{reason}"),
        () = tokio::time::sleep(PATIENCE) => panic!("nobody minds"),
    }
    assert_eq!(**restarted.catalog().borrow(), *catalog);
}

fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).expect("read").flatten() {
        let target = to.join(file.file_name());
        if file.path().is_dir() {
            std::fs::create_dir_all(&target).expect("made");
            copy(&file.path(), &target);
        } else {
            std::fs::copy(file.path(), target).expect("copied");
        }
    }
}

#[tokio::test]
async fn a_directory_of_a_zone_is_refused() {
    let dir = TempDir::new().expect("a directory");
    drop(Storage::open(dir.path(), "zone zone-1", || learner_id(1)).expect("it opens"));
    let error = Consensus::start(dir.path()).await.err().expect("refused").to_string();
    assert!(error.ends_with("belongs to zone zone-1, not to global"), "{error}");
}
