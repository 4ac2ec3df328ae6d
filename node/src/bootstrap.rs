//! The log of a new cluster as etcd writes it: one `ConfChangeAddNode` per member at term 1, with the member as JSON
//! (etcd's `membership.Member`) in its context.

use bytes::Bytes;
use kvorum_api::raftpb;
use prost::Message;
use serde_json::json;

use crate::consensus::LogEntry;

/// A member as given by `--initial-cluster`.
#[derive(Clone, Debug)]
pub struct BootstrapMember {
    pub id: u64,
    pub name: String,
    pub peer_urls: Vec<String>,
}

/// The term of the bootstrap entries; the first election makes term 2.
pub const BOOTSTRAP_TERM: u64 = 1;

/// The entries, in the order of member ids.
pub fn bootstrap_entries(members: &[BootstrapMember]) -> Vec<LogEntry> {
    let mut members: Vec<&BootstrapMember> = members.iter().collect();
    members.sort_by_key(|member| member.id);
    members
        .iter()
        .zip(1..)
        .map(|(member, index)| {
            let change = raftpb::ConfChange {
                id: None,
                r#type: Some(raftpb::ConfChangeType::ConfChangeAddNode as i32),
                node_id: Some(member.id),
                context: Some(context_json(member).into()),
            };
            LogEntry {
                kind: raftpb::EntryType::EntryConfChange,
                term: BOOTSTRAP_TERM,
                index,
                data: Bytes::from(change.encode_to_vec()),
            }
        })
        .collect()
}

fn context_json(member: &BootstrapMember) -> String {
    // serde_json's map sorts keys; etcd's order is id, peerURLs, name. Readers do not care, the bytes should agree.
    format!("{{\"id\":{},\"peerURLs\":{},\"name\":{}}}", member.id, json!(member.peer_urls), json!(member.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_is_etcds_byte_for_byte() {
        let member = BootstrapMember {
            id: 6_662_698_563_040_693_991,
            name: "default".to_owned(),
            peer_urls: vec!["http://127.0.0.1:33380".to_owned()],
        };
        let entries = bootstrap_entries(&[member]);
        // As etcd 3.7.1 wrote it for the same flags (etcd-dump-logs -raw).
        let mut expected = b"\x10\x00\x18\xe7\x9d\xaf\xbc\xae\xa1\xaa\xbb\x5c\x22Q".to_vec();
        expected
            .extend_from_slice(br#"{"id":6662698563040693991,"peerURLs":["http://127.0.0.1:33380"],"name":"default"}"#);
        assert_eq!(entries[0].data.as_ref(), expected.as_slice());
        assert_eq!((entries[0].term, entries[0].index), (1, 1));
    }
}
