//! An online copy of the live environment without its free pages, while commits go on.
//!
//! The copy moves forward in slices, each in a short read transaction of its own: a long one would keep freed pages from
//! being used again. The records lie in one order: the databases one after the other, each in key order. What a commit
//! changes before the place where the copy stands is written to the copy too, right after the commit; what lies behind it is
//! seen by a later slice. So when the last slice is done the copy holds what the source does, and stays that way, without
//! a queue of changes that could grow.
//!
//! Whoever drives decides when: [`Shrink::step`] until it is done, with pauses and now and then [`Shrink::write_out`]; then
//! [`Shrink::sync`], and at the end, with no commit under way, [`Shrink::seal`] and [`LmdbBackend::switch`]. Until then nothing of it counts: a crash leaves a
//! folder that the next start removes. Nothing here starts a thread or waits.

use std::fs::File;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use heed::{EnvFlags, FlagSetMode, PutFlags, RwTxn};
use kvorum_store::backend::{BackendError, Bucket, CommitBatch, Operation};
use parking_lot::Mutex;

use super::exchange::Mapped;
use super::generations::PreparedGeneration;
use super::{BucketDatabase, DATA_FILE, Generation, LmdbBackend, LmdbOptions};
use crate::file::{RealFileSystem, available_bytes, write_out};
use crate::{DiskError, FileSystem};

/// Room that a copy leaves on the disk: the log must go on whatever happens.
pub const SHRINK_SPARE_BYTES: u64 = 64 << 20;

/// Slices between two times that the pages of the copy are let go of. Each touches those that lead to the end of the tree.
const SLICES_MAPPED_MAX: u32 = 256;

/// The history first: it is nearly everything, and it only grows at its end.
const FIRST: Bucket = Bucket::Key;

/// A copy under way. Dropped before the switch it is removed, and the backend is what it was.
pub struct Shrink {
    backend: Arc<LmdbBackend>,
    mirror: Arc<Mirror>,
    prepared: Option<PreparedGeneration>,
    /// The copy's, opened beside LMDB.
    file: File,
    slices_mapped: u32,
}

/// Where a copy stands. Everything before `database`, and in it everything up to and with `last`, is in the copy.
#[derive(Default)]
struct Place {
    /// Position in the order of databases; their number when all is copied.
    database: usize,
    /// `None`: nothing of this database yet.
    last: Option<Vec<u8>>,
}

impl Place {
    fn is_behind(&self, database: usize, key: &[u8]) -> bool {
        database < self.database || (database == self.database && self.last.as_deref().is_some_and(|last| key <= last))
    }
}

/// What commits see of a copy under way.
pub(super) struct Mirror {
    /// Held while a slice is copied and while a commit is repeated. It must go before the source, whose map it lets go of.
    progress: Mutex<Progress>,
    source: Arc<Generation>,
    target: Arc<Generation>,
}

#[derive(Default)]
struct Progress {
    place: Place,
    copied_bytes: u64,
    /// What was read of the source's map: others read there too, so it is let go of now and then only.
    mapped: Mapped,
    /// The copy is not what the source is: it goes to waste. The member goes on.
    failure: Option<BackendError>,
}

/// Where an operation's record lies in the order of a copy.
fn database_of(bucket: Bucket) -> usize {
    match bucket {
        FIRST => 0,
        bucket if (bucket as usize) < FIRST as usize => bucket as usize + 1,
        bucket => bucket as usize,
    }
}

impl Mirror {
    /// In the order of a copy.
    fn databases(generation: &Generation) -> Vec<BucketDatabase> {
        let mut databases = vec![generation.other; Bucket::ALL.len() + 1];
        for bucket in Bucket::ALL {
            databases[database_of(bucket)] = generation.database(bucket);
        }
        databases
    }

    /// Repeats in the copy what a commit did, as far as the copy has come.
    pub(super) fn repeat(&self, batch: &CommitBatch) {
        let mut progress = self.progress.lock();
        if progress.failure.is_none()
            && let Err(error) = self.write(&progress.place, batch)
        {
            progress.failure = Some(self.target.error("write", error));
        }
    }

    fn write(&self, place: &Place, batch: &CommitBatch) -> Result<(), heed::Error> {
        let is_copied = |operation: &&Operation| match operation {
            Operation::AppendRevision { revision, tombstone, .. }
            | Operation::RemoveRevision { revision, tombstone } => match tombstone {
                false => place.is_behind(database_of(Bucket::Key), &revision.to_key()),
                true => place.is_behind(database_of(Bucket::Key), &revision.to_tombstone_key()),
            },
            Operation::Put { bucket, key, .. } | Operation::Delete { bucket, key } => {
                place.is_behind(database_of(*bucket), key)
            }
        };
        let mut transaction: Option<RwTxn<'_>> = None;
        for operation in batch.operations.iter().filter(is_copied) {
            let transaction = match &mut transaction {
                Some(transaction) => transaction,
                none => none.insert(self.target.environment.write_txn()?),
            };
            self.target.apply(transaction, operation)?;
        }
        transaction.map_or(Ok(()), RwTxn::commit)
    }

