//! What makes a bbolt file a snapshot: the SHA-256 of its pages behind them, and what `snapshot status` says of it.

use std::collections::HashSet;
use std::path::Path;

use prost::Message;
use sha2::{Digest, Sha256};

use super::{BoltError, BoltFile, Walk};
use crate::{DiskError, File, FileSystem, OpenMode};

pub const DIGEST_BYTES: usize = 32;

/// A file's length modulo this is [`DIGEST_BYTES`] if the digest is there: pages are longer than a disk's sector.
const SECTOR_BYTES: u64 = 512;

const STEP_BYTES: usize = 256 << 10;

/// Whether a file of this length ends with a digest.
pub fn has_digest(file_bytes: u64) -> bool {
    file_bytes % SECTOR_BYTES == DIGEST_BYTES as u64
}

/// The digest of bytes that come one after the other.
#[derive(Clone, Default)]
pub struct RunningDigest(Sha256);

impl RunningDigest {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> [u8; DIGEST_BYTES] {
        self.0.finalize().into()
    }
}

/// The SHA-256 of the first `count` bytes of a file.
pub fn digest(file: &dyn File, path: &Path, count: u64) -> Result<[u8; DIGEST_BYTES], DiskError> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; STEP_BYTES];
    let mut offset = 0;
    while offset < count {
        let wanted = usize::try_from(count - offset).map_or(STEP_BYTES, |rest| rest.min(STEP_BYTES));
        let read = file.read_at(offset, &mut buffer[..wanted]).map_err(DiskError::at("read", path))?;
        if read == 0 {
            return Err(DiskError::new("read", path, std::io::ErrorKind::UnexpectedEof.into()));
        }
        hash.update(&buffer[..read]);
        offset += read as u64;
    }
    Ok(hash.finalize().into())
}

/// Puts the digest behind a database, which makes it what `etcdctl snapshot save` leaves.
pub fn append_digest(file_system: &dyn FileSystem, path: &Path) -> Result<(), BoltError> {
    let file = file_system.open(path, OpenMode::ReadWrite).map_err(DiskError::at("open", path))?;
    let length = file.length().map_err(DiskError::at("read", path))?;
    let digest = digest(&*file, path, length)?;
    file.write_at(length, &digest).map_err(DiskError::at("write", path))?;
    file.sync_all().map_err(DiskError::at("sync", path))?;
    Ok(())
}

/// Compares the digest with what is before it.
pub fn verify_digest(file_system: &dyn FileSystem, path: &Path) -> Result<(), BoltError> {
    let fail = |reason| BoltError::Checksum { path: path.to_owned(), reason };
    let file = file_system.open(path, OpenMode::Read).map_err(DiskError::at("open", path))?;
    let length = file.length().map_err(DiskError::at("read", path))?;
    if !has_digest(length) {
        return Err(fail("snapshot missing hash"));
    }
    let count = length - DIGEST_BYTES as u64;
    let mut stored = [0; DIGEST_BYTES];
    let read = file.read_at(count, &mut stored).map_err(DiskError::at("read", path))?;
    if read < DIGEST_BYTES || digest(&*file, path, count)? != stored {
        return Err(fail("the snapshot's SHA-256 is another"));
    }
    Ok(())
}

/// What `snapshot status` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// CRC-32C of the names, keys and values of all buckets.
    pub hash: u32,
    pub revision: i64,
    /// Keys that exist at the last revision.
    pub total_keys: u64,
    /// Bytes of all pages.
    pub total_bytes: u64,
    /// The storage version; empty in a file of etcd 3.5 or older.
    pub version: String,
}

/// Reads a whole file, checks that its pages are well, and sums it up. The memory is that of the keys.
///
/// # Errors
/// Also if records of bucket `key` are not revisions with their `KeyValue`.
pub fn status(file: &BoltFile) -> Result<SnapshotStatus, BoltError> {
    let mut status = SnapshotStatus { total_bytes: file.size_bytes(), ..SnapshotStatus::default() };
    let mut keys: HashSet<Vec<u8>> = HashSet::new();
    // The names of the buckets that lead to an entry; the second and later ones are buckets within buckets.
    let mut depth = 0;
    let mut bucket = Vec::new();
    let fail = |reason: String| BoltError::malformed(file.path(), 0, reason);
    file.walk(true, |step| {
        match step {
            Walk::Begin { name, .. } => {
                depth += 1;
                if depth <= 2 {
                    status.hash = crc32c::crc32c_append(status.hash, name);
                }
                if depth == 1 {
                    bucket = name.to_owned();
                }
            }
            Walk::End => depth -= 1,
            Walk::Entry { .. } if depth == 0 => return Err(fail("an entry outside of all buckets".to_owned())),
            Walk::Entry { key, value } if depth == 1 => {
                status.hash = crc32c::crc32c_append(crc32c::crc32c_append(status.hash, key), value);
                match &bucket[..] {
                    b"key" => count_key(&mut status, &mut keys, key, value).map_err(fail)?,
                    b"meta" if key == b"storageVersion" => {
                        status.version = canonical_version(&String::from_utf8_lossy(value)).unwrap_or_default();
                    }
                    _ => {}
                }
            }
            Walk::Entry { .. } => {}
        }
        Ok(())
    })?;
    status.total_keys = keys.len() as u64;
    Ok(status)
}

/// A semantic version as etcd prints it after reading it; `None` if it is none.
fn canonical_version(text: &str) -> Option<String> {
    let (text, metadata) = text.split_once('+').map_or((text, None), |(text, rest)| (text, Some(rest)));
    let (text, release) = text.split_once('-').map_or((text, None), |(text, rest)| (text, Some(rest)));
    let mut numbers = text.splitn(3, '.').map(|number| number.parse::<i64>().ok());
    let (major, minor, patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let mut version = format!("{major}.{minor}.{patch}");
    for (sign, part) in [('-', release), ('+', metadata)] {
        let Some(part) = part.filter(|part| !part.is_empty()) else { continue };
        if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)) {
            return None;
        }
        version.push(sign);
        version.push_str(part);
    }
    Some(version)
}

fn count_key(status: &mut SnapshotStatus, keys: &mut HashSet<Vec<u8>>, key: &[u8], value: &[u8]) -> Result<(), String> {
    let hex = || key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (revision, tombstone) =
        kvorum_store::Revision::from_key(key).ok_or_else(|| format!("{} is no revision", hex()))?;
    status.revision = revision.main;
    let record = kvorum_api::mvccpb::KeyValue::decode(value)
        .map_err(|error| format!("revision {}: not a KeyValue: {error}", hex()))?;
    if tombstone {
        keys.remove(&record.key[..]);
    } else {
        keys.insert(record.key.to_vec());
    }
    Ok(())
}
