//! TLS on rustls. Certificates are checked against a given CA or the system's, unless the configuration says plainly
//! that they shall not be.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kvorum_net::trust::{ServerVerifier, TakesAny, Trusted};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::io::Duplex;
use crate::error::Error;

/// How endpoints with `https://` are spoken to.
///
/// ```no_run
/// # fn main() -> Result<(), kvorum_client::Error> {
/// use kvorum_client::{Config, Tls};
///
/// let tls = Tls::new().ca_file("ca.crt").identity_files("client.crt", "client.key");
/// let config = Config::new(["https://etcd.example:2379"]).tls(tls)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Tls {
    authorities: Option<Source>,
    identity: Option<(Source, Source)>,
    server_name: Option<String>,
    insecure_skip_verify: bool,
    rustls: Option<Arc<ClientConfig>>,
}

/// Where PEM comes from.
#[derive(Clone)]
enum Source {
    Memory(Vec<u8>),
    /// Read for every connection.
    File(PathBuf),
}

impl Source {
    fn is_file(&self) -> bool {
        matches!(self, Source::File(_))
    }

    fn read(&self, what: &str) -> Result<Cow<'_, [u8]>, Error> {
        match self {
            Source::Memory(pem) => Ok(pem.as_slice().into()),
            Source::File(path) => std::fs::read(path).map(Cow::Owned).map_err(|error| self.refuse(what, &error)),
        }
    }

    /// An error that names the file, and nothing of what is in it.
    fn refuse(&self, what: &str, error: &dyn fmt::Display) -> Error {
        match self {
            Source::Memory(_) => refuse(what, error),
            Source::File(path) => refuse(&format!("{what} ({})", path.display()), error),
        }
    }
}

fn refuse(what: &str, error: &dyn fmt::Display) -> Error {
    Error::configuration(format!("TLS: {what}: {error}"))
}

impl Tls {
    /// The system's certificate authorities, and no client certificate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these authorities (PEM) instead of the system's. A certificate of a server may be among them itself.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities = Some(Source::Memory(pem.into()));
        self
    }

    /// As [`Self::ca_pem`], from a file that is read again for every connection. etcdctl's `--cacert`.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.authorities = Some(Source::File(path.into()));
        self
    }

    /// Shows this certificate chain and proves it with this key (both PEM).
    #[must_use]
    pub fn identity_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((Source::Memory(certificate.into()), Source::Memory(key.into())));
        self
    }

    /// As [`Self::identity_pem`], from files that are read again for every connection, so that a renewed certificate is
    /// shown without a new client. etcdctl's `--cert` and `--key`.
    #[must_use]
    pub fn identity_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((Source::File(certificate.into()), Source::File(key.into())));
        self
    }

    /// Expects certificates for this name instead of the endpoint's host.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Takes any certificate: whoever sits between can read and change everything. etcdctl's `--insecure-skip-tls-verify`.
    #[must_use]
    pub fn insecure_skip_verify(mut self) -> Self {
        self.insecure_skip_verify = true;
        self
    }

    /// Uses a configuration of your own, with the cryptography provider of your choice. Of the other options only
    /// [`Self::server_name`] counts then.
    #[must_use]
    pub fn rustls(mut self, config: Arc<ClientConfig>) -> Self {
        self.rustls = Some(config);
        self
    }

    /// What these options come to for rustls, without a protocol to agree on: for what else is asked of the same servers,
    /// such as the page of their metrics. Files are read now, and [`Self::server_name`] is left to the caller.
    ///
    /// # Errors
    /// When a file cannot be read, or what is given does not fit together.
    pub fn rustls_config(&self) -> Result<Arc<ClientConfig>, Error> {
        match &self.rustls {
            Some(config) => Ok(Arc::clone(config)),
            None => self.client_config().map(Arc::new),
        }
    }

    pub(crate) fn build(self) -> Result<BuiltTls, Error> {
        let server_name = match &self.server_name {
            Some(name) => Some(ServerName::try_from(name.clone()).map_err(|error| refuse("the server name", &error))?),
            None => None,
        };
        let connector = self.connector()?;
        let has_files = self.authorities.as_ref().is_some_and(Source::is_file)
            || self.identity.as_ref().is_some_and(|(certificate, key)| certificate.is_file() || key.is_file());
        let files = (has_files && self.rustls.is_none()).then(|| Arc::new(self));
        Ok(BuiltTls { connector, server_name, files })
    }

    fn connector(&self) -> Result<TlsConnector, Error> {
        let mut config = (*self.rustls_config()?).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn client_config(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| refuse("protocol versions", &error))?;
        let verifier: Arc<dyn ServerCertVerifier> = if self.insecure_skip_verify {
            Arc::new(TakesAny(provider))
        } else {
            Arc::new(ServerVerifier::new(self.trusted()?, provider).map_err(|error| refuse("the CA", &error))?)
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let Some((certificate, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = certificates(certificate, "the client certificate")?;
        let pem = key.read("the client key")?;
        // The reason given by the parser may quote the line that it stopped at.
        let parsed = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| key.refuse("the client key", &"no private key in PEM that is not encrypted"))?;
        let paired = builder.with_client_auth_cert(chain, parsed);
        paired.map_err(|error| certificate.refuse("the client certificate and its key", &error))
    }

    fn trusted(&self) -> Result<Trusted, Error> {
        match &self.authorities {
            Some(source) => {
                let trusted = Trusted::these(certificates(source, "the CA")?);
                trusted.map_err(|error| source.refuse("the CA", &error))
            }
            None => match Trusted::system() {
                none if none.is_empty() => {
                    Err(refuse("no certificate authority", &"neither given nor found in the system"))
                }
                trusted => Ok(trusted),
            },
        }
    }
}

/// The certificates of a source; at least one.
fn certificates(source: &Source, what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = source.read(what)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match parsed {
        Ok(certificates) if certificates.is_empty() => Err(source.refuse(what, &"no certificate in PEM")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(source.refuse(what, &error)),
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tls").field("insecure_skip_verify", &self.insecure_skip_verify).finish_non_exhaustive()
    }
}

/// What connections use.
#[derive(Clone)]
pub struct BuiltTls {
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
    /// What to read again, if anything comes from files.
    files: Option<Arc<Tls>>,
}

/// Speaks TLS over a stream.
pub async fn handshake(tls: &BuiltTls, stream: Box<dyn Duplex>, host: &str) -> io::Result<Box<dyn Duplex>> {
    let name = match &tls.server_name {
        Some(name) => name.clone(),
        None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
    };
    let connector = match &tls.files {
        Some(files) => files.connector().map_err(|error| io::Error::other(error.to_string()))?,
        None => tls.connector.clone(),
    };
    Ok(Box::new(connector.connect(name, stream).await?))
}
