//! `MeshTrafficPermission`: who gets in by TLS. Nobody whom no policy allows.
//!
//! One rule says it all, so that one counter counts all refusals: let in who is in `allow` or `shadow_deny`, and not in
//! `deny`.
use crate::{
    inbound::{Authorization, Draft, Way},
    peer::{any_of, both, identifier, not},
};
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac, permission::Rule, rbac::Action,
};
use shared_policy::kinds::traffic_permission::{self, Permissions};
use std::collections::HashMap;
use zone_index::ProxyView;

const POLICY: &str = "MeshTrafficPermission";

pub(crate) fn inbound(draft: &mut Draft, view: &ProxyView) {
    if matches!(draft.way, Way::Plain) {
        return;
    }
    let permissions = traffic_permission::inbound(&view.policies, &draft.view.facts);
    let Permissions { deny, shadow_deny, allow } = &permissions;
    for principal in deny.iter().chain(shadow_deny).chain(allow) {
        draft.asked.note(principal);
    }
    let deny: Vec<Principal> = deny.iter().map(identifier).collect();
    let allowed: Vec<Principal> = shadow_deny.iter().chain(allow).map(identifier).collect();
    let rules = match (allowed.is_empty(), deny.is_empty()) {
        (true, _) => rules(Action::Allow, None),
        (false, true) => rules(Action::Allow, Some(any_of(allowed))),
        (false, false) => rules(Action::Allow, Some(both(any_of(allowed), not(any_of(deny))))),
    };
    let shadow: Vec<Principal> = shadow_deny.iter().map(identifier).collect();
    let shadow_rules = (!shadow.is_empty()).then(|| self::rules(Action::Deny, Some(any_of(shadow))));
    draft.authorization = Some(Authorization { rules, shadow_rules });
}

/// Allowing without any policy allows nothing.
fn rules(action: Action, principal: Option<Principal>) -> Rbac {
    let any = || Permission { rule: Some(Rule::Any(true)) };
    let policy = principal.map(|principal| Policy {
        permissions: vec![any()],
        principals: vec![principal],
        ..Policy::default()
    });
    let policies: HashMap<_, _> = policy.map(|policy| (POLICY.to_owned(), policy)).into_iter().collect();
    Rbac { action: action.into(), policies, ..Rbac::default() }
}
