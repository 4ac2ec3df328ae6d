//! Whether members hold the same: etcd's three comparisons (server/etcdserver/corrupt.go) and its rules about who is blamed.
//! A member that comes back compares itself with the others before it serves ([`check_at_start`]); the leader compares all
//! data from time to time, and what members hashed while compacting ([`Checks`]).
//!
//! A wrong CORRUPT alarm stops a healthy cluster. So nothing is judged that healthy members may hash differently
//! ([`HashKv::is_comparable`]), and nobody is blamed who was not found twice in a row, the second time by a comparison made
//! anew. A member that does not answer is never blamed. It opens no connection and reads no data by itself: [`View`] does.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use futures_util::future::join_all;
use kvorum_store::{FinishedHash, HashKv, Member};
use parking_lot::Mutex;

mod view;

pub use view::CoreView;

use crate::ids::to_hex;
use crate::peer::questions::{HashUnanswered, Unanswered};

/// Between a comparison that blames somebody and the one that must say the same.
const CONFIRMATION_PAUSE: Duration = Duration::from_secs(1);

/// What another member says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerHash {
    pub hash: u32,
    pub compact_revision: i64,
    /// Its revision, not the one hashed up to.
    pub revision: i64,
}

/// The member that compares.
pub trait View {
    fn member_id(&self) -> u64;
    fn is_leader(&self) -> bool;
    /// All others, ordered by id.
    fn peers(&self) -> Vec<Member>;
    /// What compactions hashed, in rising order of revisions.
    fn finished_hashes(&self) -> Vec<FinishedHash>;
    /// Its own hash; 0 stands for the current revision.
    fn own_hash(&self, revision: i64) -> impl Future<Output = Result<HashKv, String>>;
    fn peer_hash(&self, peer: &Member, revision: i64) -> impl Future<Output = Result<PeerHash, HashUnanswered>>;
    /// Returns once everything is applied here that was committed anywhere when it was asked.
    fn linearize(&self) -> impl Future<Output = Result<(), String>>;
    /// Raises the CORRUPT alarm of a member; 0 stands for the whole cluster.
    fn raise(&self, member_id: u64) -> impl Future<Output = ()>;
}

/// The answer of one member.
struct Answer {
    member_id: u64,
    held: Result<PeerHash, HashUnanswered>,
}

/// Asks all members at once, but those of whom it is known that they do not answer. A member without URLs is left out, as
/// in etcd.
async fn ask_all<V: View>(view: &V, revision: i64, silent: &BTreeSet<u64>) -> Vec<Answer> {
    let peers = view.peers().into_iter().filter(|peer| !peer.peer_urls.is_empty());
    join_all(peers.map(async |peer| {
        if silent.contains(&peer.id) {
            let reason = Unanswered::Unreachable("it did not answer before".to_owned());
            return Answer { member_id: peer.id, held: Err(HashUnanswered::Unanswered(reason)) };
        }
        let held = view.peer_hash(&peer, revision).await;
        if let Err(reason) = &held {
            tracing::warn!(
                local_member_id = %to_hex(view.member_id()),
                requested_revision = revision,
                remote_peer_id = %to_hex(peer.id),
                remote_peer_endpoints = %peer.peer_urls.join(","),
                error = %reason,
                "failed hash kv request"
            );
        }
        Answer { member_id: peer.id, held }
    }))
    .await
}

