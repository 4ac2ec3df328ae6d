//! Tests of the transport: whole ones that talk to each other, to raw sockets and to a real etcd.

mod etcd;
mod exchange;
mod framing;
mod kept;
mod pages;
mod redirects;
mod refusals;
mod snapshots;
mod world;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Reads until the head of a request is there; how long it is. `None`: the connection ends before.
async fn read_head(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<usize> {
    loop {
        if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            return Some(end + 4);
        }
        match stream.read_buf(received).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return None,
        }
    }
}
