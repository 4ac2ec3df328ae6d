//! Ranges: from the index in short steps, values copied straight into the reply.
//!
//! What etcd's `txn.Range` does in three passes (fetch, filter and sort, cut) happens here in one walk for the usual
//! request, in key order and without filters, and in two when something must be sorted. A cursor never reads the backend
//! unless told to: it says so and waits.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_api::etcdserverpb::RangeRequest;
use kvorum_api::etcdserverpb::range_request::{SortOrder, SortTarget};

use super::go_sort::go_sort;
use super::index::{Index, Interval, IntervalEnd, KeyEntry, Stamp};
use super::measure::{Rest, RestMeasure};
use crate::backend::{BackendError, Bucket};
use crate::error::ReadError;
use crate::keyspace::key_value::{KeyValueParts, put_frame, put_varint};
use crate::reply::RangeReply;
use crate::revision::KvBytes;
use crate::shared::{Pin, Shared, missing};

/// Keys looked at under one hold of the index lock.
pub(crate) const STEP_KEYS: usize = 100;

/// Bytes copied under one hold of the index lock, and not much more than one value beyond.
const STEP_BYTES: usize = 64 * 1024;

/// A reply grows as it may up to this size.
const SMALL_REPLY_BYTES: usize = 4 * 1024;

/// What stands before a value.
const FRAME_BYTES_MAX: usize = 11;

/// A visited key counts for this many bytes of an advance's budget, so that counting gives way too.
const VISIT_COST_BYTES: usize = 32;

/// The field number of `RangeResponse.kvs`.
const KVS_FIELD: u8 = 2;

/// What an advance of a cursor left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The budget is used up; advance again.
    More,
    /// A value is neither in memory nor in the overlay; go on with [`RangeCursor::advance_with_backend`].
    NeedsBackend,
    Done,
}

/// A range under way, pinned to the revision it began at.
pub struct RangeCursor(Inner);

enum Inner {
    Finished(RangeReply),
    Walking(Box<Walking>),
}

struct Walking {
    shared: Arc<Shared>,
    pin: Pin,
    walk: Walk,
}

impl RangeCursor {
    /// Checks the revision as etcd does and begins. A single key whose value is in memory is answered right here.
    #[inline]
    pub(crate) fn begin(shared: &Arc<Shared>, request: &RangeRequest) -> Result<Self, ReadError> {
        let index = shared.index.read();
        let current = shared.revision();
        Self::begin_at(shared, &index, current, request)
    }

    /// Begins as of `current`, which must be the current revision or pinned.
    pub(crate) fn begin_at(
        shared: &Arc<Shared>,
        index: &Index,
        current: i64,
        request: &RangeRequest,
    ) -> Result<Self, ReadError> {
        let at = resolve_revision(request.revision, current, shared.compact_revision())?;
        if request.range_end.is_empty()
            && !request.keys_only
            && !request.count_only
            && !has_filters(request)
            && let Some(reply) = answer_single(index, &request.key, at, current)
        {
            return Ok(Self(Inner::Finished(reply)));
        }
        let pin = Pin::hold(shared, at);
        let walk = Walk::new(request, at, current);
        Ok(Self(Inner::Walking(Box::new(Walking { shared: shared.clone(), pin, walk }))))
    }

    /// Encodes until about `budget_bytes` more were produced. Never touches the backend.
    pub fn advance(&mut self, budget_bytes: usize) -> Result<Progress, ReadError> {
        match &mut self.0 {
            Inner::Finished(_) => Ok(Progress::Done),
            Inner::Walking(walking) => walking.advance(budget_bytes, false),
        }
    }

    /// Runs to the end; may read the backend, so not for threads that serve connections.
    pub fn advance_with_backend(&mut self) -> Result<(), ReadError> {
        match &mut self.0 {
            Inner::Finished(_) => Ok(()),
            Inner::Walking(walking) => walking.advance(usize::MAX, true).map(drop),
        }
    }

    /// As [`Self::advance`], and reads the backend for values that are not in memory: not for threads that serve
    /// connections.
    pub fn advance_slice_with_backend(&mut self, budget_bytes: usize) -> Result<Progress, ReadError> {
        match &mut self.0 {
            Inner::Finished(_) => Ok(Progress::Done),
            Inner::Walking(walking) => walking.advance(budget_bytes, true),
        }
    }

