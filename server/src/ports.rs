//! The ports of a member: their sockets, and the TLS of each. Nothing is answered here.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;

use tracing::info;

use crate::config::Config;
use crate::connection::{PROTOCOLS, Port, Serves};
use crate::peer::Dialer;
use crate::start::StartError;
use crate::tls::{Checks, IncomingTls, TlsOptions, self_signed};
use crate::urls::{Scheme, Url};
use crate::worker_thread::{self, Listeners};

/// Certificates of members are for the address they come from; nothing is agreed on, since members speak HTTP/1.1.
const PEER_CHECKS: Checks = Checks { endpoint: "peer", addresses: true, protocols: &[b"http/1.1"] };
const CLIENT_CHECKS: Checks = Checks { endpoint: "client", addresses: false, protocols: PROTOCOLS };
const METRICS_CHECKS: Checks = Checks { endpoint: "client", addresses: true, protocols: PROTOCOLS };

/// Everything a member listens on, and what it dials with.
pub struct Ports {
    /// The URLs of clients, with the ports that were found where 0 was asked for.
    pub client_urls: Vec<Url>,
    /// The URLs of clients that do not speak gRPC, likewise.
    pub client_http_urls: Vec<Url>,
    /// The URLs of metrics, likewise.
    pub metrics_urls: Vec<Url>,
    /// For clients of both kinds.
    pub clients: Listeners,
    pub metrics: Listeners,
    pub peers: Vec<(Option<Arc<IncomingTls>>, TcpListener)>,
    pub dialer: Dialer,
}

impl Ports {
    /// Binds every URL and reads the files of TLS. Makes certificates, if the member is to.
    pub fn open(config: &Config) -> Result<Self, StartError> {
        let client_listeners = listen(&config.listen_client_urls, config)?;
        let peer_listeners = listen(&config.listen_peer_urls, config)?;
        let http_listeners = listen(&config.listen_client_http_urls, config)?;
        let metrics_listeners = listen(&config.listen_metrics_urls, config)?;
        let client_options = client_options(config)?;
        let peer_options = peer_options(config)?;
        let secured = |options: &TlsOptions, checks, listeners: &[&[Listener]]| {
            let is_used = listeners.iter().any(|listeners| listeners.iter().any(|listener| listener.secure));
            let tls = is_used.then(|| IncomingTls::new(options.clone(), checks)).transpose();
            tls.map(|tls| tls.map(Arc::new)).map_err(StartError)
        };
        let client_tls = secured(&client_options, CLIENT_CHECKS, &[&client_listeners, &http_listeners])?;
        let metrics_tls = secured(&client_options, METRICS_CHECKS, &[&metrics_listeners])?;
        let peer_tls = secured(&peer_options, PEER_CHECKS, &[&peer_listeners])?;
        let urls = |listeners: &[Listener]| listeners.iter().flat_map(|listener| listener.urls.clone()).collect();
        let client_urls = urls(&client_listeners);
        let (client_http_urls, metrics_urls) = (urls(&http_listeners), urls(&metrics_listeners));
        let calls = if http_listeners.is_empty() { Serves::Everything } else { Serves::Calls };
        let port = |listener: Listener, serves, tls: &Option<Arc<IncomingTls>>| {
            let tls = tls.clone().filter(|_| listener.secure);
            (Arc::new(Port { serves, plain: listener.plain, tls }), listener.socket)
        };
        let clients = client_listeners.into_iter().map(|listener| port(listener, calls, &client_tls));
        let http = http_listeners.into_iter().map(|listener| port(listener, Serves::Pages, &client_tls));
        let metrics = metrics_listeners.into_iter().map(|listener| port(listener, Serves::Metrics, &metrics_tls));
        let peers = peer_listeners.into_iter();
        Ok(Self {
            client_urls,
            client_http_urls,
            metrics_urls,
            clients: clients.chain(http).collect(),
            metrics: metrics.collect(),
            peers: peers.map(|peer| (peer_tls.clone().filter(|_| peer.secure), peer.socket)).collect(),
            dialer: Dialer::new(peer_options).map_err(StartError)?,
        })
    }
}

fn client_options(config: &Config) -> Result<TlsOptions, StartError> {
    let options = &config.client_tls;
    let options = match config.client_auto_tls && options.is_empty() {
        true => {
            let folder = config.data_dir.join("fixtures").join("client");
            let years = config.self_signed_cert_validity_years;
            let urls = [&config.listen_client_urls[..], &config.listen_client_http_urls].concat();
            self_signed(&folder, &urls, years, options).map_err(StartError)?
        }
        false => options.clone(),
    };
    if !options.is_empty() {
        announce("client", &options);
    }
    Ok(options)
}

fn peer_options(config: &Config) -> Result<TlsOptions, StartError> {
    let options = &config.peer_tls;
    let options = match config.peer_auto_tls && options.is_empty() {
        true => {
            let folder = config.data_dir.join("fixtures").join("peer");
            let years = config.self_signed_cert_validity_years;
            self_signed(&folder, &config.listen_peer_urls, years, options).map_err(StartError)?
        }
        false => options.clone(),
    };
    if !options.is_empty() {
        announce("peer", &options);
    }
    Ok(options)
}

fn announce(whose: &str, options: &TlsOptions) {
    let suites = &options.versions.cipher_suites;
    info!("tls-info" = options.describe().as_str(), "cipher-suites" = ?suites, "starting with {whose} TLS");
}

/// A socket that is listened on, and what it was asked for.
struct Listener {
    urls: Vec<Url>,
    plain: bool,
    secure: bool,
    socket: TcpListener,
}

/// Binds every URL. A name stands for its first IPv4 address, as in Go. Two URLs may differ in their schemes alone: then
/// one port speaks both.
fn listen(urls: &[Url], config: &Config) -> Result<Vec<Listener>, StartError> {
    let mut listeners: Vec<Listener> = Vec::with_capacity(urls.len());
    for url in urls {
        let secure = url.scheme() == Scheme::Https;
        let shared = listeners.iter_mut().find(|listener| {
            url.port() != Some(0) && listener.urls.iter().any(|other| other.host_port() == url.host_port())
        });
        if let Some(listener) = shared {
            listener.secure |= secure;
            listener.plain |= !secure;
            listener.urls.push(url.clone());
            continue;
        }
        let (port, socket) = bind(url, config)?;
        listeners.push(Listener { urls: vec![url.with_port(port)], plain: !secure, secure, socket });
    }
    Ok(listeners)
}

fn bind(url: &Url, config: &Config) -> Result<(u16, TcpListener), StartError> {
    let what = format!("listen tcp {}", url.host_port());
    let addresses: Vec<SocketAddr> = (url.host().trim_matches(['[', ']']), url.port().unwrap_or(0))
        .to_socket_addrs()
        .map_err(|error| StartError::new(&what, error))?
        .collect();
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    let Some(address) = address else { return Err(StartError::new(&what, "no such host")) };
    let listener = worker_thread::bind(*address, config.socket_reuse_port)
        .map_err(|error| StartError::new(&what, format!("bind: {}", system_text(&error))))?;
    let port = listener.local_addr().map_err(|error| StartError::new(&what, error))?.port();
    Ok((port, listener))
}

/// The system's text for an error as etcd shows it: without its number, and in lower case.
fn system_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
