//! Transactions that only read: they do not travel through the log.

use std::ops::ControlFlow;
use std::sync::Arc;

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::request_op::Request;
use kvorum_api::etcdserverpb::{Compare, TxnRequest};

use super::index::Interval;
use super::range::{Progress, RangeCursor, STEP_KEYS};
use super::txn::{branch, check_txn_revision, compares_value, holds_for_missing, holds_for_stamp, holds_for_value};
use crate::error::ReadError;
use crate::reply::{OpReply, RangeReply, Reply, TxnReply};
use crate::revision::{KvBytes, Revision};
use crate::shared::{Pin, Shared};

/// A reply that grows beyond this is finished elsewhere than on the thread that serves connections.
const INLINE_REPLY_BYTES_MAX: usize = 1 << 20;

/// How far a read-only transaction came without reading the backend.
pub enum TxnStep {
    Done(TxnReply),
    /// It needs the backend, or is too large for a thread that serves connections.
    NeedsBackend(ReadTxnJob),
}

/// The rest of a read-only transaction, at the revision it began at.
pub struct ReadTxnJob {
    evaluation: Evaluation,
    request: TxnRequest,
}

impl ReadTxnJob {
    /// Runs to the end; may read the backend.
    pub fn run(self) -> Result<TxnReply, ReadError> {
        let reply = self.evaluation.run(&self.request, true)?;
        Ok(reply.expect("with the backend nothing is missing"))
    }
}

struct Evaluation {
    shared: Arc<Shared>,
    pin: Pin,
    compact_revision: i64,
}

pub(crate) fn read_only_txn(shared: &Arc<Shared>, request: &TxnRequest) -> Result<TxnStep, ReadError> {
    let (pin, compact_revision) = {
        let _index = shared.index.read();
        (Pin::hold(shared, shared.revision()), shared.compact_revision())
    };
    let evaluation = Evaluation { shared: shared.clone(), pin, compact_revision };
    match evaluation.run(request, false)? {
        Some(reply) => Ok(TxnStep::Done(reply)),
        None => Ok(TxnStep::NeedsBackend(ReadTxnJob { evaluation, request: request.clone() })),
    }
}

impl Evaluation {
    /// `None` if it needs the backend and may not use it.
    fn run(&self, request: &TxnRequest, use_backend: bool) -> Result<Option<TxnReply>, ReadError> {
        let current = self.pin.revision;
        let mut succeeded = true;
        for compare in &request.compare {
            match self.compare(compare, use_backend)? {
                None => return Ok(None),
                Some(true) => {}
                Some(false) => {
                    succeeded = false;
                    break;
                }
            }
        }
        let ops = branch(request, succeeded);
        let ranges = || {
            ops.iter().filter_map(|op| match &op.request {
                Some(Request::RequestRange(range)) => Some(range),
                _ => None,
            })
        };
        for range in ranges() {
            check_txn_revision(range.revision, current, self.compact_revision).map_err(|error| match error {
                EtcdError::FutureRev => ReadError::FutureRevision,
                _ => ReadError::Compacted,
            })?;
        }
        let mut responses = Vec::with_capacity(ops.len());
        let mut budget_bytes = if use_backend { usize::MAX } else { INLINE_REPLY_BYTES_MAX };
        for range in ranges() {
            let mut cursor = RangeCursor::begin_at(&self.shared, &self.shared.index.read(), current, range)?;
            if use_backend {
                cursor.advance_with_backend()?;
            } else if cursor.advance(budget_bytes)? != Progress::Done {
                return Ok(None);
            }
            let reply: RangeReply = cursor.finish();
            budget_bytes = budget_bytes.saturating_sub(reply.kvs.len());
            responses.push(OpReply { revision: current, reply: Reply::Range(reply) });
        }
        Ok(Some(TxnReply { succeeded, responses, revision: current }))
    }

    fn compare(&self, compare: &Compare, use_backend: bool) -> Result<Option<bool>, ReadError> {
        let interval = Interval::new(&compare.key, &compare.range_end);
        let by_value = compares_value(compare);
        let mut any = false;
        let mut failed = false;
        let mut absent: Vec<Revision> = Vec::new();
        self.visit(&interval, &mut |stamp, value| {
            any = true;
            let holds = match (by_value, value) {
                (false, _) => holds_for_stamp(compare, stamp),
                (true, Some(value)) => holds_for_value(compare, value),
                (true, None) => {
                    absent.push(stamp.revision);
                    true
                }
            };
            failed |= !holds;
            if failed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if failed {
            return Ok(Some(false));
        }
        for revision in absent {
            let value = match use_backend {
                true => self.shared.fetch_known(revision).map_err(|error| self.pin.explain(error))?,
                false => match self.shared.overlay.read().value(revision) {
                    Some(value) => value,
                    None => return Ok(None),
                },
            };
            if !holds_for_value(compare, &value) {
                return Ok(Some(false));
            }
        }
        Ok(Some(any || holds_for_missing(compare)))
    }

    /// Visits the keys that exist at the pinned revision, in steps, with their values as far as these are in memory.
    fn visit(
        &self,
        interval: &Interval<'_>,
        visit: &mut dyn FnMut(&super::index::Stamp, Option<&KvBytes>) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let mut next_key: Option<Vec<u8>> = None;
        loop {
            if self.pin.revision < self.shared.purged_revision() {
                return Err(ReadError::Compacted);
            }
            let index = self.shared.index.read();
            let rest = Interval { from: next_key.as_deref().unwrap_or(interval.from), ..*interval };
            let mut resume = None;
            for (position, entry) in index.range(&rest).enumerate() {
                if position == STEP_KEYS {
                    resume = Some(entry.key().to_vec());
                    break;
                }
                let Some(stamp) = entry.live_at(self.pin.revision) else { continue };
                if visit(&stamp, entry.value_at(&stamp)).is_break() {
                    return Ok(());
                }
            }
            if resume.is_none() {
                return Ok(());
            }
            next_key = resume;
        }
    }
}
