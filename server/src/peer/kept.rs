//! Connections to other members that wait for a further question, so that it needs neither a connection nor a handshake of
//! its own. Which questions may go over one is for those to say who ask. Nothing here sends anything.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use parking_lot::Mutex;

use super::http_client::{AbortOnDrop, Connection};
use crate::limits::{PEER_IDLE_CONNECTIONS_MAX, PEER_IDLE_TIMEOUT, PEER_IDLE_URLS_MAX};
use crate::urls::Url;

pub type QuestionConnection = Connection<Full<Bytes>>;

/// The connections of one dialer.
#[derive(Default)]
pub struct KeptConnections {
    waiting: Mutex<HashMap<String, Vec<Waiting>>>,
    next_number: AtomicU64,
}

struct Waiting {
    number: u64,
    connection: QuestionConnection,
    /// Ends the wait when it took too long.
    _timer: AbortOnDrop,
}

impl KeptConnections {
    /// The one to this URL that was used last, if it seems to be open. It may turn out to be closed nevertheless.
    pub fn take(&self, url: &Url) -> Option<QuestionConnection> {
        let mut waiting = self.waiting.lock();
        let Entry::Occupied(mut connections) = waiting.entry(url.to_string()) else { return None };
        let found = std::iter::from_fn(|| connections.get_mut().pop()).find(|one| one.connection.is_usable());
        if connections.get().is_empty() {
            connections.remove();
        }
        found.map(|found| found.connection)
    }

    /// Takes a connection whose last answer was read to its end. Closes it if enough wait already.
    pub fn keep(self: &Arc<Self>, url: &Url, connection: QuestionConnection) {
        if !connection.is_usable() {
            return;
        }
        let (key, number) = (url.to_string(), self.next_number.fetch_add(1, Ordering::Relaxed));
        let timer = {
            let (kept, key) = (Arc::downgrade(self), key.clone());
            AbortOnDrop::spawn(async move {
                tokio::time::sleep(PEER_IDLE_TIMEOUT).await;
                if let Some(kept) = kept.upgrade() {
                    kept.close(&key, number);
                }
            })
        };
        let mut waiting = self.waiting.lock();
        if waiting.len() >= PEER_IDLE_URLS_MAX && !waiting.contains_key(&key) {
            return;
        }
        let connections = waiting.entry(key).or_default();
        connections.retain(|one| one.connection.is_usable());
        if connections.len() < PEER_IDLE_CONNECTIONS_MAX {
            connections.push(Waiting { number, connection, _timer: timer });
        }
    }

    fn close(&self, key: &str, number: u64) {
        let mut waiting = self.waiting.lock();
        if let Some(connections) = waiting.get_mut(key) {
            connections.retain(|one| one.number != number);
            if connections.is_empty() {
                waiting.remove(key);
            }
        }
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.waiting.lock().values().map(Vec::len).sum()
    }
}

/// Whether an error means that the other side closed the connection, as it may do with one that waits.
pub fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::UnexpectedEof | K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::NotConnected
    )
}