    /// Copies records of about `bytes`. True: the copy has everything.
    fn step(&self, bytes: usize) -> Result<bool, BackendError> {
        let mut progress = self.progress.lock();
        if let Some(failure) = &progress.failure {
            return Err(failure.clone());
        }
        let done = self.copy_slice(&mut progress, bytes);
        done.map_err(|error| {
            let error = self.target.error("shrink into", error);
            progress.failure = Some(error.clone());
            error
        })
    }

    fn copy_slice(&self, progress: &mut Progress, bytes: usize) -> Result<bool, heed::Error> {
        let (sources, targets) = (Self::databases(&self.source), Self::databases(&self.target));
        let reading = self.source.environment.read_txn()?;
        let mut writing = self.target.environment.write_txn()?;
        let mut copied = 0;
        let Place { mut database, mut last } = std::mem::take(&mut progress.place);
        while database < sources.len() && copied < bytes {
            let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let records = sources[database].range(&reading, &(from, Bound::Unbounded))?;
            let mut newest: Option<&[u8]> = None;
            for record in records {
                let (key, value) = record?;
                targets[database].put_with_flags(&mut writing, PutFlags::APPEND, key, value)?;
                newest = Some(key);
                copied += key.len() + value.len();
                if copied >= bytes {
                    break;
                }
                progress.mapped.note(value);
            }
            let newest = newest.map(<[u8]>::to_vec);
            if copied < bytes {
                (database, last) = (database + 1, None);
            } else {
                last = newest;
            }
        }
        writing.commit()?;
        progress.place = Place { database, last };
        progress.copied_bytes += copied as u64;
        Ok(database == sources.len())
    }

    /// Whether both hold as many records in each database, and stand at the same entry.
    fn compare(&self) -> Result<(), BackendError> {
        let fail = |error| self.target.error("compare", error);
        let (reading, copied) =
            (self.source.environment.read_txn().map_err(fail)?, self.target.environment.read_txn().map_err(fail)?);
        let pairs = Self::databases(&self.source).into_iter().zip(Self::databases(&self.target));
        for (source, target) in pairs {
            let counts = (source.len(&reading).map_err(fail)?, target.len(&copied).map_err(fail)?);
            if counts.0 != counts.1 {
                let (path, (source, target)) = (self.target.directory().display(), counts);
                return Err(BackendError(format!("{path} holds {target} records of a database with {source}")));
            }
        }
        let meta = (self.source.database(Bucket::Meta), self.target.database(Bucket::Meta));
        let key = kvorum_store::keyspace::meta::CONSISTENT_INDEX;
        if meta.0.get(&reading, key).map_err(fail)? != meta.1.get(&copied, key).map_err(fail)? {
            return Err(BackendError(format!("{} stands at another entry", self.target.directory().display())));
        }
        Ok(())
    }
}

impl Shrink {
    /// Begins a copy of the live environment of `backend`; one at a time.
    ///
    /// # Errors
    /// If another is under way, or the disk has no room for the copy.
    pub fn begin(backend: &Arc<LmdbBackend>) -> Result<Self, BackendError> {
        let source = backend.generation();
        let needed = source.size_in_use_bytes.load(std::sync::atomic::Ordering::Relaxed) + SHRINK_SPARE_BYTES;
        check_room(&source, needed)?;
        let mut mirror = backend.mirror.lock();
        if mirror.is_some() {
            return Err(BackendError(format!("{} is being shrunk already", source.directory().display())));
        }
        let (temporary, target) = backend.begin_generation(|directory| {
            // Nothing of it counts before it is whole and synced. That its file has a name is no part of what a sync of the
            // file makes durable.
            let created = Generation::create_unsynced(directory)?;
            if !backend.options.unsafe_no_fsync {
                let synced = RealFileSystem.sync_directory(directory).map_err(DiskError::at("sync", directory));
                synced.map_err(|error| BackendError(error.to_string()))?;
            }
            Ok::<_, BackendError>(created)
        })?;
        let path = target.directory().join(DATA_FILE);
        let file = File::open(&path).map_err(|error| BackendError(format!("open {}: {error}", path.display())))?;
        let target = Arc::new(target);
        let began = Arc::new(Mirror { source, target: Arc::clone(&target), progress: Mutex::default() });
        *mirror = Some(Arc::clone(&began));
        drop(mirror);
        let prepared = PreparedGeneration::new(target, temporary);
        Ok(Self { backend: Arc::clone(backend), mirror: began, prepared: Some(prepared), file, slices_mapped: 0 })
    }

