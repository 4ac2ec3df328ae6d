//! `snapshot restore`: a new data directory of Kvorum's from a snapshot file of Kvorum's or etcd's.
//!
//! The database is read and checked whole before anything gets its final name. The directory is built beside its place
//! and renamed at the end, then the log if it belongs elsewhere: whatever is cut off leaves nothing that a member starts
//! from. Nothing that is there is ever written over.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_api::raftpb::ConfState;
use kvorum_disk::bolt::{BoltFile, snapshot};
use kvorum_disk::directory::Places;
use kvorum_disk::lmdb::{LmdbOptions, import_bolt};
use kvorum_disk::wal::WalSnapshot;
use kvorum_disk::{
    DiskError, FileSystem, Generation, HardState, RealFileSystem, SnapDirectory, SnapshotFile, Wal, WalEntry,
    WalMetadata, WalOptions, create_durable_directories,
};
use kvorum_node::bootstrap::{BOOTSTRAP_TERM, BootstrapMember, bootstrap_entries};
use kvorum_node::member::conf_state_json;
use kvorum_server::cluster::addresses::SystemResolver;
use kvorum_server::cluster::forming;
use kvorum_server::config::Config;
use kvorum_server::ids;
use kvorum_server::urls;
use kvorum_store::keyspace::{members, meta};
use kvorum_store::{Bucket, CommitBatch, Member, Membership, Operation, Revision, membership_v2_json};

use super::{failed, note};
use crate::command::{EXIT_BAD_ARGUMENTS, EXIT_ERROR, Failure, Flag, Parsed};

pub(super) const DATA_DIRECTORY: Flag = Flag::text("data-dir", "Path to the output data directory");
const WAL_DIRECTORY: Flag = Flag::text("wal-dir", "Path to the WAL directory (use --data-dir if none given)");
const CLUSTER: Flag = Flag::text("initial-cluster", "Initial cluster configuration for restore bootstrap")
    .or("default=http://localhost:2380");
const TOKEN: Flag =
    Flag::text("initial-cluster-token", "Initial cluster token for the cluster during restore bootstrap")
        .or("etcd-cluster");
const PEER_URLS: Flag = Flag::text(
    "initial-advertise-peer-urls",
    "List of this member's peer URLs to advertise to the rest of the cluster",
)
.or("http://localhost:2380");
const NAME: Flag = Flag::text("name", "Human-readable name for this member").or("default");
const SKIP_HASH: Flag =
    Flag::switch("skip-hash-check", "Ignore snapshot integrity hash value (required if copied from data directory)");
const MAP_SIZE: Flag =
    Flag::count("initial-memory-map-size", "Taken and not needed: the map grows with the database").or("10737418240");
const BUMP: Flag = Flag::count("bump-revision", "How much to increase the latest revision after restore").or("0");
const MARK: Flag = Flag::switch(
    "mark-compacted",
    "Mark the latest revision after restore as the point of scheduled compaction (required if --bump-revision > 0, \
     disallowed otherwise)",
);

pub(super) const FLAGS: &[Flag] =
    &[DATA_DIRECTORY, WAL_DIRECTORY, CLUSTER, TOKEN, PEER_URLS, NAME, SKIP_HASH, MAP_SIZE, BUMP, MARK];

pub(super) fn restore(parsed: &Parsed) -> Result<String, Failure> {
    let [file] = &parsed.operands[..] else {
        return Err(Failure::new(EXIT_BAD_ARGUMENTS, "snapshot restore requires exactly one argument"));
    };
    let bump = parsed.count(&BUMP);
    let mark = parsed.is_set(&MARK);
    if (bump > 0) != mark {
        return Err(Failure::new(EXIT_BAD_ARGUMENTS, "--mark-compacted required if --revision-bump > 0"));
    }
    let name = parsed.value(&NAME);
    let data = match parsed.value(&DATA_DIRECTORY) {
        "" => PathBuf::from(format!("{name}.etcd")),
        path => PathBuf::from(path),
    };
    let wal = Some(parsed.value(&WAL_DIRECTORY)).filter(|path| !path.is_empty()).map(PathBuf::from);
    let founders = founders(parsed)?;
    let request = Restore {
        file: Path::new(file.os_text()),
        skip_hash: parsed.is_set(&SKIP_HASH),
        bump,
        name,
        founders,
        data: &data,
        wal: wal.as_deref(),
    };
    let places = Places::new(&data, wal.as_deref());
    let fields = [
        ("path", file.to_string()),
        ("wal-dir", places.wal.display().to_string()),
        ("data-dir", data.display().to_string()),
    ];
    request.check_places()?;
    note("restoring snapshot", &fields);
    request.run()?;
    note("restored snapshot", &fields);
    Ok(String::new())
}

