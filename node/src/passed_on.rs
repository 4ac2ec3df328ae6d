//! What other members passed on to one that cannot take it: leadership is changing hands, and it will soon know where to.
//! etcd drops it, and whoever asked waits in vain. Nothing here decides when it goes on.

use std::collections::VecDeque;

use kvorum_api::raftpb;

use crate::limits::{PASSED_ON_HELD_BYTES_MAX, PASSED_ON_HELD_MAX};

/// Messages in the order in which they came; of too many the last are dropped.
#[derive(Default)]
pub struct PassedOn {
    /// With the time when they are dropped, once a tick has set it.
    messages: VecDeque<(Option<u64>, raftpb::Message)>,
    bytes: usize,
}

impl PassedOn {
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn hold(&mut self, message: raftpb::Message) {
        let bytes = self.bytes + entry_bytes(&message);
        if self.messages.len() < PASSED_ON_HELD_MAX && bytes <= PASSED_ON_HELD_BYTES_MAX {
            self.bytes = bytes;
            self.messages.push_back((None, message));
        }
    }

    pub fn take(&mut self) -> impl Iterator<Item = raftpb::Message> + use<> {
        std::mem::take(self).messages.into_iter().map(|(_, message)| message)
    }

    /// Nobody waits for these any more.
    pub fn drop_old(&mut self, now: u64, patience_milliseconds: u64) {
        while self.messages.front().is_some_and(|(deadline, _)| deadline.is_some_and(|deadline| deadline <= now)) {
            let (_, message) = self.messages.pop_front().expect("looked at above");
            self.bytes -= entry_bytes(&message);
        }
        // The newest are those without a time.
        for (deadline, _) in self.messages.iter_mut().rev().take_while(|(deadline, _)| deadline.is_none()) {
            *deadline = Some(now + patience_milliseconds);
        }
    }
}

fn entry_bytes(message: &raftpb::Message) -> usize {
    message.entries.iter().map(|entry| entry.data.as_ref().map_or(0, |data| data.len())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(bytes: usize) -> raftpb::Message {
        let entry = raftpb::Entry { data: Some(vec![0; bytes].into()), ..raftpb::Entry::default() };
        raftpb::Message { entries: vec![entry], ..raftpb::Message::default() }
    }

    #[test]
    fn number_bytes_and_time_have_bounds() {
        let mut passed_on = PassedOn::default();
        (0..=PASSED_ON_HELD_MAX).for_each(|_| passed_on.hold(proposal(1)));
        assert_eq!(passed_on.take().count(), PASSED_ON_HELD_MAX);
        assert!(passed_on.is_empty());
        passed_on.hold(proposal(PASSED_ON_HELD_BYTES_MAX));
        passed_on.hold(proposal(1));
        assert_eq!(passed_on.messages.len(), 1);
        passed_on.drop_old(100, 50);
        passed_on.drop_old(149, 50);
        assert_eq!(passed_on.messages.len(), 1);
        passed_on.drop_old(150, 50);
        assert!(passed_on.is_empty());
        passed_on.hold(proposal(PASSED_ON_HELD_BYTES_MAX));
        assert_eq!(passed_on.take().count(), 1, "its bytes went with the one before");
    }
}
