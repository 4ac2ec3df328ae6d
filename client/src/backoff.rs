//! Pauses that grow, with a little chance in them so that clients do not march in step. It decides how long, not whether.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The next pause of something that is tried again and again.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, next: base }
    }

    /// How long to wait now.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        jittered(pause)
    }

    /// It worked: the next pause is the first again.
    pub fn reset(&mut self) {
        self.next = self.base;
    }
}

/// A tenth more or less.
fn jittered(pause: Duration) -> Duration {
    let share = f64::from(u32::try_from(random() >> 32).unwrap_or(0)) / f64::from(u32::MAX);
    pause.mul_f64(0.9 + 0.2 * share)
}

/// Good enough to spread clients; the standard library seeds it anew every time.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(40));
        for expected in [10.0, 20.0, 40.0, 40.0] {
            let pause = backoff.pause().as_secs_f64() * 1000.0;
            assert!((expected * 0.9..=expected * 1.1).contains(&pause), "{pause} for {expected}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(11));
    }
}
