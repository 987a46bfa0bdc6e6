use super::*;
use shared_catalog::Meshes;
use shared_identity::seal::SealKey;
use zone_store::Embedded;

fn holder(name: &str) -> Holder {
    Holder { proxy: ProxyId::new("default", name), stream: "1".to_owned() }
}

pub fn spec() -> IdentitySpec {
    let authority =
        AuthoritySpec { mesh: "default".into(), identity: "mtls-ca".into(), trust_domain: "default".into() };
    let uris = vec!["spiffe://default/web".to_owned()];
    let lifetime = shared_model::Duration::from_secs(3600);
    IdentitySpec { authority, spiffe_id: uris[0].clone(), uris, lifetime }
}

async fn issuer(dir: &std::path::Path) -> Certificates {
    let store = Embedded::open(dir, SealKey::from_bytes([1; 32]), Meshes::Elsewhere).await.unwrap();
    Certificates::new("east", Arc::new(store), Metrics::new().0)
}

#[tokio::test]
async fn the_authority_survives_a_restart_and_its_trust_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let first = issuer(dir.path()).await;
    let made = first.authority(&spec().authority).await.unwrap().cert_pem().to_owned();
    let key = ResourceKey::new(kind::MESH_TRUST, "default", "mtls-ca.default");
    let trust = first.store.catalog().borrow().get(&key).cloned().unwrap();
    assert_eq!(trust.spec["caBundles"][0]["pem"]["value"], made);
    drop(first);
    let again = issuer(dir.path()).await;
    assert_eq!(again.authority(&spec().authority).await.unwrap().cert_pem(), made);
}

#[tokio::test]
async fn trust_that_somebody_removed_is_published_again() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = issuer(dir.path()).await;
    let authority = spec().authority;
    let key = ResourceKey::new(kind::MESH_TRUST, "default", "mtls-ca.default");
    certificates.ensure_trust(&authority).await.unwrap();
    let revision = certificates.store.catalog().borrow().revision();
    certificates.ensure_trust(&authority).await.unwrap();
    assert_eq!(certificates.store.catalog().borrow().revision(), revision, "it is there already");
    certificates.store.delete(key.clone(), Expected::Any).await.unwrap();
    certificates.ensure_trust(&authority).await.unwrap();
    assert!(certificates.store.catalog().borrow().get(&key).is_some());
}

#[tokio::test]
async fn proxies_of_one_identity_share_a_certificate_and_are_woken_when_it_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = issuer(dir.path()).await;
    let (one, two) = (holder("web-1"), holder("web-2"));
    assert!(certificates.cached(&spec(), &one).is_none());
    let first = certificates.obtain(&spec(), &one).await.unwrap();
    let second = certificates.obtain(&spec(), &two).await.unwrap();
    assert_eq!(first.identity.version, second.identity.version);
    assert!(certificates.renew_due(first.not_before).await.is_empty());
    certificates.leave(&two);
    certificates.written().await;
    // Three quarters of its life are over.
    let late = first.not_before + Duration::from_secs(2700);
    assert_eq!(certificates.lock().due(late).renew, [spec()]);
    certificates.leave(&one);
    assert!(certificates.renew_due(late).await.is_empty());
    assert!(certificates.cached(&spec(), &one).is_none(), "what nobody holds is forgotten");
    assert!(certificates.store.secret_names("leaf/").await.unwrap().is_empty());
}

#[tokio::test]
async fn replicas_that_come_together_cost_one_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = issuer(dir.path()).await;
    let holders: Vec<Holder> = (0..16).map(|i| holder(&format!("web-{i}"))).collect();
    let spec = spec();
    let all = holders.iter().map(|holder| certificates.obtain(&spec, holder));
    let obtained = futures::future::try_join_all(all).await.unwrap();
    assert!(obtained.iter().all(|one| one.identity == obtained[0].identity));
    assert_eq!(certificates.metrics.certificates_issued.get(), 1);
    assert!(lock(&certificates.flights).is_empty());
}

#[tokio::test]
async fn a_proxy_has_the_same_certificate_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = issuer(dir.path()).await;
    let issued = first.obtain(&spec(), &holder("web-1")).await.unwrap();
    first.written().await;
    drop(first);
    let again = issuer(dir.path()).await;
    again.load().await.unwrap();
    let kept = again.cached(&spec(), &holder("web-1")).expect("it was kept");
    assert_eq!(kept.identity, issued.identity);
    assert_eq!(kept.not_after.timestamp_millis(), issued.not_after.timestamp_millis());
    assert_eq!(again.metrics.certificates_issued.get(), 0);
}
