//! The order in which etcd lists keys that compare equal: whatever Go's `sort.Sort` makes of them.
//!
//! Go sorts with pattern-defeating quicksort, which is not stable; up to 12 elements it is an insertion sort, which is.
//! Clients see that order, so this makes the same comparisons and exchanges. It must never draw on anything but the
//! elements and their number.

/// Up to this many elements are sorted by insertion.
const INSERTION_MAX: usize = 12;
/// From this many elements on, a pivot is the median of three medians.
const NINTHER_MIN: usize = 50;
/// Exchanges among the nine candidates when all of them stood in falling order.
const CANDIDATE_SWAPS_MAX: usize = 12;
/// Elements out of place that an almost sorted run may have.
const MISPLACED_MAX: usize = 5;
/// Shorter runs are not worth repairing.
const REPAIR_MIN: usize = 50;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trend {
    Rising,
    Falling,
    Unknown,
}

/// Sorts as Go 1.19 and later do.
pub(crate) fn go_sort<T>(items: &mut [T], less: impl Fn(&T, &T) -> bool) {
    let end = items.len();
    let mut sorter = Sorter { items, less };
    let bad_pivots_max = usize::BITS - end.leading_zeros();
    sorter.sort(0, end, bad_pivots_max);
}

struct Sorter<'a, T, F> {
    items: &'a mut [T],
    less: F,
}

impl<T, F: Fn(&T, &T) -> bool> Sorter<'_, T, F> {
    fn less(&self, a: usize, b: usize) -> bool {
        (self.less)(&self.items[a], &self.items[b])
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.items.swap(a, b);
    }

    /// Sorts `begin..end`; after `bad_pivots_left` bad choices of a pivot it changes to heap sort.
    fn sort(&mut self, mut begin: usize, mut end: usize, mut bad_pivots_left: u32) {
        let mut balanced = true;
        let mut partitioned = true;
        loop {
            let length = end - begin;
            if length <= INSERTION_MAX {
                return self.insertion_sort(begin, end);
            }
            if bad_pivots_left == 0 {
                return self.heap_sort(begin, end);
            }
            if !balanced {
                self.scatter(begin, end);
                bad_pivots_left -= 1;
            }
            let (mut pivot, mut trend) = self.choose_pivot(begin, end);
            if trend == Trend::Falling {
                self.items[begin..end].reverse();
                pivot = (end - 1) - (pivot - begin);
                trend = Trend::Rising;
            }
            if balanced && partitioned && trend == Trend::Rising && self.repair(begin, end) {
                return;
            }
            // What stands before is not below the pivot: there are many equals of it, put them aside.
            if begin > 0 && !self.less(begin - 1, pivot) {
                begin = self.partition_equal(begin, end, pivot);
                continue;
            }
            let (middle, was_partitioned) = self.partition(begin, end, pivot);
            partitioned = was_partitioned;
            let (left, right) = (middle - begin, end - middle);
            balanced = left.min(right) >= length / 8;
            if left < right {
                self.sort(begin, middle, bad_pivots_left);
                begin = middle + 1;
            } else {
                self.sort(middle + 1, end, bad_pivots_left);
                end = middle;
            }
        }
    }

    fn insertion_sort(&mut self, begin: usize, end: usize) {
        for start in begin + 1..end {
            let mut position = start;
            while position > begin && self.less(position, position - 1) {
                self.swap(position, position - 1);
                position -= 1;
            }
        }
    }

    fn heap_sort(&mut self, begin: usize, end: usize) {
        let length = end - begin;
        for root in (0..=(length - 1) / 2).rev() {
            self.sift_down(begin, root, length);
        }
        for last in (0..length).rev() {
            self.swap(begin, begin + last);
            self.sift_down(begin, 0, last);
        }
    }

    fn sift_down(&mut self, begin: usize, mut root: usize, length: usize) {
        loop {
            let mut child = 2 * root + 1;
            if child >= length {
                return;
            }
            if child + 1 < length && self.less(begin + child, begin + child + 1) {
                child += 1;
            }
            if !self.less(begin + root, begin + child) {
                return;
            }
            self.swap(begin + root, begin + child);
            root = child;
        }
    }

    /// Splits around the pivot; returns where it ends up and whether nothing had to be exchanged.
    fn partition(&mut self, begin: usize, end: usize, pivot: usize) -> (usize, bool) {
        self.swap(begin, pivot);
        let (mut low, mut high) = (begin + 1, end - 1);
        let mut exchanged = false;
        loop {
            while low <= high && self.less(low, begin) {
                low += 1;
            }
            while low <= high && !self.less(high, begin) {
                high -= 1;
            }
            if low > high {
                self.swap(high, begin);
                return (high, !exchanged);
            }
            self.swap(low, high);
            exchanged = true;
            low += 1;
            high -= 1;
        }
    }

    /// Moves the equals of the pivot to the front of what is not below it; returns where the greater ones begin.
    fn partition_equal(&mut self, begin: usize, end: usize, pivot: usize) -> usize {
        self.swap(begin, pivot);
        let (mut low, mut high) = (begin + 1, end - 1);
        loop {
            while low <= high && !self.less(begin, low) {
                low += 1;
            }
            while low <= high && self.less(begin, high) {
                high -= 1;
            }
            if low > high {
                return low;
            }
            self.swap(low, high);
            low += 1;
            high -= 1;
        }
    }

    /// Tries to sort a run that is almost sorted; true if it is sorted now.
    fn repair(&mut self, begin: usize, end: usize) -> bool {
        let mut position = begin + 1;
        for _ in 0..MISPLACED_MAX {
            while position < end && !self.less(position, position - 1) {
                position += 1;
            }
            if position == end {
                return true;
            }
            if end - begin < REPAIR_MIN {
                return false;
            }
            self.swap(position, position - 1);
            if position - begin >= 2 {
                let mut at = position - 1;
                while at >= 1 && self.less(at, at - 1) {
                    self.swap(at, at - 1);
                    at -= 1;
                }
            }
            if end - position >= 2 {
                let mut at = position + 1;
                while at < end && self.less(at, at - 1) {
                    self.swap(at, at - 1);
                    at += 1;
                }
            }
        }
        false
    }

    /// Exchanges three elements of the middle with some that the length alone determines.
    fn scatter(&mut self, begin: usize, end: usize) {
        let length = end - begin;
        let mut random = length as u64;
        let mask = (1u64 << (u64::BITS - random.leading_zeros())) - 1;
        let first = begin + length / 4 * 2 - 1;
        for step in 0..3 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut other = (random & mask) as usize;
            if other >= length {
                other -= length;
            }
            self.swap(first + step, begin + other);
        }
    }

    fn choose_pivot(&self, begin: usize, end: usize) -> (usize, Trend) {
        let length = end - begin;
        let quarter = length / 4;
        let mut swaps = 0;
        let mut candidates = [begin + quarter, begin + quarter * 2, begin + quarter * 3];
        if length >= NINTHER_MIN {
            for candidate in &mut candidates {
                *candidate = self.median([*candidate - 1, *candidate, *candidate + 1], &mut swaps);
            }
        }
        let pivot = self.median(candidates, &mut swaps);
        let trend = match swaps {
            0 => Trend::Rising,
            CANDIDATE_SWAPS_MAX => Trend::Falling,
            _ => Trend::Unknown,
        };
        (pivot, trend)
    }

    fn median(&self, [mut a, mut b, mut c]: [usize; 3], swaps: &mut usize) -> usize {
        let mut order = |low: &mut usize, high: &mut usize| {
            if self.less(*high, *low) {
                std::mem::swap(low, high);
                *swaps += 1;
            }
        };
        order(&mut a, &mut b);
        order(&mut b, &mut c);
        order(&mut a, &mut b);
        b
    }
}

