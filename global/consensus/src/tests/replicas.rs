//! Which replicas of zones are followed, and for how long.
use super::*;
use std::collections::BTreeSet;

fn outbox() -> (mpsc::Sender<RaftRequest>, mpsc::Receiver<RaftRequest>) {
    mpsc::channel(8)
}

async fn followers(links: &Links) -> BTreeSet<u64> {
    links.followers().await.expect("known").into_keys().collect()
}

/// Waits until exactly these are followed.
async fn followed(links: &Links, wanted: &[u64]) {
    let wanted: BTreeSet<u64> = wanted.iter().copied().collect();
    let deadline = Instant::now() + PATIENCE;
    while followers(links).await != wanted {
        assert!(Instant::now() < deadline, "{:?}, not {wanted:?}", followers(links).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn replicas_of_a_zone_follow_beside_each_other() {
    let dir = TempDir::new().expect("a directory");
    let (one_dir, two_dir) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let (consensus, links) = Consensus::start(dir.path()).await.expect("started");
    let one = Zone::join(&links, one_dir.path(), "zone-1", Duration::ZERO).await;
    let two = Zone::join(&links, two_dir.path(), "zone-1", Duration::ZERO).await;
    let catalog = fill(&consensus, 0..20).await;
    one.follows(&catalog).await;
    two.follows(&catalog).await;
    // One goes, and the other does not notice.
    one.leave().await;
    let catalog = fill(&consensus, 20..40).await;
    two.follows(&catalog).await;
    assert_eq!(followers(&links).await.len(), 2);
}

#[tokio::test]
async fn a_stream_is_of_one_zone_and_the_same_replica_again_replaces_its_own() {
    let dir = TempDir::new().expect("a directory");
    let (_consensus, links) = Consensus::start(dir.path()).await.expect("started");
    let first = learner_id(1);
    assert!(matches!(links.attach(5, "zone-1", outbox().0).await, Err(Error::NotALearner { node_id: 5 })));
    let (sender, _requests) = outbox();
    let attached = links.attach(first, "zone-1", sender).await.expect("attached");
    assert!(matches!(links.attach(first, "zone-2", outbox().0).await, Err(Error::OtherZone { .. })));
    let (sender, _more) = outbox();
    let again = links.attach(first, "zone-1", sender).await.expect("attached");
    assert_eq!(timeout(PATIENCE, attached.closed()).await.expect("closed"), "the zone has dialled again");
    links.forget("zone-1").await.expect("forgotten");
    assert_eq!(timeout(PATIENCE, again.closed()).await.expect("closed"), "the zone was deleted");
    assert!(followers(&links).await.is_empty());
}

#[tokio::test]
async fn a_zone_has_so_many_replicas_and_no_more() {
    let dir = TempDir::new().expect("a directory");
    let (consensus, links) = Consensus::start(dir.path()).await.expect("started");
    let mut attached = Vec::new();
    for number in 1..=8 {
        let (sender, requests) = outbox();
        let link = links.attach(learner_id(number), "zone-1", sender).await.expect("attached");
        attached.push((link, requests));
    }
    let refused = links.attach(learner_id(9), "zone-1", outbox().0).await.err().expect("refused");
    assert!(matches!(refused, Error::TooManyReplicas { limit: 8, .. }), "{refused}");
    // One that has only just gone may come back: its place is not free.
    drop(attached.pop());
    assert!(links.attach(learner_id(9), "zone-1", outbox().0).await.is_err());
    let (sender, _requests) = outbox();
    let _other = links.attach(learner_id(10), "zone-2", sender).await.expect("another zone has its own");
    fill(&consensus, 0..3).await;
}

#[tokio::test]
async fn a_zone_that_stays_away_is_let_go_and_comes_back_by_snapshot() {
    let dir = TempDir::new().expect("a directory");
    let (near_dir, far_dir) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let setup = Setup {
        config: small_snapshots(),
        zone_absence: Duration::from_millis(600),
        ..Setup::alone(dir.path())
    };
    let (consensus, links) = Consensus::open(setup).await.expect("started");
    let near = Zone::join(&links, near_dir.path(), "near", Duration::ZERO).await;
    let far = Zone::join(&links, far_dir.path(), "far", Duration::ZERO).await;
    let (near_id, far_id) = (near.learner.identity().node_id, far.learner.identity().node_id);
    let catalog = fill(&consensus, 0..10).await;
    far.follows(&catalog).await;
    far.leave().await;
    followed(&links, &[near_id]).await;

    let catalog = fill(&consensus, 10..150).await;
    let wait = consensus.raft().wait(Some(PATIENCE));
    let purged = wait.metrics(
        |metrics| metrics.purged.is_some_and(|purged| purged.index > 50),
        "the log begins after what the zone has",
    );
    purged.await.expect("in time");
    near.follows(&catalog).await;
    let far = Zone::join(&links, far_dir.path(), "far", Duration::ZERO).await;
    assert_eq!(far.learner.identity().node_id, far_id);
    far.follows(&catalog).await;
    followed(&links, &[near_id, far_id]).await;
}
