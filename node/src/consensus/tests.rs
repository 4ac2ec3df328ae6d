use prost::Message as _;
use raft::eraftpb::ConfChangeType;

use super::*;

fn single(start: Start) -> Consensus {
    let config = ConsensusConfig { member_id: 7, election_ticks: 10, pre_vote: true, seed: 1 };
    Consensus::new(&config, start).expect("a valid start")
}

fn bootstrap() -> Start {
    Start::Bootstrap {
        members: vec![BootstrapMember {
            id: 7,
            name: "default".to_owned(),
            peer_urls: vec!["http://localhost:2380".to_owned()],
        }],
    }
}

/// Persists and applies everything there is; returns what was persisted and what was applied.
fn settle(consensus: &mut Consensus) -> (Vec<LogEntry>, Vec<LogEntry>) {
    let (mut persisted, mut applied) = (Vec::new(), Vec::new());
    loop {
        let persist = consensus.poll_persist();
        while let Some(entry) = consensus.next_committed() {
            consensus.handle_applied(entry.index);
            applied.push(entry);
        }
        let Some(persist) = persist else { return (persisted, applied) };
        persisted.extend(persist.entries);
        consensus.handle_persisted(persist.number);
    }
}

#[test]
fn a_new_member_writes_etcds_first_entries_and_leads_at_term_2() {
    let mut consensus = single(bootstrap());
    let (persisted, applied) = settle(&mut consensus);
    assert_eq!(persisted.len(), 1);
    assert_eq!(applied, persisted);
    assert_eq!(consensus.role(), Role::Follower);
    consensus.campaign();
    let (persisted, applied) = settle(&mut consensus);
    assert_eq!(consensus.role(), Role::Leader);
    assert_eq!((consensus.term(), consensus.leader()), (2, 7));
    assert_eq!(applied.len(), 1);
    assert!(applied[0].data.is_empty());
    assert_eq!(persisted[0].index, 2);
}

#[test]
fn proposals_commit_only_after_they_are_persisted() {
    let mut consensus = single(bootstrap());
    settle(&mut consensus);
    consensus.campaign();
    settle(&mut consensus);
    assert!(consensus.propose([Bytes::from_static(b"one"), Bytes::from_static(b"two")].into_iter()));
    let persist = consensus.poll_persist().expect("entries to persist");
    assert_eq!(persist.entries.len(), 2);
    assert!(consensus.next_committed().is_none());
    assert_eq!(consensus.read_index(1), ReadIndex::At(2));
    consensus.handle_persisted(persist.number);
    let (_, applied) = settle(&mut consensus);
    assert_eq!(applied.iter().map(|entry| entry.data.as_ref()).collect::<Vec<_>>(), [b"one", b"two"]);
    assert_eq!(consensus.read_index(2), ReadIndex::At(4));
}

#[test]
fn without_a_leader_nothing_is_proposed_or_read() {
    let mut consensus = single(bootstrap());
    assert!(!consensus.propose([Bytes::from_static(b"one")].into_iter()));
    assert_eq!(consensus.read_index(1), ReadIndex::NotYet);
}

