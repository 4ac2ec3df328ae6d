//! Looking after members: status, alarms, defragmentation, hashes, snapshots, moving the leader, downgrades. Calls that
//! concern one member name its endpoint, as in clientv3; without one they ask any.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_test.rs"));
//! # fn main() { doc_test(async |client: kvorum_client::Client| {
//! for endpoint in client.endpoints() {
//!     let status = client.maintenance().at(&endpoint).status().await?;
//!     println!("{endpoint}: version {}, {} bytes, leader {:x}", status.version, status.db_size, status.leader);
//! }
//! # Ok(()) }); }
//! ```

use bytes::Bytes;
use kvorum_api::etcdserverpb::alarm_request::AlarmAction;
use kvorum_api::etcdserverpb::downgrade_request::DowngradeAction;
use kvorum_api::etcdserverpb::{
    AlarmRequest, DefragmentRequest, DowngradeRequest, HashKvRequest, HashRequest, MoveLeaderRequest, SnapshotRequest,
    SnapshotResponse, StatusRequest,
};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::connection::{Connection, Stream, deadline_after};
use crate::error::{Error, Result};
use crate::method;
use crate::response::{
    AlarmMember, AlarmResponse, AlarmType, DefragmentResponse, DowngradeResponse, HashKvResponse, HashResponse,
    MemberId, MoveLeaderResponse, StatusResponse,
};
use crate::transport::Sent;

/// Bytes of the checksum behind a snapshot.
const CHECKSUM_BYTES: usize = 32;

/// etcd's file pages: a snapshot whose length is a multiple of them has no checksum (`etcdutl/snapshot`).
const PAGE_BYTES: u64 = 512;

/// The maintenance of a cluster's members.
#[derive(Clone)]
pub struct Maintenance {
    connection: Connection,
}

impl Maintenance {
    /// Over a connection that others may use too.
    #[must_use]
    pub fn new(connection: &Connection) -> Self {
        Self { connection: connection.clone() }
    }

    /// The same for the member at an endpoint, which need not be one of the client's.
    #[must_use]
    pub fn at(&self, endpoint: &str) -> Self {
        Self { connection: self.connection.with_endpoint(endpoint) }
    }

    /// Version, size, leader, and what is wrong with a member. It need not have a leader to answer.
    ///
    /// # Errors
    /// What any call may fail with.
    pub async fn status(&self) -> Result<StatusResponse> {
        self.connection.call(method::STATUS, &StatusRequest {}).await
    }

    /// The alarms that are raised.
    ///
    /// # Errors
    /// What any call may fail with.
    pub async fn alarms(&self) -> Result<AlarmResponse> {
        self.send_alarm(method::ALARM_GET, AlarmAction::Get, AlarmMember::default()).await
    }

    /// Raises an alarm.
    ///
    /// # Errors
    /// What any call may fail with.
    pub async fn raise_alarm(&self, member: impl Into<MemberId>, alarm: AlarmType) -> Result<AlarmResponse> {
        let alarm = AlarmMember { member_id: member.into().0, alarm: alarm.into() };
        self.send_alarm(method::ALARM_SET, AlarmAction::Activate, alarm).await
    }

    /// Takes an alarm back. One of member 0 and type `None` takes back all there are.
    ///
    /// # Errors
    /// What any call may fail with.
    pub async fn disarm(&self, alarm: AlarmMember) -> Result<AlarmResponse> {
        if alarm != AlarmMember::default() {
            return self.send_alarm(method::ALARM_SET, AlarmAction::Deactivate, alarm).await;
        }
        // All of it together may take as long as a call.
        let deadline = deadline_after(self.connection.timeout());
        let mut raised = self.alarms().await?;
        for alarm in std::mem::take(&mut raised.alarms) {
            let left = deadline.saturating_duration_since(Instant::now());
            let within = Self { connection: self.connection.with_timeout(left) };
            let answer = within.send_alarm(method::ALARM_SET, AlarmAction::Deactivate, alarm).await?;
            raised.header = answer.header;
            raised.alarms.extend(answer.alarms);
        }
        Ok(raised)
    }

    async fn send_alarm(
        &self,
        method: method::Method,
        action: AlarmAction,
        alarm: AlarmMember,
    ) -> Result<AlarmResponse> {
        let request = AlarmRequest { action: action.into(), member_id: alarm.member_id, alarm: alarm.alarm };
        self.connection.call(method, &request).await
    }

    /// Gives free space of the member's file back to its system. The member answers nothing else meanwhile; give the call a
    /// timeout that is long enough ([`crate::Client::with_timeout`]).
    ///
    /// # Errors
    /// What any call may fail with.
    pub async fn defragment(&self) -> Result<DefragmentResponse> {
        self.connection.call(method::DEFRAGMENT, &DefragmentRequest {}).await
    }

    /// A checksum of everything the member's file holds, for tests of etcd.
    ///
    /// # Errors
    /// What any call may fail with.
    pub async fn hash(&self) -> Result<HashResponse> {
        self.connection.call(method::HASH, &HashRequest {}).await
    }

