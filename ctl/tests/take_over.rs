//! Kvorum starts on etcd's data directory, and etcd on one that `kvorumutl export` writes: nothing is lost on either way.

mod support;

use std::path::Path;

use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;
use support::{check_private, disarm, fill, identity, kvorumutl, put, state, succeed, term, text};

/// `snapshot_count`: entries between two snapshots of etcd; `is_killed`: how Kvorum ends before it is exported.
async fn there_and_back(etcd: &Path, back: &Path, snapshot_count: u64, is_killed: bool) {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let count = format!("--snapshot-count={snapshot_count}");
    let mut member = Member::start(Kind::Server, etcd, &[&count]).expect("etcd starts");
    fill(&member).await;
    let (expected, who, was) = (state(&member).await, identity(&member).await, term(&member).await);
    // What etcd had not written into its database yet is in its log.
    member.kill();
    let data = member.folder().join("data");
    assert!(data.join("member/snap/db").exists());

    member.set_binary(&server);
    member.restart().expect("Kvorum starts on etcd's data");
    assert!(!data.join("member/snap/db").exists() && data.join("member/backend.1").exists());
    assert_eq!(state(&member).await, expected);
    assert_eq!(identity(&member).await, who);
    assert!(term(&member).await > was);
    assert!(member.log().contains("took over the data of etcd"));
    check_private(&data);
    disarm(&member).await;
    put(&member, "by Kvorum", "1").await;
    let expected = state(&member).await;
    member.stop();
    member.restart().expect("and once more");
    assert_eq!(state(&member).await, expected);

    // Of a member that was killed too: what is committed must be found out again.
    let was = term(&member).await;
    put(&member, "again", "2").await;
    let expected = state(&member).await;
    if is_killed {
        member.kill();
    } else {
        member.stop();
    }
    let mut theirs = Member::prepare(Kind::Server, back, &[]).expect("a folder");
    let target = theirs.folder().join("data");
    let said = succeed(kvorumutl(), &["export", "--data-dir", text(&data), "--to", text(&target)]);
    assert!(said.contains("exported data directory"), "{said}");
    check_private(&target);
    theirs.set_environment(vec![("ETCD_VERIFY".to_owned(), "all".into())]);
    theirs.restart().expect("etcd starts on ours");
    assert_eq!(state(&theirs).await, expected);
    let exported = identity(&theirs).await;
    assert_eq!((exported.cluster_id, exported.member_id), (who.cluster_id, who.member_id));
    assert!(term(&theirs).await > was);
    put(&theirs, "by etcd", "2").await;
    theirs.stop();
    assert!(theirs.log().contains("verification of persisted state successful"));
    member.restart().expect("Kvorum's own is as it was");
}

#[tokio::test]
async fn kvorum_takes_over_from_etcd_and_gives_back() {
    let Some(etcd) = tools::or_skip(tools::released("etcd")) else { return };
    there_and_back(&etcd, &etcd, 100, false).await;
}

#[tokio::test]
async fn without_any_snapshot_and_after_a_kill() {
    let Some(etcd) = tools::or_skip(tools::released("etcd")) else { return };
    there_and_back(&etcd, &etcd, 10_000, true).await;
}

#[tokio::test]
async fn kvorum_takes_over_from_the_release_before() {
    // Nobody builds it here: it is not among the tools that must be there.
    let (Ok(previous), Some(etcd)) = (tools::previous_etcd(), tools::or_skip(tools::released("etcd"))) else { return };
    there_and_back(&previous, &etcd, 100, true).await;
}
