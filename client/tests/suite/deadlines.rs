//! Every public future, one by one: it ends in time against an endpoint that accepts and never answers, and disturbs nobody
//! when it is dropped half way.

use std::time::Duration;

use kvorum_client::recipes::election::{Election, Leadership};
use kvorum_client::recipes::listing::list_then_watch;
use kvorum_client::recipes::mirror::Mirror;
use kvorum_client::recipes::mutex::{Mutex, MutexGuard};
use kvorum_client::recipes::session::Session;
use kvorum_client::recipes::stm::{Isolation, transact};
use kvorum_client::response::{AlarmMember, AlarmType};
use kvorum_client::transport::BoxFuture;
use kvorum_client::{
    Client, Config, Connection, Error, ErrorKind, EventExt, Get, Header, LeaseGuard, Permission, Put, Watch,
};
use tokio::time::{Instant, timeout};

use crate::watch::for_a_few_polls;
use crate::world::{LONG, Mode, World, soon, tests_on};

tests_on!(crate::world::CURRENT => every_future_ends_when_nothing_answers, a_dropped_future_disturbs_nobody);

/// What each call may take.
const SHORT: Duration = Duration::from_millis(700);

/// What a busy machine may add to it.
const LATE: Duration = Duration::from_secs(5);

/// What is had before the calls, some of which give it back.
struct Held<'a> {
    lock: MutexGuard<'a>,
    leaderships: [Leadership<'a>; 2],
    lease: LeaseGuard,
    session: Session,
}

impl<'a> Held<'a> {
    async fn take(client: &Client, session: &'a Session) -> Self {
        let lead = async |name: &str| again(async || Election::new(client, name).campaign(session, "one").await).await;
        Self {
            lock: again(async || Mutex::new(session, "held").lock().await).await,
            leaderships: [lead("led").await, lead("also led").await],
            lease: again(async || client.lease().hold(60).await).await,
            session: again(async || Session::new(client, 60).await).await,
        }
    }
}

/// On a busy machine a call may take longer than it may.
async fn again<T>(call: impl AsyncFn() -> Result<T, Error>) -> T {
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
}

type Calls<'a> = Vec<(&'static str, BoxFuture<'a, Result<(), Error>>)>;

/// Futures by the file of their module and their name.
macro_rules! calls {
    ($($name:literal => $call:expr),* $(,)?) => {
        vec![$(($name, Box::pin(async move { $call.await.map(drop).map_err(Error::from) }) as BoxFuture<'_, _>)),*]
    };
}

/// All there are, with arguments that do no harm where they reach a server.
fn calls<'a>(client: &'a Client, session: &'a Session, held: Held<'a>, config: &'a Config, url: &'a str) -> Calls<'a> {
    let Held { lock, leaderships, lease, session: other } = held;
    let mut all = of_connections(client, config);
    all.extend(of_keys(client));
    all.extend(of_leases(client, lease));
    all.extend(of_operators(client, url));
    all.extend(of_users(client));
    all.extend(of_recipes(client));
    all.extend(of_sessions(client, session, other, lock, leaderships));
    all
}

fn of_connections<'a>(client: &'a Client, config: &'a Config) -> Calls<'a> {
    let connection = client.connection();
    calls![
        "client::connect_with" => Client::connect_with(config.clone()),
        "connection::open" => Connection::open(config.clone()),
        "connection::ready" => connection.ready(),
        "connection::log_in" => async {
            let user = Connection::lazy(config.clone().user("nobody", "secret"))?;
            user.log_in().await
        },
    ]
}

fn of_keys(client: &Client) -> Calls<'_> {
    let kv = client.kv();
    calls![
        "get::Get" => client.get("a"),
        "write::Put" => client.put("a", "1"),
        "write::Delete" => client.delete("b"),
        "write::Compact" => client.compact(1).physical(),
        "txn::Txn" => client.txn().then(Put::new("a", "1")),
        "mod::perform" => kv.perform(Get::new("a")),
        "pages::next" => async { client.get("a").prefix().pages(1).next().await.expect("a page or an error") },
        "pages::next of Chunks" => async { client.get("a").prefix().stream().next().await.expect("a piece or an error") },
        "watcher::WatchRequest" => client.watch("a"),
    ]
}

fn of_leases(client: &Client, held: LeaseGuard) -> Calls<'_> {
    let lease = client.lease();
    calls![
        "lease::Grant" => lease.grant(60),
        "lease::TimeToLive" => lease.time_to_live(7).with_keys(),
        "lease::revoke" => lease.revoke(7),
        "lease::leases" => lease.leases(),
        "lease::keep_alive_once" => lease.keep_alive_once(7),
        "lease::next" => async { lease.keep_alive(7).next().await.expect("an answer or an end") },
        "guard::Hold" => lease.hold(60),
        "guard::revoke" => held.revoke(),
    ]
}

