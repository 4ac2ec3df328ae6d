use std::cell::RefCell;
use std::collections::VecDeque;

use super::*;

const OWN: u64 = 1;

/// A member whose answers, and those of its peers, come from lists; the last of a list stays.
#[derive(Default)]
struct Fake {
    own: RefCell<VecDeque<HashKv>>,
    peers: BTreeMap<u64, RefCell<VecDeque<Result<PeerHash, HashUnanswered>>>>,
    finished: Vec<FinishedHash>,
    asked: RefCell<Vec<(u64, i64)>>,
    raised: RefCell<Vec<u64>>,
}

fn next<T: Clone>(list: &RefCell<VecDeque<T>>) -> T {
    let mut list = list.borrow_mut();
    if list.len() > 1 { list.pop_front().expect("two are there") } else { list[0].clone() }
}

impl View for &Fake {
    fn member_id(&self) -> u64 {
        OWN
    }

    fn is_leader(&self) -> bool {
        true
    }

    fn peers(&self) -> Vec<Member> {
        let peer = |id: &u64| Member { id: *id, peer_urls: vec!["http://a:1".to_owned()], ..Member::default() };
        self.peers.keys().map(peer).collect()
    }

    fn finished_hashes(&self) -> Vec<FinishedHash> {
        self.finished.clone()
    }

    async fn own_hash(&self, _: i64) -> Result<HashKv, String> {
        Ok(next(&self.own))
    }

    async fn peer_hash(&self, peer: &Member, revision: i64) -> Result<PeerHash, HashUnanswered> {
        self.asked.borrow_mut().push((peer.id, revision));
        next(&self.peers[&peer.id])
    }

    async fn linearize(&self) -> Result<(), String> {
        Ok(())
    }

