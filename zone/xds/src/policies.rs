//! What each policy does to the drafts. One file per kind; the order is that of the recipe in `assemble`.
pub(crate) mod fault_injection;
pub(crate) mod http_route;
pub(crate) mod timeout;
pub(crate) mod tls;
pub(crate) mod traffic_permission;