/// Compares this member's data with those of all who answer, before it takes part in anything. Different data behind the
/// same compaction are an error; what cannot be compared is logged.
pub async fn check_at_start<V: View>(view: &V) -> Result<(), String> {
    let own_id = to_hex(view.member_id());
    tracing::info!(local_member_id = %own_id, "starting initial corruption check");
    let own = view.own_hash(0).await.map_err(|error| format!("{own_id} failed to fetch hash ({error})"))?;
    let mut differs = false;
    for Answer { member_id, held } in ask_all(view, own.hash_revision, &BTreeSet::new()).await {
        let Ok(peer) = held else { continue };
        if peer.hash == own.hash || !own.is_comparable {
            continue;
        }
        let is_same_compaction = peer.compact_revision == own.compact_revision;
        differs |= is_same_compaction;
        tracing::warn!(
            local_member_id = %own_id,
            local_member_revision = own.hash_revision,
            local_member_compact_revision = own.compact_revision,
            local_member_hash = own.hash,
            remote_peer_id = %to_hex(member_id),
            remote_peer_revision = peer.revision,
            remote_peer_compact_revision = peer.compact_revision,
            remote_peer_hash = peer.hash,
            "found different {} values from remote peer",
            if is_same_compaction { "hash" } else { "compact revision" }
        );
    }
    if differs {
        return Err(format!("{own_id} found data inconsistency with peers"));
    }
    tracing::info!(local_member_id = %own_id, "initial corruption checking passed; no corruption");
    Ok(())
}

/// What the leader does from time to time.
pub struct Checks<V> {
    view: V,
    /// All members were found equal at the compaction to this revision.
    latest_checked: Mutex<i64>,
    pause: Duration,
}

/// What became of the comparison at one compaction.
#[derive(Debug, PartialEq, Eq)]
enum Compared {
    /// All members hold the same.
    Equal,
    /// Those that could be compared do.
    Partly,
    /// These do not hold what the majority does; 0 alone if there is no majority.
    Differing(BTreeSet<u64>),
}

impl<V: View> Checks<V> {
    pub fn new(view: V) -> Self {
        Self { view, latest_checked: Mutex::new(0), pause: CONFIRMATION_PAUSE }
    }

    /// Compares all data each time `interval` has passed, for ever.
    pub async fn compare_all_data(&self, interval: Duration) {
        tracing::info!(local_member_id = %to_hex(self.view.member_id()), interval = ?interval, "enabled corruption checking");
        loop {
            tokio::time::sleep(interval).await;
            if self.view.is_leader()
                && let Err(error) = self.check_all_data().await
            {
                tracing::warn!(error = %error, "failed to check hash KV");
            }
        }
    }

