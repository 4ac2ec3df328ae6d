//! From the backend to a bbolt file and back.
//!
//! Both directions stream in key order with memory of a few MiB, whatever the size of the store. Buckets that are none of
//! etcd's live in the database `other` and come out as they went in. What LMDB maps while it is read through is given
//! back to the system at once: a copy must not make the process look as large as the store.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use heed::{Env, PutFlags, RoTxn, RwTxn, WithoutTls};
use kvorum_store::backend::{BackendError, Bucket};
use kvorum_store::keyspace::meta;
use kvorum_store::{Membership, membership_of};

use super::{BucketDatabase, Generation, LmdbOptions, Reader, backend_error, open_databases, open_environment};
use crate::bolt::{BoltError, BoltFile, BoltWriter, Walk};
use crate::file::{RealFileSystem, create_durable_directories};
use crate::{DiskError, File, FileSystem, OpenMode};

/// Keys and values written in one transaction while a file is taken in.
const IMPORT_TRANSACTION_BYTES: usize = 4 << 20;

/// Keys and values taken in between two words about the progress.
const PROGRESS_BYTES: u64 = 32 << 20;

/// Keys and values read from the memory map before it is given back. The system maps up to 16 pages around each one.
const MAPPED_BYTES_MAX: usize = 2 << 20;

/// Transactions of an import between two times that the memory map is given back. Each touches the pages that lead to the
/// end of the tree.
const IMPORT_TRANSACTIONS_MAPPED_MAX: usize = 32;

/// What the records of `other` begin with.
const BEGIN: u8 = 1;
const ENTRY: u8 = 2;
const END: u8 = 3;

/// A file could not be taken in or written out.
#[derive(Clone, Debug)]
pub enum ExchangeError {
    Backend(BackendError),
    File(BoltError),
    /// The file is well, but holds what this backend cannot.
    Unstorable(String),
    /// The caller said that it is no longer wanted.
    Cancelled,
}

impl From<BackendError> for ExchangeError {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

impl From<BoltError> for ExchangeError {
    fn from(error: BoltError) -> Self {
        Self::File(error)
    }
}

impl From<DiskError> for ExchangeError {
    fn from(error: DiskError) -> Self {
        Self::File(BoltError::Disk(error))
    }
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend(error) => write!(formatter, "{error}"),
            Self::File(error) => write!(formatter, "{error}"),
            Self::Unstorable(reason) => formatter.write_str(reason),
            Self::Cancelled => formatter.write_str("cancelled"),
        }
    }
}

impl std::error::Error for ExchangeError {}

/// What was written out, with the place in the log that it stands for; all from one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    pub file_bytes: u64,
    /// Entries up to this index are in the file.
    pub consistent_index: u64,
    pub term: u64,
    /// JSON, as it is stored.
    pub conf_state: Option<Vec<u8>>,
    /// Empty if none is stored.
    pub storage_version: String,
    pub membership: Membership,
}

impl Generation {
    /// Writes everything into a fresh bbolt file, as it was at one commit. The read transaction is open for as long as
    /// the writing takes. With `sync` the file is durable afterwards; its name is the caller's affair.
    pub fn write_bolt(&self, target: &Path, sync: bool) -> Result<Exported, ExchangeError> {
        let writer = BoltWriter::create(&RealFileSystem, target)?;
        self.write_into(writer, sync, &|| false).map(|(_, exported)| exported)
    }

    /// The same into a file without a name, which is gone when it is dropped, whatever happens. `cancelled` is asked often.
    /// The folder should be one whose files with names that begin with `tmp` are removed at start (see
    /// [`crate::incoming`]): the file has one for a moment.
    pub fn write_bolt_unnamed(
        &self,
        folder: &Path,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(Box<dyn File>, Exported), ExchangeError> {
        static CREATED: AtomicU64 = AtomicU64::new(0);
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("tmp-{}-{number}.db", std::process::id()));
        let file = RealFileSystem.open(&path, OpenMode::CreateEmpty).map_err(DiskError::at("create", &path))?;
        RealFileSystem.remove_file(&path).map_err(DiskError::at("remove", &path))?;
        self.write_into(BoltWriter::over(file, &path), false, cancelled)
    }

