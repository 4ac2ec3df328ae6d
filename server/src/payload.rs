//! What h2 sends for us. A socket sees of it only slices; here a large piece is also left for [`crate::socket`] to find, so
//! that it can keep the piece itself instead of a copy. It never decides what is sent, nor when.

use std::cell::RefCell;
use std::io::IoSlice;
use std::rc::Rc;

use bytes::{Buf, Bytes};

use crate::held::{Held, HeldBytes};

/// Smaller pieces are copied: that is cheaper than one more segment in the system call.
const SHARED_BYTES_MIN: usize = 4 * 1024;

thread_local! {
    /// The piece that h2 looked at last, which is the one it writes next.
    static OFFERED: RefCell<Bytes> = const { RefCell::new(Bytes::new()) };
}

/// A piece of a reply, counted for its connection until it was sent.
pub struct Payload {
    bytes: Bytes,
    held: HeldBytes,
}

impl Payload {
    pub fn new(bytes: Bytes, held: &Rc<Held>) -> Self {
        let held = HeldBytes::new(held, bytes.len());
        Self { bytes, held }
    }

    #[inline]
    fn offer(&self) {
        if self.bytes.len() >= SHARED_BYTES_MIN {
            OFFERED.set(self.bytes.clone());
        }
    }
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        self.offer();
        &self.bytes
    }

    fn chunks_vectored<'a>(&'a self, target: &mut [IoSlice<'a>]) -> usize {
        self.offer();
        self.bytes.chunks_vectored(target)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.held.set(self.bytes.len());
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        let bytes = self.bytes.copy_to_bytes(length);
        self.held.set(self.bytes.len());
        bytes
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
    use crate::limits::HeldLimits;

    #[test]
    fn a_large_piece_is_claimed_once_and_only_by_its_own_bytes() {
        let piece = Bytes::from(vec![7; 3 * SHARED_BYTES_MIN]);
        let mut payload = Payload::new(piece.clone(), &Held::new(&Rc::default(), HeldLimits::default()));
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
