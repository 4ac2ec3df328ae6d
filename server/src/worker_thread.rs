//! Starting the connection threads and dealing connections out to them.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::LocalSet;

use crate::access::Access;
use crate::config::Config;
use crate::connection::{self, ConnectionConfig, Port};
use crate::core::Core;
use crate::limits::{
    ACCEPT_PAUSE_MILLISECONDS, GRPC_OVERHEAD_BYTES, READER_THREADS_PER_WORKER, STOP_GRACE_MILLISECONDS,
};
use crate::pings::KeepaliveConfig;
use crate::scheduling;
use crate::services::watch::{CoreHeader, StoreHistory, StorePermits};
use crate::watch::{FRAGMENT_OVERHEAD_BYTES, WatchConfig};
use crate::worker::Worker;

/// What every connection thread is told.
#[derive(Clone)]
pub struct WorkerOptions {
    connection: ConnectionConfig,
    watch: WatchConfig,
    /// Connections at once, over all threads.
    connections_max: usize,
}

impl WorkerOptions {
    /// `connections_max` is what the descriptors of the process allow.
    pub fn from_config(config: &Config, connections_max: usize) -> Self {
        let request_bytes = usize::try_from(config.max_request_bytes).unwrap_or(usize::MAX);
        let message_bytes = config.max_request_bytes.saturating_add(GRPC_OVERHEAD_BYTES);
        Self {
            connection: ConnectionConfig {
                message_bytes_max: usize::try_from(message_bytes).unwrap_or(usize::MAX),
                concurrent_streams_max: config.max_concurrent_streams,
                keepalive: KeepaliveConfig::new(
                    config.grpc_keepalive_min_time,
                    config.grpc_keepalive_interval,
                    config.grpc_keepalive_timeout,
                ),
                limits: config.connection_limits,
                access: Access::new(&config.cors, &config.host_whitelist),
            },
            watch: WatchConfig {
                progress_interval: config.watch_progress_notify_interval,
                fragment_bytes: request_bytes.saturating_add(FRAGMENT_OVERHEAD_BYTES),
                ..WatchConfig::default()
            },
            connections_max: config.connection_limits.client_connections.unwrap_or(connections_max),
        }
    }
}

/// Binds so that a second server on the port fails, unless ports are to be shared.
pub fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if reuse_port {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, LISTEN_BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Connections the system holds for us before they are accepted; it lowers this to its own maximum.
const LISTEN_BACKLOG: i32 = 4096;

/// Ports that are listened on.
pub type Listeners = Vec<(Arc<Port>, TcpListener)>;

/// Between two warnings that no more connections are accepted.
const FULL_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Starts all connection threads; the first one accepts for all: at once from `listeners`, and from those that come through
/// `later` once they do.
pub fn start_all(
    core: &Arc<Core>,
    listeners: Listeners,
    later: oneshot::Receiver<Listeners>,
    workers: usize,
    options: &WorkerOptions,
) -> io::Result<Vec<JoinHandle<()>>> {
    // Bounded by the descriptors of the process: each message is an open connection.
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
    let mut acceptor = Some((listeners, later, senders));
    let mut threads = Vec::with_capacity(workers);
    for (index, receiver) in receivers.into_iter().enumerate() {
        let core = Arc::clone(core);
        let options = options.clone();
        let acceptor = acceptor.take();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(READER_THREADS_PER_WORKER)
            .build()?;
        let body = move || {
            scheduling::prefer_short_slices();
            let guarded = Arc::clone(&core);
            let _guard = guarded.guard();
            let local = LocalSet::new();
            local.block_on(&runtime, async move {
                if let Some((listeners, later, senders)) = acceptor {
                    let room = Arc::new(Semaphore::new(options.connections_max.min(Semaphore::MAX_PERMITS)));
                    spawn_acceptors(&core, listeners, &senders, &room);
                    let core = Arc::clone(&core);
                    tokio::task::spawn_local(async move {
                        // They do not come if the member stops before it serves.
                        if let Ok(listeners) = later.await {
                            spawn_acceptors(&core, listeners, &senders, &room);
                        }
                    });
                }
                run(core, index, receiver, options).await;
            });
            drop(local);
            runtime.shutdown_timeout(Duration::from_millis(STOP_GRACE_MILLISECONDS));
        };
        threads.push(std::thread::Builder::new().name(format!("connections-{index}")).spawn(body)?);
    }
    Ok(threads)
}

/// An accepted connection on its way to a thread, with its place among those that may be open.
type Dealt = (Arc<Port>, TcpStream, OwnedSemaphorePermit);

async fn run(core: Arc<Core>, index: usize, mut streams: mpsc::UnboundedReceiver<Dealt>, options: WorkerOptions) {
    let header = Rc::new(CoreHeader(Arc::clone(&core)));
    let history = Rc::new(StoreHistory(core.reader.clone()));
    let permits = Rc::new(StorePermits(core.reader.clone()));
    let hub = core.publisher.attach(options.watch, header, history, permits);
    let worker = Worker::new(Arc::clone(&core), index, hub);
    worker.spawn_tasks();
    let config = Rc::new(options.connection);
    let mut stop = core.watch_stop();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (port, stream, permit) = tokio::select! {
            Some(dealt) = streams.recv() => dealt,
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|stopping| *stopping) => break,
        };
        // A socket that cannot be registered is closed; its peer sees that.
        if let Ok(stream) = tokio::net::TcpStream::from_std(stream) {
            let serving = connection::serve(Rc::clone(&worker), stream, port, Rc::clone(&config));
            connections.spawn_local(async move {
                serving.await;
                drop(permit);
            });
        }
    }
    let finish = async { while connections.join_next().await.is_some() {} };
    // Connections still open after the grace are closed with the runtime.
    drop(tokio::time::timeout(Duration::from_millis(STOP_GRACE_MILLISECONDS), finish).await);
}

fn spawn_acceptors(
    core: &Arc<Core>,
    listeners: Listeners,
    senders: &[mpsc::UnboundedSender<Dealt>],
    room: &Arc<Semaphore>,
) {
    for (port, listener) in listeners {
        let senders = senders.to_vec();
        let room = Arc::clone(room);
        let core = Arc::clone(core);
        tokio::task::spawn_local(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => accept(&port, &listener, &senders, &room).await,
                Err(error) => core.fail(format!("listening: {error}")),
            }
        });
    }
}

async fn accept(
    port: &Arc<Port>,
    listener: &tokio::net::TcpListener,
    senders: &[mpsc::UnboundedSender<Dealt>],
    room: &Arc<Semaphore>,
) {
    let (mut next, mut warned) = (0, None);
    loop {
        if room.available_permits() == 0 && warned.is_none_or(|at: Instant| at.elapsed() > FULL_WARNING_INTERVAL) {
            warned = Some(Instant::now());
            tracing::warn!("as many connections of clients are open as may be; further ones wait until some close");
        }
        let Ok(permit) = Arc::clone(room).acquire_owned().await else { return };
        let accepted = listener.accept().await.and_then(|(stream, _)| stream.into_std());
        match accepted {
            Ok(stream) => {
                // A receiver is gone only at a stop.
                drop(senders[next].send((Arc::clone(port), stream, permit)));
                next = (next + 1) % senders.len();
            }
            Err(error) => {
                // Out of descriptors, mostly: there will be some when connections close.
                tracing::warn!(error = %error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MILLISECONDS)).await;
            }
        }
    }
}
