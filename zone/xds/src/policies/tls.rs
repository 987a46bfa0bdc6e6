//! `MeshTLS`: which ways lead in. Versions and ciphers are in [`crate::transport`].
use crate::{inbound::Way, transport::Transport};
use shared_policy::kinds::tls::{self, Mode};
use zone_index::{InboundView, MtlsMode, ProxyView};

/// `None`: the proxy should be known to others by a certificate and has none, so nobody is served.
///
/// A policy chooses how strict TLS is; whether there is any follows from the identities of the mesh.
pub(crate) fn inbound(view: &ProxyView, inbound: &InboundView, transport: Option<&Transport>) -> Option<Way> {
    let mode = match (view.mtls, tls::inbound(&view.policies, &inbound.facts)) {
        (MtlsMode::Off, _) => return Some(Way::Plain),
        (_, Some(mode)) => mode,
        (MtlsMode::Permissive, None) => Mode::Permissive,
        (MtlsMode::Strict, None) => Mode::Strict,
    };
    let socket = transport?.downstream();
    Some(match mode {
        Mode::Permissive => Way::Permissive(socket),
        Mode::Strict => Way::Strict(socket),
    })
}
