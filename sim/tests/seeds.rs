//! A fixed set of seeds, and first of all that a seed means the same run each time.

use kvorum_sim::{Options, run};

/// Seeds of one test; the tests run side by side.
const SEEDS: u64 = 100;

#[test]
fn a_the_same_seed_is_the_same_run() {
    for seed in [1, 2, 3] {
        let options = Options { keeps_trace: true, ..Options::from_seed(seed) };
        let (first, second) = (run(&options), run(&options));
        let difference = first.trace.iter().zip(&second.trace).find(|(one, other)| one != other);
        assert_eq!(difference, None, "seed {seed}");
        assert_eq!((first.trace_hash, first.trace.len()), (second.trace_hash, second.trace.len()), "seed {seed}");
        assert!(first.trace.len() > 1_000, "something happens");
    }
    let hash = |seed| run(&Options::from_seed(seed)).trace_hash;
    assert_ne!(hash(1), hash(2));
}

fn check(first: u64) {
    let (mut installed, mut gone, mut leaders, mut answered, mut operations) = (0, 0, 0, 0, 0);
    for seed in first..first + SEEDS {
        let report = run(&Options::from_seed(seed));
        if let Some(violation) = &report.violation {
            panic!("seed {seed}: {violation}\nrepeat with: cargo xtask simulate --seed {seed}");
        }
        installed += report.snapshots_installed;
        gone += report.gone_reports;
        leaders += report.leaders;
        answered += report.answered;
        operations += report.operations;
    }
    println!(
        "{operations} operations, {answered} answered, {leaders} leaders, {installed} snapshots, {gone} reports of gone members"
    );
    // A world in which nothing happens would hold every invariant.
    assert!(installed > 10 && gone > SEEDS && leaders > SEEDS && answered * 2 > operations);
}

#[test]
fn seeds_from_1000() {
    check(1_000);
}

#[test]
fn seeds_from_2000() {
    check(2_000);
}

#[test]
fn seeds_from_3000() {
    check(3_000);
}
