//! What entries do to users, roles and permissions. Each change is written to etcd's buckets in etcd's bytes, and counted by
//! the auth revision.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kvorum_api::EtcdError;
use kvorum_api::authpb::permission::Type;
use kvorum_api::authpb::{self, Permission, Role};
use kvorum_api::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest,
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGrantRoleRequest,
    AuthUserRevokeRoleRequest, InternalAuthenticateRequest, InternalRaftRequest,
};

use super::permissions::is_valid;
use super::{AUTH_NAME_BYTES_MAX, AuthState, Caller, ROOT, Token, TokenChange, User, has_no_password};
use crate::apply::{Effects, Position, Stopped, Writer};
use crate::backend::Bucket;
use crate::keyspace::{auth, meta};
use crate::kv::go_sort::go_sort;
use crate::reply::Reply;

/// The cost of hashing a password that an entry carries in the clear, as etcd before 3.5 wrote them.
const OLD_ENTRY_BCRYPT_COST: u32 = 10;

impl Writer {
    /// Carries out a request of the Auth service; `None` if the entry holds none.
    pub(crate) fn auth_request(
        &mut self,
        position: Position,
        request: &InternalRaftRequest,
        caller: Caller<'_>,
        effects: &mut Effects,
    ) -> Option<Result<Reply, Stopped>> {
        if let Some(login) = &request.authenticate {
            return Some(self.authenticate(position, login, effects));
        }
        if request.auth_status.is_some() {
            let state = self.shared.auth();
            return Some(Ok(Reply::AuthStatus { enabled: state.enabled, revision: state.revision }));
        }
        if let Some(get) = &request.auth_user_get {
            return Some(self.user_get(caller, &get.name));
        }
        if let Some(get) = &request.auth_role_get {
            return Some(self.role_get(caller, &get.role));
        }
        let is_change = request.auth_enable.is_some()
            || request.auth_disable.is_some()
            || request.auth_user_add.is_some()
            || request.auth_user_delete.is_some()
            || request.auth_user_change_password.is_some()
            || request.auth_user_grant_role.is_some()
            || request.auth_user_revoke_role.is_some()
            || request.auth_user_list.is_some()
            || request.auth_role_add.is_some()
            || request.auth_role_grant_permission.is_some()
            || request.auth_role_revoke_permission.is_some()
            || request.auth_role_delete.is_some()
            || request.auth_role_list.is_some();
        is_change.then(|| {
            self.shared.auth().check_admin(caller)?;
            self.administer(position, request, effects)
        })
    }

    /// What only an administrator may ask for.
    fn administer(
        &mut self,
        position: Position,
        request: &InternalRaftRequest,
        effects: &mut Effects,
    ) -> Result<Reply, Stopped> {
        if request.auth_user_list.is_some() {
            return Ok(Reply::Names(self.shared.auth().users.keys().map(|name| name.to_string()).collect()));
        }
        if request.auth_role_list.is_some() {
            return Ok(Reply::Names(self.shared.auth().roles.keys().map(|name| name.to_string()).collect()));
        }
        if request.auth_enable.is_some() {
            self.enable()?;
        } else if request.auth_disable.is_some() {
            self.disable(effects);
        } else if let Some(add) = &request.auth_user_add {
            self.user_add(position, add)?;
        } else if let Some(delete) = &request.auth_user_delete {
            self.user_delete(delete, effects)?;
        } else if let Some(change) = &request.auth_user_change_password {
            self.user_change_password(position, change, effects)?;
        } else if let Some(grant) = &request.auth_user_grant_role {
            self.user_grant_role(grant)?;
        } else if let Some(revoke) = &request.auth_user_revoke_role {
            self.user_revoke_role(revoke)?;
        } else if let Some(add) = &request.auth_role_add {
            self.role_add(add)?;
        } else if let Some(grant) = &request.auth_role_grant_permission {
            self.role_grant_permission(grant)?;
        } else if let Some(revoke) = &request.auth_role_revoke_permission {
            self.role_revoke_permission(revoke)?;
        } else if let Some(delete) = &request.auth_role_delete {
            self.role_delete(delete)?;
        }
        effects.auth_changed = true;
        Ok(Reply::Empty)
    }

