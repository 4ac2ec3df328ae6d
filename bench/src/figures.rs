//! The figures a case can yield, and how each is written. No arithmetic other than that.

use std::collections::BTreeMap;

/// One kind of number; the order is the order of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Requests, or events, per second.
    PerSecond,
    /// Latencies in seconds.
    P50,
    P99,
    P999,
    /// The p99 while something else went on, in quiet p99s.
    OverQuiet,
    /// CPU seconds of the server per 100,000 requests.
    ServerCpu,
    /// CPU seconds of the load generator per 100,000 requests: when it nears the server's, the generator is in the way.
    ClientCpu,
    /// Bytes.
    PeakMemory,
    ResidentMemory,
    AnonymousMemory,
    /// Bytes written to the disk per put.
    WrittenPerPut,
    /// Bytes written to the disk in all.
    Written,
    /// Bytes of the database's file.
    FileSize,
    /// Seconds from the start of the process to its word that it is ready.
    UntilReady,
    /// Seconds from the start of the process to the first reply to a linearizable read.
    UntilAnswer,
    /// Seconds without a leader: the median over several losses, and the longest.
    WithoutLeader,
    WithoutLeaderLongest,
    /// Seconds until all watchers were created.
    UntilWatching,
    /// Seconds until what was measured had finished.
    UntilFinished,
    /// The share of the machine's CPU time that neither the server nor the load used while recording. Some of it is the
    /// kernel at work for the server's disk; much of it means that the figures are not to be trusted.
    ForeignCpu,
}

impl Figure {
    pub fn title(self) -> &'static str {
        match self {
            Figure::PerSecond => "per second",
            Figure::P50 => "p50 ms",
            Figure::P99 => "p99 ms",
            Figure::P999 => "p999 ms",
            Figure::OverQuiet => "p99 / quiet",
            Figure::ServerCpu => "CPU s/100k",
            Figure::ClientCpu => "client CPU",
            Figure::PeakMemory => "peak MB",
            Figure::ResidentMemory => "resident MB",
            Figure::AnonymousMemory => "anonymous MB",
            Figure::WrittenPerPut => "bytes/put",
            Figure::Written => "written MB",
            Figure::FileSize => "file MB",
            Figure::UntilReady => "ready s",
            Figure::UntilAnswer => "answer s",
            Figure::WithoutLeader => "median s",
            Figure::WithoutLeaderLongest => "longest s",
            Figure::UntilWatching => "watching s",
            Figure::UntilFinished => "finished s",
            Figure::ForeignCpu => "others' CPU",
        }
    }

    pub fn format(self, value: f64) -> String {
        match self {
            Figure::ForeignCpu => format!("{:.0} %", value * 100.0),
            Figure::PerSecond | Figure::WrittenPerPut => with_thousands(value),
            Figure::P50 | Figure::P99 | Figure::P999 => short(value * 1e3),
            Figure::PeakMemory
            | Figure::ResidentMemory
            | Figure::AnonymousMemory
            | Figure::Written
            | Figure::FileSize => short(value / 1e6),
            Figure::ServerCpu | Figure::ClientCpu => format!("{value:.2}"),
            Figure::OverQuiet => format!("{value:.2}x"),
            Figure::WithoutLeader | Figure::WithoutLeaderLongest => short(value),
            Figure::UntilReady | Figure::UntilAnswer | Figure::UntilWatching | Figure::UntilFinished => {
                format!("{value:.2}")
            }
        }
    }
}

/// Numbers under one label. A case may yield several.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub label: String,
    pub figures: BTreeMap<Figure, f64>,
}

impl Row {
    pub fn new(label: impl Into<String>) -> Self {
        Row { label: label.into(), figures: BTreeMap::new() }
    }

    pub fn with(mut self, figure: Figure, value: f64) -> Self {
        self.figures.insert(figure, value);
        self
    }

    pub fn without(mut self, figure: Figure) -> Self {
        self.figures.remove(&figure);
        self
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => with_thousands(value),
        middle if middle >= 10.0 => format!("{value:.1}"),
        middle if middle >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn with_thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (figure, value, text) in [
            (Figure::PerSecond, 1_234_567.4, "1,234,567"),
            (Figure::PerSecond, 999.6, "1,000"),
            (Figure::P99, 0.000_123_4, "0.123"),
            (Figure::P99, 0.012_34, "12.3"),
            (Figure::PeakMemory, 123_456_789.0, "123"),
            (Figure::ServerCpu, 3.456, "3.46"),
        ] {
            assert_eq!(figure.format(value), text);
        }
    }
}
