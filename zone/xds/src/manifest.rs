//! What proxies share. All that follows from what they reach, and from what policies say of that, is assembled once for
//! all proxies of which the same is true; so is what follows from what they serve, but for the address.
//!
//! ```text
//!   ProxyView ──▶ Inputs ──memo──▶ Manifest   clusters, listeners and routes outwards
//!             ──▶ Duty ────memo──▶ Role       an inbound, but for its address
//!             ──▶ endpoints ─────▶ assignments, one for each destination
//!             ──▶ certificate, trust
//! ```
//!
//! Inputs are compared by identity where the index shares them (the fronts of destinations, policies) and by value else.
//! A result lives as long as a snapshot that has it.
use crate::{
    Identity,
    assemble::{self, Part, PartInputs, Parts, Terms, Workshop},
    inbound,
    inbound::{Duty, Role},
    memo::{Made, Memo, Same},
    names, outbound,
    pool::Pool,
    snapshot::{Encoded, Set, Snapshot},
    transport::{self, Transport},
};
use shared_model::Problem;
use shared_policy::Policy;
use std::{
    collections::{BTreeMap, HashMap},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError, Weak},
};
use zone_index::{Destination, Endpoint, Front, MtlsMode, OutboundView, ProxyView};

/// Below this many assignments nothing is swept.
const SWEPT_FROM: usize = 256;

/// All that from which the outbound side of a proxy follows.
#[derive(Debug, PartialEq)]
pub(crate) struct Inputs {
    terms: Arc<Terms>,
    outbounds: Arc<Vec<OutboundView>>,
    fronts: Arc<[Same<Front>]>,
    policies: Vec<Same<Policy>>,
}

impl Hash for Inputs {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The other inputs seldom tell two apart that these do not.
        for OutboundView { address, port, .. } in self.outbounds.iter() {
            (address, port).hash(state);
        }
        self.fronts.hash(state);
        self.policies.hash(state);
    }
}

/// The outbound side of all proxies with the same inputs.
#[derive(Debug, Default)]
pub(crate) struct Outwards {
    pub resources: Set,
    /// From which it was put together; while somebody holds them, other manifests find them.
    pub parts: Vec<Arc<Made<PartInputs, Part>>>,
    /// The destinations whose clusters are there, by their positions among the view's.
    pub scope: Vec<usize>,
    /// Some cluster shows the proxy's certificate.
    pub shows_identity: bool,
    pub problems: Vec<Problem>,
}

pub(crate) type Manifest = Made<Inputs, Outwards>;

/// Everything that the proxies of a zone share. One for all of them; it may be used by many at once.
#[derive(Debug, Default)]
pub struct Manifests {
    outwards: Memo<Inputs, Outwards>,
    parts: Parts,
    roles: Memo<Duty, Role>,
    assignments: Mutex<Assignments>,
    /// The bundle of each mesh, and the trust from which it was made.
    bundles: Mutex<BTreeMap<String, Bundle>>,
    pool: Pool,
}

/// Its parts stay at their addresses as long as this is here.
#[derive(Debug)]
struct Assignment {
    front: Weak<Front>,
    endpoints: Weak<Vec<Endpoint>>,
    made: Arc<Encoded>,
}

type Trust = BTreeMap<String, Vec<String>>;
type Bundle = (Arc<Trust>, Arc<Encoded>);

/// By the place of the endpoints, which stays theirs as long as they are here.
#[derive(Debug, Default)]
struct Assignments {
    made: HashMap<usize, Assignment>,
    sweep_at: usize,
}

