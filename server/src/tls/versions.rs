//! Versions and cipher suites by the names that etcd (that is, Go) has for them.

use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::{CipherSuite, SupportedProtocolVersion, version};

use crate::urls::quote;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

impl TlsVersion {
    /// The value of `--tls-min-version` or `--tls-max-version`; `None` for the empty text, which leaves it open.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        match text {
            "" => Ok(None),
            "TLS1.2" => Ok(Some(Self::Tls12)),
            "TLS1.3" => Ok(Some(Self::Tls13)),
            other => Err(format!("unexpected TLS version {} (must be one of: TLS1.2, TLS1.3)", quote(other))),
        }
    }
}

/// Suites of TLS 1.2 that there are here, by Go's names; two have a short one too.
const SUITES: &[(&str, CipherSuite)] = &[
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Suites that etcd takes and that are not served here: the ones of TLS 1.3, whose choice Go leaves to nobody, and those
/// of TLS 1.2 without forward secrecy or with CBC or RC4.
const TLS13_SUITES: &[&str] = &["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
const WEAK_SUITES: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

/// Which versions and suites are spoken. The default is every one there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// `None`: TLS 1.2.
    pub min: Option<TlsVersion>,
    /// `None`: the newest.
    pub max: Option<TlsVersion>,
    /// Names of suites for TLS 1.2; empty for all.
    pub cipher_suites: Vec<String>,
}

impl Versions {
    /// Checks that they make sense together; etcd's texts where it has one. Gives those names that etcd knows and that are
    /// not served here, for a warning.
    pub fn check(&self) -> Result<Vec<String>, String> {
        if let (Some(min), Some(max)) = (self.min, self.max)
            && min > max
        {
            return Err("min version (TLS1.3) is greater than max version (TLS1.2)".to_owned());
        }
        if self.min == Some(TlsVersion::Tls13) && !self.cipher_suites.is_empty() {
            return Err("cipher suites cannot be configured when only TLS1.3 is enabled".to_owned());
        }
        let known = |name: &str| {
            SUITES.iter().any(|(suite, _)| *suite == name)
                || TLS13_SUITES.contains(&name)
                || WEAK_SUITES.contains(&name)
        };
        if let Some(unknown) = self.cipher_suites.iter().find(|name| !known(name)) {
            return Err(format!("unexpected TLS cipher suite {}", quote(unknown)));
        }
        let left: Vec<String> =
            self.cipher_suites.iter().filter(|name| WEAK_SUITES.contains(&name.as_str())).cloned().collect();
        if !left.is_empty() && left.len() == self.cipher_suites.len() {
            return Err(format!("none of the cipher suites [{}] is supported by Kvorum", left.join(" ")));
        }
        Ok(left)
    }

    pub(super) fn protocols(&self) -> Vec<&'static SupportedProtocolVersion> {
        let (min, max) = (self.min.unwrap_or(TlsVersion::Tls12), self.max.unwrap_or(TlsVersion::Tls13));
        [(TlsVersion::Tls13, &version::TLS13), (TlsVersion::Tls12, &version::TLS12)]
            .into_iter()
            .filter(|(version, _)| (min..=max).contains(version))
            .map(|(_, protocol)| protocol)
            .collect()
    }

    /// AWS-LC with the suites that were asked for, and all of TLS 1.3.
    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = aws_lc_rs::default_provider();
        if !self.cipher_suites.is_empty() {
            let wanted: Vec<CipherSuite> = SUITES
                .iter()
                .filter(|(name, _)| self.cipher_suites.iter().any(|wanted| wanted == name))
                .map(|(_, suite)| *suite)
                .collect();
            provider.cipher_suites.retain(|suite| suite.tls13().is_some() || wanted.contains(&suite.suite()));
        }
        Arc::new(provider)
    }
}
