//! The network between members: one TCP proxy in front of each peer port, which the members know as that member's
//! address. Each direction between each two members can be held up, delayed or cut on its own. Who dialed is told by the
//! system's own tables, so that nothing depends on what the members send. It never looks into the bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Pieces of a direction that may be under way at once, and their greatest size.
const PIECES_BOUND: usize = 256;
const PIECE_BYTES_MAX: usize = 64 * 1024;

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

/// The proxies of one cluster. They live as long as the runtime they were started on.
#[derive(Debug)]
pub struct Network {
    members: usize,
    flows: watch::Sender<Flows>,
    /// The processes of the members, by member.
    processes: Arc<Mutex<BTreeMap<usize, u32>>>,
}

/// What one connection needs to know.
#[derive(Clone)]
struct Shared {
    flows: watch::Receiver<Flows>,
    processes: Arc<Mutex<BTreeMap<usize, u32>>>,
}

impl Network {
    /// Starts a proxy for each pair of (port of the proxy, port of the member).
    pub async fn start(ports: &[(u16, u16)]) -> io::Result<Network> {
        let flows = watch::Sender::new(Flows::new());
        let processes = Arc::default();
        let shared = Shared { flows: flows.subscribe(), processes: Arc::clone(&processes) };
        for (member, (proxy, target)) in ports.iter().copied().enumerate() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, proxy)).await?;
            tokio::spawn(accept(listener, proxy, member, target, shared.clone()));
        }
        Ok(Network { members: ports.len(), flows, processes })
    }

    /// The process that is this member from now on.
    pub fn introduce(&self, member: usize, process_id: u32) {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).insert(member, process_id);
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

async fn accept(listener: TcpListener, proxy_port: u16, member: usize, target: u16, shared: Shared) {
    // The listener fails only when there are no more descriptors; then members see refused connections.
    while let Ok((stream, source)) = listener.accept().await {
        let processes = shared.processes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(from) = dialer(source, proxy_port, &processes) else { continue };
        tokio::spawn(connect(stream, from, member, target, shared.clone()));
    }
}

/// The member whose process holds the other end of a connection; `None` when the process is gone.
fn dialer(source: SocketAddr, proxy_port: u16, processes: &BTreeMap<usize, u32>) -> Option<usize> {
    let wanted = format!("0100007F:{:04X} 0100007F:{proxy_port:04X}", source.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let line = table.lines().find(|line| line.contains(&wanted))?;
    let socket = format!("socket:[{}]", line.split_whitespace().nth(9)?);
    let holds = |process_id: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{process_id}/fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|link| link.as_os_str() == socket.as_str())
    };
    processes.iter().find(|(_, process_id)| holds(process_id)).map(|(member, _)| *member)
}

async fn connect(stream: TcpStream, from: usize, to: usize, target: u16, shared: Shared) {
    let flow = |a, b| shared.flows.borrow().get(&(a, b)).copied().unwrap_or_default();
    if flow(from, to) == Flow::Cut || flow(to, from) == Flow::Cut {
        return;
    }
    let Ok(onward) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
    // Only tests of speed would mind if it failed.
    drop((stream.set_nodelay(true), onward.set_nodelay(true)));
    let (near_reader, near_writer) = stream.into_split();
    let (far_reader, far_writer) = onward.into_split();
    let mut cut = shared.flows.clone();
    let is_cut = |flows: &Flows| {
        [(from, to), (to, from)].iter().any(|link| flows.get(link).is_some_and(|flow| *flow == Flow::Cut))
    };
    tokio::select! {
        // Both ends of the program go when the network does.
        _ = cut.wait_for(is_cut) => {}
        () = async {
            let there = carry(near_reader, far_writer, (from, to), shared.flows.clone());
            let back = carry(far_reader, near_writer, (to, from), shared.flows.clone());
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
    tokio::select! {
        () = async { tokio::join!(read, write); } => {}
    }
}
