//! TLS of the load: a certificate for a server that is measured, and connections that trust it. The suites are offered in
//! the order of Go's clients, so that servers which go by the client's order choose what they would for those.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{CipherSuite, ClientConfig, RootCertStore};

/// rustls itself reads 4 KiB at a time.
const READ_BYTES: usize = 64 * 1024;

/// A connection's bytes.
pub enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<BufReader<TcpStream>>>),
}

/// The file of a fresh private key (P-256).
pub fn signing_key(folder: &Path) -> Result<PathBuf, String> {
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let path = folder.join("token.key");
    std::fs::write(&path, key.serialize_pem()).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// The files of a server with a certificate for 127.0.0.1 (P-256).
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Files {
    pub fn make(folder: &Path) -> Result<Files, String> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).map_err(|error| error.to_string())?;
        let certificate = parameters.self_signed(&key).map_err(|error| error.to_string())?;
        let files = Files { certificate: folder.join("server.crt"), key: folder.join("server.key") };
        let write = |path: &Path, text: String| {
            std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
        };
        write(&files.certificate, certificate.pem())?;
        write(&files.key, key.serialize_pem())?;
        Ok(files)
    }

    /// What connects to that server.
    pub fn connector(&self) -> Result<TlsConnector, String> {
        let certificate = CertificateDer::from_pem_file(&self.certificate).map_err(|error| error.to_string())?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(|error| error.to_string())?;
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config).into())
    }
}

pub async fn connect(connector: &TlsConnector, socket: TcpStream, address: SocketAddr) -> Result<Socket, String> {
    let name = ServerName::from(address.ip());
    let stream = connector.connect(name, BufReader::with_capacity(READ_BYTES, socket)).await;
    Ok(Socket::Tls(Box::new(stream.map_err(|error| format!("TLS with {address}: {error}"))?)))
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Socket::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Socket::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Socket::Plain(stream) => Pin::new(stream).poll_flush(context),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Socket::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
