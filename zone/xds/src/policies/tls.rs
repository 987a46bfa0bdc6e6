//! `MeshTLS`: which ways lead in. Versions and ciphers are in [`crate::transport`].
use shared_policy::kinds::tls::{self, Mode};
use zone_index::{InboundView, MtlsMode, ProxyView};

/// How strict TLS is at an inbound; `None` when there is none. A policy chooses how strict it is; whether there is any
/// follows from the identities of the mesh.
pub(crate) fn inbound(view: &ProxyView, inbound: &InboundView) -> Option<Mode> {
    match (view.mtls, tls::inbound(&view.policies, &inbound.facts)) {
        (MtlsMode::Off, _) => None,
        (_, Some(mode)) => Some(mode),
        (MtlsMode::Permissive, None) => Some(Mode::Permissive),
        (MtlsMode::Strict, None) => Some(Mode::Strict),
    }
}
