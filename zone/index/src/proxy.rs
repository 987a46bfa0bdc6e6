//! What the index keeps of one proxy, in parts, so that a change replaces only the part it concerns.
use crate::identity::Identified;
use crate::lookup::{Lookup, Ports};
use crate::outlook::{Kept, Selection};
use crate::view::{InboundView, OutboundView, ProxyId};
use shared_model::core::Dataplane;
use shared_model::core::dataplane::Outbound;
use shared_model::{Problem, Resource, labels, labels::Labels, names};
use shared_policy::{InboundFacts, ProxyFacts};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub body: Arc<Body>,
    pub identified: Arc<Identified>,
    pub selection: Arc<Selection>,
    pub reach: Arc<Reach>,
    pub contest: Arc<Contest>,
}

/// What the Dataplane itself says.
#[derive(Debug)]
pub(crate) struct Body {
    pub id: ProxyId,
    pub resource: Arc<Resource>,
    /// Without the outbounds.
    pub dataplane: Arc<Dataplane>,
    /// Shared with all that have the same.
    pub outbounds: Arc<Vec<Outbound>>,
    pub labels: Labels,
    pub facts: Vec<InboundFacts>,
    pub inbounds: Arc<Vec<InboundView>>,
    /// Shown, though nothing is left out of the view.
    pub remarks: Vec<Problem>,
}

/// Inbounds that are no endpoints: an older Dataplane holds their address and port, or nobody could dial it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Contest {
    pub lost: BTreeSet<usize>,
    pub problems: Vec<Problem>,
}

/// Where the proxy's lookups lead.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Reach {
    pub lookups: BTreeSet<Arc<Lookup>>,
    pub outbounds: Arc<Vec<OutboundView>>,
    /// The numbers of the destinations, in the order of their keys.
    pub scope: Vec<u64>,
    pub problems: Vec<Problem>,
    pub outlook: Kept,
}

impl Body {
    pub fn new(
        id: ProxyId,
        zone: &str,
        resource: Arc<Resource>,
        dataplane: Dataplane,
        outbounds: Arc<Vec<Outbound>>,
    ) -> Body {
        let labels = effective_labels(&resource, zone);
        let inbounds: Vec<InboundView> = dataplane
            .networking
            .inbound
            .iter()
            .map(|inbound| {
                let address = dataplane.inbound_address(inbound).to_owned();
                let facts = InboundFacts {
                    address: address.clone(),
                    port: inbound.port,
                    section: inbound.section(),
                    protocol: inbound.protocol(),
                    tags: inbound.tags.clone(),
                };
                InboundView {
                    facts,
                    address,
                    port: inbound.port,
                    service_address: inbound.service_address().to_owned(),
                    service_port: inbound.service_port(),
                    protocol: inbound.protocol(),
                    service: inbound.service().map(str::to_owned),
                }
            })
            .collect();
        Body {
            facts: inbounds.iter().map(|inbound| inbound.facts.clone()).collect(),
            remarks: remarks(&dataplane, &labels),
            dataplane: Arc::new(dataplane),
            outbounds,
            id,
            resource,
            labels,
            inbounds: Arc::new(inbounds),
        }
    }

    pub fn facts<'a>(&'a self, zone: &'a str) -> ProxyFacts<'a> {
        ProxyFacts {
            mesh: &self.id.mesh,
            name: &self.id.name,
            zone,
            labels: &self.labels,
            inbounds: &self.facts,
        }
    }

    /// Where others reach an inbound.
    pub fn advertised(&self, inbound: usize) -> (&str, u16) {
        let view = &self.inbounds[inbound];
        let advertised = self.dataplane.networking.advertised_address.as_deref();
        (advertised.unwrap_or(&view.address), view.port)
    }

    /// True when policies cannot tell the two apart.
    pub fn same_facts(&self, other: &Body) -> bool {
        self.labels == other.labels && self.facts == other.facts
    }

    /// True when both offer the same to others.
    pub fn same_offer(&self, other: &Body) -> bool {
        let (own, theirs) = (&self.dataplane.networking, &other.dataplane.networking);
        self.labels == other.labels
            && own.inbound == theirs.inbound
            && own.address == theirs.address
            && own.advertised_address == theirs.advertised_address
    }

    /// The services of 2.x documents that it serves.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.inbounds.iter().filter_map(|inbound| inbound.service.as_deref())
    }

    /// What each outbound asks for, or why it asks for nothing.
    pub fn asks(&self) -> impl Iterator<Item = (&Outbound, Result<Lookup, Problem>)> {
        self.outbounds.iter().enumerate().map(|(i, outbound)| (outbound, ask(i, outbound)))
    }
}

impl Proxy {
    pub fn problems(&self) -> Vec<Problem> {
        let parts = [&self.contest.problems, &self.identified.problems, &self.reach.problems];
        parts.into_iter().flatten().cloned().collect()
    }
}

/// A resource's labels and those that its place in the zone gives it.
pub(crate) fn effective_labels(resource: &Resource, zone: &str) -> Labels {
    let mut labels = resource.labels.clone();
    labels.insert(labels::MESH.to_owned(), resource.mesh.clone());
    if !zone.is_empty() {
        labels.insert(labels::ZONE.to_owned(), zone.to_owned());
    }
    labels.entry(labels::DISPLAY_NAME.to_owned()).or_insert_with(|| resource.name.clone());
    labels
}

fn ask(i: usize, outbound: &Outbound) -> Result<Lookup, Problem> {
    if let Some(backend) = &outbound.backend_ref {
        return Ok(Lookup::of(backend, Ports::Any));
    }
    let problem = |reason: String| Problem::new(format!("networking.outbound[{i}].tags"), reason);
    let service = outbound.tags.get(labels::SERVICE);
    let service = service.ok_or_else(|| problem("kuma.io/service is missing".into()))?;
    match outbound.tags.keys().find(|key| *key != labels::SERVICE) {
        Some(key) => {
            let advice = "write a MeshService that selects these tags and name it in a backendRef";
            Err(problem(format!("{key:?} beside kuma.io/service is not supported: {advice}")))
        }
        None => Ok(Lookup::tag(service)),
    }
}

/// Services that nobody can name in a backendRef since no MeshService can bear their name.
fn remarks(dataplane: &Dataplane, labels: &Labels) -> Vec<Problem> {
    let inbounds = || dataplane.networking.inbound.iter().enumerate();
    let tagged = inbounds().filter_map(|(i, inbound)| {
        let path = format!("networking.inbound[{i}].tags[{:?}]", labels::SERVICE);
        let problem = names::check_name(&path, inbound.service()?)?;
        Some(Problem::new(
            path,
            format!("gets no MeshService, only outbounds with this tag reach it: {}", problem.reason),
        ))
    });
    let path = format!("labels[{:?}]", labels::WORKLOAD);
    let untagged = inbounds().next().is_some() && inbounds().all(|(_, inbound)| inbound.service().is_none());
    let workload = labels.get(labels::WORKLOAD).filter(|_| untagged);
    let unnamed = workload.and_then(|name| names::check_name(&path, name));
    let unnamed =
        unnamed.map(|problem| Problem::new(path, format!("gets no MeshService: {}", problem.reason)));
    tagged.chain(unnamed).collect()
}