    /// Copies records of about `bytes`: more only by the last record. True: everything is copied, and what is committed from
    /// now on is copied with its commit.
    pub fn step(&mut self, bytes: usize) -> Result<bool, BackendError> {
        let done = self.mirror.step(bytes)?;
        self.slices_mapped += 1;
        if self.slices_mapped >= SLICES_MAPPED_MAX || done {
            self.slices_mapped = 0;
            self.release_target()?;
        }
        Ok(done)
    }

    /// Bytes of keys and values copied.
    pub fn copied_bytes(&self) -> u64 {
        self.mirror.progress.lock().copied_bytes
    }

    /// Bytes of the live environment that hold data: about what there is to copy.
    pub fn source_bytes(&self) -> u64 {
        self.mirror.source.size_in_use_bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Another environment took the live one's place meanwhile: there is nothing left to shrink.
    pub fn is_overtaken(&self) -> bool {
        !Arc::ptr_eq(&self.backend.generation(), &self.mirror.source)
    }

    /// Writes out what was copied so far, and makes nothing durable. The more often, the less there is for a sync of the log
    /// to wait for.
    pub fn write_out(&self) -> Result<(), BackendError> {
        check_room(&self.mirror.target, SHRINK_SPARE_BYTES)?;
        write_out(&self.file).map_err(|error| self.mirror.target.error("write", error.into()))
    }

    /// Makes durable what was copied so far.
    pub fn sync(&self) -> Result<(), BackendError> {
        check_room(&self.mirror.target, SHRINK_SPARE_BYTES)?;
        let environment = &self.mirror.target.environment;
        environment.force_sync().map_err(|error| self.mirror.target.error("sync", error))
    }

    /// Makes the copy ready to take the live one's place: compared, durable, and syncing its own commits. To be called when
    /// everything is copied, with no commit under way until the switch that follows.
    pub fn seal(mut self, options: LmdbOptions) -> Result<PreparedGeneration, BackendError> {
        let mirror = &self.mirror;
        {
            let progress = mirror.progress.lock();
            if let Some(failure) = &progress.failure {
                return Err(failure.clone());
            }
            assert_eq!(progress.place.database, Bucket::ALL.len() + 1, "a copy is sealed when it is whole");
        }
        if self.is_overtaken() {
            return Err(BackendError("another database took the place of the one that was copied".to_owned()));
        }
        mirror.compare()?;
        if !options.unsafe_no_fsync {
            sync_from_now_on(&mirror.target)?;
            self.sync()?;
        }
        mirror.target.recount()?;
        Ok(self.prepared.take().expect("it is taken here only"))
    }

    /// Lets go of the copy's pages that writing has mapped.
    fn release_target(&self) -> Result<(), BackendError> {
        let target = &self.mirror.target;
        let fail = |error| target.error("read", error);
        let transaction = target.environment.read_txn().map_err(fail)?;
        let mut mapped = Mapped::default();
        let database = target.database(FIRST);
        for record in [database.first(&transaction), database.last(&transaction)] {
            if let Some((key, _)) = record.map_err(fail)? {
                mapped.note(key);
            }
        }
        Ok(())
    }
}

impl Drop for Shrink {
    fn drop(&mut self) {
        // Commits go on; one that is being repeated ends in a folder that goes to waste.
        let mut mirror = self.backend.mirror.lock();
        if mirror.as_ref().is_some_and(|mirror| Arc::ptr_eq(mirror, &self.mirror)) && self.prepared.is_some() {
            *mirror = None;
        }
    }
}

#[allow(unsafe_code)]
fn sync_from_now_on(generation: &Generation) -> Result<(), BackendError> {
    let fail = |error| generation.error("open", error);
    // SAFETY: flags must not be set by two threads at once. Only the one that drives the shrink does, once.
    unsafe { generation.environment.set_flags(EnvFlags::NO_SYNC, FlagSetMode::Disable) }.map_err(fail)
}

fn check_room(generation: &Generation, needed: u64) -> Result<(), BackendError> {
    let directory = generation.directory();
    let parent: PathBuf = directory.parent().map(PathBuf::from).unwrap_or_default();
    match available_bytes(&parent) {
        Ok(available) if available < needed => Err(BackendError(format!(
            "cannot shrink {}: the disk has {available} bytes left, and {needed} are needed for the copy",
            directory.display()
        ))),
        // A disk that does not say is found full by writing.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
