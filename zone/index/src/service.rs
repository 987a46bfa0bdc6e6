//! Services: the MeshServices that are stored, and those that the zone's Dataplanes call for whether they are stored yet
//! or not; and the destinations that each offers.
use crate::destination::{Destination, DestinationTls, Endpoint, Front};
use crate::identity::service_id;
use crate::proxy::Proxy;
use crate::sni::sni;
use shared_model::core::dataplane::{Inbound, Protocol, State};
use shared_model::core::mesh_service::{Identity, IdentityKind, MeshService, Port, Selector, TargetPort};
use shared_model::{Kri, Resource, kind, labels, labels::Labels, selector::LabelSelector};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The value of `kuma.io/managed-by` on MeshServices that are generated from Dataplanes. One without it is a user's, and
/// its name is never taken.
pub const GENERATED_BY: &str = "meshservice-generator";

/// A service as it counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Definition {
    /// Its identifier, without a section.
    pub kri: Kri,
    pub service: Arc<MeshService>,
    pub labels: Labels,
    /// Follows from the Dataplanes: who answers is known from them too.
    pub generated: bool,
    /// Served by this zone's Dataplanes; those of other zones have no endpoints here.
    pub local: bool,
}

impl Definition {
    /// The value of `kuma.io/service` when the service is exactly what carries it.
    pub fn tag(&self) -> Option<&str> {
        let tags = &self.service.selector.dataplane_tags;
        tags.get(labels::SERVICE).filter(|_| tags.len() == 1).map(String::as_str)
    }
}

/// The MeshService that a value of `kuma.io/service` calls for.
pub(crate) fn from_tag(value: &str, proxies: &[&Proxy]) -> Option<MeshService> {
    let carries = |_: &Proxy, inbound: &Inbound| inbound.service() == Some(value);
    let (ports, identities) = survey(proxies, Some(value), carries);
    let dataplane_tags = BTreeMap::from([(labels::SERVICE.to_owned(), value.to_owned())]);
    let selector = Selector { dataplane_tags, ..Selector::default() };
    (!ports.is_empty()).then_some(MeshService { selector, ports, identities, state: None })
}

/// The MeshService that a value of the label `kuma.io/workload` calls for: some proxy has it and no service tag.
pub(crate) fn from_workload(value: &str, proxies: &[&Proxy]) -> Option<MeshService> {
    let untagged = |proxy: &&Proxy| proxy.body.inbounds.iter().all(|inbound| inbound.service.is_none());
    if !proxies.iter().any(untagged) {
        return None;
    }
    let (ports, identities) = survey(proxies, None, |_, _| true);
    let match_labels = Labels::from([(labels::WORKLOAD.to_owned(), value.to_owned())]);
    let selector = Selector { dataplane_labels: Some(LabelSelector { match_labels }), ..Selector::default() };
    (!ports.is_empty()).then_some(MeshService { selector, ports, identities, state: None })
}

/// The generated MeshService as a resource.
pub(crate) fn resource(mesh: &str, zone: &str, name: &str, service: &MeshService) -> Resource {
    let spec = serde_json::to_value(service).expect("a MeshService has string keys only");
    generated_labels(mesh, zone, name)
        .into_iter()
        .fold(Resource::new(kind::MESH_SERVICE, mesh, name, spec), |resource, (key, value)| {
            resource.with_label(&key, value)
        })
}

