//! Counter, gauge and histogram as atomics, and the page they are written on.

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// More buckets than any histogram here has.
const BUCKETS_MAX: usize = 24;

/// Only grows. Alone on its cache line, so that two threads with two counters do not slow each other.
#[derive(Default)]
#[repr(align(64))]
pub struct Counter(AtomicU64);

impl Counter {
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn render(&self, page: &mut Page, name: &str, kind: &str, help: &str) {
        page.family(name, kind, help);
        page.sample(name, "", self.value() as f64);
    }
}

/// A whole number that goes up and down.
#[derive(Default)]
#[repr(align(64))]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub const fn new() -> Gauge {
        Gauge(AtomicI64::new(0))
    }

    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn add(&self, amount: i64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn render(&self, page: &mut Page, name: &str, kind: &str, help: &str) {
        page.family(name, kind, help);
        page.sample(name, "", self.value() as f64);
    }
}

/// Counts observations by size. The sum is kept in millionths of the unit: microseconds where the unit is a second.
#[repr(align(64))]
pub struct Histogram {
    bounds: &'static [f64],
    counts: [AtomicU64; BUCKETS_MAX + 1],
    sum_millionths: AtomicU64,
}

impl Histogram {
    /// `bounds` are the upper ends of the buckets, ascending, without infinity.
    pub const fn new(bounds: &'static [f64]) -> Histogram {
        assert!(bounds.len() <= BUCKETS_MAX, "a histogram has a bounded number of buckets");
        Histogram { bounds, counts: [const { AtomicU64::new(0) }; BUCKETS_MAX + 1], sum_millionths: AtomicU64::new(0) }
    }

    /// Counts one observation, in the unit of the name. Negative ones count as 0.
    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        // The cast saturates, and NaN becomes 0.
        self.sum_millionths.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    /// Counts a duration, for histograms in seconds.
    pub fn observe_duration(&self, duration: std::time::Duration) {
        self.observe(duration.as_secs_f64());
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn render(&self, page: &mut Page, name: &str, kind: &str, help: &str) {
        page.family(name, kind, help);
        self.render_samples(page, name, &[]);
    }

    /// The samples without the family's head, with more labels.
    pub(super) fn render_samples(&self, page: &mut Page, name: &str, more: &[(&str, &str)]) {
        let mut cumulative = 0;
        for (index, bound) in self.bounds.iter().copied().chain([f64::INFINITY]).enumerate() {
            cumulative += self.counts[index].load(Ordering::Relaxed);
            let bound = float_text(bound);
            let pairs: Vec<_> = more.iter().copied().chain([("le", bound.as_str())]).collect();
            page.sample(&format!("{name}_bucket"), &labels(&pairs), cumulative as f64);
        }
        let sum = self.sum_millionths.load(Ordering::Relaxed) as f64 / 1e6;
        let more = if more.is_empty() { String::new() } else { labels(more) };
        page.sample(&format!("{name}_sum"), &more, sum);
        page.sample(&format!("{name}_count"), &more, cumulative as f64);
    }
}

/// A page of metrics being written.
pub(super) struct Page(String);

impl Page {
    pub fn new() -> Page {
        Page(String::with_capacity(128 * 1024))
    }

    /// Begins a family of samples.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a String takes every write");
    }

    /// One sample; `labels` is empty or made by [`labels`].
    pub fn sample(&mut self, name: &str, labels: &str, value: f64) {
        writeln!(self.0, "{name}{labels} {}", float_text(value)).expect("a String takes every write");
    }

    pub fn into_text(self) -> String {
        self.0
    }
}

/// `{a="x",b="y"}` with the escapes of the format.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut text = String::from("{");
    for (index, (name, value)) in pairs.iter().enumerate() {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let comma = if index > 0 { "," } else { "" };
        write!(text, "{comma}{name}=\"{value}\"").expect("a String takes every write");
    }
    text.push('}');
    text
}

/// A number as Prometheus' Go library writes it: shortest digits, with an exponent below 1e-4 and from 1e+06 on.
pub(super) fn float_text(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if value.is_nan() {
        return "NaN".to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("`{:e}` writes an exponent");
    let exponent: i32 = exponent.parse().expect("`{:e}` writes a whole exponent");
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{value}")
}
