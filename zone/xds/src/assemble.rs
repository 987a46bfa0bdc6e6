//! The recipe: what one proxy runs, from the top to the bottom.
use crate::{
    Identity, inbound, names, outbound,
    policies::{fault_injection, http_route, timeout, tls, traffic_permission},
    snapshot::Snapshot,
    transport::Transport,
};
use shared_model::Problem;
use std::{collections::BTreeMap, sync::Arc};
use zone_index::{Destination, DestinationKey, InboundView, MtlsMode, ProxyView};

/// Turns a view into Envoy's resources. What cannot be built is left out and named among the problems, beside those
/// that the view already has.
///
/// Without a certificate a proxy that should have one serves nobody and reaches nobody who asks for one: traffic that
/// is meant to be secret never goes out in plain text.
pub fn assemble(view: &ProxyView, identity: Option<&Identity>) -> (Snapshot, Vec<Problem>) {
    let mut snapshot = Snapshot::empty();
    let mut problems = view.problems.clone();
    let parameters = shared_policy::kinds::tls::parameters(&view.policies);
    let transport = Transport::new(&view.id.mesh, identity, &view.trust, parameters);
    if view.mtls != MtlsMode::Off && transport.is_none() {
        let missing = if identity.is_none() { "certificate" } else { "trusted authority" };
        problems.push(Problem::new(
            "",
            format!("there is no {missing} yet: the proxy serves nobody in plain text"),
        ));
    }

    for inbound in &view.inbounds {
        let Some(way) = tls::inbound(view, inbound, transport.as_ref()) else {
            continue;
        };
        let mut draft = inbound::Draft::new(inbound, way, local_cluster(view, inbound));
        traffic_permission::inbound(&mut draft, view);
        fault_injection::inbound(&mut draft, view);
        timeout::inbound(&mut draft, view);
        draft.finish(&mut snapshot);
    }

    let mut reached: BTreeMap<DestinationKey, Arc<Destination>> = BTreeMap::new();
    for outbound in &view.outbounds {
        // The index leaves out outbounds that lead nowhere.
        let Some(destination) = view.destinations.get(&outbound.destination) else {
            continue;
        };
        let mut draft = outbound::Draft::new(outbound, destination);
        let backends = http_route::outbound(&mut draft, view, &mut problems);
        timeout::outbound(&mut draft, view);
        draft.finish(&mut snapshot);
        let all = backends.into_iter().chain([destination.clone()]);
        reached.extend(all.map(|destination| (destination.key.clone(), destination)));
    }

    for destination in reached.values() {
        let mut draft = outbound::ClusterDraft::new(destination);
        timeout::cluster(&mut draft, view);
        draft.transport_socket = match (&destination.tls, &transport) {
            (Some(tls), Some(transport)) => Some(transport.upstream(tls)),
            (Some(_), None) if view.mtls != MtlsMode::Off => continue,
            _ => None,
        };
        draft.finish(&mut snapshot);
    }

    if let Some(transport) = transport {
        transport.finish(&mut snapshot);
    }
    let mut seen = Vec::new();
    problems.retain(|problem| {
        !seen.contains(problem) && {
            seen.push(problem.clone());
            true
        }
    });
    (snapshot, problems)
}

/// The application's cluster bears its port. Of several inbounds in front of one port, all but the first bear their own
/// too, since policies may differ.
fn local_cluster(view: &ProxyView, inbound: &InboundView) -> String {
    let first = view.inbounds.iter().find(|other| other.service_port == inbound.service_port);
    let name = names::local_cluster(inbound.service_port);
    match first.is_none_or(|first| (&first.address, first.port) == (&inbound.address, inbound.port)) {
        true => name,
        false => format!("{name}:{}", names::inbound(&inbound.address, inbound.port)),
    }
}
