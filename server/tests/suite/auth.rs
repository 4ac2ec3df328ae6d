//! Users, roles and tokens: who may call what, and what a change of that does to those who are there.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kvorum_api::authpb::{Permission, UserAddOptions, permission};
use kvorum_api::etcdserverpb::auth_client::AuthClient;
use kvorum_api::prost::Message;
use kvorum_server::metrics::GrpcMethod;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use super::*;

/// bcrypt's lowest, so that tests are quick.
const COST: u64 = 4;

pub(super) fn auth_config(folder: &Path) -> Config {
    Config { bcrypt_cost: COST, ..config(folder) }
}

pub(super) fn jwt_config(folder: &Path) -> Config {
    let key = folder.join("secret");
    std::fs::write(&key, SECRET).expect("a key");
    let auth_token = format!("jwt,sign-method=HS256,priv-key={},ttl=5m", key.display());
    Config { auth_token, ..auth_config(&folder.join("data")) }
}

const SECRET: &[u8] = b"a secret that only members know";

/// A token as some holder of the key might make it.
pub(super) fn signed(claims: &str) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let text = format!("{}.{}", encode(br#"{"alg":"HS256","typ":"JWT"}"#), encode(claims.as_bytes()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let signature = hmac::sign(&key, text.as_bytes());
    format!("{text}.{}", encode(signature.as_ref()))
}

impl Client {
    pub(super) fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel.clone())
    }

    pub(super) async fn login(&self, user: &str) -> Result<String, Status> {
        let request = pb::AuthenticateRequest { name: user.to_owned(), password: format!("{user}'s") };
        Ok(self.auth().authenticate(request).await?.into_inner().token)
    }

    pub(super) async fn add_user(&self, user: &str, roles: &[&str]) {
        let (name, password) = (user.to_owned(), format!("{user}'s"));
        let request = pb::AuthUserAddRequest { name, password, ..Default::default() };
        self.auth().user_add(request).await.expect("a user");
        for role in roles {
            let request = pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: (*role).to_owned() };
            self.auth().user_grant_role(request).await.expect("a role");
        }
    }

    pub(super) async fn add_role(&self, role: &str, kind: permission::Type, key: &str, range_end: &str) {
        self.auth().role_add(pb::AuthRoleAddRequest { name: role.to_owned() }).await.expect("a role");
        let (key, range_end) = (key.as_bytes().to_vec().into(), range_end.as_bytes().to_vec().into());
        let perm = Some(Permission { perm_type: kind as i32, key, range_end });
        let request = pb::AuthRoleGrantPermissionRequest { name: role.to_owned(), perm };
        self.auth().role_grant_permission(request).await.expect("a permission");
    }

    /// Root, and who may do what with `k`.
    pub(super) async fn add_everybody(&self) {
        self.add_role("reading", permission::Type::Read, "k", "").await;
        self.add_role("writing", permission::Type::Write, "k", "").await;
        self.add_user("root", &["root"]).await;
        self.add_user("wrong", &[]).await;
        self.add_user("reader", &["reading"]).await;
        self.add_user("writer", &["writing"]).await;
    }

    pub(super) async fn enable_auth(&self) {
        self.auth().auth_enable(pb::AuthEnableRequest {}).await.expect("root is there");
    }

    pub(super) async fn put_as(&self, token: &str, key: &str) -> Result<(), Status> {
        self.kv().put(with_token(put(key, "x"), token)).await.map(drop)
    }
}

pub(super) fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", MetadataValue::try_from(token).expect("a token is text"));
    request
}

/// Messages as bytes, so that one function calls every method.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }
}

/// The first answer of any method.
async fn call(client: &Client, method: GrpcMethod, token: Option<&str>, message: &[u8]) -> Result<Vec<u8>, Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await.expect("a connection");
    let path = http::uri::PathAndQuery::from_static(method.path());
    let message = message.to_vec();
    let stream = tokio_stream::iter([message]);
    let request = match token {
        Some(token) => with_token(stream, token),
        None => Request::new(stream),
    };
    let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
    Ok(answers.message().await?.unwrap_or_default())
}

