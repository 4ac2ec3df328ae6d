use super::*;

fn version(text: &str) -> Version {
    text.parse().expect(text)
}

fn downgrade(target: &str) -> Downgrade {
    Downgrade { enabled: !target.is_empty(), target_version: target.to_owned() }
}

/// `-` stands for a member that does not answer.
fn answers(list: &str, put: fn(&mut Versions, String)) -> Vec<Answer> {
    (1..)
        .zip(list.split_whitespace())
        .map(|(member_id, text)| {
            let versions = (text != "-").then(|| {
                let mut versions = Versions::default();
                put(&mut versions, text.to_owned());
                versions
            });
            Answer { member_id, versions }
        })
        .collect()
}

fn servers(list: &str) -> Vec<Answer> {
    answers(list, |versions, text| versions.server = text)
}

#[test]
fn pages() {
    let page = br#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#;
    let read = Versions::from_json(page).expect("as etcd serves it");
    assert_eq!((read.server.as_str(), read.cluster.as_str(), read.storage.as_str()), ("3.7.1", "3.7.0", "3.7.0"));
    assert_eq!(serde_json::to_vec(&read).expect("plain"), page);
    let old = Versions::from_json(br#"{"etcdserver":"3.4.1","etcdcluster":"not_decided"}"#).expect("an old member's");
    assert_eq!(old.storage, "");
    assert!(Versions::from_json(b"404 page not found").is_err());
    assert_eq!(Versions::own(None).cluster, "not_decided");
}

#[test]
fn who_may_join() {
    for (downgrading, clusters, expected) in [
        (false, "3.7.0", true),
        (false, "3.0.0 3.7.0", true),
        (false, "- 3.7.0 -", true),
        (false, "not_decided 3.6.0", true),
        (false, "", false),
        (false, "- -", false),
        (false, "not_decided", false),
        (false, "2.3.0", false),
        (false, "3.7.0 3.8.0", false),
        (true, "3.7.0", false),
        (true, "3.8.0", true),
        (true, "3.9.0", false),
    ] {
        let answers = answers(clusters, |versions, text| versions.cluster = text);
        assert_eq!(is_compatible(&answers, &allowed_range(downgrading)), expected, "{downgrading} {clusters}");
    }
}

#[test]
fn the_cluster_version() {
    for (cluster, target, members, expected) in [
        ("", "", "3.7.1 3.7.1", Ok(Some("3.7.0"))),
        ("", "", "3.7.1 3.6.9", Ok(Some("3.6.0"))),
        ("", "", "3.7.1 -", Ok(Some("3.0.0"))),
        ("", "", "3.7.1 what", Ok(Some("3.0.0"))),
        ("3.0.0", "", "3.7.1 3.7.1", Ok(Some("3.7.0"))),
        ("3.6.0", "", "3.7.1 3.7.1", Ok(Some("3.7.0"))),
        ("3.6.0", "", "3.7.1 3.6.9", Ok(None)),
        ("3.6.0", "", "3.7.1 -", Ok(None)),
        ("3.7.0", "", "3.7.1 3.7.1", Ok(None)),
        ("3.7.0", "", "3.7.1 3.6.9", Ok(None)),
        ("3.6.0", "", "4.0.0 4.0.0", Ok(None)),
        ("3.7.0", "3.6.0", "3.7.1 3.7.1", Ok(Some("3.6.0"))),
        ("3.7.0", "3.6.0", "3.7.1 -", Ok(None)),
        ("3.6.0", "3.6.0", "3.7.1 3.6.9", Ok(None)),
        ("3.7.0", "3.6.0", "3.7.1 3.6.9", Err(InvalidDowngradeTarget)),
        ("3.7.0", "3.5.0", "3.7.1 3.7.1", Err(InvalidDowngradeTarget)),
    ] {
        let cluster = (!cluster.is_empty()).then(|| version(cluster));
        let lowest = lowest_server_version(&servers(members));
        let decided = decide(cluster.as_ref(), &downgrade(target), lowest.as_ref());
        assert_eq!(decided, expected.map(|text| text.map(version)), "{cluster:?} {target} {members}");
    }
}

#[test]
fn the_end_of_a_downgrade() {
    for (members, expected) in
        [("3.6.9 3.6.0", true), ("3.6.9 3.7.1", false), ("3.6.9 -", false), ("3.6.9 what", false)]
    {
        assert_eq!(all_run(&version("3.6.0"), &servers(members)), expected, "{members}");
    }
}

/// As etcd 3.7.1 answered to `etcdctl downgrade`.
#[test]
fn downgrades_that_are_asked_for() {
    for (text, running, expected) in [
        ("3.6", "", Ok(())),
        ("3.6.1", "", Ok(())),
        ("3.5", "", Err(EtcdError::InvalidDowngradeTargetVersion)),
        ("3.7", "", Err(EtcdError::InvalidDowngradeTargetVersion)),
        ("2.7", "", Err(EtcdError::InvalidDowngradeTargetVersion)),
        ("x", "", Err(EtcdError::WrongDowngradeVersionFormat)),
        ("3.6.1.1", "", Err(EtcdError::WrongDowngradeVersionFormat)),
        ("3.6", "3.6.0", Err(EtcdError::DowngradeInProcess)),
        ("3.5", "3.6.0", Err(EtcdError::InvalidDowngradeTargetVersion)),
    ] {
        let answer = downgrade_target(text)
            .and_then(|target| check_downgrade(Some(&Version::of(3, 7)), &downgrade(running), &target));
        assert_eq!(answer, expected, "{text} {running}");
    }
    let undecided = check_downgrade(None, &downgrade(""), &version("3.6.0"));
    assert_eq!(undecided, Err(EtcdError::ClusterVersionUnavailable));
    assert_eq!(check_downgrade_cancel(&downgrade("")), Err(EtcdError::NoInflightDowngrade));
    assert_eq!(check_downgrade_cancel(&downgrade("3.6.0")), Ok(()));
}

#[test]
fn a_newer_cluster_is_not_entered() {
    assert_eq!(check_cluster_version(None), Ok(()));
    assert_eq!(check_cluster_version(Some(&version("3.7.0"))), Ok(()));
    assert!(check_cluster_version(Some(&version("3.8.0"))).is_err());
}
