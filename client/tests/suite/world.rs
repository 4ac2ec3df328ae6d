//! A server of some kind with a proxy in front of it, and a client behind that. Everything is on free ports and in
//! temporary folders, and ends with the test.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use kvorum_client::{Client, Config};
use kvorum_interop::process::{Kind as ProcessKind, Member};
use kvorum_interop::tools;
use kvorum_server::config::{Command, parse};
use kvorum_server::start::{Running, start};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Far above what anything takes: reaching it means that it hangs.
pub const LONG: Duration = Duration::from_secs(60);

/// What a test runs against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Kvorum,
    /// etcd 3.7: built from its modules unless there is one.
    Etcd37,
    /// Whatever etcd is installed; Debian's is a 3.4.
    Installed,
}

/// All there are.
pub const EVERY: &[Kind] = &[Kind::Kvorum, Kind::Etcd37, Kind::Installed];

/// Of the present version: for tests of what the client does when the network is bad, which asks little of the server.
pub const CURRENT: &[Kind] = &[Kind::Kvorum, Kind::Etcd37];

/// etcd starts, expires leases and checks passwords sooner with these.
const QUICK_FLAGS: &[&str] = &["--heartbeat-interval=20", "--election-timeout=200", "--bcrypt-cost=4"];

enum Server {
    Embedded { member: Option<Running>, config: Box<kvorum_server::config::Config>, _folder: TempDir },
    Process(Box<Member>),
}

pub struct World {
    pub kind: Kind,
    server: Server,
    pub proxy: Proxy,
    pub client: Client,
}

impl World {
    /// None when the server is not installed, which was printed.
    pub async fn start(kind: Kind, flags: &[&str]) -> Option<World> {
        let server = match kind {
            Kind::Kvorum => {
                let folder = TempDir::with_prefix("kvorum-client-").unwrap();
                let config = Box::new(embedded(&folder, flags));
                Server::Embedded { member: Some(start(&config).unwrap()), config, _folder: folder }
            }
            Kind::Etcd37 | Kind::Installed => {
                let installed = kind == Kind::Installed;
                let binary = if installed { tools::installed_etcd() } else { tools::etcd() };
                let binary = tools::or_skip(binary)?;
                let flags = [QUICK_FLAGS, flags].concat();
                Server::Process(Box::new(Member::start(ProcessKind::Server, &binary, &flags).unwrap()))
            }
        };
        let proxy = Proxy::start(address(&server.url())).await;
        let client = Client::connect_with(config(&proxy)).await.unwrap();
        Some(World { kind, server, proxy, client })
    }

    /// The server itself, without the proxy.
    pub fn direct_url(&self) -> String {
        self.server.url()
    }

    /// A configuration for the proxy.
    pub fn config(&self) -> Config {
        config(&self.proxy)
    }

    /// Stops the server cleanly and starts it again over the same data. Clients see their connections break.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    pub fn stop(&mut self) {
        match &mut self.server {
            Server::Embedded { member, .. } => *member = None,
            Server::Process(member) => {
                member.stop();
            }
        }
    }

    pub fn start_again(&mut self) {
        match &mut self.server {
            Server::Embedded { member, config, .. } => *member = Some(start(config).unwrap()),
            Server::Process(member) => member.restart().unwrap(),
        }
        self.proxy.set_target(address(&self.server.url()));
    }
}

/// A member on free ports, whose passwords cost little.
fn embedded(folder: &TempDir, flags: &[&str]) -> kvorum_server::config::Config {
    let mut arguments = vec![format!("--data-dir={}", folder.path().display()), "--bcrypt-cost=4".to_owned()];
    for flag in ["listen-client-urls", "advertise-client-urls", "listen-peer-urls"] {
        arguments.push(format!("--{flag}=http://127.0.0.1:0"));
    }
    arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
    let Ok(Command::Serve { config, .. }) = parse(&arguments, &[]) else { panic!("{arguments:?}") };
    *config
}

impl Server {
    fn url(&self) -> String {
        match self {
            Server::Embedded { member, .. } => member.as_ref().expect("it runs").client_url(),
            Server::Process(member) => member.url().to_owned(),
        }
    }
}

