//! TLS on rustls. Certificates are checked against a given CA or the system's, unless the configuration says plainly
//! that they shall not be.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme};

use super::io::Duplex;
use crate::error::Error;

/// How endpoints with `https://` are spoken to.
///
/// ```no_run
/// # fn main() -> Result<(), kvorum_client::Error> {
/// use kvorum_client::{Config, Tls};
///
/// let read = |name: &str| std::fs::read(name).expect("the file is there");
/// let tls = Tls::new().ca_pem(read("ca.crt")).identity_pem(read("client.crt"), read("client.key"));
/// let config = Config::new(["https://etcd.example:2379"]).tls(tls)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Tls {
    ca_pem: Option<Vec<u8>>,
    identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
    insecure_skip_verify: bool,
    rustls: Option<Arc<ClientConfig>>,
}

impl Tls {
    /// The system's certificate authorities, and no client certificate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these authorities (PEM) instead of the system's. etcdctl's `--cacert`.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }

    /// Shows this certificate chain and proves it with this key (both PEM). etcdctl's `--cert` and `--key`.
    #[must_use]
    pub fn identity_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity_pem = Some((certificate.into(), key.into()));
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
        let refuse = |what: &str, error: &dyn fmt::Display| Error::configuration(format!("TLS: {what}: {error}"));
        let server_name = match &self.server_name {
            Some(name) => Some(ServerName::try_from(name.clone()).map_err(|error| refuse("the server name", &error))?),
            None => None,
        };
        let mut config = match &self.rustls {
            Some(config) => (**config).clone(),
            None => self.client_config(&refuse)?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(BuiltTls { connector: TlsConnector::from(Arc::new(config)), server_name })
    }

    fn client_config(&self, refuse: &dyn Fn(&str, &dyn fmt::Display) -> Error) -> Result<ClientConfig, Error> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| refuse("protocol versions", &error))?;
        let builder = if self.insecure_skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TakesAny(provider)))
        } else {
            builder.with_root_certificates(self.roots(refuse)?)
        };
        let Some((certificate, key)) = &self.identity_pem else { return Ok(builder.with_no_client_auth()) };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| refuse("the client certificate", &error))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| refuse("the client key", &error))?;
        builder.with_client_auth_cert(chain, key).map_err(|error| refuse("the client certificate and key", &error))
    }

    fn roots(&self, refuse: &dyn Fn(&str, &dyn fmt::Display) -> Error) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        match &self.ca_pem {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|error| refuse("the CA", &error))?;
                    roots.add(certificate).map_err(|error| refuse("the CA", &error))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err(refuse("no certificate authority", &"neither given nor found in the system"));
        }
        Ok(roots)
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
}

/// Speaks TLS over a stream.
pub async fn handshake(tls: &BuiltTls, stream: Box<dyn Duplex>, host: &str) -> io::Result<Box<dyn Duplex>> {
    let name = match &tls.server_name {
        Some(name) => name.clone(),
        None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
    };
    Ok(Box::new(tls.connector.connect(name, stream).await?))
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
