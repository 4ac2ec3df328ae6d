//! What h2 sends for us. A socket sees of it only slices; here a large piece is also left for [`crate::socket`] to find, so
//! that it can keep the piece itself instead of a copy. It never decides what is sent, nor when.

use std::cell::RefCell;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// Smaller pieces are copied: that is cheaper than one more segment in the system call.
const SHARED_BYTES_MIN: usize = 4 * 1024;

thread_local! {
    /// The piece that h2 looked at last, which is the one it writes next.
    static OFFERED: RefCell<Bytes> = const { RefCell::new(Bytes::new()) };
}

/// A piece of a reply.
pub struct Payload(Bytes);

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Payload {
    #[inline]
    fn offer(&self) {
        if self.0.len() >= SHARED_BYTES_MIN {
            OFFERED.set(self.0.clone());
        }
    }
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn chunk(&self) -> &[u8] {
        self.offer();
        &self.0
    }

    fn chunks_vectored<'a>(&'a self, target: &mut [IoSlice<'a>]) -> usize {
        self.offer();
        self.0.chunks_vectored(target)
    }

    fn advance(&mut self, count: usize) {
        self.0.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.0.copy_to_bytes(length)
    }
}

/// The piece that these bytes lie in, cut to them, if they are worth it and it is the one offered last.
#[inline]
pub fn claim(bytes: &[u8]) -> Option<Bytes> {
    if bytes.len() < SHARED_BYTES_MIN {
        return None;
    }
    let offered = OFFERED.take();
    let (outer, inner) = (offered.as_ptr_range(), bytes.as_ptr_range());
    (outer.start <= inner.start && inner.end <= outer.end).then(|| offered.slice_ref(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_piece_is_claimed_once_and_only_by_its_own_bytes() {
        let piece = Bytes::from(vec![7; 3 * SHARED_BYTES_MIN]);
        let mut payload = Payload::from(piece.clone());
        payload.advance(10);
        let slice = &payload.chunk()[..SHARED_BYTES_MIN];
        assert_eq!(claim(&[7; SHARED_BYTES_MIN]), None);
        assert_eq!(claim(slice), None, "the offer is gone");
        let slice = &payload.chunk()[..SHARED_BYTES_MIN];
        let claimed = claim(slice).expect("it was just offered");
        assert_eq!(claimed.as_ptr(), piece[10..].as_ptr());
        assert_eq!(claimed.len(), SHARED_BYTES_MIN);
        assert_eq!(claim(&payload.chunk()[..10]), None, "too small");
    }
}
