//! The store's backend over LMDB: one database for each of etcd's buckets, etcd's keys and values inside, and one for
//! buckets that we do not know.
//!
//! [`generations`] says which folder is the live one and puts another in its place; [`exchange`] takes a bbolt file in and
//! writes one out; [`shrink`] copies the live one without its free pages while commits go on.
//!
//! Commits are synchronous, on the caller's thread. A read transaction sees the last commit; it must be short, since the
//! file grows while an old one keeps freed pages from being used again. Nothing here knows what a key means.

mod cut_off;
mod damage;
mod exchange;
mod generations;
mod shrink;

use std::io;
use std::ops::{Bound, ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use heed::types::Bytes;
use heed::{Database, DatabaseFlags, DatabaseStat, Env, EnvFlags, EnvOpenOptions, MdbError, PutFlags, RoTxn, RwTxn};
use heed::{WithoutTls, types};
use kvorum_store::backend::{Backend, BackendError, Bucket, CommitBatch, Operation, ReadTransaction};
use parking_lot::{Mutex, RwLock};

use crate::file::{RealFileSystem, available_bytes, create_durable_directories};
use crate::{DiskError, FileSystem};

pub use cut_off::{CutOff, cut_off};
pub use damage::{Damage, damage};
pub use exchange::{ExchangeError, Exported, import_bolt};
pub use generations::{Freeing, PreparedGeneration, RemovedGeneration, RetiredGeneration};
pub use shrink::{SHRINK_SPARE_BYTES, Shrink};

use shrink::Mirror;

/// Address space reserved for the file. Nothing is allocated; the file takes what it holds.
pub const MAP_SIZE_BYTES_MAX: usize = 1 << 40;

/// Where address space is limited the reservation is halved down to this.
pub const MAP_SIZE_BYTES_MIN: usize = 1 << 30;

/// Read transactions that can be open at once, in all processes that have the file open.
pub const READERS_MAX: u32 = 1024;

/// When scans have seen as many bytes of values, they let go of the mapped pages.
const RELEASED_BYTES_MIN: usize = 16 * 1024 * 1024;

/// The largest page of the systems we run on.
const PAGE_BYTES_MAX: usize = 64 * 1024;

/// LMDB's name for the file in an environment's folder.
const DATA_FILE: &str = "data.mdb";

/// The database of buckets that are none of etcd's.
const OTHER: &str = "other";

#[derive(Clone, Copy, Debug, Default)]
pub struct LmdbOptions {
    /// Commits are not synced. A crash of the machine can destroy the file.
    pub unsafe_no_fsync: bool,
}

/// The backend. It holds the current [`Generation`]; another may take its place while readers are still in the old one.
pub struct LmdbBackend {
    current: RwLock<Arc<Generation>>,
    /// The folder of the first generation; later ones lie beside it.
    directory: PathBuf,
    options: LmdbOptions,
    /// Names of folders that are being built: none is used twice, since LMDB does not open one twice.
    next_number: AtomicU64,
    /// The copy that commits are repeated in.
    mirror: Mutex<Option<Arc<Mirror>>>,
}

impl LmdbBackend {
    /// Opens the newest environment of `directory` (see [`generations`]), creating the first if there is none, and removes
    /// what an interrupted change of generations left. A file that was cut off or damaged is refused: see [`cut_off`]
    /// and [`damage`].
    pub fn open(directory: &Path, options: LmdbOptions) -> Result<Self, BackendError> {
        if let Some(cut_off) = cut_off(directory)? {
            return Err(BackendError(cut_off.to_string()));
        }
        if let Some(damage) = damage(directory)? {
            return Err(BackendError(damage.to_string()));
        }
        let newest = generations::settle(directory)?;
        let current = RwLock::new(Arc::new(Generation::open(&newest, options)?));
        let next_number = AtomicU64::new(generations::number_of(directory, &newest).unwrap_or_default() + 1);
        Ok(Self { current, directory: directory.to_owned(), options, next_number, mirror: Mutex::default() })
    }

    /// The environment that new transactions use.
    pub fn generation(&self) -> Arc<Generation> {
        self.current.read().clone()
    }

    /// Puts another environment in place and returns the old one, which closes when its last reader is done. Not to be
    /// called while a commit runs.
    pub fn replace(&self, generation: Generation) -> Arc<Generation> {
        self.replace_shared(Arc::new(generation))
    }

    /// What it was opened with.
    pub fn options(&self) -> LmdbOptions {
        self.options
    }

    fn replace_shared(&self, generation: Arc<Generation>) -> Arc<Generation> {
        // Of whatever was being copied, this takes the place.
        *self.mirror.lock() = None;
        std::mem::replace(&mut *self.current.write(), generation)
    }
}

impl Backend for LmdbBackend {
    fn read(
        &self,
        action: &mut dyn FnMut(&dyn ReadTransaction) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        self.generation().read(action)
    }

    fn commit(&self, batch: &CommitBatch) -> Result<(), BackendError> {
        self.generation().commit(batch)?;
        // A copy that begins only now reads what was just committed.
        let mirror = self.mirror.lock().clone();
        if let Some(mirror) = mirror {
            mirror.repeat(batch);
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.generation().size_bytes()
    }

    fn size_in_use_bytes(&self) -> u64 {
        self.generation().size_in_use_bytes()
    }
}

impl Backend for Generation {
    fn read(
        &self,
        action: &mut dyn FnMut(&dyn ReadTransaction) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        Generation::read(self, action)
    }

    fn commit(&self, batch: &CommitBatch) -> Result<(), BackendError> {
        Generation::commit(self, batch)
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    fn size_in_use_bytes(&self) -> u64 {
        self.size_in_use_bytes.load(Ordering::Relaxed)
    }
}

type BucketDatabase = Database<Bytes, Bytes>;

/// One environment on disk.
pub struct Generation {
    environment: Env<WithoutTls>,
    /// In the order of [`Bucket::ALL`].
    databases: Vec<BucketDatabase>,
    other: BucketDatabase,
    /// Where it was opened.
    directory: PathBuf,
    /// Where it lies since it became the live one; LMDB needs no name after opening.
    moved_to: OnceLock<PathBuf>,
    size_bytes: AtomicU64,
    size_in_use_bytes: AtomicU64,
    /// The first failed commit; LMDB's pages in memory may differ from those on disk after it.
    failure: Mutex<Option<BackendError>>,
    /// By scans since pages were last let go.
    seen: Mutex<SeenPages>,
}

impl Generation {
    /// Opens the environment in `directory`, creating it if it is not there. The same folder cannot be open twice in one
    /// process.
    pub fn open(directory: &Path, options: LmdbOptions) -> Result<Self, BackendError> {
        let disk_error = |error: DiskError| BackendError(error.to_string());
        let fail = |error| backend_error("open", directory, error);
        create_durable_directories(&RealFileSystem, directory).map_err(disk_error)?;
        if !directory.join(DATA_FILE).exists() {
            create(directory, options)?;
        }
        let environment = open_environment(directory, options).map_err(fail)?;
        // A process that was killed leaves its readers registered, and they would keep freed pages for good.
        environment.clear_stale_readers().map_err(fail)?;

        let mut transaction = environment.write_txn().map_err(fail)?;
        let (databases, other) = open_databases(&environment, &mut transaction).map_err(fail)?;
        let size_in_use = size_in_use(&environment, &databases, other, &transaction).map_err(fail)?;
        transaction.commit().map_err(fail)?;
        if !options.unsafe_no_fsync {
            RealFileSystem
                .sync_directory(directory)
                .map_err(|cause| disk_error(DiskError::new("sync", directory, cause)))?;
        }
        Ok(Self::over(environment, databases, other, directory, size_in_use))
    }

    /// A new environment in a folder that is not there yet, whose commits are not synced. It is not whole on the disk before
    /// it is synced.
    fn create_unsynced(directory: &Path) -> Result<Self, BackendError> {
        create_durable_directories(&RealFileSystem, directory).map_err(|error| BackendError(error.to_string()))?;
        let fail = |error| backend_error("create", directory, error);
        let environment = open_environment(directory, LmdbOptions { unsafe_no_fsync: true }).map_err(fail)?;
        let mut transaction = environment.write_txn().map_err(fail)?;
        let (databases, other) = open_databases(&environment, &mut transaction).map_err(fail)?;
        transaction.commit().map_err(fail)?;
        Ok(Self::over(environment, databases, other, directory, 0))
    }

    fn over(
        environment: Env<WithoutTls>,
        databases: Vec<BucketDatabase>,
        other: BucketDatabase,
        directory: &Path,
        size_in_use: u64,
    ) -> Self {
        let generation = Self {
            environment,
            databases,
            other,
            directory: directory.to_owned(),
            moved_to: OnceLock::new(),
            size_bytes: AtomicU64::new(0),
            size_in_use_bytes: AtomicU64::new(size_in_use),
            failure: Mutex::new(None),
            seen: Mutex::default(),
        };
        generation.refresh_size();
        generation
    }

    /// Unmaps the file.
    fn close(self) {
        // There are no clones of it, so there is nothing to wait for.
        self.environment.prepare_for_closing().wait();
    }

    /// Looks again how large it is.
    fn recount(&self) -> Result<(), BackendError> {
        let fail = |error| self.error("read", error);
        let transaction = self.environment.read_txn().map_err(fail)?;
        let in_use = size_in_use(&self.environment, &self.databases, self.other, &transaction).map_err(fail)?;
        self.size_in_use_bytes.store(in_use, Ordering::Relaxed);
        self.refresh_size();
        Ok(())
    }

    pub fn directory(&self) -> &Path {
        self.moved_to.get().unwrap_or(&self.directory)
    }

    /// The file it is in, for messages.
    pub fn path(&self) -> PathBuf {
        self.directory().join(DATA_FILE)
    }

    /// See [`Backend::read`].
    pub fn read(
        &self,
        action: &mut dyn FnMut(&dyn ReadTransaction) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let transaction = self.environment.read_txn().map_err(|error| self.error("read", error))?;
        action(&Reader { generation: self, transaction })
    }

    /// See [`Backend::commit`]. After a failure every later commit fails with the same error.
    pub fn commit(&self, batch: &CommitBatch) -> Result<(), BackendError> {
        if let Some(error) = &*self.failure.lock() {
            return Err(error.clone());
        }
        let size_in_use = self.write(batch).map_err(|error| {
            let mut error = self.error("write", error);
            // LMDB calls a write that found too little room an input/output error.
            if let Ok(available) = available_bytes(self.directory()) {
                error.0 += &format!("; the disk has {available} bytes left");
            }
            *self.failure.lock() = Some(error.clone());
            error
        })?;
        self.size_in_use_bytes.store(size_in_use, Ordering::Relaxed);
        self.refresh_size();
        Ok(())
    }

    fn write(&self, batch: &CommitBatch) -> Result<u64, heed::Error> {
        let mut transaction = self.environment.write_txn()?;
        for operation in &batch.operations {
            self.apply(&mut transaction, operation)?;
        }
        let size_in_use = size_in_use(&self.environment, &self.databases, self.other, &transaction)?;
        transaction.commit()?;
        Ok(size_in_use)
    }

    fn apply(&self, transaction: &mut RwTxn<'_>, operation: &Operation) -> Result<(), heed::Error> {
        let revisions = self.database(Bucket::Key);
        match operation {
            Operation::AppendRevision { revision, tombstone: false, value } => {
                append(revisions, transaction, &revision.to_key(), value)
            }
            Operation::AppendRevision { revision, tombstone: true, value } => {
                append(revisions, transaction, &revision.to_tombstone_key(), value)
            }
            Operation::RemoveRevision { revision, tombstone: false } => {
                revisions.delete(transaction, &revision.to_key()).map(drop)
            }
            Operation::RemoveRevision { revision, tombstone: true } => {
                revisions.delete(transaction, &revision.to_tombstone_key()).map(drop)
            }
            Operation::Put { bucket, key, value } => self.database(*bucket).put(transaction, key, value),
            Operation::Delete { bucket, key } => self.database(*bucket).delete(transaction, key).map(drop),
        }
    }

    fn database(&self, bucket: Bucket) -> BucketDatabase {
        self.databases[bucket as usize]
    }

    fn note_seen(&self, scan: &SeenPages) {
        let mut seen = self.seen.lock();
        seen.merge(scan);
        if seen.bytes >= RELEASED_BYTES_MIN {
            std::mem::take(&mut *seen).release();
        }
    }

    fn refresh_size(&self) {
        // The last known size stands if the file cannot be asked; the next commit asks again.
        if let Ok(size) = self.environment.real_disk_size() {
            self.size_bytes.store(size, Ordering::Relaxed);
        }
    }

    fn error(&self, operation: &str, error: heed::Error) -> BackendError {
        backend_error(operation, self.directory(), error)
    }
}

/// Puts an empty environment in place, whole and durable: LMDB cannot open one whose first pages a crash has torn. What
/// an interrupted attempt left under `<directory>.tmp` is removed.
fn create(directory: &Path, options: LmdbOptions) -> Result<(), BackendError> {
    let disk_error = |error: DiskError| BackendError(error.to_string());
    let mut temporary = directory.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let remove = || match RealFileSystem.remove_directory(&temporary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(DiskError::at("remove", &temporary)).map_err(disk_error),
    };
    remove()?;
    RealFileSystem.create_directories(&temporary).map_err(DiskError::at("create", &temporary)).map_err(disk_error)?;
    let fail = |error| backend_error("create", &temporary, error);
    let environment = open_environment(&temporary, options).map_err(fail)?;
    let mut transaction = environment.write_txn().map_err(fail)?;
    open_databases(&environment, &mut transaction).map_err(fail)?;
    transaction.commit().map_err(fail)?;
    environment.prepare_for_closing().wait();
    let (source, target) = (temporary.join(DATA_FILE), directory.join(DATA_FILE));
    RealFileSystem.rename(&source, &target).map_err(DiskError::at("rename", &source)).map_err(disk_error)?;
    remove()
}

fn backend_error(operation: &str, directory: &Path, error: heed::Error) -> BackendError {
    BackendError(format!("cannot {operation} {}: {error}", directory.join(DATA_FILE).display()))
}

/// Puts a key that is normally above all others, which needs no search; a replayed one goes where it belongs.
fn append(database: BucketDatabase, transaction: &mut RwTxn<'_>, key: &[u8], value: &[u8]) -> Result<(), heed::Error> {
    match database.put_with_flags(transaction, PutFlags::APPEND, key, value) {
        Err(heed::Error::Mdb(MdbError::KeyExist)) => database.put(transaction, key, value),
        result => result,
    }
}

/// Read-ahead stays on: the walk over all revisions at start needs it, and a random read costs little by it.
fn open_environment(directory: &Path, options: LmdbOptions) -> Result<Env<WithoutTls>, heed::Error> {
    let mut map_size = MAP_SIZE_BYTES_MAX;
    loop {
        match open_with_map_size(directory, options, map_size) {
            Err(heed::Error::Io(error))
                if error.kind() == io::ErrorKind::OutOfMemory && map_size > MAP_SIZE_BYTES_MIN =>
            {
                map_size /= 2;
            }
            result => return result,
        }
    }
}

#[allow(unsafe_code)]
fn open_with_map_size(directory: &Path, options: LmdbOptions, map_size: usize) -> Result<Env<WithoutTls>, heed::Error> {
    let mut builder = EnvOpenOptions::new().read_txn_without_tls();
    builder.map_size(map_size).max_readers(READERS_MAX).max_dbs(Bucket::ALL.len() as u32 + 1);
    if options.unsafe_no_fsync {
        // SAFETY: the flag gives up durability only, which is what the operator asked for.
        unsafe { builder.flags(EnvFlags::NO_SYNC) };
    }
    // SAFETY: the folder is private to the member (mode 0700), which holds the lock of its log while it runs, and nothing
    // of ours writes into the file but LMDB.
    unsafe { builder.open(directory) }
}

/// Opens those of all buckets, in their order, and the one for other buckets; absent ones are created.
fn open_databases(
    environment: &Env<WithoutTls>,
    transaction: &mut RwTxn<'_>,
) -> Result<(Vec<BucketDatabase>, BucketDatabase), heed::Error> {
    let mut open = |name| {
        let mut options = environment.database_options().types::<Bytes, Bytes>();
        options.name(name).flags(DatabaseFlags::empty()).create(transaction)
    };
    let mut databases = Vec::with_capacity(Bucket::ALL.len());
    for bucket in Bucket::ALL {
        databases.push(open(bucket.name())?);
    }
    Ok((databases, open(OTHER)?))
}

/// The pages of all trees, and the two that describe them. Counts are kept by LMDB with each tree: nothing is walked.
fn size_in_use(
    environment: &Env<WithoutTls>,
    databases: &[BucketDatabase],
    other: BucketDatabase,
    transaction: &RoTxn<'_>,
) -> Result<u64, heed::Error> {
    const META_PAGES: usize = 2;
    let names: Option<Database<types::Bytes, types::DecodeIgnore>> = environment.open_database(transaction, None)?;
    let mut pages = META_PAGES;
    let mut page_size = 0;
    let mut count = |stat: DatabaseStat| {
        pages += stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
        page_size = u64::from(stat.page_size);
    };
    if let Some(names) = names {
        count(names.stat(transaction)?);
    }
    for database in databases.iter().chain([&other]) {
        count(database.stat(transaction)?);
    }
    Ok(pages as u64 * page_size)
}

struct Reader<'g> {
    generation: &'g Generation,
    transaction: RoTxn<'g, WithoutTls>,
}

impl Reader<'_> {
    fn error(&self, error: heed::Error) -> BackendError {
        self.generation.error("read", error)
    }
}

impl ReadTransaction for Reader<'_> {
    fn fetch(&self, bucket: Bucket, key: &[u8], receive: &mut dyn FnMut(&[u8])) -> Result<bool, BackendError> {
        // LMDB calls a key it could not hold an error; it is simply not there.
        if key.is_empty() || key.len() > self.generation.environment.max_key_size() {
            return Ok(false);
        }
        let value = self.generation.database(bucket).get(&self.transaction, key).map_err(|error| self.error(error))?;
        if let Some(value) = value {
            receive(value);
        }
        Ok(value.is_some())
    }

    fn scan(
        &self,
        bucket: Bucket,
        from: &[u8],
        until: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), BackendError> {
        if until.is_some_and(|until| from >= until) {
            return Ok(());
        }
        let from = if from.is_empty() { Bound::Unbounded } else { Bound::Included(from) };
        let until = until.map_or(Bound::Unbounded, Bound::Excluded);
        let database = self.generation.database(bucket);
        let records = database.range(&self.transaction, &(from, until)).map_err(|error| self.error(error))?;
        let mut seen = SeenPages::default();
        for record in records {
            let (key, value) = record.map_err(|error| self.error(error))?;
            seen.add(value);
            if visit(key, value).is_break() {
                break;
            }
        }
        self.generation.note_seen(&seen);
        Ok(())
    }
}

