//! The kinds of policies. A new one is a file here and a line in [`KINDS`].
use crate::grammar::Grammar;

pub mod fault_injection;
pub mod http_route;
pub mod timeout;
pub mod tls;
pub mod traffic_permission;

/// What the documents of each kind may say.
pub static KINDS: &[&Grammar] = &[
    &http_route::GRAMMAR,
    &tls::GRAMMAR,
    &fault_injection::GRAMMAR,
    &timeout::GRAMMAR,
    &traffic_permission::GRAMMAR,
];

pub fn by_name(name: &str) -> Option<&'static Grammar> {
    KINDS.iter().copied().find(|grammar| grammar.kind == name)
}
