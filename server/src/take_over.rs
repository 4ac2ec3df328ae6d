//! A start on a directory that etcd wrote: told about in the log, and done by `disk`. Anything else is left alone.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use kvorum_api::raftpb;
use kvorum_api::raftpb::EntryType;
use kvorum_disk::Generation;
use kvorum_disk::directory::{self, DirectoryError, Found, Places, TakeOver, TakeOverStep};
use kvorum_disk::lmdb::LmdbOptions;
use kvorum_node::member::conf_state_json;
use kvorum_store::{Received, StoreConfig};

use crate::config::Config;
use crate::opening::check_stored_versions;
use crate::start::StartError;

/// Time between two words about the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Makes the directory ours if it is etcd's. The caller keeps other members out of it.
pub fn settle(config: &Config) -> Result<(), StartError> {
    let places = Places { member: config.member_dir(), wal: config.effective_wal_dir() };
    let failed = |error: DirectoryError| StartError::new("taking over the data of etcd", error);
    match directory::find(&places).map_err(failed)? {
        Found::Nothing => Ok(()),
        Found::TakenOver => {
            tracing::info!("a take-over of etcd's data was cut off behind its end; removing etcd's database");
            directory::finish(&places).map_err(failed)?;
            make_all_private(&places);
            Ok(())
        }
        Found::Etcd => {
            let began = Instant::now();
            let (mut total, mut told) = (0, Instant::now());
            let mut progress = |step| match step {
                TakeOverStep::Begun { database, bytes } => {
                    total = bytes;
                    tracing::info!(path = %database.display(), bytes, "taking over the data of etcd");
                }
                TakeOverStep::Copied { bytes } => {
                    if told.elapsed() >= PROGRESS_INTERVAL {
                        told = Instant::now();
                        tracing::info!(bytes, of = total, "taking over: copied");
                    }
                }
                TakeOverStep::Prepared => tracing::info!("taking over: the copy is whole and compared"),
                TakeOverStep::Switched => tracing::info!("taking over: removing etcd's database"),
                TakeOverStep::Removed => tracing::info!(took = ?began.elapsed(), "took over the data of etcd"),
            };
            directory::take_over(TakeOver {
                places: &places,
                options: LmdbOptions { unsafe_no_fsync: config.unsafe_no_fsync },
                check_entry: &check_entry,
                conf_state_json: &conf_state_json,
                check_store: &|generation| {
                    check_stored_versions(generation, &places.database())?;
                    check_store(config, generation)
                },
                progress: &mut progress,
            })
            .map_err(failed)?;
            make_all_private(&places);
            Ok(())
        }
    }
}

/// Takes from others what etcd lets them do with its files (it writes `.snap` files for all to read). Their folders are
/// private, so that a failure is told and no more.
fn make_all_private(places: &Places) {
    for folder in [&places.member, &places.wal] {
        if let Err(error) = make_private(folder) {
            tracing::warn!(path = %folder.display(), error = %error, "files that etcd wrote stay readable for others");
        }
    }
}

fn make_private(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, metadata) = (entry.path(), entry.metadata()?);
        if metadata.is_dir() {
            make_private(&path)?;
        } else if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
            std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        }
    }
    Ok(())
}

/// Reads the whole store as the start will.
fn check_store(config: &Config, generation: &Generation) -> Result<(), String> {
    let store = StoreConfig {
        member_id: 0,
        value_budget_bytes: 0,
        quota_bytes: None,
        lease_ttl_seconds_min: 1,
        lease_checkpoint_persist: config.feature_gates.lease_checkpoint_persist,
        learners_max: usize::MAX,
    };
    Received::read(&store, generation).map(drop).map_err(|error| error.to_string())
}

fn check_entry(entry: &raftpb::Entry) -> Result<(), String> {
    match (entry.r#type(), &entry.data) {
        (EntryType::EntryNormal, Some(data)) if !data.is_empty() => kvorum_store::check_entry_data(data),
        _ => Ok(()),
    }
}