    /// Compares compactions each time `interval` has passed, for ever.
    pub async fn compare_compactions(&self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            if self.view.is_leader() {
                self.check_compactions().await;
            }
        }
    }

    async fn check_all_data(&self) -> Result<(), String> {
        let Some(suspect) = self.suspect().await? else { return Ok(()) };
        tokio::time::sleep(self.pause).await;
        if !self.view.is_leader() {
            return Ok(());
        }
        if self.suspect().await? == Some(suspect) {
            tracing::error!(member_id = %to_hex(suspect), "a member holds other data than the leader");
            self.view.raise(suspect).await;
        } else {
            tracing::warn!(member_id = %to_hex(suspect), "a difference of data was not found again; nobody is blamed");
        }
        Ok(())
    }

    /// The first member that holds what it must not. The leader is hashed before and after, and the others between.
    async fn suspect(&self) -> Result<Option<u64>, String> {
        let own_id = self.view.member_id();
        let before = self.view.own_hash(0).await?;
        let answers = ask_all(&self.view, before.hash_revision, &BTreeSet::new()).await;
        self.view.linearize().await?;
        let after = self.view.own_hash(0).await?;
        let mut suspect = None;
        let is_same_state =
            after.hash_revision == before.hash_revision && after.compact_revision == before.compact_revision;
        if is_same_state && after.hash != before.hash {
            tracing::warn!(
                revision = before.hash_revision,
                hash_1 = before.hash,
                hash_2 = after.hash,
                "found hash mismatch"
            );
            suspect = Some(own_id);
        }
        let mut checked = 0;
        for Answer { member_id, held } in answers {
            let Ok(peer) = held else { continue };
            checked += 1;
            let reason = if peer.revision > after.revision {
                "a follower's revision is above the leader's"
            } else if peer.compact_revision > after.compact_revision {
                "a follower's compact revision is above the leader's"
            } else if peer.compact_revision == before.compact_revision
                && peer.hash != before.hash
                && before.is_comparable
            {
                "hashes differ behind the same compaction"
            } else {
                continue;
            };
            tracing::warn!(
                leader_revision = after.revision,
                leader_compact_revision = after.compact_revision,
                leader_hash = before.hash,
                follower_peer_id = %to_hex(member_id),
                follower_revision = peer.revision,
                follower_compact_revision = peer.compact_revision,
                follower_hash = peer.hash,
                "{reason}"
            );
            suspect.get_or_insert(member_id);
        }
        tracing::info!(number_of_peers_checked = checked, "finished peer corruption check");
        Ok(suspect)
    }

    /// The newest compaction at which all can be compared decides; older ones than that are not looked at again.
    async fn check_compactions(&self) {
        let latest_checked = *self.latest_checked.lock();
        let mut silent = BTreeSet::new();
        let unchecked = self.view.finished_hashes().into_iter().rev().filter(|hash| hash.revision > latest_checked);
        for hash in unchecked {
            match self.compare(&hash, &mut silent).await {
                Some(Compared::Equal) => {
                    tracing::info!(
                        revision = hash.revision,
                        compact_revision = hash.compact_revision,
                        "successfully checked hash on whole cluster"
                    );
                    *self.latest_checked.lock() = hash.revision;
                    return;
                }
                Some(Compared::Differing(suspects)) => {
                    tokio::time::sleep(self.pause).await;
                    let again = self.compare(&hash, &mut BTreeSet::new()).await;
                    if self.view.is_leader() && again == Some(Compared::Differing(suspects.clone())) {
                        self.blame(&hash, suspects).await;
                    }
                    return;
                }
                Some(Compared::Partly) | None => {}
            }
        }
    }

    async fn blame(&self, hash: &FinishedHash, suspects: BTreeSet<u64>) {
        for suspect in suspects {
            tracing::error!(
                leader_id = %to_hex(self.view.member_id()),
                leader_revision = hash.revision,
                leader_compact_revision = hash.compact_revision,
                leader_hash = hash.hash,
                member_id = %to_hex(suspect),
                "compaction hash mismatch: a member holds other data than the majority (0: there is no majority)"
            );
            self.view.raise(suspect).await;
        }
    }

    /// `None`: there is nobody to compare with.
    async fn compare(&self, hash: &FinishedHash, silent: &mut BTreeSet<u64>) -> Option<Compared> {
        let answers = ask_all(&self.view, hash.revision, silent).await;
        let unanswered = answers.iter().filter(|answer| matches!(answer.held, Err(HashUnanswered::Unanswered(_))));
        silent.extend(unanswered.map(|answer| answer.member_id));
        (!answers.is_empty()).then(|| compare(self.view.member_id(), hash, &answers))
    }
}

/// etcd's rule: who hashed the same compaction from the same one before is compared; what a majority of all members holds
/// is right; without such a majority the whole cluster is in doubt.
fn compare(own_id: u64, own: &FinishedHash, answers: &[Answer]) -> Compared {
    let mut holders: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::from([(own.hash, BTreeSet::from([own_id]))]);
    let mut checked = 0;
    for Answer { member_id, held } in answers {
        let Ok(peer) = held else { continue };
        if peer.compact_revision != own.compact_revision {
            tracing::info!(
                peer_id = %to_hex(*member_id),
                revision = own.revision,
                peer_compact_revision = peer.compact_revision,
                leader_compact_revision = own.compact_revision,
                "cannot compare a peer's hash of a compaction"
            );
            continue;
        }
        checked += 1;
        holders.entry(peer.hash).or_default().insert(*member_id);
    }
    if holders.len() == 1 {
        return if checked == answers.len() { Compared::Equal } else { Compared::Partly };
    }
    let members = answers.len() + 1;
    let quorum = members / 2 + 1;
    let Some(right) = holders.iter().find(|(_, members)| members.len() >= quorum).map(|(hash, _)| *hash) else {
        return Compared::Differing(BTreeSet::from([0]));
    };
    holders.remove(&right);
    Compared::Differing(holders.into_values().flatten().collect())
}

#[cfg(test)]
mod tests;
