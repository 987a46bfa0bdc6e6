use super::*;
use shared_catalog::Meshes;
use shared_identity::seal::SealKey;
use zone_store::Embedded;

fn proxy() -> ProxyId {
    ProxyId::new("default", "web-1")
}

fn spec() -> IdentitySpec {
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
async fn proxies_of_one_identity_share_a_certificate_and_are_woken_when_it_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = issuer(dir.path()).await;
    let (one, two) = (proxy(), ProxyId::new("default", "web-2"));
    assert!(certificates.cached(&spec(), &one).is_none());
    let first = certificates.obtain(&spec(), &one).await.unwrap();
    let second = certificates.obtain(&spec(), &two).await.unwrap();
    assert_eq!(first.identity.version, second.identity.version);
    let now = shared_node::time::now();
    assert!(certificates.renew_due(now).await.is_empty());
    certificates.leave(&two);
    let late = now + Duration::from_secs(3600);
    certificates.lock().get_mut(&spec()).unwrap().renew_at = now;
    assert_eq!(certificates.renew_due(now).await, BTreeSet::from([one.clone()]));
    assert_ne!(certificates.cached(&spec(), &one).unwrap().identity.version, first.identity.version);
    certificates.leave(&one);
    assert!(certificates.renew_due(late).await.is_empty());
    assert!(certificates.cached(&spec(), &one).is_none(), "what nobody holds is forgotten");
}