    fn write_into(
        &self,
        mut writer: BoltWriter,
        sync: bool,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(Box<dyn File>, Exported), ExchangeError> {
        let transaction = self.environment.read_txn().map_err(|error| self.error("read", error))?;
        let reader = Reader { generation: self, transaction };
        self.visit_all(&reader.transaction, &mut |step| {
            if cancelled() {
                return Err(ExchangeError::Cancelled);
            }
            match step {
                Walk::Begin { name, sequence } => Ok(writer.begin_bucket(name, sequence)?),
                Walk::Entry { key, value } => Ok(writer.put(key, value)?),
                Walk::End => Ok(writer.end_bucket()?),
            }
        })?;
        let mut exported = self.position(&reader)?;
        drop(reader);
        let (file, file_bytes) = writer.finish_with_file(sync)?;
        exported.file_bytes = file_bytes;
        Ok((file, exported))
    }

    fn position(&self, reader: &Reader<'_>) -> Result<Exported, ExchangeError> {
        let fetch = |key: &[u8]| {
            let found = self.database(Bucket::Meta).get(&reader.transaction, key);
            found.map(|value| value.map(<[u8]>::to_vec)).map_err(|error| self.error("read", error))
        };
        let number = |key: &[u8]| -> Result<u64, ExchangeError> {
            let Some(value) = fetch(key)? else { return Ok(0) };
            let name = String::from_utf8_lossy(key);
            meta::parse_number(&value).map_err(|reason| BackendError(format!("meta {name}: {reason}")).into())
        };
        let version = fetch(meta::STORAGE_VERSION)?.unwrap_or_default();
        Ok(Exported {
            file_bytes: 0,
            consistent_index: number(meta::CONSISTENT_INDEX)?,
            term: number(meta::TERM)?,
            conf_state: fetch(meta::CONF_STATE)?,
            storage_version: String::from_utf8_lossy(&version).into_owned(),
            membership: membership_of(reader).map_err(|error| BackendError(error.to_string()))?,
        })
    }

    /// Everything in the order of a bbolt file: the buckets by name, ours and others.
    fn visit_all(
        &self,
        transaction: &RoTxn<'_, WithoutTls>,
        visit: &mut dyn FnMut(Walk<'_>) -> Result<(), ExchangeError>,
    ) -> Result<(), ExchangeError> {
        let fail = |error| ExchangeError::from(self.error("read", error));
        let mut mapped = Mapped::default();
        let mut others = self.other.iter(transaction).map_err(fail)?;
        let mut next_other = others.next().transpose().map_err(fail)?;
        let mut depth = 0_usize;
        for bucket in Bucket::ALL.into_iter().map(Some).chain([None]) {
            while let Some((_, record)) = next_other {
                let step = self.other_step(record)?;
                if depth == 0
                    && let (Walk::Begin { name, .. }, Some(bucket)) = (step, bucket)
                    && name > bucket.name().as_bytes()
                {
                    break;
                }
                match step {
                    Walk::Begin { .. } => depth += 1,
                    Walk::End => depth = depth.saturating_sub(1),
                    Walk::Entry { .. } => {}
                }
                visit(step)?;
                mapped.note(record);
                next_other = others.next().transpose().map_err(fail)?;
            }
            let Some(bucket) = bucket else { break };
            visit(Walk::Begin { name: bucket.name().as_bytes(), sequence: 0 })?;
            for record in self.database(bucket).iter(transaction).map_err(fail)? {
                let (key, value) = record.map_err(fail)?;
                visit(Walk::Entry { key, value })?;
                mapped.note(key);
                mapped.note(value);
            }
            visit(Walk::End)?;
        }
        Ok(())
    }

    fn other_step<'r>(&self, record: &'r [u8]) -> Result<Walk<'r>, ExchangeError> {
        parse_other(record).ok_or_else(|| {
            let path = self.directory().display();
            BackendError(format!("{path}: a record of the database {OTHER} is malformed", OTHER = super::OTHER)).into()
        })
    }
}

/// Builds an environment in a new folder from all that a bbolt file holds, reads it back to compare, and makes it durable.
/// The file is checked on the way; after an error the folder may hold anything, and goes to waste.
pub fn import_bolt(file: &BoltFile, directory: &Path, options: LmdbOptions) -> Result<Generation, ExchangeError> {
    import_bolt_watched(file, directory, options, &mut |_| {})
}

