//! Commands that work on a data directory of a member that does not run: `defrag`, `migrate`, `export`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_api::etcdserverpb::InternalRaftRequest;
use kvorum_api::raftpb::EntryType;
use kvorum_disk::directory::{self, Places};
use kvorum_disk::lmdb::{LmdbBackend, LmdbOptions, Shrink};
use kvorum_disk::{RealFileSystem, wal};
use kvorum_store::keyspace::meta;
use kvorum_store::{Backend, BackendError, Bucket, CommitBatch, Operation, Version};
use prost::Message;
use rustix::fs::{FlockOperation, flock};

use super::{failed, note};
use crate::command::{EXIT_BAD_ARGUMENTS, EXIT_ERROR, Failure, Flag, Parsed};

/// Keys and values copied at a time.
const SHRINK_SLICE_BYTES: usize = 4 << 20;

/// Bytes of the log that are looked at together.
const LOG_BYTES: usize = 16 << 20;

const DEFRAG_DIRECTORY: Flag = Flag::text("data-dir", "Required. Defragments a data directory not in use.");
pub(super) const DEFRAG_FLAGS: &[Flag] = &[DEFRAG_DIRECTORY];

const MIGRATE_DIRECTORY: Flag = Flag::text("data-dir", "Path to the data dir");
const TARGET_VERSION: Flag = Flag::text(
    "target-version",
    "Target etcd version to migrate contents of data dir. Minimal value 3.5. Format \"X.Y\" for example 3.6.",
);
const FORCE: Flag =
    Flag::switch("force", "Ignore migration failure and forcefully override storage version. Not recommended.");
pub(super) const MIGRATE_FLAGS: &[Flag] = &[MIGRATE_DIRECTORY, TARGET_VERSION, FORCE];

const EXPORT_DIRECTORY: Flag =
    Flag::text("data-dir", "Required. The data directory of a member of Kvorum that does not run.");
const EXPORT_WAL: Flag = Flag::text("wal-dir", "Path to its WAL directory (use --data-dir if none given)");
const EXPORT_TARGET: Flag = Flag::text("to", "Required. The data directory to write, which etcd 3.7 starts from.");
pub(super) const EXPORT_FLAGS: &[Flag] = &[EXPORT_DIRECTORY, EXPORT_WAL, EXPORT_TARGET];

fn required<'p>(parsed: &'p Parsed, flags: &[&Flag]) -> Result<Vec<&'p str>, Failure> {
    let missing: Vec<String> =
        flags.iter().filter(|flag| parsed.value(flag).is_empty()).map(|flag| format!("{:?}", flag.name)).collect();
    if missing.is_empty() {
        return Ok(flags.iter().map(|flag| parsed.value(flag)).collect());
    }
    Err(Failure::new(EXIT_ERROR, format!("required flag(s) {} not set", missing.join(", "))))
}

/// The backend of a member that does not run, and the lock that keeps one from starting.
struct Held {
    backend: Arc<LmdbBackend>,
    places: Places,
    _lock: std::fs::File,
}

fn hold(data: &str) -> Result<Held, Failure> {
    let places = Places::new(Path::new(data), None);
    if !LmdbBackend::exists(&places.backend()).map_err(|error| failed(&error))? {
        let text = match places.database().exists() {
            true => format!(
                "{data} is a data directory of etcd: use etcdutl, or start Kvorum on it once, which takes it over"
            ),
            false => format!("stat {}: no such file or directory", places.backend().display()),
        };
        return Err(Failure::new(EXIT_ERROR, text));
    }
    let lock = std::fs::File::open(data).map_err(|error| failed(&error))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(Failure::new(EXIT_ERROR, format!("{data} is in use: stop the member that runs on it first")));
    }
    let backend = LmdbBackend::open(&places.backend(), LmdbOptions::default()).map_err(|error| failed(&error))?;
    Ok(Held { backend: Arc::new(backend), places, _lock: lock })
}

pub(super) fn defrag(parsed: &Parsed) -> Result<String, Failure> {
    let data = required(parsed, &[&DEFRAG_DIRECTORY])?[0];
    let wrap = |reason: String| Failure::new(EXIT_ERROR, format!("Failed to defragment etcd data[{data}] ({reason})"));
    let held = hold(data).map_err(|failure| wrap(failure.message))?;
    let before = held.backend.size_bytes();
    shrink(&held.backend).map_err(|error| wrap(error.to_string()))?;
    note(
        "finished defragmenting directory",
        &[
            ("path", held.places.backend().display().to_string()),
            ("previous-db-size-bytes", before.to_string()),
            ("current-db-size-bytes", held.backend.size_bytes().to_string()),
        ],
    );
    Ok(String::new())
}

fn shrink(backend: &Arc<LmdbBackend>) -> Result<(), BackendError> {
    let mut shrink = Shrink::begin(backend)?;
    while !shrink.step(SHRINK_SLICE_BYTES)? {}
    shrink.sync()?;
    let prepared = shrink.seal(backend.options())?;
    backend.switch(prepared)?.remove().map(drop)
}

pub(super) fn export(parsed: &Parsed) -> Result<String, Failure> {
    let [data, target] = required(parsed, &[&EXPORT_DIRECTORY, &EXPORT_TARGET])?[..] else {
        unreachable!("as many values as flags");
    };
    let wal = Some(parsed.value(&EXPORT_WAL)).filter(|path| !path.is_empty()).map(PathBuf::from);
    let places = Places::new(Path::new(data), wal.as_deref());
    let exported = directory::export(Path::new(data), &places, Path::new(target)).map_err(|error| failed(&error))?;
    note(
        "exported data directory",
        &[
            ("data-dir", data.to_owned()),
            ("to", target.to_owned()),
            ("consistent-index", exported.consistent_index.to_string()),
            ("db-size-bytes", exported.file_bytes.to_string()),
        ],
    );
    Ok(String::new())
}

