//! One proxy's connection: TCP, TLS, HTTP/2 and one gRPC stream on it, without the layers of a general client.
use anyhow::{Context as _, Result, anyhow, bail};
use bytes::{Buf as _, Bytes, BytesMut};
use h2::client::{Connection, ResponseFuture};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Version};
use rustls_pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// Envoy's windows since 1.35, in bytes: a server sees the same credit as from an Envoy.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 24 << 20;

/// A message above this is no configuration of a proxy, in bytes.
const MESSAGE_MAX: usize = 256 << 20;

pub type Io = Either<TlsStream<TcpStream>, TcpStream>;

/// How to reach the ADS port.
#[derive(Clone)]
pub struct Dial {
    pub address: SocketAddr,
    /// Host and port as the URL has them.
    pub authority: String,
    /// Absent: plain text.
    pub tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A stream that has been opened. The connection must be polled for anything to happen on it.
pub struct Stream {
    pub connection: Connection<Io, Bytes>,
    pub requests: SendStream<Bytes>,
    pub responses: Responses,
}

impl Dial {
    pub async fn open(&self, path: &str, token: &str) -> Result<Stream> {
        let tcp = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("cannot connect to {}", self.address))?;
        tcp.set_nodelay(true)?;
        let (io, scheme) = match &self.tls {
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), tcp).await.context("TLS handshake")?;
                (Either::Left(stream), "https")
            }
            None => (Either::Right(tcp), "http"),
        };
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false);
        let (mut sender, connection) = builder.handshake(io).await.context("HTTP/2 handshake")?;
        let request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("{scheme}://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let request = match token {
            "" => request,
            token => request.header("authorization", token),
        };
        let (response, requests) = sender.send_request(request.body(())?, false)?;
        Ok(Stream { connection, requests, responses: Responses::new(response) })
    }
}

/// The responses of a stream, message by message.
pub struct Responses {
    incoming: Incoming,
    /// What has come of the next message.
    part: BytesMut,
}

enum Incoming {
    Waiting(ResponseFuture),
    Open(RecvStream),
}

impl Responses {
    fn new(response: ResponseFuture) -> Responses {
        Responses { incoming: Incoming::Waiting(response), part: BytesMut::new() }
    }

    /// More bytes of the stream, to be given to [`Responses::messages`]; an error tells how the stream ended. May be
    /// dropped and called again.
    pub async fn more(&mut self) -> Result<Bytes> {
        if let Incoming::Waiting(response) = &mut self.incoming {
            let (head, body) = response.await?.into_parts();
            if head.status != http::StatusCode::OK {
                bail!("the answer is {}", head.status);
            }
            if head.headers.contains_key("grpc-status") {
                bail!("{}", grpc_status(&head.headers));
            }
            self.incoming = Incoming::Open(body);
        }
        let Incoming::Open(body) = &mut self.incoming else { bail!("the stream is not open") };
        match body.data().await {
            Some(chunk) => {
                let chunk = chunk?;
                body.flow_control().release_capacity(chunk.len())?;
                Ok(chunk)
            }
            None => match body.trailers().await? {
                Some(trailers) => Err(anyhow!("{}", grpc_status(&trailers))),
                None => Err(anyhow!("the stream ended")),
            },
        }
    }

    /// Calls `take` with every message that is complete with this chunk. A message that came whole is not copied.
    pub fn messages(&mut self, mut chunk: Bytes, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self.part.is_empty() {
            while let Some(len) = complete(&chunk)? {
                take(&chunk[5..len])?;
                chunk.advance(len);
            }
        }
        self.part.extend_from_slice(&chunk);
        while let Some(len) = complete(&self.part)? {
            take(&self.part[5..len])?;
            self.part.advance(len);
        }
        if self.part.is_empty() {
            // A buffer as large as the largest message would be kept by every proxy of the fleet.
            self.part = BytesMut::new();
        }
        Ok(())
    }
}

/// The length of the first message with its prefix, once it is all there.
fn complete(bytes: &[u8]) -> Result<Option<usize>> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<5>() else { return Ok(None) };
    let [compressed, length @ ..] = *prefix;
    let len = u32::from_be_bytes(length) as usize;
    if compressed != 0 {
        bail!("a message is compressed, which was not asked for");
    }
    if len > MESSAGE_MAX {
        bail!("a message has {len} bytes");
    }
    Ok((rest.len() >= len).then_some(5 + len))
}

fn grpc_status(headers: &HeaderMap) -> String {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    format!("grpc status {}: {}", text("grpc-status"), unescaped(text("grpc-message")))
}

/// gRPC escapes all of a message that is not plain ASCII, and the percent sign, as a URL does.
fn unescaped(message: &str) -> String {
    let mut parts = message.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => bytes.extend_from_slice(format!("%{part}").as_bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The client's side of TLS for ADS: HTTP/2, and no session is resumed, since every proxy is another process.
pub fn tls(ca_pem: Option<&str>) -> Result<TlsConnector> {
    let mut config = tls_config(ca_pem)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Trusts the authorities of `ca_pem`; without it, anybody.
pub fn tls_config(ca_pem: Option<&str>) -> Result<rustls::ClientConfig> {
    match ca_pem {
        Some(pem) => shared_node::tls::client_config(pem),
        None => Ok(rustls::ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust::Anybody::new()))
            .with_no_client_auth()),
    }
}

/// For control planes whose certificate cannot be checked: Kuma's own is an authority and a server at once.
mod trust {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    pub struct Anybody(CryptoProvider);

    impl Anybody {
        pub fn new() -> Anybody {
            Anybody(rustls::crypto::ring::default_provider())
        }
    }

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_complete_when_all_of_it_is_there() {
        assert_eq!(complete(&[0, 0, 0, 0]).unwrap(), None);
        assert_eq!(complete(&[0, 0, 0, 0, 0]).unwrap(), Some(5));
        assert_eq!(complete(&[0, 0, 0, 0, 2, b'a']).unwrap(), None);
        assert_eq!(complete(&[0, 0, 0, 0, 2, b'a', b'b', 9]).unwrap(), Some(7));
        assert!(complete(&[1, 0, 0, 0, 0]).is_err());
        assert!(complete(&[0, 255, 255, 255, 255]).is_err());
    }

    #[test]
    fn a_status_is_read_as_it_was_meant() {
        assert_eq!(unescaped("no%20proxy %C3%A9, 5%"), "no proxy \u{e9}, 5%");
        assert_eq!(unescaped("plain"), "plain");
    }
}
