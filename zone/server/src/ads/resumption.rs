//! TLS sessions that are resumed. Every Envoy keeps the ticket of its last session: a zone whose proxies all come back
//! pays for no signature and no chain. Tickets are sealed with keys that rotate, and nothing is kept for them; the token of
//! a stream is checked as ever.
use anyhow::{Context as _, Result};
use rustls::ServerConfig;
use std::sync::Arc;

/// The same server, which gives each client a ticket.
pub fn resumable(config: &ServerConfig) -> Result<Arc<ServerConfig>> {
    let mut config = config.clone();
    config.ticketer = rustls::crypto::ring::Ticketer::new().context("no key for TLS tickets")?;
    // A proxy has one connection, so one is enough for the next.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConnection};
    use rustls_pki_types::ServerName;
    use shared_node::tls::{self, ServingCert};

    fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Option<HandshakeKind> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(client.clone(), name).unwrap();
        let mut server = ServerConnection::new(server.clone()).unwrap();
        while client.wants_write() || server.wants_write() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut read = wire.as_slice();
            while !read.is_empty() {
                server.read_tls(&mut read).unwrap();
                server.process_new_packets().unwrap();
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut read = wire.as_slice();
            while !read.is_empty() {
                client.read_tls(&mut read).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        client.handshake_kind()
    }

    #[test]
    fn a_client_that_comes_back_resumes_however_many_came_between() {
        tls::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let cert = ServingCert::load_or_make(dir.path(), &[]).unwrap();
        let server = resumable(&cert.server_config().unwrap()).unwrap();
        let client = || Arc::new(tls::client_config(&cert.ca_pem).unwrap());
        let first = client();
        assert_eq!(connect(&first, &server), Some(HandshakeKind::Full));
        // A server that kept sessions would have forgotten the first: it keeps 256.
        for _ in 0..300 {
            assert_eq!(connect(&client(), &server), Some(HandshakeKind::Full));
        }
        assert_eq!(connect(&first, &server), Some(HandshakeKind::Resumed));
    }
}
