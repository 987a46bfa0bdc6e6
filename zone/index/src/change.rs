//! What comes into the index and what it says of it.
use crate::{Destination, ProxyId};
use shared_model::{Resource, ResourceKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where a resource was learned from. One key may exist in both. Of a Mesh and of a policy the followed one counts then,
/// so that a zone cannot hide what global says behind its own; of other kinds both do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// From global, over the zone link.
    Followed,
    /// From the zone's own store.
    Owned,
}

/// One step of a source. Putting what is there already, or deleting what is not, changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Put(Source, Arc<Resource>),
    Delete(Source, ResourceKey),
}

/// Whom an application of changes concerns: every proxy whose view differs now, and hardly any other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    pub proxies: BTreeSet<ProxyId>,
    /// Those of the touched whose view differs in the endpoints of these destinations and in nothing else.
    pub moved: BTreeMap<ProxyId, Vec<Arc<Destination>>>,
}
