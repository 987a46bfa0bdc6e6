//! Who may write what, and the labels that a write gets. Pure: everything it needs comes in.
//!
//! Global owns what governs all zones; a zone owns its proxies and what they offer; policies may be written at either
//! and stay where they were written. What says where a resource comes from (`kuma.io/origin`, `kuma.io/zone`,
//! `kuma.io/display-name`) is set here and by synchronisation, and by nobody else.
use crate::{backend::Mode, error::Refused};
use shared_identity::names;
use shared_model::{Kind, Resource, Shape, kind, kind::WrittenAt, labels};

/// Where a write arrives.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub mode: Mode,
    /// The zone's name; `None` at global.
    pub zone: Option<&'a str>,
}

/// Refuses a write of a kind that this place does not own. It needs no document, so a wrong place is told first.
pub fn check_kind(place: Place<'_>, kind: &Kind) -> Result<(), Refused> {
    let name = kind.name;
    let refused = match (place.mode, kind.written_at) {
        (_, WrittenAt::Nobody) => format!("{name} is computed by the control plane and cannot be written"),
        (Mode::Global, WrittenAt::Zone) => format!("{name} is written in its zone, not at global"),
        (Mode::FederatedZone, WrittenAt::Global) => format!("{name} is written at global, not in a zone"),
        (Mode::StandaloneZone, _) if name == kind::ZONE => "a standalone zone keeps no zones".to_owned(),
        _ => return Ok(()),
    };
    Err(Refused::NotAllowed(refused))
}

/// Refuses a write that does not belong here, and fills in the computed labels of one that does. `stored` is what is
/// there under that name, `followed` whether it came from global.
pub fn admit_put(
    place: Place<'_>,
    kind: &Kind,
    resource: &mut Resource,
    stored: Option<&Resource>,
    followed: bool,
) -> Result<(), Refused> {
    check_kind(place, kind)?;
    check_signing_key(resource)?;
    check_owner(place, resource, stored, followed)?;
    let may_be_zones = matches!(kind.written_at, WrittenAt::Zone | WrittenAt::Both) && !kind.admin_only;
    if place.mode == Mode::FederatedZone
        && kind.written_at == WrittenAt::Both
        && kind.shape == Shape::Spec
        && resource.labels.get(labels::ORIGIN).is_none_or(|origin| origin != labels::ORIGIN_ZONE)
    {
        let reason =
            "must be \"zone\": this control plane follows a global, and the label says that the zone owns it";
        return Err(Refused::invalid(path(labels::ORIGIN), reason));
    }
    let mut computed = Vec::new();
    if kind.is_mesh_scoped() {
        computed.push((labels::MESH, resource.mesh.clone()));
    }
    match place.zone {
        Some(zone) if may_be_zones => {
            computed.push((labels::ORIGIN, labels::ORIGIN_ZONE.to_owned()));
            computed.push((labels::ZONE, zone.to_owned()));
            computed.push((labels::ENV, "universal".to_owned()));
        }
        _ => {
            let origin =
                resource.labels.get(labels::ORIGIN).filter(|origin| *origin != labels::ORIGIN_GLOBAL);
            if place.mode == Mode::Global && origin.is_some() {
                return Err(Refused::invalid(
                    path(labels::ORIGIN),
                    "must be \"global\" or left out at global",
                ));
            }
            if place.mode == Mode::Global {
                resource.labels.remove(labels::ORIGIN);
            }
            if resource.labels.contains_key(labels::ZONE) {
                return Err(Refused::invalid(
                    path(labels::ZONE),
                    "is set by the control plane, and only in a zone",
                ));
            }
        }
    }
    if resource.labels.get(labels::DISPLAY_NAME).is_some_and(|name| *name != resource.name) {
        return Err(Refused::invalid(
            path(labels::DISPLAY_NAME),
            format!("must be {:?} or left out", resource.name),
        ));
    }
    for (label, value) in computed {
        match resource.labels.get(label) {
            Some(given) if *given != value => {
                return Err(Refused::invalid(
                    path(label),
                    format!("must be {value:?} or left out, not {given:?}"),
                ));
            }
            _ => resource.labels.insert(label.to_owned(), value),
        };
    }
    Ok(())
}

/// Refuses a deletion that does not belong here.
pub fn admit_delete(place: Place<'_>, kind: &Kind, stored: &Resource, followed: bool) -> Result<(), Refused> {
    check_kind(place, kind)?;
    check_owner(place, stored, Some(stored), followed)
}

