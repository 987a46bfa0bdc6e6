//! All that a zone knows, indexed: which proxies exist, who they are, what they reach, which policies select them.
//!
//! Changes come in from two sources, the followed catalog and the zone's own store. Out come the proxies whose view may
//! differ now, and an immutable [`Epoch`] from which any number of readers take views without a lock.
//!
//! ```text
//! Change --Index::apply--> Touched{proxies, moved}  (tight: only those whose view differs; and where endpoints alone do)
//!              |
//!              +--publishes--> Arc<Epoch> --view_of(proxy)--> ProxyView --zone-xds--> Envoy's words
//!
//! Dataplane --serves--> Service --port--> Destination <--resolves to-- Lookup <--watch-- Dataplane, Policy
//! ```
//!
//! Work is proportional to what changed: an endpoint that flaps costs its services' endpoint lists and the proxies that
//! watch a lookup which resolves to one of them. What the index holds depends on the resources only and never on the
//! order in which they came.
//!
//! The crate does not know Envoy, connections, or certificates' bytes. A resource that cannot be used is held back and
//! named in [`Epoch::problems`]; it never fails anything else.
mod change;
mod destination;
mod epoch;
mod identity;
mod index;
mod lookup;
mod outlook;
mod problems;
mod proxy;
mod service;
mod sni;
mod trust;
mod view;

pub use change::{Change, Source, Touched};
pub use destination::{Destination, DestinationKey, DestinationTls, Destinations, Endpoint, Front};
pub use epoch::Epoch;
pub use index::Index;
pub use service::GENERATED_BY;
pub use sni::sni;
pub use view::{AuthoritySpec, IdentitySpec, InboundView, MtlsMode, OutboundView, ProxyId, ProxyView};
