//! The streams of the floor: a request is answered with prebuilt bytes, an acknowledgement with nothing. The codec and
//! its buffers are those of `zone-cp`.
use super::Floor;
use super::prebuilt::Body;
use crate::wire::{Kind, Protocol};
use axum::Router;
use axum::body::Body as HttpBody;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use bytes::{BufMut as _, Bytes};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use futures::Stream;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic::{Status, Streaming};
use tonic_prost::ProstDecoder;

const BUFFER: usize = 1 << 10;
const YIELD: usize = 32 << 10;
/// Pushes that may wait for a proxy that does not read.
const OUTBOX: usize = 32;

pub type Outbox = mpsc::Sender<Push>;

/// Something to say without having been asked.
#[derive(Clone, Debug)]
pub struct Push(pub Body);

struct Prebuilt<R>(PhantomData<R>);

impl<R: prost::Message + Default + Send + 'static> Codec for Prebuilt<R> {
    type Encode = Bytes;
    type Decode = R;
    type Encoder = Copy;
    type Decoder = ProstDecoder<R>;

    fn encoder(&mut self) -> Copy {
        Copy
    }

    fn decoder(&mut self) -> ProstDecoder<R> {
        ProstDecoder::new(BufferSettings::new(BUFFER, YIELD))
    }
}

struct Copy;

impl Encoder for Copy {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, body: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(body.len());
        buffer.put_slice(&body);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}

/// As much of a request as the floor looks at.
trait Asked: prost::Message + Default + Send + 'static {
    const PROTOCOL: Protocol;
    fn node(&self) -> Option<&Node>;
    fn type_url(&self) -> &str;
    /// What is asked for anew; `None` when nothing is. `before` is what was asked for so far in state of the world.
    fn names<'a>(&'a self, before: Option<&Vec<String>>) -> Option<&'a [String]>;
    /// The client has what there is, by its own words.
    fn has_all(&self) -> bool;
}

impl Asked for DeltaDiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::Delta;

    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn names(&self, _: Option<&Vec<String>>) -> Option<&[String]> {
        let names = self.resource_names_subscribe.as_slice();
        let dropped = !self.resource_names_unsubscribe.is_empty();
        (!names.is_empty() || (self.response_nonce.is_empty() && !dropped)).then_some(names)
    }

    fn has_all(&self) -> bool {
        !self.initial_resource_versions.is_empty()
    }
}

impl Asked for DiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::Sotw;

    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn names(&self, before: Option<&Vec<String>>) -> Option<&[String]> {
        (before != Some(&self.resource_names)).then_some(self.resource_names.as_slice())
    }

    fn has_all(&self) -> bool {
        self.response_nonce.is_empty() && !self.version_info.is_empty()
    }
}

pub fn router(floor: Arc<Floor>) -> Router {
    Router::new()
        .route(Protocol::Delta.path(), post(open::<DeltaDiscoveryRequest>))
        .route(Protocol::Sotw.path(), post(open::<DiscoveryRequest>))
        .with_state(floor)
}

async fn open<R: Asked>(State(floor): State<Arc<Floor>>, request: Request) -> Response {
    let mut grpc = tonic::server::Grpc::new(Prebuilt::<R>(PhantomData));
    grpc.streaming(Service(floor, PhantomData::<fn(R)>), request).await.map(HttpBody::new)
}

struct Service<R>(Arc<Floor>, PhantomData<fn(R)>);

type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl<R: Asked> tonic::server::StreamingService<R> for Service<R> {
    type Response = Bytes;
    type ResponseStream = Answers;
    type Future = BoxFuture<'static, Result<tonic::Response<Answers>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<R>>) -> Self::Future {
        let floor = self.0.clone();
        Box::pin(async move {
            let mut requests = request.into_inner();
            let first =
                requests.message().await?.ok_or_else(|| Status::invalid_argument("nothing was asked"))?;
            let id = first.node().map(|node| node.id.as_str()).unwrap_or_default();
            let name = id.split_once('.').map_or(id, |(_, name)| name);
            let found = floor.graph.find(name);
            let proxy = found.ok_or_else(|| Status::not_found(format!("there is no proxy {name:?}")))?;
            let service = floor.graph.service_of(proxy);
            let (outbox, pushes) = mpsc::channel(OUTBOX);
            floor.attach(proxy, outbox);
            let mut open =
                Open { floor, service, requests, pushes, asked: BTreeMap::new(), ready: VecDeque::new() };
            open.answer(&first);
            let answers = futures::stream::unfold(open, |mut open| async move {
                let next = open.next().await?;
                Some((next, open))
            });
            Ok(tonic::Response::new(Box::pin(answers) as Answers))
        })
    }
}

/// One stream.
struct Open<R> {
    floor: Arc<Floor>,
    service: usize,
    requests: Streaming<R>,
    pushes: mpsc::Receiver<Push>,
    /// State of the world: the names that were asked for last, by type.
    asked: BTreeMap<Kind, Vec<String>>,
    ready: VecDeque<Bytes>,
}

impl<R: Asked> Open<R> {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(Ok(bytes));
            }
            tokio::select! {
                request = self.requests.message() => match request {
                    Ok(Some(request)) => self.answer(&request),
                    Ok(None) => return None,
                    Err(status) => return Some(Err(status)),
                },
                push = self.pushes.recv() => match push {
                    Some(Push(body)) => self.ready.push_back(body.bytes(R::PROTOCOL)),
                    // Another stream of the same proxy has taken its place.
                    None => return None,
                },
            }
        }
    }

    fn answer(&mut self, request: &R) {
        let Some(kind) = Kind::of_url(request.type_url()) else { return };
        let Some(names) = request.names(self.asked.get(&kind)) else { return };
        let prebuilt = &self.floor.prebuilt;
        let bytes = match (request.has_all(), kind.is_wildcard()) {
            (true, _) if R::PROTOCOL == Protocol::Delta => prebuilt.empty(kind).bytes(R::PROTOCOL),
            (_, true) => prebuilt.whole(self.service, kind).bytes(R::PROTOCOL),
            (_, false) => prebuilt.by_name(kind, names).bytes(R::PROTOCOL),
        };
        self.ready.push_back(bytes);
        if R::PROTOCOL == Protocol::Sotw {
            self.asked.insert(kind, names.to_vec());
        }
    }
}