/// The same; `progress` is told the bytes of keys and values that were taken in so far, now and then.
pub(super) fn import_bolt_watched(
    file: &BoltFile,
    directory: &Path,
    options: LmdbOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Generation, ExchangeError> {
    create_durable_directories(&RealFileSystem, directory)?;
    let fail = |error| ExchangeError::from(backend_error("write", directory, error));
    // Nothing of it counts before it is whole.
    let environment = open_environment(directory, LmdbOptions { unsafe_no_fsync: true }).map_err(fail)?;
    let mut transaction = environment.write_txn().map_err(fail)?;
    let (databases, other) = open_databases(&environment, &mut transaction).map_err(fail)?;
    transaction.commit().map_err(fail)?;

    let mut import = Import {
        environment: &environment,
        directory,
        databases: &databases,
        other,
        transaction: None,
        transaction_bytes: 0,
        transactions_mapped: 0,
        bucket: None,
        depth: 0,
        records_of_other: 0,
        digest: Digest::default(),
    };
    let (mut bytes, mut told) = (0, 0);
    file.walk(true, |step| {
        if let Walk::Entry { key, value } = step {
            bytes += (key.len() + value.len()) as u64;
            if bytes >= told + PROGRESS_BYTES {
                told = bytes;
                progress(bytes);
            }
        }
        import.take(step)
    })?;
    let digest = import.finish()?;
    if !options.unsafe_no_fsync {
        environment.force_sync().map_err(fail)?;
    }
    environment.prepare_for_closing().wait();
    let generation = Generation::open(directory, options)?;
    let transaction = generation.environment.read_txn().map_err(fail)?;
    let mut stored = Digest::default();
    generation.visit_all(&transaction, &mut |step| {
        stored.add(step);
        Ok(())
    })?;
    drop(transaction);
    if stored != digest {
        let reason = format!("{} does not hold what {} does", directory.display(), file.path().display());
        return Err(BackendError(reason).into());
    }
    Ok(generation)
}

/// The state of taking a file in.
struct Import<'e> {
    environment: &'e Env<WithoutTls>,
    directory: &'e Path,
    databases: &'e [BucketDatabase],
    other: BucketDatabase,
    transaction: Option<RwTxn<'e>>,
    transaction_bytes: usize,
    transactions_mapped: usize,
    /// The bucket that is open, if it is one of ours.
    bucket: Option<Bucket>,
    depth: usize,
    records_of_other: u64,
    digest: Digest,
}

