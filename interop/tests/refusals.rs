//! What a cluster of three refuses, and how soon: changes of members, transfers of leadership, a learner's answers, and
//! everything while there is no leader. The same script runs on etcd and on the server under test, and must be answered
//! with the same codes and texts.

use std::pin::Pin;
use std::time::{Duration, Instant};

use kvorum_api::etcdserverpb as pb;
use kvorum_interop::cluster::{Cluster, Node, Program, until};
use kvorum_interop::tools;
use pb::watch_client::WatchClient;
use tonic::{Request, Status};

/// An answer may come later than etcd's by this, which is below what a different rule would make of it. It may come
/// sooner: in etcd, a second read waits for the end of the first before its own time begins.
const SLACK: Duration = Duration::from_millis(2_500);

/// One line of the table: what was asked, what came, after which time.
struct Line {
    what: String,
    answer: String,
    took: Duration,
}

#[derive(Default)]
struct Table(Vec<Line>);

impl Table {
    async fn ask<T>(&mut self, what: impl Into<String>, asked: impl Future<Output = Result<T, Status>>) {
        self.0.push(line(what.into(), asked).await);
    }
}

async fn line<T>(what: String, asked: impl Future<Output = Result<T, Status>>) -> Line {
    let began = Instant::now();
    let answer = match asked.await {
        Ok(_) => "ok".to_owned(),
        Err(status) => format!("{:?} {}", status.code(), status.message()),
    };
    Line { what, answer, took: began.elapsed() }
}

fn add(urls: &[&str], is_learner: bool) -> pb::MemberAddRequest {
    pb::MemberAddRequest { peer_urls: urls.iter().map(|&url| url.to_owned()).collect(), is_learner }
}

fn put() -> pb::PutRequest {
    pb::PutRequest { key: "key".into(), value: "value".into(), ..Default::default() }
}

fn range(serializable: bool) -> pb::RangeRequest {
    pb::RangeRequest { key: "key".into(), serializable, ..Default::default() }
}

fn with_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().expect("plain text"));
    request
}

/// Changes that are refused, through the leader and through a follower.
async fn changes(table: &mut Table, leader: &Node, follower: &Node) {
    for (role, node) in [("leader", leader), ("follower", follower)] {
        let mut cluster = node.cluster();
        table.ask(format!("{role}: add nothing"), cluster.member_add(add(&[], false))).await;
        table.ask(format!("{role}: add no URL"), cluster.member_add(add(&["nonsense"], false))).await;
        let urls = [leader.process.peer_url()];
        table.ask(format!("{role}: add a member's URL"), cluster.member_add(add(&urls, false))).await;
        table.ask(format!("{role}: add it as learner"), cluster.member_add(add(&urls, true))).await;
        table.ask(format!("{role}: remove nobody"), cluster.member_remove(pb::MemberRemoveRequest { id: 1 })).await;
        let request = pb::MemberUpdateRequest { id: 1, peer_urls: vec!["http://127.0.0.1:1".to_owned()] };
        table.ask(format!("{role}: update nobody"), cluster.member_update(request)).await;
        let request = pb::MemberUpdateRequest { id: follower.id, peer_urls: vec![urls[0].to_owned()] };
        table.ask(format!("{role}: update to another's URL"), cluster.member_update(request)).await;
        // An update to what is no URL is not asked for: every other member of etcd would panic over it.
        table.ask(format!("{role}: promote nobody"), cluster.member_promote(pb::MemberPromoteRequest { id: 1 })).await;
        let request = pb::MemberPromoteRequest { id: follower.id };
        table.ask(format!("{role}: promote a voter"), cluster.member_promote(request)).await;
        let mut maintenance = node.maintenance();
        let request = pb::MoveLeaderRequest { target_id: 1 };
        table.ask(format!("{role}: move to nobody"), maintenance.move_leader(request)).await;
        let request = pb::MoveLeaderRequest { target_id: leader.id };
        table.ask(format!("{role}: move to the leader"), maintenance.move_leader(request)).await;
    }
}

/// A learner that was never started.
async fn absent_learner(table: &mut Table, leader: &Node, follower: &Node) {
    let request = add(&["http://127.0.0.1:1"], true);
    let added = until(async || follower.cluster().member_add(request.clone()).await);
    let id = added.await.expect("a learner is taken in").into_inner().member.expect("it is named").id;
    let another = add(&["http://127.0.0.1:2"], true);
    for (role, node) in [("leader", leader), ("follower", follower)] {
        let mut cluster = node.cluster();
        table.ask(format!("{role}: a second learner"), cluster.member_add(another.clone())).await;
        let request = pb::MemberPromoteRequest { id };
        table.ask(format!("{role}: promote one that is absent"), cluster.member_promote(request)).await;
        let request = pb::MoveLeaderRequest { target_id: id };
        table.ask(format!("{role}: move to a learner"), node.maintenance().move_leader(request)).await;
    }
    table.ask("remove the learner", follower.cluster().member_remove(pb::MemberRemoveRequest { id })).await;
}