/// How authorization judged: by the error, or the reason that a watch was canceled for.
fn judged(method: GrpcMethod, answer: &Result<Vec<u8>, Status>) -> char {
    let text = match answer {
        Err(status) => status.message().to_owned(),
        Ok(message) if method == GrpcMethod::Watch => {
            pb::WatchResponse::decode(&message[..]).expect("a response").cancel_reason
        }
        Ok(_) => String::new(),
    };
    let ends = |error: kvorum_api::EtcdError| text.ends_with(error.text());
    match () {
        () if ends(kvorum_api::EtcdError::UserEmpty) => 'E',
        () if ends(kvorum_api::EtcdError::InvalidAuthToken) => 'T',
        () if ends(kvorum_api::EtcdError::PermissionDenied) => 'D',
        () if ends(kvorum_api::EtcdError::AuthOldRevision) => 'O',
        () => '.',
    }
}

const ADMIN: &str = "ETTDDDD.";
const ANY_USER: &str = "ETT.....";
const READS: &str = "ETTD.DO.";
const WRITES: &str = "ETTDD.O.";
const ANYBODY: &str = ".TT.....";
const OPEN: &str = "........";

/// Every method with a request, and how it is judged for: nobody, a token that is none, an expired one, a user without
/// roles, one who may read `k`, one who may write it, the reader with a token of an older auth revision, root. `.` is: let
/// through. Requests are such that nothing changes who may do what: each fails for another reason where it is let through.
#[rustfmt::skip]
fn matrix() -> Vec<(GrpcMethod, Vec<u8>, &'static str)> {
    use GrpcMethod as M;
    let key = || b"k".to_vec().into();
    let name = |name: &str| name.to_owned();
    let put = || pb::PutRequest { key: key(), ..Default::default() };
    let put_op = |prev_kv| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(pb::PutRequest { prev_kv, ..put() })) };
    let range_op = || pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(pb::RangeRequest { key: key(), ..Default::default() })) };
    let txn = |op| pb::TxnRequest { success: vec![op], ..Default::default() };
    let watch = pb::WatchCreateRequest { key: key(), ..Default::default() };
    let watch = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(watch)) };
    let alarm = |action: pb::alarm_request::AlarmAction| pb::AlarmRequest { action: action as i32, ..Default::default() };
    vec![
        (M::Range, pb::RangeRequest { key: key(), ..Default::default() }.encode_to_vec(), READS),
        (M::Range, pb::RangeRequest { key: key(), serializable: true, ..Default::default() }.encode_to_vec(), READS),
        (M::Range, pb::RangeRequest { key: key(), range_end: b"\0".to_vec().into(), ..Default::default() }.encode_to_vec(), "ETTDDDO."),
        (M::RangeStream, pb::RangeRequest { key: key(), ..Default::default() }.encode_to_vec(), READS),
        (M::Watch, watch.encode_to_vec(), READS),
        (M::Put, put().encode_to_vec(), WRITES),
        (M::Put, pb::PutRequest { prev_kv: true, ..put() }.encode_to_vec(), "ETTDDDO."),
        (M::DeleteRange, pb::DeleteRangeRequest { key: key(), ..Default::default() }.encode_to_vec(), WRITES),
        (M::DeleteRange, pb::DeleteRangeRequest { key: key(), prev_kv: true, ..Default::default() }.encode_to_vec(), "ETTDDDO."),
        (M::Txn, txn(put_op(false)).encode_to_vec(), WRITES),
        (M::Txn, txn(put_op(true)).encode_to_vec(), "ETTDDDO."),
        (M::Txn, txn(range_op()).encode_to_vec(), READS),
        (M::Txn, txn(pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(txn(put_op(false)))) }).encode_to_vec(), WRITES),
        (M::Compact, pb::CompactionRequest { revision: 1 << 40, physical: false }.encode_to_vec(), ADMIN),
        (M::LeaseGrant, pb::LeaseGrantRequest { ttl: 60, id: 0 }.encode_to_vec(), ANY_USER),
        (M::LeaseTimeToLive, pb::LeaseTimeToLiveRequest { id: 7, keys: true }.encode_to_vec(), READS),
        (M::LeaseTimeToLive, pb::LeaseTimeToLiveRequest { id: 7, keys: false }.encode_to_vec(), ANY_USER),
        (M::LeaseLeases, Vec::new(), READS),
        (M::LeaseKeepAlive, pb::LeaseKeepAliveRequest { id: 7 }.encode_to_vec(), WRITES),
        (M::LeaseRevoke, pb::LeaseRevokeRequest { id: 7 }.encode_to_vec(), WRITES),
        (M::MemberList, Vec::new(), ANY_USER),
        (M::MemberAdd, Vec::new(), ADMIN),
        (M::MemberRemove, pb::MemberRemoveRequest { id: 1 }.encode_to_vec(), ADMIN),
        (M::MemberUpdate, pb::MemberUpdateRequest { id: 1, ..Default::default() }.encode_to_vec(), ADMIN),
        (M::MemberPromote, pb::MemberPromoteRequest { id: 1 }.encode_to_vec(), ADMIN),
        (M::Alarm, alarm(pb::alarm_request::AlarmAction::Get).encode_to_vec(), ANY_USER),
        (M::Alarm, alarm(pb::alarm_request::AlarmAction::Activate).encode_to_vec(), ADMIN),
        (M::Alarm, alarm(pb::alarm_request::AlarmAction::Deactivate).encode_to_vec(), ADMIN),
        (M::Status, Vec::new(), ANY_USER),
        (M::Defragment, Vec::new(), ADMIN),
        (M::Hash, Vec::new(), ADMIN),
        (M::HashKv, Vec::new(), ADMIN),
        (M::Snapshot, Vec::new(), ADMIN),
        (M::MoveLeader, pb::MoveLeaderRequest { target_id: 1 }.encode_to_vec(), ADMIN),
        (M::Downgrade, pb::DowngradeRequest { version: name("x"), ..Default::default() }.encode_to_vec(), ADMIN),
        (M::Authenticate, pb::AuthenticateRequest { name: name("nobody"), password: name("x") }.encode_to_vec(), OPEN),
        (M::AuthStatus, Vec::new(), ANYBODY),
        (M::UserAdd, pb::AuthUserAddRequest { name: name("root"), ..Default::default() }.encode_to_vec(), ADMIN),
        (M::UserDelete, pb::AuthUserDeleteRequest { name: name("root") }.encode_to_vec(), ADMIN),
        (M::UserChangePassword, pb::AuthUserChangePasswordRequest { name: name("nobody"), ..Default::default() }.encode_to_vec(), ADMIN),
        (M::UserGrantRole, pb::AuthUserGrantRoleRequest { user: name("nobody"), role: name("root") }.encode_to_vec(), ADMIN),
        (M::UserGrantRole, pb::AuthUserGrantRoleRequest { user: name("reader"), role: name("nothing") }.encode_to_vec(), ADMIN),
        (M::UserRevokeRole, pb::AuthUserRevokeRoleRequest { name: name("nobody"), role: name("root") }.encode_to_vec(), ADMIN),
        (M::UserGet, pb::AuthUserGetRequest { name: name("reader") }.encode_to_vec(), "ETTD.D.."),
        (M::UserList, Vec::new(), ADMIN),
        (M::RoleAdd, pb::AuthRoleAddRequest { name: name("reading") }.encode_to_vec(), ADMIN),
        (M::RoleDelete, pb::AuthRoleDeleteRequest { role: name("root") }.encode_to_vec(), ADMIN),
        (M::RoleGrantPermission, pb::AuthRoleGrantPermissionRequest { name: name("nothing"), perm: None }.encode_to_vec(), ADMIN),
        (M::RoleRevokePermission, pb::AuthRoleRevokePermissionRequest { role: name("nothing"), ..Default::default() }.encode_to_vec(), ADMIN),
        (M::RoleGet, pb::AuthRoleGetRequest { role: name("reading") }.encode_to_vec(), "ETTD.D.."),
        (M::RoleList, Vec::new(), ADMIN),
        (M::AuthEnable, Vec::new(), ADMIN),
        (M::HealthCheck, Vec::new(), OPEN),
        (M::HealthList, Vec::new(), OPEN),
        (M::HealthWatch, Vec::new(), OPEN),
        // The last: root is let through.
        (M::AuthDisable, Vec::new(), ADMIN),
    ]
}