#[cfg(test)]
mod tests {
    use super::go_sort;

    /// What Go 1.26 printed for the same elements: `sort.Sort` by the first number, the second tells the original place.
    fn places(count: u64, kinds: u64) -> (bool, u32) {
        let mut items: Vec<(u64, usize)> = (0..count as usize)
            .map(|place| {
                ((place as u64).wrapping_mul(2_654_435_761).wrapping_add(place as u64 * place as u64) % kinds, place)
            })
            .collect();
        go_sort(&mut items, |a, b| a.0 < b.0);
        let sorted = items.windows(2).all(|pair| pair[0].0 <= pair[1].0);
        let bytes: Vec<u8> = items.iter().flat_map(|(_, place)| (*place as u32).to_be_bytes()).collect();
        (sorted, crc32c::crc32c(&bytes))
    }

    #[test]
    fn equals_come_in_gos_order() {
        let expected = [
            (5, 2, 3996095441),
            (12, 3, 2122893996),
            (13, 3, 3472595719),
            (40, 4, 3880943462),
            (49, 7, 753087088),
            (50, 7, 3933078599),
            (100, 1, 2292947122),
            (100, 3, 4288402239),
            (100, 1000, 1136197642),
            (1000, 5, 3088773284),
            (1000, 1099511627776, 1724008143),
            (5000, 17, 942865285),
            (5000, 1, 875213411),
            (20000, 100, 2100087715),
            (20000, 1125899906842624, 2396467375),
        ];
        for (count, kinds, crc) in expected {
            assert_eq!(places(count, kinds), (true, crc), "{count} elements of {kinds} kinds");
        }
    }
}
