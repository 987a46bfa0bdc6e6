//! Who holds an address and port. Of several Dataplanes that serve the same, in whatever mesh, the oldest holds it: a
//! newcomer cannot take another's traffic, and what is wrong with it stays its own.
use crate::ProxyId;
use crate::proxy::{Body, Contest};
use shared_model::{Problem, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Claims {
    sockets: BTreeMap<(IpAddr, u16), BTreeSet<Claim>>,
    /// Whose contest may be decided differently now.
    marked: BTreeSet<ProxyId>,
}

type Claim = (Timestamp, ProxyId);

impl Claims {
    /// Takes a Dataplane's claims back and those of its successor in.
    pub fn replace(&mut self, before: Option<&Body>, now: Option<&Body>) {
        if let (Some(before), Some(now)) = (before, now) {
            let same_age = before.resource.creation_time == now.resource.creation_time;
            if same_age && before.same_offer(now) {
                return;
            }
        }
        if let Some(body) = before {
            for socket in sockets(body).into_iter().flatten() {
                let Some(claims) = self.sockets.get_mut(&socket) else { continue };
                claims.remove(&claim(body));
                self.marked.extend(claims.iter().map(|(_, id)| id.clone()));
                if claims.is_empty() {
                    self.sockets.remove(&socket);
                }
            }
        }
        if let Some(body) = now {
            for socket in sockets(body).into_iter().flatten() {
                let claims = self.sockets.entry(socket).or_default();
                self.marked.extend(claims.iter().map(|(_, id)| id.clone()));
                claims.insert(claim(body));
            }
        }
        self.marked.extend(before.or(now).map(|body| body.id.clone()));
    }

    /// Decides the contests that are open.
    pub fn settle(&mut self, body: impl Fn(&ProxyId) -> Option<Arc<Body>>) -> Vec<(ProxyId, Contest)> {
        let marked = std::mem::take(&mut self.marked);
        let decide = |id: ProxyId| body(&id).map(|body| (id, self.decide(&body)));
        marked.into_iter().filter_map(decide).collect()
    }

    fn decide(&self, body: &Body) -> Contest {
        let mut contest = Contest::default();
        for (i, socket) in sockets(body).into_iter().enumerate() {
            let (address, port) = body.advertised(i);
            let problem = match socket {
                None => {
                    let reason = format!("{address:?} is not an IP address: inbound {port} is no endpoint");
                    Problem::new("networking.advertisedAddress", reason)
                }
                Some(socket) => {
                    let holder = self.sockets.get(&socket).and_then(BTreeSet::first).map(|(_, id)| id);
                    let Some(holder) = holder.filter(|holder| **holder != body.id) else { continue };
                    let reason = format!(
                        "{address}:{port} is held by the older Dataplane {holder}: this is no endpoint"
                    );
                    Problem::new(format!("networking.inbound[{i}].port"), reason)
                }
            };
            contest.lost.insert(i);
            contest.problems.push(problem);
        }
        contest
    }
}

fn claim(body: &Body) -> Claim {
    (body.resource.creation_time, body.id.clone())
}

/// The sockets of the inbounds, in their order.
fn sockets(body: &Body) -> Vec<Option<(IpAddr, u16)>> {
    let socket = |i| {
        let (address, port) = body.advertised(i);
        Some((address.parse().ok()?, port))
    };
    (0..body.inbounds.len()).map(socket).collect()
}