/// What a member answers for itself; asked of a learner, and of one that has no leader. All is asked at once: without a
/// leader most of it waits.
async fn services(table: &mut Table, role: &str, node: &Node) {
    let read = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(range(true))) };
    let reads = pb::TxnRequest { success: vec![read], ..Default::default() };
    let renewal = async {
        let renewals = futures_util::stream::iter([pb::LeaseKeepAliveRequest { id: 1 }]);
        node.lease().lease_keep_alive(renewals).await?.into_inner().message().await
    };
    let watch = async {
        let create = pb::WatchCreateRequest { key: "key".into(), ..Default::default() };
        let request = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
        let mut client = WatchClient::new(node.channel.clone());
        client.watch(futures_util::stream::iter([request])).await?.into_inner().message().await
    };
    let mut lines: Vec<Pin<Box<dyn Future<Output = Line> + '_>>> = Vec::new();
    macro_rules! ask {
        ($what:literal, $call:expr) => {
            lines.push(Box::pin(line(format!("{role}: {}", $what), async { $call.await })));
        };
    }
    ask!("put", node.kv().put(put()));
    ask!("range", node.kv().range(range(false)));
    ask!("serializable range", node.kv().range(range(true)));
    ask!("delete", node.kv().delete_range(pb::DeleteRangeRequest { key: "key".into(), ..Default::default() }));
    ask!("transaction", node.kv().txn(pb::TxnRequest::default()));
    ask!("serializable transaction", node.kv().txn(reads));
    ask!("compaction", node.kv().compact(pb::CompactionRequest { revision: 1, physical: false }));
    ask!("grant", node.lease().lease_grant(pb::LeaseGrantRequest { ttl: 100, id: 0 }));
    ask!("revoke", node.lease().lease_revoke(pb::LeaseRevokeRequest { id: 1 }));
    ask!("leases", node.lease().lease_leases(pb::LeaseLeasesRequest {}));
    ask!("time to live", node.lease().lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 1, keys: false }));
    ask!("keepalive", renewal);
    ask!("watch", watch);
    ask!("members", node.cluster().member_list(pb::MemberListRequest { linearizable: true }));
    ask!("members it knows", node.cluster().member_list(pb::MemberListRequest { linearizable: false }));
    ask!("status", node.status());
    ask!("hash", node.maintenance().hash_kv(pb::HashKvRequest { revision: 0 }));
    ask!("alarms", node.maintenance().alarm(pb::AlarmRequest::default()));
    ask!("add", node.cluster().member_add(add(&["http://127.0.0.1:3"], true)));
    ask!("move", node.maintenance().move_leader(pb::MoveLeaderRequest { target_id: 1 }));
    ask!("promote", node.cluster().member_promote(pb::MemberPromoteRequest { id: 1 }));
    table.0.extend(futures_util::future::join_all(lines).await);
}

/// Streams that ask for a leader end when there is none for three election timeouts.
async fn streams_that_ask_for_a_leader(
    node: &Node,
) -> (impl Future<Output = Result<(), Status>> + use<>, impl Future<Output = Result<(), Status>> + use<>) {
    let create = pb::WatchCreateRequest { key: "never".into(), ..Default::default() };
    let create = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
    let open = futures_util::StreamExt::chain(futures_util::stream::iter([create]), futures_util::stream::pending());
    let mut watch =
        WatchClient::new(node.channel.clone()).watch(with_leader(open)).await.expect("a watch").into_inner();
    watch.message().await.expect("it is created");
    let renewals = futures_util::stream::iter([pb::LeaseKeepAliveRequest { id: 1 }]);
    let open = futures_util::StreamExt::chain(renewals, futures_util::stream::pending());
    let mut renewals = node.lease().lease_keep_alive(with_leader(open)).await.expect("a stream").into_inner();
    renewals.message().await.expect("it is answered");
    (
        async move {
            while watch.message().await?.is_some() {}
            Ok(())
        },
        async move {
            while renewals.message().await?.is_some() {}
            Ok(())
        },
    )
}

