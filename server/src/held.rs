//! What connections make the member keep in memory: replies that a client does not take, and messages that it begins and does
//! not end. Each connection has a count, and each connection thread one over all of its connections. Above their bounds
//! further calls of a connection are refused; nothing of one that keeps within its share is, whatever others hold.
//!
//! Nothing here keeps any bytes, or says what a refused call is told.

use std::cell::Cell;
use std::rc::Rc;

use crate::limits::HeldLimits;

/// The bytes that one connection makes its thread hold.
pub struct Held {
    own: Cell<usize>,
    thread: Rc<Cell<usize>>,
    limits: HeldLimits,
}

impl Held {
    /// For a new connection; `thread` is the count of all that its thread serves.
    pub fn new(thread: &Rc<Cell<usize>>, limits: HeldLimits) -> Rc<Self> {
        Rc::new(Self { own: Cell::new(0), thread: Rc::clone(thread), limits })
    }

    /// Whether the connection holds all that it may.
    pub fn is_full(&self) -> bool {
        let own = self.own.get();
        own >= self.limits.connection_bytes
            || (own >= self.limits.connection_bytes_floor && self.thread.get() >= self.limits.thread_bytes)
    }

    fn add(&self, bytes: usize) {
        self.own.set(self.own.get() + bytes);
        self.thread.set(self.thread.get() + bytes);
    }

    fn subtract(&self, bytes: usize) {
        self.own.set(self.own.get() - bytes);
        self.thread.set(self.thread.get() - bytes);
    }
}

/// A number of bytes that is counted for as long as this lives.
pub struct HeldBytes {
    held: Rc<Held>,
    bytes: usize,
}

impl HeldBytes {
    pub fn new(held: &Rc<Held>, bytes: usize) -> Self {
        held.add(bytes);
        Self { held: Rc::clone(held), bytes }
    }

    /// Makes it another number.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.held.add(bytes - self.bytes);
        } else {
            self.held.subtract(self.bytes - bytes);
        }
        self.bytes = bytes;
    }

    pub fn of(&self) -> &Rc<Held> {
        &self.held
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.held.subtract(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeldLimits = HeldLimits { connection_bytes: 100, thread_bytes: 150, connection_bytes_floor: 10 };

    #[test]
    fn a_connection_is_full_by_itself_or_with_its_thread() {
        let thread = Rc::default();
        let (first, second) = (Held::new(&thread, LIMITS), Held::new(&thread, LIMITS));
        let mut large = HeldBytes::new(&first, 99);
        assert!(!first.is_full());
        large.set(100);
        assert!(first.is_full() && !second.is_full());
        let small = HeldBytes::new(&second, 49);
        assert!(!second.is_full(), "149 bytes");
        let one_more = HeldBytes::new(&second, 1);
        assert!(second.is_full(), "the thread is full, and this one is above the floor");
        drop(small);
        drop(one_more);
        let fair = HeldBytes::new(&second, 9);
        let third = HeldBytes::new(&Held::new(&thread, LIMITS), 60);
        assert!(!second.is_full(), "below the floor it is served whatever others hold");
        drop((large, fair, third));
        assert!(!first.is_full());
        assert_eq!((first.own.get(), second.own.get(), thread.get()), (0, 0, 0));
    }
}
