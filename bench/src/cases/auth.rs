//! Users, roles and logins, for the cases that measure under authentication.

use kvorum_api::authpb::Permission;
use kvorum_api::authpb::permission::Type;
use kvorum_api::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, AuthenticateRequest, AuthenticateResponse,
};
use prost::Message;

use crate::server::Server;
use crate::trial;
use crate::wire;

pub const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";
pub const ROLE_GRANT_PERMISSION: &str = "/etcdserverpb.Auth/RoleGrantPermission";
const AUTH_ENABLE: &str = "/etcdserverpb.Auth/AuthEnable";
const AUTH_DISABLE: &str = "/etcdserverpb.Auth/AuthDisable";
const USER_ADD: &str = "/etcdserverpb.Auth/UserAdd";
const USER_GRANT_ROLE: &str = "/etcdserverpb.Auth/UserGrantRole";
const ROLE_ADD: &str = "/etcdserverpb.Auth/RoleAdd";

pub const ROOT: &str = "root";
/// Of all users here.
pub const PASSWORD: &str = "correct horse battery staple";

fn call(server: &Server, path: &'static str, request: &impl Message, token: Option<&str>) -> Result<(), String> {
    trial::call(server.address(), path, wire::frame(request), token)
        .map(drop)
        .map_err(|error| format!("{path}: {error}"))
}

/// A user with these roles, which exist.
pub fn add_user(server: &Server, name: &str, roles: &[String]) -> Result<(), String> {
    let add = AuthUserAddRequest { name: name.to_owned(), password: PASSWORD.to_owned(), ..Default::default() };
    call(server, USER_ADD, &add, None)?;
    for role in roles {
        let grant = AuthUserGrantRoleRequest { user: name.to_owned(), role: role.clone() };
        call(server, USER_GRANT_ROLE, &grant, None)?;
    }
    Ok(())
}

pub fn add_role(server: &Server, name: &str) -> Result<(), String> {
    call(server, ROLE_ADD, &AuthRoleAddRequest { name: name.to_owned() }, None)
}

/// Reading and writing `key`, or what is from there to `range_end` if that is not empty.
pub fn grant(role: &str, key: &[u8], range_end: &[u8]) -> AuthRoleGrantPermissionRequest {
    let perm = Permission {
        perm_type: Type::Readwrite as i32,
        key: key.to_vec().into(),
        range_end: range_end.to_vec().into(),
    };
    AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(perm) }
}

/// root, and a user with one role that may use all keys which begin with one of these names.
pub fn prepare(server: &Server, user: &str, names: &[&str]) -> Result<(), String> {
    add_role(server, ROOT)?;
    add_user(server, ROOT, &[ROOT.to_owned()])?;
    add_role(server, user)?;
    for name in names {
        let request = grant(user, name.as_bytes(), format!("{name}~").as_bytes());
        call(server, ROLE_GRANT_PERMISSION, &request, None)?;
    }
    add_user(server, user, &[user.to_owned()])
}

pub fn enable(server: &Server) -> Result<(), String> {
    call(server, AUTH_ENABLE, &AuthEnableRequest::default(), None)
}

pub fn disable(server: &Server) -> Result<(), String> {
    let token = log_in(server, ROOT)?;
    call(server, AUTH_DISABLE, &AuthDisableRequest::default(), Some(&token))
}

/// The user's token.
pub fn log_in(server: &Server, user: &str) -> Result<String, String> {
    let reply = trial::call(server.address(), AUTHENTICATE, wire::frame(&login(user, PASSWORD)), None)?;
    AuthenticateResponse::decode(reply)
        .map(|reply| reply.token)
        .map_err(|error| format!("AuthenticateResponse: {error}"))
}

pub fn login(user: &str, password: &str) -> AuthenticateRequest {
    AuthenticateRequest { name: user.to_owned(), password: password.to_owned() }
}
