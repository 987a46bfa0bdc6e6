//! What a zone may bring into the catalog: the resources that other zones need to reach its services, under its own name
//! and nobody else's. Pure.
use super::{naming, trust};
use proto::link::{Submit, submit::Change};
use shared_catalog::Catalog;
use shared_model::{Resource, core::MeshTrust, kind, labels, strict};

/// The kinds that a zone brings.
const KINDS: &[&str] = &[kind::MESH_SERVICE, kind::MESH_TRUST, "MeshZoneAddress"];

/// A submission that holds, with the name and the labels that it has at global.
#[derive(Debug, PartialEq)]
pub enum Admitted {
    Put(Resource),
    Delete(shared_model::ResourceKey),
    /// It is gone already.
    Nothing,
}

/// Judges one submission of a zone; the reason of a refusal is for the zone's log.
pub fn admit(zone: &str, submit: &Submit, catalog: &Catalog) -> Result<Admitted, String> {
    match &submit.change {
        None => Err("the submission is empty".into()),
        Some(Change::Put(bytes)) => put(zone, bytes, catalog).map(Admitted::Put),
        Some(Change::Delete(key)) => {
            check_kind(zone, &key.kind)?;
            let mut own =
                catalog.list(&key.kind, Some(&key.mesh)).filter(|resource| resource.zone() == Some(zone));
            let found = own.find(|resource| resource.display_name() == key.name);
            Ok(found.map_or(Admitted::Nothing, |resource| Admitted::Delete(resource.key())))
        }
    }
}

fn put(zone: &str, bytes: &[u8], catalog: &Catalog) -> Result<Resource, String> {
    let document =
        serde_json::from_slice(bytes).map_err(|error| format!("the resource is not JSON: {error}"))?;
    let mut resource = Resource::from_json(&document).map_err(|problems| join(&problems))?;
    check_kind(zone, &resource.kind)?;
    for (label, pinned) in [(labels::ZONE, zone), (labels::ORIGIN, labels::ORIGIN_ZONE)] {
        match resource.labels.get(label) {
            Some(given) if given != pinned => {
                return Err(format!(
                    "{}: the label {label} is {given:?}, from this zone it is {pinned:?}",
                    resource.key()
                ));
            }
            _ => resource.labels.insert(label.to_owned(), pinned.to_owned()),
        };
    }
    resource.labels.insert(labels::MESH.to_owned(), resource.mesh.clone());
    let display = resource.display_name().to_owned();
    resource.labels.insert(labels::DISPLAY_NAME.to_owned(), display);
    let problems = shared_policy::validate(&resource);
    if !problems.is_empty() {
        return Err(format!("{}: {}", resource.key(), join(&problems)));
    }
    if let Some(domain) = trusted(&resource)
        && !trust::is_own(zone, &resource.mesh, &domain, catalog)
    {
        return Err(format!(
            "{}: zone {zone} has no identities in the trust domain {domain:?}: neither Mesh.mtls nor a MeshIdentity gives any",
            resource.key()
        ));
    }
    resource.name = naming::hashed(&resource);
    match catalog.get(&resource.key()) {
        Some(stored) if stored.zone() != Some(zone) => {
            Err(format!("{} is not owned by zone {zone}", resource.key()))
        }
        _ => Ok(resource),
    }
}

/// The trust domain of a MeshTrust.
fn trusted(resource: &Resource) -> Option<String> {
    let is_trust = resource.kind == kind::MESH_TRUST;
    is_trust
        .then(|| strict::read::<MeshTrust>(&resource.spec, "").ok())
        .flatten()
        .map(|trust| trust.trust_domain)
}

fn check_kind(zone: &str, kind: &str) -> Result<(), String> {
    match KINDS.contains(&kind) {
        true => Ok(()),
        false => Err(format!("zone {zone} may not write a {kind} at global: it brings {}", KINDS.join(", "))),
    }
}

