//! Users and roles, and the one place that says whether a user may do something. Members decide it when they apply an entry
//! and when they answer a read, by the same functions.
//!
//! Here is neither a password check nor a token: those need randomness, clocks and much time, and happen before something
//! is proposed.

mod change;
mod permissions;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use kvorum_api::EtcdError;
use kvorum_api::authpb::{self, Role};
use kvorum_api::etcdserverpb::request_op::Request;
use kvorum_api::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

use crate::lease::Leases;
use permissions::{Keys, Permissions};

/// The user and the role that may do everything.
pub const ROOT: &str = "root";

/// A user's or role's name in bytes, at most. etcd has no bound of its own and stops when a key is too long for its
/// backend; here a longer name is refused before it is proposed.
pub const AUTH_NAME_BYTES_MAX: usize = 1024;

/// Who asks, and by the users, roles and permissions of which revision they were let in. Revision 0: nobody known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller<'a> {
    pub user: &'a str,
    pub revision: u64,
}

impl Caller<'_> {
    pub const NOBODY: Caller<'static> = Caller { user: "", revision: 0 };
}

/// What a caller wants with some keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// A credential: shown to the one it was made for, and in no log line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub Arc<str>);

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(...)")
    }
}

/// What happened to the tokens that members hand out themselves. Every member remembers them, since a client may show its
/// token to any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenChange {
    Assigned {
        user: Arc<str>,
        token: Token,
    },
    /// The user is gone, or has another password.
    Forgotten {
        user: Arc<str>,
    },
    /// Authentication was disabled.
    AllForgotten,
}

/// All users and roles, at one auth revision.
#[derive(Clone, Debug, Default)]
pub struct AuthState {
    enabled: bool,
    revision: u64,
    users: BTreeMap<Arc<str>, User>,
    roles: BTreeMap<Arc<str>, Arc<Role>>,
}

#[derive(Clone)]
struct User {
    record: Arc<authpb::User>,
    is_root: bool,
    /// Put together when first asked for after a change.
    permissions: OnceLock<Arc<Permissions>>,
}

impl fmt::Debug for User {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("User").field("roles", &self.record.roles).finish_non_exhaustive()
    }
}

impl User {
    fn new(record: authpb::User) -> Self {
        let is_root = record.roles.iter().any(|role| role == ROOT);
        Self { record: Arc::new(record), is_root, permissions: OnceLock::new() }
    }
}

impl AuthState {
    pub(crate) fn restored(enabled: bool, revision: u64, users: Vec<authpb::User>, roles: Vec<Role>) -> Self {
        let name = |bytes: &[u8]| -> Arc<str> { String::from_utf8_lossy(bytes).into() };
        Self {
            enabled,
            revision,
            users: users.into_iter().map(|user| (name(&user.name), User::new(user))).collect(),
            roles: roles.into_iter().map(|role| (name(&role.name), Arc::new(role))).collect(),
        }
    }

