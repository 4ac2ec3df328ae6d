//! Clusters of several members, of Kvorum and of etcd 3.7, each a process: a leader that dies, a member without one, changes of members.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kvorum_client::{Client, Config, ErrorKind, EtcdError, EventExt, Header};
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;
use tokio::time::Instant;

use crate::world::soon;

/// What the members are.
#[derive(Clone, Copy)]
enum Server {
    Kvorum,
    Etcd,
}

/// Makes one test for each kind of member of every function named.
macro_rules! on_clusters {
    ($($case:ident),* $(,)?) => {
        $(mod $case {
            use super::Server;

            #[tokio::test]
            async fn kvorum() {
                super::on(Server::Kvorum, super::$case).await;
            }

            #[tokio::test]
            async fn etcd() {
                super::on(Server::Etcd, super::$case).await;
            }
        })*
    };
}

on_clusters!(
    the_leader_is_killed,
    a_follower_dies_and_calls_go_on_at_once,
    a_member_without_a_leader_is_left,
    a_paused_leader_is_survived,
    members_come_and_go,
    the_leader_is_moved,
);

/// Runs a test within a time, which begins once the program is built.
async fn on<F: Future<Output = ()>>(server: Server, test: impl FnOnce(Server) -> F) {
    if tools::or_skip(server.binary()).is_some() {
        soon(test(server)).await;
    }
}

impl Server {
    fn binary(self) -> Result<PathBuf, String> {
        match self {
            Server::Kvorum => tools::server_under_test(),
            Server::Etcd => tools::released("etcd"),
        }
    }
}

/// A leader is missed sooner than by default, and late enough for a busy machine.
const QUICK_FLAGS: &[&str] = &["--heartbeat-interval=50", "--election-timeout=500"];

struct Cluster {
    members: Vec<Member>,
}

impl Cluster {
    /// Starts members that elect a leader; None when there is no such program, which was printed.
    fn start(server: Server, size: usize) -> Option<Cluster> {
        let binary = tools::or_skip(server.binary())?;
        let peers: Vec<String> = (0..size).map(|_| free_url()).collect();
        let named: Vec<String> = peers.iter().enumerate().map(|(number, url)| format!("m{number}={url}")).collect();
        let initial = format!("--initial-cluster={}", named.join(","));
        let starting: Vec<_> = peers
            .into_iter()
            .enumerate()
            .map(|(number, peer)| {
                let (binary, initial) = (binary.clone(), initial.clone());
                // Of flags given twice the last counts.
                std::thread::spawn(move || {
                    let name = format!("--name=m{number}");
                    let listen = format!("--listen-peer-urls={peer}");
                    let advertise = format!("--initial-advertise-peer-urls={peer}");
                    let flags = [&[&name[..], &listen, &advertise, &initial], QUICK_FLAGS].concat();
                    Member::start(Kind::Server, &binary, &flags).unwrap()
                })
            })
            .collect();
        Some(Cluster { members: starting.into_iter().map(|thread| thread.join().unwrap()).collect() })
    }

    fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.url().to_owned()).collect()
    }

    /// Which member leads.
    async fn leader(&self, client: &Client) -> usize {
        for (number, url) in self.urls().iter().enumerate() {
            let status = client.maintenance().at(url).status().await.unwrap();
            if status.leader == status.header().member_id {
                return number;
            }
        }
        panic!("nobody leads");
    }
}

fn free_url() -> String {
    format!("http://127.0.0.1:{}", kvorum_interop::ports::free_port())
}

/// Every write that was acknowledged is seen once, in order, over the death of the leader.
async fn the_leader_is_killed(server: Server) {
    let Some(mut cluster) = Cluster::start(server, 3) else { return };
    let client = Client::connect(cluster.urls()).await.unwrap();
    let mut watch = client.watch("a").await.unwrap();
    let guard = client.lease().hold(10).await.unwrap();
    let leader = cluster.leader(&client).await;
    let mut acknowledged = Vec::new();
    for round in 0..60 {
        if round == 20 {
            cluster.members[leader].kill();
        }
        match client.put("a", round.to_string()).await {
            Ok(response) => acknowledged.push(response.revision()),
            Err(error) => assert!(error.is_transient() && round >= 20, "{error:?}"),
        }
        // Reads are repeated until somebody answers.
        client.with_timeout(crate::world::LONG).get("a").await.unwrap();
    }
    let last = *acknowledged.last().unwrap();
    let mut seen: Vec<i64> = Vec::new();
    soon(async {
        while seen.last() != Some(&last) {
            seen.extend(watch.next().await.unwrap().unwrap().events.iter().map(EventExt::revision));
        }
    })
    .await;
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "nothing is repeated");
    assert!(acknowledged.iter().all(|revision| seen.contains(revision)), "nothing is lost");
    assert!(!guard.is_lost());
}

/// The time until the first success after the member that is connected died, of one client of all members.
async fn a_follower_dies_and_calls_go_on_at_once(server: Server) {
    let Some(mut cluster) = Cluster::start(server, 3) else { return };
    let client = Client::connect(cluster.urls()).await.unwrap();
    let leader = cluster.leader(&client).await;
    client.put("a", "1").await.unwrap();
    cluster.members[(leader + 1) % 3].kill();
    let began = Instant::now();
    client.get("a").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // Of the writes, at most those that were on their way are in doubt.
    for _ in 0..10 {
        client.put("a", "2").await.unwrap();
    }
}

