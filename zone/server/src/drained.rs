//! Zones that an operator has disabled: what they offer is not offered here. Their links and what they have told stay, so
//! that a zone which is enabled again is there at once.
use shared_catalog::{Catalog, Change};
use shared_model::core::Zone;
use shared_model::{Resource, ResourceKey, kind, strict};

/// What zones offer to each other.
const OFFERED: [&str; 2] = [kind::MESH_SERVICE, "MeshZoneAddress"];

/// Whether a resource that is followed is hidden, because its zone is disabled.
pub fn is_hidden(resource: &Resource, followed: &Catalog) -> bool {
    let Some(zone) = resource.zone().filter(|_| OFFERED.contains(&resource.kind.as_str())) else {
        return false;
    };
    let stored = followed.get(&ResourceKey::new(kind::ZONE, "", zone));
    let spec = stored.and_then(|stored| strict::read::<Zone>(&stored.spec, "").ok());
    spec.is_some_and(|zone| !zone.enabled)
}

/// The changes as the index should hear them: what is hidden is not there, and with a Zone all that it offers comes or
/// goes. `followed` is the state after the changes.
pub fn seen(changes: Vec<Change>, followed: &Catalog) -> Vec<Change> {
    let mut seen = Vec::with_capacity(changes.len());
    for change in changes {
        let key = change.key();
        seen.push(shown(change, followed));
        if key.kind == kind::ZONE {
            let offered = OFFERED.iter().flat_map(|kind| followed.list(kind, None));
            let offered = offered.filter(|resource| resource.zone() == Some(&*key.name));
            seen.extend(offered.map(|resource| shown(Change::Put(resource.clone()), followed)));
        }
    }
    seen
}

fn shown(change: Change, followed: &Catalog) -> Change {
    match change {
        Change::Put(resource) if is_hidden(&resource, followed) => {
            Change::Deleted { key: resource.key(), revision: resource.revision }
        }
        change => change,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use shared_catalog::{Command, Expected};
    use shared_model::{Revision, Timestamp, labels};

    fn put(catalog: &mut Catalog, resource: &Resource) {
        catalog.apply(&Command::put(resource, Expected::Any, Timestamp::UNIX_EPOCH));
    }

    fn zone(name: &str, enabled: bool) -> Resource {
        Resource::new(kind::ZONE, "", name, json!({"enabled": enabled}))
    }

    fn since(catalog: &Catalog, revision: Revision) -> Vec<String> {
        let changes = seen(catalog.changes_since(revision).expect("remembered"), catalog);
        let told = changes.iter().map(|change| match change {
            Change::Put(resource) => format!("+{}", resource.name),
            Change::Deleted { key, .. } => format!("-{}", key.name),
        });
        told.collect()
    }

    #[test]
    fn a_disabled_zone_offers_nothing_and_an_enabled_one_everything_again() {
        let mut catalog = Catalog::new();
        put(&mut catalog, &Resource::new(kind::MESH, "", "default", json!({})));
        put(&mut catalog, &zone("west", true));
        let service = |name: &str, zone: &str| {
            Resource::new(kind::MESH_SERVICE, "default", name, json!({"ports": [{"port": 80}]}))
                .with_label(labels::ZONE, zone)
        };
        put(&mut catalog, &service("web", "west"));
        put(&mut catalog, &service("other", "south"));
        let before = catalog.revision();
        assert_eq!(since(&catalog, Revision(0)), ["+default", "+west", "+web", "+web", "+other"]);
        put(&mut catalog, &zone("west", false));
        assert_eq!(since(&catalog, before), ["+west", "-web"]);
        // What it writes meanwhile stays hidden, and comes with it.
        let disabled = catalog.revision();
        put(&mut catalog, &service("new", "west"));
        assert_eq!(since(&catalog, disabled), ["-new"]);
        let meanwhile = catalog.revision();
        put(&mut catalog, &zone("west", true));
        assert_eq!(since(&catalog, meanwhile), ["+west", "+new", "+web"]);
    }

    #[test]
    fn what_a_zone_needs_to_be_trusted_is_not_hidden() {
        let mut catalog = Catalog::new();
        put(&mut catalog, &zone("west", false));
        let trust =
            Resource::new(kind::MESH_TRUST, "default", "t", json!({})).with_label(labels::ZONE, "west");
        assert!(!is_hidden(&trust, &catalog));
        assert!(is_hidden(&Resource { kind: kind::MESH_SERVICE.into(), ..trust.clone() }, &catalog));
        assert!(!is_hidden(&Resource::new(kind::MESH_SERVICE, "default", "s", json!({})), &catalog));
    }
}
