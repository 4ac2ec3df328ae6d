//! Users, roles and permissions beside etcd's: one seeded history goes to both and must be answered alike, and in a cluster
//! of both kinds of members it must leave all of them with the same.
//!
//! `KVORUM_AUTH_SEED` and `KVORUM_AUTH_STEPS` choose the history.

use std::collections::BTreeMap;

use kvorum_api::authpb::{Permission, UserAddOptions};
use kvorum_api::etcdserverpb as pb;
use kvorum_interop::cluster::{Cluster, Program, until};
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::{raw, tools};
use pb::request_op::Request as Op;
use tonic::transport::Channel;
use tonic::{Request, Status};

const STEPS: u64 = 600;
const SEED: u64 = 20_261_122;

/// Passwords cost nothing here, and elections do not disturb.
const FLAGS: &[&str] = &["--bcrypt-cost=4", "--election-timeout=3000", "--heartbeat-interval=300", "--unsafe-no-fsync"];

const USERS: [&str; 5] = ["root", "ann", "bob", "cyd", ""];
const ROLES: [&str; 5] = ["root", "one", "two", "three", ""];
const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const LEASES: [i64; 2] = [70, 71];

fn steps() -> u64 {
    tools::number("KVORUM_AUTH_STEPS").unwrap_or(STEPS)
}

fn seed() -> u64 {
    tools::number("KVORUM_AUTH_SEED").unwrap_or(SEED)
}

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 11) % bound
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).expect("small")]
    }

    fn once_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    /// A key, a range, or everything from a key on; now and then one that is the wrong way round.
    fn range(&mut self) -> (bytes::Bytes, bytes::Bytes) {
        let end = match self.below(6) {
            0 => "\0",
            1..3 => self.of(&KEYS),
            _ => "",
        };
        (self.of(&KEYS).into(), end.into())
    }
}

/// A server, with what was logged in on it.
struct Side {
    channels: Vec<Channel>,
    tokens: BTreeMap<&'static str, String>,
}

