//! What an operator asks for on one port: etcd's `TLSInfo`.

use std::path::{Path, PathBuf};

use super::names::AllowedNames;
use super::versions::Versions;

/// Files and rules of one side of a member: its clients, or the other members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Shown to whoever connects; and when this member connects, unless there is a `client_cert_file`.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Shown when this member connects.
    pub client_cert_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    /// The authorities that others' certificates must come from; the system's are taken without it.
    pub trusted_ca_file: Option<PathBuf>,
    /// Whoever connects must show a certificate. Naming a `trusted_ca_file` asks for the same.
    pub client_cert_auth: bool,
    /// Certificates with these serial numbers are refused.
    pub crl_file: Option<PathBuf>,
    /// Certificates must have one of these common names, if there are any.
    pub allowed_cns: Vec<String>,
    /// Certificates must be for one of these hosts, if there are any.
    pub allowed_hostnames: Vec<String>,
    /// Do not compare addresses in certificates of those who connect with the address they connect from.
    pub skip_client_san_verification: bool,
    /// The member made its certificate for itself: others of its kind are taken without verification.
    pub self_signed: bool,
    pub versions: Versions,
}

impl TlsOptions {
    /// Neither certificate nor key is named: etcd's `TLSInfo.Empty`.
    pub fn is_empty(&self) -> bool {
        self.cert_file.is_none() && self.key_file.is_none()
    }

    /// Whether whoever connects must show a certificate, as etcd decides it.
    pub fn demands_certificates(&self) -> bool {
        self.client_cert_auth || self.trusted_ca_file.is_some()
    }

    pub(super) fn allowed_names(&self) -> AllowedNames {
        if !self.allowed_cns.is_empty() {
            return AllowedNames::CommonNames(self.allowed_cns.clone());
        }
        match self.allowed_hostnames.as_slice() {
            [] => AllowedNames::Any,
            names => AllowedNames::Hostnames(names.to_vec()),
        }
    }

    /// The certificate and key shown to those who connect. The text of the error is etcd's.
    pub(super) fn own_files(&self) -> Result<(&Path, &Path), String> {
        match (&self.cert_file, &self.key_file) {
            (Some(certificate), Some(key)) => Ok((certificate, key)),
            _ => Err(format!(
                "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                shown(self.key_file.as_deref()),
                shown(self.cert_file.as_deref())
            )),
        }
    }

    /// The certificate and key for calls of its own, if there is one of them alone. The text of the error is etcd's.
    pub(super) fn own_client_files(&self) -> Result<Option<(&Path, &Path)>, String> {
        match (&self.client_cert_file, &self.client_key_file) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            _ => Err(format!(
                "ClientKeyFile and ClientCertFile must both be present or both absent: key: {}, cert: {}]",
                shown(self.client_key_file.as_deref()),
                shown(self.client_cert_file.as_deref())
            )),
        }
    }

    /// Whether certificates and keys are named in pairs.
    pub fn check_pairs(&self) -> Result<(), String> {
        self.own_files()?;
        self.own_client_files().map(drop)
    }

    /// The line of the log that etcd writes for it.
    pub fn describe(&self) -> String {
        format!(
            "cert = {}, key = {}, client-cert={}, client-key={}, trusted-ca = {}, client-cert-auth = {}, crl-file = {}",
            shown(self.cert_file.as_deref()),
            shown(self.key_file.as_deref()),
            shown(self.client_cert_file.as_deref()),
            shown(self.client_key_file.as_deref()),
            shown(self.trusted_ca_file.as_deref()),
            self.client_cert_auth,
            shown(self.crl_file.as_deref()),
        )
    }
}

fn shown(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| path.display().to_string())
}
