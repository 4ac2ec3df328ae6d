//! TLS of the load: a certificate for a server that is measured, and connections that trust it. The suites are offered in
//! the order of Go's clients, so that servers which go by the client's order choose what they would for those.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_net::stream::{ReadAhead, Stream};
use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{CipherSuite, ClientConfig, RootCertStore};

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

pub async fn connect(connector: &TlsConnector, socket: TcpStream, address: SocketAddr) -> Result<Stream, String> {
    let name = ServerName::from(address.ip());
    let stream = connector.connect(name, ReadAhead::new(socket)).await;
    Ok(Stream::Secured(Box::new(stream.map_err(|error| format!("TLS with {address}: {error}"))?.into())))
}
