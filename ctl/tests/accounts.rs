//! What a restored snapshot, and a member that starts from another one's database, must know besides keys: users with their
//! passwords, roles, leases, alarms. Between Kvorum and etcd, in both directions.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kvorum_api::authpb;
use kvorum_client::{Client, Config, EtcdError, Permission};
use kvorum_interop::process::{Kind, Member, Place};
use kvorum_interop::tools;
use support::{fill, kvorumutl, succeed, text};

const ROOT: (&str, &str) = ("root", "of root");
const READER: (&str, &str) = ("ann", "of ann");

/// How long a learner may take to catch up.
const CATCH_UP: Duration = Duration::from_secs(60);

/// What must be the same, asked with the rights of root.
#[derive(Debug, PartialEq)]
struct Holdings {
    /// With their roles.
    users: Vec<(String, Vec<String>)>,
    roles: Vec<(String, Vec<authpb::Permission>)>,
    is_enabled: bool,
    auth_revision: u64,
    /// Id, granted TTL, keys.
    leases: Vec<(i64, i64, usize)>,
    alarms: Vec<(u64, i32)>,
    /// Hash, the revision it is of, and the compact revision.
    hash: (u32, i64, i64),
}

async fn login(member: &Member, (user, password): (&str, &str)) -> Client {
    let config = Config::new([member.url()]).user(user, password);
    Client::connect_with(config).await.expect("the member answers")
}

async fn holdings(member: &Member) -> Holdings {
    let client = login(member, ROOT).await;
    // Linearizable: a joiner has then applied what others acknowledged.
    client.get("last").await.expect("a read");
    let auth = client.auth();
    let (mut users, mut roles, mut leases) = (Vec::new(), Vec::new(), Vec::new());
    for user in auth.users().await.expect("users").users {
        let roles = auth.user(&user).await.expect("a user").roles;
        users.push((user, roles));
    }
    for role in auth.roles().await.expect("roles").roles {
        let permissions = auth.role(&role).await.expect("a role").perm;
        roles.push((role, permissions));
    }
    for lease in client.lease().leases().await.expect("leases").leases {
        let times = client.lease().time_to_live(lease.id).with_keys().await.expect("a lease");
        leases.push((lease.id, times.granted_ttl, times.keys.len()));
    }
    leases.sort_unstable();
    let status = auth.status().await.expect("the state of authentication");
    let alarms = client.maintenance().alarms().await.expect("alarms").alarms;
    let hash = client.maintenance().hash_kv(0).await.expect("a hash");
    Holdings {
        users,
        roles,
        is_enabled: status.enabled,
        auth_revision: status.auth_revision,
        leases,
        alarms: alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect(),
        hash: (hash.hash, hash.hash_revision, hash.compact_revision),
    }
}

/// Users with and without passwords, roles with and without permissions, one user whose role is gone.
async fn add_accounts(member: &Member) {
    let client = Client::connect([member.url()]).await.expect("the member answers");
    let auth = client.auth();
    for role in ["root", "reader", "nothing", "gone"] {
        auth.add_role(role).await.expect("a role");
    }
    auth.grant_permission("reader", Permission::read("key/").prefix()).await.expect("a permission");
    auth.grant_permission("reader", Permission::write("key/0001")).await.expect("a permission");
    auth.grant_permission("gone", Permission::read_write("z").from_key()).await.expect("a permission");
    auth.add_user(ROOT.0, ROOT.1).await.expect("a user");
    auth.add_user(READER.0, READER.1).await.expect("a user");
    auth.add_user_without_password("machine").await.expect("a user");
    for (user, role) in [("root", "root"), ("ann", "reader"), ("ann", "gone"), ("machine", "nothing")] {
        auth.grant_role(user, role).await.expect("a role is given");
    }
    auth.delete_role("gone").await.expect("a role can go");
    auth.enable().await.expect("authentication is enabled");
}