    /// Hands out what was encoded so far, so that a large reply need not be one piece of memory. The pieces in order,
    /// then the `kvs` of [`Self::finish`], are the whole.
    pub fn take_encoded(&mut self) -> Vec<u8> {
        match &mut self.0 {
            Inner::Finished(_) => Vec::new(),
            Inner::Walking(walking) => walking.walk.take_encoded(),
        }
    }

    /// The store's revision when the range began: what the reply's header says.
    pub fn revision(&self) -> i64 {
        match &self.0 {
            Inner::Finished(reply) => reply.revision,
            Inner::Walking(walking) => walking.walk.revision,
        }
    }

    /// Begins to measure what is still to be encoded, for a reply whose length must be known before it is sent. `None`
    /// for ranges that are sorted, filtered or without values, and while a value waits to be fetched.
    pub fn measure_rest(&self) -> Option<RestMeasure> {
        match &self.0 {
            Inner::Walking(walking) if walking.walk.is_plain() => {
                Some(RestMeasure::new(walking.shared.clone(), walking.walk.rest()))
            }
            _ => None,
        }
    }

    /// The reply; whole only after [`Progress::Done`].
    pub fn finish(self) -> RangeReply {
        match self.0 {
            Inner::Finished(reply) => reply,
            Inner::Walking(walking) => walking.walk.finish(),
        }
    }
}

impl Walking {
    fn advance(&mut self, budget_bytes: usize, use_backend: bool) -> Result<Progress, ReadError> {
        let target = self.walk.effort().saturating_add(budget_bytes);
        loop {
            if self.pin.revision < self.shared.purged_revision() {
                return Err(ReadError::Compacted);
            }
            if !self.walk.settle(&self.shared, use_backend).map_err(|error| self.pin.explain(error))? {
                return Ok(Progress::NeedsBackend);
            }
            if self.walk.is_done() {
                return Ok(Progress::Done);
            }
            if self.walk.effort() >= target {
                return Ok(Progress::More);
            }
            if self.walk.is_settling() {
                continue;
            }
            if self.walk.is_walking() {
                let index = self.shared.index.read();
                self.walk.step(&index);
            } else {
                self.walk.emit_sorted();
            }
        }
    }
}

/// The revision a range reads at: etcd's order of checks. `current` may be older than `compact_revision` if it is pinned.
pub(crate) fn resolve_revision(requested: i64, current: i64, compact_revision: i64) -> Result<i64, ReadError> {
    if requested > current {
        return Err(ReadError::FutureRevision);
    }
    if requested <= 0 {
        return Ok(current);
    }
    if requested < compact_revision { Err(ReadError::Compacted) } else { Ok(requested) }
}

fn has_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// The whole reply for one key, unless its value is not in memory.
#[inline]
fn answer_single(index: &Index, key: &[u8], at: i64, revision: i64) -> Option<RangeReply> {
    let live = index.entry(key).and_then(|entry| Some((entry, entry.live_at(at)?)));
    let Some((entry, stamp)) = live else {
        return Some(RangeReply { kvs: Vec::new(), more: false, count: 0, revision });
    };
    let value = entry.value_at(&stamp)?;
    let mut kvs = Vec::with_capacity(value.len() + 6);
    put_frame(KVS_FIELD, value, &mut kvs);
    Some(RangeReply { kvs, more: false, count: 1, revision })
}

/// What of a key goes into the reply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Projection {
    Whole,
    /// `keys_only`: from the index alone, so without the lease, as etcd 3.7 does.
    IndexOnly,
    /// `keys_only` sorted by value: read whole, sent without the value.
    WithoutValue,
}

#[derive(Clone, Copy)]
struct Filters {
    mod_revision: (i64, i64),
    create_revision: (i64, i64),
}

impl Filters {
    fn new(request: &RangeRequest) -> Option<Self> {
        let bound = |min: i64, max: i64| (if min == 0 { i64::MIN } else { min }, if max == 0 { i64::MAX } else { max });
        has_filters(request).then(|| Self {
            mod_revision: bound(request.min_mod_revision, request.max_mod_revision),
            create_revision: bound(request.min_create_revision, request.max_create_revision),
        })
    }

