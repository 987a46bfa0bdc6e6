//! KRI, the name of a resource across meshes and zones: `kri_<short>_<mesh>_<zone>_<namespace>_<name>_<section>`.
use crate::{kind, labels, resource::Resource};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A Kuma resource identifier. Empty parts are kept when printed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Kri {
    /// The kind's short name, such as `msvc`.
    pub short: String,
    pub mesh: String,
    pub zone: String,
    pub namespace: String,
    /// The display name: what the user called it, before a synchronisation renamed it.
    pub name: String,
    /// A part of the resource: a port's name or number, a rule's index; empty for the whole.
    pub section: String,
}

impl Kri {
    /// The identifier of a resource; `None` for kinds without a short name.
    pub fn of(resource: &Resource) -> Option<Kri> {
        let short = kind::by_name(&resource.kind)?.short;
        let label = |key: &str| resource.labels.get(key).cloned().unwrap_or_default();
        Some(Kri {
            short: short.to_owned(),
            mesh: resource.mesh.clone(),
            zone: label(labels::ZONE),
            namespace: label(labels::NAMESPACE),
            name: resource.display_name().to_owned(),
            section: String::new(),
        })
    }

    pub fn with_section(&self, section: impl Into<String>) -> Kri {
        Kri { section: section.into(), ..self.clone() }
    }

    /// Reads the printed form. Names may hold `_` in old meshes only, so exactly seven parts are asked for.
    pub fn parse(text: &str) -> Result<Kri, String> {
        let parts: Vec<&str> = text.split('_').collect();
        match parts.as_slice() {
            ["kri", short, mesh, zone, namespace, name, section] => Ok(Kri {
                short: (*short).to_owned(),
                mesh: (*mesh).to_owned(),
                zone: (*zone).to_owned(),
                namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
                section: (*section).to_owned(),
            }),
            _ => Err(format!("{text:?} is not a KRI: kri_<kind>_<mesh>_<zone>_<namespace>_<name>_<section>")),
        }
    }
}

impl fmt::Display for Kri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kri { short, mesh, zone, namespace, name, section } = self;
        write!(f, "kri_{short}_{mesh}_{zone}_{namespace}_{name}_{section}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kri_survives_printing_and_parsing() {
        for text in ["kri_msvc_default_east_demo_backend_http", "kri_mtp_default___one_"] {
            assert_eq!(Kri::parse(text).map(|kri| kri.to_string()), Ok(text.to_owned()));
        }
        assert!(Kri::parse("kri_msvc_default").is_err());
    }
}