/// Passwords and permissions count as before.
async fn assert_enforced(member: &Member) {
    let reader = login(member, READER).await;
    assert_eq!(reader.get("key/0002").await.expect("it may read").kvs.len(), 1);
    let refused = reader.get("last").await.expect_err("it may not read that");
    assert!(refused.is(EtcdError::PermissionDenied), "{refused}");
    let wrong = reader.auth().authenticate(READER.0, ROOT.1).await.expect_err("another's password");
    assert!(wrong.is(EtcdError::AuthFailed), "{wrong}");
}

struct Side {
    server: PathBuf,
    tool: PathBuf,
}

fn sides() -> Option<[Side; 2]> {
    let tool = tools::or_skip(tools::released("etcdutl"))?;
    let theirs = Side { server: tools::or_skip(tools::etcd())?, tool };
    Some([theirs, Side { server: tools::or_skip(tools::server_under_test())?, tool: kvorumutl().to_owned() }])
}

fn restored(side: &Side, file: &Path) -> Member {
    let mut member = Member::prepare(Kind::Server, &side.server, &[]).expect("a folder");
    let data = member.folder().join("data");
    let peer_url = member.peer_url().to_owned();
    let cluster = format!("default={peer_url}");
    let arguments = ["snapshot", "restore", text(file), "--data-dir", text(&data), "--initial-cluster", &cluster];
    succeed(&side.tool, &[&arguments[..], &["--initial-advertise-peer-urls", &peer_url]].concat());
    member.restart().expect("the restored member starts");
    member
}

async fn save(member: &Member, path: &Path) {
    let mut snapshot = login(member, ROOT).await.maintenance().snapshot().await.expect("a snapshot");
    let mut contents = Vec::new();
    while let Some(piece) = snapshot.next().await.expect("it goes on") {
        contents.extend_from_slice(&piece);
    }
    std::fs::write(path, contents).expect("it can be written");
}

/// A restored log begins behind its snapshot: whoever joins must be given the database.
async fn joined(member: &Member, side: &Side) -> Member {
    let client = login(member, ROOT).await;
    let mut joiner = Member::prepare(Kind::Server, &side.server, &[]).expect("a folder");
    let added = client.cluster().add_learner([joiner.peer_url()]).await.expect("a learner is taken in");
    let id = added.member.expect("the answer has it").id;
    let initial_cluster = format!("default={},joiner={}", member.peer_url(), joiner.peer_url());
    joiner.set_place(Place { name: "joiner".to_owned(), initial_cluster, existing: true });
    let began = Instant::now();
    let started = tokio::task::spawn_blocking(move || joiner.restart().map(|()| joiner));
    let joiner = started.await.expect("no panic").expect("the joiner starts");
    while let Err(error) = client.cluster().promote(id).await {
        assert!(began.elapsed() < CATCH_UP, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    joiner
}

async fn from(source: &Side, sides: &[Side; 2]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("saved.db");
    let member = Member::start(Kind::Server, &source.server, &[]).expect("it starts");
    fill(&member).await;
    add_accounts(&member).await;
    let expected = holdings(&member).await;
    assert_eq!((expected.users.len(), expected.roles.len(), expected.is_enabled), (3, 3, true));
    assert_eq!((expected.leases.len(), expected.alarms.len()), (1, 1));
    save(&member, &file).await;
    drop(member);
    for (target, other) in [(&sides[0], &sides[1]), (&sides[1], &sides[0])] {
        let what = format!("{} into {}", source.server.display(), target.server.display());
        let member = restored(target, &file);
        assert_eq!(holdings(&member).await, expected, "{what}");
        assert_enforced(&member).await;
        let joiner = joined(&member, other).await;
        assert_eq!(holdings(&joiner).await, expected, "{what}, joined by {}", other.server.display());
        assert_enforced(&joiner).await;
    }
}

#[tokio::test]
async fn users_roles_leases_and_alarms_of_etcds_snapshot() {
    let Some(sides) = sides() else { return };
    from(&sides[0], &sides).await;
}

#[tokio::test]
async fn users_roles_leases_and_alarms_of_our_snapshot() {
    let Some(sides) = sides() else { return };
    from(&sides[1], &sides).await;
}