    fn enable(&mut self) -> Result<(), EtcdError> {
        let state = self.shared.auth();
        if state.enabled {
            return Ok(());
        }
        let root = state.users.get(ROOT).ok_or(EtcdError::RootUserNotExist)?;
        if !root.is_root {
            return Err(EtcdError::RootRoleNotExist);
        }
        drop(state);
        self.set(Bucket::Auth, auth::ENABLED.into(), Some(auth::enabled(true)));
        self.shared.change_auth(|state| state.enabled = true);
        Ok(())
    }

    fn disable(&mut self, effects: &mut Effects) {
        if !self.shared.auth().enabled {
            return;
        }
        self.set(Bucket::Auth, auth::ENABLED.into(), Some(auth::enabled(false)));
        self.change(|state| state.enabled = false);
        effects.tokens.push(TokenChange::AllForgotten);
    }

    /// The password was checked before the entry was proposed. A token ends with the index of the entry before, up to
    /// which a member must have come to know it.
    fn authenticate(
        &mut self,
        position: Position,
        login: &InternalAuthenticateRequest,
        effects: &mut Effects,
    ) -> Result<Reply, Stopped> {
        let state = self.shared.auth();
        if !state.enabled {
            return Err(EtcdError::AuthNotEnabled.into());
        }
        let (name, user) = state.users.get_key_value(login.name.as_str()).ok_or(EtcdError::AuthFailed)?;
        if has_no_password(&user.record) {
            return Err(EtcdError::AuthFailed.into());
        }
        let token = Token(format!("{}.{}", login.simple_token, position.index.saturating_sub(1)).into());
        effects.tokens.push(TokenChange::Assigned { user: name.clone(), token: token.clone() });
        Ok(Reply::Authenticated { token, auth_revision: state.revision })
    }

    fn user_get(&self, caller: Caller<'_>, name: &str) -> Result<Reply, Stopped> {
        let state = self.shared.auth();
        match state.check_admin(caller) {
            Err(error) if name != caller.user => return Err(error.into()),
            _ => {}
        }
        let user = state.users.get(name).ok_or(EtcdError::UserNotFound)?;
        Ok(Reply::Names(user.record.roles.clone()))
    }

    fn role_get(&self, caller: Caller<'_>, name: &str) -> Result<Reply, Stopped> {
        let state = self.shared.auth();
        match state.check_admin(caller) {
            Err(error) if !state.has_role(caller.user, name) => return Err(error.into()),
            _ => {}
        }
        let role = state.roles.get(name).ok_or(EtcdError::RoleNotFound)?;
        if name == ROOT {
            // Everything, which etcd writes in a way that no grant may.
            let everything =
                Permission { perm_type: Type::Readwrite as i32, key: "".into(), range_end: b"\0"[..].into() };
            return Ok(Reply::Permissions(vec![everything]));
        }
        Ok(Reply::Permissions(role.key_permission.clone()))
    }

    fn user_add(&mut self, position: Position, add: &AuthUserAddRequest) -> Result<(), Stopped> {
        if add.name.is_empty() {
            return Err(EtcdError::UserEmpty.into());
        }
        check_name(&add.name)?;
        if self.shared.auth().users.contains_key(add.name.as_str()) {
            return Err(EtcdError::UserAlreadyExist.into());
        }
        let options = add.options.unwrap_or_default();
        let password = match options.no_password {
            true => Vec::new(),
            false => stored_password(position, &add.password, &add.hashed_password)?,
        };
        self.set_user(authpb::User {
            name: add.name.clone().into(),
            password: password.into(),
            roles: Vec::new(),
            options: Some(options),
        });
        Ok(())
    }

