//! A store under test: its log, its backend, and commits that may lag behind.

#![allow(dead_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::{InternalRaftRequest, RangeRequest, TxnRequest};
use kvorum_store::memory::MemoryBackend;
use kvorum_store::{
    Applied, Backend, CommitBatch, CompactionStep, Effects, MemberChange, Position, Progress, RangeReply, ReadError,
    Reader, StoreConfig, TxnReply, TxnStep, Writer, open,
};

/// How far the backend lags behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    /// After every entry.
    Eager,
    /// A batch is taken after every third entry, and becomes durable when the next but one is taken.
    Lagging,
    /// Only when asked for.
    Manual,
}

#[derive(Clone)]
pub enum Entry {
    Request(Box<InternalRaftRequest>),
    Member(MemberChange),
}

pub struct Harness {
    pub config: StoreConfig,
    pub commits: Commits,
    pub backend: Arc<MemoryBackend>,
    pub writer: Writer,
    pub reader: Reader,
    pub log: Vec<Entry>,
    pub effects: Effects,
    in_flight: VecDeque<CommitBatch>,
}

pub fn config(value_budget_bytes: u64) -> StoreConfig {
    StoreConfig {
        member_id: 1,
        value_budget_bytes,
        quota_bytes: None,
        lease_ttl_seconds_min: 2,
        lease_checkpoint_persist: false,
        learners_max: kvorum_store::member::DEFAULT_LEARNERS_MAX,
    }
}

impl Harness {
    pub fn new(config: StoreConfig, commits: Commits) -> Self {
        let backend = Arc::new(MemoryBackend::new());
        let (writer, reader, _) = open(config.clone(), backend.clone()).expect("an empty backend");
        Self {
            config,
            commits,
            backend,
            writer,
            reader,
            log: Vec::new(),
            effects: Effects::default(),
            in_flight: VecDeque::new(),
        }
    }

    pub fn apply(&mut self, request: InternalRaftRequest) -> Result<Applied, EtcdError> {
        self.log.push(Entry::Request(Box::new(request.clone())));
        let result = self.apply_last(&request);
        self.commit_as_configured();
        result
    }

    pub fn change_member(&mut self, change: MemberChange) -> Result<(), EtcdError> {
        self.log.push(Entry::Member(change.clone()));
        let result = self.writer.apply_member_change(self.position(), change, b"{\"voters\":[1]}".to_vec());
        self.commit_as_configured();
        result
    }

    fn apply_last(&mut self, request: &InternalRaftRequest) -> Result<Applied, EtcdError> {
        let position = self.position();
        self.writer.apply(position, request, &mut self.effects).expect("this version can apply it")
    }

    fn position(&self) -> Position {
        Position { index: self.log.len() as u64, term: 1 }
    }

    fn commit_as_configured(&mut self) {
        match self.commits {
            Commits::Eager => self.commit(),
            Commits::Lagging if self.log.len().is_multiple_of(3) => {
                self.take();
                if self.in_flight.len() > 2 {
                    self.settle();
                }
            }
            Commits::Lagging | Commits::Manual => {}
        }
    }

    /// Takes a batch out of the writer without making it durable.
    pub fn take(&mut self) {
        self.in_flight.extend(self.writer.take_commit());
    }

    /// Makes the oldest batch durable.
    pub fn settle(&mut self) {
        if let Some(batch) = self.in_flight.pop_front() {
            self.backend.commit(&batch).expect("memory does not fail");
            self.reader.committed(batch.sequence);
        }
    }

    /// Makes everything durable.
    pub fn commit(&mut self) {
        self.take();
        while !self.in_flight.is_empty() {
            self.settle();
        }
    }

    /// Forgets everything but what is durable and the log, and replays. Returns whether a compaction was pending.
    pub fn restart(&mut self) -> bool {
        self.in_flight.clear();
        self.backend = Arc::new(self.backend.snapshot());
        let (writer, reader, restored) = open(self.config.clone(), self.backend.clone()).expect("own records");
        self.writer = writer;
        self.reader = reader;
        let log = std::mem::take(&mut self.log);
        for (position, entry) in log.into_iter().enumerate() {
            self.log.push(entry.clone());
            if position < restored.consistent_index as usize {
                continue;
            }
            match entry {
                Entry::Request(request) => drop(self.apply_last(&request)),
                Entry::Member(change) => {
                    let _ = self.writer.apply_member_change(self.position(), change, b"{\"voters\":[1]}".to_vec());
                }
            }
        }
        self.effects = Effects::default();
        restored.compaction_pending
    }

    pub fn compact_fully(&mut self, step: usize) {
        while self.writer.compaction_step(step).expect("memory does not fail") != CompactionStep::Finished {}
    }

    /// A range as a server would run it, with tiny budgets.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeReply, ReadError> {
        let mut cursor = self.reader.range(request)?;
        loop {
            match cursor.advance(64)? {
                Progress::More => {}
                Progress::Done => return Ok(cursor.finish()),
                Progress::NeedsBackend => cursor.advance_with_backend()?,
            }
        }
    }

    pub fn read_txn(&self, request: &TxnRequest) -> Result<TxnReply, ReadError> {
        match self.reader.read_only_txn(request)? {
            TxnStep::Done(reply) => Ok(reply),
            TxnStep::NeedsBackend(job) => job.run(),
        }
    }
}
