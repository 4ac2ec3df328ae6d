//! What is stored, one file per kind: its key bytes, its value bytes, its round-trip test. All forms are etcd's.
//!
//! Nothing here decides what to store; it only says how it is written.

pub mod alarm;
pub mod auth;
pub mod cluster;
pub mod key_value;
pub mod lease;
pub mod members;
pub mod membership_v2;
pub mod meta;

/// Go's JSON encoder escapes these characters inside strings; serde's does not.
pub(crate) fn go_json_escapes(json: String) -> String {
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json;
    }
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}
