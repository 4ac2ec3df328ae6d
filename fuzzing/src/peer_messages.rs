//! What a member makes of messages from others, once they are decoded. The input is a row of steps: messages of any shape
//! from anybody, time, elections, proposals, and the member's own work in between. The member is one of three.
//!
//! No message stops the process. One that is refused has changed nothing. Term and commit index never fall, what was applied
//! is applied once and in order, and nothing is asked to be persisted that would replace what is committed.

use bytes::Bytes;
use kvorum_api::raftpb::{ConfState, Entry, EntryType, Message, Snapshot, SnapshotMetadata};
use kvorum_node::consensus::decode_conf_change;
use kvorum_node::{Consensus, ConsensusConfig, HardState, LogEntry, Persist, Start};
use prost::Message as _;

use crate::input::Input;

const OWN_ID: u64 = 1;
const STEPS_MAX: usize = 64;
const ENTRIES_MAX: u8 = 6;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut world = World::new(&mut input);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.check();
    }
    world.settle();
    world.check();
}

struct World {
    consensus: Consensus,
    /// What is to be persisted and was not yet.
    persists: Vec<Persist>,
    term: u64,
    committed: u64,
    applied: u64,
}

impl World {
    fn new(input: &mut Input<'_>) -> Self {
        let entries: u64 = u64::from(input.byte() % 8);
        let log = (1..=entries).map(|index| LogEntry {
            kind: EntryType::EntryNormal,
            term: 1 + index / 4,
            index,
            data: Bytes::from_static(b"data"),
        });
        let term = 1 + entries / 4;
        let commit = u64::from(input.byte()).min(entries);
        let start = Start::Restart {
            hard_state: HardState { term, vote: 0, commit },
            conf_state: ConfState { voters: vec![1, 2, 3], ..ConfState::default() },
            snapshot: (0, 0),
            entries: log.collect(),
            applied: commit,
        };
        let pre_vote = input.byte() & 1 == 0;
        let config = ConsensusConfig { member_id: OWN_ID, election_ticks: 10, pre_vote, seed: 7 };
        let consensus = Consensus::new(&config, start).expect("a good start");
        Self { consensus, persists: Vec::new(), term, committed: commit, applied: commit }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let step = input.byte();
        match step % 16 {
            0..8 => {
                let message = self.message(input);
                self.handle(message);
            }
            8 => {
                if let Ok(message) = Message::decode(input.piece()) {
                    self.handle(message);
                }
            }
            9 => (0..input.byte() % 32).for_each(|_| self.consensus.tick()),
            10 => self.consensus.campaign(),
            11 => {
                let requests = vec![Bytes::from_static(b"request"); usize::from(step >> 4)];
                self.consensus.propose(requests.into_iter());
            }
            12 => drop(self.consensus.propose_conf_change(Bytes::copy_from_slice(input.piece()))),
            13 => self.persist(usize::from(step >> 4)),
            14 => match step >> 4 {
                0..4 => drop(self.consensus.read_index(u64::from(step))),
                4..8 => self.consensus.transfer_leader(u64::from(step >> 4) - 4),
                8..12 => self.consensus.report_unreachable(u64::from(step >> 4) - 8),
                other => self.consensus.report_gone(u64::from(other) - 12),
            },
            _ => match step >> 4 {
                number @ 0..8 => self.consensus.report_snapshot(u64::from(number / 2), number % 2 == 0),
                _ => self.settle(),
            },
        }
    }

    /// A message with numbers near those that mean something.
    fn message(&self, input: &mut Input<'_>) -> Message {
        let kind = input.byte() % 26;
        let shape = input.byte();
        let term = near(self.consensus.term(), input);
        let index = near(self.consensus.last_index(), input);
        let log_term = if shape & 1 == 0 { near(self.consensus.term(), input) } else { 0 };
        let commit = if shape & 2 == 0 { near(self.consensus.commit_index(), input) } else { 0 };
        let count = if shape & 4 == 0 { 0 } else { input.byte() % ENTRIES_MAX };
        let entries = (1..=u64::from(count)).map(|number| entry(index.wrapping_add(number), term, input)).collect();
        let snapshot = (shape & 8 != 0).then(|| snapshot(index, log_term, input));
        Message {
            r#type: Some(i32::from(kind)),
            from: Some(u64::from(shape >> 4 & 3)),
            to: Some(OWN_ID),
            term: Some(term),
            log_term: Some(log_term),
            index: Some(index),
            commit: Some(commit),
            entries,
            snapshot,
            reject: Some(shape & 0x40 != 0),
            reject_hint: (shape & 0x40 != 0).then(|| near(self.consensus.last_index(), input)),
            context: (shape & 0x80 != 0).then(|| Bytes::copy_from_slice(input.take(8))),
            ..Message::default()
        }
    }