/// Where in the memory map the values of a scan lie. Mapped pages count as the process's memory for as long as nobody
/// else needs it, and a walk over all revisions maps the whole file: so every so often scans let go of what they have seen.
/// The pages stay in the system's cache.
#[derive(Default)]
struct SeenPages {
    /// Of addresses; empty if nothing was seen.
    addresses: Range<usize>,
    bytes: usize,
}

impl SeenPages {
    fn merge(&mut self, other: &Self) {
        if other.bytes > 0 {
            let begin = if self.bytes == 0 { other.addresses.start } else { self.addresses.start };
            self.addresses = begin.min(other.addresses.start)..self.addresses.end.max(other.addresses.end);
            self.bytes += other.bytes;
        }
    }

    fn add(&mut self, value: &[u8]) {
        let begin = value.as_ptr().addr();
        let end = begin + value.len();
        let Range { start, end: until } = self.addresses;
        self.addresses = if self.bytes == 0 { begin..end } else { start.min(begin)..until.max(end) };
        self.bytes += value.len();
    }

    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    fn release(self) {
        let begin = self.addresses.start.next_multiple_of(PAGE_BYTES_MAX);
        let length = (self.addresses.end & !(PAGE_BYTES_MAX - 1)).saturating_sub(begin);
        // SAFETY: all values of a read transaction lie in the environment's one mapping, so everything between two of them
        // does, and it lasts as long as the generation. It is a shared mapping of a file that nobody writes through: its
        // pages come back as they are when they are touched again, by whomever.
        // That memory could not be given back is no reason to fail a read.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(begin), length, libc::MADV_DONTNEED) };
    }

    #[cfg(not(target_os = "linux"))]
    fn release(self) {}
}

#[cfg(test)]
mod tests;
