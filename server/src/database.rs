//! Copies of the database in etcd's format, written from one read transaction and then read in pieces, by a thread of
//! their own. A copy is a file without a name in the folder of snapshots: it is gone when it was sent, or is not wanted
//! any more. It never runs on a connection thread, and never holds more than a few pieces.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_disk::lmdb::{ExchangeError, Exported};
use kvorum_disk::{File, LmdbBackend};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use crate::limits::{DATABASE_COPIES_MAX, DATABASE_PIECES_MAX, DATABASE_READ_BYTES};

/// Where copies come from.
pub struct Databases {
    backend: Arc<LmdbBackend>,
    folder: PathBuf,
    turns: Semaphore,
}

/// A copy on its way.
pub enum CopyEvent {
    /// Comes first: what the copy holds, and how many bytes will follow.
    Begun(Exported),
    /// Pieces in their order.
    Piece(Bytes),
    /// Everything was read.
    Ended,
    Failed(String),
}

impl Databases {
    /// `folder` must be one whose files with temporary names are removed at start.
    pub fn new(backend: Arc<LmdbBackend>, folder: PathBuf) -> Self {
        Self { backend, folder, turns: Semaphore::new(DATABASE_COPIES_MAX) }
    }

    pub fn backend(&self) -> &Arc<LmdbBackend> {
        &self.backend
    }

    /// Ready when another copy may be written.
    pub async fn turn(&self) -> SemaphorePermit<'_> {
        self.turns.acquire().await.expect("the semaphore is never closed")
    }

    /// Begins a copy of what the backend has committed. It ends when the receiver is dropped. Without an ending event the
    /// thread could not go on.
    pub fn copy(&self) -> mpsc::Receiver<CopyEvent> {
        let (sender, receiver) = mpsc::channel(DATABASE_PIECES_MAX);
        let (backend, folder) = (Arc::clone(&self.backend), self.folder.clone());
        let work = move || {
            let generation = backend.generation();
            let written = generation.write_bolt_unnamed(&folder, &|| sender.is_closed());
            drop((generation, backend));
            let (file, exported) = match written {
                Ok(written) => written,
                Err(ExchangeError::Cancelled) => return,
                Err(error) => return drop(sender.blocking_send(CopyEvent::Failed(error.to_string()))),
            };
            let length = exported.file_bytes;
            if sender.blocking_send(CopyEvent::Begun(exported)).is_ok() {
                send_pieces(&*file, length, &sender);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("database-copy".to_owned()).spawn(work) {
            tracing::warn!(error = %error, "failed to start a thread for a copy of the database");
        }
        receiver
    }
}

/// Stops when nobody listens any more.
fn send_pieces(file: &dyn File, length: u64, sender: &mpsc::Sender<CopyEvent>) {
    let mut offset = 0;
    while offset < length {
        let wanted = usize::try_from(length - offset).map_or(DATABASE_READ_BYTES, |rest| rest.min(DATABASE_READ_BYTES));
        let mut piece = vec![0; wanted];
        let event = match file.read_at(offset, &mut piece) {
            Ok(read) if read == wanted => CopyEvent::Piece(piece.into()),
            Ok(_) => CopyEvent::Failed("the copy of the database was cut off".to_owned()),
            Err(error) => CopyEvent::Failed(format!("reading the copy of the database: {error}")),
        };
        let failed = matches!(event, CopyEvent::Failed(_));
        if sender.blocking_send(event).is_err() || failed {
            return;
        }
        offset += wanted as u64;
    }
    drop(sender.blocking_send(CopyEvent::Ended));
}
