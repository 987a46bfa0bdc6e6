//! The recipe: what one proxy runs, from the top to the bottom. The inbound side is in [`crate::inbound`], and what of both
//! is shared between proxies in [`crate::manifest`].
use crate::{
    Identity, Manifests,
    manifest::Outwards,
    outbound,
    policies::{http_route, timeout},
    snapshot::Snapshot,
    transport::Transport,
};
use shared_model::Problem;
use std::{collections::BTreeMap, sync::Arc};
use zone_index::{Destination, DestinationKey, MtlsMode, ProxyView};

/// Turns a view into Envoy's resources, from nothing. What cannot be built is left out and named among the problems,
/// beside those that the view already has.
///
/// Without a certificate a proxy that should have one serves nobody and reaches nobody who asks for one: traffic that
/// is meant to be secret never goes out in plain text.
pub fn assemble(view: &ProxyView, identity: Option<&Identity>) -> (Snapshot, Vec<Problem>) {
    Manifests::default().assemble(view, identity)
}

/// The outbound side. It may look at nothing of the view that is not among the manifest's inputs.
pub(crate) fn outwards(view: &ProxyView, transport: Option<&Transport>) -> Outwards {
    let mut outwards = Outwards::default();
    let mut reached: BTreeMap<DestinationKey, Arc<Destination>> = BTreeMap::new();
    for outbound in view.outbounds.iter() {
        // The index leaves out outbounds that lead nowhere.
        let Some(destination) = view.destinations.get(&outbound.destination) else {
            continue;
        };
        let mut draft = outbound::Draft::new(outbound, destination);
        let backends = http_route::outbound(&mut draft, view, &mut outwards.problems);
        timeout::outbound(&mut draft, view);
        draft.finish(&mut outwards.resources);
        let all = backends.into_iter().chain([destination.clone()]);
        reached.extend(all.map(|destination| (destination.key.clone(), destination)));
    }
    for (key, destination) in reached {
        let mut draft = outbound::ClusterDraft::new(&destination);
        timeout::cluster(&mut draft, view);
        draft.transport_socket = match (&destination.tls, transport) {
            (Some(tls), Some(transport)) => {
                outwards.shows_identity = true;
                Some(transport.upstream(tls))
            }
            (Some(_), None) if view.mtls != MtlsMode::Off => continue,
            _ => None,
        };
        draft.finish(&mut outwards.resources);
        outwards.scope.push(key);
    }
    outwards
}
