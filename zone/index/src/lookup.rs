//! How references find destinations. The order of preference is total, so that a reference resolves to the same
//! destination among all of a mesh and among the few that one proxy reaches.
use crate::Destination;
use shared_model::core::dataplane::BackendRef;
use shared_model::{labels::Labels, selector};
use std::sync::Arc;

/// What a reference asks for. Proxies and policies that ask alike share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lookup {
    pub by: By,
    pub port: Ports,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    Name(String),
    Labels {
        name: String,
        labels: Labels,
    },
    /// The value of `kuma.io/service`; a service of that name when nothing carries the tag.
    Tag(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ports {
    /// The service as a whole, or its lowest port.
    Any,
    /// Whatever port the one that asks has by then: all of the service's.
    All,
    Number(u16),
}

impl Lookup {
    pub fn of(backend: &BackendRef, without_port: Ports) -> Lookup {
        let port = backend.port.map_or(without_port, Ports::Number);
        let by = match backend.labels.is_empty() {
            true => By::Name(backend.name.clone()),
            false => By::Labels { name: backend.name.clone(), labels: backend.labels.clone() },
        };
        Lookup { by, port }
    }

    pub fn tag(value: &str) -> Lookup {
        Lookup { by: By::Tag(value.to_owned()), port: Ports::Any }
    }
}

impl std::fmt::Display for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.by {
            By::Name(name) => write!(f, "no MeshService is named {name:?}")?,
            By::Labels { labels, .. } => {
                let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(f, "no MeshService has the labels {}", pairs.join(","))?;
            }
            By::Tag(value) => write!(f, "nothing serves kuma.io/service {value:?}")?,
        }
        match self.port {
            Ports::Number(port) => write!(f, " and the port {port}"),
            Ports::Any | Ports::All => Ok(()),
        }
    }
}

pub(crate) fn is_named(destination: &Destination, backend: &BackendRef) -> bool {
    (backend.name.is_empty() || destination.name == backend.name)
        && (!backend.name.is_empty() || !backend.labels.is_empty())
        && selector::is_subset(&backend.labels, &destination.labels)
}

/// Which of two services is meant when both fit; the lesser one.
fn rank<'a>(zone: &str, destination: &'a Destination) -> (bool, &'a str, &'a str, &'a str) {
    let key = &destination.key;
    (key.zone != zone, &key.zone, &key.namespace, &key.name)
}

/// The best of the candidates for a port, or without one.
pub(crate) fn pick<'a>(
    zone: &str,
    candidates: impl Iterator<Item = &'a Arc<Destination>>,
    port: Option<u16>,
    default_port: Option<u16>,
) -> Option<&'a Arc<Destination>> {
    let fit = candidates.filter(|destination| match port {
        Some(port) => destination.port == port && !destination.key.section.is_empty(),
        None => true,
    });
    fit.min_by(|a, b| {
        let place = |destination: &'a Destination| {
            let section = destination.key.section.as_str();
            let is_default = !section.is_empty() && default_port == Some(destination.port);
            (rank(zone, destination), !is_default, !section.is_empty(), destination.port, section)
        };
        place(a).cmp(&place(b))
    })
}
