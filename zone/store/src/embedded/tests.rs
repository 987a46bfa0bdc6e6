use super::*;
use crate::contract;
use shared_model::kind;

fn key() -> SealKey {
    SealKey::from_bytes([7; 32])
}

fn mesh(name: &str) -> Resource {
    Resource::new(kind::MESH, "", name, serde_json::json!({}))
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    contract::check(async |name| {
        let path = dir.path().join(name);
        Arc::new(Embedded::open(&path, key(), Meshes::Here).await.unwrap()) as Arc<dyn ZoneStore>
    })
    .await;
}

#[tokio::test]
async fn a_log_longer_than_a_snapshot_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Embedded::open(&path, key(), Meshes::Here).await.unwrap();
    let total = SNAPSHOT_EVERY + 17;
    for i in 0..total {
        let stored = store.put(mesh(&format!("m{i}")), Expected::Any).await.unwrap();
        assert!(matches!(stored, Outcome::Stored { .. }), "{stored:?}");
    }
    let before = store.catalog().borrow().encode();
    drop(store);
    let again = Embedded::open(&path, key(), Meshes::Here).await.unwrap();
    assert_eq!(again.catalog().borrow().encode(), before);
    assert_eq!(again.catalog().borrow().revision().0, total);
}

#[tokio::test]
async fn what_a_crash_left_below_a_snapshot_is_not_applied_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Embedded::open(&path, key(), Meshes::Here).await.unwrap();
    store.put(mesh("first"), Expected::Any).await.unwrap();
    drop(store);
    let first = sled::open(&path).unwrap().get(log_key(1)).unwrap().unwrap();
    let store = Embedded::open(&path, key(), Meshes::Here).await.unwrap();
    for i in 0..SNAPSHOT_EVERY {
        store.put(mesh(&format!("m{i}")), Expected::Any).await.unwrap();
    }
    let before = store.catalog().borrow().encode();
    drop(store);
    let db = sled::open(&path).unwrap();
    assert_eq!(db.get(log_key(1)).unwrap(), None, "the snapshot holds it");
    db.insert(log_key(1), first).unwrap();
    drop(db);
    for _ in 0..2 {
        let again = Embedded::open(&path, key(), Meshes::Here).await.unwrap();
        assert_eq!(again.catalog().borrow().encode(), before);
    }
    assert_eq!(sled::open(&path).unwrap().get(log_key(1)).unwrap(), None);
}

#[tokio::test]
async fn another_seal_key_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(Embedded::open(&path, key(), Meshes::Here).await.unwrap());
    let error = Embedded::open(&path, SealKey::from_bytes([8; 32]), Meshes::Here).await.err().unwrap();
    assert!(matches!(error, Error::OtherSealKey { .. }), "{error}");
}

#[tokio::test]
async fn a_second_process_is_told_that_the_store_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let _first = Embedded::open(&path, key(), Meshes::Here).await.unwrap();
    let error = Embedded::open(&path, key(), Meshes::Here).await.err().unwrap();
    assert!(matches!(error, Error::InUse(_)), "{error}");
}

#[tokio::test]
async fn a_snapshot_that_a_crash_left_unfinished_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Embedded::open(&path, key(), Meshes::Here).await.unwrap();
    store.put(mesh("default"), Expected::Any).await.unwrap();
    drop(store);
    std::fs::write(path.join("snap.00000000000FFFFF.generating"), b"half").unwrap();
    let again = Embedded::open(&path, key(), Meshes::Here).await.unwrap();
    assert_eq!(again.catalog().borrow().revision().0, 1);
}

#[tokio::test]
async fn a_damaged_command_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Embedded::open(&path, key(), Meshes::Here).await.unwrap();
    store.put(mesh("default"), Expected::Any).await.unwrap();
    drop(store);
    let db = sled::open(&path).unwrap();
    let mut stored = db.get(log_key(1)).unwrap().unwrap().to_vec();
    *stored.last_mut().unwrap() ^= 1;
    db.insert(log_key(1), stored).unwrap();
    drop(db);
    let error = Embedded::open(&path, key(), Meshes::Here).await.err().unwrap();
    assert!(error.to_string().contains("command 1"), "{error}");
}

#[tokio::test]
async fn the_plain_text_of_a_secret_is_nowhere_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Embedded::open(&path, key(), Meshes::Here).await.unwrap();
    store.put_secret("ca", b"the-private-key-of-the-mesh").await.unwrap();
    drop(store);
    for entry in std::fs::read_dir(&path).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        let bytes = std::fs::read(entry.path()).unwrap();
        assert!(!bytes.windows(15).any(|window| window == b"the-private-key"), "{:?}", entry.path());
    }
}

#[tokio::test]
async fn a_zone_that_follows_a_global_owns_resources_of_meshes_that_it_does_not_hold() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let service = Resource::new(kind::MESH_SERVICE, "default", "web", serde_json::json!({}));
    for _ in 0..2 {
        let store = Embedded::open(&path, key(), Meshes::Elsewhere).await.unwrap();
        store.put(service.clone(), Expected::Any).await.unwrap();
        assert!(store.catalog().borrow().get(&service.key()).is_some());
    }
}