pub fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// With short pauses: the servers come back at once.
fn config(proxy: &Proxy) -> Config {
    Config::new([proxy.url()]).backoff(Duration::from_millis(10), Duration::from_millis(100))
}

/// Runs a test against each kind of server, all at the same time, since they wait more than they work. Each has a thread
/// and a runtime of its own.
pub fn on<F: Future<Output = ()>>(kinds: &[Kind], flags: &[&str], test: impl Fn(World) -> F + Sync) {
    let test = &test;
    let run = |kind: Kind| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            if let Some(world) = World::start(kind, flags).await {
                soon(test(world)).await;
            }
        });
    };
    let failed: Vec<Kind> = std::thread::scope(|scope| {
        let threads: Vec<_> = kinds.iter().map(|&kind| (kind, scope.spawn(move || run(kind)))).collect();
        threads.into_iter().filter_map(|(kind, thread)| thread.join().is_err().then_some(kind)).collect()
    });
    assert!(failed.is_empty(), "it failed on {failed:?}");
}

/// Waits for what must happen.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("it takes far too long")
}

/// Makes a test of every function named, against these kinds of server.
macro_rules! tests_on {
    ($kinds:expr => $($case:ident),* $(,)?) => {
        $(mod $case {
            #[test]
            fn on_each_server() {
                crate::world::on($kinds, &[], super::$case);
            }
        })*
    };
}

pub(crate) use tests_on;

/// What a proxy does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Those there are break; new ones are closed at once.
    Cut,
    /// Nothing passes any more, and nobody is told; new ones are accepted and never answered.
    Swallow,
    /// What clients say passes; what the server answers does not.
    SwallowAnswers,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct ProxyState {
    mode: Mode,
    target: SocketAddr,
    /// Counts what broke connections: a cut that was made and taken back is one too.
    cuts: u64,
}

/// A TCP proxy on a port of its own.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<ProxyState>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, receiver) = watch::channel(ProxyState { mode: Mode::Pass, target, cuts: 0 });
        tokio::spawn(async move {
            let mut ended = receiver.clone();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((client, _)) = accepted else { return };
                        tokio::spawn(pass(client, receiver.clone()));
                    }
                    // The proxy is gone once its sender is.
                    changed = ended.changed() => if changed.is_err() { return },
                }
            }
        });
        Proxy { address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, mode: Mode) {
        self.state.send_modify(|state| {
            state.mode = mode;
            state.cuts += u64::from(mode == Mode::Cut);
        });
    }

    /// Breaks every connection, and lets new ones pass.
    pub fn cut_once(&self) {
        self.set(Mode::Cut);
        self.set(Mode::Pass);
    }

    /// Sends new connections elsewhere and breaks those there are.
    pub fn set_target(&self, target: SocketAddr) {
        self.state.send_modify(|state| {
            state.target = target;
            state.cuts += 1;
        });
    }
}

async fn pass(mut client: TcpStream, mut state: watch::Receiver<ProxyState>) {
    let ProxyState { mut mode, target, cuts } = *state.borrow_and_update();
    let mut server = match mode {
        Mode::Cut => return,
        Mode::Swallow => {
            // Held, and never answered, until something changes.
            drop(state.changed().await);
            return;
        }
        Mode::Pass | Mode::SwallowAnswers => match TcpStream::connect(target).await {
            Ok(server) => server,
            Err(_) => return,
        },
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (mut upwards, mut downwards) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let moved: io::Result<usize> = tokio::select! {
            changed = state.changed() => {
                let new = *state.borrow_and_update();
                mode = new.mode;
                if changed.is_err() || new.cuts != cuts {
                    return;
                }
                Ok(1)
            }
            read = client.read(&mut upwards), if mode != Mode::Swallow => match read {
                Ok(count) if count > 0 => server.write_all(&upwards[..count]).await.map(|()| count),
                other => other,
            },
            read = server.read(&mut downwards), if matches!(mode, Mode::Pass) => match read {
                Ok(count) if count > 0 => client.write_all(&downwards[..count]).await.map(|()| count),
                other => other,
            },
        };
        if !matches!(moved, Ok(count) if count > 0) {
            return;
        }
    }
}
