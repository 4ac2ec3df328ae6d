use super::*;

/// The data of a snapshot file that etcd 3.6.9 wrote: three members founded the cluster, one was added and promoted, one
/// updated, one removed. The empty slots of its history are written as `NULLS*` and their count.
const WRITTEN_BY_3_6_9: &str = include_str!("written_by_3_6_9.json");

fn expanded(text: &str) -> String {
    let (before, rest) = text.trim_end().split_once("NULLS*").expect("a history with room");
    let digits = rest.find(']').expect("the end of the list");
    let nulls = vec!["null"; rest[..digits].parse().expect("a count")].join(",");
    format!("{before}{nulls}{}", &rest[digits..])
}

fn member(id: u64, name: &str, peers: &[&str], client: &str) -> Member {
    Member {
        id,
        name: name.to_owned(),
        peer_urls: peers.iter().map(|url| (*url).to_owned()).collect(),
        client_urls: if client.is_empty() { Vec::new() } else { vec![client.to_owned()] },
        is_learner: false,
    }
}

#[test]
fn the_bytes_are_those_of_3_6() {
    let a = member(0xef7d_31c5_6216_4e8e, "a", &["http://127.0.0.1:24101"], "http://127.0.0.1:24201");
    let b = member(
        0x67da_20e7_ea92_0434,
        "b",
        &["http://127.0.0.1:24102", "http://localhost:24102"],
        "http://127.0.0.1:24202",
    );
    let d = member(0x6001_e190_2694_ae46, "d", &["http://127.0.0.1:24104"], "http://127.0.0.1:24204");
    // In the order that etcd happened to take them.
    let written = write(&[&a, &d, &b], &[0xa7a4_b3be_e9a6_16ae], Some("3.6.0"));
    assert_eq!(String::from_utf8(written).expect("JSON"), expanded(WRITTEN_BY_3_6_9));
}

#[test]
fn learners_odd_urls_and_members_that_never_started() {
    let mut membership = Membership::default();
    let mut learner = member(0xab, "", &["http://a:1?b&c"], "");
    learner.is_learner = true;
    membership.members.insert(learner.id, learner);
    let text = String::from_utf8(membership_v2_json(&membership)).expect("JSON");
    let value = r#""Value":"{\"peerURLs\":[\"http://a:1?b\\u0026c\"],\"isLearner\":true}""#;
    assert!(text.contains(value), "{text}");
    assert!(!text.contains("attributes\"") && !text.contains("removed_members") && !text.contains("/0/version"));
    assert!(text.contains(r#""Size":1,"Front":0,"Back":1,"Capacity":1000},"StartIndex":1,"LastIndex":1}"#), "{text}");
}

#[test]
fn the_history_is_a_ring() {
    let mut membership = Membership::default();
    membership.removed.extend(1..=1003);
    let text = String::from_utf8(membership_v2_json(&membership)).expect("JSON");
    assert!(text.contains(r#""Size":1000,"Front":3,"Back":3,"Capacity":1000},"StartIndex":4,"LastIndex":1003}"#));
    assert!(!text.contains("null,null"));
}