    fn admit(&self, stamp: &Stamp) -> bool {
        let within = |value: i64, (min, max): (i64, i64)| min <= value && value <= max;
        within(stamp.revision.main, self.mod_revision) && within(stamp.create_revision, self.create_revision)
    }
}

/// A key that belongs into the reply but is not in it yet.
struct Found {
    stamp: Stamp,
    value: Option<KvBytes>,
    /// Only when values are not needed.
    key: Option<Box<[u8]>>,
}

enum Phase {
    Walk,
    /// Values are fetched to be sorted by; the number of those that are there.
    Resolve(usize),
    Emit,
    Done,
}

/// A range's state, apart from locks and pins. The writer drives one directly.
pub(crate) struct Walk {
    key: Bytes,
    range_end: Bytes,
    at: i64,
    revision: i64,
    limit: Option<usize>,
    /// Matches beyond this many are counted but not collected.
    collect_max: usize,
    filters: Option<Filters>,
    count_only: bool,
    projection: Projection,
    sort: Option<(SortTarget, SortOrder)>,
    phase: Phase,
    next_key: Vec<u8>,
    count: usize,
    matched: usize,
    visited: usize,
    /// In key order, waiting to be sorted.
    collected: Vec<Found>,
    sorted: std::vec::IntoIter<Found>,
    /// In reply order, waiting for values.
    pending: VecDeque<Found>,
    more: bool,
    kvs: Vec<u8>,
    /// Bytes of `kvs` handed out already.
    taken_bytes: usize,
}

impl Walk {
    /// `revision` is what the reply's header will say.
    pub(crate) fn new(request: &RangeRequest, at: i64, revision: i64) -> Self {
        let target = SortTarget::try_from(request.sort_target).unwrap_or_default();
        let order = SortOrder::try_from(request.sort_order).unwrap_or_default();
        let key_order = target == SortTarget::Key;
        let sort = match order {
            SortOrder::None if key_order => None,
            SortOrder::Ascend if key_order => None,
            SortOrder::None => Some((target, SortOrder::Ascend)),
            order => Some((target, order)),
        };
        let filters = Filters::new(request);
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        // With order NONE etcd fetches the first limit + 1 keys in key order even when it sorts by something else.
        let fetch_in_key_order = filters.is_none() && (order == SortOrder::None || sort.is_none());
        let collect_max = match limit {
            Some(limit) if sort.is_none() => limit,
            Some(limit) if fetch_in_key_order => limit.saturating_add(1),
            _ => usize::MAX,
        };
        let projection = match (request.keys_only, target) {
            (false, _) => Projection::Whole,
            (true, SortTarget::Value) => Projection::WithoutValue,
            (true, _) => Projection::IndexOnly,
        };
        Self {
            key: request.key.clone(),
            range_end: request.range_end.clone(),
            at,
            revision,
            limit,
            collect_max,
            filters,
            count_only: request.count_only,
            projection,
            sort,
            phase: Phase::Walk,
            next_key: request.key.to_vec(),
            count: 0,
            matched: 0,
            visited: 0,
            collected: Vec::new(),
            sorted: Vec::new().into_iter(),
            pending: VecDeque::new(),
            more: false,
            kvs: Vec::new(),
            taken_bytes: 0,
        }
    }

    /// Runs to the end against a locked index.
    pub(crate) fn run(mut self, index: &Index, shared: &Shared) -> Result<RangeReply, BackendError> {
        loop {
            self.settle(shared, true)?;
            match self.phase {
                _ if self.is_settling() => {}
                Phase::Done => return Ok(self.finish()),
                Phase::Walk => self.step(index),
                Phase::Resolve(_) | Phase::Emit => self.emit_sorted(),
            }
        }
    }

    fn take_encoded(&mut self) -> Vec<u8> {
        self.taken_bytes += self.kvs.len();
        // The next piece will be about as large.
        let next = Vec::with_capacity(self.kvs.len() + self.kvs.len() / 8);
        std::mem::replace(&mut self.kvs, next)
    }

    fn effort(&self) -> usize {
        self.taken_bytes + self.kvs.len() + self.visited * VISIT_COST_BYTES
    }

