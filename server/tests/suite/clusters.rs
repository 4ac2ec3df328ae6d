//! Clusters of several members in one process.

use std::cell::Cell;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join_all;
use kvorum_server::config::ClusterState;
use kvorum_server::start::{StartError, begin};
use tempfile::TempDir;

use super::raw::http1;
use super::*;

/// Members with short ticks, each in its own folder; `None` while it is stopped.
pub struct Cluster {
    pub folders: Vec<TempDir>,
    peer_urls: Vec<Url>,
    pub members: Vec<Option<Half>>,
    adjust: fn(&mut Config),
}

/// Others must know a port before its owner listens: so it lies below those that the system gives to connections.
fn free_url() -> Url {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(311).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + number % 20_000;
        let free = url(&format!("http://127.0.0.1:{port}"));
        if TcpListener::bind(free.host_port()).is_ok() {
            return free;
        }
    }
}

impl Cluster {
    pub async fn start(count: usize, adjust: fn(&mut Config)) -> Self {
        let mut cluster = Self {
            folders: (0..count).map(|_| folder()).collect(),
            peer_urls: (0..count).map(|_| free_url()).collect(),
            members: (0..count).map(|_| None).collect(),
            adjust,
        };
        let begun: Vec<Running> = (0..count).map(|index| cluster.begin(index, |_| {})).collect();
        for (index, member) in begun.into_iter().enumerate() {
            cluster.serve(index, member);
        }
        cluster
    }

    fn initial_cluster(&self) -> String {
        let pairs: Vec<String> =
            self.peer_urls.iter().enumerate().map(|(index, url)| format!("m{index}={url}")).collect();
        pairs.join(",")
    }

    fn begin(&self, index: usize, change: impl FnOnce(&mut Config)) -> Running {
        self.try_begin(index, change).expect("a member begins")
    }

    pub fn try_begin(&self, index: usize, change: impl FnOnce(&mut Config)) -> Result<Running, StartError> {
        let mut config = Config {
            name: format!("m{index}"),
            listen_peer_urls: vec![self.peer_urls[index].clone()],
            initial_advertise_peer_urls: vec![self.peer_urls[index].clone()],
            initial_cluster: self.initial_cluster(),
            strict_reconfig_check: false,
            heartbeat_interval: Duration::from_millis(20),
            election_timeout: Duration::from_millis(400),
            ..config(self.folders[index].path())
        };
        (self.adjust)(&mut config);
        change(&mut config);
        begin(&config)
    }

    pub fn serve(&mut self, index: usize, member: Running) {
        member.wait_until_ready().expect("a quorum is there");
        self.members[index] = Some(Half { client: Client::new(&member), member });
    }

    pub fn restart(&mut self, index: usize) {
        let member = self.begin(index, |_| {});
        self.serve(index, member);
    }

    pub fn stop(&mut self, index: usize) {
        stop(self.members[index].take().expect("it runs").member);
    }

    pub fn client(&self, index: usize) -> &Client {
        &self.members[index].as_ref().expect("it runs").client
    }

