//! Requests of etcd's former v2 store, as a log of etcd 3.5 or older may still hold them: `etcdserverpb.Request`, in the
//! place of an `InternalRaftRequest`. Those two that etcd 3.6 still carries out become the requests that took their place;
//! there are no others in a log without v2 clients, and none is guessed at.

use bytes::Bytes;
use kvorum_api::etcdserverpb::InternalRaftRequest;
use kvorum_api::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use prost::DecodeError;
use serde::Deserialize;

use crate::nested::{Fields, decode_request};

const METHOD: u64 = 2;
const PATH: u64 = 3;
const VALUE: u64 = 4;

/// Reserved in `InternalRaftRequest` for a request of the v2 store within it.
const NESTED: u64 = 2;

const VERSION_PATH: &str = "/0/version";
const MEMBERS_PATH: &str = "/0/members/";
const ATTRIBUTES: &str = "/attributes";

/// As etcd's v2 store keeps it.
#[derive(Deserialize)]
struct AttributesJson {
    #[serde(default)]
    name: String,
    #[serde(rename = "clientURLs", default)]
    client_urls: Option<Vec<String>>,
}

/// The request that took the place of one in v2 form; `None` if it has none, or `data` is no such request.
pub(crate) fn read(data: &Bytes) -> Option<InternalRaftRequest> {
    let text = |number| {
        let field = Fields::of(data).filter_map(|field| field.nested).find(|(found, _)| *found == number)?;
        String::from_utf8(field.1.to_vec()).ok()
    };
    let (method, path) = (text(METHOD)?, text(PATH)?);
    if method != "PUT" {
        return None;
    }
    let value = text(VALUE)?;
    if path == VERSION_PATH {
        let set = ClusterVersionSetRequest { ver: value };
        return Some(InternalRaftRequest { cluster_version_set: Some(set), ..InternalRaftRequest::default() });
    }
    let id = path.strip_prefix(MEMBERS_PATH)?.strip_suffix(ATTRIBUTES)?;
    let member_id = u64::from_str_radix(id, 16).ok()?;
    let AttributesJson { name, client_urls } = serde_json::from_str(&value).ok()?;
    let attributes = Attributes { name, client_urls: client_urls.unwrap_or_default() };
    let set = ClusterMemberAttrSetRequest { member_id, member_attributes: Some(attributes) };
    Some(InternalRaftRequest { cluster_member_attr_set: Some(set), ..InternalRaftRequest::default() })
}

/// Whether a log's entry with this data can be applied, as far as its form tells.
///
/// # Errors
/// Why not, and what to do.
pub fn check_entry_data(data: &Bytes) -> Result<(), String> {
    let decoded = decode_request(data).map_err(|error: DecodeError| error.to_string());
    let has_v2 = Fields::of(data).any(|field| field.nested.is_some_and(|(number, _)| number == NESTED));
    if has_v2 && read(data).is_none() {
        return Err("it is a request of the v2 store, which is gone since etcd 3.6. Start etcd 3.5 on the directory until it \
                    has saved a snapshot behind this entry (--snapshot-count 1 and a few writes), stop it, and try again"
            .to_owned());
    }
    decoded.map(drop).map_err(|error| format!("it cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    /// `etcdserverpb.Request` with the fields that matter; the others are written too.
    fn request(method: &str, path: &str, value: &str) -> Bytes {
        let mut data = vec![0x08, 0x2a];
        for (tag, text) in [(0x12, method), (0x1a, path), (0x22, value)] {
            data.push(tag);
            data.push(u8::try_from(text.len()).expect("short"));
            data.extend(text.bytes());
        }
        data.extend([0x28, 0, 0x32, 0, 0x38, 0, 0x48, 0, 0x50, 0]);
        data.into()
    }

    #[test]
    fn the_two_that_etcd_still_carries_out_are_read() {
        let version = request("PUT", "/0/version", "3.4.0");
        let set = decode_request(&version).expect("it is read").cluster_version_set.expect("a version");
        assert_eq!(set.ver, "3.4.0");
        let json = r#"{"name":"m1","clientURLs":["http://a:1"]}"#;
        let attributes = request("PUT", "/0/members/8e9e05c52164694d/attributes", json);
        let set = decode_request(&attributes).expect("it is read").cluster_member_attr_set.expect("attributes");
        assert_eq!(set.member_id, 0x8e9e_05c5_2164_694d);
        let attributes = set.member_attributes.expect("they are there");
        assert_eq!((attributes.name.as_str(), attributes.client_urls), ("m1", vec!["http://a:1".to_owned()]));
        for good in [version, request("PUT", "/0/members/1/attributes", "{}")] {
            assert_eq!(check_entry_data(&good), Ok(()));
        }
    }

    #[test]
    fn all_others_are_refused() {
        for (method, path, value) in [
            ("PUT", "/1/foo", "bar"),
            ("DELETE", "/0/version", ""),
            ("SYNC", "", ""),
            ("PUT", "/0/members/xyz/attributes", "{}"),
            ("PUT", "/0/members/1/attributes", "no JSON"),
        ] {
            let error = check_entry_data(&request(method, path, value)).expect_err("it cannot be applied");
            assert!(error.contains("Start etcd 3.5"), "{error}");
        }
        let put = kvorum_api::etcdserverpb::PutRequest { key: "k".into(), ..Default::default() };
        let good = InternalRaftRequest { put: Some(put), ..InternalRaftRequest::default() };
        assert_eq!(check_entry_data(&good.encode_to_vec().into()), Ok(()));
        assert!(check_entry_data(&Bytes::from_static(&[0xff; 4])).is_err());
    }
}
