//! A directory that etcd wrote becomes ours: its database becomes the first environment of the backend.
//!
//! The steps: check everything that can be checked by reading; build the environment under a temporary name; compare it
//! with the database and make it durable, with a mark inside that it was taken over; give it its name; remove etcd's
//! database; remove the mark. A start that is cut off before the name was given begins again; one that is cut off after
//! it only removes the rest.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kvorum_api::raftpb;
use kvorum_store::backend::{Bucket, CommitBatch, Operation};
use kvorum_store::keyspace::meta;

use super::{DirectoryError, Places, lock};
use crate::bolt::BoltFile;
use crate::file::RealFileSystem;
use crate::incoming::database_path;
use crate::lmdb::{LmdbBackend, LmdbOptions};
use crate::wal;
use crate::{DiskError, ExchangeError, FileSystem, Generation, SnapDirectory};

/// Bytes of the log that are looked at together.
const TAIL_BYTES: usize = 16 << 20;

/// What a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Ours, or nothing yet.
    Nothing,
    /// etcd's database, and no backend: [`take_over`].
    Etcd,
    /// A take-over that was cut off behind its change: [`finish`].
    TakenOver,
}

/// How far a take-over is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakeOverStep {
    /// All was checked; this is the database that is read.
    Begun { database: PathBuf, bytes: u64 },
    /// Bytes of keys and values that were copied so far.
    Copied { bytes: u64 },
    /// The new environment is whole, and has no name yet.
    Prepared,
    /// From now on the directory is ours.
    Switched,
    /// etcd's database is gone.
    Removed,
}

/// What is asked of a take-over.
pub struct TakeOver<'a> {
    pub places: &'a Places,
    pub options: LmdbOptions,
    /// Whether an entry that is in the log and not in the database can be applied; else why not.
    pub check_entry: &'a dyn Fn(&raftpb::Entry) -> Result<(), String>,
    /// A configuration as the backend keeps it.
    pub conf_state_json: &'a dyn Fn(&raftpb::ConfState) -> Vec<u8>,
    /// Whether the store can be opened over what was made of the database; else why not.
    pub check_store: &'a dyn Fn(&Generation) -> Result<(), String>,
    pub progress: &'a mut dyn FnMut(TakeOverStep),
}

/// Says what is there, and changes nothing.
///
/// # Errors
/// Two databases, of which none is known to be the right one; or etcd's without a log.
pub fn find(places: &Places) -> Result<Found, DirectoryError> {
    let database = places.database();
    let has_backend = LmdbBackend::exists(&places.backend())?;
    if has_backend && LmdbBackend::has_taken_over_mark(&places.backend())? {
        return Ok(Found::TakenOver);
    }
    if !RealFileSystem.exists(&database).map_err(DiskError::at("look for", &database))? {
        return Ok(Found::Nothing);
    }
    if has_backend {
        let reason = format!(
            "a database of etcd lies beside Kvorum's ({}). Both cannot be right: move away the one that is out of date",
            places.backend().display()
        );
        return Err(DirectoryError::refused(&database, reason));
    }
    if !wal::Wal::exists(&RealFileSystem, &places.wal)? {
        let reason = format!(
            "there is no write-ahead log in {} to go with this database of etcd: name the log's folder with --wal-dir, or \
             restore a snapshot into a new data folder",
            places.wal.display()
        );
        return Err(DirectoryError::refused(&database, reason));
    }
    Ok(Found::Etcd)
}