impl Import<'_> {
    fn take(&mut self, step: Walk<'_>) -> Result<(), ExchangeError> {
        self.digest.add(step);
        match step {
            Walk::Begin { name, .. } => {
                if let Some(bucket) = self.bucket {
                    let bucket = bucket.name();
                    return Err(ExchangeError::Unstorable(format!("there is a bucket within bucket {bucket}")));
                }
                self.depth += 1;
                self.bucket = if self.depth == 1 { known(name) } else { None };
                if self.bucket.is_none() { self.put_other(step) } else { Ok(()) }
            }
            Walk::Entry { key, value } => match self.bucket {
                Some(bucket) => {
                    let key_bytes_max = self.environment.max_key_size();
                    if key.len() > key_bytes_max {
                        let (name, length) = (bucket.name(), key.len());
                        let reason = format!("bucket {name}: a key of {length} bytes; at most {key_bytes_max} can be");
                        return Err(ExchangeError::Unstorable(reason));
                    }
                    self.put(self.databases[bucket as usize], key, value)
                }
                None if self.depth == 0 => {
                    Err(ExchangeError::Unstorable("there is an entry outside of all buckets".to_owned()))
                }
                None => self.put_other(step),
            },
            Walk::End => {
                self.depth -= 1;
                if self.bucket.take().is_none() { self.put_other(step) } else { Ok(()) }
            }
        }
    }

    fn put_other(&mut self, step: Walk<'_>) -> Result<(), ExchangeError> {
        let mut record = Vec::new();
        match step {
            Walk::Begin { name, sequence } => {
                record.push(BEGIN);
                record.extend(sequence.to_le_bytes());
                record.extend(name);
            }
            Walk::Entry { key, value } => {
                record.push(ENTRY);
                record.extend(u32::try_from(key.len()).expect("a key's length was checked").to_le_bytes());
                record.extend(key);
                record.extend(value);
            }
            Walk::End => record.push(END),
        }
        let number = self.records_of_other;
        self.records_of_other += 1;
        self.put(self.other, &number.to_be_bytes(), &record)
    }

    fn put(&mut self, database: BucketDatabase, key: &[u8], value: &[u8]) -> Result<(), ExchangeError> {
        let directory = self.directory;
        let fail = |error| ExchangeError::from(backend_error("write", directory, error));
        let transaction = match &mut self.transaction {
            Some(transaction) => transaction,
            none => none.insert(self.environment.write_txn().map_err(fail)?),
        };
        database.put_with_flags(transaction, PutFlags::APPEND, key, value).map_err(fail)?;
        self.transaction_bytes += key.len() + value.len();
        if self.transaction_bytes < IMPORT_TRANSACTION_BYTES {
            return Ok(());
        }
        self.commit()?;
        self.transactions_mapped += 1;
        if self.transactions_mapped < IMPORT_TRANSACTIONS_MAPPED_MAX {
            return Ok(());
        }
        self.transactions_mapped = 0;
        let transaction = self.environment.read_txn().map_err(fail)?;
        let mut mapped = Mapped::default();
        for record in [database.first(&transaction), database.last(&transaction)] {
            if let Some((key, _)) = record.map_err(fail)? {
                mapped.note(key);
            }
        }
        mapped.release();
        Ok(())
    }

    fn commit(&mut self) -> Result<(), ExchangeError> {
        self.transaction_bytes = 0;
        match self.transaction.take() {
            Some(transaction) => {
                transaction.commit().map_err(|error| backend_error("write", self.directory, error).into())
            }
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<Digest, ExchangeError> {
        self.commit()?;
        Ok(self.digest)
    }
}

fn known(name: &[u8]) -> Option<Bucket> {
    Bucket::ALL.into_iter().find(|bucket| bucket.name().as_bytes() == name)
}

fn parse_other(record: &[u8]) -> Option<Walk<'_>> {
    let (kind, rest) = record.split_first()?;
    match *kind {
        BEGIN => {
            let (sequence, name) = rest.split_first_chunk()?;
            Some(Walk::Begin { name, sequence: u64::from_le_bytes(*sequence) })
        }
        ENTRY => {
            let (length, rest) = rest.split_first_chunk()?;
            let (key, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            Some(Walk::Entry { key, value })
        }
        END if rest.is_empty() => Some(Walk::End),
        _ => None,
    }
}

/// A checksum of everything in its order, without known buckets that are empty: those are always there in LMDB.
#[derive(Debug, Default, PartialEq, Eq)]
struct Digest {
    crc: u32,
    entries: u64,
    depth: usize,
    bucket: Option<Bucket>,
}

impl Digest {
    fn add(&mut self, step: Walk<'_>) {
        match step {
            Walk::Begin { name, sequence } => {
                self.depth += 1;
                self.bucket = if self.depth == 1 { known(name) } else { None };
                if self.bucket.is_none() {
                    self.add_bytes(&sequence.to_le_bytes());
                    self.add_bytes(name);
                }
            }
            Walk::Entry { key, value } => {
                self.entries += 1;
                self.add_bytes(self.bucket.map_or(&[][..], |bucket| bucket.name().as_bytes()));
                self.add_bytes(key);
                self.add_bytes(value);
            }
            Walk::End => {
                self.depth = self.depth.saturating_sub(1);
                if self.bucket.take().is_none() {
                    self.add_bytes(b"end");
                }
            }
        }
    }

    fn add_bytes(&mut self, bytes: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, &bytes.len().to_le_bytes());
        self.crc = crc32c::crc32c_append(self.crc, bytes);
    }
}

/// The part of the memory map that was read and not given back yet.
#[derive(Default)]
pub(super) struct Mapped {
    bytes: usize,
    lowest: usize,
    highest: usize,
}

impl Mapped {
    /// `bytes` must lie in the map.
    pub(super) fn note(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (begin, end) = (bytes.as_ptr() as usize, bytes.as_ptr() as usize + bytes.len());
        self.lowest = if self.bytes == 0 { begin } else { self.lowest.min(begin) };
        self.highest = self.highest.max(end);
        self.bytes += bytes.len();
        if self.bytes >= MAPPED_BYTES_MAX {
            self.release();
        }
    }

    #[allow(unsafe_code)]
    fn release(&mut self) {
        const PAGE_BYTES: usize = 4096;
        let begin = self.lowest / PAGE_BYTES * PAGE_BYTES;
        // SAFETY: everything between two places of LMDB's map belongs to that map, which is shared, read-only and backed
        // by a file: pages that are given back are read again when they are touched, with the same contents.
        let result = unsafe { libc::madvise(begin as *mut libc::c_void, self.highest - begin, libc::MADV_DONTNEED) };
        // It is advice; without it the process only looks larger. (A system with larger pages refuses the address.)
        let _ = result;
        (self.bytes, self.lowest, self.highest) = (0, 0, 0);
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.release();
        }
    }
}

#[cfg(test)]
mod tests;
