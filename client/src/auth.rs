//! Users, roles and permissions, and turning authentication on and off.
//!
//! A client logs in by itself when its configuration has a user ([`crate::Config::user`]): this module administers.
//! Passwords given here are sent, and neither kept nor logged.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! use kvorum_client::Permission;
//!
//! let auth = client.auth();
//! auth.add_user("root", "secret").await?;
//! auth.add_role("root").await?;
//! auth.grant_role("root", "root").await?;
//!
//! auth.add_role("reader").await?;
//! auth.grant_permission("reader", Permission::read("app/").prefix()).await?;
//! auth.add_user("app", "other secret").await?;
//! auth.grant_role("app", "reader").await?;
//! auth.enable().await?;
//! # Ok(()) }); }
//! ```

use bytes::Bytes;
use kvorum_api::authpb;
use kvorum_api::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest,
    AuthRoleGrantPermissionRequest, AuthRoleListRequest, AuthRoleRevokePermissionRequest, AuthStatusRequest,
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest,
    AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserRevokeRoleRequest, AuthenticateRequest,
};

use crate::connection::Connection;
use crate::error::Result;
use crate::keys::{self, IntoBytes};
use crate::method;
use crate::response::{
    AuthDisableResponse, AuthEnableResponse, AuthRoleAddResponse, AuthRoleDeleteResponse, AuthRoleGetResponse,
    AuthRoleGrantPermissionResponse, AuthRoleListResponse, AuthRoleRevokePermissionResponse, AuthStatusResponse,
    AuthUserAddResponse, AuthUserChangePasswordResponse, AuthUserDeleteResponse, AuthUserGetResponse,
    AuthUserGrantRoleResponse, AuthUserListResponse, AuthUserRevokeRoleResponse, AuthenticateResponse,
};

/// Users, roles and permissions of a cluster.
#[derive(Clone)]
pub struct Auth {
    connection: Connection,
}

impl Auth {
    /// Over a connection that others may use too.
    #[must_use]
    pub fn new(connection: &Connection) -> Self {
        Self { connection: connection.clone() }
    }

    /// Turns authentication on. There must be a user `root` with the role `root`.
    ///
    /// # Errors
    /// [`crate::EtcdError::RootUserNotExist`], [`crate::EtcdError::RootRoleNotExist`], and what any call may fail with.
    pub async fn enable(&self) -> Result<AuthEnableResponse> {
        self.connection.call(method::AUTH_ENABLE, &AuthEnableRequest {}).await
    }

    /// Turns authentication off.
    ///
    /// # Errors
    /// What any call may fail with.
    pub async fn disable(&self) -> Result<AuthDisableResponse> {
        self.connection.call(method::AUTH_DISABLE, &AuthDisableRequest {}).await
    }

    /// Whether authentication is on, and the revision of users and roles. Needs etcd 3.5.
    ///
    /// # Errors
    /// What any call may fail with.
    pub async fn status(&self) -> Result<AuthStatusResponse> {
        self.connection.call(method::AUTH_STATUS, &AuthStatusRequest {}).await
    }

    /// Turns a name and a password into a token. Clients that have a user in their configuration do this by themselves.
    ///
    /// # Errors
    /// [`crate::EtcdError::AuthFailed`], [`crate::EtcdError::AuthNotEnabled`], and what any call may fail with.
    pub async fn authenticate(&self, name: &str, password: &str) -> Result<AuthenticateResponse> {
        let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        self.connection.call(method::AUTHENTICATE, &request).await
    }

    /// Adds a user with a password.
    ///
    /// # Errors
    /// [`crate::EtcdError::UserAlreadyExist`], [`crate::EtcdError::UserEmpty`], and what any call may fail with.
    pub async fn add_user(&self, name: &str, password: &str) -> Result<AuthUserAddResponse> {
        let options = Some(authpb::UserAddOptions { no_password: false });
        let (name, password) = (name.to_owned(), password.to_owned());
        self.send_user(AuthUserAddRequest { name, password, options, hashed_password: String::new() }).await
    }

    /// Adds a user who has no password, and can be only who a TLS certificate names.
    ///
    /// # Errors
    /// As [`Self::add_user`].
    pub async fn add_user_without_password(&self, name: &str) -> Result<AuthUserAddResponse> {
        let options = Some(authpb::UserAddOptions { no_password: true });
        self.send_user(AuthUserAddRequest { name: name.to_owned(), options, ..AuthUserAddRequest::default() }).await
    }

    async fn send_user(&self, request: AuthUserAddRequest) -> Result<AuthUserAddResponse> {
        self.connection.call(method::USER_ADD, &request).await
    }

    /// The roles of a user.
    ///
    /// # Errors
    /// [`crate::EtcdError::UserNotFound`], and what any call may fail with.
    pub async fn user(&self, name: &str) -> Result<AuthUserGetResponse> {
        self.connection.call(method::USER_GET, &AuthUserGetRequest { name: name.to_owned() }).await
    }

    /// The names of all users.
    ///
    /// # Errors
    /// What any call may fail with.
    pub async fn users(&self) -> Result<AuthUserListResponse> {
        self.connection.call(method::USER_LIST, &AuthUserListRequest {}).await
    }

    /// Deletes a user.
    ///
    /// # Errors
    /// [`crate::EtcdError::UserNotFound`], and what any call may fail with.
    pub async fn delete_user(&self, name: &str) -> Result<AuthUserDeleteResponse> {
        self.connection.call(method::USER_DELETE, &AuthUserDeleteRequest { name: name.to_owned() }).await
    }

