//! Who is believed. Chains are judged by webpki; on top of it come the rules of etcd that it does not know: allowed names,
//! lists of revoked serial numbers, and certificates that are trusted by themselves.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::{PemObject, SectionKind};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, OtherError, RootCertStore,
    SignatureScheme,
};

use super::certificate::{CertificateFields, Purpose, revoked_serials};
use super::files::{Cached, FileError, Reading};
use super::names::{AllowedNames, is_for_host};

/// Authorities, and the certificates they were read from.
pub struct Trusted {
    roots: Arc<RootCertStore>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Trusted {
    /// Those of a file, or of the system if there is none.
    pub fn load(reading: &mut Reading, file: Option<&Path>) -> Result<Self, FileError> {
        let mut roots = RootCertStore::empty();
        let certificates = match file {
            Some(path) => {
                let certificates = reading.certificates(path)?;
                for certificate in &certificates {
                    let added = roots.add(certificate.clone());
                    added.map_err(|error| FileError::new(path, format!("reading certificates: {error}")))?;
                }
                certificates
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                Vec::new()
            }
        };
        if roots.is_empty() {
            return Err(FileError::new(Path::new("the system's certificate authorities"), "there are none"));
        }
        Ok(Self { roots: Arc::new(roots), certificates })
    }

    /// A certificate that the operator trusts by itself is its own chain, as in Go. webpki knows only authorities: it
    /// would refuse the certificates that `openssl req -x509` makes.
    fn has(&self, certificate: &CertificateDer<'_>, now: UnixTime, purpose: Purpose) -> bool {
        self.certificates.iter().any(|trusted| trusted == certificate)
            && CertificateFields::parse(certificate).is_ok_and(|fields| {
                let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
                fields.is_valid_at(now) && fields.may_be_used_for(purpose)
            })
    }
}

/// The serial numbers in `--client-crl-file` or `--peer-crl-file`, read for every certificate that is shown.
pub struct Revoked {
    path: PathBuf,
    serials: Cached<HashSet<Vec<u8>>>,
}

impl Revoked {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), serials: Cached::new() }
    }

    /// The serial numbers, in DER as etcd takes them or in PEM.
    pub fn serials(&self) -> Result<Arc<HashSet<Vec<u8>>>, FileError> {
        self.serials.get(|reading| {
            let content = reading.read(&self.path)?;
            let malformed = |error: &dyn fmt::Display| FileError::new(&self.path, error);
            if !content.trim_ascii_start().starts_with(b"-----BEGIN") {
                return revoked_serials(&content).map_err(|error| malformed(&error));
            }
            let mut serials = HashSet::new();
            let mut lists = 0;
            for list in CertificateRevocationListDer::pem_slice_iter(&content) {
                let list = list.map_err(|error| malformed(&error))?;
                serials.extend(revoked_serials(&list).map_err(|error| malformed(&error))?);
                lists += 1;
            }
            if lists == 0 { Err(malformed(&format!("holds no {:?}", SectionKind::Crl))) } else { Ok(serials) }
        })
    }

    /// Refuses a chain of which any certificate is revoked, and every chain while the list cannot be read.
    fn check<'a>(&self, chain: impl Iterator<Item = &'a CertificateDer<'a>>) -> Result<(), TlsError> {
        let serials = self.serials().map_err(|error| other(error.to_string()))?;
        for certificate in chain {
            let fields = CertificateFields::parse(certificate).map_err(|_| CertificateError::BadEncoding)?;
            if serials.contains(&fields.serial) {
                return Err(CertificateError::Revoked.into());
            }
        }
        Ok(())
    }
}

/// Judges those who connect.
pub struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    trusted: Trusted,
    allowed: AllowedNames,
    revoked: Option<Arc<Revoked>>,
}

impl ClientVerifier {
    pub fn new(
        trusted: Trusted,
        allowed: AllowedNames,
        revoked: Option<Arc<Revoked>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&trusted.roots), provider);
        let inner = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { inner, trusted, allowed, revoked })
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientVerifier").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        if let Err(error) = self.inner.verify_client_cert(end_entity, intermediates, now)
            && !self.trusted.has(end_entity, now, Purpose::Client)
        {
            return Err(error);
        }
        if !self.allowed.admit(end_entity) {
            return Err(other("client certificate authentication failed".to_owned()));
        }
        if let Some(revoked) = &self.revoked {
            revoked.check(std::iter::once(end_entity).chain(intermediates))?;
        }
        Ok(ClientCertVerified::assertion())
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

/// Judges those who are connected to. Names must be allowed here too, as in etcd.
pub struct ServerVerifier {
    inner: Arc<WebPkiServerVerifier>,
    trusted: Trusted,
    allowed: AllowedNames,
}

impl ServerVerifier {
    pub fn new(trusted: Trusted, allowed: AllowedNames, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::clone(&trusted.roots), provider);
        let inner = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { inner, trusted, allowed })
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServerVerifier").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let is_trusted_itself =
            || self.trusted.has(end_entity, now, Purpose::Server) && is_for_host(end_entity, &server_name.to_str());
        if let Err(error) = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            && !is_trusted_itself()
        {
            return Err(error);
        }
        if !self.allowed.admit(end_entity) {
            return Err(other("client certificate authentication failed".to_owned()));
        }
        Ok(ServerCertVerified::assertion())
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

/// Believes every certificate, but still that the other side holds its key: for members that made theirs for themselves.
#[derive(Debug)]
pub struct TakesAny(pub Arc<CryptoProvider>);

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

/// A reason of our own in rustls's words.
fn other(reason: String) -> TlsError {
    CertificateError::Other(OtherError(Arc::new(Reason(reason)))).into()
}

struct Reason(String);

impl fmt::Debug for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Reason {}
