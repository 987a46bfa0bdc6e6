//! The recipe: what one proxy runs, from the top to the bottom. The inbound side is in [`crate::inbound`], and what of both
//! is shared between proxies in [`crate::manifest`].
//!
//! The outbound side is put together from parts, a listener with its routes for each outbound and a cluster for each
//! destination. A part is made anew only when something is other that it follows from: a policy for one service leaves
//! the parts of the others as they are.
use crate::{
    Identity, Manifests,
    manifest::{Manifest, Outwards},
    memo::{Made, Memo, Same},
    outbound,
    policies::{http_route, timeout},
    pool::Pool,
    snapshot::{Encoded, Set, Snapshot},
    transport::Transport,
};
use shared_model::Problem;
use shared_policy::{
    Policy, kinds,
    kinds::{http_route::Rule, tls::Parameters},
};
use std::{
    collections::BTreeSet,
    hash::{Hash, Hasher},
    sync::Arc,
};
use zone_index::{Destination, Front, MtlsMode, OutboundView, ProxyView};

/// Turns a view into Envoy's resources, from nothing. What cannot be built is left out and named among the problems,
/// beside those that the view already has.
///
/// Without a certificate a proxy that should have one serves nobody and reaches nobody who asks for one: traffic that
/// is meant to be secret never goes out in plain text.
pub fn assemble(view: &ProxyView, identity: Option<&Identity>) -> (Snapshot, Vec<Problem>) {
    Manifests::default().assemble(view, identity)
}

/// What all parts of a proxy follow from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub mesh: String,
    pub mtls: bool,
    /// Present with a certificate and trust.
    pub parameters: Option<Parameters>,
}

/// What a part of the outbound side follows from.
#[derive(Debug, PartialEq)]
pub(crate) struct PartInputs {
    terms: Arc<Terms>,
    front: Same<Front>,
    /// Those that say anything of the destination.
    policies: Vec<Same<Policy>>,
    shape: Shape,
}

#[derive(Debug, PartialEq)]
enum Shape {
    Cluster,
    /// A listener, with where each reference of its routes leads: that depends on all that the proxy reaches.
    Outbound {
        address: String,
        port: u16,
        leads_to: Vec<Option<Same<Front>>>,
    },
}

impl Hash for PartInputs {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.front.hash(state);
        self.policies.hash(state);
        if let Shape::Outbound { port, .. } = &self.shape {
            port.hash(state);
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Part {
    resources: Vec<Arc<Encoded>>,
    /// Where routes lead.
    leads_to: Vec<Arc<Front>>,
    /// What the routes say. While somebody holds it, others find it.
    _rules: Option<Arc<Made<RuleInputs, Vec<Rule>>>>,
    shows_identity: bool,
    /// False for a cluster that cannot be.
    exists: bool,
    problems: Vec<Problem>,
}

/// What the rules about a destination follow from.
#[derive(Debug, PartialEq, Hash)]
pub(crate) struct RuleInputs {
    front: Same<Front>,
    policies: Vec<Same<Policy>>,
}

/// All parts that somebody holds.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    parts: Memo<PartInputs, Part>,
    rules: Memo<RuleInputs, Vec<Rule>>,
}

impl Part {
    fn of(resources: Set, pool: &Pool) -> Part {
        let resources = resources.into_iter().map(|resource| pool.intern(resource)).collect();
        Part { resources, exists: true, ..Part::default() }
    }
}

/// All that the outbound side is made from and with.
pub(crate) struct Workshop<'a> {
    pub view: &'a ProxyView,
    pub terms: Arc<Terms>,
    pub policies: &'a [Same<Policy>],
    pub transport: Option<&'a Transport<'a>>,
    pub parts: &'a Parts,
    pub pool: &'a Pool,
}

