//! The side of a handshake that is connected to.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use kvorum_net::certificate::CertificateFields;
use kvorum_net::stream::{ReadAhead, Stream};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::HANDSHAKE_TIMEOUT;
use super::files::{Cached, Reading};
use super::names::check_address;
use super::options::TlsOptions;
use super::verify::{ClientVerifier, Revoked, load_trusted};

/// What ports do differently.
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    /// "client" or "peer", for the log.
    pub endpoint: &'static str,
    /// Whether certificates must be for the address they come from, unless the options say otherwise: the ports for
    /// members and for metrics.
    pub addresses: bool,
    /// In order of preference; empty where no protocol is agreed on.
    pub protocols: &'static [&'static [u8]],
}

/// A port's TLS.
pub struct IncomingTls {
    options: TlsOptions,
    checks: Checks,
    revoked: Option<Arc<Revoked>>,
    config: Cached<ServerConfig>,
}

/// Why a connection was refused.
struct Refused {
    error: io::Error,
    certificate: Option<Box<CertificateFields>>,
}

/// A connection whose handshake is done.
pub struct Accepted {
    pub stream: Stream,
    /// What the client chose of the protocols.
    pub protocol: Option<Vec<u8>>,
    /// The certificate of the other side, which was verified.
    pub certificate: Option<CertificateFields>,
}

impl IncomingTls {
    /// Reads all files once, so that a start fails when they are of no use.
    pub fn new(options: TlsOptions, checks: Checks) -> Result<Self, String> {
        let revoked = options.crl_file.as_deref().map(|path| Arc::new(Revoked::new(path)));
        let tls = Self { options, checks, revoked, config: Cached::new() };
        tls.current()?;
        if let Some(files) = tls.options.own_client_files()? {
            let mut reading = Reading::default();
            own_certificate(&mut reading, files, &tls.options)?;
        }
        Ok(tls)
    }

    /// Whether common names in certificates are names of users.
    pub fn names_users(&self) -> bool {
        self.options.client_cert_auth
    }

    fn current(&self) -> Result<Arc<ServerConfig>, String> {
        self.config.get(|reading| self.load(reading))
    }

    fn load(&self, reading: &mut Reading) -> Result<ServerConfig, String> {
        let options = &self.options;
        let provider = options.versions.provider();
        let certificate = own_certificate(reading, options.own_files()?, options)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&options.versions.protocols())
            .map_err(|error| error.to_string())?;
        let builder = if options.demands_certificates() {
            let trusted =
                load_trusted(reading, options.trusted_ca_file.as_deref()).map_err(|error| error.to_string())?;
            let verifier = ClientVerifier::new(trusted, options.allowed_names(), self.revoked.clone(), provider)?;
            builder.with_client_cert_verifier(Arc::new(verifier))
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
        config.alpn_protocols = self.checks.protocols.iter().map(|name| name.to_vec()).collect();
        // A resumed session would go by the certificates, authorities and revocations of an earlier day.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Shakes hands, within [`HANDSHAKE_TIMEOUT`]. A refusal is logged here.
    pub async fn accept(&self, socket: TcpStream) -> Option<Accepted> {
        let address = socket.peer_addr().ok()?;
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.shake_hands(socket, address)).await;
        let late = || Refused::new(io::Error::new(io::ErrorKind::TimedOut, "TLS handshake: i/o timeout"));
        match shaken.unwrap_or_else(|_| Err(late())) {
            Ok(accepted) => Some(accepted),
            Err(refused) => {
                self.note(address, &refused);
                None
            }
        }
    }

    async fn shake_hands(&self, socket: TcpStream, address: SocketAddr) -> Result<Accepted, Refused> {
        let config = self.current().map_err(|error| Refused::new(io::Error::other(error)))?;
        let stream = TlsAcceptor::from(config).accept(ReadAhead::new(socket)).await.map_err(Refused::new)?;
        let session = stream.get_ref().1;
        let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
        let certificate = match session.peer_certificates().and_then(<[_]>::first) {
            None => None,
            Some(certificate) => {
                let fields = CertificateFields::parse(certificate);
                Some(fields.map_err(|error| Refused::new(io::Error::other(error.to_string())))?)
            }
        };
        if let Some(fields) = &certificate
            && self.checks.addresses
            && !self.options.skip_client_san_verification
            && let Err(reason) = check_address(fields, address.ip()).await
        {
            return Err(Refused { error: io::Error::other(reason), certificate: certificate.map(Box::new) });
        }
        Ok(Accepted { stream: Stream::Secured(Box::new(stream.into())), protocol, certificate })
    }

    fn note(&self, address: SocketAddr, refused: &Refused) {
        let endpoint = self.checks.endpoint;
        let address = address.to_string();
        let error = refused.to_string();
        // Whoever only knocks is not worth a warning.
        if refused.error.kind() == io::ErrorKind::UnexpectedEof {
            return tracing::debug!("remote-addr" = address, error, "rejected connection on {endpoint} endpoint");
        }
        match &refused.certificate {
            None => tracing::warn!("remote-addr" = address, error, "rejected connection on {endpoint} endpoint"),
            Some(fields) => tracing::warn!(
                "remote-addr" = address,
                "ip-addresses" = ?fields.ip_addresses,
                "dns-names" = ?fields.dns_names,
                error,
                "rejected connection on {endpoint} endpoint"
            ),
        }
    }
}

impl Refused {
    fn new(error: io::Error) -> Self {
        Self { error, certificate: None }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.error.kind() == io::ErrorKind::UnexpectedEof {
            formatter.write_str("EOF")
        } else {
            self.error.fmt(formatter)
        }
    }
}

/// A certificate and its key, which must belong together.
pub fn own_certificate(
    reading: &mut Reading,
    (certificate_file, key_file): (&std::path::Path, &std::path::Path),
    options: &TlsOptions,
) -> Result<CertifiedKey, String> {
    let chain = reading.certificates(certificate_file).map_err(|error| error.to_string())?;
    let key = reading.key(key_file).map_err(|error| error.to_string())?;
    CertifiedKey::from_der(chain, key, &options.versions.provider()).map_err(|error| {
        format!("{} and {} cannot be used together: {error}", certificate_file.display(), key_file.display())
    })
}
