//! The scenario language: requests from lines of text, replies to text.

use kvorum_api::authpb::{Permission, UserAddOptions, permission};
use kvorum_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvorum_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use kvorum_api::etcdserverpb::request_op::Request;
use kvorum_api::etcdserverpb::*;
use kvorum_api::mvccpb::KeyValue;
use kvorum_store::{Header, OpReply, RangeReply, Reply};
use prost::Message;

/// `\0` is a zero byte, `-` alone is nothing.
pub fn bytes(word: &str) -> prost::bytes::Bytes {
    if word == "-" { Vec::new().into() } else { word.replace("\\0", "\0").into_bytes().into() }
}

pub fn show(bytes: &[u8]) -> String {
    if bytes.is_empty() { "-".to_owned() } else { String::from_utf8_lossy(bytes).replace('\0', "\\0") }
}

fn number(word: &str) -> i64 {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}

/// Splits words into positional ones and options (`name` or `name=value`, known names only).
fn options<'a>(words: &[&'a str], known: &[&str]) -> (Vec<&'a str>, Vec<(&'a str, &'a str)>) {
    let mut positional = Vec::new();
    let mut found = Vec::new();
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        if known.contains(&name) { found.push((name, value)) } else { positional.push(*word) }
    }
    (positional, found)
}

pub fn put(words: &[&str]) -> PutRequest {
    let (positional, options) = options(words, &["lease", "prev_kv", "ignore_value", "ignore_lease"]);
    let mut request = PutRequest { key: bytes(positional[0]), ..PutRequest::default() };
    request.value = positional.get(1).map(|word| bytes(word)).unwrap_or_default();
    for (name, value) in options {
        match name {
            "lease" => request.lease = number(value),
            "prev_kv" => request.prev_kv = true,
            "ignore_value" => request.ignore_value = true,
            _ => request.ignore_lease = true,
        }
    }
    request
}

pub fn delete(words: &[&str]) -> DeleteRangeRequest {
    let (positional, options) = options(words, &["prev_kv"]);
    DeleteRangeRequest {
        key: bytes(positional[0]),
        range_end: positional.get(1).map(|word| bytes(word)).unwrap_or_default(),
        prev_kv: !options.is_empty(),
    }
}

pub fn range(words: &[&str]) -> RangeRequest {
    let known = [
        "limit",
        "rev",
        "sort",
        "keys_only",
        "count_only",
        "min_mod",
        "max_mod",
        "min_create",
        "max_create",
        "serializable",
    ];
    let (positional, options) = options(words, &known);
    let mut request = RangeRequest { key: bytes(positional[0]), ..RangeRequest::default() };
    request.range_end = positional.get(1).map(|word| bytes(word)).unwrap_or_default();
    for (name, value) in options {
        match name {
            "limit" => request.limit = number(value),
            "rev" => request.revision = number(value),
            "sort" => {
                let (target, order) = value.split_once(':').unwrap_or((value, "NONE"));
                request.sort_target = SortTarget::from_str_name(target).map_or(99, |target| target as i32);
                request.sort_order = SortOrder::from_str_name(order).map_or(99, |order| order as i32);
            }
            "keys_only" => request.keys_only = true,
            "count_only" => request.count_only = true,
            "serializable" => request.serializable = true,
            "min_mod" => request.min_mod_revision = number(value),
            "max_mod" => request.max_mod_revision = number(value),
            "min_create" => request.min_create_revision = number(value),
            _ => request.max_create_revision = number(value),
        }
    }
    request
}