pub(super) fn migrate(parsed: &Parsed) -> Result<String, Failure> {
    let [data, target] = required(parsed, &[&MIGRATE_DIRECTORY, &TARGET_VERSION])?[..] else {
        unreachable!("as many values as flags");
    };
    let target = target_version(target)?;
    let held = hold(data)?;
    let current = storage_version(&held.backend)?;
    if current == target {
        note("storage version up-to-date", &[("storage-version", minor_text(target))]);
        return Ok(String::new());
    }
    if let Err(failure) = check_migration(&held, current, target) {
        if !parsed.is_set(&FORCE) {
            return Err(failure);
        }
        note("normal migrate failed, trying with force", &[("error", failure.message)]);
    }
    let key: Box<[u8]> = meta::STORAGE_VERSION.into();
    let change = match target < (3, 6) {
        // Only known since 3.6.
        true => Operation::Delete { bucket: Bucket::Meta, key },
        false => {
            let value = format!("{}.{}.0", target.0, target.1).into_bytes().into();
            Operation::Put { bucket: Bucket::Meta, key, value }
        }
    };
    held.backend.commit(&CommitBatch { sequence: 1, operations: vec![change] }).map_err(|error| failed(&error))?;
    note("updated storage version", &[("new-storage-version", format!("{}.0", minor_text(target)))]);
    Ok(String::new())
}

/// Major and minor version.
type Minor = (i64, i64);

fn minor_text(version: Minor) -> String {
    format!("{}.{}", version.0, version.1)
}

fn target_version(text: &str) -> Result<Minor, Failure> {
    let bad = |reason: String| Failure::new(EXIT_BAD_ARGUMENTS, reason);
    let [major, minor] = text.split('.').collect::<Vec<_>>()[..] else {
        return Err(bad(format!("wrong target version format, expected \"X.Y\", got {text:?}")));
    };
    let parse = |part: &str| {
        part.parse::<i64>().map_err(|_| bad(format!("failed to parse target version: {text:?} is no version")))
    };
    let version = (parse(major)?, parse(minor)?);
    if version < (3, 5) {
        return Err(bad(format!("target version {:?} not supported. Minimal \"3.5\"", minor_text(version))));
    }
    Ok(version)
}

fn storage_version(backend: &LmdbBackend) -> Result<Minor, Failure> {
    let (mut version, mut has_term) = (None, false);
    let read = backend.read(&mut |transaction| {
        transaction.fetch(Bucket::Meta, meta::STORAGE_VERSION, &mut |value| {
            version = Some(String::from_utf8_lossy(value).into_owned());
        })?;
        has_term = transaction.fetch(Bucket::Meta, meta::TERM, &mut |_| {})?;
        Ok(())
    });
    read.map_err(|error| failed(&error))?;
    match version {
        Some(text) => {
            let parsed: Result<Version, _> = text.parse();
            let parsed = parsed.map_err(|_| Failure::new(EXIT_ERROR, format!("storage version {text:?} is none")))?;
            Ok((parsed.major, parsed.minor))
        }
        None if has_term => Ok((3, 5)),
        None => Err(Failure::new(EXIT_ERROR, "cannot detect storage schema version: missing term information")),
    }
}

/// etcd's rules: only versions from 3.5 to this one's, and downwards only if no entry of the log needs a newer one.
fn check_migration(held: &Held, current: Minor, target: Minor) -> Result<(), Failure> {
    const NEWEST: Minor = (3, 7);
    for version in [current, target] {
        if version > NEWEST {
            let text = format!("cannot create migration plan: version \"{}.{}.0\" is not supported", 3, NEWEST.1 + 1);
            return Err(Failure::new(EXIT_ERROR, text));
        }
    }
    let needed = match target < current {
        true => log_version(&held.places)?,
        false => None,
    };
    match needed.filter(|needed| target < *needed) {
        Some(needed) => Err(Failure::new(
            EXIT_ERROR,
            format!(
                "cannot downgrade storage, WAL contains newer entries, as the target version ({}.0) is lower than the \
                 version ({}.0) detected from WAL logs",
                minor_text(target),
                minor_text(needed)
            ),
        )),
        None => Ok(()),
    }
}

/// The release that the entries behind the newest snapshot need, as far as they say.
fn log_version(places: &Places) -> Result<Option<Minor>, Failure> {
    let snapshots = wal::valid_snapshot_entries(&RealFileSystem, &places.wal).map_err(|error| failed(&error))?;
    let mut next = snapshots.iter().map(|snapshot| snapshot.index).max().unwrap_or(0) + 1;
    let mut needed = None;
    loop {
        let entries = wal::read_entries(&RealFileSystem, &places.wal, next, u64::MAX, LOG_BYTES)
            .map_err(|error| failed(&error))?;
        let Some(last) = entries.last() else { return Ok(needed) };
        next = last.index() + 1;
        for entry in &entries {
            needed = needed.max(entry_version(entry));
        }
    }
}

fn entry_version(entry: &kvorum_api::raftpb::Entry) -> Option<Minor> {
    if entry.r#type() != EntryType::EntryNormal || entry.data().is_empty() {
        return None;
    }
    let request = InternalRaftRequest::decode(entry.data()).ok()?;
    if let Some(set) = &request.cluster_version_set {
        let version: Version = set.ver.parse().ok()?;
        return Some((version.major, version.minor));
    }
    if request.downgrade_version_test.is_some() || request.downgrade_info_set.is_some() {
        return Some((3, if request.downgrade_version_test.is_some() { 6 } else { 5 }));
    }
    if request.cluster_member_attr_set.is_some() {
        return Some((3, 5));
    }
    Some((3, 4))
}
