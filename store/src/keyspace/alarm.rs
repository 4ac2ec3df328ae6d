//! Bucket `alarm`: `AlarmMember` protobuf → empty.

use kvorum_api::etcdserverpb::AlarmMember;
use prost::Message;

pub fn key(member: &AlarmMember) -> Box<[u8]> {
    member.encode_to_vec().into()
}

/// The stored alarm, or what is wrong with it.
pub fn parse(key: &[u8]) -> Result<AlarmMember, String> {
    AlarmMember::decode(key).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use kvorum_api::etcdserverpb::AlarmMember;

    #[test]
    fn round_trip() {
        let member = AlarmMember { member_id: 300, alarm: 1 };
        assert_eq!(&*super::key(&member), &[8, 0xac, 2, 16, 1]);
        assert_eq!(super::parse(&super::key(&member)), Ok(member));
    }
}
