//! The disk: the only code of this workspace that calls fsync.
//!
//! It writes and reads the write-ahead log ([`wal`], etcd's format), the store's backend ([`lmdb`]), snapshot files
//! ([`snap`]) and databases in bbolt's format ([`bolt`]), opens again what a member left ([`reopen`]), and takes etcd's directories over
//! and writes them ([`directory`]), over a small
//! file trait ([`file`]) that tests and the simulator replace. It knows nothing of consensus or of what an entry means,
//! starts no thread, and never guesses: whatever could not be written or read is an error that names the file. The bytes
//! are drawn in `docs/formats.md`.

pub mod bolt;
pub mod directory;
mod error;
pub mod file;
pub mod incoming;
pub mod lmdb;
pub mod reopen;
pub mod snap;
pub mod wal;

pub use error::DiskError;
pub use file::{File, FileSystem, OpenMode, RealFileSystem, create_durable_directories};
pub use incoming::IncomingDatabase;
pub use lmdb::{
    ExchangeError, Exported, Generation, LmdbBackend, LmdbOptions, PreparedGeneration, RetiredGeneration, Shrink,
};
pub use reopen::{ReopenError, Reopened, reopen};
pub use snap::{SnapDirectory, SnapError, SnapshotFile};
pub use wal::{
    Appended, HardState, Recovered, Repair, Wal, WalEntry, WalMetadata, WalOpenError, WalOptions, WalSnapshot,
};
