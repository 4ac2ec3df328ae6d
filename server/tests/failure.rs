//! A member that failed, seen from inside.

#![allow(clippy::unwrap_used)]

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::InternalRaftRequest;
use kvorum_node::member::Proposal;
use kvorum_server::config::Config;
use kvorum_server::core::Waiter;
use kvorum_server::{embed, start};
use tokio::sync::oneshot;

/// What a failed member does not answer comes back to the connection thread, which never stopped trying.
#[test]
fn a_member_that_failed_answers_what_it_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    // Syncs that take no time let every thread drive.
    let config = Config { unsafe_no_fsync: true, ..embed::config(&folder.path().join("data")) };
    let mut member = start::start(&config).unwrap();
    let core = std::sync::Arc::clone(member.core());
    core.fail("the disk is gone".to_owned());
    let (sender, mut receiver) = oneshot::channel();
    let (id, data) = core.state().number(InternalRaftRequest::default());
    let mut batch = vec![Proposal { id, data, waiter: Waiter::Channel(sender) }];
    while !core.drive_inline(&mut batch, 0, &mut Vec::new()) {
        // The raft thread has the log for a moment.
        std::thread::yield_now();
    }
    assert!(batch.is_empty());
    assert!(matches!(receiver.try_recv(), Ok(Err(EtcdError::Stopped))));
    assert_eq!(member.wait(), Err("the disk is gone".to_owned()));
}
