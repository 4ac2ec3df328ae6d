//! `hashkv`: etcd's hash of the history in a database or snapshot file. The file is only read; the store's own code
//! hashes it.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use kvorum_disk::RealFileSystem;
use kvorum_disk::bolt::{BoltBucket, BoltError, BoltFile};
use kvorum_store::{Backend, BackendError, Bucket, CommitBatch, HashKv, ReadError, ReadTransaction, StoreConfig};
use serde::Serialize;

use super::{OutputFormat, WRITE_OUT, failed, locked_file, output_format, stat};
use crate::command::{EXIT_ERROR, Failure, Flag, Parsed};
use crate::print;

const REVISION: Flag = Flag::number("rev", "maximum revision to hash (default: latest revision)").or("0");
pub(super) const FLAGS: &[Flag] = &[REVISION];

/// As etcdutl's JSON has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HashJson {
    hash: u32,
    hash_revision: i64,
    compact_revision: i64,
}

pub(super) fn hash_kv(parsed: &Parsed) -> Result<String, Failure> {
    let [path] = &parsed.operands[..] else {
        let text = format!("accepts 1 arg(s), received {}", parsed.operands.len());
        return Err(Failure::new(EXIT_ERROR, text));
    };
    let revision = parsed.number(&REVISION);
    // A format that is known and cannot show it is found out last, as in etcdutl.
    let format = match output_format(parsed) {
        Err(failure) if parsed.value(&WRITE_OUT) != "protobuf" => return Err(failure),
        format => format,
    };
    let path = Path::new(path.os_text());
    stat(path)?;
    let _locked = locked_file(path)?;
    let file = BoltFile::open(&RealFileSystem, path).map_err(|error| failed(&error))?;
    let config = StoreConfig {
        member_id: 0,
        value_budget_bytes: 0,
        quota_bytes: None,
        lease_ttl_seconds_min: 1,
        lease_checkpoint_persist: false,
        learners_max: 1,
    };
    let backend: Arc<dyn Backend> = Arc::new(FileBackend(file));
    let (_, reader, _) = kvorum_store::open(config, backend).map_err(|error| failed(&error))?;
    let hashed = reader.hash_kv(revision).map_err(|error| match error {
        ReadError::Compacted => failed(&"mvcc: required revision has been compacted"),
        ReadError::FutureRevision => failed(&"mvcc: required revision is a future revision"),
        error => failed(&error),
    })?;
    Ok(show(&hashed, format?))
}

fn show(hashed: &HashKv, format: OutputFormat) -> String {
    let HashKv { hash, compact_revision, hash_revision, .. } = *hashed;
    let row = || vec![hash.to_string(), hash_revision.to_string(), compact_revision.to_string()];
    match format {
        OutputFormat::Simple => row().join(", ") + "\n",
        OutputFormat::Table => print::table(&["hash", "hash revision", "compact revision"], &[row()]),
        OutputFormat::Fields => format!(
            "\"Hash\" : {hash}\n\"Hash revision\" : {hash_revision}\n\"Compact revision\" : {compact_revision}\n"
        ),
        OutputFormat::Json => {
            let json = HashJson { hash, hash_revision, compact_revision };
            serde_json::to_string(&json).expect("numbers can be written") + "\n"
        }
    }
}

/// A bbolt file as what the store reads from.
struct FileBackend(BoltFile);

impl Backend for FileBackend {
    fn read(
        &self,
        action: &mut dyn FnMut(&dyn ReadTransaction) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        action(&FileTransaction(&self.0))
    }

    fn commit(&self, _: &CommitBatch) -> Result<(), BackendError> {
        Err(BackendError(format!("{} is only read", self.0.path().display())))
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn size_in_use_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
}

struct FileTransaction<'f>(&'f BoltFile);

fn read_error(error: BoltError) -> BackendError {
    BackendError(error.to_string())
}

impl FileTransaction<'_> {
    fn bucket(&self, bucket: Bucket) -> Result<Option<BoltBucket>, BackendError> {
        self.0.bucket(bucket.name().as_bytes()).map_err(read_error)
    }
}

impl ReadTransaction for FileTransaction<'_> {
    fn fetch(&self, bucket: Bucket, key: &[u8], receive: &mut dyn FnMut(&[u8])) -> Result<bool, BackendError> {
        let Some(bucket) = self.bucket(bucket)? else { return Ok(false) };
        let mut cursor = self.0.cursor(&bucket);
        if !cursor.seek(key).map_err(read_error)? {
            return Ok(false);
        }
        let entry = cursor.entry().map_err(read_error)?.filter(|entry| entry.key == key);
        if let Some(entry) = &entry {
            receive(entry.value);
        }
        Ok(entry.is_some())
    }

    fn scan(
        &self,
        bucket: Bucket,
        from: &[u8],
        until: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), BackendError> {
        let Some(bucket) = self.bucket(bucket)? else { return Ok(()) };
        let mut cursor = self.0.cursor(&bucket);
        let mut is_there = cursor.seek(from).map_err(read_error)?;
        while is_there {
            let Some(entry) = cursor.entry().map_err(read_error)? else { break };
            if until.is_some_and(|until| entry.key >= until) || visit(entry.key, entry.value).is_break() {
                break;
            }
            is_there = cursor.advance().map_err(read_error)?;
        }
        Ok(())
    }
}
