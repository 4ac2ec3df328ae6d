//! `--force-new-cluster`: what a member's log becomes when it goes on alone, without those it shared a cluster with.
//! Unsafe: what only the others had is lost, and they must never come back.
//!
//! Decides only; the caller writes the entries to the log before anything else, and goes on from the commit index.

use std::collections::BTreeSet;

use kvorum_api::raftpb::{self, ConfChange, ConfChangeType, Entry, EntryType};
use kvorum_store::Member;
use prost::Message;

/// What a member without a place in its own cluster is given as its peer URL, as in etcd.
const PEER_URL: &str = "http://localhost:2380";

/// A log cut back to what is committed, with changes behind it that remove all others.
#[derive(Clone, Debug, PartialEq)]
pub struct Forced {
    /// The entries that stay: those that are committed.
    pub kept: Vec<Entry>,
    /// The entries to append behind them, in the term of the hard state. All count as committed.
    pub added: Vec<Entry>,
    pub commit: u64,
}

/// `voters_and_learners` and `entries` are those of the snapshot the log was opened at, and after it; `term` and `commit`
/// those of the hard state; `applied` what the backend holds, which is committed whatever the hard state says.
pub fn force(
    voters_and_learners: &[u64],
    mut entries: Vec<Entry>,
    (term, commit): (u64, u64),
    applied: u64,
    own_id: u64,
) -> Result<Forced, String> {
    let commit = commit.max(applied);
    entries.retain(|entry| entry.index() <= commit);
    let ids = members_after(voters_and_learners, &entries)?;
    // First itself: raft must never be without a voter.
    let own = (!ids.contains(&own_id)).then(|| {
        let member = Member { id: own_id, peer_urls: vec![PEER_URL.to_owned()], ..Member::default() };
        conf_change(ConfChangeType::ConfChangeAddNode, own_id, Some(member.to_json()))
    });
    let others = ids.iter().filter(|id| **id != own_id);
    let others = others.map(|id| conf_change(ConfChangeType::ConfChangeRemoveNode, *id, None));
    let added: Vec<Entry> = own
        .into_iter()
        .chain(others)
        .zip(commit + 1..)
        .map(|(change, index)| Entry {
            r#type: Some(EntryType::EntryConfChange as i32),
            term: Some(term),
            index: Some(index),
            data: Some(change.encode_to_vec().into()),
        })
        .collect();
    let commit = commit + added.len() as u64;
    Ok(Forced { kept: entries, added, commit })
}

fn members_after(voters_and_learners: &[u64], entries: &[Entry]) -> Result<BTreeSet<u64>, String> {
    let mut ids: BTreeSet<u64> = voters_and_learners.iter().copied().collect();
    for entry in entries.iter().filter(|entry| entry.r#type() == EntryType::EntryConfChange) {
        let failed = |error: String| format!("entry {} of the write-ahead log: {error}", entry.index());
        let change = ConfChange::decode(entry.data()).map_err(|error| failed(error.to_string()))?;
        let kind = ConfChangeType::try_from(change.r#type.unwrap_or(0)).map_err(|error| failed(error.to_string()))?;
        let id = change.node_id.unwrap_or(0);
        match kind {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => drop(ids.insert(id)),
            ConfChangeType::ConfChangeRemoveNode => drop(ids.remove(&id)),
            ConfChangeType::ConfChangeUpdateNode => {}
        }
    }
    Ok(ids)
}

fn conf_change(kind: ConfChangeType, id: u64, context: Option<Vec<u8>>) -> raftpb::ConfChange {
    ConfChange { id: None, r#type: Some(kind as i32), node_id: Some(id), context: context.map(Into::into) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, kind: ConfChangeType, id: u64) -> Entry {
        let data = Some(conf_change(kind, id, None).encode_to_vec().into());
        Entry { r#type: Some(EntryType::EntryConfChange as i32), term: Some(1), index: Some(index), data }
    }

    fn changes(forced: &Forced) -> Vec<(u64, u64, &'static str, u64)> {
        let read = |entry: &Entry| {
            let change = ConfChange::decode(entry.data()).expect("ours");
            let kind = change.r#type().as_str_name().trim_start_matches("ConfChange");
            (entry.index(), entry.term(), kind, change.node_id())
        };
        forced.added.iter().map(read).collect()
    }

    #[test]
    fn all_others_are_removed_behind_what_is_committed() {
        use ConfChangeType::{ConfChangeAddLearnerNode, ConfChangeAddNode, ConfChangeRemoveNode, ConfChangeUpdateNode};
        let log = vec![
            entry(1, ConfChangeAddNode, 1),
            entry(2, ConfChangeAddNode, 2),
            entry(3, ConfChangeAddNode, 3),
            entry(4, ConfChangeRemoveNode, 3),
            entry(5, ConfChangeAddLearnerNode, 4),
            entry(6, ConfChangeUpdateNode, 9),
            entry(7, ConfChangeAddNode, 5),
        ];
        let forced = force(&[], log.clone(), (3, 4), 6, 1).expect("a good log");
        assert_eq!((forced.kept.len(), forced.commit), (6, 8));
        assert_eq!(changes(&forced), [(7, 3, "RemoveNode", 2), (8, 3, "RemoveNode", 4)]);
        let snapshot_only = force(&[1, 8], Vec::new(), (2, 0), 10, 8).expect("a good log");
        assert_eq!(changes(&snapshot_only), [(11, 2, "RemoveNode", 1)]);
        let alone = force(&[1], Vec::new(), (2, 5), 0, 1).expect("a good log");
        assert_eq!((alone.added.len(), alone.commit), (0, 5));
    }

    #[test]
    fn a_member_that_was_removed_comes_back_first() {
        let forced = force(&[2], Vec::new(), (2, 5), 0, 7).expect("a good log");
        assert_eq!(changes(&forced), [(6, 2, "AddNode", 7), (7, 2, "RemoveNode", 2)]);
        let change = ConfChange::decode(forced.added[0].data()).expect("ours");
        assert_eq!(change.context(), br#"{"id":7,"peerURLs":["http://localhost:2380"]}"#);
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_named() {
        let mut broken = entry(3, ConfChangeType::ConfChangeAddNode, 1);
        broken.data = Some(b"\xff".as_slice().into());
        let error = force(&[], vec![broken], (1, 3), 0, 1).expect_err("no change");
        assert!(error.starts_with("entry 3 of the write-ahead log: "), "{error}");
    }
}
