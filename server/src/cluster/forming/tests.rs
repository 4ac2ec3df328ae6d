use super::*;
use crate::cluster::scripted::{Answers, Names, local, run};
use crate::cluster::versions::Versions;
use crate::config::{Command, parse};

fn config(line: &str) -> Config {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    match parse(&words, &[]) {
        Ok(Command::Serve { config, .. }) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

fn outcome(line: &str, peers: &Answers) -> Result<Forming, String> {
    let names = Names(&[("a:1", "10.0.0.1:1"), ("alias:1", "10.0.0.1:1")]);
    run(form(&config(line), None, peers, &names)).map_err(|error| error.to_string())
}

fn member(id: u64, name: &str, port: u16, started: bool) -> Member {
    let client_urls = if started { vec![local(port - 10)] } else { Vec::new() };
    Member { id, name: name.to_owned(), peer_urls: vec![local(port)], client_urls, is_learner: false }
}

/// The ids that etcd 3.7.1 logged for the same flags.
#[test]
fn ids_are_etcds() {
    let one = "--name m1 --initial-advertise-peer-urls http://127.0.0.1:24311 \
               --initial-cluster m1=http://127.0.0.1:24311 --initial-cluster-token one";
    let three = "--name m1 --initial-advertise-peer-urls http://127.0.0.1:24311,http://10.0.0.1:2380 --initial-cluster \
                 m1=http://127.0.0.1:24311,m2=http://127.0.0.1:24312,m3=http://127.0.0.1:24313,m1=http://10.0.0.1:2380 \
                 --initial-cluster-token three";
    let five = "--name m1 --initial-advertise-peer-urls http://127.0.0.1:24311 --initial-cluster \
                m5=http://127.0.0.1:24315,m1=http://127.0.0.1:24311,m2=http://127.0.0.1:24312,\
                m3=http://127.0.0.1:24313,m4=http://127.0.0.1:24314";
    for (line, cluster, own, all) in [
        (one, 0xd164_b9f9_7431_c204, 0x91fe_55a7_9cf6_4aa7, &[(0x91fe_55a7_9cf6_4aa7, "m1")][..]),
        (
            three,
            0xae8d_89b9_55a3_a307,
            0xbd27_3f0a_d0e7_2caa,
            &[(0x6200_d325_6c26_bd0f, "m2"), (0xbd27_3f0a_d0e7_2caa, "m1"), (0xd5a1_5b70_56be_4662, "m3")],
        ),
        (
            five,
            0xaeba_4299_1235_a73a,
            0xdbf5_dc14_efe8_abc1,
            &[
                (0xa2b9_985e_e383_781f, "m2"),
                (0xadcc_e853_e33a_78cb, "m5"),
                (0xb5b5_c257_8944_eda0, "m3"),
                (0xdbf5_dc14_efe8_abc1, "m1"),
                (0xe682_2a86_4d74_eabb, "m4"),
            ],
        ),
    ] {
        let peers = Answers::default();
        let Ok(Forming::New { cluster_id, member_id, members }) = outcome(line, &peers) else { panic!("{line}") };
        assert_eq!((cluster_id, member_id), (cluster, own));
        assert_eq!(members.iter().map(|member| (member.id, member.name.as_str())).collect::<Vec<_>>(), all);
        assert_eq!(peers.asked.borrow().len(), all.len() - 1, "the others are asked whether this one is known");
    }
    let own = Founding { members: Vec::new() }.own("x").map(|_| ());
    assert_eq!(own, Err(no_local_member("x")));
}

/// Texts of etcd 3.7.1 for the same flags.
#[test]
fn mistakes_in_flags() {
    let at = "--name a --initial-advertise-peer-urls http://127.0.0.1:23800";
    for (more, text) in [
        (
            "--initial-cluster b=http://127.0.0.1:23800",
            r#"couldn't find local name "a" in the initial cluster configuration"#,
        ),
        (
            "--initial-cluster a=http://127.0.0.1:23801,b=http://127.0.0.1:23802",
            r#"--initial-cluster has a=http://127.0.0.1:23801 but missing from --initial-advertise-peer-urls=http://127.0.0.1:23800 (resolved urls: "http://127.0.0.1:23800" != "http://127.0.0.1:23801")"#,
        ),
        (
            "--initial-cluster a=http://127.0.0.1:23800,a=http://127.0.0.1:23801,b=http://127.0.0.1:23802",
            r#"--initial-cluster has a=http://127.0.0.1:23801 but missing from --initial-advertise-peer-urls=http://127.0.0.1:23800 (len(["http://127.0.0.1:23800"]) != len(["http://127.0.0.1:23800" "http://127.0.0.1:23801"]))"#,
        ),
        (
            "--initial-advertise-peer-urls http://127.0.0.1:23800,http://127.0.0.1:23801 \
             --initial-cluster a=http://127.0.0.1:23800,b=http://127.0.0.1:23802",
            "--initial-advertise-peer-urls has http://127.0.0.1:23801 but missing from --initial-cluster=a=http://127.0.0.1:23800,a=http://127.0.0.1:23801",
        ),
        (
            "--initial-cluster a=http://127.0.0.1:23800,b=http://127.0.0.1:23800",
            "initial cluster a=http://127.0.0.1:23800,b=http://127.0.0.1:23800 has duplicate url",
        ),
        ("--initial-cluster=", r#"couldn't find local name "a" in the initial cluster configuration"#),
        (
            "--initial-cluster a=http://localhost:23800",
            r#"--initial-cluster has a=http://localhost:23800 but missing from --initial-advertise-peer-urls=http://127.0.0.1:23800 (resolved urls: "http://127.0.0.1:23800" != "http://localhost:23800")"#,
        ),
        (
            "--initial-cluster a=http://127.0.0.1:23800 --max-learners -1",
            "membership: too many learner members in cluster",
        ),
        (
            "--initial-cluster a=http://127.0.0.1:23800,b=http://127.0.0.1:23802 --initial-cluster-state existing",
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs",
        ),
        (
            "--initial-cluster a=http://127.0.0.1:23800 --initial-cluster-state existing",
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs",
        ),
        (
            "--initial-cluster b=http://127.0.0.1:23800 --initial-cluster-state existing",
            r#"couldn't find local name "a" in the initial cluster configuration"#,
        ),
        (
            "--initial-cluster a=http://127.0.0.1:23800,b=http://127.0.0.1:23800 --initial-cluster-state existing",
            "initial cluster a=http://127.0.0.1:23800,b=http://127.0.0.1:23800 has duplicate url",
        ),
    ] {
        assert_eq!(outcome(&format!("{at} {more}"), &Answers::default()), Err(text.to_owned()), "{more}");
    }
}

#[test]
fn what_is_advertised_may_have_another_name() {
    let line = "--name a --initial-advertise-peer-urls http://alias:1 --initial-cluster a=http://a:1,b=http://b:1";
    let Ok(Forming::New { members, .. }) = outcome(line, &Answers::default()) else { panic!("the same address") };
    assert!(members.iter().any(|member| member.peer_urls == ["http://a:1"]));
    // `--max-learners 0` and the same URL under two names of one host are taken, as by etcd.
    let line = "--name a --initial-advertise-peer-urls http://127.0.0.1:1 --max-learners 0 \
                --initial-cluster a=http://127.0.0.1:1,b=http://localhost:1";
    assert!(outcome(line, &Answers::default()).is_ok());
}

#[test]
fn a_member_that_lost_its_data_does_not_found_again() {
    let line = "--name a --initial-advertise-peer-urls http://127.0.0.1:101 \
                --initial-cluster a=http://127.0.0.1:101,b=http://127.0.0.1:102,c=http://127.0.0.1:103";
    let Ok(Forming::New { cluster_id, member_id, .. }) = outcome(line, &Answers::default()) else { panic!("new") };
    let known = |members: Vec<Member>| {
        let mut peers = Answers::default();
        peers.members.insert(local(103), PeerMembers { cluster_id, members });
        outcome(line, &peers).map(|_| ())
    };
    assert_eq!(known(vec![member(member_id, "", 101, false)]), Ok(()));
    assert_eq!(known(vec![member(7, "other", 101, true)]), Ok(()));
    assert_eq!(known(Vec::new()), Ok(()));
    assert_eq!(
        known(vec![member(member_id, "a", 101, true)]),
        Err(format!("member {member_id:x} has already been bootstrapped"))
    );
}

const JOIN: &str = "--name m1 --initial-advertise-peer-urls http://127.0.0.1:24512 --initial-cluster-state existing \
                    --initial-cluster m0=http://127.0.0.1:24511,m1=http://127.0.0.1:24512";

/// A cluster of one that has taken in a learner with a URL.
fn cluster(port: u16) -> Answers {
    let members = vec![
        member(0x7291_e3a0_5705_d00b, "m0", 24511, true),
        Member { is_learner: true, ..member(0x3dc6_4535_08cd_bddd, "", port, false) },
    ];
    let mut peers = Answers::default();
    peers.members.insert(local(24511), PeerMembers { cluster_id: 0x6659_246c_29ed_93c4, members });
    let versions = Versions { cluster: "3.7.0".to_owned(), ..Versions::default() };
    peers.versions.insert(local(24511), versions);
    peers.downgrade_enabled.insert(local(24511), false);
    peers
}

#[test]
fn joining() {
    let peers = cluster(24512);
    let joined = outcome(JOIN, &peers).expect("all agrees");
    let Forming::Join { cluster_id, member_id, members, remotes } = joined else { panic!("{joined:?}") };
    assert_eq!((cluster_id, member_id), (0x6659_246c_29ed_93c4, 0x3dc6_4535_08cd_bddd));
    let ids = |members: &[Member]| members.iter().map(|member| (member.id, member.name.clone())).collect::<Vec<_>>();
    assert_eq!(ids(&members), [(0x3dc6_4535_08cd_bddd, "m1".to_owned()), (0x7291_e3a0_5705_d00b, "m0".to_owned())]);
    assert_eq!(ids(&remotes), [(0x3dc6_4535_08cd_bddd, String::new()), (0x7291_e3a0_5705_d00b, "m0".to_owned())]);
    let at = local(24511);
    assert_eq!(
        *peers.asked.borrow(),
        [format!("{at}/members"), format!("{at}/version"), format!("{at}/downgrade/enabled")]
    );
}

/// Texts of etcd 3.7.1 for the same flags and members; it lists members in no order.
#[test]
fn clusters_that_cannot_be_joined() {
    let mut one = cluster(24512);
    one.members.get_mut(&local(24511)).expect("there").members.truncate(1);
    let alone = "error validating peerURLs {ClusterID:6659246c29ed93c4 Members:[&{ID:7291e3a05705d00b \
                 RaftAttributes:{PeerURLs:[http://127.0.0.1:24511] IsLearner:false} Attributes:{Name:m0 \
                 ClientURLs:[http://127.0.0.1:24501]}}] RemovedMemberIDs:[]}: member count is unequal";
    assert_eq!(outcome(JOIN, &one), Err(alone.to_owned()));
    let other_url = "error validating peerURLs {ClusterID:6659246c29ed93c4 Members:[&{ID:3dc6453508cdbddd \
                     RaftAttributes:{PeerURLs:[http://127.0.0.1:24512] IsLearner:true} Attributes:{Name: ClientURLs:[]}} \
                     &{ID:7291e3a05705d00b RaftAttributes:{PeerURLs:[http://127.0.0.1:24511] IsLearner:false} \
                     Attributes:{Name:m0 ClientURLs:[http://127.0.0.1:24501]}}] RemovedMemberIDs:[]}: PeerURLs: no match \
                     found for existing member (3dc6453508cdbddd, [http://127.0.0.1:24512]), last resolver error \
                     (resolved urls: \"http://127.0.0.1:24512\" != \"http://127.0.0.1:24513\")";
    let flags = JOIN.replace("m1=http://127.0.0.1:24512", "m1=http://127.0.0.1:24513");
    assert_eq!(outcome(&flags, &cluster(24512)), Err(other_url.to_owned()));
    let mut empty = cluster(24512);
    empty.members.get_mut(&local(24511)).expect("there").members.clear();
    let error = outcome(JOIN, &empty);
    let text = "cannot fetch cluster info from peer urls: failed to get raft cluster member(s) from the given URLs";
    assert_eq!(error, Err(text.to_owned()));
    let none = outcome(&format!("{JOIN} --max-learners 0"), &cluster(24512));
    assert_eq!(none, Err("membership: too many learner members in cluster".to_owned()));
    for (version, downgrading) in [("3.8.0", false), ("not_decided", false), ("3.7.0", true)] {
        let mut other = cluster(24512);
        other.versions.get_mut(&local(24511)).expect("there").cluster = version.to_owned();
        other.downgrade_enabled.insert(local(24511), downgrading);
        let error = outcome(JOIN, &other);
        assert_eq!(error, Err("incompatible with current running cluster".to_owned()), "{version}");
    }
}

#[test]
fn a_member_with_a_log_asks_nobody() {
    let peers = Answers::default();
    let logged = Logged { cluster_id: 2, member_id: 1 };
    // Not even whether the flags make sense.
    let config = config("--name a --initial-cluster b=http://b:1 --initial-cluster-state existing");
    let forming = run(form(&config, Some(logged), &peers, &Names(&[])));
    assert_eq!(forming, Ok(Forming::Restart { cluster_id: 2, member_id: 1 }));
    assert!(peers.asked.borrow().is_empty());
    assert_eq!((check_learners(2, 2), check_learners(2, 1).is_err()), (Ok(()), true));
}

#[test]
fn skipped_ticks() {
    for (members, active, allowed, expected) in [
        (1, 0, true, Some(9)),
        (1, 0, false, Some(9)),
        (3, 1, true, None),
        (3, 2, true, Some(8)),
        (3, 2, false, None),
        (2, 1, true, None),
    ] {
        assert_eq!(ticks_to_skip(members, active, 10, allowed), expected, "{members} {active} {allowed}");
    }
}

#[test]
fn answers_of_peers() {
    let page = br#"[{"id":1,"peerURLs":["http://a:1"],"name":"a"},{"id":2,"peerURLs":null,"isLearner":true}]"#;
    let read = PeerMembers::read("cdf818194e3a8c32", page).expect("as etcd serves it");
    assert_eq!((read.cluster_id, read.members.len()), (0xcdf8_1819_4e3a_8c32, 2));
    assert!(PeerMembers::read("", page).is_err() && PeerMembers::read("1", b"{").is_err());
    assert_eq!((crate::cluster::parse_bool("true"), crate::cluster::parse_bool("f")), (Ok(true), Ok(false)));
    assert!(crate::cluster::parse_bool("yes").is_err());
}