fn join(problems: &[shared_model::Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::link::Key;
    use serde_json::{Value, json};
    use shared_catalog::{Command, Expected};
    use shared_model::{ResourceKey, Timestamp};

    fn service(name: &str) -> Value {
        json!({"type": "MeshService", "mesh": "default", "name": name, "spec": {
            "selector": {"dataplaneTags": {"kuma.io/service": name}},
            "ports": [{"port": 80, "targetPort": 80, "appProtocol": "http"}],
        }})
    }

    fn submit(document: &Value) -> Submit {
        Submit { id: 1, change: Some(Change::Put(serde_json::to_vec(document).expect("json").into())) }
    }

    fn refused(document: &Value, catalog: &Catalog) -> String {
        admit("east", &submit(document), catalog).expect_err("refused")
    }

    #[test]
    fn a_service_gets_the_zones_labels_and_its_name_at_global() {
        let admitted = admit("east", &submit(&service("web")), &Catalog::new()).expect("admitted");
        let Admitted::Put(resource) = admitted else { panic!("a put: {admitted:?}") };
        assert_eq!(resource.zone(), Some("east"));
        assert_eq!(resource.labels[labels::ORIGIN], "zone");
        assert_eq!(resource.display_name(), "web");
        assert!(
            resource.name.starts_with("web-") && resource.name.len() == "web-".len() + 16,
            "{}",
            resource.name
        );
    }

    #[test]
    fn a_zone_writes_nothing_that_is_not_its_own() {
        let catalog = Catalog::new();
        let mesh = json!({"type": "Mesh", "name": "default"});
        assert!(refused(&mesh, &catalog).contains("may not write a Mesh"));
        let policy = json!({"type": "MeshTimeout", "mesh": "default", "name": "t", "spec": {}});
        assert!(refused(&policy, &catalog).contains("may not write a MeshTimeout"));
        let mut foreign = service("web");
        foreign["labels"] = json!({"kuma.io/zone": "west"});
        assert!(refused(&foreign, &catalog).contains("kuma.io/zone"));
        let mut typo = service("web");
        typo["spec"]["prots"] = json!([]);
        assert!(refused(&typo, &catalog).contains("prots"));
        let secret = Submit {
            id: 1,
            change: Some(Change::Delete(Key {
                kind: "Secret".into(),
                mesh: "default".into(),
                name: "s".into(),
            })),
        };
        assert!(admit("east", &secret, &catalog).is_err());
    }

    #[test]
    fn a_zone_brings_trust_for_its_own_domain_only() {
        let authority = shared_identity::ca::Authority::generate(
            "test",
            None,
            Timestamp::UNIX_EPOCH,
            std::time::Duration::from_secs(3600),
        )
        .expect("an authority");
        let trust = |domain: &str| {
            let spec = MeshTrust::of(domain, authority.cert_pem());
            json!({"type": "MeshTrust", "mesh": "default", "name": "t", "spec": spec})
        };
        let mut catalog = Catalog::new();
        let identity = json!({"selector": {"dataplane": {}}, "provider": {"type": "Bundled"}});
        for resource in [
            Resource::new(kind::MESH, "", "default", json!({})),
            Resource::new(kind::MESH_IDENTITY, "default", "id", identity),
        ] {
            catalog.apply(&Command::put(&resource, Expected::Any, Timestamp::UNIX_EPOCH));
        }
        let own = submit(&trust("default.east.mesh.local"));
        assert!(matches!(admit("east", &own, &catalog), Ok(Admitted::Put(_))));
        assert!(refused(&trust("default.west.mesh.local"), &catalog).contains("has no identities"));
        assert!(refused(&trust("default"), &catalog).contains("has no identities"));
    }

    #[test]
    fn a_name_that_somebody_else_holds_is_left_alone() {
        let Ok(Admitted::Put(mine)) = admit("east", &submit(&service("web")), &Catalog::new()) else {
            panic!("a put")
        };
        let mut theirs = mine.clone();
        theirs.labels.remove(labels::ZONE);
        let mut catalog = Catalog::new();
        for resource in [Resource::new(kind::MESH, "", "default", json!({})), theirs] {
            catalog.apply(&Command::put(&resource, Expected::Any, Timestamp::UNIX_EPOCH));
        }
        assert!(refused(&service("web"), &catalog).contains("not owned by zone east"));
    }

    #[test]
    fn a_deletion_finds_the_resource_by_what_the_zone_calls_it() {
        let mut catalog = Catalog::new();
        let Ok(Admitted::Put(mine)) = admit("east", &submit(&service("web")), &catalog) else {
            panic!("a put")
        };
        for resource in [&Resource::new(kind::MESH, "", "default", json!({})), &mine] {
            catalog.apply(&Command::put(resource, Expected::Any, Timestamp::UNIX_EPOCH));
        }
        let key = Key { kind: "MeshService".into(), mesh: "default".into(), name: "web".into() };
        let delete = Submit { id: 2, change: Some(Change::Delete(key)) };
        let wanted = ResourceKey::new("MeshService", "default", mine.name);
        assert_eq!(admit("east", &delete, &catalog), Ok(Admitted::Delete(wanted)));
        assert_eq!(admit("west", &delete, &catalog), Ok(Admitted::Nothing));
    }
}
