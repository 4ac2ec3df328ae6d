use kvorum_store::MemberChange;

use super::*;

/// One letter for each member, whose ids count from 1: `s`tarted voter, `u`nstarted voter, `l`earner.
fn membership(members: &str) -> Membership {
    let mut membership = Membership::default();
    for (id, kind) in (1..).zip(members.chars()) {
        let name = if kind == 's' { format!("m{id}") } else { String::new() };
        let is_learner = kind == 'l';
        membership.members.insert(id, Member { id, name, is_learner, ..Member::default() });
    }
    membership
}

/// Member 1, and how long it has seen the others: `+` for long, `~` for a moment, `-` not.
fn connections(seen: &str) -> Connections<impl Fn(u64) -> Option<u64>> {
    let seen: Vec<char> = seen.chars().collect();
    let up_milliseconds = move |id: u64| match seen.get(id as usize - 2) {
        Some('+') => Some(HEALTHY_MILLISECONDS_MIN + 1),
        Some('~') => Some(HEALTHY_MILLISECONDS_MIN),
        _ => None,
    };
    Connections { own_id: 1, up_milliseconds }
}

#[test]
fn additions() {
    let (unstarted, unhealthy) = (Err(EtcdError::MemberNotEnoughStarted), Err(EtcdError::Unhealthy));
    for (members, seen, voter, learner) in [
        ("s", "", Ok(()), Ok(())),
        ("u", "", unstarted, Ok(())),
        ("ss", "+", Ok(()), Ok(())),
        ("ss", "-", unhealthy, unhealthy),
        ("su", "+", unstarted, Ok(())),
        ("su", "-", unstarted, unhealthy),
        ("sss", "++", Ok(()), Ok(())),
        // Two of the four that there would be are no majority.
        ("sss", "+-", unhealthy, unhealthy),
        ("sss", "+~", unhealthy, unhealthy),
        ("ssu", "+-", unstarted, unhealthy),
        ("ssss", "++-", Ok(()), Ok(())),
        ("sssu", "+++", Ok(()), Ok(())),
        ("sssl", "++-", Ok(()), Ok(())),
        ("sl", "-", Ok(()), Ok(())),
        ("sssss", "+++-", Ok(()), Ok(())),
        ("sssss", "++--", unhealthy, unhealthy),
        ("sssuu", "++--", unstarted, unhealthy),
    ] {
        assert_eq!(check_add(&membership(members), false, &connections(seen)), voter, "{members} {seen}");
        assert_eq!(check_add(&membership(members), true, &connections(seen)), learner, "{members} {seen} learner");
    }
}

#[test]
fn removals() {
    let (unstarted, unhealthy) = (Err(EtcdError::MemberNotEnoughStarted), Err(EtcdError::Unhealthy));
    for (members, seen, id, expected) in [
        ("s", "", 1, unstarted),
        ("ss", "+", 2, Ok(())),
        ("ss", "+", 1, Ok(())),
        ("ss", "-", 2, Ok(())),
        ("ss", "-", 1, unhealthy),
        ("ss", "~", 2, unhealthy),
        ("su", "-", 2, Ok(())),
        ("su", "-", 1, unstarted),
        ("sss", "++", 3, Ok(())),
        ("sss", "+-", 3, Ok(())),
        ("sss", "+-", 2, unhealthy),
        ("sss", "+-", 1, unhealthy),
        ("suu", "--", 3, unstarted),
        ("ssu", "+-", 2, unstarted),
        ("sssl", "---", 4, Ok(())),
        ("sssss", "++--", 2, unhealthy),
        ("sssss", "+++-", 2, Ok(())),
        // Nobody's id: refused when it is applied.
        ("sss", "++", 9, Ok(())),
    ] {
        assert_eq!(check_remove(&membership(members), id, &connections(seen)), expected, "{members} {seen} {id}");
    }
}

