//! The total order of policies: which of two that both apply overrides the other.
//!
//! Compared in turn, the weaker first: the kind of the top-level `targetRef`; origin, global before zone; role; what
//! the item is about (`to[].targetRef`, or the caller for inbound rules); the display name in reverse, so that `aaa`
//! overrides `zzz`; and, to leave nothing open, the stored name and the item's place in its document.
use crate::target_ref::{DATAPLANE, MESH_SERVICE, MESH_SERVICE_SUBSET, MESH_SUBSET, TargetRef};
use shared_model::{Resource, labels};
use std::cmp::Reverse;

/// The part of the order that comes before the item's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    top: u8,
    origin: u8,
    role: Role,
}

/// Who wrote a policy for whom. On Universal every policy is the system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    #[default]
    System,
    Producer,
    Consumer,
    WorkloadOwner,
}

impl Role {
    pub fn of(resource: &Resource) -> Role {
        match resource.labels.get(labels::POLICY_ROLE).map(String::as_str) {
            Some("producer") => Role::Producer,
            Some("consumer") => Role::Consumer,
            Some("workload-owner") => Role::WorkloadOwner,
            _ => Role::System,
        }
    }
}

impl Rank {
    pub fn of(resource: &Resource, top: &TargetRef) -> Rank {
        let sectioned = !top.section_name.is_empty();
        let named = !top.name.is_empty() || !top.namespace.is_empty();
        let top = match (top.kind.as_str(), named, sectioned) {
            (DATAPLANE, false, false) => 1,
            (DATAPLANE, false, true) => 2,
            (DATAPLANE, true, false) => 3,
            (DATAPLANE, true, true) => 4,
            (MESH_SUBSET, ..) => 5,
            (MESH_SERVICE, ..) => 6,
            (MESH_SERVICE_SUBSET, ..) => 7,
            _ => 0,
        };
        let origin = resource.labels.get(labels::ORIGIN).is_some_and(|origin| origin == labels::ORIGIN_ZONE);
        Rank { top, origin: u8::from(origin), role: Role::of(resource) }
    }
}

/// The last keys of the order.
pub type Name<'a> = (Reverse<&'a str>, Reverse<&'a str>);

pub fn name<'a>(display_name: &'a str, stored_name: &'a str) -> Name<'a> {
    (Reverse(display_name), Reverse(stored_name))
}
