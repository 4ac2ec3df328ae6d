//! Histories broken by hand, each beside its repaired twin.

use super::super::{NANOSECONDS_PER_SECOND, Refusal};
use super::*;

const LINEARIZABLE: &str = "linearizable";

#[test]
fn a_read_must_not_be_stale() {
    let history = |revision, shown: KeyValue| {
        check(vec![
            done(1, 2, put("a", "1"), 2, Reply::Put),
            done(3, 4, put("a", "2"), 3, Reply::Put),
            done(5, 6, read("a"), revision, found(&[shown])),
        ])
    };
    differ(LINEARIZABLE, history(2, kv("a", "1", 2)), history(3, again("a", "2", 2, 3, 2)));
}

#[test]
fn a_read_beside_a_write_may_show_either_side_of_it() {
    for (revision, shown) in [(2, kv("a", "1", 2)), (3, again("a", "2", 2, 3, 2))] {
        let history = vec![
            done(1, 2, put("a", "1"), 2, Reply::Put),
            done(3, 7, put("a", "2"), 3, Reply::Put),
            done(5, 6, read("a"), revision, found(&[shown])),
        ];
        check(history).unwrap();
    }
}

#[test]
fn an_acknowledged_write_is_not_lost() {
    let history = |last: i64, shown: KeyValue| {
        check(vec![
            done(1, 2, put("a", "1"), 2, Reply::Put),
            done(3, 4, put("a", "2"), 3, Reply::Put),
            done(5, 6, put("b", "x"), last, Reply::Put),
            done(7, 8, read("a"), last, found(&[shown])),
        ])
    };
    // The second put is gone, and its revision given again.
    differ(LINEARIZABLE, history(3, kv("a", "1", 2)), history(4, again("a", "2", 2, 3, 2)));
}

#[test]
fn an_update_by_condition_is_not_lost() {
    let history = |second: (i64, Reply)| {
        check(vec![
            done(1, 2, put("a", "0"), 2, Reply::Put),
            done(3, 8, swap("a", 2, &[("a", "1")]), 3, swapped(1)),
            done(4, 7, swap("a", 2, &[("a", "2")]), second.0, second.1),
        ])
    };
    let refused = Reply::Txn { succeeded: false, replies: vec![found(&[again("a", "1", 2, 3, 2)])] };
    differ(LINEARIZABLE, history((4, swapped(1))), history((3, refused)));
}

#[test]
fn a_write_is_applied_once() {
    let history = |revision, shown: KeyValue| {
        check(vec![done(1, 2, put("a", "1"), 2, Reply::Put), done(3, 4, read("a"), revision, found(&[shown]))])
    };
    differ(LINEARIZABLE, history(3, again("a", "1", 2, 3, 2)), history(2, kv("a", "1", 2)));
}

#[test]
fn an_open_write_happens_at_most_once() {
    let history = |shown: KeyValue| {
        let revision = shown.mod_revision;
        check(vec![open(1, put("a", "1")), done(3, 4, read("a"), revision, found(&[shown]))])
    };
    differ(LINEARIZABLE, history(again("a", "1", 2, 3, 2)), history(kv("a", "1", 2)));
}

#[test]
fn revisions_do_not_go_back() {
    let history = |revision| {
        check(vec![
            done(1, 2, put("a", "1"), 2, Reply::Put),
            done(3, 4, put("b", "1"), 3, Reply::Put),
            done(5, 6, read("c"), revision, found(&[])),
        ])
    };
    differ(LINEARIZABLE, history(2), history(3));
}

#[test]
fn two_writes_never_share_a_revision() {
    let history = |revision| {
        check(vec![done(1, 4, put("a", "1"), 2, Reply::Put), done(2, 3, put("b", "1"), revision, Reply::Put)])
    };
    differ(LINEARIZABLE, history(2), history(3));
}

#[test]
fn a_transaction_is_seen_whole() {
    let history = |shown: &[KeyValue]| {
        check(vec![
            done(1, 2, swap("a", 0, &[("a", "1"), ("b", "1")]), 2, swapped(2)),
            done(3, 4, read_all(), 2, found(shown)),
        ])
    };
    differ(LINEARIZABLE, history(&[kv("a", "1", 2)]), history(&[kv("a", "1", 2), kv("b", "1", 2)]));
}

