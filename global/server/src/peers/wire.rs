//! Requests to other nodes over gRPC and mutual TLS. A connection is made when it is needed, kept, and given up as soon as
//! nothing comes back on it: a dead one would keep a node out of its cluster.
use super::papers::{self, Papers};
use anyhow::{Context as _, Result};
use global_consensus::{Answering, Transport};
use hyper_util::rt::TokioIo;
use proto::peer::{MESSAGE_MAX, Request, door_client::DoorClient, peers_client::PeersClient};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use shared_node::tls::{self, Shown};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

/// To connect and to shake hands: a few round trips.
const CONNECT: Duration = Duration::from_millis(700);
/// A connection is asked whether it lives this often, and may take as long to say so.
const KEEPALIVE: Duration = Duration::from_millis(500);

/// The way to all peers.
#[derive(Default)]
pub struct Wire {
    tls: OnceLock<(Arc<ClientConfig>, Arc<Shown>)>,
    /// By node and address: a node is reached under its own name only.
    channels: Mutex<BTreeMap<(u64, String), Channel>>,
}

impl Wire {
    /// From now on this node can speak, and shows these papers whenever it connects. Gives what it shows to be shown to
    /// those who call, too. The CA of the first call is the one that counts.
    pub fn set(&self, papers: &Papers) -> Result<Arc<Shown>> {
        let Papers { ca_pem, chain_pem, key_pem } = papers;
        if let Some((_, shown)) = self.tls.get() {
            shown.replace(chain_pem, key_pem)?;
            return Ok(shown.clone());
        }
        let shown = Shown::new(chain_pem, key_pem)?;
        let config = Arc::new(tls::mutual_client_config(ca_pem, shown.clone())?);
        Ok(self.tls.get_or_init(|| (config, shown)).1.clone())
    }

    fn channel(&self, node_id: u64, address: &str) -> Result<Channel, String> {
        let (tls, _) = self.tls.get().ok_or("this node has no certificate yet")?;
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&(node_id, address.to_owned())) {
            return Ok(channel.clone());
        }
        let made = channel(address, tls.clone(), papers::name_of(Some(node_id)));
        let made = made.map_err(|error| format!("{error:#}"))?;
        // A node that moved or was replaced leaves its old connection behind.
        channels.retain(|(id, at), _| *id != node_id && at != address);
        channels.insert((node_id, address.to_owned()), made.clone());
        Ok(made)
    }
}

impl Transport for Wire {
    fn call(&self, address: &str, request: Request) -> Answering {
        let channel = self.channel(request.to, address);
        let address = address.to_owned();
        Box::pin(async move {
            let mut client = PeersClient::new(channel?)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX);
            let answer = client.call(request).await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| format!("{address}: {}", status.message()))
        })
    }
}

/// A client of the door of a node, of which only the CA's fingerprint is known.
pub fn door(address: &str, ca_fingerprint: &str) -> Result<DoorClient<Channel>> {
    let tls = Arc::new(tls::pinned_client_config(ca_fingerprint)?);
    Ok(DoorClient::new(channel(address, tls, papers::name_of(None))?))
}

fn channel(address: &str, tls: Arc<ClientConfig>, name: String) -> Result<Channel> {
    let (host, port) = papers::host_and_port(address)?;
    let server = ServerName::try_from(name.clone()).context("a name of a node is a DNS name")?;
    let connector = tower::service_fn(move |_: Uri| {
        let (tls, server, host) = (TlsConnector::from(tls.clone()), server.clone(), host.clone());
        async move {
            let connect = async {
                let stream = TcpStream::connect((host.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                tls.connect(server, stream).await
            };
            let late = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
            tokio::time::timeout(CONNECT, connect).await.unwrap_or_else(late).map(TokioIo::new)
        }
    });
    // The connector brings TLS; the URI is only what HTTP/2 wants to be told.
    let endpoint = Endpoint::from_shared(format!("http://{name}:{port}"))?
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector_lazy(connector))
}