/// The members that the flags name, by the rules of a member that founds a cluster.
fn founders(parsed: &Parsed) -> Result<Vec<Member>, Failure> {
    let advertised = urls::parse_list(parsed.value(&PEER_URLS)).map_err(|error| failed(&error))?;
    let config = Config {
        name: parsed.value(&NAME).to_owned(),
        initial_advertise_peer_urls: advertised,
        initial_cluster: parsed.value(&CLUSTER).to_owned(),
        initial_cluster_token: parsed.value(&TOKEN).to_owned(),
        ..Config::default()
    };
    forming::founding(&config, &SystemResolver).map(|founding| founding.members).map_err(|error| failed(&error))
}

struct Restore<'a> {
    file: &'a Path,
    skip_hash: bool,
    /// How far the revision is counted on and marked as compacted; 0: not at all.
    bump: u64,
    name: &'a str,
    /// Sorted by id.
    founders: Vec<Member>,
    data: &'a Path,
    wal: Option<&'a Path>,
}

impl Restore<'_> {
    fn check_places(&self) -> Result<(), Failure> {
        if std::fs::read_dir(self.data).is_ok_and(|mut names| names.next().is_some()) || self.data.is_file() {
            let text = format!("data-dir {:?} not empty or could not be read", self.data.display().to_string());
            return Err(Failure::new(EXIT_ERROR, text));
        }
        if let Some(wal) = self.wal.filter(|wal| wal.exists()) {
            return Err(Failure::new(EXIT_ERROR, format!("wal-dir {:?} exists", wal.display().to_string())));
        }
        Ok(())
    }

    fn run(&self) -> Result<(), Failure> {
        let database = self.open_snapshot()?;
        let temporary = with_suffix(self.data);
        let temporary_wal = self.wal.map(with_suffix);
        let is_built = self.build(&database, &temporary, temporary_wal.as_deref());
        let is_moved =
            is_built.and_then(|()| self.move_in(&temporary, temporary_wal.as_deref()).map_err(|error| failed(&error)));
        if is_moved.is_err() {
            // The error tells more; the next attempt removes what stays.
            for folder in [Some(&temporary), temporary_wal.as_ref()].into_iter().flatten() {
                drop(RealFileSystem.remove_directory(folder));
            }
        }
        is_moved
    }

    fn open_snapshot(&self) -> Result<BoltFile, Failure> {
        let path = self.file.display();
        std::fs::metadata(self.file).map_err(|error| {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
            Failure::new(EXIT_ERROR, format!("open {path}: {text}"))
        })?;
        let damaged = |error: &dyn std::fmt::Display| {
            let text = format!("{error}. The file is no snapshot, or damaged or cut off: take another one");
            Failure::new(EXIT_ERROR, text)
        };
        if !self.skip_hash {
            let length = std::fs::metadata(self.file).map_err(|error| failed(&error))?.len();
            if !snapshot::has_digest(length) {
                let text = format!(
                    "snapshot missing hash but --skip-hash-check=false ({path}): it was copied from a data directory, or \
                     is cut off"
                );
                return Err(Failure::new(EXIT_ERROR, text));
            }
            snapshot::verify_digest(&RealFileSystem, self.file).map_err(|error| damaged(&error))?;
        }
        BoltFile::open(&RealFileSystem, self.file).map_err(|error| damaged(&error))
    }

    fn build(&self, database: &BoltFile, data: &Path, wal: Option<&Path>) -> Result<(), Failure> {
        for folder in [Some(data), wal].into_iter().flatten() {
            match RealFileSystem.remove_directory(folder) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                result => result.map_err(DiskError::at("remove", folder)).map_err(|error| failed(&error))?,
            }
        }
        let places = Places::new(data, wal);
        create_durable_directories(&RealFileSystem, &places.snapshots()).map_err(|error| failed(&error))?;
        let generation = import_bolt(database, &places.backend(), LmdbOptions::default()).map_err(|error| {
            Failure::new(EXIT_ERROR, format!("{error}. Nothing was restored: take another snapshot"))
        })?;
        let operations = self.changes(&generation)?;
        generation.commit(&CommitBatch { sequence: 1, operations }).map_err(|error| failed(&error))?;
        drop(generation);
        self.write_log(&places)
    }

    /// What makes the database that of a new cluster: its members, its place in the new log, and how far revisions count.
    fn changes(&self, generation: &Generation) -> Result<Vec<Operation>, Failure> {
        let mut operations = Vec::new();
        for bucket in [Bucket::Members, Bucket::MembersRemoved] {
            let read = generation.read(&mut |transaction| {
                transaction.scan(bucket, &[], None, &mut |key, _| {
                    operations.push(Operation::Delete { bucket, key: key.into() });
                    ControlFlow::Continue(())
                })
            });
            read.map_err(|error| failed(&error))?;
        }
        let mut put = |bucket, key: &[u8], value: Box<[u8]>| {
            operations.push(Operation::Put { bucket, key: key.into(), value });
        };
        for member in &self.founders {
            put(Bucket::Members, &members::key(member.id), members::value(member));
        }
        put(Bucket::Meta, meta::CONSISTENT_INDEX, meta::number(self.founders.len() as u64));
        put(Bucket::Meta, meta::TERM, meta::number(BOOTSTRAP_TERM));
        put(Bucket::Meta, meta::CONF_STATE, conf_state_json(&self.conf_state()).into());
        if self.bump > 0 {
            self.bump(generation, &mut operations)?;
        }
        Ok(operations)
    }

    /// As etcdutl does it: a revision without content, and a compaction scheduled at it.
    fn bump(&self, generation: &Generation, operations: &mut Vec<Operation>) -> Result<(), Failure> {
        let latest = latest_revision(generation).map_err(|error| failed(&error))?;
        let bumped = i64::try_from(self.bump).ok().and_then(|bump| latest.checked_add(bump)).ok_or_else(|| {
            Failure::new(EXIT_BAD_ARGUMENTS, format!("--bump-revision {}: revisions do not reach so far", self.bump))
        })?;
        note(
            "bumping latest revision",
            &[("latest-revision", latest.to_string()), ("new-latest-revision", bumped.to_string())],
        );
        let value = Vec::new().into();
        operations.push(Operation::AppendRevision { revision: Revision::new(bumped, 0), tombstone: false, value });
        let (key, value) = (meta::SCHEDULED_COMPACTION.into(), meta::compaction(bumped));
        operations.push(Operation::Put { bucket: Bucket::Meta, key, value });
        note("marking revision compacted", &[("revision", bumped.to_string())]);
        Ok(())
    }

    fn conf_state(&self) -> ConfState {
        let voters = self.founders.iter().map(|member| member.id).collect();
        ConfState { voters, auto_leave: Some(false), ..ConfState::default() }
    }

    /// The log of a cluster whose founding is committed, and a snapshot behind it.
    fn write_log(&self, places: &Places) -> Result<(), Failure> {
        let ids: Vec<u64> = self.founders.iter().map(|member| member.id).collect();
        let own = self.founders.iter().find(|member| member.name == self.name);
        let own = own.expect("the rules of a founding demand it").id;
        let members: Vec<BootstrapMember> = self
            .founders
            .iter()
            .map(|Member { id, name, peer_urls, .. }| BootstrapMember {
                id: *id,
                name: name.clone(),
                peer_urls: peer_urls.clone(),
            })
            .collect();
        let entries = bootstrap_entries(&members);
        let entries: Vec<WalEntry<'_>> = entries
            .iter()
            .map(|entry| WalEntry { entry_type: entry.kind, term: entry.term, index: entry.index, data: &entry.data })
            .collect();
        let (index, term) = (ids.len() as u64, BOOTSTRAP_TERM);
        let metadata = WalMetadata { node_id: own, cluster_id: ids::cluster_id(&ids) };
        let file_system: Arc<dyn FileSystem> = Arc::new(RealFileSystem);
        let mut log = Wal::create(Arc::clone(&file_system), &places.wal, metadata, WalOptions::default())
            .map_err(|error| failed(&error))?;
        let hard_state = HardState { term, vote: ids[0], commit: index };
        let written = log.append(&entries, Some(&hard_state)).and_then(|_| log.sync());
        written.map_err(|error| failed(&error))?;
        let by_id = self.founders.iter().map(|member| (member.id, member.clone())).collect();
        let membership = Membership { members: by_id, ..Membership::default() };
        let snap = SnapDirectory::open(file_system, &places.snapshots()).map_err(|error| failed(&error))?;
        let conf_state = self.conf_state();
        let data = membership_v2_json(&membership).into();
        snap.save(&SnapshotFile { index, term, conf_state: conf_state.clone(), data })
            .map_err(|error| failed(&error))?;
        log.save_snapshot(&WalSnapshot { index, term, conf_state: Some(conf_state) })
            .map_err(|error| failed(&error))?;
        Ok(())
    }

    /// The data folder first: a member refuses to start on one without its log.
    fn move_in(&self, data: &Path, wal: Option<&Path>) -> Result<(), DiskError> {
        for (source, target) in [(Some(data), Some(self.data)), (wal, self.wal)] {
            let (Some(source), Some(target)) = (source, target) else { continue };
            RealFileSystem.rename(source, target).map_err(DiskError::at("rename", source))?;
            let parent = target.parent().unwrap_or(Path::new(""));
            RealFileSystem.sync_directory(parent).map_err(DiskError::at("sync", parent))?;
        }
        Ok(())
    }
}

fn with_suffix(path: &Path) -> PathBuf {
    // Without a slash at its end, which would make it a name within the folder.
    let mut name = path.components().as_path().as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// The main number of the last revision; 0 if there is none.
fn latest_revision(generation: &Generation) -> Result<i64, kvorum_store::BackendError> {
    // The last that is there, found by halving: there is no way to ask for it.
    let (mut low, mut high) = (0_i64, i64::MAX);
    while low < high {
        let middle = low + (high - low) / 2 + 1;
        let mut found = None;
        generation.read(&mut |transaction| {
            transaction.scan(Bucket::Key, &Revision::new(middle, 0).to_key(), None, &mut |key, _| {
                found = Revision::from_key(key).map(|(revision, _)| revision.main);
                ControlFlow::Break(())
            })
        })?;
        match found {
            Some(main) => low = main,
            None => high = middle - 1,
        }
    }
    Ok(low)
}