    fn user_delete(&mut self, delete: &AuthUserDeleteRequest, effects: &mut Effects) -> Result<(), EtcdError> {
        let state = self.shared.auth();
        if state.enabled && delete.name == ROOT {
            return Err(EtcdError::InvalidAuthMgmt);
        }
        let (name, _) = state.users.get_key_value(delete.name.as_str()).ok_or(EtcdError::UserNotFound)?;
        let name = name.clone();
        drop(state);
        self.set(Bucket::AuthUsers, name.as_bytes().into(), None);
        self.change(|state| drop(state.users.remove(&name)));
        effects.tokens.push(TokenChange::Forgotten { user: name });
        Ok(())
    }

    fn user_change_password(
        &mut self,
        position: Position,
        change: &AuthUserChangePasswordRequest,
        effects: &mut Effects,
    ) -> Result<(), EtcdError> {
        let mut user = self.user(&change.name)?;
        user.password = match has_no_password(&user) {
            true => Vec::new(),
            false => stored_password(position, &change.password, &change.hashed_password)?,
        }
        .into();
        self.set_user(user);
        effects.tokens.push(TokenChange::Forgotten { user: change.name.as_str().into() });
        Ok(())
    }

    fn user_grant_role(&mut self, grant: &AuthUserGrantRoleRequest) -> Result<(), EtcdError> {
        let mut user = self.user(&grant.user)?;
        if grant.role != ROOT && !self.shared.auth().roles.contains_key(grant.role.as_str()) {
            return Err(EtcdError::RoleNotFound);
        }
        if user.roles.contains(&grant.role) {
            return Ok(());
        }
        user.roles.push(grant.role.clone());
        user.roles.sort_unstable();
        self.set_user(user);
        Ok(())
    }

    fn user_revoke_role(&mut self, revoke: &AuthUserRevokeRoleRequest) -> Result<(), EtcdError> {
        if self.shared.auth().enabled && revoke.name == ROOT && revoke.role == ROOT {
            return Err(EtcdError::InvalidAuthMgmt);
        }
        let mut user = self.user(&revoke.name)?;
        if !remove_role(&mut user, &revoke.role) {
            return Err(EtcdError::RoleNotGranted);
        }
        self.set_user(user);
        Ok(())
    }

    fn role_add(&mut self, add: &AuthRoleAddRequest) -> Result<(), Stopped> {
        if add.name.is_empty() {
            return Err(EtcdError::RoleEmpty.into());
        }
        check_name(&add.name)?;
        if self.shared.auth().roles.contains_key(add.name.as_str()) {
            return Err(EtcdError::RoleAlreadyExist.into());
        }
        self.set_role(Role { name: add.name.clone().into(), key_permission: Vec::new() });
        Ok(())
    }

    /// A permission for the same keys takes another kind. As in etcd, only the first of those that begin with the same key
    /// is looked at, and the order of these among each other is what Go's sort makes of it.
    fn role_grant_permission(&mut self, grant: &AuthRoleGrantPermissionRequest) -> Result<(), EtcdError> {
        let new = grant.perm.as_ref().ok_or(EtcdError::PermissionNotGiven)?;
        if !is_valid(&new.key, &new.range_end) {
            return Err(EtcdError::InvalidAuthMgmt);
        }
        let mut role = self.role(&grant.name)?;
        let permissions = &mut role.key_permission;
        let position = permissions.partition_point(|permission| permission.key < new.key);
        match permissions.get_mut(position) {
            Some(old) if old.key == new.key && old.range_end == new.range_end => old.perm_type = new.perm_type,
            _ => {
                permissions.push(new.clone());
                go_sort(permissions, |left, right| left.key < right.key);
            }
        }
        self.set_role(role);
        Ok(())
    }

    fn role_revoke_permission(&mut self, revoke: &AuthRoleRevokePermissionRequest) -> Result<(), EtcdError> {
        let mut role = self.role(&revoke.role)?;
        let before = role.key_permission.len();
        role.key_permission
            .retain(|permission| permission.key != revoke.key || permission.range_end != revoke.range_end);
        if role.key_permission.len() == before {
            return Err(EtcdError::PermissionNotGranted);
        }
        self.set_role(role);
        Ok(())
    }