    /// Whether the rest is values in key order, one after the other.
    fn is_plain(&self) -> bool {
        self.is_walking()
            && self.sort.is_none()
            && self.filters.is_none()
            && !self.count_only
            && self.projection == Projection::Whole
            && self.pending.is_empty()
    }

    fn rest(&self) -> Rest {
        Rest {
            at: self.at,
            next_key: self.next_key.clone(),
            range_end: self.range_end.clone(),
            limit: self.limit,
            matched: self.matched,
        }
    }

    fn is_walking(&self) -> bool {
        matches!(self.phase, Phase::Walk)
    }

    /// Whether values wait to be copied; they go first.
    fn is_settling(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The phase says so already when the last values still wait.
    fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done) && !self.is_settling()
    }

    fn finish(self) -> RangeReply {
        RangeReply { kvs: self.kvs, more: self.more, count: self.count as i64, revision: self.revision }
    }

    /// Looks at the next [`STEP_KEYS`] keys.
    fn step(&mut self, index: &Index) {
        let key = self.key.clone();
        let range_end = self.range_end.clone();
        let mut interval = Interval::new(&key, &range_end);
        let next_key = std::mem::take(&mut self.next_key);
        interval.from = match interval.end {
            IntervalEnd::Single => interval.from,
            _ => &next_key,
        };
        let mut seen = 0;
        let mut resume: Option<&[u8]> = None;
        let bytes_max = self.kvs.len().saturating_add(STEP_BYTES);
        for entry in index.range(&interval) {
            if seen == STEP_KEYS || self.kvs.len() >= bytes_max {
                resume = Some(entry.key());
                break;
            }
            seen += 1;
            self.visit(entry);
        }
        self.visited += seen;
        self.next_key = next_key;
        match resume {
            Some(key) => {
                self.next_key.clear();
                self.next_key.extend_from_slice(key);
            }
            None => self.end_walk(),
        }
    }

    #[inline]
    fn visit(&mut self, entry: &KeyEntry) {
        let Some(stamp) = entry.live_at(self.at) else { return };
        self.count += 1;
        if self.count_only || self.filters.is_some_and(|filters| !filters.admit(&stamp)) {
            return;
        }
        self.matched += 1;
        if self.matched > self.collect_max {
            return;
        }
        let index_only = self.projection == Projection::IndexOnly;
        let value = if index_only { None } else { entry.value_at(&stamp) };
        if self.sort.is_some() {
            let key = index_only.then(|| entry.key().into());
            self.collected.push(Found { stamp, value: value.cloned(), key });
        } else if index_only {
            append_index_only(entry.key(), &stamp, &mut self.kvs);
        } else if let (Some(value), true) = (value, self.pending.is_empty()) {
            self.make_room(value.len());
            put_frame(KVS_FIELD, value, &mut self.kvs);
        } else {
            self.pending.push_back(Found { stamp, value: value.cloned(), key: None });
        }
    }

    /// A reply that has become larger than most will be larger still: it gets room for a step at once, instead of being
    /// copied into twice the room again and again.
    #[inline]
    fn make_room(&mut self, value_bytes: usize) {
        let length = self.kvs.len();
        if length + value_bytes + FRAME_BYTES_MAX > self.kvs.capacity()
            && (SMALL_REPLY_BYTES..STEP_BYTES).contains(&length)
        {
            self.kvs.reserve(STEP_BYTES + value_bytes + FRAME_BYTES_MAX - length);
        }
    }

    fn end_walk(&mut self) {
        self.phase = match self.sort {
            Some((SortTarget::Value, _)) => Phase::Resolve(0),
            Some(_) => {
                self.sort_collected();
                Phase::Emit
            }
            None => {
                self.more = self.limit.is_some_and(|limit| self.matched > limit);
                Phase::Done
            }
        };
    }

    fn sort_collected(&mut self) {
        let Some((target, order)) = self.sort else { return };
        let items = &mut self.collected;
        let number = |found: &Found| match target {
            SortTarget::Version => found.stamp.version,
            SortTarget::Create => found.stamp.create_revision,
            _ => found.stamp.revision.main,
        };
        match (target, order) {
            (SortTarget::Key, _) => items.reverse(),
            (SortTarget::Value, SortOrder::Descend) => go_sort(items, |a, b| sort_value(b) < sort_value(a)),
            (SortTarget::Value, _) => go_sort(items, |a, b| sort_value(a) < sort_value(b)),
            (_, SortOrder::Descend) => go_sort(items, |a, b| number(b) < number(a)),
            (_, _) => go_sort(items, |a, b| number(a) < number(b)),
        }
        if let Some(limit) = self.limit
            && items.len() > limit
        {
            items.truncate(limit);
            self.more = true;
        }
        self.sorted = std::mem::take(items).into_iter();
    }

    /// Moves the next sorted keys towards the reply.
    fn emit_sorted(&mut self) {
        for _ in 0..STEP_KEYS {
            let Some(found) = self.sorted.next() else {
                self.phase = Phase::Done;
                return;
            };
            match &found.key {
                Some(key) => append_index_only(key, &found.stamp, &mut self.kvs),
                None => self.pending.push_back(found),
            }
        }
    }

    /// Fetches what is waited for and copies some of it. False if that needs the backend and it may not be used.
    fn settle(&mut self, shared: &Shared, use_backend: bool) -> Result<bool, BackendError> {
        while let Phase::Resolve(start) = self.phase {
            let end = self.collected.len().min(start + STEP_KEYS);
            if !fetch_values(shared, &mut self.collected[start..end], use_backend)? {
                return Ok(false);
            }
            self.phase = Phase::Resolve(end);
            if end == self.collected.len() {
                self.sort_collected();
                self.phase = Phase::Emit;
            }
        }
        if self.pending.is_empty() {
            return Ok(true);
        }
        if !fetch_values(shared, self.pending.make_contiguous(), use_backend)? {
            return Ok(false);
        }
        let bytes_max = self.kvs.len().saturating_add(STEP_BYTES);
        while self.kvs.len() < bytes_max
            && let Some(found) = self.pending.pop_front()
        {
            let value = found.value.as_deref().expect("just fetched");
            append(self.projection, value, &mut self.kvs);
        }
        Ok(true)
    }
}

