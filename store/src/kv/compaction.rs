//! Compaction: forgetting history in small steps, beside everything else.
//!
//! Its first half hashes what is there, because etcd answers `HashKV` at a compacted revision with that hash; its second
//! half goes through the index in key order and drops what the compaction makes unreachable. The records of what was
//! dropped are removed after that, in the order of revisions: they lie in the backend in that order, and removed in key
//! order almost every one of them would dirty a page of its own. A compaction interrupted by a restart begins anew; removing
//! twice does no harm.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::collections::binary_heap::{BinaryHeap, PeekMut};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::hash::{FinishedHash, KeyHasher, any_key};
use super::records::visit_records;
use super::write::Uncommitted;
use crate::backend::{BackendError, Operation};
use crate::revision::Revision;
use crate::shared::Shared;

/// A compaction waits this many steps for reads that still need what it would drop; after that they fail as compacted.
const BLOCKED_STEPS_MAX: usize = 1000;

/// Compactions asked for and not finished, oldest first; each is to a higher revision than the one before.
pub(crate) struct Compactions {
    queue: VecDeque<Compaction>,
    /// As in the backend's `scheduledCompactRev` and `finishedCompactRev`.
    scheduled: Option<i64>,
    pub(crate) finished: Option<i64>,
    /// Rises when a received state takes the place of this one; jobs of before do not count then.
    epoch: u64,
}

struct Compaction {
    target: i64,
    previous: i64,
    phase: Phase,
    blocked_steps: usize,
}

enum Phase {
    /// Without the job while somebody has it.
    Hash {
        job: Option<HashJob>,
    },
    Drop {
        next_key: Box<[u8]>,
        dropped: Dropped,
        hash: Option<u32>,
    },
    Remove {
        dropped: Dropped,
        hash: Option<u32>,
    },
}

/// What a step did, and so how soon the next should come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactionStep {
    /// It read or forgot, and left nothing for the backend to do.
    Quick,
    /// It left removals for the backend.
    Removed,
    /// It waits for readers that need what it would drop, or for its hash.
    Blocked,
    /// No compaction is left.
    Finished,
}

/// The hash of a compaction, computed beside the writer: nothing that is applied meanwhile changes what it reads.
pub struct HashJob {
    shared: Arc<Shared>,
    epoch: u64,
    previous: i64,
    target: i64,
    next: Revision,
    hasher: Option<KeyHasher>,
    done: bool,
}

impl HashJob {
    fn new(shared: &Arc<Shared>, epoch: u64, previous: i64, target: i64) -> Self {
        let next = Revision::new(1, 0);
        Self { shared: shared.clone(), epoch, previous, target, next, hasher: None, done: false }
    }

    /// Hashes about `limit` revisions. True while there is more.
    ///
    /// # Errors
    /// When the backend cannot be read: the member stops.
    pub fn step(&mut self, limit: usize) -> Result<bool, BackendError> {
        let Self { shared, previous, target, .. } = self;
        let hasher = self.hasher.get_or_insert_with(|| begin_hash(shared, *previous, *target));
        let mut hash = |revision, tombstone, value: &[u8]| hasher.add(shared, revision, tombstone, value);
        let resume = visit_records(shared, self.next, *target, limit, &mut |revision, tombstone, stored| {
            hash(revision, tombstone, stored.bytes());
            ControlFlow::Continue(())
        })?;
        match resume {
            Some(revision) => self.next = revision,
            None => self.done = true,
        }
        Ok(!self.done)
    }

    fn hash(&self) -> u32 {
        assert!(self.done, "a hash is asked for at its end");
        self.hasher.as_ref().expect("the first step makes it").hash()
    }
}

/// Revisions that left the index and are still stored, with whether they are tombstones. Smaller than what the index held
/// of them.
///
/// Each step brings a sorted run, and the runs are merged as revisions are taken: so no step does more than its share.
#[derive(Default)]
struct Dropped {
    runs: BinaryHeap<Reverse<Run>>,
}

/// Ordered by its next revision; no two runs have the same.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    next: (Revision, bool),
    /// In falling order.
    rest: Vec<(Revision, bool)>,
}

impl Dropped {
    fn add(&mut self, mut revisions: Vec<(Revision, bool)>) {
        revisions.sort_unstable_by_key(|revision| Reverse(*revision));
        if let Some(next) = revisions.pop() {
            self.runs.push(Reverse(Run { next, rest: revisions }));
        }
    }

    /// The lowest revision.
    fn take(&mut self) -> Option<(Revision, bool)> {
        let mut lowest = self.runs.peek_mut()?;
        let Reverse(run) = &mut *lowest;
        match run.rest.pop() {
            Some(next) => Some(std::mem::replace(&mut run.next, next)),
            None => Some(PeekMut::pop(lowest).0.next),
        }
    }

    fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

impl Phase {
    fn drop(hash: Option<u32>) -> Self {
        Self::Drop { next_key: Box::default(), dropped: Dropped::default(), hash }
    }
}

impl Compactions {
    pub(crate) fn restored(scheduled: Option<i64>, finished: Option<i64>, epoch: u64) -> Self {
        Self { queue: VecDeque::new(), scheduled, finished, epoch }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// `previous` is the compact revision until now.
    pub(crate) fn schedule(&mut self, target: i64, previous: i64, shared: &Arc<Shared>) {
        let phase = match self.scheduled == self.finished {
            true => Phase::Hash { job: Some(HashJob::new(shared, self.epoch, previous, target)) },
            // The hash would not cover all revisions since the last compaction, so etcd does not keep it.
            false => Phase::drop(None),
        };
        self.queue.push_back(Compaction { target, previous, phase, blocked_steps: 0 });
        self.scheduled = Some(target);
    }

    /// The hash that the next compaction begins with. Its steps block until [`Self::finish_hash`].
    pub(crate) fn take_hash_job(&mut self) -> Option<HashJob> {
        match &mut self.queue.front_mut()?.phase {
            Phase::Hash { job } => job.take(),
            _ => None,
        }
    }

    /// The job must have come from here and be at its end. One of before a received state is passed over.
    pub(crate) fn finish_hash(&mut self, job: &HashJob) {
        if job.epoch != self.epoch {
            return;
        }
        let compaction = self.queue.front_mut().expect("a compaction stays until its hash is there");
        assert!(compaction.target == job.target && matches!(compaction.phase, Phase::Hash { job: None }));
        compaction.phase = Phase::drop(Some(job.hash()));
    }

    /// One step of about `limit` revisions or keys, and the revision of a compaction that it finished.
    pub(crate) fn step(
        &mut self,
        limit: usize,
        shared: &Arc<Shared>,
        uncommitted: &mut Uncommitted,
    ) -> Result<(CompactionStep, Option<i64>), BackendError> {
        use CompactionStep::{Blocked, Finished, Quick, Removed};
        let Some(compaction) = self.queue.front_mut() else { return Ok((Finished, None)) };
        let target = compaction.target;
        match &mut compaction.phase {
            Phase::Hash { job: None } => Ok((Blocked, None)),
            Phase::Hash { job: Some(job) } => {
                if !job.step(limit)? {
                    compaction.phase = Phase::drop(Some(job.hash()));
                }
                Ok((Quick, None))
            }
            Phase::Drop { next_key, dropped, hash } => {
                let mut index = shared.index.write();
                if shared.pins.lock().lowest().is_some_and(|pin| pin < target) {
                    compaction.blocked_steps += 1;
                    if compaction.blocked_steps < BLOCKED_STEPS_MAX {
                        return Ok((Blocked, None));
                    }
                    shared.publish_purged_revision(target);
                }
                let mut run = Vec::new();
                let resume = index.compact(next_key, limit, target, &mut |stamp| {
                    run.push((stamp.revision, stamp.is_tombstone()));
                });
                drop(index);
                dropped.add(run);
                match resume {
                    Some(key) => *next_key = key,
                    None => compaction.phase = Phase::Remove { dropped: std::mem::take(dropped), hash: *hash },
                }
                Ok((Quick, None))
            }
            Phase::Remove { dropped, hash } => {
                for _ in 0..limit {
                    let Some((revision, tombstone)) = dropped.take() else { break };
                    uncommitted.operations.push(Operation::RemoveRevision { revision, tombstone });
                }
                if !dropped.is_empty() {
                    return Ok((Removed, None));
                }
                if let Some(hash) = *hash {
                    let compact_revision = compaction.previous;
                    shared.hashes.write().add(FinishedHash { revision: target, compact_revision, hash });
                }
                self.finished = Some(target);
                self.queue.pop_front();
                let step = if self.queue.is_empty() { Finished } else { Removed };
                Ok((step, Some(target)))
            }
        }
    }
}

/// etcd's "keep" of a compaction also has the tombstones exactly at its revision.
fn begin_hash(shared: &Shared, previous: i64, target: i64) -> KeyHasher {
    let kept = |entry: &super::index::KeyEntry| {
        entry.stamp_at(target).is_some_and(|stamp| !stamp.is_tombstone() || stamp.revision.main == target)
    };
    let anything_kept = previous > 0 && any_key(shared, kept);
    KeyHasher::new(previous, target, anything_kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_comes_out_in_the_order_of_revisions() {
        let mut dropped = Dropped::default();
        for run in [vec![9, 2, 5], vec![], vec![7], vec![1, 8, 3, 6, 4]] {
            dropped.add(run.into_iter().map(|main| (Revision::new(main, 0), main == 7)).collect());
        }
        let taken: Vec<(Revision, bool)> = std::iter::from_fn(|| dropped.take()).collect();
        let expected: Vec<(Revision, bool)> = (1..=9).map(|main| (Revision::new(main, 0), main == 7)).collect();
        assert_eq!(taken, expected);
        assert!(dropped.is_empty());
    }
}