fn of_operators<'a>(client: &'a Client, url: &'a str) -> Calls<'a> {
    let (cluster, maintenance) = (client.cluster(), client.maintenance());
    calls![
        "cluster::MemberList" => cluster.members(),
        "cluster::MemberList, serializable" => cluster.members().serializable(),
        "cluster::add" => cluster.add(["nonsense"]),
        "cluster::add_learner" => cluster.add_learner(["nonsense"]),
        "cluster::remove" => cluster.remove(1),
        "cluster::update" => cluster.update(1, ["http://127.0.0.1:1"]),
        "cluster::promote" => cluster.promote(1),
        "cluster::sync_endpoints" => cluster.sync_endpoints(),
        "maintenance::status" => maintenance.status(),
        "maintenance::status at an endpoint" => async { maintenance.at(url).status().await },
        "maintenance::alarms" => maintenance.alarms(),
        "maintenance::raise_alarm" => maintenance.raise_alarm(1, AlarmType::None),
        "maintenance::disarm" => maintenance.disarm(AlarmMember { member_id: 1, alarm: AlarmType::Corrupt.into() }),
        "maintenance::disarm of all" => maintenance.disarm(AlarmMember::default()),
        "maintenance::defragment" => maintenance.defragment(),
        "maintenance::hash" => maintenance.hash(),
        "maintenance::hash_kv" => maintenance.hash_kv(0),
        "maintenance::move_leader" => maintenance.move_leader(1),
        "maintenance::validate_downgrade" => maintenance.validate_downgrade("3.6"),
        "maintenance::enable_downgrade" => maintenance.enable_downgrade("3.1"),
        "maintenance::cancel_downgrade" => maintenance.cancel_downgrade(),
        "maintenance::snapshot" => maintenance.snapshot(),
        "maintenance::next" => async {
            let mut snapshot = maintenance.snapshot().await?;
            while snapshot.next().await?.is_some() {}
            Ok::<_, Error>(())
        },
    ]
}

fn of_users(client: &Client) -> Calls<'_> {
    let auth = client.auth();
    calls![
        "auth::enable" => auth.enable(),
        "auth::disable" => auth.disable(),
        "auth::status" => auth.status(),
        "auth::authenticate" => auth.authenticate("nobody", "secret"),
        "auth::add_user" => auth.add_user("somebody", "secret"),
        "auth::add_user_without_password" => auth.add_user_without_password("somebody"),
        "auth::user" => auth.user("somebody"),
        "auth::users" => auth.users(),
        "auth::delete_user" => auth.delete_user("nobody"),
        "auth::change_password" => auth.change_password("nobody", "secret"),
        "auth::grant_role" => auth.grant_role("nobody", "role"),
        "auth::revoke_role" => auth.revoke_role("nobody", "role"),
        "auth::add_role" => auth.add_role("role"),
        "auth::role" => auth.role("role"),
        "auth::roles" => auth.roles(),
        "auth::delete_role" => auth.delete_role("none"),
        "auth::grant_permission" => auth.grant_permission("role", Permission::read("a")),
        "auth::revoke_permission" => auth.revoke_permission("role", Permission::read("a")),
    ]
}

fn of_recipes(client: &Client) -> Calls<'_> {
    calls![
        "session::new" => Session::new(client, 60),
        "election::leader" => async { Election::new(client, "led").leader().await },
        "election::next" => async { Election::new(client, "led").observe().next().await },
        "election::next_with_header" => async { Election::new(client, "led").observe().next_with_header().await },
        "stm::transact" => transact(client, Isolation::default(), |stm| async move { stm.put("a", "1"); Ok(()) }),
        "stm::get" => transact(client, Isolation::default(), |stm| async move { stm.get("a").await }),
        "stm::mod_revision" => transact(client, Isolation::default(), |stm| async move { stm.mod_revision("a").await }),
        "mirror::begin" => Mirror::begin(client, "a"),
        "mirror::updates" => async { Mirror::at_revision(client, "a", 1).updates().await },
        "listing::next" => async { list_then_watch(client, "a").next().await.expect("an update or an error") },
    ]
}

fn of_sessions<'a>(
    client: &'a Client,
    session: &'a Session,
    other: Session,
    lock: MutexGuard<'a>,
    [leadership, resigning]: [Leadership<'a>; 2],
) -> Calls<'a> {
    calls![
        "session::close" => other.close(),
        "mutex::lock" => async { Mutex::new(session, "lock").lock().await },
        "mutex::try_lock" => async { Mutex::new(session, "try").try_lock().await },
        "mutex::unlock" => lock.unlock(),
        "election::campaign" => async { Election::new(client, "election").campaign(session, "x").await },
        "election::proclaim" => async { leadership.proclaim("two").await },
        "election::resign" => resigning.resign(),
    ]
}

/// What has no end by design.
const ENDLESS: [&str; 5] = ["watcher::next", "guard::lost", "session::lost", "mutex::lost", "election::lost"];

