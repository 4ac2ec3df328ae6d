//! Certificates for tests of TLS: authorities, what they sign, and lists of what they revoked, written to a folder.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P521_SHA512, RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm, date_time_ymd,
};

/// Who signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What a certificate is to say. The default is one without names that is valid and good for both sides of a handshake.
#[derive(Clone)]
pub struct Wanted {
    pub common_name: &'static str,
    /// DNS names and addresses.
    pub names: &'static [&'static str],
    /// First and last year.
    pub years: (i32, i32),
    pub uses: Vec<ExtendedKeyUsagePurpose>,
    pub curve: &'static SignatureAlgorithm,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            common_name: "",
            names: &[],
            years: (2000, 2999),
            uses: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            curve: &PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl Wanted {
    /// With etcd's own curve for certificates it makes.
    pub fn p521() -> Self {
        Self { curve: &PKCS_ECDSA_P521_SHA512, ..Self::default() }
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
    pub serial: u64,
}

static SERIAL: AtomicU64 = AtomicU64::new(1000);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (parameters.not_before, parameters.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2999, 1, 1));
        let key = KeyPair::generate().expect("a key");
        let pem = parameters.self_signed(&key).expect("an authority").pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub fn issue(&self, wanted: Wanted) -> Issued {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut parameters = CertificateParams::default();
        parameters.serial_number = Some(SerialNumber::from(serial));
        parameters.distinguished_name = DistinguishedName::new();
        if !wanted.common_name.is_empty() {
            parameters.distinguished_name.push(DnType::CommonName, wanted.common_name);
        }
        parameters.not_before = date_time_ymd(wanted.years.0, 1, 1);
        parameters.not_after = date_time_ymd(wanted.years.1, 1, 1);
        parameters.extended_key_usages = wanted.uses;
        parameters.subject_alt_names = wanted.names.iter().map(|name| subject_alt_name(name)).collect();
        let key = KeyPair::generate_for(wanted.curve).expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Issued { certificate, key: key.serialize_pem(), serial }
    }

    /// A list of these serial numbers that is in force, in DER and in PEM.
    pub fn revoke(&self, serials: &[u64]) -> (Vec<u8>, String) {
        self.revoke_until(serials, 2999)
    }

    /// One that was to be followed by another at the beginning of this year.
    pub fn revoke_until(&self, serials: &[u64], next_update_year: i32) -> (Vec<u8>, String) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(next_update_year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("a list");
        (list.der().to_vec(), list.pem().expect("PEM"))
    }
}

fn subject_alt_name(name: &str) -> SanType {
    match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into().expect("a DNS name")),
    }
}

/// Puts a file into a folder.
pub fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a file is written");
    path
}

/// Puts `name.crt` and `name.key` into a folder.
pub fn write_pair(folder: &Path, name: &str, issued: &Issued) -> (PathBuf, PathBuf) {
    (write(folder, &format!("{name}.crt"), &issued.certificate), write(folder, &format!("{name}.key"), &issued.key))
}