/// The private halves of signing keys are made, sealed and stored by the control plane itself.
fn check_signing_key(resource: &Resource) -> Result<(), Refused> {
    match names::is_private_key(&resource.key()) {
        true => Err(Refused::Forbidden(format!(
            "{} is the name of a signing key: the control plane makes and seals those itself",
            resource.key()
        ))),
        false => Ok(()),
    }
}

fn check_owner(
    place: Place<'_>,
    resource: &Resource,
    stored: Option<&Resource>,
    followed: bool,
) -> Result<(), Refused> {
    let Some(stored) = stored else { return Ok(()) };
    let key = resource.key();
    match stored.zone() {
        Some(zone) if place.zone != Some(zone) => {
            Err(Refused::Forbidden(format!("{key} is owned by zone {zone}: change it there")))
        }
        None if place.mode == Mode::FederatedZone && followed => {
            Err(Refused::Forbidden(format!("{key} is owned by global: change it there")))
        }
        _ => Ok(()),
    }
}

fn path(label: &str) -> String {
    format!("labels[{label:?}]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const GLOBAL: Place<'_> = Place { mode: Mode::Global, zone: None };
    const ZONE: Place<'_> = Place { mode: Mode::FederatedZone, zone: Some("east") };
    const ALONE: Place<'_> = Place { mode: Mode::StandaloneZone, zone: Some("east") };

    fn put(place: Place<'_>, mut resource: Resource, stored: Option<&Resource>) -> Result<Resource, String> {
        let kind = kind::by_name(&resource.kind).expect("a kind");
        let followed = stored.is_some_and(|stored| stored.zone().is_none());
        admit_put(place, kind, &mut resource, stored, followed).map_err(|error| error.to_string())?;
        Ok(resource)
    }

    fn resource(kind: &str) -> Resource {
        let mesh = if kind::by_name(kind).is_some_and(Kind::is_mesh_scoped) { "default" } else { "" };
        Resource::new(kind, mesh, "a", json!({}))
    }

    #[test]
    fn each_kind_is_written_where_it_is_owned() {
        for (place, kind, good) in [
            (GLOBAL, "Mesh", true),
            (GLOBAL, "MeshTimeout", true),
            (GLOBAL, "Zone", true),
            (GLOBAL, "Dataplane", false),
            (GLOBAL, "MeshService", false),
            (ZONE, "Mesh", false),
            (ZONE, "Zone", false),
            (ZONE, "Dataplane", true),
            (ZONE, "MeshTimeout", false),
            (ALONE, "Mesh", true),
            (ALONE, "MeshTimeout", true),
            (ALONE, "Zone", false),
        ] {
            assert_eq!(put(place, resource(kind), None).is_ok(), good, "{kind} at {:?}", place.mode);
        }
    }

    #[test]
    fn a_zones_own_policy_says_so_and_gets_its_labels() {
        let own = resource("MeshTimeout").with_label(labels::ORIGIN, "zone");
        let stored = put(ZONE, own.clone(), None).expect("admitted");
        assert_eq!(stored.zone(), Some("east"));
        assert_eq!(stored.labels[labels::MESH], "default");
        assert!(put(ZONE, own.clone().with_label(labels::ZONE, "west"), None).is_err());
        assert!(put(GLOBAL, own, None).expect_err("refused").contains("kuma.io/origin"));
    }

    #[test]
    fn nobody_takes_over_what_another_owns() {
        let wests =
            resource("MeshTimeout").with_label(labels::ZONE, "west").with_label(labels::ORIGIN, "zone");
        assert!(
            put(GLOBAL, resource("MeshTimeout"), Some(&wests)).expect_err("refused").contains("zone west")
        );
        let globals = resource("MeshTimeout");
        let own = resource("MeshTimeout").with_label(labels::ORIGIN, "zone");
        assert!(put(ZONE, own, Some(&globals)).expect_err("refused").contains("owned by global"));
        assert!(put(GLOBAL, resource("MeshTimeout").with_label(labels::ZONE, "west"), None).is_err());
        assert!(put(GLOBAL, resource("MeshTimeout").with_label(labels::DISPLAY_NAME, "b"), None).is_err());
        let key = Resource::new(kind::GLOBAL_SECRET, "", "user-token-signing-key-1", json!({}));
        assert!(put(GLOBAL, key, None).is_err());
    }
}