    /// The first revision, of a new cluster.
    pub(crate) fn begin(&mut self) -> u64 {
        self.revision = 1;
        self.revision
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Counts changes of users, roles and permissions; a new cluster begins with 1.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The bcrypt hash of a user's password. Whoever logs in must prove to know the password; one without logs in by
    /// other means.
    ///
    /// # Errors
    /// `AuthNotEnabled`, and `AuthFailed` for a user that does not exist. `Ok(None)`: the user has no password.
    pub fn password_hash(&self, user: &str) -> Result<Option<&[u8]>, EtcdError> {
        if !self.enabled {
            return Err(EtcdError::AuthNotEnabled);
        }
        let user = self.users.get(user).ok_or(EtcdError::AuthFailed)?;
        Ok((!has_no_password(&user.record)).then_some(&user.record.password[..]))
    }

    /// Whether the caller may change users, members and the like.
    ///
    /// # Errors
    /// As etcd's `IsAdminPermitted`. The caller's revision does not matter.
    pub fn check_admin(&self, caller: Caller<'_>) -> Result<(), EtcdError> {
        if !self.enabled {
            return Ok(());
        }
        if caller.user.is_empty() {
            return Err(EtcdError::UserEmpty);
        }
        match self.users.get(caller.user) {
            None => Err(EtcdError::UserNotFound),
            Some(user) if user.is_root => Ok(()),
            Some(_) => Err(EtcdError::PermissionDenied),
        }
    }

    /// Whether the caller may read or write keys: `key` alone, up to `range_end`, or from `key` on if that is "\0".
    ///
    /// # Errors
    /// `UserEmpty` for nobody, `AuthOldRevision` if users, roles or permissions changed since the caller was let in, else
    /// `PermissionDenied`.
    pub fn check_keys(
        &self,
        caller: Caller<'_>,
        access: Access,
        key: &[u8],
        range_end: &[u8],
    ) -> Result<(), EtcdError> {
        if !self.enabled {
            return Ok(());
        }
        if caller.revision == 0 {
            return Err(EtcdError::UserEmpty);
        }
        if caller.revision < self.revision {
            return Err(EtcdError::AuthOldRevision);
        }
        if self.permits(caller.user, access, key, range_end) { Ok(()) } else { Err(EtcdError::PermissionDenied) }
    }

    /// Whether a user may do this by its roles, whenever it was let in. With authentication disabled, everybody may.
    pub fn permits(&self, user: &str, access: Access, key: &[u8], range_end: &[u8]) -> bool {
        if !self.enabled {
            return true;
        }
        let Some(user) = self.users.get(user) else { return false };
        if user.is_root {
            return true;
        }
        let permissions = user.permissions.get_or_init(|| Arc::new(self.unite(&user.record)));
        let intervals = match access {
            Access::Read => &permissions.read,
            Access::Write => &permissions.write,
        };
        intervals.cover(Keys::new(key, range_end))
    }

    /// Whether a user has a role by name.
    pub fn has_role(&self, user: &str, role: &str) -> bool {
        self.users.get(user).is_some_and(|user| user.record.roles.iter().any(|other| other == role))
    }

    fn unite(&self, user: &authpb::User) -> Permissions {
        let roles = user.roles.iter().filter_map(|role| self.roles.get(role.as_str()));
        Permissions::unite(roles.flat_map(|role| &role.key_permission))
    }

    /// A put may also read (`prev_kv`), and touches the lease it names: who could not delete the lease's keys one by one
    /// must not let them end with a key of its own.
    pub(crate) fn check_put(&self, caller: Caller<'_>, leases: &Leases, put: &PutRequest) -> Result<(), EtcdError> {
        self.check_keys(caller, Access::Write, &put.key, &[])?;
        if put.lease != 0 {
            self.check_lease(caller, Access::Write, leases, put.lease)?;
        }
        if put.prev_kv {
            self.check_keys(caller, Access::Read, &put.key, &[])?;
        }
        Ok(())
    }

    pub(crate) fn check_delete(&self, caller: Caller<'_>, delete: &DeleteRangeRequest) -> Result<(), EtcdError> {
        self.check_keys(caller, Access::Write, &delete.key, &delete.range_end)?;
        if delete.prev_kv {
            self.check_keys(caller, Access::Read, &delete.key, &delete.range_end)?;
        }
        Ok(())
    }

    /// Both branches, however deep, whichever is taken.
    pub(crate) fn check_txn(&self, caller: Caller<'_>, leases: &Leases, txn: &TxnRequest) -> Result<(), EtcdError> {
        for compare in &txn.compare {
            self.check_keys(caller, Access::Read, &compare.key, &compare.range_end)?;
        }
        self.check_ops(caller, leases, &txn.success)?;
        self.check_ops(caller, leases, &txn.failure)
    }

    fn check_ops(&self, caller: Caller<'_>, leases: &Leases, ops: &[RequestOp]) -> Result<(), EtcdError> {
        for op in ops {
            match &op.request {
                Some(Request::RequestRange(range)) => {
                    self.check_keys(caller, Access::Read, &range.key, &range.range_end)?;
                }
                Some(Request::RequestPut(put)) => self.check_put(caller, leases, put)?,
                Some(Request::RequestDeleteRange(delete)) => self.check_delete(caller, delete)?,
                Some(Request::RequestTxn(txn)) => self.check_txn(caller, leases, txn)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Whether the caller may do something to all keys of a lease; one that does not exist has none.
    pub(crate) fn check_lease(
        &self,
        caller: Caller<'_>,
        access: Access,
        leases: &Leases,
        id: i64,
    ) -> Result<(), EtcdError> {
        if self.check_admin(caller).is_ok() {
            return Ok(());
        }
        let keys = leases.state(id).into_iter().flat_map(|lease| &lease.keys);
        for key in keys {
            self.check_keys(caller, access, key, &[])?;
        }
        Ok(())
    }
}

fn has_no_password(user: &authpb::User) -> bool {
    user.options.is_some_and(|options| options.no_password)
}