impl Workshop<'_> {
    /// The outbound side. It may look at nothing of the view that is not among the manifest's inputs.
    pub fn outwards(&self) -> Outwards {
        let destinations: Vec<&Arc<Destination>> = self.view.destinations.iter().collect();
        let policies: Vec<Vec<Same<Policy>>> = destinations.iter().map(|one| self.concerning(one)).collect();
        let mut reached = BTreeSet::new();
        let mut outwards = Outwards::default();
        for outbound in self.view.outbounds.iter() {
            // The index leaves out outbounds that lead nowhere.
            let Some(place) = self.view.destinations.position(&outbound.destination) else { continue };
            let part = self.listener(outbound, destinations[place], policies[place].clone());
            reached.insert(place);
            let leads_to = part.result().into_iter().flat_map(|part| &part.leads_to);
            reached.extend(leads_to.filter_map(|front| self.view.destinations.position(&front.key)));
            outwards.take(part);
        }
        for place in reached {
            let part = self.cluster(destinations[place], policies[place].clone());
            if part.result().is_some_and(|part| part.exists) {
                outwards.scope.push(place);
            }
            outwards.take(part);
        }
        outwards
    }

    /// What the policies say of a destination follows from these.
    fn concerning(&self, destination: &Destination) -> Vec<Same<Policy>> {
        let concern = |policy: &&Same<Policy>| policy.0.concerns([destination.target()]);
        self.policies.iter().filter(concern).cloned().collect()
    }

    fn part(
        &self,
        destination: &Destination,
        policies: Vec<Same<Policy>>,
        shape: Shape,
        make: impl FnOnce() -> Part,
    ) -> Arc<Made<PartInputs, Part>> {
        let front = Same(destination.front().clone());
        self.parts.parts.get(PartInputs { terms: self.terms.clone(), front, policies, shape }, make)
    }

    fn listener(
        &self,
        outbound: &OutboundView,
        destination: &Destination,
        policies: Vec<Same<Policy>>,
    ) -> Arc<Made<PartInputs, Part>> {
        let is_routed = policies.iter().any(|policy| policy.0.kind == kinds::http_route::KIND);
        let rules = is_routed.then(|| {
            let front = Same(destination.front().clone());
            let inputs = RuleInputs { front, policies: policies.clone() };
            self.parts.rules.get(inputs, || http_route::rules(destination, self.view))
        });
        let said = || rules.as_ref().and_then(|rules| rules.result()).map_or(&[][..], Vec::as_slice);
        let leads_to = http_route::resolved(said(), destination, self.view);
        let shape = Shape::Outbound { address: outbound.address.clone(), port: outbound.port, leads_to };
        self.part(destination, policies, shape, || {
            let (mut resources, mut problems) = (Set::default(), Vec::new());
            let mut draft = outbound::Draft::new(outbound, destination);
            let backends = http_route::outbound(&mut draft, said(), self.view, &mut problems);
            timeout::outbound(&mut draft, self.view);
            draft.finish(&mut resources);
            let leads_to = backends.iter().map(|one| one.front().clone()).collect();
            Part { leads_to, _rules: rules.clone(), problems, ..Part::of(resources, self.pool) }
        })
    }

    fn cluster(&self, destination: &Destination, policies: Vec<Same<Policy>>) -> Arc<Made<PartInputs, Part>> {
        self.part(destination, policies, Shape::Cluster, || {
            let mut resources = Set::default();
            let mut draft = outbound::ClusterDraft::new(destination);
            timeout::cluster(&mut draft, self.view);
            draft.transport_socket = match (&destination.tls, self.transport) {
                (Some(tls), Some(transport)) => Some(transport.upstream(tls)),
                (Some(_), None) if self.view.mtls != MtlsMode::Off => return Part::default(),
                _ => None,
            };
            let shows_identity = draft.transport_socket.is_some();
            draft.finish(&mut resources);
            Part { shows_identity, ..Part::of(resources, self.pool) }
        })
    }
}

impl Outwards {
    fn take(&mut self, part: Arc<Made<PartInputs, Part>>) {
        if let Some(made) = part.result() {
            made.resources.iter().for_each(|resource| self.resources.put(resource.clone()));
            self.shows_identity |= made.shows_identity;
            self.problems.extend(made.problems.iter().cloned());
        }
        self.parts.push(part);
    }
}

/// A manifest, and the assignments of its clusters come from its destinations.
pub(crate) fn reached<'a>(
    manifest: &'a Manifest,
    view: &'a ProxyView,
) -> impl Iterator<Item = &'a Arc<Destination>> {
    let destinations: Vec<&Arc<Destination>> = view.destinations.iter().collect();
    let scope = manifest.result().into_iter().flat_map(|outwards| &outwards.scope);
    scope.filter_map(move |place| destinations.get(*place).copied())
}
