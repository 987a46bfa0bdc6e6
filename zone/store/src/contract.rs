//! The laws of a [`ZoneStore`], as a suite that an adapter's tests call. It panics at the first law that is broken.
use crate::ZoneStore;
use shared_catalog::{Expected, Outcome, Refusal};
use shared_model::{Resource, ResourceKey, Revision, kind};
use std::sync::Arc;

/// Checks one adapter. `make` opens the store of that name: the same name gives the same store again (what was opened
/// before is dropped by then), another name an empty one.
pub async fn check(make: impl AsyncFn(&str) -> Arc<dyn ZoneStore>) {
    a_write_is_numbered_published_and_kept(&make).await;
    a_removal_is_numbered_and_kept(&make).await;
    expectations_hold(&make).await;
    a_mesh_takes_its_resources_along(&make).await;
    concurrent_writers_each_get_their_own_revision(&make).await;
    secrets_are_kept_by_name(&make).await;
}

fn mesh(name: &str) -> Resource {
    Resource::new(kind::MESH, "", name, serde_json::json!({}))
}

fn dataplane(name: &str, address: &str) -> Resource {
    Resource::new(kind::DATAPLANE, "default", name, serde_json::json!({"networking": {"address": address}}))
}

fn key(name: &str) -> ResourceKey {
    ResourceKey::new(kind::DATAPLANE, "default", name)
}

fn stored(outcome: Outcome) -> Revision {
    match outcome {
        Outcome::Stored { revision, .. } => revision,
        other => panic!("a write was not stored: {other:?}"),
    }
}

async fn put(store: &Arc<dyn ZoneStore>, resource: Resource, expected: Expected) -> Outcome {
    store.put(resource, expected).await.expect("the store writes")
}

async fn delete(store: &Arc<dyn ZoneStore>, key: ResourceKey, expected: Expected) -> Outcome {
    store.delete(key, expected).await.expect("the store writes")
}

async fn a_write_is_numbered_published_and_kept(make: &impl AsyncFn(&str) -> Arc<dyn ZoneStore>) {
    let store = make("kept").await;
    let feed = store.catalog();
    assert_eq!(feed.borrow().revision(), Revision(0), "an empty store is at revision 0");
    let unknown = put(&store, dataplane("web", "10.0.0.1"), Expected::Any).await;
    assert!(matches!(unknown, Outcome::Refused(Refusal::UnknownMesh(_))), "{unknown:?}");
    assert_eq!(stored(put(&store, mesh("default"), Expected::Any).await), Revision(1));
    assert_eq!(stored(put(&store, dataplane("web", "10.0.0.1"), Expected::Any).await), Revision(2));
    assert_eq!(feed.borrow().revision(), Revision(2), "what was answered is published");
    let same = put(&store, dataplane("web", "10.0.0.1"), Expected::Any).await;
    assert!(matches!(same, Outcome::Unchanged { revision: Revision(2) }), "{same:?}");
    let created = feed.borrow().get(&key("web")).expect("it is there").creation_time;
    assert_eq!(stored(put(&store, dataplane("web", "10.0.0.2"), Expected::Any).await), Revision(3));
    let before = feed.borrow().encode();
    drop((feed, store));
    let again = make("kept").await;
    let catalog = again.catalog().borrow().clone();
    assert_eq!(catalog.encode(), before, "a store that is opened again holds the same");
    let web = catalog.get(&key("web")).expect("it is there").clone();
    assert_eq!((web.revision, web.creation_time), (Revision(3), created));
    assert_eq!(web.spec["networking"]["address"], "10.0.0.2");
}

async fn a_removal_is_numbered_and_kept(make: &impl AsyncFn(&str) -> Arc<dyn ZoneStore>) {
    let store = make("removal").await;
    put(&store, mesh("default"), Expected::Any).await;
    put(&store, dataplane("web", "10.0.0.1"), Expected::Any).await;
    let gone = delete(&store, key("web"), Expected::Any).await;
    assert!(matches!(gone, Outcome::Deleted { revision: Revision(3) }), "{gone:?}");
    let absent = delete(&store, key("web"), Expected::Any).await;
    assert!(matches!(absent, Outcome::Refused(Refusal::NotFound)), "{absent:?}");
    drop(store);
    let again = make("removal").await;
    let catalog = again.catalog().borrow().clone();
    assert!(catalog.get(&key("web")).is_none());
    let changes = catalog.changes_since(Revision(2)).expect("the removal is remembered");
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!((changes[0].key(), changes[0].revision()), (key("web"), Revision(3)));
}

