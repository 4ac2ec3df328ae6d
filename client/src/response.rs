//! Answers: etcd's own messages, by the names clientv3 gives them, with two small traits for what one always wants.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use kvorum_client::{Header, KeyValueExt};
//!
//! let put = client.put("a", "1").await?;
//! let got = client.get("a").await?;
//! assert_eq!(got.kvs[0].mod_revision, put.revision());
//! assert_eq!((got.kvs[0].key_text(), got.kvs[0].value_text()), ("a".into(), "1".into()));
//! assert_eq!(got.kvs[0].lease_id(), None);
//! # Ok(()) }); }
//! ```

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
pub use kvorum_api::etcdserverpb::{
    AlarmMember, AlarmResponse, AlarmType, AuthDisableResponse, AuthEnableResponse, AuthRoleAddResponse,
    AuthRoleDeleteResponse, AuthRoleGetResponse, AuthRoleGrantPermissionResponse, AuthRoleListResponse,
    AuthRoleRevokePermissionResponse, AuthStatusResponse, AuthUserAddResponse, AuthUserChangePasswordResponse,
    AuthUserDeleteResponse, AuthUserGetResponse, AuthUserGrantRoleResponse, AuthUserListResponse,
    AuthUserRevokeRoleResponse, AuthenticateResponse, CompactionResponse as CompactResponse, DefragmentResponse,
    DeleteRangeResponse as DeleteResponse, DowngradeResponse, HashKvResponse, HashResponse, LeaseGrantResponse,
    LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, Member,
    MemberAddResponse, MemberListResponse, MemberPromoteResponse, MemberRemoveResponse, MemberUpdateResponse,
    MoveLeaderResponse, PutResponse, RangeResponse as GetResponse, ResponseHeader, StatusResponse,
};
pub use kvorum_api::mvccpb::event::EventType;
pub use kvorum_api::mvccpb::{Event, KeyValue};

/// The id of a lease, shown in hexadecimal as etcdctl shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}", self.0)
    }
}

impl From<i64> for LeaseId {
    fn from(id: i64) -> Self {
        Self(id)
    }
}

/// The id of a member, shown in hexadecimal as etcdctl shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}", self.0)
    }
}

impl From<u64> for MemberId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// What every answer begins with.
pub trait Header {
    /// Cluster, member, revision and term of the answer. etcd always sends one; all zero if a server did not.
    fn header(&self) -> ResponseHeader;

    /// The store's revision when the answer was made.
    fn revision(&self) -> i64 {
        self.header().revision
    }
}

macro_rules! has_header {
    ($($response:ty),* $(,)?) => {
        $(impl Header for $response {
            fn header(&self) -> ResponseHeader {
                self.header.unwrap_or_default()
            }
        })*
    };
}

has_header!(
    AlarmResponse,
    AuthDisableResponse,
    AuthEnableResponse,
    AuthRoleAddResponse,
    AuthRoleDeleteResponse,
    AuthRoleGetResponse,
    AuthRoleGrantPermissionResponse,
    AuthRoleListResponse,
    AuthRoleRevokePermissionResponse,
    AuthStatusResponse,
    AuthUserAddResponse,
    AuthUserChangePasswordResponse,
    AuthUserDeleteResponse,
    AuthUserGetResponse,
    AuthUserGrantRoleResponse,
    AuthUserListResponse,
    AuthUserRevokeRoleResponse,
    AuthenticateResponse,
    CompactResponse,
    DefragmentResponse,
    DeleteResponse,
    DowngradeResponse,
    HashKvResponse,
    HashResponse,
    LeaseGrantResponse,
    LeaseKeepAliveResponse,
    LeaseLeasesResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
    MemberAddResponse,
    MemberListResponse,
    MemberPromoteResponse,
    MemberRemoveResponse,
    MemberUpdateResponse,
    MoveLeaderResponse,
    PutResponse,
    GetResponse,
    StatusResponse,
);

/// Reading a [`KeyValue`].
pub trait KeyValueExt {
    /// The key as text; bytes that are no text are replaced by U+FFFD.
    fn key_text(&self) -> Cow<'_, str>;

    /// The value as text; bytes that are no text are replaced by U+FFFD.
    fn value_text(&self) -> Cow<'_, str>;

    /// The lease the key is attached to.
    fn lease_id(&self) -> Option<LeaseId>;
}

impl KeyValueExt for KeyValue {
    fn key_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }

    fn value_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.value)
    }

    fn lease_id(&self) -> Option<LeaseId> {
        (self.lease != 0).then_some(LeaseId(self.lease))
    }
}

/// Reading an [`Event`].
pub trait EventExt {
    /// Whether the key was put and did not exist before.
    fn is_create(&self) -> bool;

    /// Whether the key was put and existed before.
    fn is_modify(&self) -> bool;

    /// Whether the key was deleted, by a request or with its lease.
    fn is_delete(&self) -> bool;

    /// The key.
    fn key(&self) -> &[u8];

    /// The value that was put; empty for a deletion.
    fn value(&self) -> &Bytes;

    /// The revision the event happened at.
    fn revision(&self) -> i64;
}

impl EventExt for Event {
    fn is_create(&self) -> bool {
        self.r#type() == EventType::Put && self.kv.as_ref().is_some_and(|kv| kv.create_revision == kv.mod_revision)
    }

    fn is_modify(&self) -> bool {
        self.r#type() == EventType::Put && !self.is_create()
    }

    fn is_delete(&self) -> bool {
        self.r#type() == EventType::Delete
    }

    fn key(&self) -> &[u8] {
        self.kv.as_ref().map_or(&[], |kv| &kv.key)
    }

    fn value(&self) -> &Bytes {
        static EMPTY: Bytes = Bytes::new();
        self.kv.as_ref().map_or(&EMPTY, |kv| &kv.value)
    }

    fn revision(&self) -> i64 {
        self.kv.as_ref().map_or(0, |kv| kv.mod_revision)
    }
}
