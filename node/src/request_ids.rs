//! Request ids as etcd makes them: two bytes of member id, five bytes of milliseconds, one byte of counter that carries
//! into the milliseconds. Go members match waiters and read contexts by them, and they must not repeat after a restart.

/// Hands out ids for one member.
#[derive(Debug)]
pub struct RequestIds {
    prefix: u64,
    suffix: u64,
}

const SUFFIX_BITS: u32 = 48;
const COUNTER_BITS: u32 = 8;

impl RequestIds {
    /// `unix_milliseconds` is the wall clock at start.
    pub fn new(member_id: u64, unix_milliseconds: u64) -> Self {
        Self { prefix: member_id << SUFFIX_BITS, suffix: low_bits(unix_milliseconds, 40) << COUNTER_BITS }
    }

    pub fn next_id(&mut self) -> u64 {
        self.suffix = self.suffix.wrapping_add(1);
        self.prefix | low_bits(self.suffix, SUFFIX_BITS)
    }

    /// A lease id for a grant that left the choice to the server: positive, from the same sequence.
    pub fn next_lease_id(&mut self) -> i64 {
        let id = self.next_id() & (i64::MAX as u64);
        i64::try_from(id).expect("the sign bit was cleared")
    }
}

const fn low_bits(value: u64, bits: u32) -> u64 {
    value & (u64::MAX >> (64 - bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_etcds_layout_and_rise() {
        let mut ids = RequestIds::new(0x8e9e_05c5_2164_694d, 0x0123_4567_89ab);
        let first = ids.next_id();
        assert_eq!(first, 0x694d_2345_6789_ab01);
        assert_eq!(ids.next_id(), first + 1);
        assert!(ids.next_lease_id() > 0);
        let mut negative = RequestIds::new(u64::MAX, 1);
        assert!(negative.next_lease_id() > 0);
    }
}
