//! Calls that stay open in both directions (watch, keepalive), and single calls beside them. For tasks of one thread. It
//! keeps no more than what has arrived and was not yet asked for.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};

use crate::wire::{self, Messages};

/// A connection whose bytes are moved by a task of the present `LocalSet`.
#[derive(Clone)]
pub struct Channel {
    sender: SendRequest<Bytes>,
    address: SocketAddr,
    /// Shown with each call, if there is one.
    pub token: Option<Rc<str>>,
}

impl Channel {
    pub async fn open(address: SocketAddr) -> Result<Channel, String> {
        let (sender, connection) = wire::connect(address).await?;
        // An error of the connection also ends its calls, and is reported by them.
        tokio::task::spawn_local(async move { connection.await.ok() });
        Ok(Channel { sender, address, token: None })
    }

    /// Opens a call that stays open.
    pub async fn duplex(&self, path: &str) -> Result<Duplex, String> {
        let mut sender = self.sender.clone().ready().await.map_err(|error| format!("open {path}: {error}"))?;
        let sent = sender.send_request(wire::call_head(self.address, path, self.token.as_deref()), false);
        let (head, requests) = sent.map_err(|error| format!("open {path}: {error}"))?;
        Ok(Duplex { requests, head: Some(head), body: None, messages: Messages::default() })
    }

    /// One request, one reply.
    pub async fn call(&self, path: &str, body: Bytes) -> Result<Bytes, String> {
        let mut duplex = self.duplex(path).await?;
        duplex.requests.send_data(body, true).map_err(|error| format!("{path}: {error}"))?;
        let reply = duplex.next().await?.ok_or_else(|| format!("{path}: no reply"))?;
        match duplex.next().await? {
            None => Ok(reply),
            Some(_) => Err(format!("{path}: two replies")),
        }
    }
}

/// A call that is open in both directions.
pub struct Duplex {
    requests: SendStream<Bytes>,
    /// Until the reply's headers have come: etcd sends them with its first message only.
    head: Option<ResponseFuture>,
    body: Option<RecvStream>,
    messages: Messages,
}

impl Duplex {
    /// Sends messages that are already framed. What the server's window does not admit yet waits in memory.
    pub fn send(&mut self, framed: Bytes) -> Result<(), String> {
        self.requests.send_data(framed, false).map_err(|error| format!("send: {error}"))
    }

    /// The next message from the server; `None` after the server ended the call with success.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(message) = self.messages.next() {
                return Ok(Some(message));
            }
            if let Some(head) = self.head.take() {
                let (head, body) = head.await.map_err(|error| format!("reply: {error}"))?.into_parts();
                if head.headers.contains_key("grpc-status") {
                    wire::check_status(&head.headers)?;
                }
                self.body = Some(body);
            }
            let body = self.body.as_mut().expect("there is a body once the headers have come");
            let Some(data) = body.data().await else {
                let trailers = body.trailers().await.map_err(|error| format!("trailers: {error}"))?;
                wire::check_status(&trailers.ok_or("call ended without trailers")?)?;
                return Ok(None);
            };
            let data = data.map_err(|error| format!("reply: {error}"))?;
            body.flow_control().release_capacity(data.len()).map_err(|error| format!("window: {error}"))?;
            self.messages.push(&data);
        }
    }
}
