//! The requests the differential test sends and the replies it gets, each as one enum. It must not judge.

use bytes::Bytes;
use kvorum_api::etcdserverpb as pb;
use prost::Message;
use tonic::transport::Channel;

use crate::raw::{self, Failure};

/// A request, in the terms of etcd's API.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    LeaseLeases,
    LeaseKeepAlive(pb::LeaseKeepAliveRequest),
    HashKv(pb::HashKvRequest),
    MemberList(pb::MemberListRequest),
    Alarm(pb::AlarmRequest),
    Status,
    /// Any message to any method, compared byte for byte without the header.
    Bytes {
        path: &'static str,
        body: Bytes,
        what: &'static str,
    },
}

/// A reply of the same name; `Opaque` holds what follows the header in the reply to [`Call::Bytes`].
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    LeaseTimeToLive(pb::LeaseTimeToLiveResponse),
    LeaseLeases(pb::LeaseLeasesResponse),
    LeaseKeepAlive(Option<pb::LeaseKeepAliveResponse>),
    HashKv(pb::HashKvResponse),
    MemberList(pb::MemberListResponse),
    Alarm(pb::AlarmResponse),
    Status(pb::StatusResponse),
    Opaque(Bytes),
}

/// What came back: a reply or an error.
pub type Outcome = Result<Reply, Failure>;

impl Call {
    /// Sends the request and waits for the outcome. A reply that is no valid message is a failure of code DataLoss.
    pub async fn send(&self, channel: &Channel) -> Outcome {
        if let Call::LeaseKeepAlive(request) = self {
            return keep_alive(channel, *request).await;
        }
        let (path, body) = self.message();
        let bytes = raw::unary(channel, path, body).await?;
        self.decode(bytes).map_err(|error| Failure {
            code: tonic::Code::DataLoss,
            message: format!("the reply cannot be decoded: {error}"),
        })
    }

    fn message(&self) -> (&'static str, Bytes) {
        match self {
            Call::Range(request) => ("/etcdserverpb.KV/Range", encoded(request)),
            Call::Put(request) => ("/etcdserverpb.KV/Put", encoded(request)),
            Call::DeleteRange(request) => ("/etcdserverpb.KV/DeleteRange", encoded(request)),
            Call::Txn(request) => ("/etcdserverpb.KV/Txn", encoded(request)),
            Call::Compact(request) => ("/etcdserverpb.KV/Compact", encoded(request)),
            Call::LeaseGrant(request) => ("/etcdserverpb.Lease/LeaseGrant", encoded(request)),
            Call::LeaseRevoke(request) => ("/etcdserverpb.Lease/LeaseRevoke", encoded(request)),
            Call::LeaseTimeToLive(request) => ("/etcdserverpb.Lease/LeaseTimeToLive", encoded(request)),
            Call::LeaseLeases => ("/etcdserverpb.Lease/LeaseLeases", Bytes::new()),
            Call::LeaseKeepAlive(request) => ("/etcdserverpb.Lease/LeaseKeepAlive", encoded(request)),
            Call::HashKv(request) => ("/etcdserverpb.Maintenance/HashKV", encoded(request)),
            Call::MemberList(request) => ("/etcdserverpb.Cluster/MemberList", encoded(request)),
            Call::Alarm(request) => ("/etcdserverpb.Maintenance/Alarm", encoded(request)),
            Call::Status => ("/etcdserverpb.Maintenance/Status", Bytes::new()),
            Call::Bytes { path, body, .. } => (path, body.clone()),
        }
    }

    fn decode(&self, bytes: Bytes) -> Result<Reply, prost::DecodeError> {
        Ok(match self {
            Call::Range(_) => Reply::Range(Message::decode(bytes)?),
            Call::Put(_) => Reply::Put(Message::decode(bytes)?),
            Call::DeleteRange(_) => Reply::DeleteRange(Message::decode(bytes)?),
            Call::Txn(_) => Reply::Txn(Message::decode(bytes)?),
            Call::Compact(_) => Reply::Compact(Message::decode(bytes)?),
            Call::LeaseGrant(_) => Reply::LeaseGrant(Message::decode(bytes)?),
            Call::LeaseRevoke(_) => Reply::LeaseRevoke(Message::decode(bytes)?),
            Call::LeaseTimeToLive(_) => Reply::LeaseTimeToLive(Message::decode(bytes)?),
            Call::LeaseLeases => Reply::LeaseLeases(Message::decode(bytes)?),
            Call::LeaseKeepAlive(_) => Reply::LeaseKeepAlive(Some(Message::decode(bytes)?)),
            Call::HashKv(_) => Reply::HashKv(Message::decode(bytes)?),
            Call::MemberList(_) => Reply::MemberList(Message::decode(bytes)?),
            Call::Alarm(_) => Reply::Alarm(Message::decode(bytes)?),
            Call::Status => Reply::Status(Message::decode(bytes)?),
            Call::Bytes { .. } => Reply::Opaque(without_header(bytes)),
        })
    }
}

impl Reply {
    /// The header, of replies that have one we know.
    pub fn header_mut(&mut self) -> Option<&mut pb::ResponseHeader> {
        match self {
            Reply::Range(reply) => reply.header.as_mut(),
            Reply::Put(reply) => reply.header.as_mut(),
            Reply::DeleteRange(reply) => reply.header.as_mut(),
            Reply::Txn(reply) => reply.header.as_mut(),
            Reply::Compact(reply) => reply.header.as_mut(),
            Reply::LeaseGrant(reply) => reply.header.as_mut(),
            Reply::LeaseRevoke(reply) => reply.header.as_mut(),
            Reply::LeaseTimeToLive(reply) => reply.header.as_mut(),
            Reply::LeaseLeases(reply) => reply.header.as_mut(),
            Reply::LeaseKeepAlive(reply) => reply.as_mut()?.header.as_mut(),
            Reply::HashKv(reply) => reply.header.as_mut(),
            Reply::MemberList(reply) => reply.header.as_mut(),
            Reply::Alarm(reply) => reply.header.as_mut(),
            Reply::Status(reply) => reply.header.as_mut(),
            Reply::Opaque(_) => None,
        }
    }

    /// The store's revision in the header, when there is one.
    pub fn revision(&self) -> Option<i64> {
        self.clone().header_mut().map(|header| header.revision)
    }
}

async fn keep_alive(channel: &Channel, request: pb::LeaseKeepAliveRequest) -> Outcome {
    let mut client = pb::lease_client::LeaseClient::new(channel.clone());
    let mut answers = client.lease_keep_alive(futures_util::stream::iter([request])).await?.into_inner();
    Ok(Reply::LeaseKeepAlive(answers.message().await?))
}

fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// The message without its field 1, which is the header in every reply of etcd's. Bytes that are no message stay.
fn without_header(bytes: Bytes) -> Bytes {
    const HEADER_KEY: u8 = 0x0a;
    let mut rest = bytes.clone();
    if rest.first() != Some(&HEADER_KEY) {
        return bytes;
    }
    rest = rest.slice(1..);
    match prost::encoding::decode_varint(&mut rest) {
        Ok(length) if length as usize <= rest.len() => rest.slice(length as usize..),
        _ => bytes,
    }
}
