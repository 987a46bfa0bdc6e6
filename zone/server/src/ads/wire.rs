//! gRPC's framing of the two directions of a stream, whichever form of the protocol it speaks.
//!
//! A stream lives as long as its proxy, and there are thousands: nothing stays allocated on it between two messages. The
//! first request weighs tens of kilobytes and a response of a whole type as much; what comes after is small and rare.
//! Nine tenths of a first request are the extensions that its Envoy was built with: they are stepped over, not read.
use super::whole;
use axum::body::Body;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::google::protobuf::Struct;
use envoy_types::pb::google::rpc;
use futures::Stream;
use http::{HeaderMap, HeaderValue, header};
use hyper::body::{Body as HttpBody, Frame};
use prost::Message as _;
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;
use tonic::{Code, Status};
use zone_xds::Response;

/// A request names at most all resources of a proxy; an Envoy's first one weighs about 60 kB. In bytes.
const REQUEST_MAX: usize = 4 << 20;

/// What stands before each message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// As much of a `DeltaDiscoveryRequest` as is looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(message, optional, tag = "1")]
    node: Option<Asker>,
    #[prost(string, tag = "2")]
    type_url: String,
    #[prost(string, repeated, tag = "3")]
    resource_names_subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    resource_names_unsubscribe: Vec<String>,
    #[prost(map = "string, string", tag = "5")]
    initial_resource_versions: HashMap<String, String>,
    #[prost(string, tag = "6")]
    response_nonce: String,
    #[prost(message, optional, tag = "7")]
    error_detail: Option<rpc::Status>,
}

/// As much of a `Node`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Asker {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<Struct>,
}

impl From<Asker> for Node {
    fn from(Asker { id, metadata }: Asker) -> Node {
        Node { id, metadata, ..Node::default() }
    }
}

impl From<Asked> for DeltaDiscoveryRequest {
    fn from(asked: Asked) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: asked.node.map(Into::into),
            type_url: asked.type_url,
            resource_names_subscribe: asked.resource_names_subscribe,
            resource_names_unsubscribe: asked.resource_names_unsubscribe,
            initial_resource_versions: asked.initial_resource_versions,
            response_nonce: asked.response_nonce,
            error_detail: asked.error_detail,
            ..DeltaDiscoveryRequest::default()
        }
    }
}

/// In which of the two forms of the protocol requests are made.
pub enum Hearing {
    Delta,
    Whole(whole::Hearing),
}

/// In which form responses are given.
pub enum Telling {
    Delta,
    Whole(whole::Telling),
}

/// The requests of a proxy, as those of delta.
pub struct Requests {
    body: Body,
    hearing: Hearing,
    /// A part of a message.
    begun: BytesMut,
}

impl Requests {
    pub fn new(body: Body, hearing: Hearing) -> Requests {
        Requests { body, hearing, begun: BytesMut::new() }
    }

    /// The next one; `None` at the end of the stream.
    pub async fn message(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await.transpose()
    }

    /// Takes the next message that says something, if it is there as a whole.
    fn take(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        loop {
            match self.take_one()? {
                None => return Ok(None),
                Some(Some(request)) => return Ok(Some(request)),
                Some(None) => {}
            }
        }
    }

