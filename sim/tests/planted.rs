//! Every planted bug is found within a bounded number of seeds, which is printed (`--nocapture` shows it). A simulator
//! that finds nothing where something was planted proves nothing by finding nothing elsewhere.

use kvorum_sim::{Bug, Options, run};

/// Seeds after which a bug counts as not found.
const SEEDS_MAX: u64 = 150;

fn find(bug: Bug) {
    for seed in 1..=SEEDS_MAX {
        let report = run(&Options { bug: Some(bug), ..Options::from_seed(seed) });
        if let Some(violation) = report.violation {
            let text: String = violation.to_string().chars().take(300).collect();
            println!("{bug:?} was found with seed {seed}: {text}");
            return;
        }
    }
    panic!("{bug:?} was not found within {SEEDS_MAX} seeds");
}

macro_rules! planted {
    ($($name:ident => $bug:ident;)*) => {
        $(#[test]
        fn $name() {
            find(Bug::$bug);
        })*

        #[test]
        fn every_bug_is_among_them() {
            assert_eq!([$(Bug::$bug),*], Bug::ALL);
        }
    };
}

planted! {
    a_vote_that_is_not_persisted => VoteNotPersisted;
    an_acknowledgement_before_the_sync => AckBeforeSync;
    a_leader_that_counts_itself_too_early => LeaderCountsItself;
    a_skipped_entry => SkippedEntry;
    an_entry_applied_twice_after_a_restart => DuplicateApply;
    a_read_without_a_quorum => ReadWithoutQuorum;
    a_stale_leader_that_serves_reads => StaleLeaderReads;
    a_snapshot_without_its_configuration => SnapshotWithoutConfState;
    a_snapshot_that_is_too_old => SnapshotTooOld;
    a_forgotten_tail => ForgottenTail;
    lease_timers_that_run_ahead => LeaseClockAhead;
    a_follower_that_answers_renewals => RenewalByFollower;
    a_proposal_sent_twice => ProposalSentTwice;
    a_watch_that_resumes_late => WatchResumesLate;
    a_watch_that_repeats => WatchRepeats;
    votes_of_members_that_are_gone => GoneMembersVote;
}