/// `TARGET KEY [END] OP VALUE`, as in `version a = 0` or `value a z != x`.
fn compare(words: &[&str]) -> Compare {
    let (target, rest) = words.split_first().expect("a compare has a target");
    let (value, rest) = rest.split_last().expect("a compare has a value");
    let (op, keys) = rest.split_last().expect("a compare has an operator");
    let (target, union) = match *target {
        "version" => (CompareTarget::Version, TargetUnion::Version(number(value))),
        "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(value))),
        "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(value))),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(value))),
        "value" => (CompareTarget::Value, TargetUnion::Value(bytes(value))),
        other => panic!("unknown compare target {other}"),
    };
    let result = match *op {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        other => panic!("unknown compare operator {other}"),
    };
    Compare {
        result: result as i32,
        target: target as i32,
        key: bytes(keys[0]),
        range_end: keys.get(1).map(|word| bytes(word)).unwrap_or_default(),
        target_union: Some(union),
    }
}

/// The lines below `txn`, each `if COMPARE`, `then OP` or `else OP`; those of a nested `txn` are indented further.
pub fn txn(lines: &[&str]) -> TxnRequest {
    let mut request = TxnRequest::default();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut position = 0;
    while position < lines.len() {
        let line = lines[position];
        let end = (position + 1..lines.len()).find(|&next| indent(lines[next]) <= indent(line)).unwrap_or(lines.len());
        let words: Vec<&str> = line.split_whitespace().collect();
        let nested = &lines[position + 1..end];
        match words[0] {
            "if" => request.compare.push(compare(&words[1..])),
            "then" => request.success.push(op(&words[1..], nested)),
            "else" => request.failure.push(op(&words[1..], nested)),
            other => panic!("unknown txn line {other}"),
        }
        position = end;
    }
    request
}

fn op(words: &[&str], nested: &[&str]) -> RequestOp {
    let request = match words[0] {
        "put" => Request::RequestPut(put(&words[1..])),
        "del" => Request::RequestDeleteRange(delete(&words[1..])),
        "range" => Request::RequestRange(range(&words[1..])),
        "txn" => Request::RequestTxn(txn(nested)),
        "none" => return RequestOp { request: None },
        other => panic!("unknown operation {other}"),
    };
    RequestOp { request: Some(request) }
}

pub fn show_kv(kv: &[u8]) -> String {
    let kv = KeyValue::decode(kv).expect("an encoded KeyValue");
    let mut text =
        format!("{}={} c{} m{} v{}", show(&kv.key), show(&kv.value), kv.create_revision, kv.mod_revision, kv.version);
    if kv.lease != 0 {
        text += &format!(" l{}", kv.lease);
    }
    text
}

pub fn show_range(range: &RangeReply) -> String {
    let reply = Reply::Range(range.clone());
    let mut out = Vec::new();
    reply.encode(&Header::default(), &mut out);
    let response = kvorum_api::etcdserverpb::RangeResponse::decode(out.as_slice()).expect("our encoding");
    let mut text = String::new();
    for kv in &response.kvs {
        text += &format!("{}\n", show_kv(&kv.encode_to_vec()));
    }
    text + &format!("count={}{}", response.count, if response.more { " more" } else { "" })
}