/// The answer as text, without what differs between any two servers.
macro_rules! shown {
    ($answer:expr) => {{
        let mut message = $answer.await?.into_inner();
        if let Some(header) = &mut message.header {
            (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
        }
        Ok(format!("{message:?}"))
    }};
}

/// Everything that a step asks, chosen before it is asked on each side.
#[derive(Clone, Debug)]
enum Step {
    UserAdd(pb::AuthUserAddRequest),
    UserDelete(&'static str),
    Password(&'static str, &'static str),
    GrantRole(&'static str, &'static str),
    RevokeRole(&'static str, &'static str),
    UserGet(&'static str),
    UserList,
    RoleAdd(&'static str),
    RoleDelete(&'static str),
    RoleGet(&'static str),
    RoleList,
    Grant(&'static str, Permission),
    Revoke(&'static str, bytes::Bytes, bytes::Bytes),
    Enable,
    Disable,
    AuthStatus,
    Login(&'static str, &'static str),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Range(pb::RangeRequest),
    Txn(pb::TxnRequest),
    LeaseGrant(i64),
    LeaseRevoke(i64),
    LeaseTimes(i64, bool),
    Leases,
    KeepAlive(i64),
    Watch(bytes::Bytes, bytes::Bytes),
    Members,
    HashKv,
    Compact,
    AlarmGet,
}

fn choose(chance: &mut Chance) -> Step {
    match chance.below(40) {
        0..2 => {
            let options = chance.once_in(4).then_some(UserAddOptions { no_password: true });
            let (name, password) = (chance.of(&USERS).to_owned(), chance.of(&["x", "y"]).to_owned());
            Step::UserAdd(pb::AuthUserAddRequest { name, password, options, ..Default::default() })
        }
        2 => Step::UserDelete(chance.of(&USERS)),
        3 => Step::Password(chance.of(&USERS), chance.of(&["x", "y"])),
        4..7 => Step::GrantRole(chance.of(&USERS), chance.of(&ROLES)),
        7 => Step::RevokeRole(chance.of(&USERS), chance.of(&ROLES)),
        8 => Step::UserGet(chance.of(&USERS)),
        9 => Step::UserList,
        10 => Step::RoleAdd(chance.of(&ROLES)),
        11 if chance.once_in(3) => Step::RoleDelete(chance.of(&ROLES)),
        12 => Step::RoleGet(chance.of(&ROLES)),
        13 => Step::RoleList,
        14..18 => {
            let (key, range_end) = chance.range();
            let key = if chance.once_in(20) { "".into() } else { key };
            let perm_type = i32::try_from(chance.below(3)).expect("small");
            Step::Grant(chance.of(&ROLES), Permission { perm_type, key, range_end })
        }
        18 => {
            let (key, range_end) = chance.range();
            Step::Revoke(chance.of(&ROLES), key, range_end)
        }
        19 => Step::Enable,
        20 if chance.once_in(8) => Step::Disable,
        21 => Step::AuthStatus,
        22..25 => Step::Login(chance.of(&USERS), chance.of(&["x", "x", "x", "y"])),
        25..28 => Step::Put(put(chance)),
        28 => Step::Delete(delete(chance)),
        29..32 => {
            let (key, range_end) = chance.range();
            Step::Range(pb::RangeRequest { key, range_end, serializable: chance.once_in(2), ..Default::default() })
        }
        32..34 => Step::Txn(txn(chance, 0)),
        34 => match chance.below(3) {
            0 => Step::LeaseGrant(chance.of(&LEASES)),
            1 => Step::LeaseRevoke(chance.of(&LEASES)),
            _ => Step::Leases,
        },
        35 => Step::LeaseTimes(chance.of(&LEASES), chance.once_in(2)),
        36 => Step::KeepAlive(chance.of(&LEASES)),
        37 => {
            let (key, range_end) = chance.range();
            Step::Watch(key, range_end)
        }
        38 => chance_of_admin(chance),
        _ => Step::Members,
    }
}

fn chance_of_admin(chance: &mut Chance) -> Step {
    match chance.below(3) {
        0 => Step::HashKv,
        1 => Step::Compact,
        _ => Step::AlarmGet,
    }
}

fn put(chance: &mut Chance) -> pb::PutRequest {
    let lease = if chance.once_in(3) { chance.of(&LEASES) } else { 0 };
    let key = chance.of(&KEYS).into();
    pb::PutRequest { key, value: "v".into(), lease, prev_kv: chance.once_in(3), ..Default::default() }
}

fn delete(chance: &mut Chance) -> pb::DeleteRangeRequest {
    let (key, range_end) = chance.range();
    pb::DeleteRangeRequest { key, range_end, prev_kv: chance.once_in(2) }
}

fn txn(chance: &mut Chance, depth: u64) -> pb::TxnRequest {
    let compare = pb::Compare { key: chance.of(&KEYS).into(), ..Default::default() };
    let mut op = || {
        let request = match chance.below(6) {
            0..2 => Op::RequestPut(put(chance)),
            2 => Op::RequestDeleteRange(pb::DeleteRangeRequest { range_end: "".into(), ..delete(chance) }),
            3 if depth < 2 => Op::RequestTxn(txn(chance, depth + 1)),
            _ => {
                let (key, range_end) = chance.range();
                Op::RequestRange(pb::RangeRequest { key, range_end, ..Default::default() })
            }
        };
        pb::RequestOp { request: Some(request) }
    };
    pb::TxnRequest { success: vec![op()], failure: vec![op()], compare: vec![compare] }
}

impl Side {
    fn new(channels: Vec<Channel>) -> Self {
        Self { channels, tokens: BTreeMap::new() }
    }

    /// Asks the member whose turn it is.
    async fn ask(&mut self, turn: u64, caller: Option<&'static str>, step: &Step) -> String {
        let member = usize::try_from(turn).expect("small") % self.channels.len();
        let channel = self.channels[member].clone();
        let token = caller.and_then(|user| self.tokens.get(user).cloned());
        let answered = match step {
            Step::Login(user, password) => self.log_in(channel, user, password).await,
            step => answer(channel, token.as_deref(), step).await,
        };
        answered.unwrap_or_else(|status| format!("{:?} {}", status.code(), status.message()))
    }

    async fn log_in(&mut self, channel: Channel, user: &'static str, password: &str) -> Result<String, Status> {
        let request = pb::AuthenticateRequest { name: user.to_owned(), password: password.to_owned() };
        let answer = pb::auth_client::AuthClient::new(channel).authenticate(request).await?.into_inner();
        self.tokens.insert(user, answer.token);
        Ok("a token".to_owned())
    }
}

async fn answer(channel: Channel, token: Option<&str>, step: &Step) -> Result<String, Status> {
    let mut auth = pb::auth_client::AuthClient::new(channel.clone());
    let mut kv = pb::kv_client::KvClient::new(channel.clone());
    let mut lease = pb::lease_client::LeaseClient::new(channel.clone());
    let name = |name: &str| name.to_owned();
    macro_rules! shown_as {
        ($client:ident.$method:ident($message:expr)) => {
            shown!($client.$method(with_token($message, token)))
        };
    }
    match step.clone() {
        Step::UserAdd(add) => shown_as!(auth.user_add(add)),
        Step::UserDelete(user) => shown_as!(auth.user_delete(pb::AuthUserDeleteRequest { name: name(user) })),
        Step::Password(user, password) => {
            let (name, password) = (name(user), password.to_owned());
            shown_as!(auth.user_change_password(pb::AuthUserChangePasswordRequest {
                name,
                password,
                ..Default::default()
            }))
        }
        Step::GrantRole(user, role) => {
            shown_as!(auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: name(user), role: name(role) }))
        }
        Step::RevokeRole(user, role) => {
            shown_as!(auth.user_revoke_role(pb::AuthUserRevokeRoleRequest { name: name(user), role: name(role) }))
        }
        Step::UserGet(user) => shown_as!(auth.user_get(pb::AuthUserGetRequest { name: name(user) })),
        Step::UserList => shown_as!(auth.user_list(pb::AuthUserListRequest {})),
        Step::RoleAdd(role) => shown_as!(auth.role_add(pb::AuthRoleAddRequest { name: name(role) })),
        Step::RoleDelete(role) => shown_as!(auth.role_delete(pb::AuthRoleDeleteRequest { role: name(role) })),
        Step::RoleGet(role) => shown_as!(auth.role_get(pb::AuthRoleGetRequest { role: name(role) })),
        Step::RoleList => shown_as!(auth.role_list(pb::AuthRoleListRequest {})),
        Step::Grant(role, permission) => {
            let perm = Some(permission);
            shown_as!(auth.role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: name(role), perm }))
        }
        Step::Revoke(role, key, range_end) => {
            let role = name(role);
            shown_as!(auth.role_revoke_permission(pb::AuthRoleRevokePermissionRequest { role, key, range_end }))
        }
        Step::Enable => shown_as!(auth.auth_enable(pb::AuthEnableRequest {})),
        Step::Disable => shown_as!(auth.auth_disable(pb::AuthDisableRequest {})),
        Step::AuthStatus => shown_as!(auth.auth_status(pb::AuthStatusRequest {})),
        Step::Login(..) => unreachable!("a login is the side's own"),
        Step::Put(put) => shown_as!(kv.put(put)),
        Step::Delete(delete) => shown_as!(kv.delete_range(delete)),
        Step::Range(range) => shown_as!(kv.range(range)),
        Step::Txn(txn) => shown_as!(kv.txn(txn)),
        Step::Compact => shown_as!(kv.compact(pb::CompactionRequest { revision: 1 << 40, physical: false })),
        Step::LeaseGrant(id) => shown_as!(lease.lease_grant(pb::LeaseGrantRequest { id, ttl: 6_000 })),
        Step::LeaseRevoke(id) => shown_as!(lease.lease_revoke(pb::LeaseRevokeRequest { id })),
        Step::Leases => {
            let request = with_token(pb::LeaseLeasesRequest {}, token);
            let mut ids: Vec<i64> =
                lease.lease_leases(request).await?.into_inner().leases.iter().map(|lease| lease.id).collect();
            ids.sort_unstable();
            Ok(format!("{ids:?}"))
        }
        Step::LeaseTimes(id, keys) => {
            let request = with_token(pb::LeaseTimeToLiveRequest { id, keys }, token);
            let mut times = lease.lease_time_to_live(request).await?.into_inner();
            times.keys.sort();
            Ok(format!("{} {:?}", times.granted_ttl, times.keys))
        }
        Step::KeepAlive(id) => {
            let renewals = futures_util::stream::iter([pb::LeaseKeepAliveRequest { id }]);
            let mut answers = lease.lease_keep_alive(with_token(renewals, token)).await?.into_inner();
            Ok(format!("{:?}", answers.message().await?.map(|renewed| renewed.ttl)))
        }
        Step::Watch(key, range_end) => {
            let create = pb::WatchCreateRequest { key, range_end, ..Default::default() };
            let union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
            let requests = futures_util::stream::iter([pb::WatchRequest { request_union: union }]);
            let mut watch = pb::watch_client::WatchClient::new(channel);
            let mut answers = watch.watch(with_token(requests, token)).await?.into_inner();
            let created = answers.message().await?.unwrap_or_default();
            Ok(format!("{} {} {}", created.watch_id, created.canceled, created.cancel_reason))
        }
        Step::Members => {
            let mut cluster = pb::cluster_client::ClusterClient::new(channel);
            let request = with_token(pb::MemberListRequest { linearizable: true }, token);
            Ok(format!("{} members", cluster.member_list(request).await?.into_inner().members.len()))
        }
        Step::HashKv => {
            let mut maintenance = pb::maintenance_client::MaintenanceClient::new(channel);
            shown_as!(maintenance.hash_kv(pb::HashKvRequest { revision: 0 }))
        }
        Step::AlarmGet => {
            let mut maintenance = pb::maintenance_client::MaintenanceClient::new(channel);
            shown_as!(maintenance.alarm(pb::AlarmRequest::default()))
        }
    }
}

fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().expect("a token is text"));
    }
    request
}

/// Root with its role and password, and authentication on: without, most of a history is refused.
fn beginning() -> Vec<Step> {
    let add = |name: &str| {
        let (name, password) = (name.to_owned(), "x".to_owned());
        Step::UserAdd(pb::AuthUserAddRequest { name, password, ..Default::default() })
    };
    let everything = Permission { perm_type: 2, key: "a".into(), range_end: "d".into() };
    vec![
        Step::Enable,
        add("root"),
        Step::Enable,
        Step::GrantRole("root", "root"),
        add("ann"),
        add("bob"),
        Step::RoleAdd("one"),
        Step::Grant("one", everything),
        Step::GrantRole("ann", "one"),
        Step::Enable,
        Step::Login("root", "x"),
        Step::Login("ann", "x"),
        Step::Login("bob", "x"),
    ]
}

/// The whole history, each step with the number of its turn and who asks.
fn history(seed: u64, steps: u64) -> Vec<(u64, Option<&'static str>, Step)> {
    let mut chance = Chance(seed);
    let mut history: Vec<_> = (0..).zip(beginning()).map(|(turn, step)| (turn, None, step)).collect();
    for turn in 0..steps {
        // Root changes things, so that they do change; the others mostly try.
        let caller =
            chance.of(&[None, Some("root"), Some("root"), Some("root"), Some("ann"), Some("bob"), Some("cyd")]);
        history.push((turn, caller, choose(&mut chance)));
        if chance.once_in(12) {
            history.push((turn, None, Step::Login("root", "x")));
            history.push((turn, None, Step::Login("ann", "x")));
        }
    }
    history
}

#[tokio::test]
async fn a_seeded_history_is_answered_as_etcd_answers_it() {
    let Some(kvorum) = tools::or_skip(tools::server_under_test()) else { return };
    let Some(etcd) = tools::or_skip(tools::etcd()) else { return };
    let left = Member::start(Kind::Server, &etcd, FLAGS).expect("etcd starts");
    let right = Member::start(Kind::Server, &kvorum, FLAGS).expect("the server under test starts");
    let mut sides = [&left, &right].map(|member| Side::new(vec![raw::channel(member.url())]));
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for (number, (turn, caller, step)) in history(seed(), steps()).into_iter().enumerate() {
        let [left, right] = &mut sides;
        let (one, other) = (left.ask(turn, caller, &step).await, right.ask(turn, caller, &step).await);
        assert_eq!(one, other, "seed {}, step {number}: {caller:?} asks {step:?}", seed());
        let kind = if one.contains("etcdserver:") { one } else { "answered".to_owned() };
        *kinds.entry(kind).or_default() += 1;
    }
    println!("seed {}: {kinds:#?}", seed());
    for text in ["permission denied", "revision of auth store", "invalid auth token", "user name is empty"] {
        assert!(text == "revision of auth store" || kinds.keys().any(|kind| kind.contains(text)), "{text} never came");
    }
}

/// Each step goes to the next member, whose kind differs; tokens are shown where they were not handed out.
#[tokio::test]
async fn members_of_both_kinds_hold_the_same_users_roles_and_permissions() {
    let Some(kvorum) = tools::or_skip(tools::server_under_test()) else { return };
    let Some(etcd) = tools::or_skip(tools::etcd()) else { return };
    let (kvorum, etcd) = (Program::new("kvorum", &kvorum), Program::new("etcd", &etcd));
    let cluster = Cluster::found(&[&etcd, &kvorum, &kvorum], FLAGS).await;
    let mut side = Side::new(cluster.nodes.iter().map(|node| node.channel.clone()).collect());
    for (turn, caller, step) in history(seed(), steps() / 4) {
        side.ask(turn, caller, &step).await;
    }
    // A login through each member is good at each other one, once that one has heard of it: a token names the entry that
    // was applied before it, so a member of either kind may be asked too early.
    let members = cluster.nodes.len() as u64;
    side.ask(0, Some("root"), &Step::Password("root", "x")).await;
    side.ask(0, None, &Step::Enable).await;
    for through in 0..members {
        assert_eq!(side.ask(through, None, &Step::Login("root", "x")).await, "a token");
        for at in 0..members {
            let listed = until(async || {
                let listed = side.ask(at, Some("root"), &Step::UserList).await;
                if listed.contains("\"root\"") { Ok(()) } else { Err(Status::unauthenticated(listed)) }
            });
            listed.await.unwrap_or_else(|refusal| panic!("through {through}, at {at}: {}", refusal.message()));
        }
    }
    side.ask(1, Some("root"), &Step::Disable).await;
    let (revision, hash) = cluster.settle().await;
    let mut all = Vec::new();
    for (at, node) in (0..).zip(&cluster.nodes) {
        let mut lines = vec![side.ask(at, None, &Step::AuthStatus).await, side.ask(at, None, &Step::UserList).await];
        for (user, role) in USERS.iter().zip(ROLES) {
            lines.push(side.ask(at, None, &Step::UserGet(user)).await);
            lines.push(side.ask(at, None, &Step::RoleGet(role)).await);
        }
        // Over every bucket, those of users and roles among them, byte for byte.
        let hashed = until(async || node.maintenance().hash(pb::HashRequest {}).await).await.expect("a hash");
        lines.push(format!("{:x}", hashed.into_inner().hash));
        all.push(lines);
    }
    println!("revision {revision} hash {hash}: {:#?}", all[0]);
    assert!(all.iter().all(|lines| *lines == all[0]), "{all:#?}");
}
