//! What a user may read and write: the permissions of all roles, put together into disjoint intervals in key order, so that
//! a question costs one binary search however many permissions there are.
//!
//! A question is answered as etcd's interval trees answer it: neighbours that touch count as one, a single key is inside or
//! not, and an empty interval is judged by where it begins.

use kvorum_api::authpb::Permission;
use kvorum_api::authpb::permission::Type;

/// Where an interval ends; the end itself is outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End<'a> {
    Before(&'a [u8]),
    Never,
}

/// The keys that a request is about: `key` alone, up to `range_end`, or from `key` on if that is "\0".
#[derive(Clone, Copy, Debug)]
pub(super) enum Keys<'a> {
    One(&'a [u8]),
    Range(&'a [u8], End<'a>),
}

impl<'a> Keys<'a> {
    pub(super) fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => Self::One(key),
            [0] => Self::Range(key, End::Never),
            end => Self::Range(key, End::Before(end)),
        }
    }
}

/// May such a permission be granted? A key, `key` up to a larger end, or `key` and everything behind it.
pub(super) fn is_valid(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || range_end == [0] || key < range_end)
}

/// Disjoint intervals that do not touch, in rising order.
#[derive(Clone, Debug, Default)]
pub(super) struct Intervals {
    begins: Vec<Box<[u8]>>,
    /// Of the interval with the same position; `None` never ends.
    ends: Vec<Option<Box<[u8]>>>,
}

impl Intervals {
    fn new(mut permissions: Vec<(&[u8], EndBytes<'_>)>) -> Self {
        permissions.sort_unstable_by(|left, right| left.0.cmp(right.0));
        let mut intervals = Self::default();
        for (begin, end) in permissions {
            let end = end.to_owned_end();
            match intervals.ends.last_mut() {
                // The one before reaches this one, or beyond.
                Some(last) if last.as_deref().is_none_or(|last| last >= begin) => {
                    if compare_ends(last.as_deref(), end.as_deref()).is_lt() {
                        *last = end;
                    }
                }
                _ => {
                    intervals.begins.push(begin.into());
                    intervals.ends.push(end);
                }
            }
        }
        intervals
    }

    pub(super) fn cover(&self, keys: Keys<'_>) -> bool {
        self.cover_counting(keys, &mut || {})
    }

    /// `compared` is called for each comparison of keys.
    fn cover_counting(&self, keys: Keys<'_>, compared: &mut dyn FnMut()) -> bool {
        let (Keys::One(key) | Keys::Range(key, _)) = keys;
        let after = self.begins.partition_point(|begin| {
            compared();
            **begin <= *key
        });
        let Some(position) = after.checked_sub(1) else { return false };
        let end = self.ends[position].as_deref();
        compared();
        if end.is_some_and(|end| end <= key) {
            return false;
        }
        let Keys::Range(_, wanted) = keys else { return true };
        compared();
        match (end, wanted) {
            (None, _) => true,
            (Some(_), End::Never) => false,
            (Some(end), End::Before(wanted)) => wanted <= end,
        }
    }
}

/// No end is the largest.
fn compare_ends(left: Option<&[u8]>, right: Option<&[u8]>) -> std::cmp::Ordering {
    match (left, right) {
        (None, None) => std::cmp::Ordering::Equal,
        (None, _) => std::cmp::Ordering::Greater,
        (_, None) => std::cmp::Ordering::Less,
        (Some(left), Some(right)) => left.cmp(right),
    }
}

/// A permission's end before it is kept.
#[derive(Clone, Copy)]
enum EndBytes<'a> {
    /// The smallest key after this one.
    After(&'a [u8]),
    Before(&'a [u8]),
    Never,
}

impl EndBytes<'_> {
    fn to_owned_end(self) -> Option<Box<[u8]>> {
        match self {
            Self::After(key) => Some([key, b"\0"].concat().into()),
            Self::Before(end) => Some(end.into()),
            Self::Never => None,
        }
    }
}

/// What the roles of one user give together.
#[derive(Clone, Debug, Default)]
pub(super) struct Permissions {
    pub(super) read: Intervals,
    pub(super) write: Intervals,
}

impl Permissions {
    pub(super) fn unite<'a>(permissions: impl Iterator<Item = &'a Permission>) -> Self {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for permission in permissions {
            let key = &permission.key[..];
            let end = match &permission.range_end[..] {
                [] => EndBytes::After(key),
                [0] => EndBytes::Never,
                // Older versions let these be granted; they contain nothing.
                end if key >= end => continue,
                end => EndBytes::Before(end),
            };
            // As above: no key is empty, and no interval begins with that.
            if key.is_empty() {
                continue;
            }
            match Type::try_from(permission.perm_type) {
                Ok(Type::Read) => read.push((key, end)),
                Ok(Type::Write) => write.push((key, end)),
                Ok(Type::Readwrite) => {
                    read.push((key, end));
                    write.push((key, end));
                }
                // etcd keeps what it does not know, and lets it permit nothing.
                Err(_) => {}
            }
        }
        Self { read: Intervals::new(read), write: Intervals::new(write) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn permission(kind: Type, key: &[u8], range_end: &[u8]) -> Permission {
        Permission { perm_type: kind as i32, key: key.to_vec().into(), range_end: range_end.to_vec().into() }
    }

    fn readable(permissions: &[(&str, &str)]) -> Intervals {
        let permissions: Vec<Permission> =
            permissions.iter().map(|(key, end)| permission(Type::Read, key.as_bytes(), end.as_bytes())).collect();
        Permissions::unite(permissions.iter()).read
    }

    fn covers(intervals: &Intervals, key: &str, end: &str) -> bool {
        intervals.cover(Keys::new(key.as_bytes(), end.as_bytes()))
    }

    #[test]
    fn a_range_is_permitted_if_its_parts_are() {
        let intervals = readable(&[("c", "e"), ("a", "c"), ("k", ""), ("x", "\0"), ("z", "zz")]);
        for (key, end, permitted) in [
            ("a", "", true),
            ("a", "e", true),
            ("b", "d", true),
            ("a", "e\0", false),
            ("e", "", false),
            ("k", "", true),
            ("k", "k\0", true),
            ("k", "l", false),
            ("k\0", "", false),
            ("w", "", false),
            ("x", "\0", true),
            ("zzz", "\0", true),
            ("a", "\0", false),
            ("\0", "\0", false),
            // Empty intervals, by their beginning.
            ("d", "a", true),
            ("f", "a", false),
        ] {
            assert_eq!(covers(&intervals, key, end), permitted, "{key:?} {end:?}");
        }
        assert!(covers(&readable(&[("\0", "\0")]), "\0", "\0"));
        assert!(!covers(&readable(&[("", "\0"), ("b", "a")]), "b", ""));
    }

    #[test]
    fn kinds_are_kept_apart() {
        let granted = [
            permission(Type::Read, b"r", b""),
            permission(Type::Write, b"w", b""),
            permission(Type::Readwrite, b"b", b""),
            Permission { perm_type: 9, key: "u".into(), range_end: "".into() },
        ];
        let Permissions { read, write } = Permissions::unite(granted.iter());
        let told: Vec<(bool, bool)> =
            ["r", "w", "b", "u"].iter().map(|key| (covers(&read, key, ""), covers(&write, key, ""))).collect();
        assert_eq!(told, [(true, false), (false, true), (true, true), (false, false)]);
    }

    /// Ten thousand permissions cost a few comparisons more than ten, not a thousand times as many.
    #[test]
    fn comparisons_grow_with_the_logarithm() {
        let most = |count: usize| {
            let granted: Vec<Permission> =
                (0..count).map(|number| permission(Type::Read, format!("k{number:06}").as_bytes(), b"")).collect();
            let intervals = Permissions::unite(granted.iter()).read;
            assert_eq!(intervals.begins.len(), count);
            let ask = |number: usize| {
                let mut comparisons = 0;
                let key = format!("k{number:06}");
                assert!(intervals.cover_counting(Keys::One(key.as_bytes()), &mut || comparisons += 1));
                comparisons
            };
            (0..count).map(ask).max().expect("some were asked")
        };
        let (few, many) = (most(10), most(10_000));
        assert!(few >= 4 && many <= few + 11, "{few} comparisons for 10, {many} for 10,000");
    }

    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0..4u8, 0..3)
    }

