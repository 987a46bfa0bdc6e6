//! For which trust domains a zone may bring authorities: those under which its own proxies get their identities. Another
//! zone's domain is another zone's, or whoever holds one zone could speak as every other. Pure.
use shared_catalog::Catalog;
use shared_model::{
    ResourceKey,
    core::{Mesh, MeshIdentity, mesh_identity::render},
    kind, strict,
};

/// Stands for what only a proxy knows: a label, its workload. No trust domain contains it.
const ANY: &str = "*";

/// Whether proxies of the zone can have identities in this domain: by `Mesh.mtls`, whose domain is the mesh's name and
/// shared by all zones, or by a MeshIdentity that says so for this zone.
pub fn is_own(zone: &str, mesh: &str, domain: &str, catalog: &Catalog) -> bool {
    let by_mtls = || {
        let stored = catalog.get(&ResourceKey::new(kind::MESH, "", mesh));
        let spec = stored.and_then(|stored| strict::read::<Mesh>(&stored.spec, "").ok());
        domain == mesh && spec.is_some_and(|spec| spec.enabled_backend().is_some())
    };
    let says_so = |identity: MeshIdentity| {
        let field = |field: &str| {
            Some(match field {
                "Mesh" => mesh.to_owned(),
                "Zone" => zone.to_owned(),
                _ => ANY.to_owned(),
            })
        };
        let pattern = render(identity.trust_domain(), &field, &|_| Some(ANY.to_owned()));
        pattern.is_ok_and(|pattern| matches(&pattern, domain))
    };
    let mut identities = catalog
        .list(kind::MESH_IDENTITY, Some(mesh))
        .filter(|identity| identity.zone().is_none_or(|of| of == zone))
        .filter_map(|identity| strict::read::<MeshIdentity>(&identity.spec, "").ok());
    by_mtls() || identities.any(says_so)
}

/// Whether the text is the pattern with something in place of each [`ANY`].
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once(ANY) {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8());
            ends.into_iter().any(|end| matches(after, &rest[end..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use shared_catalog::{Command, Expected};
    use shared_model::{Resource, Timestamp, labels};

    fn catalog(resources: &[Resource]) -> Catalog {
        let mut catalog = Catalog::new();
        for resource in resources {
            catalog.apply(&Command::put(resource, Expected::Any, Timestamp::UNIX_EPOCH));
        }
        catalog
    }

    fn mesh(spec: Value) -> Resource {
        Resource::new(kind::MESH, "", "default", spec)
    }

    fn identity(name: &str, domain: Option<&str>) -> Resource {
        let mut spec = json!({"selector": {"dataplane": {}}, "provider": {"type": "Bundled"}});
        if let Some(domain) = domain {
            spec["spiffeID"] = json!({"trustDomain": domain});
        }
        Resource::new(kind::MESH_IDENTITY, "default", name, spec)
    }

    #[test]
    fn a_zone_brings_trust_for_its_own_domains_only() {
        let own = |domain: &str, catalog: &Catalog| is_own("east", "default", domain, catalog);
        assert!(!own("default", &catalog(&[mesh(json!({}))])));
        let mtls = json!({"mtls": {"enabledBackend": "ca", "backends": [{"name": "ca", "type": "builtin"}]}});
        let with_mtls = catalog(&[mesh(mtls)]);
        assert!(own("default", &with_mtls) && !own("other", &with_mtls));

        let usual = catalog(&[mesh(json!({})), identity("id", None)]);
        assert!(own("default.east.mesh.local", &usual));
        assert!(!own("default.west.mesh.local", &usual) && !own("default", &usual));
        let shared = catalog(&[mesh(json!({})), identity("id", Some("company.example"))]);
        assert!(own("company.example", &shared));
        let of_west = identity("id", Some("company.example")).with_label(labels::ZONE, "west");
        assert!(!own("company.example", &catalog(&[mesh(json!({})), of_west])));
    }

    #[test]
    fn what_a_proxy_adds_may_be_anything() {
        let template = "{{ label \"team\" }}.{{ .Zone }}.example";
        let catalog = catalog(&[mesh(json!({})), identity("id", Some(template))]);
        let own = |domain: &str| is_own("east", "default", domain, &catalog);
        assert!(own("red.east.example") && own("a.b.east.example"));
        assert!(!own("red.west.example") && !own(".east.example") && !own("red.east.example.org"));
    }
}