#[test]
fn a_restart_applies_again_what_the_backend_does_not_hold() {
    let mut first = single(bootstrap());
    let (mut log, _) = settle(&mut first);
    first.campaign();
    log.extend(settle(&mut first).0);
    assert!(first.propose([Bytes::from_static(b"one"), Bytes::from_static(b"two")].into_iter()));
    log.extend(settle(&mut first).0);
    let mut second = single(Start::Restart {
        hard_state: HardState { term: 2, vote: 7, commit: 3 },
        conf_state: first.conf_state(),
        snapshot: (0, 0),
        entries: log,
        applied: 2,
    });
    let (_, applied) = settle(&mut second);
    assert_eq!(applied.iter().map(|entry| entry.index).collect::<Vec<_>>(), [3]);
    second.campaign();
    let (_, applied) = settle(&mut second);
    assert_eq!(applied.iter().map(|entry| entry.index).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(second.term(), 3);
}

#[test]
fn election_timeouts_follow_the_seed() {
    let draw = |seed| {
        let config = ConsensusConfig { member_id: 7, election_ticks: 10, pre_vote: true, seed };
        let mut consensus = Consensus::new(&config, bootstrap()).expect("a valid start");
        let mut drawn = Vec::new();
        for _ in 0..20 {
            consensus.draw_election_timeout();
            drawn.push(consensus.election_timeout_ticks);
        }
        drawn
    };
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
    assert!(draw(3).iter().all(|ticks| (10..20).contains(ticks)));
}

#[test]
fn conf_changes_keep_etcds_numbers_and_odd_encodings_are_refused() {
    let change = |kind: raftpb::ConfChangeType| raftpb::ConfChange {
        r#type: Some(kind as i32),
        node_id: Some(9),
        ..raftpb::ConfChange::default()
    };
    let learner = translate_conf_change(&change(raftpb::ConfChangeType::ConfChangeAddLearnerNode)).expect("known");
    assert_eq!(learner.get_change_type(), ConfChangeType::AddLearnerNode);
    assert!(translate_conf_change(&change(raftpb::ConfChangeType::ConfChangeUpdateNode)).is_none());
    let canonical = change(raftpb::ConfChangeType::ConfChangeAddNode).encode_to_vec();
    assert!(decode_conf_change(&canonical.clone().into()).is_ok());
    let mut odd = canonical;
    odd.extend_from_slice(&[0x98, 0x06, 0x01]);
    assert!(decode_conf_change(&odd.into()).is_err());
}

/// Members 1, 2 and 3 that persist and apply at once, and a network that delivers at once unless a link is cut.
struct Cluster {
    members: Vec<Consensus>,
    logs: Vec<Vec<LogEntry>>,
    applied: Vec<Vec<LogEntry>>,
    snapshots: Vec<Option<SnapshotPosition>>,
    cut: Vec<u64>,
    /// Members whose disk does not answer, with what waits for it.
    slow: Vec<u64>,
    waiting: Vec<(u64, u64)>,
    snapshot_messages: Vec<raftpb::Message>,
}

impl Cluster {
    fn new() -> Self {
        let members: Vec<BootstrapMember> = (1..=3)
            .map(|id| BootstrapMember { id, name: id.to_string(), peer_urls: vec![format!("http://m{id}:2380")] })
            .collect();
        let start = |id| {
            let config = ConsensusConfig { member_id: id, election_ticks: 10, pre_vote: true, seed: id };
            Consensus::new(&config, Start::Bootstrap { members: members.clone() }).expect("a valid start")
        };
        let mut cluster = Self {
            members: (1..=3).map(start).collect(),
            logs: vec![Vec::new(); 3],
            applied: vec![Vec::new(); 3],
            snapshots: vec![None; 3],
            cut: Vec::new(),
            slow: Vec::new(),
            waiting: Vec::new(),
            snapshot_messages: Vec::new(),
        };
        cluster.run();
        cluster.member(1).campaign();
        cluster.run();
        assert_eq!(cluster.member(1).role(), Role::Leader);
        cluster
    }

    fn member(&mut self, id: u64) -> &mut Consensus {
        &mut self.members[usize::try_from(id - 1).expect("small")]
    }

    /// Until nothing moves any more.
    fn run(&mut self) {
        loop {
            let mut messages = Vec::new();
            for index in 0..3 {
                let id = index as u64 + 1;
                let member = &mut self.members[index];
                loop {
                    let persist = member.poll_persist();
                    while let Some(entry) = member.next_committed() {
                        member.handle_applied(entry.index);
                        self.applied[index].push(entry);
                    }
                    let Some(persist) = persist else { break };
                    self.logs[index].extend(persist.entries);
                    self.snapshots[index] = persist.snapshot.or(self.snapshots[index].take());
                    if self.slow.contains(&id) {
                        self.waiting.push((id, persist.number));
                    } else {
                        member.handle_persisted(persist.number);
                    }
                }
                messages.extend(member.take_messages());
            }
            if messages.is_empty() {
                return;
            }
            for message in messages {
                let (from, to) = (message.from.unwrap_or(0), message.to.unwrap_or(0));
                if message.snapshot.is_some() {
                    self.snapshot_messages.push(message);
                } else if !self.cut.contains(&from) && !self.cut.contains(&to) {
                    self.member(to).handle_message(message).expect("our own messages have the right shape");
                }
            }
        }
    }

    fn propose(&mut self, id: u64, count: usize) {
        for number in 0..count {
            assert!(self.member(id).propose(std::iter::once(Bytes::from(format!("{id}/{number}")))));
        }
        self.run();
    }
}

#[test]
fn any_member_takes_proposals_and_reads() {
    let mut cluster = Cluster::new();
    cluster.propose(2, 3);
    assert_eq!(cluster.applied[0], cluster.applied[2]);
    let commit = cluster.member(1).commit_index();
    assert_eq!(cluster.member(3).read_index(7), ReadIndex::Asked);
    cluster.run();
    assert_eq!(cluster.member(3).take_read_states(), [ReadState { context: 7, index: commit }]);
    assert_eq!(cluster.member(1).read_index(8), ReadIndex::Asked);
    cluster.run();
    assert_eq!(cluster.member(1).take_read_states(), [ReadState { context: 8, index: commit }]);
    // Without a quorum nobody is answered.
    cluster.cut = vec![1];
    assert_eq!(cluster.member(1).read_index(9), ReadIndex::Asked);
    cluster.run();
    assert!(cluster.member(1).take_read_states().is_empty());
}

#[test]
fn a_leader_that_ended_is_followed_before_its_time_is_over() {
    let mut cluster = Cluster::new();
    cluster.cut = vec![1];
    // One whose leader is still heard of does not vote, so that nobody is disturbed by the mistake of another.
    cluster.member(2).report_gone(1);
    cluster.member(2).report_gone(3);
    for _ in 0..10 {
        cluster.member(2).tick();
    }
    cluster.run();
    assert_eq!(cluster.member(2).role(), Role::Candidate);
    let mut cluster = Cluster::new();
    cluster.cut = vec![1];
    for _ in 0..10 {
        for id in [2, 3] {
            cluster.member(id).report_gone(1);
            cluster.member(id).tick();
        }
        cluster.run();
    }
    let roles = [cluster.member(2).role(), cluster.member(3).role()];
    assert!(roles.contains(&Role::Leader), "{roles:?}");
}

#[test]
fn of_three_members_the_one_that_asks_confirms_the_leader() {
    let mut cluster = Cluster::new();
    let commit = cluster.member(1).commit_index();
    assert_eq!(cluster.member(2).read_index(7), ReadIndex::Asked);
    assert!(cluster.member(2).poll_persist().is_none());
    let question = cluster.member(2).take_messages().pop().expect("the question");
    let stranger = raftpb::Message { from: Some(9), ..question.clone() };
    cluster.member(1).handle_message(question).expect("a question");
    let answers = cluster.member(1).take_messages();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].r#type(), raftpb::MessageType::MsgReadIndexResp);
    assert_eq!((answers[0].to(), answers[0].index()), (2, commit));
    // One that has no vote confirms nothing.
    cluster.member(1).handle_message(stranger).expect("a question");
    assert!(cluster.member(1).poll_persist().is_none());
    let asked: Vec<_> = cluster.member(1).take_messages().iter().map(|message| message.r#type()).collect();
    assert_eq!(asked, [raftpb::MessageType::MsgHeartbeat; 2]);
}

#[test]
fn a_commit_is_told_by_the_next_append_or_once_nothing_is_on_its_way() {
    let mut cluster = Cluster::new();
    let leader = cluster.member(1);
    assert!(leader.propose(std::iter::once(Bytes::from("a"))));
    let first = leader.poll_persist().expect("an entry");
    assert!(leader.propose(std::iter::once(Bytes::from("b"))));
    let second = leader.poll_persist().expect("another entry");
    leader.handle_persisted(second.number);
    leader.take_messages();
    let acknowledge = |index| raftpb::Message {
        r#type: Some(raftpb::MessageType::MsgAppResp as i32),
        from: Some(2),
        to: Some(1),
        index: Some(index),
        ..raftpb::Message::default()
    };
    let (a, b) = (first.entries[0].index, second.entries[0].index);
    let term = leader.term();
    for (index, told) in [(a, vec![]), (b, vec![(2, b), (3, b)]), (b, vec![])] {
        let acknowledgement = raftpb::Message { term: Some(term), ..acknowledge(index) };
        leader.handle_message(acknowledgement).expect("an acknowledgement");
        assert!(leader.poll_persist().is_none());
        assert_eq!(leader.commit_index(), index.max(a));
        let mut messages: Vec<(u64, u64)> =
            leader.take_messages().iter().map(|message| (message.to(), message.commit())).collect();
        messages.sort_unstable();
        assert_eq!(messages, told);
    }
}

#[test]
fn a_slow_disk_delays_acknowledgements_but_no_heartbeat() {
    let mut cluster = Cluster::new();
    cluster.slow = vec![2];
    cluster.cut = vec![3];
    let commit = cluster.member(1).commit_index();
    cluster.propose(1, 1);
    assert_eq!(cluster.member(1).commit_index(), commit, "the only reachable follower has not written it");
    assert_eq!(cluster.member(1).read_index(7), ReadIndex::Asked);
    cluster.run();
    assert_eq!(cluster.member(1).take_read_states().len(), 1, "heartbeats are answered while the disk is busy");
    let (id, number) = cluster.waiting.pop().expect("the entry waits");
    cluster.member(id).handle_persisted(number);
    cluster.run();
    assert_eq!(cluster.member(1).commit_index(), commit + 1);
}

#[test]
fn leadership_moves_when_asked() {
    let mut cluster = Cluster::new();
    cluster.member(1).transfer_leader(3);
    cluster.run();
    assert_eq!((cluster.member(3).role(), cluster.member(1).leader()), (Role::Leader, 3));
}

#[test]
fn a_slow_peer_gets_older_entries_from_the_log_and_else_a_snapshot() {
    let mut cluster = Cluster::new();
    cluster.cut = vec![3];
    cluster.propose(1, crate::limits::LOG_WINDOW_ENTRIES_MAX + 200);
    cluster.cut.clear();
    cluster.member(1).tick();
    cluster.run();
    let (low, high) = cluster.member(1).wanted_entries().expect("the peer's next entries are not in memory any more");
    let log = cluster.logs[0].clone();
    let older: Vec<LogEntry> = log.iter().filter(|entry| (low..high).contains(&entry.index)).cloned().collect();
    cluster.member(1).provide_entries(low, &older);
    cluster.run();
    assert_eq!(cluster.applied[2], cluster.applied[0]);

    cluster.cut = vec![2];
    cluster.propose(1, crate::limits::LOG_WINDOW_ENTRIES_MAX + 200);
    cluster.cut.clear();
    cluster.member(1).tick();
    cluster.run();
    let (low, _) = cluster.member(1).wanted_entries().expect("not in memory");
    cluster.member(1).provide_entries(low, &[]);
    cluster.run();
    let applied = cluster.member(1).applied_index();
    let message = cluster.snapshot_messages.pop().expect("the log was purged");
    cluster.member(2).handle_message(message).expect("a snapshot");
    cluster.run();
    let position = cluster.snapshots[1].clone().expect("it is to be persisted");
    assert_eq!((position.index, position.conf_state.voters), (applied, vec![1, 2, 3]));
    assert_eq!(cluster.member(2).applied_index(), applied);
    cluster.member(1).report_snapshot(2, true);
    cluster.propose(2, 5);
    assert_eq!(cluster.member(2).applied_index(), cluster.member(1).applied_index());
}

#[test]
fn what_would_stop_the_raft_crate_is_refused() {
    let mut cluster = Cluster::new();
    cluster.propose(1, 2);
    let last = cluster.member(2).last_index();
    let message = |kind: raftpb::MessageType| raftpb::Message {
        r#type: Some(kind as i32),
        from: Some(1),
        to: Some(2),
        term: Some(2),
        ..raftpb::Message::default()
    };
    use raftpb::MessageType as Kind;
    let entry = |index, term| raftpb::Entry { index: Some(index), term: Some(term), ..raftpb::Entry::default() };
    let append =
        |index, entries| raftpb::Message { index: Some(index), log_term: Some(1), entries, ..message(Kind::MsgApp) };
    // Only a joint configuration is left by itself.
    let state = raftpb::ConfState { voters: vec![1, 2], auto_leave: Some(true), ..raftpb::ConfState::default() };
    let metadata = raftpb::SnapshotMetadata { conf_state: Some(state), index: Some(last + 5), term: Some(2) };
    let leaving = raftpb::Snapshot { data: None, metadata: Some(metadata) };
    let refused = [
        message(Kind::MsgHup),
        raftpb::Message { term: None, ..message(Kind::MsgProp) },
        raftpb::Message { term: None, ..message(Kind::MsgReadIndex) },
        raftpb::Message { entries: vec![entry(0, 0)], ..message(Kind::MsgProp) },
        raftpb::Message { term: Some(0), ..message(Kind::MsgVote) },
        raftpb::Message { term: None, ..message(Kind::MsgAppResp) },
        raftpb::Message { term: Some(u64::MAX), ..message(Kind::MsgTimeoutNow) },
        raftpb::Message { reject_hint: Some(u64::MAX), ..message(Kind::MsgAppResp) },
        message(Kind::MsgSnap),
        raftpb::Message { snapshot: Some(leaving), ..message(Kind::MsgSnap) },
        raftpb::Message { r#type: Some(77), ..message(Kind::MsgApp) },
        raftpb::Message { commit: Some(last + 1), ..message(Kind::MsgHeartbeat) },
        raftpb::Message { from: None, ..message(Kind::MsgVote) },
        append(3, vec![entry(5, 2)]),
        append(3, vec![entry(4, 9)]),
        append(4, vec![entry(5, 1)]),
        raftpb::Message { log_term: Some(0), commit: Some(last + 9), ..append(last + 9, vec![]) },
        append(u64::MAX, vec![entry(0, 2)]),
        raftpb::Message { log_term: Some(0), ..append(0, vec![entry(1, 0)]) },
    ];
    for message in refused {
        let text = format!("{message:?}");
        assert!(cluster.member(2).handle_message(message).is_err(), "{text}");
    }
    let beyond = raftpb::Message { index: Some(last + 1), ..message(Kind::MsgAppResp) };
    let to_leader = raftpb::Message { from: Some(2), to: Some(1), ..beyond.clone() };
    assert!(cluster.member(1).handle_message(to_leader).is_err());
    // It may have been meant for a leader that lost its place and the end of its log; nobody looks at it here.
    assert!(cluster.member(2).handle_message(beyond).is_ok());
    // So may this; the crate would pass it on with its term, and stop.
    assert!(cluster.member(2).handle_message(message(Kind::MsgTransferLeader)).is_ok());
    cluster.propose(1, 1);
    assert_eq!(cluster.applied[0], cluster.applied[1]);
}

/// The raft crate stops if a new leader's log is not on disk, and the only voter leads as soon as its time is up.
#[test]
fn the_only_voter_stands_for_election_when_its_log_is_on_disk() {
    let config = ConsensusConfig { member_id: 2, election_ticks: 10, pre_vote: true, seed: 1 };
    let mut consensus = Consensus::new(&config, Start::empty()).expect("a valid start");
    let state = raftpb::ConfState { voters: vec![2], ..raftpb::ConfState::default() };
    let metadata = raftpb::SnapshotMetadata { conf_state: Some(state), index: Some(9), term: Some(3) };
    let snapshot = raftpb::Message {
        r#type: Some(raftpb::MessageType::MsgSnap as i32),
        from: Some(1),
        term: Some(3),
        snapshot: Some(raftpb::Snapshot { data: None, metadata: Some(metadata) }),
        ..raftpb::Message::default()
    };
    consensus.handle_message(snapshot.clone()).expect("a snapshot");
    let persist = consensus.poll_persist().expect("it is to be persisted");
    (0..40).for_each(|_| consensus.tick());
    consensus.campaign();
    let now = raftpb::Message { r#type: Some(raftpb::MessageType::MsgTimeoutNow as i32), snapshot: None, ..snapshot };
    consensus.handle_message(now).expect("it is passed over");
    assert_eq!(consensus.role(), Role::Follower);
    consensus.handle_persisted(persist.number);
    (0..40).for_each(|_| consensus.tick());
    settle(&mut consensus);
    assert_eq!(consensus.role(), Role::Leader);
}

/// etcd's rule too. The crate would look for entries whose place the snapshot has taken.
#[test]
fn nobody_stands_for_election_while_a_snapshot_is_written() {
    let mut cluster = Cluster::new();
    cluster.propose(1, 3);
    let (last, term) = (cluster.member(2).last_index(), cluster.member(2).term());
    let state = raftpb::ConfState { voters: vec![1, 2, 3], ..raftpb::ConfState::default() };
    let metadata = raftpb::SnapshotMetadata { conf_state: Some(state), index: Some(last + 20), term: Some(term) };
    let snapshot = raftpb::Message {
        r#type: Some(raftpb::MessageType::MsgSnap as i32),
        from: Some(1),
        term: Some(term),
        snapshot: Some(raftpb::Snapshot { data: None, metadata: Some(metadata) }),
        ..raftpb::Message::default()
    };
    let member = cluster.member(2);
    member.handle_message(snapshot.clone()).expect("a snapshot");
    let persist = member.poll_persist().expect("it is to be persisted");
    (0..40).for_each(|_| member.tick());
    member.campaign();
    let now = raftpb::Message { r#type: Some(raftpb::MessageType::MsgTimeoutNow as i32), snapshot: None, ..snapshot };
    member.handle_message(now.clone()).expect("it is passed over");
    assert_eq!(member.role(), Role::Follower);
    member.handle_persisted(persist.number);
    member.handle_message(now).expect("it may stand now");
    assert_eq!(member.role(), Role::Candidate);
}

#[test]
fn an_append_that_reaches_before_the_log_is_answered() {
    let config = ConsensusConfig { member_id: 2, election_ticks: 10, pre_vote: true, seed: 1 };
    let start = Start::Restart {
        hard_state: HardState { term: 3, vote: 0, commit: 9 },
        conf_state: raftpb::ConfState { voters: vec![1, 2, 3], ..raftpb::ConfState::default() },
        snapshot: (9, 3),
        entries: Vec::new(),
        applied: 9,
    };
    let mut member = Consensus::new(&config, start).expect("a valid start");
    let entry = |index| raftpb::Entry { index: Some(index), term: Some(3), ..raftpb::Entry::default() };
    // The leader does not know that this member has a snapshot up to 9, and goes on where it last heard of it.
    let append = raftpb::Message {
        r#type: Some(raftpb::MessageType::MsgApp as i32),
        from: Some(1),
        to: Some(2),
        term: Some(3),
        log_term: Some(3),
        index: Some(5),
        entries: (6..=8).map(entry).collect(),
        commit: Some(9),
        ..raftpb::Message::default()
    };
    member.handle_message(append).expect("nothing is wrong with it");
    while let Some(persist) = member.poll_persist() {
        member.handle_persisted(persist.number);
    }
    let answer = member.take_messages().pop().expect("the leader learns what this member has");
    assert_eq!((answer.index, answer.reject.unwrap_or(false)), (Some(9), false));
}

#[test]
fn a_leader_whose_term_is_over_is_told_so() {
    let mut cluster = Cluster::new();
    cluster.propose(1, 2);
    let last = cluster.member(2).last_index();
    cluster.member(1).transfer_leader(2);
    cluster.run();
    // What the old leader sent before it knew, late: another entry in the place of the new leader's first one.
    let entry = raftpb::Entry { index: Some(last + 1), term: Some(2), ..raftpb::Entry::default() };
    let late = raftpb::Message {
        r#type: Some(raftpb::MessageType::MsgApp as i32),
        from: Some(1),
        to: Some(3),
        term: Some(2),
        log_term: Some(2),
        index: Some(last),
        entries: vec![entry],
        ..raftpb::Message::default()
    };
    let term = cluster.member(3).term();
    assert!(term > 2 && cluster.member(3).commit_index() > last);
    cluster.member(3).handle_message(late).expect("nothing is wrong with it but its age");
    while let Some(persist) = cluster.member(3).poll_persist() {
        cluster.member(3).handle_persisted(persist.number);
    }
    let answer = cluster.member(3).take_messages().pop().expect("the old leader learns of the new term");
    assert_eq!(answer.term, Some(term));
}

#[test]
fn every_kind_of_change_of_etcds_can_be_proposed_anywhere() {
    use raftpb::ConfChangeType::{
        ConfChangeAddLearnerNode, ConfChangeAddNode, ConfChangeRemoveNode, ConfChangeUpdateNode,
    };
    let mut cluster = Cluster::new();
    let kinds = [ConfChangeAddNode, ConfChangeRemoveNode, ConfChangeUpdateNode, ConfChangeAddLearnerNode];
    for (id, kind) in [1, 2].into_iter().flat_map(|id| kinds.map(|kind| (id, kind))) {
        let change = raftpb::ConfChange {
            id: Some(77),
            r#type: Some(kind as i32),
            node_id: Some(9),
            context: Some(Bytes::from_static(b"{}")),
        };
        let data = Bytes::from(change.encode_to_vec());
        assert!(cluster.member(id).propose_conf_change(data.clone()), "{kind:?} at member {id}");
        cluster.run();
        let last = cluster.applied[0].last().expect("something is applied");
        assert_eq!((last.kind, &last.data), (raftpb::EntryType::EntryConfChange, &data), "{kind:?} at member {id}");
        for member in &mut cluster.members {
            member.apply_conf_change(None).expect("a no-op");
        }
    }
}

/// Found by killing and replacing members of real clusters: the answers to what a leader had sent before it applied its
/// own removal, and the end of its own writes, stopped the raft crate.
#[test]
fn a_leader_that_is_removed_leads_no_longer() {
    for disk_is_slow in [false, true] {
        let mut cluster = Cluster::new();
        let change = raftpb::ConfChange {
            id: Some(77),
            r#type: Some(raftpb::ConfChangeType::ConfChangeRemoveNode as i32),
            node_id: Some(1),
            context: None,
        };
        assert!(cluster.member(1).propose_conf_change(Bytes::from(change.encode_to_vec())));
        cluster.run();
        assert!(cluster.member(1).propose(std::iter::once(Bytes::from_static(b"on its way"))));
        if disk_is_slow {
            cluster.slow = vec![1];
        }
        let written = cluster.member(1).poll_persist();
        for member in &mut cluster.members {
            member.apply_conf_change(Some(&change)).expect("a known member");
        }
        assert_eq!((cluster.member(1).role(), cluster.member(1).leader()), (Role::Follower, 0));
        cluster.run();
        if let Some(persist) = written {
            cluster.member(1).handle_persisted(persist.number);
        }
        cluster.run();
        while cluster.member(3).role() != Role::Leader {
            cluster.member(2).tick();
            cluster.member(3).tick();
            cluster.run();
            assert!(cluster.member(2).role() != Role::Leader, "the seeds let member 3 be first");
        }
        cluster.propose(3, 1);
        assert_eq!(cluster.applied[1], cluster.applied[2]);
        assert_eq!(cluster.applied[1].last().map(|entry| entry.data.as_ref()), Some(&b"3/0"[..]));
    }
}