#[test]
fn a_transaction_without_an_answer_is_seen_whole_as_well() {
    let history = |shown: &[KeyValue]| {
        check(vec![
            open(1, swap("a", 0, &[("a", "1"), ("b", "1")])),
            done(3, 4, read_all(), 2, found(shown)),
            done(5, 6, put("c", "1"), 3, Reply::Put),
        ])
    };
    differ(LINEARIZABLE, history(&[kv("b", "1", 2)]), history(&[kv("a", "1", 2), kv("b", "1", 2)]));
}

#[test]
fn a_read_does_not_show_the_future() {
    let history = |call| {
        check(vec![done(2, 3, read("a"), 2, found(&[kv("a", "1", 2)])), done(call, 5, put("a", "1"), 2, Reply::Put)])
    };
    differ(LINEARIZABLE, history(4), history(1));
}

#[test]
fn a_serializable_read_may_be_old_but_not_wrong_nor_early() {
    let history = |read_end, shown: &[KeyValue], revision| {
        check(vec![
            done(1, 2, put("a", "1"), 2, Reply::Put),
            done(5, 6, put("a", "2"), 3, Reply::Put),
            done(read_end - 1, read_end, read_any("a"), revision, found(shown)),
        ])
    };
    let (first, second) = (kv("a", "1", 2), again("a", "2", 2, 3, 2));
    differ(LINEARIZABLE, history(9, std::slice::from_ref(&second), 2), history(9, std::slice::from_ref(&first), 2));
    differ(LINEARIZABLE, history(4, std::slice::from_ref(&second), 3), history(9, std::slice::from_ref(&second), 3));
    differ(LINEARIZABLE, history(9, &[], 2), history(3, &[], 1));
}

#[test]
fn a_read_of_the_past_shows_that_past() {
    let history = |shown: &[KeyValue]| {
        check(vec![
            done(1, 2, put("a", "1"), 2, Reply::Put),
            done(3, 4, delete("a"), 3, Reply::Delete { deleted: 1 }),
            done(5, 6, read_all_at(2), 3, found(shown)),
        ])
    };
    differ(LINEARIZABLE, history(&[]), history(&[kv("a", "1", 2)]));
}

#[test]
fn an_open_write_may_happen_late_but_not_before_its_call() {
    let history = |call| {
        check(vec![
            open(call, put("a", "1")),
            done(2, 3, read("a"), 1, found(&[])),
            done(4, 5, read("a"), 2, found(&[kv("a", "1", 2)])),
            done(6, 7, put("b", "1"), 3, Reply::Put),
        ])
    };
    differ(LINEARIZABLE, history(6), history(1));
}

#[test]
fn a_deletion_is_not_forgotten() {
    let history = |deleted| {
        check(vec![
            done(1, 2, put("a", "1"), 2, Reply::Put),
            done(3, 4, delete("a"), 3, Reply::Delete { deleted: 1 }),
            done(5, 6, delete("a"), 3, Reply::Delete { deleted }),
        ])
    };
    differ(LINEARIZABLE, history(1), history(0));
}

#[test]
fn nobody_writes_without_having_been_asked() {
    let history = |asked: bool| {
        let mut operations = vec![done(1, 2, put("a", "1"), 2, Reply::Put), done(5, 6, put("b", "1"), 4, Reply::Put)];
        if asked {
            operations.push(open(3, delete("a")));
        }
        check(operations)
    };
    differ(LINEARIZABLE, history(false), history(true));
}

#[test]
fn of_open_writes_the_one_that_was_seen_is_chosen() {
    let history = |shown: KeyValue| {
        let mut operations: Vec<Operation> = Vec::new();
        for value in ["1", "2", "3", "4", "5"] {
            operations.push(open(1, put("a", value)));
        }
        operations.push(done(10, 11, put("b", "1"), 4, Reply::Put));
        operations.push(done(12, 13, read("a"), 4, found(&[shown])));
        check(operations)
    };
    differ(LINEARIZABLE, history(again("a", "4", 2, 3, 3)), history(again("a", "4", 2, 3, 2)));
}

fn four_writes() -> Vec<Operation> {
    vec![
        done(1, 2, put("a", "1"), 2, Reply::Put),
        done(3, 4, put("b", "1"), 3, Reply::Put),
        done(5, 6, swap("a", 2, &[("a", "2"), ("c", "1")]), 4, swapped(2)),
        done(7, 8, put("b", "2"), 5, Reply::Put),
    ]
}

fn four_revisions() -> [Vec<KeyValue>; 4] {
    [
        vec![kv("a", "1", 2)],
        vec![kv("b", "1", 3)],
        vec![again("a", "2", 2, 4, 2), kv("c", "1", 4)],
        vec![again("b", "2", 3, 5, 2)],
    ]
}