#[test]
fn every_method_is_for_whom_the_matrix_says() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&jwt_config(folder.path()));
        client.add_everybody().await;
        client.enable_auth().await;
        let status = client.auth().auth_status(pb::AuthStatusRequest {}).await.expect("a status").into_inner();
        let old = signed(&format!(r#"{{"username":"reader","revision":{}}}"#, status.auth_revision - 1));
        let expired = signed(&format!(r#"{{"username":"root","revision":{},"exp":1700000000}}"#, status.auth_revision));
        let mut tokens = vec![None, Some("nonsense".to_owned()), Some(expired)];
        for user in ["wrong", "reader", "writer"] {
            tokens.push(Some(client.login(user).await.expect("a login")));
        }
        tokens.push(Some(old));
        let root = client.login("root").await.expect("root logs in");
        tokens.push(Some(root.clone()));
        let mut wrong = Vec::new();
        let rows = matrix();
        for (method, message, expected) in &rows {
            let mut found = String::new();
            for token in &tokens {
                // Whoever may do so has revoked it.
                let grant = pb::LeaseGrantRequest { ttl: 600, id: 7 };
                drop(client.lease().lease_grant(with_token(grant, &root)).await);
                drop(client.kv().put(with_token(pb::PutRequest { lease: 7, ..put("k", "1") }, &root)).await);
                found.push(judged(*method, &call(&client, *method, token.as_deref(), message).await));
            }
            if found != *expected {
                wrong.push(format!("{method:?}: {found}, not {expected}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        for method in GrpcMethod::ALL {
            assert!(rows.iter().any(|(listed, ..)| listed == method), "{method:?} is in no row");
        }
    });
}

/// A method that is served and not counted would have no row anywhere.
#[test]
fn every_method_of_the_protocol_is_known() {
    let text = include_str!("../../../api/proto/rpc.proto");
    let mut service = "";
    let mut count = 0;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("service ") {
            service = rest.split([' ', '{']).next().expect("a name");
        }
        if let Some(rest) = line.strip_prefix("rpc ") {
            let method = rest.split(['(', ' ']).next().expect("a name");
            let path = format!("/etcdserverpb.{service}/{method}");
            assert!(GrpcMethod::from_path(&path).is_some(), "{path} is unknown");
            count += 1;
        }
    }
    assert!(count >= 42, "{count} methods were read");
}

#[test]
fn logins_and_what_ends_them() {
    run(async {
        let folder = folder();
        let config = auth_config(folder.path());
        let Half { client, mut member } = start_with(&config);
        client.add_everybody().await;
        let options = Some(UserAddOptions { no_password: true });
        let cert = pb::AuthUserAddRequest { name: "cert".to_owned(), options, ..Default::default() };
        client.auth().user_add(cert).await.expect("a user");
        let message = |status: Status| status.message().to_owned();
        let refused = client.login("root").await.map_err(message).expect_err("nobody logs in yet");
        assert_eq!(refused, "etcdserver: authentication is not enabled");
        client.put("k", "before").await;
        // What is shown while nobody looks is not looked at.
        client.put_as("nonsense", "k").await.expect("authentication is off");
        client.enable_auth().await;
        let (root, writer) = (client.login("root").await.expect("root"), client.login("writer").await.expect("writer"));
        let (prefix, index) = writer.split_once('.').expect("a simple token");
        assert!(prefix.len() == 16 && index.bytes().all(|byte| byte.is_ascii_digit()), "{writer}");
        client.put_as(&writer, "k").await.expect("it may");
        for (user, password, text) in [
            ("writer", "wrong", "etcdserver: authentication failed, invalid user ID or password"),
            ("nobody", "wrong", "etcdserver: authentication failed, invalid user ID or password"),
            ("cert", "", "auth: authentication failed, password was given for no password user"),
        ] {
            let request = pb::AuthenticateRequest { name: user.to_owned(), password: password.to_owned() };
            assert_eq!(client.auth().authenticate(request).await.expect_err("no login").message(), text, "{user}");
        }
        // Another password ends what was begun with the one before.
        let (name, password) = ("writer".to_owned(), "other".to_owned());
        let change = pb::AuthUserChangePasswordRequest { name, password, ..Default::default() };
        client.auth().user_change_password(with_token(change, &root)).await.expect("root may");
        let refused = client.put_as(&writer, "k").await.expect_err("the token is gone");
        assert_eq!(
            (refused.code(), refused.message()),
            (tonic::Code::Unauthenticated, "etcdserver: invalid auth token")
        );
        client.login("writer").await.expect_err("the password is another");
        let long = pb::AuthUserAddRequest { name: "long".to_owned(), password: "x".repeat(73), ..Default::default() };
        let refused = client.auth().user_add(with_token(long, &root)).await.expect_err("bcrypt takes 72 bytes");
        assert_eq!(refused.message(), "bcrypt: password length exceeds 72 bytes");
        let long = pb::AuthRoleAddRequest { name: "x".repeat(1025) };
        let refused = client.auth().role_add(with_token(long, &root)).await.expect_err("no such key is stored");
        assert_eq!(refused.message(), "etcdserver: request is too large");
        drop(client);
        member.stop();
        drop(member);
        // Users survive, tokens do not.
        let Half { client, member: _member } = start_with(&config);
        assert_eq!(client.put_as(&root, "k").await.expect_err("nobody knows it").code(), tonic::Code::Unauthenticated);
        let root = client.login("root").await.expect("root");
        client.auth().auth_disable(with_token(pb::AuthDisableRequest {}, &root)).await.expect("root may");
        client.put("k", "after").await;
        client.enable_auth().await;
        let refused = client.put_as(&root, "k").await.expect_err("disabling ended it");
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    });
}

/// etcd looks at a watcher's permission once, when it is created. Here one that is taken away counts at once.
#[test]
fn a_watch_ends_with_the_permission() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&auth_config(folder.path()));
        client.add_everybody().await;
        let mut anonymous = client.watch(pb::WatchCreateRequest { key: "k".into(), ..Default::default() }).await;
        client.enable_auth().await;
        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        let ended = anonymous.next().await;
        assert_eq!((ended.canceled, ended.created, ended.cancel_reason.as_str()), (true, false, denied));
        let (root, reader) = (client.login("root").await.expect("root"), client.login("reader").await.expect("reader"));
        let (requests, receiver) = mpsc::unbounded_channel();
        let requests_of_reader = with_token(UnboundedReceiverStream::new(receiver), &reader);
        let responses = WatchClient::new(client.channel.clone()).watch(requests_of_reader).await;
        let mut watch = Watch { requests, responses: responses.expect("a stream").into_inner() };
        watch.create(pb::WatchCreateRequest { key: "k".into(), ..Default::default() });
        assert!(!watch.next().await.canceled);
        watch.create(pb::WatchCreateRequest { key: "k".into(), range_end: b"\0"[..].into(), ..Default::default() });
        let refused = watch.next().await;
        assert_eq!((refused.watch_id, refused.created, refused.cancel_reason.as_str()), (-1, true, denied));
        client.put_as(&root, "k").await.expect("root may");
        assert_eq!(watch.next().await.events.len(), 1);
        // Another change does not disturb it.
        let request = pb::AuthRoleAddRequest { name: "other".to_owned() };
        client.auth().role_add(with_token(request, &root)).await.expect("root may");
        client.put_as(&root, "k").await.expect("root may");
        assert_eq!(watch.next().await.events.len(), 1);
        let request = pb::AuthUserRevokeRoleRequest { name: "reader".to_owned(), role: "reading".to_owned() };
        client.auth().user_revoke_role(with_token(request, &root)).await.expect("root may");
        client.put_as(&root, "k").await.expect("root may");
        let ended = watch.next().await;
        assert_eq!((ended.watch_id, ended.canceled, ended.cancel_reason.as_str()), (0, true, denied));
        assert!(ended.events.is_empty());
    });
}

