//! Auth: users, roles and logins. Everything goes through the log, questions included, as in etcd; what a password needs is
//! done before, away from this thread.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kvorum_api::etcdserverpb::{AuthenticateRequest, InternalAuthenticateRequest, InternalRaftRequest};
use kvorum_api::{Code, EtcdError};
use kvorum_store::{AUTH_NAME_BYTES_MAX, Applied, Reply, Token};

use super::{Call, linearize};
use crate::auth::{Signer, passwords};
use crate::core::Core;
use crate::grpc::{Status, begin_frame, decode, finish_frame};
use crate::limits::LOGIN_ATTEMPTS_MAX;
use crate::metrics::GrpcMethod;
use crate::worker::Worker;

/// etcd's text for a login by password of a user that has none; it is not in its error table.
const NO_PASSWORD: &str = "auth: authentication failed, password was given for no password user";

pub async fn by_log(worker: &Rc<Worker>, call: &Call, message: Bytes) -> Result<Bytes, Status> {
    let request = request_of(call.method, message)?;
    check_names(&request)?;
    let applied = worker.core.propose_for(call.identity.as_ref(), request).await?;
    Ok(frame(worker, &applied))
}

fn request_of(method: GrpcMethod, message: Bytes) -> Result<InternalRaftRequest, Status> {
    use GrpcMethod as M;
    macro_rules! request {
        ($field:ident) => {
            InternalRaftRequest { $field: Some(decode(message)?), ..InternalRaftRequest::default() }
        };
    }
    Ok(match method {
        M::AuthEnable => request!(auth_enable),
        M::AuthDisable => request!(auth_disable),
        M::AuthStatus => request!(auth_status),
        M::UserAdd => request!(auth_user_add),
        M::UserGet => request!(auth_user_get),
        M::UserList => request!(auth_user_list),
        M::UserDelete => request!(auth_user_delete),
        M::UserChangePassword => request!(auth_user_change_password),
        M::UserGrantRole => request!(auth_user_grant_role),
        M::UserRevokeRole => request!(auth_user_revoke_role),
        M::RoleAdd => request!(auth_role_add),
        M::RoleGet => request!(auth_role_get),
        M::RoleList => request!(auth_role_list),
        M::RoleDelete => request!(auth_role_delete),
        M::RoleGrantPermission => request!(auth_role_grant_permission),
        M::RoleRevokePermission => request!(auth_role_revoke_permission),
        other => return Err(Status::unimplemented(other.path())),
    })
}

/// Names become keys, of which the backend takes only so many bytes.
fn check_names(request: &InternalRaftRequest) -> Result<(), EtcdError> {
    let user = request.auth_user_add.as_ref().map(|add| add.name.len());
    let role = request.auth_role_add.as_ref().map(|add| add.name.len());
    match user.or(role) {
        Some(length) if length > AUTH_NAME_BYTES_MAX => Err(EtcdError::RequestTooLarge),
        _ => Ok(()),
    }
}

/// A new user, or a new password: only its hash is proposed.
pub async fn with_password(worker: &Rc<Worker>, call: &Call, message: Bytes) -> Result<Bytes, Status> {
    let mut request = request_of(call.method, message)?;
    check_names(&request)?;
    check_may_hash(worker, call).await?;
    let hashed = |password: String| async move {
        let cost = worker.core.authenticator.bcrypt_cost;
        let hashed = worker.core.authenticator.passwords.run(move || passwords::hash(&password, cost)).await?;
        hashed.map(|hash| STANDARD.encode(hash)).map_err(|text| Status::new(Code::Unknown, text))
    };
    if let Some(add) = &mut request.auth_user_add
        && !add.options.is_some_and(|options| options.no_password)
    {
        add.hashed_password = hashed(std::mem::take(&mut add.password)).await?;
    }
    if let Some(change) = &mut request.auth_user_change_password {
        // As in etcd, which leaves an empty password to be refused by nobody.
        if !change.password.is_empty() || change.hashed_password.is_empty() {
            change.hashed_password = hashed(std::mem::take(&mut change.password)).await?;
        }
    }
    let applied = worker.core.propose_for(call.identity.as_ref(), request).await?;
    Ok(frame(worker, &applied))
}