fn check_watch(messages: Vec<(Time, WatchMessage)>) -> Result<(), Violation> {
    check_all(four_writes(), vec![watch_all(messages)])
}

fn whole_watch() -> Result<(), Violation> {
    let [first, second, third, fourth] = four_revisions();
    check_watch(vec![
        created(1),
        events(10, 2, &first),
        events(11, 4, &[second, third].concat()),
        progress(12, 4),
        events(13, 5, &fourth),
        progress(14, 5),
    ])
}

#[test]
fn a_watch_has_no_gap() {
    let [first, _, third, _] = four_revisions();
    let gap = check_watch(vec![created(1), events(10, 2, &first), events(11, 4, &third)]);
    differ("watch reliable", gap, whole_watch());
}

#[test]
fn a_watch_repeats_nothing() {
    let [first, second, ..] = four_revisions();
    let again = check_watch(vec![created(1), events(10, 2, &first), events(11, 3, &[first, second].concat())]);
    differ("watch unique and ordered", again, whole_watch());
}

#[test]
fn a_watch_is_ordered() {
    let [first, second, ..] = four_revisions();
    let gap = check_watch(vec![created(1), events(10, 3, &[second, first].concat())]);
    differ("watch reliable", gap, whole_watch());
    let swapped = check_watch(vec![created(1), events(10, 3, &four_revisions()[..2].concat()), events(11, 3, &[])]);
    differ(
        "watch atomic",
        check_watch(vec![
            created(1),
            events(9, 4, &{
                let mut all = four_revisions()[..3].concat();
                all.swap(2, 3);
                all
            }),
        ]),
        swapped,
    );
}

#[test]
fn a_watch_does_not_split_a_revision() {
    let [first, second, third, _] = four_revisions();
    let split = |more| {
        let mut messages = vec![created(1), events(10, 3, &[first.clone(), second.clone()].concat())];
        messages.push(events(11, 4, &third[..1]));
        if let WatchMessage::Events { more: flag, .. } = &mut messages[2].1 {
            *flag = more;
        }
        messages.push(events(12, 4, &third[1..]));
        check_watch(messages)
    };
    // With fragments it may.
    differ("watch atomic", split(false), split(true));
}

#[test]
fn a_bookmark_covers_what_was_delivered() {
    let [first, second, ..] = four_revisions();
    let early = check_watch(vec![created(1), events(10, 2, &first), progress(11, 3), events(12, 3, &second)]);
    differ("watch reliable", early, whole_watch());
    let back = check_watch(vec![created(1), events(10, 2, &first), events(11, 3, &second), progress(12, 2)]);
    differ("watch bookmarkable", back, whole_watch());
}

#[test]
fn a_watch_resumes_where_it_was_told_to() {
    let [_, second, third, fourth] = four_revisions();
    let resumed = |first: &[KeyValue]| {
        let mut record = watch_all(vec![created(9), events(10, 5, &[first, &third, &fourth].concat())]);
        record.start_revision = 3;
        record.complete_until = 5;
        check_all(four_writes(), vec![record])
    };
    differ("watch reliable", resumed(&[]), resumed(&second));
}

#[test]
fn a_watch_gets_everything_in_the_end() {
    let until = |complete_until| {
        let [first, second, third, _] = four_revisions();
        let mut record = watch_all(vec![created(1), events(10, 4, &[first, second, third].concat())]);
        record.complete_until = complete_until;
        check_all(four_writes(), vec![record])
    };
    differ("watch reliable", until(5), until(4));
}

#[test]
fn a_watch_shows_nothing_before_it_is_written() {
    let [first, ..] = four_revisions();
    let at = |time| {
        let mut writes = four_writes();
        writes.insert(0, done(0, 1, put("z", "0"), 2, Reply::Put));
        for operation in &mut writes[1..] {
            operation.call += 10;
            operation.end += 10;
        }
        writes.remove(0);
        check_all(writes, vec![watch_all(vec![created(1), events(time, 2, &first)])])
    };
    differ("watch reliable", at(10), at(11));
}

#[test]
fn a_watch_tells_what_was_there_before() {
    let told = |previous: Option<KeyValue>| {
        let mut record = watch_all(vec![created(1)]);
        record.start_revision = 5;
        record.previous = true;
        let [.., fourth] = four_revisions();
        let event = WatchEvent { event: Event::Put(fourth[0].clone()), previous };
        record.messages.push((20, WatchMessage::Events { revision: 5, events: vec![event], more: false }));
        check_all(four_writes(), vec![record])
    };
    differ("watch reliable", told(None), told(Some(kv("b", "1", 3))));
}