async fn script(program: &Program) -> Table {
    let mut table = Table::default();
    let mut cluster = Cluster::found(&[program, program, program], &[]).await;
    let leader = cluster.leader().await;
    cluster.nodes.swap(0, leader);
    let [leader, follower] = [&cluster.nodes[0], &cluster.nodes[1]];
    table
        .ask(
            "add before anybody was connected for long",
            leader.cluster().member_add(add(&["http://127.0.0.1:1"], false)),
        )
        .await;
    // Connections must be five seconds old before a change is taken.
    absent_learner(&mut table, leader, follower).await;
    changes(&mut table, leader, follower).await;

    let learner = cluster.join(program, true, 1).await;
    services(&mut table, "learner", &cluster.nodes[learner]).await;
    let id = cluster.nodes[learner].id;
    table.ask("remove the learner", cluster.nodes[0].cluster().member_remove(pb::MemberRemoveRequest { id })).await;
    cluster.nodes.pop();

    // With one voter of three down, none may go and none may come.
    cluster.nodes[2].process.kill();
    let [leader, follower] = [&cluster.nodes[0], &cluster.nodes[1]];
    // Asked with an address that is another's, which no cluster takes: the leader has not noticed yet.
    let taken = leader.process.peer_url().to_owned();
    until(async || match leader.cluster().member_add(add(&[&taken], false)).await {
        Err(status) if status.message().contains("unhealthy") => Ok(()),
        Err(status) => Err(status),
        Ok(_) => panic!("no member may come"),
    })
    .await
    .expect("the cluster is unhealthy");
    for (role, node) in [("leader", leader), ("follower", follower)] {
        let role = format!("{role}, one down");
        table.ask(format!("{role}: add"), node.cluster().member_add(add(&["http://127.0.0.1:4"], false))).await;
        let request = pb::MemberRemoveRequest { id: follower.id };
        table.ask(format!("{role}: remove one that is up"), node.cluster().member_remove(request)).await;
    }
    // A transfer to the one that is down is not asked for: etcd waits for it as long as the client does.

    // Then the follower goes on alone.
    let (watch, renewals) = streams_that_ask_for_a_leader(&cluster.nodes[1]).await;
    cluster.nodes[0].process.kill();
    let alone = &cluster.nodes[1];
    let began = Instant::now();
    until(async || match alone.status().await?.leader {
        0 => Ok(()),
        _ => Err(Status::unavailable("it still believes in the leader")),
    })
    .await
    .expect("it notices");
    table.0.push(Line { what: "the loss is noticed".to_owned(), answer: String::new(), took: began.elapsed() });
    let asked = Instant::now();
    table.ask("watch that asks for a leader", watch).await;
    table.ask("keepalives that ask for a leader", renewals).await;
    println!(
        "{}: streams ended {:.2?} after the loss, {:.2?} after it was noticed",
        program.label,
        began.elapsed(),
        asked.elapsed()
    );
    services(&mut table, "no leader", alone).await;
    table.ask("no leader, asked for: put", alone.kv().put(with_leader(put()))).await;
    table.ask("no leader, asked for: range", alone.kv().range(with_leader(range(true)))).await;
    table
        .ask(
            "no leader, asked for: members",
            alone.cluster().member_list(with_leader(pb::MemberListRequest::default())),
        )
        .await;
    table
}

#[tokio::test]
async fn refusals_are_etcds() {
    let Some(kvorum) = tools::or_skip(tools::server_under_test()) else { return };
    let Some(etcd) = tools::or_skip(tools::etcd()) else { return };
    let etcd = Program::new("etcd", &etcd);
    let kvorum = Program::new("kvorum", &kvorum);
    let (theirs, ours) = tokio::join!(script(&etcd), script(&kvorum));
    let mut differences = Vec::new();
    for (theirs, ours) in theirs.0.iter().zip(&ours.0) {
        assert_eq!(theirs.what, ours.what);
        let same = theirs.answer == ours.answer && ours.took < theirs.took + SLACK;
        let mark = if same { "" } else { "   <-- differs" };
        println!(
            "{:45} {:70} {:>7.2?} {:>7.2?}{mark}",
            ours.what,
            if theirs.answer == ours.answer {
                ours.answer.clone()
            } else {
                format!("{} | {}", theirs.answer, ours.answer)
            },
            theirs.took,
            ours.took
        );
        if !same {
            differences.push(ours.what.clone());
        }
    }
    assert!(differences.is_empty(), "{differences:?}");
    assert_eq!(theirs.0.len(), ours.0.len());
}