/// Hashing is dear: who will be refused anyway is refused before. This member may be late, so it does not refuse by what it
/// knows alone.
async fn check_may_hash(worker: &Rc<Worker>, call: &Call) -> Result<(), Status> {
    let check = || worker.reader.auth().check_admin(call.caller());
    if check().is_err() {
        linearize(&worker.core).await?;
        check()?;
    }
    Ok(())
}

/// Checks the password, then lets every member know of the login. Begun anew if users, roles or permissions changed
/// meanwhile: the password may have.
pub async fn authenticate(worker: &Rc<Worker>, message: Bytes) -> Result<Bytes, Status> {
    let login: AuthenticateRequest = decode(message)?;
    let core = &worker.core;
    linearize(core).await?;
    for _ in 0..LOGIN_ATTEMPTS_MAX {
        let auth = worker.reader.auth();
        let checked_revision = auth.revision();
        check_password(worker, &login, auth.password_hash(&login.name))
            .await
            .inspect_err(|status| note_refusal(core, &login.name, status))?;
        let request = InternalAuthenticateRequest {
            name: login.name.clone(),
            password: String::new(),
            simple_token: core.authenticator.token_prefix(),
        };
        let request = InternalRaftRequest { authenticate: Some(request), ..InternalRaftRequest::default() };
        let mut applied = core.propose(request).await?;
        if worker.reader.auth().revision() == checked_revision {
            sign(worker, &login.name, &mut applied).await?;
            return Ok(frame(worker, &applied));
        }
        tracing::info!("revision when password checked became stale; retrying");
    }
    Err(EtcdError::RequestTooManyRequests.into())
}

async fn check_password(
    worker: &Rc<Worker>,
    login: &AuthenticateRequest,
    hash: Result<Option<&[u8]>, EtcdError>,
) -> Result<(), Status> {
    let core = &worker.core;
    let Some(hash) = hash?.map(<[u8]>::to_vec) else { return Err(Status::new(Code::Unknown, NO_PASSWORD)) };
    if !core.authenticator.has_room(core.now()) {
        return Err(EtcdError::RequestTooManyRequests.into());
    }
    let password = login.password.clone();
    let right = core.authenticator.passwords.run(move || passwords::is_password(&password, &hash)).await?;
    if right { Ok(()) } else { Err(EtcdError::AuthFailed.into()) }
}

fn note_refusal(core: &Core, user: &str, status: &Status) {
    if status.message == EtcdError::AuthNotEnabled.text() {
        return;
    }
    if let Some(unsaid) = core.authenticator.refusals.admit(core.now()) {
        tracing::warn!(user, error = status.message.as_ref() as &str, unsaid, "invalid authentication was requested");
    }
}

/// Puts the token into the answer, where it is not the one that the entry brought.
async fn sign(worker: &Rc<Worker>, user: &str, applied: &mut Applied) -> Result<(), Status> {
    let Reply::Authenticated { token, auth_revision } = &mut applied.reply else {
        unreachable!("a login is answered with a token");
    };
    let authenticator = &worker.core.authenticator;
    match authenticator.signer() {
        Signer::Log => Ok(()),
        Signer::Nobody => Err(EtcdError::AuthFailed.into()),
        Signer::Jwt(jwt) => {
            let (user, revision) = (user.to_owned(), *auth_revision);
            let signed = authenticator.signatures.run(move || jwt.sign(&user, revision)).await?;
            *token = Token(signed.map_err(|error| Status::new(Code::Unknown, error.text()))?.into());
            Ok(())
        }
    }
}

fn frame(worker: &Rc<Worker>, applied: &Applied) -> Bytes {
    let header = worker.core.header(applied.revision);
    let mut frame = begin_frame(applied.reply.encoded_len(&header));
    applied.reply.encode(&header, &mut frame);
    finish_frame(frame)
}