async fn a_member_without_a_leader_is_left(server: Server) {
    let Some(mut lonely) = Cluster::start(server, 2) else { return };
    let Some(healthy) = Cluster::start(server, 1) else { return };
    let alone = Client::connect([lonely.members[0].url()]).await.unwrap();
    alone.put("a", "lonely").await.unwrap();
    lonely.members[1].kill();
    // It says so at once, but for what needs no leader.
    let error = soon(async {
        loop {
            if let Err(error) = alone.with_timeout(Duration::from_secs(1)).get("a").await {
                break error;
            }
        }
    })
    .await;
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(alone.get("a").serializable().await.unwrap().kvs[0].value, "lonely");
    soon(async {
        loop {
            let error = alone.with_timeout(Duration::from_secs(1)).put("a", "1").await.unwrap_err();
            if error.is(EtcdError::NoLeader) {
                assert!(error.is_safe_to_retry() && !error.maybe_applied());
                break;
            }
        }
    })
    .await;
    // With another endpoint every call succeeds, writes too: the refusal says that nothing was done.
    let endpoints = [lonely.members[0].url(), healthy.members[0].url()];
    let config = Config::new(endpoints).request_timeout(Duration::from_secs(3));
    let both = Client::connect_with(config).await.unwrap();
    for endpoint in both.endpoints() {
        both.maintenance().at(&endpoint).status().await.unwrap();
    }
    for _ in 0..20 {
        both.put("a", "healthy").await.unwrap();
        assert_eq!(both.get("a").await.unwrap().kvs[0].value, "healthy");
    }
    let mut watch = both.watch("a").await.unwrap();
    both.put("a", "again").await.unwrap();
    assert!(watch.next().await.unwrap().is_ok());
}

async fn a_paused_leader_is_survived(server: Server) {
    let Some(cluster) = Cluster::start(server, 3) else { return };
    let client = Client::connect(cluster.urls()).await.unwrap();
    client.put("a", "1").await.unwrap();
    let leader = cluster.leader(&client).await;
    let process = cluster.members[leader].process_id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &process]).status().unwrap().success());
    signal("-STOP");
    // The socket lives, and nobody answers.
    soon(async { while client.with_timeout(Duration::from_secs(2)).put("a", "2").await.is_err() {} }).await;
    for _ in 0..5 {
        client.get("a").await.unwrap();
    }
    signal("-CONT");
}

/// etcd refuses changes of members while it takes the cluster for unhealthy, as it does at first.
async fn settled<T, F: Future<Output = kvorum_client::Result<T>>>(call: impl Fn() -> F) -> kvorum_client::Result<T> {
    loop {
        match call().await {
            Err(error) if error.is(EtcdError::Unhealthy) => {}
            outcome => return outcome,
        }
    }
}

async fn members_come_and_go(server: Server) {
    let Some(cluster) = Cluster::start(server, 3) else { return };
    let client = Client::connect([cluster.members[0].url()]).await.unwrap();
    client.cluster().sync_endpoints().await.unwrap();
    assert_eq!(client.endpoints().len(), 3);
    let url = free_url();
    let cluster_calls = client.cluster();
    let added = settled(|| cluster_calls.add_learner([&url])).await.unwrap().member.unwrap();
    assert!(added.is_learner && added.name.is_empty());
    let error = settled(|| cluster_calls.promote(added.id)).await.unwrap_err();
    assert!(error.is(EtcdError::LearnerNotReady), "{error:?}");
    // Which reason comes first depends on the version.
    let error = settled(|| cluster_calls.add_learner([&url])).await.unwrap_err();
    let reasons = [EtcdError::PeerURLExist, EtcdError::TooManyLearners, EtcdError::MemberExist];
    assert!(reasons.into_iter().any(|reason| error.is(reason)), "{error:?}");
    let moved = free_url();
    settled(|| cluster_calls.update(added.id, [&moved])).await.unwrap();
    let members = client.cluster().members().await.unwrap().members;
    assert!(members.iter().any(|member| member.id == added.id && member.peer_urls == [moved.clone()]));
    // A member that never started is no endpoint.
    client.cluster().sync_endpoints().await.unwrap();
    assert_eq!(client.endpoints().len(), 3);
    settled(|| cluster_calls.remove(added.id)).await.unwrap();
    let error = settled(|| cluster_calls.remove(4711)).await.unwrap_err();
    assert!(error.is(EtcdError::MemberNotFound), "{error:?}");
    assert_eq!(client.cluster().members().await.unwrap().members.len(), 3);
}

async fn the_leader_is_moved(server: Server) {
    let Some(cluster) = Cluster::start(server, 3) else { return };
    let client = Client::connect(cluster.urls()).await.unwrap();
    let leader = cluster.leader(&client).await;
    let urls = cluster.urls();
    let other = &urls[(leader + 1) % 3];
    let target = client.maintenance().at(other).status().await.unwrap().header().member_id;
    let error = client.maintenance().at(other).move_leader(target).await.unwrap_err();
    assert!(error.is(EtcdError::NotLeader), "{error:?}");
    client.maintenance().at(&urls[leader]).move_leader(target).await.unwrap();
    assert_eq!(cluster.leader(&client).await, (leader + 1) % 3);
    client.put("a", "1").await.unwrap();
}

#[tokio::test]
async fn an_old_cluster_is_rejected_when_asked() {
    for binary in [tools::released("etcd"), tools::installed_etcd()] {
        let Some(binary) = tools::or_skip(binary) else { continue };
        let member = Member::start(Kind::Server, &binary, &[]).unwrap();
        let client = Client::connect([member.url()]).await.unwrap();
        let version = client.maintenance().status().await.unwrap().version;
        let outcome = Client::connect_with(Config::new([member.url()]).reject_old_cluster()).await;
        if version.starts_with("3.4.") || version.starts_with("3.5.") {
            assert_eq!(outcome.err().unwrap().kind(), ErrorKind::Configuration);
        } else {
            outcome.unwrap();
        }
    }
}
