//! Who may call what: the one table of it. What it cannot say by itself, since it depends on keys, is decided where the keys
//! are known, by `kvorum_store::auth`: for reads where they are answered, for everything else where the entry is applied.
//!
//! etcd decides in the same order and with the same errors; see the table of surfaces in its `v3rpc` and `apply`.

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::AlarmRequest;
use kvorum_api::etcdserverpb::alarm_request::AlarmAction;
use kvorum_store::{AuthState, Caller};
use prost::Message;

use crate::metrics::GrpcMethod;

/// What is asked of a caller before its request is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Nothing, and what it shows is not looked at.
    Open,
    /// Nothing, but a token that it shows must be good.
    Known,
    /// To be somebody.
    User,
    /// To be somebody for `GET`, else an administrator.
    UserOrAdmin,
    /// To have the role root.
    Admin,
}

/// What is decided later, when the keys are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    Nothing,
    /// Read permission for the keys of the request, where it is answered.
    Reads,
    /// By the entry, where it is applied.
    Applied,
    /// Read permission for all keys of the leases that the answer is about.
    ReadsLeases,
    /// Write permission for all keys of the lease, at each message.
    WritesLease,
}

/// The row of a method. Every method has one: there is no default.
pub fn row(method: GrpcMethod) -> (Door, Later) {
    use GrpcMethod as M;
    match method {
        M::Authenticate | M::HealthCheck | M::HealthList | M::HealthWatch => (Door::Open, Later::Nothing),
        M::AuthStatus => (Door::Known, Later::Nothing),
        M::Range | M::RangeStream | M::Watch => (Door::Known, Later::Reads),
        // A transaction that only reads is not applied; it is decided by the same function.
        M::Put | M::DeleteRange | M::Txn => (Door::Known, Later::Applied),
        M::AuthEnable | M::AuthDisable => (Door::Known, Later::Applied),
        M::UserAdd | M::UserDelete | M::UserChangePassword | M::UserGrantRole | M::UserRevokeRole | M::UserList => {
            (Door::Known, Later::Applied)
        }
        M::RoleAdd | M::RoleDelete | M::RoleGrantPermission | M::RoleRevokePermission | M::RoleList => {
            (Door::Known, Later::Applied)
        }
        // Everybody may look at oneself and at one's own roles.
        M::UserGet | M::RoleGet => (Door::Known, Later::Applied),
        M::LeaseGrant => (Door::User, Later::Nothing),
        M::LeaseRevoke => (Door::User, Later::Applied),
        M::LeaseKeepAlive => (Door::User, Later::WritesLease),
        M::LeaseTimeToLive | M::LeaseLeases => (Door::User, Later::ReadsLeases),
        M::MemberList | M::Status => (Door::User, Later::Nothing),
        M::Alarm => (Door::UserOrAdmin, Later::Nothing),
        M::Compact | M::Defragment | M::Downgrade | M::Hash | M::HashKv | M::MoveLeader | M::Snapshot => {
            (Door::Admin, Later::Nothing)
        }
        M::MemberAdd | M::MemberPromote | M::MemberRemove | M::MemberUpdate => (Door::Admin, Later::Nothing),
    }
}

/// Whether the caller may go on to the method.
pub fn check_door(
    auth: &AuthState,
    method: GrpcMethod,
    caller: Option<Caller<'_>>,
    message: &[u8],
) -> Result<(), EtcdError> {
    let door = match row(method).0 {
        Door::UserOrAdmin if is_get(message) => Door::User,
        Door::UserOrAdmin => Door::Admin,
        door => door,
    };
    match door {
        Door::Admin => auth.check_admin(caller.unwrap_or(Caller::NOBODY)),
        Door::User if caller.is_none() && auth.is_enabled() => Err(EtcdError::UserEmpty),
        _ => Ok(()),
    }
}

fn is_get(message: &[u8]) -> bool {
    AlarmRequest::decode(message).is_ok_and(|alarm| alarm.action == AlarmAction::Get as i32)
}
