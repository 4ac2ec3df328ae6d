//! gRPC calls with bytes in and bytes out, so that a test can send what no client library would and see replies that no
//! decoder of ours takes. It must not interpret anything.

use bytes::{Buf, BufMut, Bytes};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};

/// Limit of a call; far above what any takes, so that reaching it means the server hangs.
const CALL_SECONDS: u64 = 60;

/// An error as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// gRPC's code.
    pub code: tonic::Code,
    /// The description.
    pub message: String,
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Failure {
        Failure { code: status.code(), message: status.message().to_owned() }
    }
}

/// A channel that connects at the first call.
pub fn channel(url: &str) -> Channel {
    let endpoint = Endpoint::from_shared(url.to_owned()).expect("the harness makes valid URLs");
    endpoint.timeout(std::time::Duration::from_secs(CALL_SECONDS)).connect_lazy()
}

/// Calls `path` ("/package.Service/Method") with one message.
pub async fn unary(channel: &Channel, path: &'static str, message: Bytes) -> Result<Bytes, Failure> {
    let mut grpc = tonic::client::Grpc::new(channel.clone())
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|error| Failure { code: tonic::Code::Unavailable, message: error.to_string() })?;
    let path = http::uri::PathAndQuery::from_static(path);
    Ok(grpc.unary(tonic::Request::new(message), path, Raw).await?.into_inner())
}

#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: Bytes, target: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        target.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        let length = source.remaining();
        Ok(Some(source.copy_to_bytes(length)))
    }
}
