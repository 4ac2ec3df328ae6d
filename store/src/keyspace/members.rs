//! Buckets `members` (member id in hexadecimal → JSON) and `members_removed` (member id in hexadecimal → `removed`).

use serde::{Deserialize, Serialize};

use crate::member::Member;

/// The value of every entry in `members_removed`.
pub const REMOVED: &[u8] = b"removed";

/// Field order and omissions are those of etcd's `membership.Member`.
#[derive(Serialize, Deserialize)]
struct MemberJson {
    id: u64,
    #[serde(rename = "peerURLs", default)]
    peer_urls: Option<Vec<String>>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Option::is_none")]
    client_urls: Option<Vec<String>>,
}

/// The id as etcd prints it: hexadecimal, without leading zeros.
pub fn key(id: u64) -> Box<[u8]> {
    format!("{id:x}").into_bytes().into()
}

pub fn parse_key(key: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(key).map_err(|error| error.to_string())?;
    u64::from_str_radix(text, 16).map_err(|error| error.to_string())
}

pub fn value(member: &Member) -> Box<[u8]> {
    let text = serde_json::to_string(&MemberJson::from(member)).expect("plain fields always serialize");
    super::go_json_escapes(text).into_bytes().into()
}

/// A list of members as etcd serves it to its peers; `null` when there are none.
pub fn list<'a>(members: impl IntoIterator<Item = &'a Member>) -> Vec<u8> {
    let members: Vec<MemberJson> = members.into_iter().map(MemberJson::from).collect();
    let members = (!members.is_empty()).then_some(members);
    super::go_json_escapes(serde_json::to_string(&members).expect("plain fields always serialize")).into_bytes()
}

/// Reads what [`list`] and etcd write.
pub fn parse_list(json: &[u8]) -> Result<Vec<Member>, String> {
    let members: Option<Vec<MemberJson>> = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    Ok(members.unwrap_or_default().into_iter().map(Member::from).collect())
}

/// Reads etcd's JSON of a member; also the context of a configuration change, whose further fields are passed over.
pub fn parse_value(value: &[u8]) -> Result<Member, String> {
    let json: MemberJson = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    Ok(Member::from(json))
}

impl From<&Member> for MemberJson {
    fn from(member: &Member) -> Self {
        Self {
            id: member.id,
            peer_urls: (!member.peer_urls.is_empty()).then(|| member.peer_urls.clone()),
            is_learner: member.is_learner,
            name: member.name.clone(),
            client_urls: (!member.client_urls.is_empty()).then(|| member.client_urls.clone()),
        }
    }
}

impl From<MemberJson> for Member {
    fn from(json: MemberJson) -> Self {
        Self {
            id: json.id,
            name: json.name,
            peer_urls: json.peer_urls.unwrap_or_default(),
            client_urls: json.client_urls.unwrap_or_default(),
            is_learner: json.is_learner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_in_etcds_form() {
        let mut member = Member {
            id: 13668033151171901709,
            name: "default".to_owned(),
            peer_urls: vec!["http://127.0.0.1:23801".to_owned()],
            client_urls: Vec::new(),
            is_learner: false,
        };
        assert_eq!(&*key(member.id), b"bdae9bbc11dd390d");
        assert_eq!(parse_key(b"bdae9bbc11dd390d"), Ok(member.id));
        assert!(parse_key(b"xyz").is_err());
        assert_eq!(
            &*value(&member),
            br#"{"id":13668033151171901709,"peerURLs":["http://127.0.0.1:23801"],"name":"default"}"#
        );
        member.client_urls = vec!["http://a?b&c".to_owned()];
        member.is_learner = true;
        let stored = value(&member);
        assert_eq!(
            std::str::from_utf8(&stored).expect("JSON"),
            r#"{"id":13668033151171901709,"peerURLs":["http://127.0.0.1:23801"],"isLearner":true,"name":"default","clientURLs":["http://a?b\u0026c"]}"#
        );
        assert_eq!(parse_value(&stored), Ok(member.clone()));
        let listed = list([&member, &member]);
        assert_eq!(listed, [b"[", &*stored, b",", &*stored, b"]"].concat());
        assert_eq!(parse_list(&listed), Ok(vec![member.clone(), member]));
        assert_eq!((list([]), parse_list(b"null\n")), (b"null".to_vec(), Ok(Vec::new())));
    }
}