    pub async fn leader(&self) -> usize {
        loop {
            for (index, half) in self.members.iter().enumerate() {
                let Some(half) = half else { continue };
                let core = half.member.core();
                if core.leader() == core.config.member_id {
                    return index;
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until every member that runs has applied the same, and compares their hashes.
    pub async fn agree(&self) -> Fingerprint {
        let running: Vec<&Half> = self.members.iter().flatten().collect();
        eventually(|| {
            let applied: Vec<u64> = running.iter().map(|half| half.member.core().reader.applied_index()).collect();
            applied.windows(2).all(|pair| pair[0] == pair[1])
        })
        .await;
        let first = running[0].client.fingerprint().await;
        for half in &running[1..] {
            assert_eq!(half.client.fingerprint().await, first);
        }
        first
    }
}

/// As etcd does: whoever watches over a member wants to see that it waits for others.
#[test]
fn the_port_of_metrics_answers_before_the_cluster_is_formed() {
    run(async {
        let mut cluster = Cluster {
            folders: (0..2).map(|_| folder()).collect(),
            peer_urls: (0..2).map(|_| free_url()).collect(),
            members: vec![None, None],
            adjust: |config| config.listen_metrics_urls = vec![url("http://127.0.0.1:0")],
        };
        let waiting = cluster.begin(0, |_| {});
        let metrics_urls = waiting.metrics_urls();
        let metrics = metrics_urls[0].trim_start_matches("http://");
        let (code, _, page) = http1(metrics, "GET", "/metrics").await;
        assert_eq!(code, 200);
        assert!(page.contains("etcd_server_has_leader 0\n"), "{page}");
        let (code, _, page) = http1(metrics, "GET", "/health").await;
        assert_eq!((code, page.as_str()), (503, "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n"));
        assert_eq!(http1(metrics, "GET", "/livez").await.0, 200);
        let other = cluster.begin(1, |_| {});
        cluster.serve(0, waiting);
        cluster.serve(1, other);
        assert_eq!(http1(metrics, "GET", "/health").await.0, 200);
        // One that stops while it waits comes to its end.
        cluster.stop(0);
        cluster.stop(1);
        let waiting = cluster.begin(0, |_| {});
        let metrics_urls = waiting.metrics_urls();
        assert_eq!(http1(metrics_urls[0].trim_start_matches("http://"), "GET", "/metrics").await.0, 200);
        stop(waiting);
    });
}

#[test]
fn any_member_takes_any_request() {
    run(async {
        let cluster = Cluster::start(3, |_| {}).await;
        for index in 0..3 {
            let key = format!("key{index}");
            cluster.client(index).put(&key, "value").await;
            for reader in 0..3 {
                assert_eq!(cluster.client(reader).get(&key).await.as_deref(), Some("value"), "{index} to {reader}");
            }
        }
        let lease = cluster.client(0).grant(60).await;
        for index in 0..3 {
            let client = cluster.client(index);
            assert_eq!(client.keep_alive().await.renew(lease).await, 60);
            assert_eq!(client.keep_alive().await.renew(lease + 1).await, 0);
            let left = client.time_to_live(lease).await;
            assert!((58..=60).contains(&left.ttl), "{left:?}");
            assert_eq!(client.time_to_live(lease + 1).await.ttl, -1);
        }
        let members = cluster.client(1).cluster().member_list(pb::MemberListRequest { linearizable: true }).await;
        let names: Vec<String> =
            members.expect("a list").into_inner().members.into_iter().map(|member| member.name).collect();
        assert_eq!(names.len(), 3);
        assert!(["m0", "m1", "m2"].iter().all(|name| names.iter().any(|listed| listed == name)), "{names:?}");
        cluster.agree().await;
    });
}

#[test]
fn a_leader_that_stops_hands_over_and_catches_up_when_it_is_back() {
    run(async {
        let mut cluster = Cluster::start(3, |_| {}).await;
        cluster.client(0).put("a", "1").await;
        let leader = cluster.leader().await;
        let other = (leader + 1) % 3;
        let mut watch = cluster.client(other).watch(watch_all()).await;
        cluster.stop(leader);
        cluster.client(other).put("b", "2").await;
        assert_eq!(watch.events().await[0].kv.as_ref().expect("a put").key, "b");
        cluster.restart(leader);
        assert_eq!(cluster.client(leader).get("b").await.as_deref(), Some("2"));
        cluster.agree().await;
    });
}

#[test]
fn a_member_behind_the_log_gets_the_whole_database() {
    run(async {
        let adjust = |config: &mut Config| {
            config.snapshot_count = 50;
            config.max_wals = 1;
            config.wal_segment_bytes = 20_000;
        };
        let mut cluster = Cluster::start(3, adjust).await;
        cluster.client(0).put("before", "1").await;
        let lease = cluster.client(0).grant(600).await;
        let behind = (cluster.leader().await + 1) % 3;
        let ahead = (behind + 1) % 3;
        cluster.agree().await;
        cluster.stop(behind);
        // More than the members keep in memory of the log.
        let large = "x".repeat(200_000);
        for number in 0..100 {
            cluster.client(ahead).put(&format!("key{number}"), &large).await;
        }
        cluster.client(ahead).try_put(leased("leased", lease)).await.expect("a put");
        cluster.client(ahead).compact(50, true).await.expect("a compaction");
        cluster.restart(behind);
        cluster.agree().await;
        let snapshot = cluster.folders[behind].path().join("member/backend.1");
        assert!(snapshot.exists(), "its log was purged at the others");
        assert!(!snapshot.join("received").exists(), "the log knows of it");
        // CVE-2020-15113: what came from another member is as private as what is its own.
        super::files::check_private(&cluster.folders[behind].path().join("member"), &mut 0, &mut 0);
        assert_eq!(cluster.client(behind).time_to_live(lease).await.keys, ["leased"]);
        // It is a member like any other afterwards, also after another start.
        cluster.client(behind).put("after", "1").await;
        cluster.stop(behind);
        cluster.restart(behind);
        assert_eq!(cluster.client(behind).get("after").await.as_deref(), Some("1"));
        cluster.agree().await;
    });
}

#[test]
fn members_come_as_learners_vote_when_promoted_and_stop_when_removed() {
    run(async {
        let mut cluster = Cluster::start(3, |_| {}).await;
        cluster.client(0).put("a", "1").await;
        cluster.folders.push(folder());
        cluster.peer_urls.push(free_url());
        let request = pb::MemberAddRequest { peer_urls: vec![cluster.peer_urls[3].to_string()], is_learner: true };
        let added = cluster.client(1).cluster().member_add(request).await.expect("a change").into_inner();
        let id = added.member.expect("the new member").id;
        let taken = pb::MemberAddRequest { peer_urls: vec![cluster.peer_urls[0].to_string()], is_learner: false };
        let again = cluster.client(2).cluster().member_add(taken).await.expect_err("the URL is taken");
        assert_eq!(again.message(), "etcdserver: Peer URLs already exists");
        let member = cluster.begin(3, |config| config.initial_cluster_state = ClusterState::Existing);
        cluster.members.push(None);
        cluster.serve(3, member);
        let refused = cluster.client(3).kv().range(key_range("a")).await.expect_err("a learner");
        assert_eq!(refused.message(), "etcdserver: rpc not supported for learner");
        let serializable = pb::RangeRequest { serializable: true, ..key_range("a") };
        cluster.client(3).kv().range(serializable).await.expect("a learner serves these");
        let promote = pb::MemberPromoteRequest { id };
        let promoted = loop {
            match cluster.client(0).cluster().member_promote(promote).await {
                Ok(promoted) => break promoted.into_inner(),
                Err(status) => assert!(status.message().contains("in sync with leader"), "{status:?}"),
            }
        };
        assert!(promoted.members.iter().all(|member| !member.is_learner));
        eventually(|| !cluster.members[3].as_ref().expect("it runs").member.core().is_learner()).await;
        cluster.client(3).put("b", "2").await;
        cluster.agree().await;
        let removed = cluster.client(0).cluster().member_remove(pb::MemberRemoveRequest { id }).await;
        assert_eq!(removed.expect("a change").into_inner().members.len(), 3);
        let mut gone = cluster.members[3].take().expect("it runs").member;
        gone.wait().expect("a removed member stops without a failure");
        cluster.client(1).put("c", "3").await;
    });
}

#[test]
fn one_member_goes_on_alone_when_it_is_forced_to() {
    run(async {
        let mut cluster = Cluster::start(3, |_| {}).await;
        cluster.client(1).put("a", "1").await;
        cluster.agree().await;
        for index in 0..3 {
            // Without a quorum a stop does not wait for anybody.
            cluster.stop(index);
        }
        let alone = cluster.begin(2, |config| config.force_new_cluster = true);
        cluster.serve(2, alone);
        assert_eq!(cluster.client(2).get("a").await.as_deref(), Some("1"));
        cluster.client(2).put("b", "2").await;
        let listed = cluster.client(2).cluster().member_list(pb::MemberListRequest { linearizable: true }).await;
        assert_eq!(listed.expect("a list").into_inner().members.len(), 1);
        cluster.stop(2);
        cluster.restart(2);
        assert_eq!(cluster.client(2).get("b").await.as_deref(), Some("2"));
    });
}

#[test]
fn leadership_moves_when_asked_and_refuses_what_etcd_refuses() {
    run(async {
        let cluster = Cluster::start(3, |_| {}).await;
        let leader = cluster.leader().await;
        let other = (leader + 1) % 3;
        let id = |index: usize| cluster.members[index].as_ref().expect("it runs").member.core().config.member_id;
        let target = |target_id| pb::MoveLeaderRequest { target_id };
        let follower = cluster.client(other).maintenance().move_leader(target(id(other))).await;
        assert_eq!(follower.expect_err("a follower").message(), "etcdserver: not leader");
        let stranger = cluster.client(leader).maintenance().move_leader(target(7)).await;
        assert_eq!(stranger.expect_err("a stranger").message(), "etcdserver: bad leader transferee");
        cluster.client(leader).maintenance().move_leader(target(id(other))).await.expect("a voter");
        assert_eq!(cluster.leader().await, other);
        cluster.client(leader).put("a", "1").await;
    });
}

/// Puts through a member until it is told to end; how many there were.
async fn put_through(client: &Client, ended: &Cell<bool>) -> usize {
    let mut count = 0;
    while !ended.get() {
        client.put("a", "1").await;
        count += 1;
    }
    count
}

/// What a follower passes on while leadership changes hands is passed on again, where etcd drops it and lets its client wait.
#[test]
fn no_write_is_lost_while_leadership_moves() {
    run(async {
        let mut cluster = Cluster::start(3, |_| {}).await;
        let ended = Cell::new(false);
        let id = |index: usize| cluster.members[index].as_ref().expect("it runs").member.core().config.member_id;
        let moves = async {
            for _ in 0..40 {
                let leader = cluster.leader().await;
                let request = pb::MoveLeaderRequest { target_id: id((leader + 1) % 3) };
                let moved = cluster.client(leader).maintenance().move_leader(request).await;
                // It may have lost the leadership since.
                assert!(moved.is_ok() || cluster.leader().await != leader);
            }
            ended.set(true);
        };
        let puts = (0..12).map(|number| put_through(cluster.client(number % 3), &ended));
        let (counts, ()) = tokio::join!(join_all(puts), moves);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        // Nor when the leader stops: the others' clients need not know.
        let leader = cluster.leader().await;
        let others: Vec<Client> = (1..3).map(|step| cluster.client((leader + step) % 3).clone()).collect();
        let ended = Cell::new(false);
        let stopping = async {
            let member = cluster.members[leader].take().expect("it runs").member;
            tokio::task::spawn_blocking(|| stop(member)).await.expect("no panic");
            ended.set(true);
        };
        tokio::join!(join_all(others.iter().chain(&others).map(|client| put_through(client, &ended))), stopping);
        cluster.agree().await;
    });
}

/// Seen elsewhere: users and tokens were known to the member that they were told to, and to no other.
#[test]
fn lessons_users_and_tokens_are_every_members() {
    run(async {
        let cluster = Cluster::start(3, |config| config.bcrypt_cost = 4).await;
        cluster.client(0).add_everybody().await;
        cluster.client(1).enable_auth().await;
        let token = cluster.client(2).login("writer").await.expect("a login");
        for index in 0..3 {
            let client = cluster.client(index);
            client.put_as(&token, "k").await.expect("it may, everywhere");
            let nobody = client.try_put(put("k", "1")).await.expect_err("who is it?");
            assert_eq!(nobody.message(), "etcdserver: user name is empty", "member {index}");
            let other = client.put_as(&token, "s").await.expect_err("not its key");
            assert_eq!(other.message(), "etcdserver: permission denied", "member {index}");
        }
    });
}

/// Clients are sent elsewhere first, then whatever was proposed is answered, and only then the end comes: a put is done, or
/// was refused before anything was proposed. None is left without an answer.
#[test]
fn a_stop_answers_what_was_proposed() {
    run(async {
        const WRITERS: usize = 8;
        const PUTS_BEFORE: usize = 200;
        let mut cluster = Cluster::start(3, |_| {}).await;
        for round in 0..2 {
            // A follower passes on, the leader hands over: both have puts under way.
            let leader = cluster.leader().await;
            for index in [(leader + 1) % 3, leader] {
                let (told, mut done) = mpsc::unbounded_channel();
                let prefix = format!("{round}/{index}/");
                let writers: Vec<_> = (0..WRITERS)
                    .map(|writer| {
                        let (client, told) = (cluster.client(index).clone(), told.clone());
                        tokio::spawn(put_until_refused(client, format!("{prefix}{writer}/"), told))
                    })
                    .collect();
                for _ in 0..PUTS_BEFORE {
                    done.recv().await.expect("puts are answered");
                }
                let member = cluster.members[index].take().expect("it runs").member;
                tokio::task::spawn_blocking(move || stop(member)).await.expect("it stops");
                let mut acknowledged = 0;
                let mut refusals = Vec::new();
                for writer in writers {
                    let (count, refused) = writer.await.expect("no panic");
                    acknowledged += count;
                    refusals.push(refused);
                }
                let request = pb::RangeRequest {
                    key: prefix.clone().into(),
                    range_end: format!("{round}/{index}0").into(),
                    count_only: true,
                    ..pb::RangeRequest::default()
                };
                let other = cluster.client((index + 2) % 3);
                let count = other.kv().range(request).await.expect("two of three answer").into_inner().count;
                assert_eq!(
                    count, acknowledged,
                    "what was refused was not done, what was done was answered: {refusals:?}"
                );
                cluster.restart(index);
            }
        }
    });
}

/// Puts one key after the other; gives how many were acknowledged, and what ended it.
async fn put_until_refused(client: Client, prefix: String, told: mpsc::UnboundedSender<()>) -> (i64, tonic::Status) {
    for number in 0.. {
        match client.try_put(put(&format!("{prefix}{number}"), "")).await {
            Ok(_) => drop(told.send(())),
            Err(refused) => return (number, refused),
        }
    }
    unreachable!("it puts until it is refused")
}
