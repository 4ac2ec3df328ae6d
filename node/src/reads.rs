//! Linearizable reads that wait for the leader to be confirmed. All that come while a round is under way share the next
//! one; a round's answer is an index, and its reads are served once that index is applied. A round whose answer was lost
//! is asked again under its own context, also of a new leader, for as long as its reads may wait.

use std::collections::VecDeque;

/// A read that waits, and until when it does.
struct Waiting<W> {
    deadline: u64,
    waiter: W,
}

struct Round<W> {
    context: u64,
    began: u64,
    reads: Vec<Waiting<W>>,
}

/// The reads of one member. Times are milliseconds of the member's clock.
pub(crate) struct Reads<W> {
    next: Vec<Waiting<W>>,
    round: Option<Round<W>>,
    /// Confirmed reads that wait for their index to be applied, by rising index.
    confirmed: VecDeque<(u64, Vec<Waiting<W>>)>,
    /// When the last confirmed round began: no later leader existed then.
    confirmed_at: Option<u64>,
}

impl<W> Default for Reads<W> {
    fn default() -> Self {
        Self { next: Vec::new(), round: None, confirmed: VecDeque::new(), confirmed_at: None }
    }
}

impl<W> Reads<W> {
    pub(crate) fn push(&mut self, deadline: u64, waiter: W) {
        self.next.push(Waiting { deadline, waiter });
    }

    /// Whether reads wait for a round that was not begun.
    pub(crate) fn wants_round(&self) -> bool {
        self.round.is_none() && !self.next.is_empty()
    }

    /// The context under which the waiting reads are asked for from now on.
    pub(crate) fn begin(&mut self, now: u64, context: u64) {
        let reads = std::mem::take(&mut self.next);
        self.round = Some(Round { context, began: now, reads });
    }

    /// The round under way, if any: to be asked again when its answer may have been lost.
    pub(crate) fn context(&self) -> Option<u64> {
        self.round.as_ref().map(|round| round.context)
    }

    /// A quorum confirmed the leader. Answers to contexts other than the current one are of no use any more.
    pub(crate) fn confirm(&mut self, context: u64, index: u64) {
        let Some(round) = self.round.take_if(|round| round.context == context) else { return };
        self.confirmed_at = self.confirmed_at.max(Some(round.began));
        match self.confirmed.back_mut() {
            // A later answer never needs less than an earlier one.
            Some((last, reads)) if *last >= index => reads.extend(round.reads),
            _ => self.confirmed.push_back((index, round.reads)),
        }
    }

    /// When the last round that a quorum answered was begun.
    pub(crate) fn confirmed_at(&self) -> Option<u64> {
        self.confirmed_at
    }

    /// Another leader, or none: what was confirmed of the old one says nothing about now.
    pub(crate) fn forget_confirmation(&mut self) {
        self.confirmed_at = None;
    }

    /// Reads that may be served now.
    pub(crate) fn take_applied(&mut self, applied: u64, mut serve: impl FnMut(W)) {
        while self.confirmed.front().is_some_and(|(index, _)| *index <= applied) {
            let (_, reads) = self.confirmed.pop_front().expect("looked at above");
            reads.into_iter().for_each(|read| serve(read.waiter));
        }
    }

    /// Reads whose time is over.
    pub(crate) fn take_expired(&mut self, now: u64, mut give_up: impl FnMut(W)) {
        let round = self.round.iter_mut().map(|round| &mut round.reads);
        let confirmed = self.confirmed.iter_mut().map(|(_, reads)| reads);
        for reads in round.chain(confirmed).chain(std::iter::once(&mut self.next)) {
            for expired in reads.extract_if(.., |read| read.deadline <= now) {
                give_up(expired.waiter);
            }
        }
        self.round.take_if(|round| round.reads.is_empty());
    }

    pub(crate) fn take_all(&mut self) -> Vec<W> {
        let mut all = std::mem::take(&mut self.next);
        all.extend(self.round.take().into_iter().flat_map(|round| round.reads));
        all.extend(self.confirmed.drain(..).flat_map(|(_, reads)| reads));
        all.into_iter().map(|read| read.waiter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(reads: &mut Reads<u32>, applied: u64) -> Vec<u32> {
        let mut served = Vec::new();
        reads.take_applied(applied, |waiter| served.push(waiter));
        served
    }

    #[test]
    fn reads_share_rounds_and_wait_for_their_index() {
        let mut reads = Reads::default();
        reads.push(100, 1);
        assert!(reads.wants_round());
        reads.begin(5, 70);
        reads.push(100, 2);
        assert!(!reads.wants_round(), "one round at a time");
        reads.confirm(69, 9);
        assert_eq!(reads.context(), Some(70), "an old answer changes nothing");
        reads.confirm(70, 9);
        assert_eq!(reads.confirmed_at(), Some(5));
        assert!(served(&mut reads, 8).is_empty());
        assert_eq!(served(&mut reads, 9), [1]);
        assert!(reads.wants_round(), "the second read came after the first round began");
        reads.begin(6, 71);
        reads.confirm(71, 9);
        assert_eq!(served(&mut reads, 9), [2]);
    }

    #[test]
    fn a_read_is_given_up_at_its_deadline_wherever_it_waits() {
        let mut reads = Reads::default();
        reads.push(10, 1);
        reads.begin(0, 70);
        reads.confirm(70, 5);
        reads.push(20, 2);
        reads.begin(0, 71);
        reads.push(30, 3);
        let mut given_up = Vec::new();
        for now in [9, 10, 20, 30] {
            reads.take_expired(now, |waiter| given_up.push((now, waiter)));
        }
        assert_eq!(given_up, [(10, 1), (20, 2), (30, 3)]);
        assert!(reads.take_all().is_empty());
    }
}
