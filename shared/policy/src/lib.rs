//! What policies say and what they mean: reading documents strictly, matching them with proxies and destinations,
//! ordering them, and merging them into the one configuration that applies.
//!
//! The crate does not know how Envoy is told (`zone-xds`), which proxies exist (`zone-index`) or where documents come
//! from. It has no IO, no clock and no state: the same policies in any order give the same answer.
//!
//! ```text
//! Resource --compile--> Policy --Matched::of(policies, proxy)--> Matched        (sorted, weakest first)
//!             |                                                     |
//!             +--> problems with their paths                        +--> kinds::timeout::outbound(matched, target)
//!                                                                   +--> kinds::traffic_permission::inbound(...)
//! ```
//!
//! One engine merges every kind; a kind adds its grammar (what its documents may say) and its typed configuration.
pub mod facts;
pub mod grammar;
pub mod kinds;
pub mod matched;
pub mod merge;
pub mod order;
pub mod peer;
pub mod policy;
pub mod target_ref;

pub use facts::{InboundFacts, ProxyFacts, Target};
pub use matched::{InboundRule, Matched};
pub use peer::{Match, Principal, SpiffeMatch};
pub use policy::Policy;
pub use shared_model::core::dataplane::BackendRef;

use shared_model::{Problem, Resource};

/// All that is wrong with a resource of any kind that is supported; empty when it may be stored.
pub fn validate(resource: &Resource) -> Vec<Problem> {
    if let Some(problems) = shared_model::core::check(resource) {
        return problems;
    }
    if let Err(problem) = shared_model::resource::known_kind(&resource.kind) {
        return vec![problem];
    }
    Policy::compile(resource).err().unwrap_or_default()
}

/// The forms of Kuma 2.x that a policy uses: they work, and there is a newer way to say it.
pub fn warnings(resource: &Resource) -> Vec<String> {
    target_ref::warnings(&resource.spec)
}
