//! The stored history in revision order: backend and overlay read as one.

use std::ops::ControlFlow;

use crate::backend::{BackendError, Bucket};
use crate::revision::{KvBytes, Revision};
use crate::shared::Shared;

/// A stored `KeyValue` where it lies.
pub(crate) enum Stored<'a> {
    Shared(&'a KvBytes),
    Borrowed(&'a [u8]),
}

impl Stored<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Shared(value) => value,
            Self::Borrowed(value) => value,
        }
    }

    pub(crate) fn to_kv(&self) -> KvBytes {
        match self {
            Self::Shared(value) => (*value).clone(),
            Self::Borrowed(value) => (*value).into(),
        }
    }
}

/// Visits at most `limit` revisions with `from <= revision` and `main <= until`, in order, in one short transaction, until
/// `visit` breaks. Returns where to go on, or `None` at the end (or after a break).
///
/// The overlay is copied first: what leaves it afterwards is in the copy, what left it before is in the backend.
pub(crate) fn visit_records(
    shared: &Shared,
    from: Revision,
    until: i64,
    limit: usize,
    visit: &mut dyn FnMut(Revision, bool, Stored<'_>) -> ControlFlow<()>,
) -> Result<Option<Revision>, BackendError> {
    let recent = shared.overlay.read().from(from, limit);
    let end = Revision::new(until.saturating_add(1), 0);
    let backend_end = recent.first().map_or(end, |item| item.revision.min(end));
    let mut left = limit;
    let mut last = None;
    let mut broken = false;
    if from < backend_end {
        let mut malformed = false;
        shared.backend.read(&mut |transaction| {
            let until = backend_end.to_key();
            transaction.scan(Bucket::Key, &from.to_key(), Some(&until), &mut |key, value| {
                let Some((revision, tombstone)) = Revision::from_key(key) else {
                    malformed = true;
                    return ControlFlow::Break(());
                };
                last = Some(revision);
                left -= 1;
                broken = visit(revision, tombstone, Stored::Borrowed(value)).is_break();
                if broken || left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        })?;
        if malformed {
            return Err(BackendError("bucket key holds a key that is not a revision".to_owned()));
        }
    }
    for item in &recent {
        if broken || left == 0 || item.revision >= end {
            break;
        }
        last = Some(item.revision);
        left -= 1;
        broken = visit(item.revision, item.tombstone, Stored::Shared(&item.value)).is_break();
    }
    if broken || left > 0 {
        return Ok(None);
    }
    Ok(last.map(|revision| Revision::new(revision.main, revision.sub + 1)))
}