    /// A checksum of the keys up to a revision, 0 for the latest: equal on all members that are compacted alike.
    ///
    /// # Errors
    /// [`crate::EtcdError::Compacted`], [`crate::EtcdError::FutureRev`], and what any call may fail with.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse> {
        self.connection.call(method::HASH_KV, &HashKvRequest { revision }).await
    }

    /// Makes another member the leader. The leader must be asked: use [`Self::at`].
    ///
    /// # Errors
    /// [`crate::EtcdError::NotLeader`], [`crate::EtcdError::BadLeaderTransferee`], and what any call may fail with.
    pub async fn move_leader(&self, target: impl Into<MemberId>) -> Result<MoveLeaderResponse> {
        self.connection.call(method::MOVE_LEADER, &MoveLeaderRequest { target_id: target.into().0 }).await
    }

    /// Asks whether the cluster could go back to a version such as "3.6". Needs etcd 3.5.
    ///
    /// # Errors
    /// [`crate::EtcdError::InvalidDowngradeTargetVersion`], [`crate::EtcdError::WrongDowngradeVersionFormat`],
    /// [`crate::EtcdError::DowngradeInProcess`], and what any call may fail with.
    pub async fn validate_downgrade(&self, version: &str) -> Result<DowngradeResponse> {
        self.send_downgrade(DowngradeAction::Validate, version).await
    }

    /// Begins to go back to a version.
    ///
    /// # Errors
    /// As [`Self::validate_downgrade`].
    pub async fn enable_downgrade(&self, version: &str) -> Result<DowngradeResponse> {
        self.send_downgrade(DowngradeAction::Enable, version).await
    }

    /// Gives up going back to a version.
    ///
    /// # Errors
    /// [`crate::EtcdError::NoInflightDowngrade`], and what any call may fail with.
    pub async fn cancel_downgrade(&self) -> Result<DowngradeResponse> {
        self.send_downgrade(DowngradeAction::Cancel, "").await
    }

    async fn send_downgrade(&self, action: DowngradeAction, version: &str) -> Result<DowngradeResponse> {
        let request = DowngradeRequest { action: action.into(), version: version.to_owned() };
        self.connection.call(method::DOWNGRADE, &request).await
    }

    /// A copy of a member's whole state, as the bytes of a file for `etcdutl snapshot restore`.
    ///
    /// ```no_run
    /// # async fn example(client: kvorum_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::io::Write;
    ///
    /// let mut snapshot = client.maintenance().snapshot().await?;
    /// let mut file = std::fs::File::create("backup.db.part")?;
    /// while let Some(piece) = snapshot.next().await? {
    ///     file.write_all(&piece)?;
    /// }
    /// file.sync_all()?;
    /// // Only now was the checksum seen to be right.
    /// std::fs::rename("backup.db.part", "backup.db")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What any call may fail with.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let (stream, first) = self.connection.download(method::SNAPSHOT, &SnapshotRequest {}).await?;
        Ok(Snapshot {
            connection: self.connection.clone(),
            stream,
            first,
            version: String::new(),
            remaining_bytes: None,
            checksum: Checksum::default(),
            is_done: false,
        })
    }
}

/// A snapshot under way.
#[must_use = "a snapshot is only what is read of it"]
pub struct Snapshot {
    connection: Connection,
    stream: Stream,
    first: Option<SnapshotResponse>,
    version: String,
    remaining_bytes: Option<u64>,
    checksum: Checksum,
    is_done: bool,
}

impl Snapshot {
    /// The next bytes; None at the end, which comes only after the checksum, the last 32 bytes, was seen to be right. Each
    /// piece must come within the time of a call.
    ///
    /// # Errors
    /// When the stream breaks, or the checksum is wrong: then what was read is worth nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.is_done {
            return Ok(None);
        }
        loop {
            let response = match self.first.take() {
                Some(first) => Some(first),
                None => match tokio::time::timeout(self.connection.timeout(), self.stream.receive()).await {
                    Ok(received) => received.inspect_err(|_| self.is_done = true)?,
                    Err(_) => {
                        self.is_done = true;
                        return Err(Error::deadline("no piece of the snapshot came in time", Sent::Maybe));
                    }
                },
            };
            let Some(SnapshotResponse { remaining_bytes, blob, version, .. }) = response else {
                self.is_done = true;
                return self.checksum.verify().map(|()| None);
            };
            if !version.is_empty() {
                self.version = version;
            }
            self.remaining_bytes = Some(remaining_bytes);
            if !blob.is_empty() {
                self.checksum.add(&blob);
                return Ok(Some(blob));
            }
        }
    }

    /// How many bytes of the database are still to come, as the server says; None before the first piece.
    #[must_use]
    pub fn remaining_bytes(&self) -> Option<u64> {
        self.remaining_bytes
    }

    /// The storage version the snapshot is of; empty before the first piece, and from servers before 3.6.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// Compares the last 32 bytes with the SHA-256 of all before them.
#[derive(Default)]
struct Checksum {
    hasher: Sha256,
    /// The last bytes, which may be the checksum.
    tail: Vec<u8>,
    total: u64,
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        self.tail.extend_from_slice(bytes);
        let surely_data = self.tail.len().saturating_sub(CHECKSUM_BYTES);
        self.hasher.update(&self.tail[..surely_data]);
        self.tail.drain(..surely_data);
    }

    fn verify(&self) -> Result<()> {
        if self.total % PAGE_BYTES != CHECKSUM_BYTES as u64 {
            return Err(Error::protocol(format!("the snapshot has {} bytes, and so no checksum", self.total)));
        }
        if self.hasher.clone().finalize().as_slice() == self.tail {
            Ok(())
        } else {
            Err(Error::protocol("the checksum of the snapshot is wrong"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_found_however_the_bytes_are_cut() {
        let data = [7; 1024];
        let whole = [&data[..], &Sha256::digest(data)].concat();
        for size in [1, 31, 32, 33, 500, 2000] {
            let mut checksum = Checksum::default();
            whole.chunks(size).for_each(|piece| checksum.add(piece));
            assert!(checksum.verify().is_ok(), "pieces of {size}");
        }
        let mut short = Checksum::default();
        short.add(&whole[..1024]);
        assert!(short.verify().is_err());
        let mut wrong = Checksum::default();
        wrong.add(&[&whole[..1055], &[!whole[1055]]].concat());
        assert!(wrong.verify().is_err());
    }
}
