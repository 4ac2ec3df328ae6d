//! What a cluster of three refuses, and how soon: changes of members, transfers of leadership, a learner's answers, and
//! everything while there is no leader. The same script runs on etcd and on the server under test, and must be answered
//! with the same codes and texts.

use std::time::{Duration, Instant};

use kvorum_api::etcdserverpb as pb;
use kvorum_interop::cluster::{Cluster, Node, Program, until};
use kvorum_interop::tools;
use pb::watch_client::WatchClient;
use tonic::{Request, Status};

/// A time may differ by this, which is below what a different rule would make of it.
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
        let began = Instant::now();
        let answer = match asked.await {
            Ok(_) => "ok".to_owned(),
            Err(status) => format!("{:?} {}", status.code(), status.message()),
        };
        self.0.push(Line { what: what.into(), answer, took: began.elapsed() });
    }
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

/// What a member answers for itself; asked of a learner, and of one that has no leader.
async fn services(table: &mut Table, role: &str, node: &Node) {
    table.ask(format!("{role}: put"), node.kv().put(put())).await;
    table.ask(format!("{role}: range"), node.kv().range(range(false))).await;
    table.ask(format!("{role}: serializable range"), node.kv().range(range(true))).await;
    let key = "key".into();
    table
        .ask(format!("{role}: delete"), node.kv().delete_range(pb::DeleteRangeRequest { key, ..Default::default() }))
        .await;
    table.ask(format!("{role}: transaction"), node.kv().txn(pb::TxnRequest::default())).await;
    let read = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(range(true))) };
    let read = pb::TxnRequest { success: vec![read], ..Default::default() };
    table.ask(format!("{role}: serializable transaction"), node.kv().txn(read)).await;
    table
        .ask(format!("{role}: compaction"), node.kv().compact(pb::CompactionRequest { revision: 1, physical: false }))
        .await;
    table.ask(format!("{role}: grant"), node.lease().lease_grant(pb::LeaseGrantRequest { ttl: 100, id: 0 })).await;
    table.ask(format!("{role}: revoke"), node.lease().lease_revoke(pb::LeaseRevokeRequest { id: 1 })).await;
    table.ask(format!("{role}: leases"), node.lease().lease_leases(pb::LeaseLeasesRequest {})).await;
    let request = pb::LeaseTimeToLiveRequest { id: 1, keys: false };
    table.ask(format!("{role}: time to live"), node.lease().lease_time_to_live(request)).await;
    let renewal = async {
        let renewals = futures_util::stream::iter([pb::LeaseKeepAliveRequest { id: 1 }]);
        node.lease().lease_keep_alive(renewals).await?.into_inner().message().await
    };
    table.ask(format!("{role}: keepalive"), renewal).await;
    let watch = async {
        let create = pb::WatchCreateRequest { key: "key".into(), ..Default::default() };
        let request = pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) };
        let mut client = WatchClient::new(node.channel.clone());
        client.watch(futures_util::stream::iter([request])).await?.into_inner().message().await
    };
    table.ask(format!("{role}: watch"), watch).await;
    for linearizable in [true, false] {
        let request = pb::MemberListRequest { linearizable };
        table.ask(format!("{role}: members, {linearizable}"), node.cluster().member_list(request)).await;
    }
    table.ask(format!("{role}: status"), node.status()).await;
    table.ask(format!("{role}: hash"), node.maintenance().hash_kv(pb::HashKvRequest { revision: 0 })).await;
    table.ask(format!("{role}: alarms"), node.maintenance().alarm(pb::AlarmRequest::default())).await;
    table.ask(format!("{role}: add"), node.cluster().member_add(add(&["http://127.0.0.1:3"], true))).await;
    table.ask(format!("{role}: move"), node.maintenance().move_leader(pb::MoveLeaderRequest { target_id: 1 })).await;
    table.ask(format!("{role}: promote"), node.cluster().member_promote(pb::MemberPromoteRequest { id: 1 })).await;
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
    let [leader, follower, gone] = [&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]];
    until(async || match leader.cluster().member_add(add(&["http://127.0.0.1:4"], false)).await {
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
    let request = pb::MoveLeaderRequest { target_id: gone.id };
    table.ask("move to one that is down", leader.maintenance().move_leader(request)).await;
    let leads = cluster.nodes[0].status().await.expect("a status").leader;
    table
        .ask("who leads", async { if leads == cluster.nodes[0].id { Ok(()) } else { Err(Status::unknown("another")) } })
        .await;

    // Then the follower goes on alone.
    let (watch, renewals) = streams_that_ask_for_a_leader(&cluster.nodes[1]).await;
    cluster.nodes[0].process.kill();
    let alone = &cluster.nodes[1];
    table.ask("put as the leader goes", alone.kv().put(put())).await;
    let began = Instant::now();
    until(async || match alone.status().await?.leader {
        0 => Ok(()),
        _ => Err(Status::unavailable("it still believes in the leader")),
    })
    .await
    .expect("it notices");
    table.0.push(Line { what: "the loss is noticed".to_owned(), answer: String::new(), took: began.elapsed() });
    table.ask("watch that asks for a leader", watch).await;
    table.ask("keepalives that ask for a leader", renewals).await;
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
        let same = theirs.answer == ours.answer && theirs.took.abs_diff(ours.took) < SLACK;
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
