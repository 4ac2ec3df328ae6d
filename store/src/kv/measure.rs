//! The length of a range's reply before it is encoded. The lengths of values in memory stand in the index, so this
//! reads no value; with it a large reply can be sent piece by piece, since its length goes before its bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::index::Interval;
use crate::keyspace::key_value::{frame_len, int64_len};
use crate::shared::Shared;

/// Keys looked at under one lock.
const STEP_KEYS: usize = 100;

/// What is left of a range.
pub(super) struct Rest {
    pub(super) at: i64,
    pub(super) next_key: Vec<u8>,
    pub(super) range_end: Bytes,
    pub(super) limit: Option<usize>,
    pub(super) matched: usize,
}

/// A measurement under way. It sees the revision its cursor is pinned to, for as long as the cursor lives.
pub struct RestMeasure {
    shared: Arc<Shared>,
    rest: Rest,
    bytes: usize,
    done: bool,
}

impl RestMeasure {
    pub(super) fn new(shared: Arc<Shared>, rest: Rest) -> Self {
        Self { shared, rest, bytes: 0, done: false }
    }

    /// Looks at up to about `keys_max` further keys. `Some(true)` when all were seen; `None` when the length cannot be
    /// told, because a value is not in memory.
    pub fn advance(&mut self, keys_max: usize) -> Option<bool> {
        for _ in 0..keys_max.div_ceil(STEP_KEYS) {
            if self.done {
                break;
            }
            self.step()?;
        }
        Some(self.done)
    }

    /// Bytes that the rest of the message takes: further keys, and the fields behind them.
    pub fn bytes(&self) -> usize {
        let count = i64::try_from(self.rest.matched).unwrap_or(i64::MAX);
        self.bytes + int64_len(i64::from(self.has_more())) + int64_len(count)
    }

    fn has_more(&self) -> bool {
        self.rest.limit.is_some_and(|limit| self.rest.matched > limit)
    }

    fn step(&mut self) -> Option<()> {
        let index = self.shared.index.read();
        let from = std::mem::take(&mut self.rest.next_key);
        let mut interval = Interval::new(&from, &self.rest.range_end);
        interval.from = &from;
        for (seen, entry) in index.range(&interval).enumerate() {
            if seen == STEP_KEYS {
                self.rest.next_key = entry.key().to_vec();
                return Some(());
            }
            let Some(stamp) = entry.live_at(self.rest.at) else { continue };
            self.rest.matched += 1;
            if self.rest.limit.is_some_and(|limit| self.rest.matched > limit) {
                continue;
            }
            self.bytes += frame_len(entry.value_at(&stamp)?.len());
        }
        self.done = true;
        Some(())
    }
}