pub(crate) fn generated_labels(mesh: &str, zone: &str, name: &str) -> Labels {
    let pairs = [
        (labels::MESH, mesh),
        (labels::ZONE, zone),
        (labels::ORIGIN, labels::ORIGIN_ZONE),
        (labels::ENV, "universal"),
        (labels::DISPLAY_NAME, name),
        (labels::MANAGED_BY, GENERATED_BY),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Ports and identities of the inbounds that count.
fn survey(
    proxies: &[&Proxy],
    tag: Option<&str>,
    counts: impl Fn(&Proxy, &Inbound) -> bool,
) -> (Vec<Port>, Vec<Identity>) {
    let mut found: BTreeMap<u16, (BTreeSet<&str>, BTreeSet<Protocol>)> = BTreeMap::new();
    let mut identities = BTreeSet::new();
    for proxy in proxies {
        let inbounds = proxy.body.dataplane.networking.inbound.iter();
        for inbound in inbounds.filter(|inbound| inbound.state != State::Ignored && counts(proxy, inbound)) {
            let (names, protocols) = found.entry(inbound.port).or_default();
            names.insert(&inbound.name);
            protocols.insert(inbound.protocol());
            identities.extend(match (&proxy.identified.spec, tag) {
                (Some(_), Some(tag)) if proxy.identified.by_service => {
                    Some(Identity { kind: IdentityKind::ServiceTag, value: tag.to_owned() })
                }
                (Some(spec), _) => {
                    Some(Identity { kind: IdentityKind::SpiffeId, value: spec.spiffe_id.clone() })
                }
                (None, _) => None,
            });
        }
    }
    let mut taken = BTreeSet::new();
    let ports = found.into_iter().map(|(port, (names, protocols))| {
        // A name stands for a port only when all proxies call it so and no other port has it.
        let name = names.first().filter(|_| names.len() == 1).copied().unwrap_or_default();
        let name = if taken.insert(name) { name.to_owned() } else { String::new() };
        Port { name, port, target_port: Some(TargetPort::Number(port)), app_protocol: common(protocols) }
    });
    (ports.collect(), identities.into_iter().collect())
}

/// What all of them speak.
fn common(protocols: impl IntoIterator<Item = Protocol>) -> Protocol {
    let protocols: BTreeSet<Protocol> = protocols.into_iter().collect();
    match protocols.first() {
        Some(only) if protocols.len() == 1 => *only,
        Some(_) if protocols.iter().all(|p| matches!(p, Protocol::Http2 | Protocol::Grpc)) => Protocol::Http2,
        _ => Protocol::Tcp,
    }
}

/// What a service offers, port by port; and as a whole when it is a service tag on several ports. `proxies` may be more
/// than it selects. `mesh_has_identities`: some proxy of the mesh could have one.
pub(crate) fn destinations(
    definition: &Definition,
    zone: &str,
    proxies: &[&Proxy],
    mesh_has_identities: bool,
) -> Vec<Destination> {
    let service = &definition.service;
    let inbounds = || {
        let all =
            proxies.iter().flat_map(|proxy| (0..proxy.body.inbounds.len()).map(move |i| Served { proxy, i }));
        all.filter(|served| definition.local && served.counts(service))
    };
    let offer = |section: String, port: u16, protocol: Protocol, served: Vec<Served>| Destination {
        front: Arc::new(Front {
            key: definition.kri.with_section(section),
            name: definition.kri.name.clone(),
            zone: definition.kri.zone.clone(),
            service_tag: definition.tag().map(str::to_owned),
            labels: definition.labels.clone(),
            port,
            protocol,
            tls: tls(definition, port, &served, mesh_has_identities),
        }),
        endpoints: Arc::new(endpoints(zone, &served)),
    };
    let mut sections = BTreeSet::new();
    let mut offers: Vec<Destination> = Vec::new();
    for port in &service.ports {
        // A second port under one name is known by its number.
        let section = Some(port.section()).filter(|section| sections.insert(section.clone()));
        let section = section.unwrap_or_else(|| port.port.to_string());
        let served = inbounds().filter(|served| leads_to(port, served.inbound())).collect();
        offers.push(offer(section, port.port, port.app_protocol, served));
    }
    if definition.tag().is_some() && service.ports.len() > 1 {
        let served =
            inbounds().filter(|served| service.ports.iter().any(|port| leads_to(port, served.inbound())));
        let protocol = common(service.ports.iter().map(|port| port.app_protocol));
        offers.push(offer(String::new(), 0, protocol, served.collect()));
    }
    offers
}

/// One inbound of a proxy.
#[derive(Clone, Copy)]
struct Served<'a> {
    proxy: &'a Proxy,
    i: usize,
}

impl<'a> Served<'a> {
    fn inbound(&self) -> &'a Inbound {
        &self.proxy.body.dataplane.networking.inbound[self.i]
    }

    fn counts(&self, service: &MeshService) -> bool {
        let (body, inbound) = (&self.proxy.body, self.inbound());
        inbound.state != State::Ignored
            && !self.proxy.contest.lost.contains(&self.i)
            && service.selects(&body.id.name, &body.labels, &inbound.tags)
    }
}

fn leads_to(port: &Port, inbound: &Inbound) -> bool {
    match &port.target_port {
        None => inbound.port == port.port,
        Some(TargetPort::Number(number)) => inbound.port == *number,
        Some(TargetPort::Name(name)) => inbound.name == *name || name.parse() == Ok(inbound.port),
    }
}

/// A proxy that should have an identity and cannot get it serves nobody, so it is no endpoint.
fn endpoints(zone: &str, served: &[Served]) -> Vec<Endpoint> {
    let usable =
        served.iter().filter(|s| !s.proxy.identified.is_intended() || s.proxy.identified.spec.is_some());
    let found: BTreeMap<(&str, u16), bool> =
        usable.map(|s| (s.proxy.body.advertised(s.i), s.inbound().is_ready())).collect();
    found
        .into_iter()
        .map(|((address, port), healthy)| Endpoint {
            address: address.to_owned(),
            port,
            zone: zone.to_owned(),
            healthy,
        })
        .collect()
}

fn tls(
    definition: &Definition,
    port: u16,
    served: &[Served],
    mesh_has_identities: bool,
) -> Option<DestinationTls> {
    let kri = &definition.kri;
    let written = || -> BTreeSet<String> {
        let id = |identity: &Identity| match identity.kind {
            IdentityKind::SpiffeId => identity.value.clone(),
            IdentityKind::ServiceTag => service_id(&kri.mesh, &identity.value),
        };
        definition.service.identities.iter().map(id).collect()
    };
    let spiffe_ids = match served {
        // Nobody serves it here: what is written tells how it will be reached.
        [] if !definition.local || mesh_has_identities => written(),
        [] => return None,
        served if served.iter().any(|s| !s.proxy.identified.is_intended()) => return None,
        served if definition.generated || definition.service.identities.is_empty() => {
            let ids = served.iter().filter_map(|s| {
                s.proxy.identified.answers_as(&kri.mesh, s.proxy.body.inbounds[s.i].service.as_deref())
            });
            ids.collect()
        }
        _ => written(),
    };
    (!spiffe_ids.is_empty()).then(|| DestinationTls { sni: sni(&kri.name, port, &kri.mesh), spiffe_ids })
}
