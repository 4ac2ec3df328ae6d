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
