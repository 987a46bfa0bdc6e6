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
    Identity, assemble, inbound,
    inbound::{Duty, Role},
    memo::{Made, Memo, Same},
    names, outbound,
    pool::Pool,
    snapshot::{Encoded, Set, Snapshot},
    transport::{self, Transport},
};
use shared_model::Problem;
use shared_policy::{Policy, kinds::tls::Parameters};
use std::{
    collections::{BTreeMap, HashMap},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError, Weak},
};
use zone_index::{Destination, DestinationKey, Endpoint, Front, MtlsMode, OutboundView, ProxyView};

/// Below this many assignments nothing is swept.
const SWEPT_FROM: usize = 256;

/// All that from which the outbound side of a proxy follows.
#[derive(Debug, PartialEq)]
pub(crate) struct Inputs {
    mesh: String,
    mtls: bool,
    /// Present with a certificate and trust.
    parameters: Option<Parameters>,
    outbounds: Arc<Vec<OutboundView>>,
    fronts: Vec<Same<Front>>,
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
    /// The destinations whose clusters are there.
    pub scope: Vec<DestinationKey>,
    /// Some cluster shows the proxy's certificate.
    pub shows_identity: bool,
    pub problems: Vec<Problem>,
}

pub(crate) type Manifest = Made<Inputs, Outwards>;

/// Everything that the proxies of a zone share. One for all of them; it may be used by many at once.
#[derive(Debug, Default)]
pub struct Manifests {
    outwards: Memo<Inputs, Outwards>,
    roles: Memo<Duty, Role>,
    assignments: Mutex<Assignments>,
    /// The bundle of each mesh, and the trust from which it was made.
    bundles: Mutex<BTreeMap<String, Bundle>>,
    pool: Pool,
}

type Trust = BTreeMap<String, Vec<String>>;
type Bundle = (Arc<Trust>, Arc<Encoded>);

/// By the place of the endpoints, which stays theirs as long as they are here.
#[derive(Debug, Default)]
struct Assignments {
    made: HashMap<usize, (Weak<Vec<Endpoint>>, Arc<Encoded>)>,
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
        let transport = parameters.as_ref().map(|parameters| Transport::new(&view.id.mesh, parameters));

        let (mut own, mut roles) = (Set::default(), Vec::new());
        for inbound in view.inbounds.iter() {
            if let Some(duty) = Duty::of(view, inbound, parameters.as_ref()) {
                let made = self.roles.get(duty, || inbound::role(view, inbound, transport.as_ref()));
                inbound::finish(view, inbound, made.result().expect("it was made just now"), &mut own);
                roles.push(made);
            }
        }

        let inputs = Inputs {
            mesh: view.id.mesh.clone(),
            mtls: view.mtls != MtlsMode::Off,
            parameters: parameters.clone(),
            outbounds: view.outbounds.clone(),
            fronts: view.destinations.iter().map(|destination| Same(destination.front().clone())).collect(),
            policies: view.policies.about_destinations().cloned().map(Same).collect(),
        };
        let manifest = self.outwards.get(inputs, || {
            let mut outwards = assemble::outwards(view, transport.as_ref());
            outwards.resources.intern(&self.pool);
            outwards
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
        let reached = outwards.scope.iter().filter_map(|key| view.destinations.get(key));
        let endpoints = self.assignments(reached);
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
        let name = names::cluster(destination);
        if let Some((_, made)) = self.made.get(&place).filter(|(_, made)| *made.name == *name) {
            return made.clone();
        }
        if self.made.len() >= self.sweep_at.max(SWEPT_FROM) {
            self.made.retain(|_, (endpoints, _)| endpoints.strong_count() > 0);
            self.sweep_at = self.made.len() * 2;
        }
        let made = Arc::new(Encoded::of(&outbound::assignment(name, &destination.endpoints)));
        self.made.insert(place, (Arc::downgrade(&destination.endpoints), made.clone()));
        made
    }
}
