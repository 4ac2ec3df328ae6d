//! What a request is answered with, and how that is encoded. The bytes equal those of prost and of Go's protobuf for the
//! same message, but values are copied once, from where they are kept.

use kvorum_api::authpb::Permission;
use kvorum_api::etcdserverpb::AlarmMember;
use prost::Message;

use crate::auth::Token;
use crate::keyspace::key_value::{frame_len, int64_len, put_frame, put_int64, put_varint};
use crate::revision::KvBytes;

/// A range's result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// `RangeResponse.kvs` as it stands on the wire: each key as field 2 with its length and encoded `KeyValue`.
    pub kvs: Vec<u8>,
    pub more: bool,
    /// All keys of the interval, whatever limit and filters left.
    pub count: i64,
    /// What etcd puts into the header: the store's revision when the range began.
    pub revision: i64,
}

impl RangeReply {
    /// The message in two parts: what comes before the keys, appended to `head`, and the rest, which is `kvs` itself with
    /// the last fields behind it. A large reply is sent without being copied once more.
    pub fn split(self, header: &Header, head: &mut Vec<u8>) -> Vec<u8> {
        header.encode_field(head);
        self.into_rest()
    }

    /// The message without its header.
    pub fn into_rest(self) -> Vec<u8> {
        let mut rest = self.kvs;
        put_int64(3, i64::from(self.more), &mut rest);
        put_int64(4, self.count, &mut rest);
        rest
    }
}

/// One operation's reply within a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpReply {
    /// The revision in this reply's own header; 0 (absent) for a nested transaction.
    pub revision: i64,
    pub reply: Reply,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnReply {
    pub succeeded: bool,
    pub responses: Vec<OpReply>,
    /// The store's revision after the transaction.
    pub revision: i64,
}

/// The result of an applied request; each belongs to one response message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A header at most: cluster version, attributes, downgrade, changes of users and roles.
    Empty,
    Range(RangeReply),
    Put {
        previous: Option<KvBytes>,
    },
    DeleteRange {
        deleted: i64,
        previous: Vec<KvBytes>,
    },
    Txn(TxnReply),
    Compaction,
    LeaseGrant {
        id: i64,
        ttl_seconds: i64,
    },
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm(Vec<AlarmMember>),
    AuthStatus {
        enabled: bool,
        revision: u64,
    },
    Authenticated {
        token: Token,
        /// What the user was let in at.
        auth_revision: u64,
    },
    /// Users, roles, or the roles of a user.
    Names(Vec<String>),
    /// Of a role.
    Permissions(Vec<Permission>),
}

/// `ResponseHeader`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub cluster_id: u64,
    pub member_id: u64,
    pub revision: i64,
    pub raft_term: u64,
}

impl Header {
    /// Appends field 1 of a response: the header message.
    pub fn encode_field(&self, out: &mut Vec<u8>) {
        out.push(0x0a);
        put_varint(self.body_len() as u64, out);
        put_int64(1, self.cluster_id as i64, out);
        put_int64(2, self.member_id as i64, out);
        put_int64(3, self.revision, out);
        put_int64(4, self.raft_term as i64, out);
    }

    fn body_len(&self) -> usize {
        int64_len(self.cluster_id as i64)
            + int64_len(self.member_id as i64)
            + int64_len(self.revision)
            + int64_len(self.raft_term as i64)
    }

    fn field_len(&self) -> usize {
        frame_len(self.body_len())
    }
}

