//! The side of a handshake that connects: to other members.

use std::io;
use std::sync::Arc;

use kvorum_net::stream::{ReadAhead, Stream};
use kvorum_net::trust::TakesAny;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::{ResolvesClientCert, Resumption};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ClientConfig, SignatureScheme};

use super::HANDSHAKE_TIMEOUT;
use super::files::{Cached, Reading};
use super::incoming::own_certificate;
use super::options::TlsOptions;
use super::verify::{AllowedServerVerifier, load_trusted};

/// How other members with `https://` URLs are spoken to. There is one also where no certificate is named: it has none to
/// show, and trusts the system's authorities.
pub struct OutgoingTls {
    options: TlsOptions,
    config: Cached<ClientConfig>,
}

impl OutgoingTls {
    /// Reads the files once if any are named, so that a start fails when they are of no use.
    pub fn new(options: TlsOptions) -> Result<Self, String> {
        let tls = Self { options, config: Cached::new() };
        if !tls.options.is_empty() || tls.options.trusted_ca_file.is_some() {
            tls.current()?;
        }
        Ok(tls)
    }

    fn current(&self) -> Result<Arc<ClientConfig>, String> {
        self.config.get(|reading| self.load(reading))
    }

    fn load(&self, reading: &mut Reading) -> Result<ClientConfig, String> {
        let options = &self.options;
        let provider = options.versions.provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&options.versions.protocols())
            .map_err(|error| error.to_string())?;
        let builder = builder.dangerous();
        let builder = if options.self_signed {
            builder.with_custom_certificate_verifier(Arc::new(TakesAny(provider)))
        } else {
            let trusted =
                load_trusted(reading, options.trusted_ca_file.as_deref()).map_err(|error| error.to_string())?;
            let verifier = AllowedServerVerifier::new(trusted, options.allowed_names(), provider)?;
            builder.with_custom_certificate_verifier(Arc::new(verifier))
        };
        let mut config = if options.is_empty() {
            builder.with_no_client_auth()
        } else {
            let own = options.own_files()?;
            let files = options.own_client_files()?.unwrap_or(own);
            let certificate = own_certificate(reading, files, options)?;
            builder.with_client_cert_resolver(Arc::new(Shows(Arc::new(certificate))))
        };
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// Shakes hands with the member at `host`, within [`HANDSHAKE_TIMEOUT`].
    pub async fn connect(&self, socket: TcpStream, host: &str) -> io::Result<Stream> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = self.current().map_err(io::Error::other)?;
        let connecting = TlsConnector::from(config).connect(name, ReadAhead::new(socket));
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "TLS handshake: i/o timeout");
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(late)??;
        Ok(Stream::Secured(Box::new(stream.into())))
    }
}

/// Shows its certificate to whoever asks for one, whatever authorities they name, as Go's client does for etcd.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