fn sort_value(found: &Found) -> &[u8] {
    let value = found.value.as_deref().expect("resolved before sorting");
    KeyValueParts::parse(value).map_or(&[], |parts| parts.value)
}

/// Fills in missing values from the overlay and, if allowed, the backend. False if some are still missing.
fn fetch_values(shared: &Shared, items: &mut [Found], use_backend: bool) -> Result<bool, BackendError> {
    let mut absent = 0;
    if items.iter().any(|found| found.value.is_none()) {
        let overlay = shared.overlay.read();
        for found in items.iter_mut().filter(|found| found.value.is_none()) {
            found.value = overlay.value(found.stamp.revision);
            absent += usize::from(found.value.is_none());
        }
    }
    if absent == 0 || !use_backend {
        return Ok(absent == 0);
    }
    shared.backend.read(&mut |transaction| {
        for found in items.iter_mut().filter(|found| found.value.is_none()) {
            let key = found.stamp.revision.to_key();
            transaction.fetch(Bucket::Key, &key, &mut |value| found.value = Some(value.into()))?;
            if found.value.is_none() {
                return Err(missing(found.stamp.revision));
            }
        }
        Ok(())
    })?;
    Ok(true)
}

fn append(projection: Projection, value: &[u8], kvs: &mut Vec<u8>) {
    match KeyValueParts::parse(value) {
        Some(parts) if projection == Projection::WithoutValue => {
            append_parts(&KeyValueParts { value: &[], ..parts }, kvs);
        }
        _ => put_frame(KVS_FIELD, value, kvs),
    }
}

fn append_index_only(key: &[u8], stamp: &Stamp, kvs: &mut Vec<u8>) {
    let parts = KeyValueParts {
        key,
        create_revision: stamp.create_revision,
        mod_revision: stamp.revision.main,
        version: stamp.version,
        ..KeyValueParts::default()
    };
    append_parts(&parts, kvs);
}

fn append_parts(parts: &KeyValueParts<'_>, kvs: &mut Vec<u8>) {
    kvs.push(KVS_FIELD << 3 | 2);
    put_varint(parts.encoded_len() as u64, kvs);
    parts.encode(kvs);
}
