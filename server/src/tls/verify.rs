//! Who is believed: beyond what [`kvorum_net::trust`] judges come the rules of etcd's flags, allowed names and lists of
//! revoked serial numbers.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_net::certificate::{CertificateFields, Purpose, revoked_serials};
use kvorum_net::trust::{ServerVerifier, Trusted};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::{PemObject, SectionKind};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, OtherError, SignatureScheme,
};

use super::files::{Cached, FileError, Reading};
use super::names::AllowedNames;

/// Whom the operator trusts: the authorities of a file, or of the system if there is none.
pub fn load_trusted(reading: &mut Reading, file: Option<&Path>) -> Result<Trusted, FileError> {
    let trusted = match file {
        Some(path) => {
            let unusable = |error| FileError::new(path, format!("reading certificates: {error}"));
            Trusted::these(reading.certificates(path)?).map_err(unusable)?
        }
        None => Trusted::system(),
    };
    if trusted.is_empty() {
        return Err(FileError::new(Path::new("the system's certificate authorities"), "there are none"));
    }
    Ok(trusted)
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
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(trusted.roots()), provider);
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
#[derive(Debug)]
pub struct AllowedServerVerifier {
    inner: ServerVerifier,
    allowed: AllowedNames,
}

impl AllowedServerVerifier {
    pub fn new(trusted: Trusted, allowed: AllowedNames, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let inner = ServerVerifier::new(trusted, provider).map_err(|error| error.to_string())?;
        Ok(Self { inner, allowed })
    }
}

impl ServerCertVerifier for AllowedServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        if !self.allowed.admit(end_entity) {
            return Err(other("client certificate authentication failed".to_owned()));
        }
        Ok(verified)
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
