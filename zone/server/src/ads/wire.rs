//! gRPC's framing of the two directions of a stream.
//!
//! A stream lives as long as its proxy, and there are thousands: nothing stays allocated on it between two messages. The
//! first request weighs tens of kilobytes and a response of a whole type as much; what comes after is small and rare.
use axum::body::Body;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use futures::Stream;
use http::{HeaderMap, HeaderValue, header};
use hyper::body::{Body as HttpBody, Frame};
use prost::Message as _;
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

/// The requests of a proxy.
pub struct Requests {
    body: Body,
    /// A part of a message.
    begun: BytesMut,
}

impl Requests {
    pub fn new(body: Body) -> Requests {
        Requests { body, begun: BytesMut::new() }
    }

    /// The next one; `None` at the end of the stream.
    pub async fn message(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await.transpose()
    }

    /// Takes a message if it is there as a whole.
    fn take(&mut self) -> Result<Option<DeltaDiscoveryRequest>, Status> {
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
        let request = DeltaDiscoveryRequest::decode(message)
            .map_err(|error| Status::invalid_argument(format!("not a request: {error}")))?;
        self.begun.advance(HEAD + length);
        if self.begun.is_empty() {
            self.begun = BytesMut::new();
        }
        Ok(Some(request))
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

/// The answer: responses as they come, and why the stream ended.
pub fn answer(responses: mpsc::Receiver<Result<Response, Status>>) -> axum::response::Response {
    let body = Body::new(Responses { responses, ended: false });
    let mut answer = axum::response::Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

struct Responses {
    responses: mpsc::Receiver<Result<Response, Status>>,
    ended: bool,
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
            Some(Ok(response)) => return Poll::Ready(Some(Ok(Frame::data(framed(&response))))),
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

/// One buffer of just the size, which is free again when it is sent.
fn framed(response: &Response) -> Bytes {
    let length = response.encoded_len();
    let mut bytes = Vec::with_capacity(HEAD + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("a manifest is far below 4 GiB"));
    response.encode_into(&mut bytes);
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
        Requests::new(Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, Infallible>))))
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
    async fn what_is_no_request_is_refused() {
        let refused = async |bytes: Vec<u8>| requests(vec![bytes]).message().await.unwrap_err().code();
        assert_eq!(refused(vec![1, 0, 0, 0, 0]).await, Code::Unimplemented);
        assert_eq!(refused(vec![0, 255, 0, 0, 0]).await, Code::OutOfRange);
        assert_eq!(refused(vec![0, 0, 0, 0, 1, 255]).await, Code::InvalidArgument);
        assert_eq!(refused(vec![0, 0, 0]).await, Code::Internal);
    }
}
