//! Bucket `lease`: 8-byte big-endian lease id → `leasepb.Lease`.

use kvorum_api::leasepb;
use prost::Message;

pub fn key(id: i64) -> Box<[u8]> {
    Box::new(id.to_be_bytes())
}

pub fn value(id: i64, ttl_seconds: i64, remaining_ttl_seconds: i64) -> Box<[u8]> {
    leasepb::Lease { id, ttl: ttl_seconds, remaining_ttl: remaining_ttl_seconds }.encode_to_vec().into()
}

/// The stored lease, or what is wrong with it.
pub fn parse(value: &[u8]) -> Result<leasepb::Lease, String> {
    leasepb::Lease::decode(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #[test]
    fn round_trip() {
        assert_eq!(&*super::key(-2), &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(&*super::value(7, 60, 0), &[8, 7, 16, 60]);
        let lease = super::parse(&super::value(7, 60, 9)).expect("own encoding");
        assert_eq!((lease.id, lease.ttl, lease.remaining_ttl), (7, 60, 9));
        assert!(super::parse(&[0xff]).is_err());
    }
}
