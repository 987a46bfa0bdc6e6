//! A policy, compiled once from its document: whom it is for, how it ranks, and its items.
use crate::{
    BackendRef,
    facts::{InboundFacts, ProxyFacts, Target},
    grammar::{Grammar, Parts},
    kinds,
    order::{Name, Rank, Role, name},
    peer::Match,
    target_ref::{Destination, Selector, same_namespace},
};
use serde_json::Value;
use shared_model::{Kri, Problem, Resource, ResourceKey, labels, labels::Labels, resource};

#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub key: ResourceKey,
    pub kri: Kri,
    pub kind: &'static str,
    labels: Labels,
    selector: Selector,
    pub(crate) rank: Rank,
    role: Role,
    /// Configurations by destination.
    pub(crate) to: Vec<(Destination, Value)>,
    /// Configurations by caller, from `rules` or `from`.
    pub(crate) inbound: Vec<InboundItem>,
}

/// A configuration for connections that come in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InboundItem {
    pub peer: Match,
    pub conf: Value,
    /// Comes from `from`, whose configuration has another shape in some kinds.
    pub legacy: bool,
}

impl Policy {
    /// Reads a policy. Every kind with a [`Grammar`] can be read; all that is wrong is reported at once.
    pub fn compile(resource: &Resource) -> Result<Policy, Vec<Problem>> {
        let grammar: &Grammar = kinds::by_name(&resource.kind).ok_or_else(|| {
            let problem = resource::known_kind(&resource.kind).err();
            vec![
                problem.unwrap_or_else(|| Problem::new("type", format!("{} is not a policy", resource.kind))),
            ]
        })?;
        let kri = Kri::of(resource).unwrap_or_default();
        let Parts { top, to, from, rules } = grammar.read(&resource.spec)?;
        let from = from.into_iter().map(|(peer, conf)| InboundItem { peer, conf, legacy: true });
        let rules = rules.into_iter().flat_map(|(peers, conf)| {
            let peers = if peers.is_empty() { vec![Match::default()] } else { peers };
            peers.into_iter().map(move |peer| InboundItem { peer, conf: conf.clone(), legacy: false })
        });
        Ok(Policy {
            key: resource.key(),
            kri,
            kind: grammar.kind,
            labels: resource.labels.clone(),
            selector: Selector::of(&top),
            rank: Rank::of(resource, &top),
            role: Role::of(resource),
            to,
            inbound: from.chain(rules).collect(),
        })
    }

    /// True when the policy is for this proxy, or for some of its inbounds.
    pub fn selects(&self, proxy: &ProxyFacts) -> bool {
        self.key.mesh == proxy.mesh && self.reaches(proxy) && self.selector.selects(proxy)
    }

    /// True when the policy is for this inbound of a proxy that it selects.
    pub fn selects_inbound(&self, proxy: &ProxyFacts, inbound: &InboundFacts) -> bool {
        self.selector.selects_inbound(proxy, inbound)
    }

    /// A policy of a zone stays in that zone and one of a consumer or owner in its namespace; only a producer's goes to
    /// the callers wherever they are.
    fn reaches(&self, proxy: &ProxyFacts) -> bool {
        let own = |key: &str| self.labels.get(key).map(String::as_str);
        let of_zone = own(labels::ORIGIN) == Some(labels::ORIGIN_ZONE);
        let here = !of_zone || own(labels::ZONE).is_none_or(|zone| zone == proxy.zone);
        match self.role {
            Role::Producer => true,
            Role::System => here,
            Role::Consumer | Role::WorkloadOwner => here && same_namespace(&self.labels, proxy.labels),
        }
    }

    /// False when the policy says nothing to a proxy that reaches only these destinations. It does not matter then whether
    /// it is there.
    pub fn concerns<'a>(&self, targets: impl IntoIterator<Item = Target<'a>>) -> bool {
        // What is about routes goes where these go.
        let of_routes = |destination: &Destination| matches!(destination, Destination::Route { .. });
        let about_more = !self.inbound.is_empty() || self.to.is_empty();
        about_more
            || self
                .to
                .iter()
                .any(|(destination, _)| of_routes(destination) || *destination == Destination::Mesh)
            || targets
                .into_iter()
                .any(|target| self.to.iter().any(|(destination, _)| destination.includes(&target, None)))
    }

    /// Every destination that a route may send requests to, mirrors included. Empty for kinds that route nothing.
    pub fn backends(&self) -> Vec<BackendRef> {
        match self.kind {
            kinds::http_route::KIND => kinds::http_route::backends(self),
            _ => Vec::new(),
        }
    }

    /// A shadow policy is stored and shown, and applies to nothing.
    pub fn is_shadow(&self) -> bool {
        self.labels.get(labels::EFFECT).is_some_and(|effect| effect == "shadow")
    }

    pub fn is_for_whole_mesh(&self) -> bool {
        self.selector == Selector::Mesh
    }

    pub(crate) fn order_name(&self) -> Name<'_> {
        name(&self.kri.name, &self.key.name)
    }
}