/// Takes the directory over. The caller keeps other members out of it.
pub fn take_over(request: TakeOver<'_>) -> Result<(), DirectoryError> {
    let TakeOver { places, options, check_entry, conf_state_json, check_store, progress } = request;
    let database = places.database();
    // etcd holds it while it runs.
    let _lock = lock(&database, "etcd")?;
    let file = source(places)?;
    check_log(places, &file, check_entry)?;
    let missing = missing_configuration(places, &file)?;
    progress(TakeOverStep::Begun { database: file.path().to_owned(), bytes: file.size_bytes() });
    let complete = |generation: &Generation| {
        if let Some(conf_state) = &missing {
            let (key, value) = (meta::CONF_STATE.into(), conf_state_json(conf_state).into());
            let operations = vec![Operation::Put { bucket: Bucket::Meta, key, value }];
            let committed = generation.commit(&CommitBatch { sequence: 1, operations });
            committed.map_err(|error| error.to_string())?;
        }
        check_store(generation)
    };
    LmdbBackend::adopt(&places.backend(), &file, options, &complete, &mut |step| progress(step)).map_err(|error| {
        match error {
            ExchangeError::Unstorable(reason) => DirectoryError::refused(file.path(), reason),
            error => error.into(),
        }
    })?;
    progress(TakeOverStep::Switched);
    finish(places)?;
    progress(TakeOverStep::Removed);
    Ok(())
}

/// Removes what a take-over has no use for any more. May be repeated.
pub fn finish(places: &Places) -> Result<(), DirectoryError> {
    let folder = places.snapshots();
    let names = RealFileSystem.list(&folder).map_err(DiskError::at("list", &folder))?;
    for name in names.iter().filter(|name| *name == "db" || name.ends_with(".snap.db")) {
        let path = folder.join(name);
        match RealFileSystem.remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(DiskError::at("remove", &path))?,
        }
    }
    RealFileSystem.sync_directory(&folder).map_err(DiskError::at("sync", &folder))?;
    LmdbBackend::clear_taken_over_mark(&places.backend())?;
    Ok(())
}

/// The database that etcd would start from: `db`, or the one that came with a snapshot that `db` is behind of.
fn source(places: &Places) -> Result<BoltFile, DirectoryError> {
    let path = places.database();
    let file = BoltFile::open(&RealFileSystem, &path)?;
    let known = wal::valid_snapshot_entries(&RealFileSystem, &places.wal)?;
    let newest = known.iter().map(|snapshot| snapshot.index).max().unwrap_or(0);
    let index = consistent_index(&file)?;
    if index >= newest {
        return Ok(file);
    }
    let received = database_path(&places.snapshots(), newest);
    if !RealFileSystem.exists(&received).map_err(DiskError::at("look for", &received))? {
        let reason = format!(
            "it holds entries up to {index}, and the log begins behind {newest}: the database of that snapshot ({}) is \
             missing. Join the member to its cluster anew, or restore a snapshot",
            received.display()
        );
        return Err(DirectoryError::refused(&path, reason));
    }
    let file = BoltFile::open(&RealFileSystem, &received)?;
    let index = consistent_index(&file)?;
    if index < newest {
        let reason = format!("it holds entries up to {index}, and should hold those up to {newest}");
        return Err(DirectoryError::refused(&received, reason));
    }
    Ok(file)
}

/// The log must go on where the database ends, and hold nothing behind it that cannot be applied.
fn check_log(
    places: &Places,
    file: &BoltFile,
    check_entry: &dyn Fn(&raftpb::Entry) -> Result<(), String>,
) -> Result<(), DirectoryError> {
    check_version(file)?;
    let index = consistent_index(file)?;
    let snapshots = wal::valid_snapshot_entries(&RealFileSystem, &places.wal)?;
    let read = |from, until, bytes| wal::read_entries(&RealFileSystem, &places.wal, from, until, bytes);
    let is_known = index == 0
        || snapshots.iter().any(|snapshot| snapshot.index == index)
        || !read(index, index + 1, 1)?.is_empty();
    if !is_known {
        let reason = format!(
            "the log does not hold entry {index}, up to which {} stands: log and database do not belong together",
            file.path().display()
        );
        return Err(DirectoryError::refused(&places.wal, reason));
    }
    let mut next = index + 1;
    loop {
        let entries = read(next, u64::MAX, TAIL_BYTES)?;
        let Some(last) = entries.last() else { return Ok(()) };
        next = last.index() + 1;
        for entry in &entries {
            check_entry(entry)
                .map_err(|reason| DirectoryError::refused(&places.wal, format!("entry {}: {reason}", entry.index())))?;
        }
    }
}