    /// Gives a user another password.
    ///
    /// # Errors
    /// [`crate::EtcdError::UserNotFound`], and what any call may fail with.
    pub async fn change_password(&self, name: &str, password: &str) -> Result<AuthUserChangePasswordResponse> {
        let (name, password) = (name.to_owned(), password.to_owned());
        let request = AuthUserChangePasswordRequest { name, password, hashed_password: String::new() };
        self.connection.call(method::USER_CHANGE_PASSWORD, &request).await
    }

    /// Gives a role to a user.
    ///
    /// # Errors
    /// [`crate::EtcdError::UserNotFound`], [`crate::EtcdError::RoleNotFound`], and what any call may fail with.
    pub async fn grant_role(&self, user: &str, role: &str) -> Result<AuthUserGrantRoleResponse> {
        let request = AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
        self.connection.call(method::USER_GRANT_ROLE, &request).await
    }

    /// Takes a role from a user.
    ///
    /// # Errors
    /// [`crate::EtcdError::UserNotFound`], [`crate::EtcdError::RoleNotGranted`], and what any call may fail with.
    pub async fn revoke_role(&self, user: &str, role: &str) -> Result<AuthUserRevokeRoleResponse> {
        let request = AuthUserRevokeRoleRequest { name: user.to_owned(), role: role.to_owned() };
        self.connection.call(method::USER_REVOKE_ROLE, &request).await
    }

    /// Adds a role.
    ///
    /// # Errors
    /// [`crate::EtcdError::RoleAlreadyExist`], [`crate::EtcdError::RoleEmpty`], and what any call may fail with.
    pub async fn add_role(&self, name: &str) -> Result<AuthRoleAddResponse> {
        self.connection.call(method::ROLE_ADD, &AuthRoleAddRequest { name: name.to_owned() }).await
    }

    /// The permissions of a role.
    ///
    /// # Errors
    /// [`crate::EtcdError::RoleNotFound`], and what any call may fail with.
    pub async fn role(&self, name: &str) -> Result<AuthRoleGetResponse> {
        self.connection.call(method::ROLE_GET, &AuthRoleGetRequest { role: name.to_owned() }).await
    }

    /// The names of all roles.
    ///
    /// # Errors
    /// What any call may fail with.
    pub async fn roles(&self) -> Result<AuthRoleListResponse> {
        self.connection.call(method::ROLE_LIST, &AuthRoleListRequest {}).await
    }

    /// Deletes a role.
    ///
    /// # Errors
    /// [`crate::EtcdError::RoleNotFound`], and what any call may fail with.
    pub async fn delete_role(&self, name: &str) -> Result<AuthRoleDeleteResponse> {
        self.connection.call(method::ROLE_DELETE, &AuthRoleDeleteRequest { role: name.to_owned() }).await
    }

    /// Gives a permission to a role.
    ///
    /// # Errors
    /// [`crate::EtcdError::RoleNotFound`], [`crate::EtcdError::InvalidAuthMgmt`] for an empty range, and what any call may
    /// fail with.
    pub async fn grant_permission(
        &self,
        role: &str,
        permission: Permission,
    ) -> Result<AuthRoleGrantPermissionResponse> {
        let perm =
            authpb::Permission { perm_type: permission.kind.into(), key: permission.key, range_end: permission.end };
        let request = AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(perm) };
        self.connection.call(method::ROLE_GRANT_PERMISSION, &request).await
    }

    /// Takes the permission for exactly this key or range from a role; of which kind it is does not matter.
    ///
    /// # Errors
    /// [`crate::EtcdError::RoleNotFound`], [`crate::EtcdError::PermissionNotGranted`], and what any call may fail with.
    pub async fn revoke_permission(
        &self,
        role: &str,
        permission: Permission,
    ) -> Result<AuthRoleRevokePermissionResponse> {
        let Permission { key, end: range_end, .. } = permission;
        let request = AuthRoleRevokePermissionRequest { role: role.to_owned(), key, range_end };
        self.connection.call(method::ROLE_REVOKE_PERMISSION, &request).await
    }
}

/// What may be done with a key, or with a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Permission {
    kind: authpb::permission::Type,
    key: Bytes,
    end: Bytes,
}

impl Permission {
    /// To read a key.
    pub fn read(key: impl IntoBytes) -> Self {
        Self { kind: authpb::permission::Type::Read, key: key.into_bytes(), end: Bytes::new() }
    }

    /// To write a key.
    pub fn write(key: impl IntoBytes) -> Self {
        Self { kind: authpb::permission::Type::Write, ..Self::read(key) }
    }

    /// To read and to write a key.
    pub fn read_write(key: impl IntoBytes) -> Self {
        Self { kind: authpb::permission::Type::Readwrite, ..Self::read(key) }
    }

    /// The same for all keys that begin with the key; for all there are when it is empty.
    pub fn prefix(mut self) -> Self {
        keys::make_prefix(&mut self.key, &mut self.end);
        self
    }

    /// The same for the key and all behind it.
    pub fn from_key(mut self) -> Self {
        keys::make_from_key(&mut self.key, &mut self.end);
        self
    }

    /// The same for the keys from the key up to and without `end`.
    pub fn to(mut self, end: impl IntoBytes) -> Self {
        self.end = end.into_bytes();
        self
    }
}