    fn role_delete(&mut self, delete: &AuthRoleDeleteRequest) -> Result<(), EtcdError> {
        let state = self.shared.auth();
        if state.enabled && delete.role == ROOT {
            return Err(EtcdError::InvalidAuthMgmt);
        }
        let (name, _) = state.roles.get_key_value(delete.role.as_str()).ok_or(EtcdError::RoleNotFound)?;
        let name = name.clone();
        let mut users: Vec<authpb::User> = Vec::new();
        for user in state.users.values() {
            let mut user = (*user.record).clone();
            if remove_role(&mut user, &name) {
                users.push(user);
            }
        }
        drop(state);
        self.set(Bucket::AuthRoles, name.as_bytes().into(), None);
        for user in &users {
            self.set(Bucket::AuthUsers, user.name[..].into(), Some(auth::user(user)));
        }
        self.change(|state| {
            state.roles.remove(&name);
            users.into_iter().for_each(|user| state.put_user(user));
        });
        Ok(())
    }

    fn user(&self, name: &str) -> Result<authpb::User, EtcdError> {
        let state = self.shared.auth();
        state.users.get(name).map(|user| (*user.record).clone()).ok_or(EtcdError::UserNotFound)
    }

    fn role(&self, name: &str) -> Result<Role, EtcdError> {
        self.shared.auth().roles.get(name).map(|role| (**role).clone()).ok_or(EtcdError::RoleNotFound)
    }

    fn set_user(&mut self, user: authpb::User) {
        self.set(Bucket::AuthUsers, user.name[..].into(), Some(auth::user(&user)));
        self.change(|state| state.put_user(user));
    }

    fn set_role(&mut self, role: Role) {
        self.set(Bucket::AuthRoles, role.name[..].into(), Some(auth::role(&role)));
        self.change(|state| state.put_role(role));
    }

    /// A change of what users may do, at the next auth revision.
    fn change(&mut self, act: impl FnOnce(&mut AuthState)) {
        let revision = self.shared.change_auth(|state| {
            act(state);
            state.revision += 1;
            state.revision
        });
        self.set(Bucket::Auth, auth::REVISION.into(), Some(meta::number(revision)));
    }
}

impl AuthState {
    fn put_user(&mut self, user: authpb::User) {
        let name = String::from_utf8_lossy(&user.name).into();
        self.users.insert(name, User::new(user));
    }

    /// Users with the role put their permissions together anew.
    fn put_role(&mut self, role: Role) {
        let name: Arc<str> = String::from_utf8_lossy(&role.name).into();
        for user in self.users.values_mut().filter(|user| user.record.roles.iter().any(|other| **other == *name)) {
            user.permissions.take();
        }
        self.roles.insert(name, Arc::new(role));
    }
}

fn remove_role(user: &mut authpb::User, role: &str) -> bool {
    let before = user.roles.len();
    user.roles.retain(|other| other != role);
    user.roles.len() < before
}

/// A name that the backend could not take as a key.
fn check_name(name: &str) -> Result<(), Stopped> {
    match name.len() {
        0..=AUTH_NAME_BYTES_MAX => Ok(()),
        length => Err(Stopped::Unsupported(format!("a name of {length} bytes"))),
    }
}

/// What is kept of a password: the hash that was made before the proposal. Of a password in the clear, which etcd before 3.5
/// proposed, every member of that version made a hash of its own; here all make the same.
fn stored_password(position: Position, password: &str, hashed: &str) -> Result<Vec<u8>, EtcdError> {
    if hashed.is_empty() && !password.is_empty() {
        let mut salt = [0; 16];
        salt[..8].copy_from_slice(&position.index.to_be_bytes());
        salt[8..].copy_from_slice(&position.term.to_be_bytes());
        let parts = bcrypt::hash_with_salt(password, OLD_ENTRY_BCRYPT_COST, salt).map_err(|_| EtcdError::AuthFailed)?;
        return Ok(parts.format_for_version(bcrypt::Version::TwoA).into_bytes());
    }
    // Go's decoder passes over line breaks.
    let text: Vec<u8> = hashed.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    STANDARD.decode(text).map_err(|_| EtcdError::AuthFailed)
}