async fn expectations_hold(make: &impl AsyncFn(&str) -> Arc<dyn ZoneStore>) {
    let store = make("expectations").await;
    put(&store, mesh("default"), Expected::Any).await;
    assert_eq!(stored(put(&store, dataplane("web", "10.0.0.1"), Expected::Absent).await), Revision(2));
    let exists = put(&store, dataplane("web", "10.0.0.2"), Expected::Absent).await;
    assert!(matches!(exists, Outcome::Refused(Refusal::Exists { revision: Revision(2) })), "{exists:?}");
    let stale = put(&store, dataplane("web", "10.0.0.2"), Expected::At(1)).await;
    assert!(matches!(stale, Outcome::Refused(Refusal::Conflict { actual: Revision(2) })), "{stale:?}");
    assert_eq!(stored(put(&store, dataplane("web", "10.0.0.2"), Expected::At(2)).await), Revision(3));
    let stale = delete(&store, key("web"), Expected::At(2)).await;
    assert!(matches!(stale, Outcome::Refused(Refusal::Conflict { actual: Revision(3) })), "{stale:?}");
    assert_eq!(store.catalog().borrow().revision(), Revision(3), "what is refused changes nothing");
}

async fn a_mesh_takes_its_resources_along(make: &impl AsyncFn(&str) -> Arc<dyn ZoneStore>) {
    let store = make("meshes").await;
    put(&store, mesh("default"), Expected::Any).await;
    put(&store, dataplane("web", "10.0.0.1"), Expected::Any).await;
    let secret = Resource::new(kind::SECRET, "default", "s", serde_json::json!({"data": ""}));
    put(&store, secret.clone(), Expected::Any).await;
    let mesh_key = ResourceKey::new(kind::MESH, "", "default");
    let busy = delete(&store, mesh_key.clone(), Expected::Any).await;
    assert!(matches!(busy, Outcome::Refused(Refusal::MeshInUse { dataplanes: 1 })), "{busy:?}");
    delete(&store, key("web"), Expected::Any).await;
    let gone = delete(&store, mesh_key, Expected::Any).await;
    assert!(matches!(gone, Outcome::Deleted { .. }), "{gone:?}");
    assert!(store.catalog().borrow().get(&secret.key()).is_none());
}

async fn concurrent_writers_each_get_their_own_revision(make: &impl AsyncFn(&str) -> Arc<dyn ZoneStore>) {
    let store = make("concurrent").await;
    put(&store, mesh("default"), Expected::Any).await;
    let mut writers = tokio::task::JoinSet::new();
    for i in 0..64 {
        let store = store.clone();
        writers.spawn(async move {
            stored(put(&store, dataplane(&format!("dp-{i}"), "10.0.0.1"), Expected::Any).await)
        });
    }
    let mut revisions = writers.join_all().await;
    revisions.sort();
    assert_eq!(revisions, (2..66).map(Revision).collect::<Vec<_>>());
    let catalog = store.catalog().borrow().clone();
    assert_eq!(catalog.list(kind::DATAPLANE, Some("default")).count(), 64);
}

async fn secrets_are_kept_by_name(make: &impl AsyncFn(&str) -> Arc<dyn ZoneStore>) {
    let store = make("secrets").await;
    let secret = async |store: &Arc<dyn ZoneStore>, name: &str| store.secret(name).await.expect("it reads");
    assert_eq!(secret(&store, "ca").await, None);
    store.put_secret("ca", b"first").await.expect("it writes");
    store.put_secret("ca", b"second").await.expect("it writes");
    store.put_secret("other", b"").await.expect("it writes");
    drop(store);
    let again = make("secrets").await;
    assert_eq!(secret(&again, "ca").await.as_deref(), Some(&b"second"[..]));
    assert_eq!(secret(&again, "other").await.as_deref(), Some(&b""[..]));
    assert_eq!(again.catalog().borrow().revision(), Revision(0), "a secret is no resource");
    again.put_secret("leaf/b", b"b").await.expect("it writes");
    again.put_secret("leaf/a", b"a").await.expect("it writes");
    assert_eq!(again.secret_names("leaf/").await.expect("it reads"), ["leaf/a", "leaf/b"]);
    again.delete_secret("leaf/a").await.expect("it writes");
    again.delete_secret("never there").await.expect("it writes");
    drop(again);
    let last = make("secrets").await;
    assert_eq!(secret(&last, "leaf/a").await, None);
    assert_eq!(last.secret_names("").await.expect("it reads"), ["ca", "leaf/b", "other"]);
}
