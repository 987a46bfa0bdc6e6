//! All that is needed to configure one proxy, and nothing of what does not concern it.
use crate::{DestinationKey, Destinations};
use shared_model::core::dataplane::{Dataplane, Protocol};
use shared_model::labels::Labels;
use shared_model::{Duration, Problem, ResourceKey, kind};
use shared_policy::{InboundFacts, Matched};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A proxy: the mesh and name of its Dataplane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyId {
    pub mesh: String,
    pub name: String,
}

impl ProxyId {
    pub fn new(mesh: impl Into<String>, name: impl Into<String>) -> Self {
        ProxyId { mesh: mesh.into(), name: name.into() }
    }

    /// The key of its Dataplane.
    pub fn key(&self) -> ResourceKey {
        ResourceKey::new(kind::DATAPLANE, &self.mesh, &self.name)
    }
}

impl fmt::Display for ProxyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.mesh, self.name)
    }
}

/// What one proxy is, reaches and obeys, at one epoch. Two views that differ in `epoch` only say the same.
#[derive(Clone, Debug)]
pub struct ProxyView {
    pub id: ProxyId,
    pub zone: String,
    pub epoch: u64,
    /// Without its outbounds: those that lead somewhere are below.
    pub dataplane: Arc<Dataplane>,
    /// Those of the Dataplane, and `kuma.io/mesh`, `kuma.io/zone` and `kuma.io/display-name`.
    pub labels: Labels,
    /// Absent: nobody gives this proxy a certificate, or the identity that it should have cannot be rendered (then
    /// `mtls` is not off, `problems` says why, and the proxy must not be served in plain text).
    pub identity: Option<IdentitySpec>,
    /// The certificates that are trusted, by trust domain; empty without an identity.
    pub trust: Arc<BTreeMap<String, Vec<String>>>,
    pub inbounds: Arc<Vec<InboundView>>,
    pub outbounds: Arc<Vec<OutboundView>>,
    /// What the outbounds and the routes that select this proxy lead to, and no more.
    pub destinations: Destinations,
    /// Those that select the proxy and say anything of what it serves or reaches.
    pub policies: Matched,
    pub mtls: MtlsMode,
    /// What of this proxy is left out, and why; paths lead into the Dataplane.
    pub problems: Vec<Problem>,
}

/// What inbounds ask of callers before a MeshTLS says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MtlsMode {
    #[default]
    Off,
    Permissive,
    Strict,
}

/// A certificate authority that the zone keeps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthoritySpec {
    pub mesh: String,
    /// The name of the MeshIdentity, or `mtls-<backend>` for a backend of `Mesh.mtls`.
    pub identity: String,
    pub trust_domain: String,
}

/// A certificate that a proxy needs; the key of a cache of certificates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentitySpec {
    pub authority: AuthoritySpec,
    pub spiffe_id: String,
    /// The subject alternative names: the SPIFFE id first, then `kuma://<tag>/<value>` for each tag of the proxy.
    pub uris: Vec<String>,
    pub lifetime: Duration,
}

/// A port that the proxy serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboundView {
    pub facts: InboundFacts,
    /// Where the proxy listens.
    pub address: String,
    pub port: u16,
    /// Where the application listens.
    pub service_address: String,
    pub service_port: u16,
    pub protocol: Protocol,
    /// The value of the tag `kuma.io/service`.
    pub service: Option<String>,
}

/// A port on which the application reaches a destination. One that leads nowhere is a problem and not in the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundView {
    pub address: String,
    pub port: u16,
    pub destination: Arc<DestinationKey>,
}
