//! Latencies in buckets that widen with the value. It never allocates after it was made, and never loses a sample.

use std::time::Duration;

/// Each power of two is split into this many buckets, so a percentile is at most 1/128 above the true value.
const BUCKETS_PER_DOUBLING: u64 = 128;
const BUCKET_BITS: u32 = BUCKETS_PER_DOUBLING.trailing_zeros();
/// 2^40 ns is 18 minutes; anything longer counts as that.
const NANOSECONDS_BITS_MAX: u32 = 40;
const BUCKET_COUNT: usize = ((NANOSECONDS_BITS_MAX - BUCKET_BITS + 1) as usize) << BUCKET_BITS;

/// A histogram of durations.
#[derive(Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: vec![0; BUCKET_COUNT], count: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(nanoseconds)] += 1;
        self.count += 1;
    }

    /// Takes over the samples of another.
    pub fn add(&mut self, other: &Histogram) {
        for (bucket, further) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += further;
        }
        self.count += other.count;
    }

    /// The smallest bucket edge that at least `share` (0 to 1) of the samples do not exceed; `None` without samples.
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let rank = ((share * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        for (bucket, samples) in self.buckets.iter().enumerate() {
            seen += samples;
            if seen >= rank {
                return Some(Duration::from_nanos(upper_edge_of(bucket)));
            }
        }
        None
    }
}

/// Values below `BUCKETS_PER_DOUBLING` have a bucket each. Above, the position of the highest bit chooses a group of
/// `BUCKETS_PER_DOUBLING` buckets and the bits after it choose the bucket in the group.
fn bucket_of(nanoseconds: u64) -> usize {
    let value = nanoseconds.min((1 << NANOSECONDS_BITS_MAX) - 1);
    if value < BUCKETS_PER_DOUBLING {
        return value as usize;
    }
    let shift = value.ilog2() - BUCKET_BITS;
    let within = (value >> shift) - BUCKETS_PER_DOUBLING;
    (u64::from(shift + 1) * BUCKETS_PER_DOUBLING + within) as usize
}

fn upper_edge_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < BUCKETS_PER_DOUBLING {
        return bucket;
    }
    let shift = bucket / BUCKETS_PER_DOUBLING - 1;
    let within = bucket % BUCKETS_PER_DOUBLING + BUCKETS_PER_DOUBLING;
    ((within + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_within_its_bucket() {
        for bits in 0..NANOSECONDS_BITS_MAX {
            for value in [1u64 << bits, (1u64 << bits) + 1, (1u64 << (bits + 1)) - 1] {
                let edge = upper_edge_of(bucket_of(value));
                assert!(edge >= value, "{value} above its edge {edge}");
                assert!(edge - value <= value / BUCKETS_PER_DOUBLING, "{value} far below its edge {edge}");
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKET_COUNT - 1);
    }

    #[test]
    fn percentiles_of_a_uniform_spread() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(0.5), None);
        for microseconds in 1..=1000 {
            histogram.record(Duration::from_micros(microseconds));
        }
        for (share, expected_us) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0), (0.0, 1.0)] {
            let found_us = histogram.percentile(share).expect("there are samples").as_secs_f64() * 1e6;
            assert!((found_us / expected_us - 1.0).abs() < 0.01, "p{share}: {found_us} instead of {expected_us}");
        }
    }
}
