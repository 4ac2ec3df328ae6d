//! TLS on rustls. Certificates are checked against a given CA or the system's, unless the configuration says plainly
//! that they shall not be.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

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
        let mut config = match &self.rustls {
            Some(config) => (**config).clone(),
            None => self.client_config()?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn client_config(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| refuse("protocol versions", &error))?;
        let verifier: Arc<dyn ServerCertVerifier> =
            if self.insecure_skip_verify { Arc::new(TakesAny(provider)) } else { Arc::new(self.verifier(provider)?) };
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

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Verifier, Error> {
        let mut roots = RootCertStore::empty();
        let mut trusted = Vec::new();
        match &self.authorities {
            Some(source) => {
                trusted = certificates(source, "the CA")?;
                for certificate in &trusted {
                    roots.add(certificate.clone()).map_err(|error| source.refuse("the CA", &error))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(refuse("no certificate authority", &"neither given nor found in the system"));
                }
            }
        }
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Verifier { inner: inner.map_err(|error| refuse("the CA", &error))?, trusted })
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

/// webpki's judgement, except that a certificate which is trusted by itself needs no authority: webpki would refuse those
/// that `openssl req -x509` and `--auto-tls` make, and Go takes them.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // Dates were found in order before these two: nobody known has signed it, or it is an authority's own.
            Err(TlsError::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_)))
                if self.trusted.iter().any(|trusted| trusted == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Believes every certificate, but still that the peer holds its key.
#[derive(Debug)]
struct TakesAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