#[test]
fn a_watch_of_a_deletion_gets_it() {
    let with = |event| {
        let writes =
            vec![done(1, 2, put("a", "1"), 2, Reply::Put), done(3, 4, delete("a"), 3, Reply::Delete { deleted: 1 })];
        let mut record = watch_all(vec![created(1), events(10, 2, &[kv("a", "1", 2)])]);
        let event = WatchEvent { event, previous: None };
        record.messages.push((11, WatchMessage::Events { revision: 3, events: vec![event], more: false }));
        check_all(writes, vec![record])
    };
    differ(LINEARIZABLE, with(Event::Put(again("a", "1", 2, 3, 2))), with(deleted("a", 3)));
}

const SECOND: Time = NANOSECONDS_PER_SECOND;

fn grant(call: Time) -> Operation {
    let request = Request::LeaseGrant { id: 7, ttl_seconds: 10 };
    done(call * SECOND, call * SECOND + 1, request, 1, Reply::LeaseGrant { ttl_seconds: 10 })
}

fn renew(call: Time) -> Operation {
    let request = Request::LeaseKeepAlive { id: 7 };
    done(call * SECOND, call * SECOND + 1, request, 1, Reply::LeaseKeepAlive { ttl_seconds: 10 })
}

#[test]
fn a_lease_with_keys_does_not_end_early() {
    let gone_at = |seen: Time| {
        let stored = leased(7, kv("a", "1", 2));
        check(vec![
            grant(1),
            done(2 * SECOND, 2 * SECOND + 1, put_leased("a", "1", 7), 2, Reply::Put),
            renew(5),
            done(6 * SECOND, 6 * SECOND + 1, read("a"), 2, found(&[stored])),
            done(seen * SECOND, seen * SECOND + 1, read("a"), 3, found(&[])),
        ])
    };
    differ("lease not early", gone_at(14), gone_at(15));
}

#[test]
fn a_lease_without_keys_does_not_end_early() {
    let gone_at = |seen: Time| {
        let refused = Outcome::Refused(Refusal::LeaseNotFound);
        check(vec![grant(1), ended(seen * SECOND, seen * SECOND + 1, put_leased("a", "1", 7), refused)])
    };
    differ("lease not early", gone_at(10), gone_at(11));
}

#[test]
fn a_renewal_finds_a_lease_that_lives() {
    let missing_at = |seen: Time| {
        let refused = Outcome::Refused(Refusal::LeaseNotFound);
        let request = Request::LeaseKeepAlive { id: 7 };
        check(vec![grant(1), renew(3), ended(seen * SECOND, seen * SECOND + 1, request, refused)])
    };
    differ("lease not early", missing_at(12), missing_at(13));
}

#[test]
fn a_revoked_lease_may_be_gone_at_once_with_its_keys() {
    let read_after = |kvs: &[KeyValue]| {
        check(vec![
            grant(1),
            done(2 * SECOND, 2 * SECOND + 1, put_leased("a", "1", 7), 2, Reply::Put),
            done(3 * SECOND, 3 * SECOND + 1, Request::LeaseRevoke { id: 7 }, 3, Reply::LeaseRevoke),
            done(4 * SECOND, 4 * SECOND + 1, read("a"), 3, found(kvs)),
        ])
    };
    differ(LINEARIZABLE, read_after(&[leased(7, kv("a", "1", 2))]), read_after(&[]));
}

#[test]
fn a_key_needs_a_lease_that_is_there() {
    let history = |granted: bool| {
        let mut operations = vec![done(5, 6, put_leased("a", "1", 7), 2, Reply::Put)];
        if granted {
            operations.push(open(1, Request::LeaseGrant { id: 7, ttl_seconds: 10 }));
        }
        check(operations)
    };
    differ(LINEARIZABLE, history(false), history(true));
}

#[test]
fn a_lease_that_was_promised_explains_no_deletion_that_another_can() {
    // Somebody wrote at 2 and something deleted it at 3, unseen: the lease that had run out, not the one just renewed.
    let other = |id| {
        done(SECOND, SECOND + 1, Request::LeaseGrant { id, ttl_seconds: 2 }, 1, Reply::LeaseGrant { ttl_seconds: 2 })
    };
    check(vec![
        grant(1),
        other(8),
        renew(9),
        open(2 * SECOND, put_leased("a", "1", 7)),
        open(2 * SECOND, put_leased("b", "1", 8)),
        done(10 * SECOND, 10 * SECOND + 1, read_all(), 3, found(&[])),
    ])
    .unwrap();
}