    proptest! {
        /// Against the definition: every key of the range lies in some permission. Keys are short here, so a few stand for
        /// all; where a range is empty, its first key decides.
        #[test]
        fn agrees_with_looking_at_every_key(
            granted in proptest::collection::vec((any_bytes(), any_bytes()), 0..6),
            key in any_bytes(),
            range_end in any_bytes(),
        ) {
            prop_assume!(!key.is_empty());
            let granted: Vec<Permission> =
                granted.iter().map(|(key, end)| permission(Type::Write, key, end)).collect();
            let intervals = Permissions::unite(granted.iter()).write;
            let holds = |begin: &[u8], end: &[u8], key: &[u8]| match end {
                [] => key == begin,
                [0] => key >= begin,
                end => key >= begin && key < end,
            };
            let may = |key: &[u8]| {
                granted.iter().any(|granted| !granted.key.is_empty() && holds(&granted.key, &granted.range_end, key))
            };
            // Between two of these no interval begins or ends.
            let mut keys: Vec<Vec<u8>> = vec![vec![]];
            for length in 0..4 {
                let longer: Vec<Vec<u8>> = keys.iter().filter(|key| key.len() == length)
                    .flat_map(|key| (0..5u8).map(move |byte| [&key[..], &[byte]].concat())).collect();
                keys.extend(longer);
            }
            let every = keys.iter().filter(|candidate| holds(&key, &range_end, candidate)).all(|key| may(key));
            prop_assert_eq!(intervals.cover(Keys::new(&key, &range_end)), every && may(&key));
        }
    }
}
