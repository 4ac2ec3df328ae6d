//! Every call of etcd's API, with the rule for repeating it. The rules are clientv3's (`client/v3/retry.go`).

/// When a call that failed is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// After any failure that may pass: executing it twice does no harm.
    Always,
    /// Only when it was surely not executed.
    WhenNotExecuted,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    pub path: &'static str,
    pub repeat: Repeat,
    /// Whether a member without a leader is asked to refuse it.
    pub needs_leader: bool,
}

const fn read(path: &'static str) -> Method {
    Method { path, repeat: Repeat::Always, needs_leader: true }
}

const fn write(path: &'static str) -> Method {
    Method { path, repeat: Repeat::WhenNotExecuted, needs_leader: true }
}

const fn local(path: &'static str) -> Method {
    Method { path, repeat: Repeat::Always, needs_leader: false }
}

const fn local_write(path: &'static str) -> Method {
    Method { path, repeat: Repeat::WhenNotExecuted, needs_leader: false }
}

impl Method {
    /// The same call for a member without a leader too.
    pub const fn without_leader(self) -> Self {
        Self { needs_leader: false, ..self }
    }

    /// The same call with another rule.
    pub const fn repeated(self, repeat: Repeat) -> Self {
        Self { repeat, ..self }
    }
}

pub const RANGE: Method = read("/etcdserverpb.KV/Range");
pub const RANGE_STREAM: Method = read("/etcdserverpb.KV/RangeStream");
pub const PUT: Method = write("/etcdserverpb.KV/Put");
pub const DELETE_RANGE: Method = write("/etcdserverpb.KV/DeleteRange");
pub const TXN: Method = write("/etcdserverpb.KV/Txn");
pub const COMPACT: Method = write("/etcdserverpb.KV/Compact");

pub const WATCH: Method = read("/etcdserverpb.Watch/Watch");

pub const LEASE_GRANT: Method = read("/etcdserverpb.Lease/LeaseGrant");
pub const LEASE_REVOKE: Method = read("/etcdserverpb.Lease/LeaseRevoke");
pub const LEASE_KEEP_ALIVE: Method = read("/etcdserverpb.Lease/LeaseKeepAlive");
pub const LEASE_TIME_TO_LIVE: Method = read("/etcdserverpb.Lease/LeaseTimeToLive");
pub const LEASE_LEASES: Method = read("/etcdserverpb.Lease/LeaseLeases");

pub const MEMBER_ADD: Method = write("/etcdserverpb.Cluster/MemberAdd");
pub const MEMBER_REMOVE: Method = write("/etcdserverpb.Cluster/MemberRemove");
pub const MEMBER_UPDATE: Method = write("/etcdserverpb.Cluster/MemberUpdate");
pub const MEMBER_LIST: Method = read("/etcdserverpb.Cluster/MemberList");
pub const MEMBER_PROMOTE: Method = write("/etcdserverpb.Cluster/MemberPromote");

pub const ALARM_GET: Method = read("/etcdserverpb.Maintenance/Alarm");
pub const ALARM_SET: Method = read("/etcdserverpb.Maintenance/Alarm");
pub const STATUS: Method = local("/etcdserverpb.Maintenance/Status");
pub const DEFRAGMENT: Method = local_write("/etcdserverpb.Maintenance/Defragment");
pub const HASH: Method = local("/etcdserverpb.Maintenance/Hash");
pub const HASH_KV: Method = local("/etcdserverpb.Maintenance/HashKV");
pub const SNAPSHOT: Method = local("/etcdserverpb.Maintenance/Snapshot");
pub const MOVE_LEADER: Method = local("/etcdserverpb.Maintenance/MoveLeader");
pub const DOWNGRADE: Method = write("/etcdserverpb.Maintenance/Downgrade");

pub const AUTH_ENABLE: Method = write("/etcdserverpb.Auth/AuthEnable");
pub const AUTH_DISABLE: Method = write("/etcdserverpb.Auth/AuthDisable");
pub const AUTH_STATUS: Method = read("/etcdserverpb.Auth/AuthStatus");
pub const AUTHENTICATE: Method = read("/etcdserverpb.Auth/Authenticate");
pub const USER_ADD: Method = write("/etcdserverpb.Auth/UserAdd");
pub const USER_GET: Method = read("/etcdserverpb.Auth/UserGet");
pub const USER_LIST: Method = read("/etcdserverpb.Auth/UserList");
pub const USER_DELETE: Method = write("/etcdserverpb.Auth/UserDelete");
pub const USER_CHANGE_PASSWORD: Method = write("/etcdserverpb.Auth/UserChangePassword");
pub const USER_GRANT_ROLE: Method = write("/etcdserverpb.Auth/UserGrantRole");
pub const USER_REVOKE_ROLE: Method = write("/etcdserverpb.Auth/UserRevokeRole");
pub const ROLE_ADD: Method = write("/etcdserverpb.Auth/RoleAdd");
pub const ROLE_GET: Method = read("/etcdserverpb.Auth/RoleGet");
pub const ROLE_LIST: Method = read("/etcdserverpb.Auth/RoleList");
pub const ROLE_DELETE: Method = write("/etcdserverpb.Auth/RoleDelete");
pub const ROLE_GRANT_PERMISSION: Method = write("/etcdserverpb.Auth/RoleGrantPermission");
pub const ROLE_REVOKE_PERMISSION: Method = write("/etcdserverpb.Auth/RoleRevokePermission");
