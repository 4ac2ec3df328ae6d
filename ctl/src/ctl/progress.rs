//! How far a long command is, on standard error and only where that is a terminal: a bar that is drawn over itself and
//! wiped at the end. In a pipe nothing is written.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often the bar is drawn at most.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);

const BAR_CELLS: u64 = 40;

/// A bar of something that is counted up to a total. Dropping it wipes it.
pub struct Progress {
    is_shown: bool,
    /// Shows a count, such as bytes, as text.
    show: fn(u64) -> String,
    drawn: Option<Instant>,
}

impl Progress {
    pub fn new(show: fn(u64) -> String) -> Self {
        Self { is_shown: std::io::stderr().is_terminal(), show, drawn: None }
    }

    pub fn set(&mut self, done: u64, total: u64) {
        let is_due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= DRAW_INTERVAL);
        if self.is_shown && is_due {
            self.drawn = Some(Instant::now());
            // Whether it is seen does not matter to the command.
            let _ = write!(std::io::stderr(), "\r{}\x1b[K", line(done, total, self.show));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// `[=====>    ] 12 MB of 24 MB, 50%`.
fn line(done: u64, total: u64, show: fn(u64) -> String) -> String {
    let total = total.max(done).max(1);
    let of = |scale: u64| (u128::from(done) * u128::from(scale) / u128::from(total)) as usize;
    let (cells, width) = (of(BAR_CELLS), BAR_CELLS as usize);
    let bar = format!("{}{}", "=".repeat(cells), if cells < width { ">" } else { "" });
    format!("[{bar:width$}] {} of {}, {}%", show(done), show(total), of(100))
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_bar_is_as_long_as_what_is_done() {
        let show = |count: u64| count.to_string();
        let cases = [
            (0, 10, "[>                                       ] 0 of 10, 0%"),
            (5, 10, "[====================>                   ] 5 of 10, 50%"),
            (10, 10, "[========================================] 10 of 10, 100%"),
            (0, 0, "[>                                       ] 0 of 1, 0%"),
        ];
        for (done, total, expected) in cases {
            assert_eq!(line(done, total, show), expected);
        }
    }
}