/// etcd says which release's form its database has since 3.6; 3.5 is known by the term that it stores with an index.
fn check_version(file: &BoltFile) -> Result<(), DirectoryError> {
    let Some(version) = meta_value(file, meta::STORAGE_VERSION)? else {
        if consistent_index(file)? == 0 || meta_value(file, meta::TERM)?.is_some() {
            return Ok(());
        }
        let reason = "it was written by etcd 3.4 or older. Start etcd 3.5 on it first, stop that, and try again";
        return Err(DirectoryError::refused(file.path(), reason));
    };
    let text = String::from_utf8_lossy(&version).into_owned();
    if text.starts_with("3.6.") || text.starts_with("3.7.") {
        return Ok(());
    }
    let reason = format!(
        "its storage version is {text:?}; those of etcd 3.5 to 3.7 can be taken over. Bring it to 3.7 first: `etcdutl \
         migrate --target-version 3.7`, or a downgrade of the cluster"
    );
    Err(DirectoryError::refused(file.path(), reason))
}

/// The configuration that the database lacks: etcd stores it there since 3.5, but only with the next change of members. So it is
/// still that of the newest snapshot.
fn missing_configuration(places: &Places, file: &BoltFile) -> Result<Option<raftpb::ConfState>, DirectoryError> {
    let index = consistent_index(file)?;
    if index == 0 || meta_value(file, meta::CONF_STATE)?.is_some() {
        return Ok(None);
    }
    let known = wal::valid_snapshot_entries(&RealFileSystem, &places.wal)?;
    let known: Vec<_> = known.into_iter().filter(|snapshot| snapshot.index <= index).collect();
    let newest = SnapDirectory::read_newest(Arc::new(RealFileSystem), &places.snapshots(), &known)?;
    let Some(newest) = newest else {
        let reason = "it does not say who the members are, and no snapshot file does. Start etcd 3.5 or later on it until it \
                      has saved a snapshot (--snapshot-count 1 and a few writes), stop it, and try again";
        return Err(DirectoryError::refused(file.path(), reason));
    };
    let mut next = newest.index + 1;
    while next <= index {
        let entries = wal::read_entries(&RealFileSystem, &places.wal, next, index + 1, TAIL_BYTES)?;
        let Some(last) = entries.last() else { break };
        next = last.index() + 1;
        if let Some(entry) = entries.iter().find(|entry| entry.r#type() != raftpb::EntryType::EntryNormal) {
            let reason = format!(
                "it does not say who the members are, and they changed behind the newest snapshot, in entry {}. Start etcd 3.5 \
                 or later on it once, stop it, and try again",
                entry.index()
            );
            return Err(DirectoryError::refused(file.path(), reason));
        }
    }
    Ok(Some(newest.conf_state))
}

fn consistent_index(file: &BoltFile) -> Result<u64, DirectoryError> {
    let Some(value) = meta_value(file, meta::CONSISTENT_INDEX)? else { return Ok(0) };
    meta::parse_number(&value)
        .map_err(|reason| DirectoryError::refused(file.path(), format!("consistent_index: {reason}")))
}

fn meta_value(file: &BoltFile, key: &[u8]) -> Result<Option<Vec<u8>>, DirectoryError> {
    let Some(bucket) = file.bucket(b"meta")? else {
        let reason = "it has no bucket \"meta\": it is no database of etcd's. Nothing was changed";
        return Err(DirectoryError::refused(file.path(), reason));
    };
    let mut cursor = file.cursor(&bucket);
    if !cursor.seek(key)? {
        return Ok(None);
    }
    Ok(cursor.entry()?.filter(|entry| entry.key == key).map(|entry| entry.value.to_vec()))
}
