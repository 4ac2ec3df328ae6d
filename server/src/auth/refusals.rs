//! How much the log says of callers that are refused: whoever floods a member with wrong passwords or tokens must not make
//! its threads wait for the log, nor fill it. What is not said is counted, and the count is said.

use parking_lot::Mutex;

use crate::limits::REFUSAL_LINES_PER_SECOND_MAX;

#[derive(Default)]
pub struct Refusals(Mutex<Said>);

#[derive(Default)]
struct Said {
    second: u64,
    lines: u32,
    unsaid: u64,
}

impl Refusals {
    /// Whether a line may be written at this time, and then how many were not since the last; `Some(None)`: none.
    pub fn admit(&self, now_milliseconds: u64) -> Option<Option<u64>> {
        let second = now_milliseconds / 1000;
        let mut said = self.0.lock();
        if said.second != second {
            (said.second, said.lines) = (second, 0);
        }
        if said.lines >= REFUSAL_LINES_PER_SECOND_MAX {
            said.unsaid += 1;
            return None;
        }
        said.lines += 1;
        let unsaid = std::mem::take(&mut said.unsaid);
        Some((unsaid > 0).then_some(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_some_and_counts_the_others() {
        let refusals = Refusals::default();
        let most = u64::from(REFUSAL_LINES_PER_SECOND_MAX);
        let admitted = (0..most + 7).filter(|number| refusals.admit(5_000 + number) == Some(None)).count() as u64;
        assert_eq!(admitted, most);
        assert_eq!(refusals.admit(6_000), Some(Some(7)));
        assert_eq!(refusals.admit(6_001), Some(None));
    }
}