    fn take_one(&mut self) -> Result<Option<Option<DeltaDiscoveryRequest>>, Status> {
        let Some((head, rest)) = self.begun.split_at_checked(HEAD) else { return Ok(None) };
        if head[0] != 0 {
            return Err(Status::unimplemented("compressed requests are not understood"));
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > REQUEST_MAX {
            return Err(Status::out_of_range(format!(
                "a request of {length} bytes, {REQUEST_MAX} are allowed"
            )));
        }
        let Some(message) = rest.get(..length) else {
            self.begun.reserve(HEAD + length - self.begun.len());
            return Ok(None);
        };
        let request = self
            .hearing
            .read(message)
            .map_err(|error| Status::invalid_argument(format!("not a request: {error}")))?;
        self.begun.advance(HEAD + length);
        if self.begun.is_empty() {
            self.begun = BytesMut::new();
        }
        Ok(Some(request))
    }
}

impl Hearing {
    fn read(&self, message: &[u8]) -> Result<Option<DeltaDiscoveryRequest>, prost::DecodeError> {
        match self {
            Hearing::Delta => Asked::decode(message).map(|asked| Some(asked.into())),
            Hearing::Whole(hearing) => whole::Asked::decode(message).map(|asked| hearing.hear(asked)),
        }
    }
}

impl Stream for Requests {
    type Item = Result<DeltaDiscoveryRequest, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(request) = self.take().transpose() {
                return Poll::Ready(Some(request));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None if self.begun.is_empty() => return Poll::Ready(None),
                None => {
                    self.begun = BytesMut::new();
                    return Poll::Ready(Some(Err(Status::internal("the stream ended within a request"))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(Status::unavailable(error.to_string())))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.begun.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// What a proxy is sent, or why the stream ended. The room for a full outbox is there as long as the stream is.
pub type Outgoing = Result<Box<Response>, Status>;

/// The answer's body: responses as they come, and why the stream ended.
pub struct Responses {
    responses: mpsc::Receiver<Outgoing>,
    telling: Telling,
    ended: bool,
}

impl Responses {
    pub fn new(responses: mpsc::Receiver<Outgoing>, telling: Telling) -> Responses {
        Responses { responses, telling, ended: false }
    }

    pub fn into_http(self) -> axum::response::Response {
        let mut answer = axum::response::Response::new(Body::new(self));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        answer
    }
}

impl HttpBody for Responses {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let status = match ready!(self.responses.poll_recv(context)) {
            Some(Ok(response)) => return Poll::Ready(Some(Ok(Frame::data(self.telling.frame(*response))))),
            Some(Err(status)) => status,
            None => Status::new(Code::Ok, ""),
        };
        self.ended = true;
        self.responses.close();
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            trailers.insert("grpc-status", HeaderValue::from(Code::Internal as i32));
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl Telling {
    fn frame(&self, response: Response) -> Bytes {
        match self {
            Telling::Delta => framed(response.encoded_len(), |bytes| response.encode_into(bytes)),
            Telling::Whole(telling) => {
                let told = telling.tell(response);
                framed(told.encoded_len(), |bytes| told.encode_into(bytes))
            }
        }
    }
}

/// One buffer of just the size, which is free again when it is sent.
fn framed(length: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = Vec::with_capacity(HEAD + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("a manifest is far below 4 GiB"));
    encode(&mut bytes);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt as _, stream};

    fn frame(request: &DeltaDiscoveryRequest) -> Vec<u8> {
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap();
        [&[0][..], &length.to_be_bytes(), &message].concat()
    }

    fn requests(parts: Vec<Vec<u8>>) -> Requests {
        Requests::new(
            Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, Infallible>))),
            Hearing::Delta,
        )
    }

    #[test]
    fn a_request_is_read_but_for_what_is_not_looked_at() {
        let metadata = Struct { fields: [("a".to_owned(), Default::default())].into() };
        let node = Node { id: "default.web".into(), metadata: Some(metadata), ..Node::default() };
        let told = DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: "type".into(),
            resource_names_subscribe: vec!["a".into(), "b".into()],
            resource_names_unsubscribe: vec!["c".into()],
            initial_resource_versions: [("a".to_owned(), "1".to_owned())].into(),
            response_nonce: "7".into(),
            error_detail: Some(rpc::Status { code: 3, message: "no".into(), details: Vec::new() }),
            ..DeltaDiscoveryRequest::default()
        };
        let whole = Node { cluster: "web".into(), extensions: vec![Default::default(); 3], ..node };
        let sent = DeltaDiscoveryRequest { node: Some(whole), ..told.clone() };
        let read = Asked::decode(sent.encode_to_vec().as_slice()).unwrap();
        assert_eq!(DeltaDiscoveryRequest::from(read), told);
    }

    #[actix_rt::test]
    async fn requests_are_read_however_they_are_cut() {
        let one = DeltaDiscoveryRequest { type_url: "one".into(), ..Default::default() };
        let two = DeltaDiscoveryRequest { response_nonce: "n".repeat(5_000), ..Default::default() };
        let bytes = [frame(&one), frame(&two), frame(&one)].concat();
        for cut in [1, 4, 5, 7, 100, 10_000] {
            let mut requests = requests(bytes.chunks(cut).map(<[u8]>::to_vec).collect());
            let read: Vec<_> = requests.by_ref().map(Result::unwrap).collect().await;
            assert_eq!(read, [one.clone(), two.clone(), one.clone()], "{cut}");
            assert_eq!(requests.begun.capacity(), 0, "nothing is kept");
        }
    }

    #[actix_rt::test]
    async fn what_says_nothing_is_stepped_over() {
        let (outbox, _responses) = mpsc::channel(1);
        let (hearing, telling) = whole::ends(outbox);
        let asked = |nonce: &str, names: &[&str]| {
            let resource_names = names.iter().map(|name| (*name).to_owned()).collect();
            let type_url = zone_xds::Type::Route.type_url().to_owned();
            let (response_nonce, node, error_detail) = (nonce.to_owned(), None, None);
            let asked = whole::Asked { type_url, resource_names, response_nonce, node, error_detail };
            let message = asked.encode_to_vec();
            [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()][..], &message].concat()
        };
        let bytes = [asked("", &["a"]), asked("old", &["b"]), asked("", &["a"]), asked("", &["a", "c"])];
        let body = Body::from_stream(stream::iter([Ok::<_, Infallible>(bytes.concat())]));
        let requests = Requests::new(body, Hearing::Whole(hearing));
        let read: Vec<_> = requests.map(|request| request.unwrap().resource_names_subscribe).collect().await;
        assert_eq!(read, [["a"], ["c"]]);
        let response = Response {
            type_url: zone_xds::Type::Route.type_url(),
            nonce: "1".into(),
            system_version: String::new(),
            resources: Vec::new(),
            removed: Vec::new(),
        };
        let bytes = Telling::Whole(telling).frame(response);
        assert_eq!(bytes.len(), HEAD + usize::from(bytes[4]));
    }

    #[actix_rt::test]
    async fn what_is_no_request_is_refused() {
        let refused = async |bytes: Vec<u8>| requests(vec![bytes]).message().await.unwrap_err().code();
        assert_eq!(refused(vec![1, 0, 0, 0, 0]).await, Code::Unimplemented);
        assert_eq!(refused(vec![0, 255, 0, 0, 0]).await, Code::OutOfRange);
        assert_eq!(refused(vec![0, 0, 0, 0, 1, 255]).await, Code::InvalidArgument);
        assert_eq!(refused(vec![0, 0, 0]).await, Code::Internal);
    }
}