#[test]
fn a_lease_expires_whoever_its_keys_belong_to() {
    run(async {
        let folder = folder();
        let config = Config { bcrypt_cost: COST, ..quick_config(folder.path()) };
        let Half { client, member: _member } = start_with(&config);
        client.add_everybody().await;
        let lease = client.grant(1).await;
        client.try_put(leased("k", lease)).await.expect("a put");
        client.enable_auth().await;
        let root = client.login("root").await.expect("root");
        let (requests, receiver) = mpsc::unbounded_channel();
        let stream = with_token(UnboundedReceiverStream::new(receiver), &root);
        let responses = WatchClient::new(client.channel.clone()).watch(stream).await.expect("a stream");
        let mut watch = Watch { requests, responses: responses.into_inner() };
        watch.create(pb::WatchCreateRequest { start_revision: 3, ..watch_all() });
        assert!(watch.next().await.created);
        assert_eq!(watch.next().await.events[0].r#type, 1);
    });
}

/// Logins are dear: what does not fit into the queue is refused, and nobody else waits for them.
#[test]
fn a_flood_of_logins_is_refused_in_part() {
    run(async {
        let folder = folder();
        let Half { client, member: _member } = start_with(&auth_config(folder.path()));
        client.add_everybody().await;
        client.enable_auth().await;
        let root = client.login("root").await.expect("root");
        let logins: Vec<_> = (0..300)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.login("reader").await })
            })
            .collect();
        client.put_as(&root, "k").await.expect("root may");
        let (mut let_in, mut refused) = (0, 0);
        for login in logins {
            match login.await.expect("it ends") {
                Ok(_) => let_in += 1,
                Err(status) if status.message() == "etcdserver: too many requests" => refused += 1,
                Err(status) => panic!("{status}"),
            }
        }
        assert!(let_in >= 64 && refused >= 100, "{let_in} logins, {refused} refused");
    });
}