#[test]
fn promotions() {
    for (members, expected) in [
        ("sl", Ok(())),
        ("ssl", Ok(())),
        ("sul", Ok(())),
        ("ul", Err(EtcdError::MemberNotEnoughStarted)),
        ("suul", Err(EtcdError::MemberNotEnoughStarted)),
        ("ssul", Ok(())),
    ] {
        assert_eq!(check_promote(&membership(members)), expected, "{members}");
    }
    for (learner, leader, expected) in [
        (90, 100, Ok(())),
        (89, 100, Err(EtcdError::LearnerNotReady)),
        (0, 1, Err(EtcdError::LearnerNotReady)),
        (0, 0, Ok(())),
        (7, 0, Ok(())),
    ] {
        let progress = [(1, leader), (2, learner)];
        assert_eq!(check_learner_ready(Some(&progress), 1, 2), expected, "{learner} of {leader}");
    }
    assert_eq!(check_learner_ready(None, 1, 2), Err(EtcdError::NotLeader));
    assert_eq!(check_learner_ready(Some(&[(1, 5)]), 1, 2), Err(EtcdError::MemberNotFound));
}

#[test]
fn majorities() {
    for (members, seen, expected) in
        [("s", "", true), ("ss", "-", false), ("sss", "+-", true), ("sss", "--", false), ("ssl", "-+", false)]
    {
        assert_eq!(connections(seen).sees_majority(&membership(members)), expected, "{members} {seen}");
    }
}

#[test]
fn new_members() {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let urls = texts(&["http://b:2", " http://a:1"]);
    let member = new_member(&urls, true, 1_700_000_000).expect("good URLs");
    // SHA-1 of "http://a:1http://b:21700000000".
    assert_eq!(member.id, ids::member_id(&["http://a:1", "http://b:2"], "", Some(1_700_000_000)));
    assert_eq!(member.peer_urls, ["http://a:1", "http://b:2"]);
    assert!(member.is_learner && member.name.is_empty());
    assert_ne!(member.id, new_member(&urls, true, 1_700_000_001).expect("good URLs").id);
    for bad in [&[][..], &["a:1"], &["http://a"], &["http://a:1", "http://a:1/x"], &["ftp://a:1"], &[""]] {
        assert_eq!(new_member(&texts(bad), false, 0), Err(EtcdError::MemberBadURLs), "{bad:?}");
    }
}

/// As etcd 3.7.1 writes them into its log; and the store reads them as what they are.
#[test]
fn changes() {
    let member = |learner| {
        let peer_urls = vec!["http://a:1?b&c".to_owned()];
        Member { id: 7, peer_urls, is_learner: learner, ..Member::default() }
    };
    let cases = [
        (add_change(&member(false)), r#"{"id":7,"peerURLs":["http://a:1?b\u0026c"]}"#, 0),
        (add_change(&member(true)), r#"{"id":7,"peerURLs":["http://a:1?b\u0026c"],"isLearner":true}"#, 3),
        (promote_change(7), r#"{"id":7,"peerURLs":null,"isPromote":true}"#, 0),
        (update_change(7, &["http://z:1".to_owned()]), r#"{"id":7,"peerURLs":["http://z:1"]}"#, 2),
        (update_change(7, &[]), r#"{"id":7,"peerURLs":null}"#, 2),
        (remove_change(7), "", 1),
    ];
    for (change, context, kind) in &cases {
        assert_eq!(change.context.as_deref().unwrap_or_default(), context.as_bytes());
        assert_eq!((change.r#type, change.node_id), (Some(*kind), Some(7)));
        assert_eq!(MemberChange::from_conf_change(change).map(|change| change.id()), Ok(7));
    }
    assert_eq!(MemberChange::from_conf_change(&cases[2].0), Ok(MemberChange::Promote { id: 7 }));
}

#[test]
fn promotions_passed_on_come_back() {
    for error in [EtcdError::MemberNotFound, EtcdError::MemberNotLearner, EtcdError::LearnerNotReady] {
        let (status, body) = promotion_refused_page(error);
        assert_eq!(read_promotion_page(status, body.as_bytes()), Promotion::Refused(error));
    }
    let (status, body) = promotion_refused_page(EtcdError::Unhealthy);
    assert!(matches!(read_promotion_page(status, body.as_bytes()), Promotion::Unknown(_)));
    let members = [Member { id: 7, ..Member::default() }];
    let page = kvorum_store::members_to_json(&members);
    assert_eq!(read_promotion_page(200, &page), Promotion::Done(members.to_vec()));
    assert!(matches!(read_promotion_page(200, b"<html>"), Promotion::Unknown(_)));
}
