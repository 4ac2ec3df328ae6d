//! Which keys take the space: a sample over the whole history, split by the segments of paths. A hint for operators, taken
//! beside everything else: it reads a bounded number of revisions, in short transactions, and holds no lock meanwhile.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::records::visit_records;
use crate::backend::BackendError;
use crate::event::checked_key_of;
use crate::revision::Revision;
use crate::shared::Shared;

/// The history is looked at in so many places, evenly apart.
const PLACES: i64 = 128;

/// Revisions looked at in one place.
const REVISIONS_PER_PLACE: usize = 64;

/// Of a longer key the beginning counts.
const KEY_BYTES_MAX: usize = 256;

/// Prefixes that are named.
const PREFIXES_MAX: usize = 5;

/// A prefix that has so much of what lies above it is looked into.
const DOMINANT_PERCENT: u64 = 80;

/// Segments that are looked into at most.
const SEGMENTS_MAX: usize = 8;

/// What a revision costs beside key and value.
const REVISION_BYTES: u64 = 32;

/// The prefixes that use most, the largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpaceUse {
    /// All of history, about.
    pub total_bytes: u64,
    pub largest: Vec<PrefixUse>,
}

/// Keys with a common beginning, and what all their revisions take, about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixUse {
    pub prefix: Box<[u8]>,
    pub bytes: u64,
}

/// A key and the bytes it stands for.
type Sample = (Box<[u8]>, u64);

pub(crate) fn space_use(shared: &Shared) -> Result<SpaceUse, BackendError> {
    Ok(split(&sample(shared)?))
}

/// Looks at the first revisions of each stretch of history. What it does not see of a stretch counts as what it saw.
fn sample(shared: &Shared) -> Result<Vec<Sample>, BackendError> {
    let revision = shared.revision();
    let stretch = revision / PLACES + 1;
    let mut samples = Vec::new();
    let mut first = 1;
    while first <= revision {
        let last = (first + stretch - 1).min(revision);
        let mut seen: Vec<Sample> = Vec::new();
        let from = Revision::new(first, 0);
        let resume = visit_records(shared, from, last, REVISIONS_PER_PLACE, &mut |_, _, stored| {
            let bytes = stored.bytes();
            if let Some(key) = checked_key_of(bytes) {
                seen.push((key[..key.len().min(KEY_BYTES_MAX)].into(), bytes.len() as u64 + REVISION_BYTES));
            }
            ControlFlow::Continue(())
        })?;
        if let Some(next) = resume {
            let (all, looked_at) = (last - first + 1, (next.main - first).max(1));
            let weigh = |bytes: u64| bytes.saturating_mul(all.unsigned_abs()) / looked_at.unsigned_abs();
            seen.iter_mut().for_each(|(_, bytes)| *bytes = weigh(*bytes));
        }
        samples.append(&mut seen);
        first = last + 1;
    }
    Ok(samples)
}

/// Goes down the path for as long as one segment has nearly everything; the largest parts there are the answer.
fn split(samples: &[Sample]) -> SpaceUse {
    let total_bytes = samples.iter().map(|(_, bytes)| bytes).sum();
    let mut within: Vec<&Sample> = samples.iter().collect();
    let mut depth = 0;
    for _ in 0..SEGMENTS_MAX {
        let parts = parts(&within, depth);
        let Some((largest, bytes)) = parts.iter().max_by_key(|(_, bytes)| **bytes) else { break };
        let all: u64 = parts.values().sum();
        let goes_on = within.iter().any(|(key, _)| key.len() > largest.len() && key.starts_with(largest));
        if *bytes * 100 < all * DOMINANT_PERCENT || !goes_on {
            break;
        }
        depth = largest.len();
        let largest = largest.to_vec();
        within.retain(|(key, _)| key.starts_with(&largest));
    }
    let mut largest: Vec<PrefixUse> =
        parts(&within, depth).into_iter().map(|(prefix, bytes)| PrefixUse { prefix: prefix.into(), bytes }).collect();
    largest.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    largest.truncate(PREFIXES_MAX);
    SpaceUse { total_bytes, largest }
}

fn parts<'a>(samples: &[&'a Sample], depth: usize) -> BTreeMap<&'a [u8], u64> {
    let mut parts = BTreeMap::new();
    for (key, bytes) in samples {
        *parts.entry(&key[..segment_end(key, depth)]).or_default() += bytes;
    }
    parts
}

/// Where the segment ends that begins at `depth`: behind the next slash; in a key without one behind another sign that
/// separates; else before the number that the key ends with.
fn segment_end(key: &[u8], depth: usize) -> usize {
    let rest = &key[depth..];
    let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
    let behind = |separators: &[u8]| rest[slashes..].iter().position(|byte| separators.contains(byte));
    if let Some(length) = behind(b"/").or_else(|| behind(b":|#.-_")) {
        return depth + slashes + length + 1;
    }
    let digits = rest.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    if digits < rest.len() { key.len() - digits } else { key.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest(samples: &[(&str, u64)]) -> Vec<(String, u64)> {
        let samples: Vec<Sample> = samples.iter().map(|(key, bytes)| (key.as_bytes().into(), *bytes)).collect();
        let text = |part: PrefixUse| (String::from_utf8(part.prefix.into_vec()).expect("text"), part.bytes);
        split(&samples).largest.into_iter().map(text).collect()
    }

    fn named(parts: &[(&str, u64)]) -> Vec<(String, u64)> {
        parts.iter().map(|(prefix, bytes)| ((*prefix).to_owned(), *bytes)).collect()
    }

    #[test]
    fn the_first_segments_that_split_the_use_are_named() {
        let cluster = [
            ("/registry/events/a/1", 50),
            ("/registry/events/b/2", 10),
            ("/registry/pods/a/x", 25),
            ("/registry/leases/y", 10),
            ("other", 5),
        ];
        let expected = [("/registry/events/", 60), ("/registry/pods/", 25), ("/registry/leases/", 10)];
        assert_eq!(largest(&cluster), named(&expected));
        // What dominates is looked into, down to a single key.
        assert_eq!(largest(&[("/a/b/c/d", 99), ("/a/x", 1)]), named(&[("/a/b/c/d", 99)]));
        assert_eq!(largest(&[("/a/b/1", 40), ("/a/b/c/1", 60)]), named(&[("/a/b/c/", 60), ("/a/b/1", 40)]));
        assert_eq!(largest(&[]), named(&[]));
    }

    #[test]
    fn keys_without_slashes_are_told_apart_by_other_signs_and_numbers() {
        let users = [("user:1", 10), ("user:2", 10), ("group:1", 30)];
        assert_eq!(largest(&users), named(&[("group:", 30), ("user:", 20)]));
        assert_eq!(largest(&[("key1", 1), ("key22", 2), ("name", 3)]), named(&[("key", 3), ("name", 3)]));
        assert_eq!(largest(&[("12", 1), ("13", 2)]), named(&[("13", 2), ("12", 1)]));
    }

    #[test]
    fn five_are_named() {
        let many: Vec<(String, u64)> = (1..=9).map(|number| (format!("{number}/x"), number)).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|(key, bytes)| (key.as_str(), *bytes)).collect();
        assert_eq!(largest(&many), named(&[("9/", 9), ("8/", 8), ("7/", 7), ("6/", 6), ("5/", 5)]));
    }
}
