//! `MeshTrafficPermission`: who may connect. What no policy allows is denied.
//!
//! `rules` of all policies add up, and a denial anywhere wins over every permission. `from` of 2.x says one action per
//! caller and lets a later item override an earlier one; this is translated to the same three lists.
use crate::{
    facts::InboundFacts,
    grammar::{Context, From, Grammar, Rules, read_peer, typed},
    matched::{Matched, by_caller, disjoint},
    peer::Principal,
    target_ref::FROM,
};
use serde::Deserialize;
use serde_json::Value;
use shared_model::Problem;

pub const KIND: &str = "MeshTrafficPermission";

pub static GRAMMAR: Grammar = Grammar {
    kind: KIND,
    to: None,
    from: Some(From { kinds: FROM, check: check_action }),
    rules: Some(Rules { matches: false, check: check_lists }),
};

/// A caller in `deny` is refused. One in `shadow_deny` is let in and counted as if refused. One in `allow` is let in.
/// All others are refused. The first list that names a caller decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    pub deny: Vec<Principal>,
    pub shadow_deny: Vec<Principal>,
    pub allow: Vec<Principal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Action {
    Allow,
    Deny,
    AllowWithShadowDeny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionConf {
    action: Action,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Lists {
    deny: Vec<Value>,
    allow_with_shadow_deny: Vec<Value>,
    allow: Vec<Value>,
}

impl Permissions {
    fn list(&mut self, action: Action) -> &mut Vec<Principal> {
        match action {
            Action::Deny => &mut self.deny,
            Action::AllowWithShadowDeny => &mut self.shadow_deny,
            Action::Allow => &mut self.allow,
        }
    }
}

/// Who may connect to an inbound.
pub fn inbound(matched: &Matched, inbound: &InboundFacts) -> Permissions {
    let mut permissions = Permissions::default();
    let (legacy, rules): (Vec<_>, Vec<_>) =
        matched.inbound(KIND, inbound).into_iter().partition(|(_, item)| item.legacy);
    for (_, item) in rules {
        let lists: Lists = serde_json::from_value(item.conf.clone()).unwrap_or_default();
        let parts = [
            (Action::Deny, lists.deny),
            (Action::AllowWithShadowDeny, lists.allow_with_shadow_deny),
            (Action::Allow, lists.allow),
        ];
        for (action, peers) in parts {
            for peer in peers.iter().filter_map(|peer| read_peer(peer).ok()) {
                let principal = Principal::from(peer);
                let list = permissions.list(action);
                if !list.contains(&principal) {
                    list.push(principal);
                }
            }
        }
    }
    let by_caller = by_caller(&legacy);
    let action =
        |conf: &Value| serde_json::from_value::<ActionConf>(conf.clone()).map(|conf| conf.action).ok();
    for (principal, rule) in disjoint(&by_caller, |one, other| action(one) != action(other)) {
        if let Some(action) = action(&rule.conf) {
            permissions.list(action).push(principal);
        }
    }
    for action in [Action::Deny, Action::AllowWithShadowDeny, Action::Allow] {
        drop_repeated(permissions.list(action));
    }
    permissions
}

/// Leaves out those that another of the list includes as a whole.
fn drop_repeated(list: &mut Vec<Principal>) {
    let included = |one: &Principal, other: &Principal| {
        one != other
            && other.peer.covers(&one.peer)
            && !other.except.iter().any(|except| except.overlap(&one.peer).is_some())
    };
    let kept: Vec<Principal> =
        list.iter().filter(|one| !list.iter().any(|other| included(one, other))).cloned().collect();
    *list = kept;
}

fn check_action(conf: &Value, _: &Context) -> Vec<Problem> {
    typed(conf, |_: &ActionConf| Vec::new())
}

fn check_lists(conf: &Value, _: &Context) -> Vec<Problem> {
    typed(conf, |lists: &Lists| {
        let named = [
            ("deny", &lists.deny),
            ("allowWithShadowDeny", &lists.allow_with_shadow_deny),
            ("allow", &lists.allow),
        ];
        if named.iter().all(|(_, peers)| peers.is_empty()) {
            return vec![Problem::new("", "names nobody: give deny, allowWithShadowDeny or allow")];
        }
        let peers =
            named.iter().flat_map(|(list, peers)| peers.iter().enumerate().map(move |peer| (list, peer)));
        let read = peers.map(|(list, (i, peer))| {
            read_peer(peer).map_err(|problem| problem.under(&format!("{list}[{i}]")))
        });
        read.filter_map(Result::err).collect()
    })
}