    async fn raise(&self, member_id: u64) {
        self.raised.borrow_mut().push(member_id);
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(future)
}

fn own(hash: u32, compact_revision: i64, revision: i64) -> HashKv {
    HashKv { hash, compact_revision, hash_revision: revision, revision, is_comparable: true }
}

fn peer(hash: u32, compact_revision: i64, revision: i64) -> Result<PeerHash, HashUnanswered> {
    Ok(PeerHash { hash, compact_revision, revision })
}

fn silent() -> Result<PeerHash, HashUnanswered> {
    Err(HashUnanswered::Unanswered(Unanswered::Timeout))
}

type Said = Result<PeerHash, HashUnanswered>;

fn fake(own: &[HashKv], peers: &[&[Said]]) -> Fake {
    let peers =
        peers.iter().enumerate().map(|(index, said)| (index as u64 + 2, RefCell::new(said.iter().cloned().collect())));
    Fake { own: RefCell::new(own.iter().copied().collect()), peers: peers.collect(), ..Fake::default() }
}

#[test]
fn a_member_that_comes_back_goes_by_the_same_compaction_alone() {
    for (said, is_equal) in [
        (peer(7, 3, 10), true),
        (peer(8, 3, 10), false),
        (peer(8, 3, 12), false),
        (peer(8, 4, 10), true),
        (silent(), true),
        (Err(HashUnanswered::Compacted), true),
        (Err(HashUnanswered::FutureRevision), true),
        (Err(HashUnanswered::ClusterIdMismatch), true),
    ] {
        let fake = fake(&[own(7, 3, 10)], &[&[peer(7, 3, 10)], std::slice::from_ref(&said)]);
        let expected = if is_equal { Ok(()) } else { Err("1 found data inconsistency with peers".to_owned()) };
        assert_eq!(wait(check_at_start(&&fake)), expected, "{said:?}");
        assert_eq!(*fake.asked.borrow(), [(2, 10), (3, 10)]);
    }
    let unclear = HashKv { is_comparable: false, ..own(7, 3, 10) };
    assert_eq!(wait(check_at_start(&&fake(&[unclear], &[&[peer(8, 3, 10)]]))), Ok(()));
}

/// Who is blamed for (own hash before, own hash after, the followers' hashes), each as hash, compact revision, revision.
#[test]
fn the_leader_goes_by_what_it_held_before_and_after() {
    type Hash = (u32, i64, i64);
    let table: &[(Hash, Hash, &[Hash], Option<u64>)] = &[
        ((7, 3, 10), (7, 3, 10), &[(7, 3, 10), (7, 3, 10)], None),
        // Its own hash changed, and nothing else did.
        ((7, 3, 10), (8, 3, 10), &[(7, 3, 10), (7, 3, 10)], Some(1)),
        ((7, 3, 10), (8, 3, 11), &[(7, 3, 10), (7, 3, 11)], None),
        ((7, 3, 10), (8, 4, 10), &[(7, 3, 10), (9, 4, 10)], None),
        // A follower that is ahead.
        ((7, 3, 10), (8, 3, 12), &[(7, 3, 12), (7, 3, 13)], Some(3)),
        ((7, 3, 10), (8, 3, 12), &[(7, 4, 12), (7, 3, 12)], Some(2)),
        // Another hash behind the same compaction, or behind another.
        ((7, 3, 10), (7, 3, 10), &[(7, 3, 10), (9, 3, 10)], Some(3)),
        ((7, 3, 10), (7, 4, 10), &[(9, 4, 10), (9, 2, 10)], None),
        ((7, -1, 10), (7, -1, 10), &[(9, -1, 10), (9, -1, 10)], Some(2)),
    ];
    for (before, after, followers, expected) in table {
        let own = |(hash, compact, revision): Hash| own(hash, compact, revision);
        let said: Vec<Vec<Said>> =
            followers.iter().map(|&(hash, compact, revision)| vec![peer(hash, compact, revision)]).collect();
        let said: Vec<&[Said]> = said.iter().map(Vec::as_slice).collect();
        let fake = fake(&[own(*before), own(*after), own(*before), own(*after)], &said);
        let checks = Checks { pause: Duration::ZERO, ..Checks::new(&fake) };
        wait(checks.check_all_data()).expect("everything answers");
        assert_eq!(*fake.raised.borrow(), Vec::from_iter(*expected), "{before:?} {after:?} {followers:?}");
    }
}

#[test]
fn what_is_not_found_twice_is_nobodys_fault() {
    let fake_all = fake(&[own(7, 3, 10)], &[&[peer(9, 3, 10), peer(7, 3, 10)]]);
    wait(Checks { pause: Duration::ZERO, ..Checks::new(&fake_all) }.check_all_data()).expect("everything answers");
    assert_eq!((fake_all.asked.borrow().len(), fake_all.raised.borrow().as_slice()), (2, &[][..]));
    let mut fake_compaction = fake(&[own(7, 3, 10)], &[&[peer(9, 3, 10), peer(7, 3, 10)], &[peer(7, 3, 10)]]);
    fake_compaction.finished = vec![FinishedHash { revision: 10, compact_revision: 3, hash: 7 }];
    wait(Checks { pause: Duration::ZERO, ..Checks::new(&fake_compaction) }.check_compactions());
    assert_eq!((fake_compaction.asked.borrow().len(), fake_compaction.raised.borrow().as_slice()), (4, &[][..]));
    let unclear = HashKv { is_comparable: false, ..own(7, 3, 10) };
    let fake_unclear = fake(&[unclear], &[&[peer(9, 3, 10)]]);
    wait(Checks { pause: Duration::ZERO, ..Checks::new(&fake_unclear) }.check_all_data()).expect("everything answers");
    assert!(fake_unclear.raised.borrow().is_empty());
}

#[test]
fn a_majority_is_right_about_a_compaction() {
    let table: &[(&[Said], &[u64])] = &[
        (&[], &[]),
        (&[peer(7, 3, 20), peer(7, 3, 20)], &[]),
        (&[peer(7, 3, 20), peer(9, 3, 20)], &[3]),
        // The leader itself is the one that differs.
        (&[peer(9, 3, 20), peer(9, 3, 20)], &[1]),
        // Nobody knows who is right.
        (&[peer(8, 3, 20), peer(9, 3, 20)], &[0]),
        (&[peer(9, 3, 20)], &[0]),
        (&[peer(9, 3, 20), silent()], &[0]),
        // What cannot be compared counts among the members, and for nobody.
        (&[peer(9, 4, 20), peer(7, 3, 20)], &[]),
        (&[peer(9, 3, 20), peer(9, 4, 20)], &[0]),
        (&[peer(7, 3, 20), peer(7, 3, 20), peer(9, 3, 20), silent()], &[4]),
        (&[peer(8, 3, 20), peer(7, 3, 20), peer(9, 3, 20), peer(7, 3, 20)], &[2, 4]),
    ];
    for (said, expected) in table {
        let lists: Vec<&[Said]> = said.iter().map(std::slice::from_ref).collect();
        let mut fake = fake(&[own(7, 3, 10)], &lists);
        fake.finished = vec![FinishedHash { revision: 10, compact_revision: 3, hash: 7 }];
        wait(Checks { pause: Duration::ZERO, ..Checks::new(&fake) }.check_compactions());
        assert_eq!(*fake.raised.borrow(), *expected, "{said:?}");
    }
}

#[test]
fn compactions_are_compared_from_the_newest_until_all_agree() {
    let hash = |revision| FinishedHash { revision, compact_revision: revision - 5, hash: 7 };
    // One member has not finished the newest; then all have.
    let late = [Err(HashUnanswered::FutureRevision), peer(7, 10, 20), peer(7, 15, 20)];
    let mut fake = fake(&[own(7, 3, 10)], &[&late]);
    fake.finished = vec![hash(10), hash(15), hash(20)];
    {
        let checks = Checks::new(&fake);
        wait(checks.check_compactions());
        assert_eq!(*fake.asked.borrow(), [(2, 20), (2, 15)]);
        wait(checks.check_compactions());
        assert_eq!(fake.asked.borrow()[2..], [(2, 20)]);
        wait(checks.check_compactions());
        assert_eq!(fake.asked.borrow().len(), 3, "nothing new is there");
    }
    // A member that does not answer is asked once in a round.
    fake.peers = BTreeMap::from([(2, RefCell::new(VecDeque::from([silent()])))]);
    fake.asked.borrow_mut().clear();
    wait(Checks::new(&fake).check_compactions());
    assert_eq!(*fake.asked.borrow(), [(2, 20)]);
}