impl Manifests {
    /// The same as [`assemble`](crate::assemble), with all that other proxies have already.
    pub fn assemble(&self, view: &ProxyView, identity: Option<&Identity>) -> (Snapshot, Vec<Problem>) {
        let parameters = shared_policy::kinds::tls::parameters(&view.policies);
        let trusts = view.trust.values().any(|authorities| !authorities.is_empty());
        let parameters = Some(parameters).filter(|_| identity.is_some() && trusts);
        let mut problems = view.problems.clone();
        if view.mtls != MtlsMode::Off && parameters.is_none() {
            let missing = if identity.is_none() { "certificate" } else { "trusted authority" };
            problems.push(Problem::new(
                "",
                format!("there is no {missing} yet: the proxy serves nobody in plain text"),
            ));
        }
        let terms =
            Arc::new(Terms { mesh: view.id.mesh.clone(), mtls: view.mtls != MtlsMode::Off, parameters });
        let parameters = terms.parameters.as_ref();
        let transport = parameters.map(|parameters| Transport::new(&view.id.mesh, parameters));

        let (mut own, mut roles) = (Set::default(), Vec::new());
        for inbound in view.inbounds.iter() {
            if let Some(duty) = Duty::of(view, inbound, parameters) {
                let made = self.roles.get(duty, || inbound::role(view, inbound, transport.as_ref()));
                inbound::finish(view, inbound, made.result().expect("it was made just now"), &mut own);
                roles.push(made);
            }
        }

        let fronts: Arc<[Same<Front>]> =
            view.destinations.iter().map(|destination| Same(destination.front().clone())).collect();
        let policies: Vec<_> = view.policies.about_destinations().cloned().map(Same).collect();
        let inputs = Inputs {
            terms: terms.clone(),
            outbounds: view.outbounds.clone(),
            fronts,
            policies: policies.clone(),
        };
        let manifest = self.outwards.get(inputs, || {
            let (transport, parts, pool) = (transport.as_ref(), &self.parts, &self.pool);
            let terms = terms.clone();
            Workshop { view, terms, policies: &policies, transport, parts, pool }.outwards()
        });
        let outwards = manifest.result().expect("it was made just now");
        problems.extend(outwards.problems.iter().cloned());

        let serves = !own.is_empty() && view.mtls != MtlsMode::Off;
        if let Some(identity) =
            identity.filter(|_| transport.is_some() && (outwards.shows_identity || serves))
        {
            own.insert(&transport::certificate(&view.id.mesh, identity));
            own.put(self.bundle(view));
        }
        own.intern(&self.pool);
        let endpoints = self.assignments(assemble::reached(&manifest, view));
        let snapshot = Snapshot::new(manifest, roles, Arc::new(own), endpoints);
        let mut seen = Vec::new();
        problems.retain(|problem| {
            !seen.contains(problem) && {
                seen.push(problem.clone());
                true
            }
        });
        (snapshot, problems)
    }

    /// Where a destination's endpoints are, as its clients are told. All of a zone see it alike.
    pub fn assignment(&self, destination: &Destination) -> Arc<Encoded> {
        let mut assignments = self.assignments.lock().unwrap_or_else(PoisonError::into_inner);
        assignments.of(destination)
    }

    fn assignments<'a>(&self, destinations: impl Iterator<Item = &'a Arc<Destination>>) -> Vec<Arc<Encoded>> {
        let mut assignments = self.assignments.lock().unwrap_or_else(PoisonError::into_inner);
        destinations.map(|destination| assignments.of(destination)).collect()
    }

    fn bundle(&self, view: &ProxyView) -> Arc<Encoded> {
        let mut bundles = self.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        match bundles.get(&view.id.mesh) {
            Some((trust, bundle)) if Arc::ptr_eq(trust, &view.trust) => bundle.clone(),
            _ => {
                let bundle = self.pool.intern(Arc::new(Encoded::of(&transport::bundle(&view.trust))));
                bundles.insert(view.id.mesh.clone(), (view.trust.clone(), bundle.clone()));
                bundle
            }
        }
    }
}

impl Assignments {
    fn of(&mut self, destination: &Destination) -> Arc<Encoded> {
        let place = Arc::as_ptr(&destination.endpoints) as usize;
        let known =
            self.made.get(&place).filter(|known| known.front.as_ptr() == Arc::as_ptr(destination.front()));
        if let Some(known) = known {
            return known.made.clone();
        }
        if self.made.len() >= self.sweep_at.max(SWEPT_FROM) {
            self.made.retain(|_, known| known.endpoints.strong_count() > 0);
            self.sweep_at = self.made.len() * 2;
        }
        let name = names::cluster(destination);
        let made = Arc::new(Encoded::of(&outbound::assignment(name, &destination.endpoints)));
        let (front, endpoints) =
            (Arc::downgrade(destination.front()), Arc::downgrade(&destination.endpoints));
        self.made.insert(place, Assignment { front, endpoints, made: made.clone() });
        made
    }
}
