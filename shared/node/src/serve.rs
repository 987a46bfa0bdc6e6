//! Listeners: HTTP/1.1 and HTTP/2 (so also gRPC) on one port, with or without TLS, drained at shutdown.
use anyhow::{Context as _, Result};
use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustls::ServerConfig;
use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

/// The certificate that a client has shown and that was verified, in DER: an extension of its requests.
#[derive(Clone, Debug)]
pub struct ClientCertificate(pub Arc<[u8]>);

/// A client that has not finished its TLS handshake or its first header by then is let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often an HTTP/2 peer is asked whether it is still there, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long open connections may go on after the shutdown began.
const DRAIN: Duration = Duration::from_secs(5);

/// Binds a listener; `what` names it in the error ("the API").
pub fn bind(address: SocketAddr, what: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            anyhow::anyhow!("cannot serve {what}: {address} is in use by another program")
        }
        ErrorKind::AddrNotAvailable => {
            anyhow::anyhow!("cannot serve {what}: {address} is no address of this host")
        }
        ErrorKind::PermissionDenied => {
            anyhow::anyhow!("cannot serve {what}: no permission to listen on {address}")
        }
        _ => anyhow::anyhow!("cannot serve {what} on {address}: {error}"),
    })?;
    listener.set_nonblocking(true).with_context(|| format!("cannot serve {what} on {address}"))?;
    Ok(listener)
}

/// Serves plain HTTP until `shutdown`, then lets open connections finish for a while.
pub async fn http(listener: TcpListener, router: Router, shutdown: CancellationToken) -> Result<()> {
    accept(listener, None, router, shutdown).await
}

/// Serves HTTP over TLS until `shutdown`, then lets open connections finish for a while.
pub async fn https(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    shutdown: CancellationToken,
) -> Result<()> {
    accept(listener, Some(TlsAcceptor::from(tls)), router, shutdown).await
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    shutdown: CancellationToken,
) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let connections = TaskTracker::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, for example: others may close soon.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        // Small messages matter here; the option only fails on a socket that is gone already.
        let _ = stream.set_nodelay(true);
        connections.spawn(connection(stream, peer, tls.clone(), router.clone(), shutdown.clone()));
    }
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::debug!("open connections are cut at shutdown");
    }
    Ok(())
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    shutdown: CancellationToken,
) {
    match tls {
        None => speak(stream, peer, None, router, shutdown).await,
        Some(tls) => match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let shown = shown.map(|leaf| ClientCertificate(Arc::from(leaf.as_ref())));
                speak(stream, peer, shown, router, shutdown).await;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
        },
    }
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    shown: Option<ClientCertificate>,
    router: Router,
    shutdown: CancellationToken,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(shown) = &shown {
            request.extensions_mut().insert(shown.clone());
        }
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(KEEPALIVE))
        .keep_alive_timeout(KEEPALIVE)
        .max_concurrent_streams(1024);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;

    #[tokio::test]
    async fn a_client_that_trusts_the_authority_is_served_and_another_is_not() {
        crate::tls::install_crypto();
        let dir = tempfile::tempdir().expect("a directory");
        let cert = crate::tls::ServingCert::load_or_make(dir.path(), &[]).expect("a certificate");
        let listener = bind(([127, 0, 0, 1], 0).into(), "the test").expect("a port");
        let address = listener.local_addr().expect("an address");
        let who = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() };
        let router = Router::new().route("/", get(who));
        let shutdown = CancellationToken::new();
        let tls = cert.server_config().expect("TLS");
        let server = tokio::spawn(https(listener, tls, router, shutdown.clone()));
        let url = format!("https://{address}/");
        let trusting = reqwest::Client::builder()
            .tls_backend_preconfigured(crate::tls::client_config(&cert.ca_pem).expect("roots"))
            .build()
            .expect("a client");
        assert_eq!(trusting.get(&url).send().await.expect("served").text().await.expect("text"), "127.0.0.1");
        let other_dir = tempfile::tempdir().expect("a directory");
        let other = crate::tls::ServingCert::load_or_make(other_dir.path(), &[]).expect("a certificate");
        let distrusting = reqwest::Client::builder()
            .tls_backend_preconfigured(crate::tls::client_config(&other.ca_pem).expect("roots"))
            .build()
            .expect("a client");
        assert!(distrusting.get(&url).send().await.is_err());
        drop(trusting);
        shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), server)
            .await
            .expect("drained")
            .expect("joined")
            .expect("ended");
    }

    #[test]
    fn a_port_in_use_is_one_clear_sentence() {
        let first = bind(([127, 0, 0, 1], 0).into(), "the API").expect("a port");
        let error = bind(first.local_addr().expect("an address"), "the API").expect_err("in use").to_string();
        assert!(
            error.starts_with("cannot serve the API: 127.0.0.1:")
                && error.ends_with("in use by another program")
        );
    }
}