/// A reply without its revision; nested ones indented.
/// Requests of the Auth service.
pub fn auth(words: &[&str]) -> InternalRaftRequest {
    let word = |position: usize| words.get(position).copied().unwrap_or_default().to_owned();
    let name = || if word(2) == "-" { String::new() } else { word(2) };
    // What the server makes of a password before it proposes it.
    let hashed_password = "aGFzaA==".to_owned();
    let mut request = InternalRaftRequest::default();
    match (words[0], words[1]) {
        ("auth", "enable") => request.auth_enable = Some(AuthEnableRequest {}),
        ("auth", "disable") => request.auth_disable = Some(AuthDisableRequest {}),
        ("auth", "status") => request.auth_status = Some(AuthStatusRequest {}),
        ("auth", "login") => {
            let simple_token = "token".to_owned();
            request.authenticate =
                Some(InternalAuthenticateRequest { name: name(), simple_token, password: String::new() });
        }
        ("user", "add") => {
            let no_password = word(3) == "nopassword";
            let hashed_password = if no_password { String::new() } else { hashed_password };
            let options = no_password.then_some(UserAddOptions { no_password });
            request.auth_user_add =
                Some(AuthUserAddRequest { name: name(), password: String::new(), options, hashed_password });
        }
        ("user", "del") => request.auth_user_delete = Some(AuthUserDeleteRequest { name: name() }),
        ("user", "password") => {
            request.auth_user_change_password =
                Some(AuthUserChangePasswordRequest { name: name(), password: String::new(), hashed_password });
        }
        ("user", "grant") => {
            request.auth_user_grant_role = Some(AuthUserGrantRoleRequest { user: name(), role: word(3) });
        }
        ("user", "revoke") => {
            request.auth_user_revoke_role = Some(AuthUserRevokeRoleRequest { name: name(), role: word(3) });
        }
        ("user", "get") => request.auth_user_get = Some(AuthUserGetRequest { name: name() }),
        ("user", "list") => request.auth_user_list = Some(AuthUserListRequest {}),
        ("role", "add") => request.auth_role_add = Some(AuthRoleAddRequest { name: name() }),
        ("role", "del") => request.auth_role_delete = Some(AuthRoleDeleteRequest { role: name() }),
        ("role", "get") => request.auth_role_get = Some(AuthRoleGetRequest { role: name() }),
        ("role", "list") => request.auth_role_list = Some(AuthRoleListRequest {}),
        ("role", "grant") => {
            let perm = words.get(3).map(|kind| Permission {
                perm_type: permission::Type::from_str_name(kind).expect("a kind") as i32,
                key: bytes(words[4]),
                range_end: words.get(5).map(|end| bytes(end)).unwrap_or_default(),
            });
            request.auth_role_grant_permission = Some(AuthRoleGrantPermissionRequest { name: name(), perm });
        }
        ("role", "revoke") => {
            request.auth_role_revoke_permission = Some(AuthRoleRevokePermissionRequest {
                role: name(),
                key: bytes(words[3]),
                range_end: words.get(4).map(|end| bytes(end)).unwrap_or_default(),
            });
        }
        other => panic!("unknown step {other:?}"),
    }
    request
}

pub fn show_reply(reply: &Reply) -> String {
    match reply {
        Reply::Range(range) => show_range(range),
        Reply::Put { previous: None } => "put".to_owned(),
        Reply::Put { previous: Some(kv) } => format!("put, was {}", show_kv(kv)),
        Reply::DeleteRange { deleted, previous } => {
            let previous = previous.iter().map(|kv| format!("\nwas {}", show_kv(kv)));
            format!("deleted={deleted}{}", previous.collect::<String>())
        }
        Reply::Txn(txn) => {
            let mut text = if txn.succeeded { "succeeded".to_owned() } else { "failed".to_owned() };
            for OpReply { revision, reply } in &txn.responses {
                for (position, line) in show_reply(reply).lines().enumerate() {
                    let mark = if position == 0 { format!("@{revision} ") } else { "  ".to_owned() };
                    text += &format!("\n  {mark}{line}");
                }
            }
            text
        }
        Reply::LeaseGrant { id, ttl_seconds } => format!("lease {id} ttl={ttl_seconds}"),
        Reply::Alarm(alarms) => {
            let list = alarms.iter().map(|alarm| format!("alarm {} member {}", alarm.alarm, alarm.member_id));
            list.collect::<Vec<_>>().join("\n")
        }
        Reply::AuthStatus { enabled, revision } => format!("enabled={enabled} auth revision {revision}"),
        Reply::Authenticated { token, auth_revision } => format!("token {} at {auth_revision}", token.0),
        Reply::Names(names) => format!("[{}]", names.join(" ")),
        Reply::Permissions(permissions) => {
            let list = permissions.iter().map(|permission| {
                let kind = permission.perm_type().as_str_name();
                format!("{kind} {} {}", show(&permission.key), show(&permission.range_end))
            });
            list.collect::<Vec<_>>().join("\n")
        }
        Reply::Empty | Reply::Compaction | Reply::LeaseRevoke | Reply::LeaseCheckpoint => "ok".to_owned(),
    }
}
