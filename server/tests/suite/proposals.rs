//! What waits for the log, and how much of it may.

use kvorum_server::config::ProposalLimits;

use super::*;

/// Proposals that wait for the log are bounded in bytes: further ones are refused, reads are not, and when the log goes on
/// all that were taken are answered and others are taken again.
#[test]
#[allow(clippy::await_holding_lock)] // Nothing on this test's runtime wants it.
fn proposals_that_wait_are_bounded_in_bytes() {
    run(async {
        let folder = folder();
        let proposal_limits = ProposalLimits { bytes: 10_000, ..ProposalLimits::default() };
        let Half { client, member } = start_with(&Config { proposal_limits, ..config(folder.path()) });
        client.put("before", "1").await;
        let value = "v".repeat(3_000);
        // Whoever has the log commits, and here nobody does.
        let log = member.core().log();
        let mut waiting = Vec::new();
        // The fourth is beyond the bound, and the last to be taken.
        for number in 0..4 {
            let (client, request) = (client.clone(), put(&format!("key-{number}"), &value));
            waiting.push(tokio::spawn(async move { client.try_put(request).await }));
            eventually(|| member.core().unanswered() == number + 1).await;
        }
        for key in ["key-4", "small"] {
            let refused = client.try_put(put(key, "1")).await.expect_err("there is no room");
            // With etcd's code, which is not the one its clients know the text by.
            assert_eq!((refused.code(), refused.message()), (tonic::Code::Unknown, "etcdserver: too many requests"));
        }
        assert_eq!(member.core().unanswered(), 4);
        assert_eq!(client.get("before").await.as_deref(), Some("1"));
        drop(log);
        let mut revisions = Vec::new();
        for put in waiting {
            revisions.push(put.await.expect("a task").expect("it was taken"));
        }
        assert_eq!(revisions, [3, 4, 5, 6]);
        assert_eq!(client.put("key-4", &value).await, 7);
        assert_eq!(client.get("small").await, None);
        stop(member);
    });
}
