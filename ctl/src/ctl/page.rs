//! One page of a member, such as its metrics: asked for with the flags that every other call of the command goes by.

use std::io;

use kvorum_client::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::global::{TlsFiles, with_host};
use crate::golang;

/// Gives the answer with its head. It waits as long as it takes: callers bound it.
///
/// # Errors
/// What went wrong, for people.
pub async fn fetch(endpoint: &str, path: &str, tls: &TlsFiles) -> Result<String, String> {
    let endpoint = with_host(endpoint);
    let (is_secure, address) = match endpoint.split_once("://") {
        Some((scheme, address)) => (scheme == "https", address),
        None => (tls.is_for_all(), &*endpoint),
    };
    let socket = TcpStream::connect(address).await.map_err(|error| golang::io_error_text(&error))?;
    if !is_secure {
        return ask(socket, address, path).await;
    }
    let config =
        tls.load().map_err(|failure| failure.message)?.rustls_config().map_err(|error: Error| error.to_string())?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let host = if tls.server_name.is_empty() { host } else { &tls.server_name };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(config).connect(name, socket).await.map_err(|error| error.to_string())?;
    ask(stream, address, path).await
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, host: &str, path: &str) -> Result<String, String> {
    // HTTP 1.0: the answer comes in one piece and ends with the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    let mut answer = Vec::new();
    let asked: io::Result<()> = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        stream.read_to_end(&mut answer).await.map(drop)
    }
    .await;
    match asked {
        // Nobody needs to say goodbye in TLS behind an answer.
        Err(error) if answer.is_empty() || error.kind() != io::ErrorKind::UnexpectedEof => {
            Err(golang::io_error_text(&error))
        }
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}
