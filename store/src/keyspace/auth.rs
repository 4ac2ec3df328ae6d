//! Buckets `auth`, `authUsers`, `authRoles`: whether authentication is on and at which revision; user name → `authpb.User`;
//! role name → `authpb.Role`.

use kvorum_api::authpb::{Role, User};
use prost::Message;

/// One byte, 1 or 0; absent until authentication was first enabled.
pub const ENABLED: &[u8] = b"authEnabled";
/// 8 bytes big-endian.
pub const REVISION: &[u8] = b"authRevision";

pub fn enabled(on: bool) -> Box<[u8]> {
    Box::new([u8::from(on)])
}

/// As etcd reads it: whatever is not "on" is off.
pub fn parse_enabled(value: &[u8]) -> bool {
    value == [1]
}

pub fn user(user: &User) -> Box<[u8]> {
    user.encode_to_vec().into()
}

pub fn parse_user(value: &[u8]) -> Result<User, String> {
    User::decode(value).map_err(|error| error.to_string())
}

pub fn role(role: &Role) -> Box<[u8]> {
    role.encode_to_vec().into()
}

pub fn parse_role(value: &[u8]) -> Result<Role, String> {
    Role::decode(value).map_err(|error| error.to_string())
}

/// Names are strings wherever they come from.
pub fn parse_name(key: &[u8]) -> Result<&str, String> {
    str::from_utf8(key).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::authpb::permission::Type;
    use kvorum_api::authpb::{Permission, UserAddOptions};

    #[test]
    fn round_trip() {
        assert_eq!((&*enabled(true), &*enabled(false)), (&[1][..], &[0][..]));
        assert!(parse_enabled(&enabled(true)) && !parse_enabled(&enabled(false)) && !parse_enabled(b""));
        let stored = User {
            name: "u".into(),
            password: "p".into(),
            roles: vec!["r".to_owned()],
            options: Some(UserAddOptions::default()),
        };
        // Options are written even where nothing is set, as etcd does.
        assert_eq!(&*user(&stored), b"\x0a\x01u\x12\x01p\x1a\x01r\x22\0");
        assert_eq!(parse_user(&user(&stored)), Ok(stored));
        let permission = Permission { perm_type: Type::Readwrite as i32, key: "a".into(), range_end: b"\0"[..].into() };
        let stored = Role { name: "r".into(), key_permission: vec![permission] };
        assert_eq!(&*role(&stored), b"\x0a\x01r\x12\x08\x08\x02\x12\x01a\x1a\x01\0");
        assert_eq!(parse_role(&role(&stored)), Ok(stored));
        assert!(parse_user(b"\xff").is_err() && parse_role(b"\xff").is_err() && parse_name(b"\xff").is_err());
    }
}
