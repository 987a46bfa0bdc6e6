//! Requests are decoded as Envoy's message; a response is a small head and chunks that are copied as they are.
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;
use zone_xds::Response;

/// Most messages of a proxy are acknowledgements of some hundred bytes, and a buffer lives as long as its stream: tonic's
/// 8 KiB would be paid twice by every proxy. In bytes.
const BUFFER: usize = 1 << 10;
/// From how many bytes on a response is handed to the connection.
const YIELD: usize = 32 << 10;

#[derive(Clone, Copy, Default)]
pub struct DeltaCodec;

pub struct ResponseEncoder;

impl Codec for DeltaCodec {
    type Encode = Response;
    type Decode = DeltaDiscoveryRequest;
    type Encoder = ResponseEncoder;
    type Decoder = ProstDecoder<DeltaDiscoveryRequest>;

    fn encoder(&mut self) -> Self::Encoder {
        ResponseEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, YIELD))
    }
}

impl Encoder for ResponseEncoder {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, response: Response, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(response.encoded_len());
        response.encode_into(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}
