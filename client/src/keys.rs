//! Ranges of keys as etcd writes them: a key and an end, where an end of one zero byte means "to the last key".

use bytes::Bytes;

/// "To the last key" as an end, and the smallest key as a beginning.
const ZERO: Bytes = Bytes::from_static(&[0]);

/// The end of the range of all keys that begin with `prefix`: the prefix with its last byte that is not 0xff made one
/// greater. `[0]`, which is "to the last key", when there is none.
///
/// ```
/// assert_eq!(kvorum_client::prefix_end(b"ab"), "ac");
/// assert_eq!(kvorum_client::prefix_end(b"a\xff"), "b");
/// assert_eq!(kvorum_client::prefix_end(b"\xff"), &[0][..]);
/// ```
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let Some(last) = prefix.iter().rposition(|&byte| byte < 0xff) else { return ZERO };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

/// Makes `key` and `end` the range of all keys that begin with `key`; of all keys when it is empty.
pub(crate) fn make_prefix(key: &mut Bytes, end: &mut Bytes) {
    if key.is_empty() {
        *key = ZERO;
        *end = ZERO;
    } else {
        *end = prefix_end(key);
    }
}

/// Makes `key` and `end` the range of `key` and all keys behind it.
pub(crate) fn make_from_key(key: &mut Bytes, end: &mut Bytes) {
    if key.is_empty() {
        *key = ZERO;
    }
    *end = ZERO;
}

/// The three ways to name more than one key, for a builder whose `request` has a key and a range end.
macro_rules! range_methods {
    () => {
        /// All keys that begin with the key; all there are when it is empty.
        pub fn prefix(mut self) -> Self {
            $crate::keys::make_prefix(&mut self.request.key, &mut self.request.range_end);
            self
        }

        /// The key and all behind it.
        pub fn from_key(mut self) -> Self {
            $crate::keys::make_from_key(&mut self.request.key, &mut self.request.range_end);
            self
        }

        /// The keys from the key up to and without `end`.
        pub fn to(mut self, end: impl $crate::IntoBytes) -> Self {
            self.request.range_end = end.into_bytes();
            self
        }
    };
}

pub(crate) use range_methods;

/// The first key behind `key`.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// Keys and values are given as text, bytes, arrays or [`Bytes`].
pub trait IntoBytes {
    /// The bytes; copied unless they are owned.
    fn into_bytes(self) -> Bytes;
}

impl IntoBytes for Bytes {
    fn into_bytes(self) -> Bytes {
        self
    }
}

impl IntoBytes for &Bytes {
    fn into_bytes(self) -> Bytes {
        self.clone()
    }
}

impl IntoBytes for String {
    fn into_bytes(self) -> Bytes {
        self.into()
    }
}

impl IntoBytes for &String {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }
}

impl IntoBytes for &str {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }
}

impl IntoBytes for Vec<u8> {
    fn into_bytes(self) -> Bytes {
        self.into()
    }
}

impl IntoBytes for &Vec<u8> {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl IntoBytes for &[u8] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl<const N: usize> IntoBytes for &[u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl<const N: usize> IntoBytes for [u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self)
    }
}
