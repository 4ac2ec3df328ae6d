//! The network between members: one TCP proxy in front of each peer port, which the members know as that member's
//! address. Each direction between each two members can be held up, delayed or cut on its own. Who dialed is told by the
//! address that the preloaded library (`shim/forgetful_disk.c`) lets each member dial from. It never looks into the bytes.
//! The proxies have a thread of their own, so that clients do not slow them down.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Pieces of a direction that may be under way at once, and their greatest size.
const PIECES_BOUND: usize = 256;
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// The last part of the address that the first member dials from.
const SOURCE_FIRST: usize = 1;

/// What happens to bytes from one member to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    #[default]
    Open,
    /// Every byte arrives so much later.
    Delayed(Duration),
    /// Bytes wait, and go on when the link opens again: what a member sent before a pause arrives after it.
    Held,
    /// Connections break, new ones are closed at once. TCP knows no half of this: it holds for both directions.
    Cut,
}

type Flows = BTreeMap<(usize, usize), Flow>;

/// The proxies of one cluster. They end when it is dropped.
#[derive(Debug)]
pub struct Network {
    members: usize,
    flows: watch::Sender<Flows>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The address that a member dials from.
pub fn source_address(member: usize) -> Ipv4Addr {
    let last = u8::try_from(member + SOURCE_FIRST).expect("clusters are small");
    Ipv4Addr::new(127, 0, 1, last)
}

impl Network {
    /// Starts a proxy for each pair of (port of the proxy, port of the member).
    pub fn start(ports: &[(u16, u16)]) -> io::Result<Network> {
        let flows = watch::Sender::new(Flows::new());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for (member, (proxy, target)) in ports.iter().copied().enumerate() {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, proxy))?;
            listener.set_nonblocking(true)?;
            let entered = runtime.enter();
            let listener = TcpListener::from_std(listener)?;
            drop(entered);
            runtime.spawn(accept(listener, member, target, flows.subscribe()));
        }
        let body = move || {
            // Either way the cluster is gone.
            drop(runtime.block_on(stopped));
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("network".to_owned()).spawn(body)?;
        Ok(Network { members: ports.len(), flows, stop: Some(stop), thread: Some(thread) })
    }

    /// Changes what happens from one member to another.
    pub fn set(&self, from: usize, to: usize, flow: Flow) {
        self.flows.send_modify(|flows| {
            flows.insert((from, to), flow);
        });
    }

    /// The same for all links of which one end is among `members` and the other is not.
    pub fn surround(&self, members: &[usize], outward: Flow, inward: Flow) {
        self.flows.send_modify(|flows| {
            for inside in members.iter().copied() {
                for outside in (0..self.members).filter(|other| !members.contains(other)) {
                    flows.insert((inside, outside), outward);
                    flows.insert((outside, inside), inward);
                }
            }
        });
    }

    /// Opens all links.
    pub fn heal(&self) {
        self.flows.send_modify(Flows::clear);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            thread.join().ok();
        }
    }
}

async fn accept(listener: TcpListener, member: usize, target: u16, flows: watch::Receiver<Flows>) {
    // The listener fails only when there are no more descriptors; then members see refused connections.
    while let Ok((stream, source)) = listener.accept().await {
        if let Some(from) = dialer(source) {
            tokio::spawn(connect(stream, (from, member), target, flows.clone()));
        }
    }
}

/// The member that dials from an address; `None` for whoever is none.
fn dialer(source: SocketAddr) -> Option<usize> {
    let SocketAddr::V4(source) = source else { return None };
    let [127, 0, 1, last] = source.ip().octets() else { return None };
    usize::from(last).checked_sub(SOURCE_FIRST)
}

async fn connect(stream: TcpStream, (from, to): (usize, usize), target: u16, flows: watch::Receiver<Flows>) {
    let is_cut = |flows: &Flows| {
        [(from, to), (to, from)].iter().any(|link| flows.get(link).is_some_and(|flow| *flow == Flow::Cut))
    };
    if is_cut(&flows.borrow()) {
        return;
    }
    let Ok(onward) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
    // Only tests of speed would mind if it failed.
    drop((stream.set_nodelay(true), onward.set_nodelay(true)));
    let (near_reader, near_writer) = stream.into_split();
    let (far_reader, far_writer) = onward.into_split();
    let mut cut = flows.clone();
    tokio::select! {
        _ = cut.wait_for(is_cut) => {}
        () = async {
            let there = carry(near_reader, far_writer, (from, to), flows.clone());
            let back = carry(far_reader, near_writer, (to, from), flows.clone());
            tokio::join!(there, back);
        } => {}
    }
}

/// One direction of a connection, until its reader ends or its writer breaks.
async fn carry(
    mut reader: OwnedReadHalf,
    mut writer: OwnedWriteHalf,
    link: (usize, usize),
    mut flows: watch::Receiver<Flows>,
) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Bytes)>(PIECES_BOUND);
    let seen = flows.clone();
    let read = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE_BYTES_MAX);
            match (&mut reader).take(PIECE_BYTES_MAX as u64).read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let delay = match seen.borrow().get(&link) {
                Some(Flow::Delayed(delay)) => *delay,
                _ => Duration::ZERO,
            };
            if sender.send((Instant::now() + delay, buffer.split().freeze())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = pieces.recv().await {
            tokio::time::sleep_until(due).await;
            let is_free = |flows: &Flows| flows.get(&link).is_none_or(|flow| *flow != Flow::Held);
            if flows.wait_for(is_free).await.is_err() || writer.write_all(&piece).await.is_err() {
                return;
            }
        }
        // The other side hears that nothing more comes.
        drop(writer.shutdown().await);
    };
    tokio::join!(read, write);
}