impl Reply {
    /// Appends the bytes of the matching response message.
    pub fn encode(&self, header: &Header, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len(header));
        self.encode_unreserved(header, out);
    }

    /// Bytes that [`Self::encode`] appends.
    pub fn encoded_len(&self, header: &Header) -> usize {
        header.field_len() + self.body_len()
    }

    fn encode_unreserved(&self, header: &Header, out: &mut Vec<u8>) {
        header.encode_field(out);
        match self {
            Self::Empty | Self::Compaction | Self::LeaseRevoke | Self::LeaseCheckpoint => {}
            Self::Range(range) => {
                out.extend_from_slice(&range.kvs);
                put_int64(3, i64::from(range.more), out);
                put_int64(4, range.count, out);
            }
            Self::Put { previous } => {
                if let Some(previous) = previous {
                    put_frame(2, previous, out);
                }
            }
            Self::DeleteRange { deleted, previous } => {
                put_int64(2, *deleted, out);
                for kv in previous {
                    put_frame(3, kv, out);
                }
            }
            Self::Txn(txn) => {
                put_int64(2, i64::from(txn.succeeded), out);
                for response in &txn.responses {
                    response.encode(out);
                }
            }
            Self::LeaseGrant { id, ttl_seconds } => {
                put_int64(2, *id, out);
                put_int64(3, *ttl_seconds, out);
            }
            Self::Alarm(alarms) => {
                for alarm in alarms {
                    put_frame(2, &alarm.encode_to_vec(), out);
                }
            }
            Self::AuthStatus { enabled, revision } => {
                put_int64(2, i64::from(*enabled), out);
                put_int64(3, *revision as i64, out);
            }
            Self::Authenticated { token, .. } => put_frame(2, token.0.as_bytes(), out),
            Self::Names(names) => names.iter().for_each(|name| put_frame(2, name.as_bytes(), out)),
            Self::Permissions(permissions) => {
                permissions.iter().for_each(|permission| put_frame(2, &permission.encode_to_vec(), out));
            }
        }
    }

    fn body_len(&self) -> usize {
        match self {
            Self::Empty | Self::Compaction | Self::LeaseRevoke | Self::LeaseCheckpoint => 0,
            Self::Range(range) => range.kvs.len() + int64_len(i64::from(range.more)) + int64_len(range.count),
            Self::Put { previous } => previous.as_ref().map_or(0, |kv| frame_len(kv.len())),
            Self::DeleteRange { deleted, previous } => {
                int64_len(*deleted) + previous.iter().map(|kv| frame_len(kv.len())).sum::<usize>()
            }
            Self::Txn(txn) => {
                int64_len(i64::from(txn.succeeded)) + txn.responses.iter().map(OpReply::field_len).sum::<usize>()
            }
            Self::LeaseGrant { id, ttl_seconds } => int64_len(*id) + int64_len(*ttl_seconds),
            Self::Alarm(alarms) => alarms.iter().map(|alarm| frame_len(alarm.encoded_len())).sum(),
            Self::AuthStatus { enabled, revision } => int64_len(i64::from(*enabled)) + int64_len(*revision as i64),
            Self::Authenticated { token, .. } => frame_len(token.0.len()),
            Self::Names(names) => names.iter().map(|name| frame_len(name.len())).sum(),
            Self::Permissions(permissions) => {
                permissions.iter().map(|permission| frame_len(permission.encoded_len())).sum()
            }
        }
    }
}

impl OpReply {
    /// The member of `ResponseOp`'s oneof, by field number. An operation that was empty has none.
    fn field(&self) -> Option<u8> {
        match self.reply {
            Reply::Range(_) => Some(1),
            Reply::Put { .. } => Some(2),
            Reply::DeleteRange { .. } => Some(3),
            Reply::Txn(_) => Some(4),
            _ => None,
        }
    }

    fn header(&self) -> Header {
        Header { revision: self.revision, ..Header::default() }
    }

    /// Length of the `ResponseOp` message.
    fn message_len(&self) -> usize {
        self.field().map_or(0, |_| frame_len(self.reply.encoded_len(&self.header())))
    }

    fn field_len(&self) -> usize {
        frame_len(self.message_len())
    }

    /// Appends `TxnResponse.responses`, field 3.
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(3 << 3 | 2);
        put_varint(self.message_len() as u64, out);
        if let Some(field) = self.field() {
            let header = self.header();
            out.push(field << 3 | 2);
            put_varint(self.reply.encoded_len(&header) as u64, out);
            self.reply.encode_unreserved(&header, out);
        }
    }
}
