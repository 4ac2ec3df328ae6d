//! Opens a socket to an endpoint, with TLS if it asks for it. It waits as long as it takes: callers bound it.

use std::io;

use tokio::net::{TcpStream, UnixStream};

use super::endpoint::{Address, Endpoint};
use super::io::Duplex;
use crate::config::Config;

/// Connects. The error names what failed, not the endpoint.
pub async fn dial(endpoint: &Endpoint, config: &Config) -> io::Result<Box<dyn Duplex>> {
    let stream: Box<dyn Duplex> = match endpoint.address() {
        Address::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
    };
    if endpoint.is_secure() { secure(stream, endpoint, config).await } else { Ok(stream) }
}

#[cfg(feature = "tls")]
async fn secure(stream: Box<dyn Duplex>, endpoint: &Endpoint, config: &Config) -> io::Result<Box<dyn Duplex>> {
    let tls = config.tls.as_ref().ok_or_else(|| io::Error::other("TLS is not configured"))?;
    super::tls::handshake(tls, stream, endpoint.host()).await
}

#[cfg(not(feature = "tls"))]
async fn secure(_stream: Box<dyn Duplex>, _endpoint: &Endpoint, _config: &Config) -> io::Result<Box<dyn Duplex>> {
    Err(io::Error::other("this build has no TLS: enable the feature `tls` of kvorum-client"))
}
