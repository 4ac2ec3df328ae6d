//! Certificates that a member makes for itself (`--auto-tls`, `--peer-auto-tls`), in the files that etcd puts them in.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, absolute};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P521_SHA512, SanType,
};

use super::options::TlsOptions;
use crate::log::format_time;
use crate::urls::Url;

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Options with a certificate of the member's own for the hosts of `urls`, in `folder`: the one that is there, or a new one
/// that is valid for some years. `options` gives versions and suites.
pub fn self_signed(folder: &Path, urls: &[Url], years: u64, options: &TlsOptions) -> Result<TlsOptions, String> {
    if years == 0 {
        return Err("selfSignedCertValidity is invalid,it should be greater than 0".to_owned());
    }
    let failed = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| failed(folder, &error))?;
    let folder = absolute(folder).map_err(|error| failed(folder, &error))?;
    let (certificate_file, key_file) = (folder.join("cert.pem"), folder.join("key.pem"));
    if !(certificate_file.exists() && key_file.exists()) {
        let (certificate, key) = make(urls, years)?;
        write(&certificate_file, &certificate).map_err(|error| failed(&certificate_file, &error))?;
        tracing::info!(path = %certificate_file.display(), "created cert file");
        write(&key_file, &key).map_err(|error| failed(&key_file, &error))?;
        tracing::info!(path = %key_file.display(), "created key file");
    }
    Ok(TlsOptions {
        client_cert_file: Some(certificate_file.clone()),
        client_key_file: Some(key_file.clone()),
        cert_file: Some(certificate_file),
        key_file: Some(key_file),
        self_signed: true,
        versions: options.versions.clone(),
        ..TlsOptions::default()
    })
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Certificate and key in PEM: ECDSA with P-521, good for both sides of a handshake.
fn make(urls: &[Url], years: u64) -> Result<(String, String), String> {
    let failed = |error: rcgen::Error| format!("cannot generate a certificate: {error}");
    let now = SystemTime::now();
    let years = u32::try_from(years).ok().and_then(|years| YEAR.checked_mul(years));
    let end = years.and_then(|validity| now.checked_add(validity)).ok_or("the validity is too long")?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, "etcd");
    (parameters.not_before, parameters.not_after) = (now.into(), end.into());
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages =
        vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for url in urls {
        let host = url.host();
        parameters.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into().map_err(failed)?),
        });
    }
    tracing::warn!(
        "certificate-validity-bound-not-after" = format_time(end).as_str(),
        "automatically generate certificates"
    );
    let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).map_err(failed)?;
    let certificate = parameters.self_signed(&key).map_err(failed)?;
    Ok((certificate.pem(), key.serialize_pem()))
}
