//! Starting, stopping, starting again; two members, and two that want the same.

use super::*;

const MEMBER_ID: u64 = 10_276_657_743_932_975_437;
const CLUSTER_ID: u64 = 14_841_639_068_965_178_418;

#[test]
fn a_member_starts_in_an_empty_folder_and_says_who_it_is() {
    run(async {
        let folder = folder();
        let began = std::time::Instant::now();
        let half = start_with(&config(folder.path()));
        let took = began.elapsed();
        half.client.put("a", "1").await;
        println!("ready after {took:?}, first put answered after {:?}", began.elapsed());
        let request = pb::MemberListRequest { linearizable: true };
        let list = half.client.cluster().member_list(request).await.expect("a list").into_inner();
        let header = list.header.expect("a header");
        assert_eq!((header.member_id, header.cluster_id), (MEMBER_ID, CLUSTER_ID));
        let member = &list.members[0];
        assert_eq!((list.members.len(), member.id, member.name.as_str()), (1, MEMBER_ID, "default"));
        assert_eq!(member.peer_urls, ["http://localhost:2380"]);
        assert_eq!(member.client_urls, [half.member.client_url()]);
    });
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    run(async {
        let folder = folder();
        let mut before = None;
        for round in 0..3 {
            let Half { client, member } = start_with(&config(folder.path()));
            if let Some(before) = before {
                assert_eq!(client.fingerprint().await, before);
            }
            for number in 0..50 {
                client.put(&format!("key-{}", number % 7), &format!("{round}-{number}")).await;
            }
            assert_eq!(client.get("key-0").await, Some(format!("{round}-49")));
            before = Some(client.fingerprint().await);
            stop(member);
        }
        let Half { client, member: _member } = start_with(&config(folder.path()));
        assert_eq!(Some(client.fingerprint().await), before);
        // Values of before the restarts, one by one and in one range.
        let old = pb::RangeRequest { revision: 40, ..whole_range() };
        let kvs = client.kv().range(old).await.expect("a range").into_inner().kvs;
        let values: Vec<_> = kvs.iter().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).collect();
        assert_eq!(values, ["0-35", "0-36", "0-37", "0-38", "0-32", "0-33", "0-34"]);
    });
}

#[test]
fn two_members_in_one_process_are_strangers() {
    run(async {
        let (one_folder, other_folder) = (folder(), folder());
        let (one, other) = (start_with(&config(one_folder.path())), start_with(&config(other_folder.path())));
        assert_ne!(one.client.address, other.client.address);
        one.client.put("a", "one").await;
        other.client.put("a", "other").await;
        assert_eq!(one.client.get("a").await.as_deref(), Some("one"));
        drop(one);
        assert_eq!(other.client.get("a").await.as_deref(), Some("other"));
    });
}

#[test]
fn a_data_folder_serves_one_member_at_a_time() {
    run(async {
        let folder = folder();
        let first = start_with(&config(folder.path()));
        let Err(error) = start(&config(folder.path())) else { panic!("a second member took the folder") };
        let text = error.to_string();
        assert!(text.contains(folder.path().to_str().expect("text")) && text.contains("use"), "{text}");
        first.client.put("a", "1").await;
        stop(first.member);
        let again = start_with(&config(folder.path()));
        assert_eq!(again.client.get("a").await.as_deref(), Some("1"));
    });
}

#[test]
fn a_port_serves_one_member_at_a_time() {
    run(async {
        let (one_folder, other_folder) = (folder(), folder());
        let first = start_with(&config(one_folder.path()));
        let taken = url(&first.member.client_url());
        let second = Config {
            listen_client_urls: vec![taken.clone()],
            advertise_client_urls: vec![taken],
            ..config(other_folder.path())
        };
        let Err(error) = start(&second) else { panic!("a second member took the port") };
        let expected = format!("listen tcp {}: bind: address already in use", first.client.address);
        assert_eq!(error.to_string(), expected);
        // Nothing was made for a member that never was.
        assert_eq!(std::fs::read_dir(other_folder.path()).expect("the folder").count(), 0);
        // The port is free again at once after a stop.
        stop(first.member);
        start_with(&second).client.put("a", "1").await;
    });
}

#[test]
fn a_stop_ends_streams_and_what_comes_after_it_is_refused() {
    run(async {
        let folder = folder();
        let Half { client, mut member } = start_with(&config(folder.path()));
        let mut watch = client.watch(watch_all()).await;
        client.put("a", "1").await;
        assert_eq!(watch.events().await.len(), 1);
        member.stop();
        member.stop();
        let ended = watch.end().await;
        assert_eq!((ended.code(), ended.message()), (tonic::Code::Unavailable, "etcdserver: server stopped"));
        assert!(client.try_put(put("b", "2")).await.is_err());
    });
}

/// A thread that compacts by itself may ask for it just when the member has stopped; it must not wait for ever.
#[test]
fn a_proposal_after_the_stop_is_answered() {
    run(async {
        let folder = folder();
        let Half { member, .. } = &mut start_with(&config(folder.path()));
        member.stop();
        let (sender, answer) = tokio::sync::oneshot::channel();
        let waiter = kvorum_server::core::Waiter::Channel(sender);
        let (id, data) = member.core().state().number(pb::InternalRaftRequest::default());
        let proposal = kvorum_node::member::Proposal { id, data, waiter };
        member.core().enqueue(std::iter::once(proposal));
        let outcome = answer.await.expect("an answer");
        assert_eq!(outcome.expect_err("it is refused").to_string(), "etcdserver: no leader");
    });
}

#[test]
fn history_is_compacted_without_being_asked() {
    run(async {
        let folder = folder();
        let period = Duration::from_millis(500);
        let auto_compaction = kvorum_server::config::AutoCompaction::Periodic(period);
        let Half { client, member } = start_with(&Config { auto_compaction, ..config(folder.path()) });
        let compacted = async || client.fingerprint().await.compact_revision;
        // Revisions from before the member's start are compacted first, so something must be written until it is seen.
        let mut revision = 0;
        while compacted().await < 20 {
            revision = client.put("a", "1").await;
        }
        assert!(compacted().await < revision);
        stop(member);
    });
}
