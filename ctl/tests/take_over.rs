//! Kvorum starts on etcd's data directory, and etcd on one that `kvorumutl export` writes: nothing is lost on either way.

mod support;

use std::path::Path;

use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;
use support::{State, check_private, disarm, fill, identity, kvorumutl, put, state, succeed, term, text};

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

/// What a release before 3.6 tells of itself: it knows no revision of a hash.
async fn old_state(member: &Member) -> State {
    let mut state = state(member).await;
    state.hash.1 = 0;
    state
}

/// Its log holds the member's attributes and the cluster version in the form of the v2 store.
async fn from_an_older_release(older: &Path, snapshot_count: u64) {
    let Some(server) = tools::or_skip(tools::server_under_test()) else { return };
    let count = format!("--snapshot-count={snapshot_count}");
    let mut member = Member::start(Kind::Server, older, &[&count]).expect("the older etcd starts");
    fill(&member).await;
    let (expected, who) = (old_state(&member).await, identity(&member).await);
    member.kill();
    member.set_binary(&server);
    member.restart().expect("Kvorum starts on its data");
    assert_eq!(old_state(&member).await, expected);
    assert_eq!(identity(&member).await, who);
    disarm(&member).await;
    put(&member, "by Kvorum", "1").await;
    member.stop();
    member.restart().expect("and once more");
}

#[tokio::test]
async fn kvorum_takes_over_from_etcd_3_5() {
    // Nobody can install it by name.
    let Ok(older) = tools::etcd_35() else { return };
    for snapshot_count in [100, 10_000] {
        from_an_older_release(&older, snapshot_count).await;
    }
}

/// The one that Debian has. Its data are refused and left alone, with the upgrade to do first; and that helps.
#[tokio::test]
async fn etcd_3_4_is_refused_with_the_upgrade_to_do() {
    let (Some(server), Some(older)) =
        (tools::or_skip(tools::server_under_test()), tools::or_skip(tools::installed_etcd()))
    else {
        return;
    };
    let version = support::run(&older, &["--version"]);
    if !String::from_utf8_lossy(&version.stdout).contains("etcd Version: 3.4.") {
        return println!("SKIPPED: the installed etcd is no 3.4");
    }
    for snapshot_count in [100, 10_000] {
        let count = format!("--snapshot-count={snapshot_count}");
        let mut member = Member::start(Kind::Server, &older, &[&count]).expect("etcd 3.4 starts");
        fill(&member).await;
        let (expected, who) = (old_state(&member).await, identity(&member).await);
        member.stop();
        member.set_binary(&server);
        let refused = member.restart().expect_err("it is too old");
        for part in ["snap/db", "3.4 or older", "Start etcd 3.5 on it first"] {
            assert!(refused.contains(part), "{refused:?} lacks {part:?}");
        }
        assert!(!member.folder().join("data/member/backend").exists());
        member.set_binary(&older);
        member.restart().expect("nothing was changed");
        assert_eq!(old_state(&member).await, expected);
        member.stop();
        let Ok(between) = tools::etcd_35() else { continue };
        member.set_binary(&between);
        member.restart().expect("etcd 3.5 starts");
        member.stop();
        member.set_binary(&server);
        member.restart().expect("it helped");
        assert_eq!(old_state(&member).await, expected);
        assert_eq!(identity(&member).await, who);
    }
}