/// What is another future with other words.
const THE_SAME: [&str; 1] = ["client::connect"];

/// Nothing that can be awaited is missing from the tables above.
#[test]
fn every_public_future_is_in_the_tables() {
    macro_rules! sources {
        ($($path:literal),* $(,)?) => {
            [$(($path, include_str!(concat!("../../src/", $path)))),*]
        };
    }
    let sources = sources![
        "auth.rs",
        "client.rs",
        "cluster.rs",
        "connection.rs",
        "kv/get.rs",
        "kv/mod.rs",
        "kv/pages.rs",
        "kv/txn.rs",
        "kv/write.rs",
        "lease/guard.rs",
        "lease/mod.rs",
        "maintenance.rs",
        "recipes/election.rs",
        "recipes/listing.rs",
        "recipes/mirror.rs",
        "recipes/mutex.rs",
        "recipes/session.rs",
        "recipes/stm.rs",
        "watcher/mod.rs",
    ];
    let mut missing = Vec::new();
    for (path, source) in sources {
        let module = match path {
            "lease/mod.rs" => "lease",
            "watcher/mod.rs" => "watcher",
            path => path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).unwrap(),
        };
        for line in source.lines() {
            let line = line.trim_start();
            let name = line.strip_prefix("pub async fn ").or_else(|| line.strip_prefix("impl IntoFuture for "));
            let Some(name) = name else { continue };
            let name = name.split(['(', '<', ' ']).next().unwrap();
            let name = format!("{module}::{name}");
            let is_in_a_table = include_str!("deadlines.rs").contains(&format!("\"{name}\" => "));
            if !is_in_a_table && !ENDLESS.contains(&&*name) && !THE_SAME.contains(&&*name) {
                missing.push(name);
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

async fn every_future_ends_when_nothing_answers(world: World) {
    let client = world.client.with_timeout(SHORT);
    let mut watch_at_rest = world.client.watch("rest").await.unwrap();
    let lasting = again(async || Session::new(&client, 60).await).await;
    let config = world.config().dial_timeout(SHORT).request_timeout(SHORT);
    let url = world.proxy.url();
    for mode in [Mode::SwallowAnswers, Mode::Swallow] {
        let held = Held::take(&client, &lasting).await;
        let calls = calls(&client, &lasting, held, &config, &url);
        world.proxy.set(mode);
        let timed = calls.into_iter().map(async |(name, call)| {
            let began = Instant::now();
            let outcome = timeout(LONG / 2, call).await.unwrap_or_else(|_| panic!("{name} never ends"));
            (name, began.elapsed(), outcome)
        });
        for (name, took, outcome) in futures_util::future::join_all(timed).await {
            assert!(took < SHORT + LATE, "{name} took {took:?}");
            match outcome {
                // Or what the first to reach its deadline did to the connection.
                Err(error) => {
                    assert!(error.is_transient() || error.kind() == ErrorKind::LeaseLost, "{name}: {error:?}")
                }
                // It was connected before.
                Ok(()) => assert_eq!(name, "connection::ready"),
            }
        }
        // And it goes on as if nothing had been.
        world.proxy.set(Mode::Pass);
        let revision = world.client.with_timeout(LONG).put("rest", "1").await.unwrap().revision();
        until(&mut watch_at_rest, revision).await;
    }
    assert!(!lasting.is_lost());
}

/// Reads events up to a revision, each of which comes once.
async fn until(watch: &mut Watch, revision: i64) {
    let mut last = 0;
    while last < revision {
        for event in watch.next().await.unwrap().unwrap().events {
            assert!(event.revision() > last, "{} after {last}", event.revision());
            last = event.revision();
        }
    }
    assert_eq!(last, revision);
}

/// After none, one or a few steps, and after a moment in which something came back.
async fn a_dropped_future_disturbs_nobody(world: World) {
    let client = &world.client;
    let mut watch = client.watch("kept").await.unwrap();
    let kept = client.lease().hold(60).await.unwrap();
    let lasting = Session::new(client, 60).await.unwrap();
    let url = world.direct_url();
    let config = world.config();
    for round in 0..8_u64 {
        let held = Held::take(client, &lasting).await;
        for (_, call) in calls(client, &lasting, held, &config, &url) {
            match round {
                0..5 => for_a_few_polls(call, usize::try_from(round).unwrap()).await,
                _ => drop(timeout(Duration::from_millis(round - 4), call).await),
            }
        }
        let revision = client.put("kept", round.to_string()).await.unwrap().revision();
        soon(until(&mut watch, revision)).await;
        let mut made = client.watch("made").await.unwrap();
        let revision = client.put("made", "").await.unwrap().revision();
        soon(until(&mut made, revision)).await;
        let granted = client.lease().grant(60).await.unwrap();
        soon(client.lease().keep_alive(granted.id).next()).await.unwrap().unwrap();
    }
    assert!(!kept.is_lost() && !lasting.is_lost());
}