    fn handle(&mut self, message: Message) {
        let before = self.position();
        if self.consensus.handle_message(message).is_err() {
            assert_eq!(self.position(), before, "what is refused changes nothing");
        }
    }

    fn position(&self) -> (u64, u64, u64, u64) {
        let consensus = &self.consensus;
        (consensus.term(), consensus.last_index(), consensus.commit_index(), consensus.leader())
    }

    /// Takes what is to be persisted, and tells of so many writes that they are done.
    fn persist(&mut self, done: usize) {
        while let Some(persist) = self.consensus.poll_persist() {
            assert!(persist.entries.windows(2).all(|pair| pair[0].index + 1 == pair[1].index));
            assert!(persist.entries.first().is_none_or(|entry| entry.index > self.applied), "what is applied stays");
            self.persists.push(persist);
        }
        for persist in self.persists.drain(..done.min(self.persists.len())) {
            if let Some(position) = &persist.snapshot {
                assert!(position.index > self.applied);
                self.applied = position.index;
            }
            self.consensus.handle_persisted(persist.number);
        }
        while let Some(entry) = self.consensus.next_committed() {
            assert_eq!(entry.index, self.applied + 1, "entries are applied in order, each once");
            self.applied = entry.index;
            if entry.kind == EntryType::EntryConfChange {
                // What etcd's validation refuses is applied as nothing.
                let change = decode_conf_change(&entry.data).ok();
                drop(self.consensus.apply_conf_change(change.as_ref()));
            }
            self.consensus.handle_applied(entry.index);
        }
        drop(self.consensus.take_messages());
        drop(self.consensus.take_read_states());
        drop(self.consensus.progress());
        if let Some((low, _)) = self.consensus.wanted_entries() {
            self.consensus.provide_entries(low, &[]);
        }
    }

    fn settle(&mut self) {
        for _ in 0..4 {
            self.persist(usize::MAX);
        }
    }

    fn check(&mut self) {
        assert!(self.consensus.term() >= self.term, "the term never falls");
        assert!(self.consensus.commit_index() >= self.committed, "the commit index never falls");
        self.term = self.consensus.term();
        self.committed = self.consensus.commit_index();
    }
}

/// A number close to one that means something, or anywhere.
fn near(number: u64, input: &mut Input<'_>) -> u64 {
    match input.byte() {
        255 => input.long(),
        254 => u64::MAX,
        253 => 0,
        offset => {
            number.saturating_add(u64::from(offset & 0x7f)).saturating_sub(u64::from(offset >> 3)).saturating_sub(4)
        }
    }
}

fn entry(index: u64, term: u64, input: &mut Input<'_>) -> Entry {
    let shape = input.byte();
    Entry {
        r#type: Some(i32::from(shape & 3)),
        term: Some(if shape & 4 == 0 { term } else { near(term, input) }),
        index: Some(if shape & 8 == 0 { index } else { near(index, input) }),
        data: (shape & 0x10 != 0).then(|| Bytes::copy_from_slice(input.piece())),
    }
}

fn snapshot(index: u64, term: u64, input: &mut Input<'_>) -> Snapshot {
    let shape = input.byte();
    let ids = |count: u8, input: &mut Input<'_>| (0..count).map(|_| u64::from(input.byte() % 6)).collect();
    let conf_state = ConfState {
        voters: ids(shape & 3, input),
        learners: ids(shape >> 2 & 1, input),
        voters_outgoing: ids(shape >> 3 & 1, input),
        learners_next: ids(shape >> 4 & 1, input),
        auto_leave: Some(shape & 0x20 != 0),
    };
    let metadata = SnapshotMetadata { conf_state: Some(conf_state), index: Some(index), term: Some(term) };
    Snapshot { data: None, metadata: (shape & 0x40 == 0).then_some(metadata) }
}
