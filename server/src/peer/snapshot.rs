//! Databases between members: the message, then the database's bytes, in the body of one POST. Neither direction holds
//! more than a few pieces in memory; files are read and written on threads of their own.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use kvorum_api::raftpb::Message;
use kvorum_disk::{FileSystem, IncomingDatabase, incoming};
use tokio::sync::mpsc;

use super::Shared;
use super::framing::encode_message;
use super::http_client::{next_piece, request};
use crate::limits::{PEER_SNAPSHOT_PIECE_BYTES, PEER_SNAPSHOT_PIECES_MAX};
use crate::urls::Url;

/// How long the receiver's socket may take nothing: its disk may be busy.
const SEND_STALL: Duration = Duration::from_secs(60);

/// How long the receiver may take from the last byte to its answer: it makes the file durable meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the sender may send nothing in the middle of a database.
const RECEIVE_STALL: Duration = Duration::from_secs(60);

/// A database to send: its bytes and how many there are.
pub struct SnapshotSource {
    pub(crate) reader: Box<dyn Read + Send>,
    pub(crate) length: u64,
}

impl SnapshotSource {
    /// `reader` must give `length` bytes; it is read on a thread that may block, and dropped at the end.
    pub fn new(reader: impl Read + Send + 'static, length: u64) -> SnapshotSource {
        SnapshotSource { reader: Box::new(reader), length }
    }

    /// A whole file. It may be removed from its folder meanwhile.
    pub fn open(path: &Path) -> io::Result<SnapshotSource> {
        let file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        Ok(SnapshotSource::new(file, length))
    }
}

pub fn remove_leftovers(file_system: &dyn FileSystem, folder: &Path) -> io::Result<()> {
    incoming::remove_incomplete(file_system, folder).map_err(|error| io::Error::other(error.to_string()))
}

/// Posts a database and waits for the head of the answer.
pub(crate) async fn post(
    shared: &Shared,
    url: &Url,
    message: &Message,
    database: SnapshotSource,
) -> io::Result<Response<Incoming>> {
    let mut head = BytesMut::new();
    encode_message(message, &mut head);
    let (sender, pieces) = mpsc::channel(PEER_SNAPSHOT_PIECES_MAX);
    let missing = head.len() as u64 + database.length;
    let body = OutgoingDatabase { head: Some(head.freeze()), pieces, missing };
    let mut request = request(Method::POST, url, "/raft/snapshot", body)?;
    shared.identity.introduce(request.headers_mut());
    let content_type = HeaderValue::from_static("application/octet-stream");
    request.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    let mut connection = shared.dial(url, SEND_STALL).await?;
    let (sent, mut all_sent) = tokio::sync::oneshot::channel::<()>();
    tokio::task::spawn_blocking(move || {
        read_pieces(database, &sender);
        drop(sent);
    });
    let mut answer = std::pin::pin!(connection.send(request));
    // While the file is read, progress is what the stalls above judge.
    tokio::select! {
        answer = &mut answer => return answer,
        _ = &mut all_sent => {}
    }
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the receiver did not answer");
    tokio::time::timeout(ANSWER_TIMEOUT, answer).await.map_err(late)?
}

/// Runs on a thread that may block. Ends early if nobody takes the pieces any more.
fn read_pieces(mut database: SnapshotSource, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    let mut missing = database.length;
    while missing > 0 {
        let length = usize::try_from(missing).unwrap_or(usize::MAX).min(PEER_SNAPSHOT_PIECE_BYTES);
        let mut piece = vec![0; length];
        let read = database.reader.read_exact(&mut piece).map(|()| Bytes::from(piece));
        let failed = read.is_err();
        if pieces.blocking_send(read).is_err() || failed {
            return;
        }
        missing -= length as u64;
    }
}

/// The body of the POST.
struct OutgoingDatabase {
    head: Option<Bytes>,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    missing: u64,
}

impl Body for OutgoingDatabase {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = match self.head.take() {
            Some(head) => Ok(head),
            None if self.missing == 0 => return Poll::Ready(None),
            None => ready!(self.pieces.poll_recv(context)).unwrap_or(Err(io::ErrorKind::UnexpectedEof.into())),
        };
        Poll::Ready(Some(piece.map(|piece| {
            self.missing = self.missing.saturating_sub(piece.len() as u64);
            Frame::data(piece)
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.missing == 0 && self.head.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.missing)
    }
}

/// Writes the rest of a request's body to its file; gives the path and the bytes. `first` are those that came already.
pub(crate) async fn receive(
    shared: &Shared,
    first: BytesMut,
    body: &mut Incoming,
    index: u64,
) -> Result<(PathBuf, u64), String> {
    let (sender, mut pieces) = mpsc::channel::<Piece>(PEER_SNAPSHOT_PIECES_MAX);
    let file_system = Arc::clone(&shared.config.file_system);
    let folder = shared.config.snapshot_folder.clone();
    let writing = tokio::task::spawn_blocking(move || {
        let mut database = IncomingDatabase::create(file_system, &folder)?;
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                Piece::Bytes(bytes) => database.write(&bytes)?,
                Piece::End => return database.finish(index).map(Some),
            }
        }
        Ok(None)
    });
    let sent = send_pieces(first.freeze(), body, &sender).await;
    drop(sender);
    let written = writing.await.map_err(|error| error.to_string())?;
    // What the disk says comes first: the body was not read on because of it.
    match written.map_err(|error: kvorum_disk::DiskError| error.to_string())? {
        Some(written) => Ok(written),
        None => Err(sent.err().map_or_else(|| "unexpected EOF".to_owned(), |error| error.to_string())),
    }
}

enum Piece {
    Bytes(Bytes),
    /// The body was read to the end that its headers promised.
    End,
}

async fn send_pieces(first: Bytes, body: &mut Incoming, pieces: &mpsc::Sender<Piece>) -> io::Result<()> {
    let gone = |_| io::Error::other("the file is not written on");
    if !first.is_empty() {
        pieces.send(Piece::Bytes(first)).await.map_err(gone)?;
    }
    while let Some(piece) = next_piece(body, RECEIVE_STALL).await? {
        pieces.send(Piece::Bytes(piece)).await.map_err(gone)?;
    }
    pieces.send(Piece::End).await.map_err(gone)
}
