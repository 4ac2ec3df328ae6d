//! The flags of TLS: what they come to, which of them make no sense together, and what is worth a warning. Texts are etcd's
//! where it has one. Where etcd would take a flag and not enforce it, the start is refused.

use super::arguments::Values;
use super::{Config, ConfigError, Notice, error};
use crate::log::{Level, Value as LogValue};
use crate::tls::{TlsOptions, TlsVersion, Versions};
use crate::urls::{Scheme, Url};

/// The flags of one side: "" for clients and "peer-" for members.
pub(super) fn options(values: &Values, prefix: &str) -> Result<TlsOptions, ConfigError> {
    let path = |name: &str| {
        let text = values.text(&format!("{prefix}{name}"));
        (!text.is_empty()).then(|| text.into())
    };
    let of_peers = prefix == "peer-";
    let (crl_file, allowed_hostnames) = if of_peers {
        (path("crl-file"), values.texts("peer-cert-allowed-hostname"))
    } else {
        (path("client-crl-file"), values.texts("client-cert-allowed-hostname"))
    };
    Ok(TlsOptions {
        cert_file: path("cert-file"),
        key_file: path("key-file"),
        client_cert_file: path("client-cert-file"),
        client_key_file: path("client-key-file"),
        trusted_ca_file: path("trusted-ca-file"),
        client_cert_auth: values.bool(&format!("{prefix}client-cert-auth")),
        crl_file,
        allowed_cns: if of_peers { values.texts("peer-cert-allowed-cn") } else { Vec::new() },
        allowed_hostnames,
        skip_client_san_verification: of_peers && values.bool("peer-skip-client-san-verification"),
        self_signed: false,
        versions: versions(values)?,
    })
}

fn versions(values: &Values) -> Result<Versions, ConfigError> {
    let version = |name: &str| TlsVersion::parse(&values.text(name)).map_err(ConfigError);
    let (min, max) = (version("tls-min-version")?, version("tls-max-version")?);
    Ok(Versions { min, max, cipher_suites: values.texts("cipher-suites") })
}

/// One side's options with the names of its flags.
struct Side<'a> {
    options: &'a TlsOptions,
    auto: bool,
    prefix: &'static str,
    crl_flag: &'static str,
    urls: Vec<&'a Url>,
}

impl Config {
    fn tls_sides(&self) -> [Side<'_>; 2] {
        let metrics = self.listen_metrics_urls.iter().filter(|url| is_secure(url));
        [
            Side {
                options: &self.peer_tls,
                auto: self.peer_auto_tls,
                prefix: "peer-",
                crl_flag: "peer-crl-file",
                urls: self.listen_peer_urls.iter().collect(),
            },
            Side {
                options: &self.client_tls,
                auto: self.client_auto_tls,
                prefix: "",
                crl_flag: "client-crl-file",
                urls: self.listen_client_urls.iter().chain(&self.listen_client_http_urls).chain(metrics).collect(),
            },
        ]
    }

    pub(super) fn validate_tls(&self) -> Result<(), ConfigError> {
        for side in self.tls_sides() {
            side.options.versions.check().map_err(ConfigError)?;
            side.check_enforced()?;
            side.check_files()?;
        }
        let has_certificate = |options: &TlsOptions, auto| auto || !options.is_empty();
        if let Some(url) = self.listen_peer_urls.iter().find(|url| is_secure(url))
            && !has_certificate(&self.peer_tls, self.peer_auto_tls)
        {
            return error(format!(
                "cannot listen on TLS for {}: KeyFile and CertFile are not presented",
                url.host_port()
            ));
        }
        if has_certificate(&self.client_tls, self.client_auto_tls) {
            return Ok(());
        }
        let mut client_urls = self.listen_client_urls.iter().chain(&self.listen_client_http_urls);
        if let Some(url) = client_urls.find(|url| is_secure(url)) {
            return error(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
            ));
        }
        if self.listen_metrics_urls.iter().any(is_secure) {
            return error("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url");
        }
        Ok(())
    }

    pub(super) fn tls_notices(&self) -> Vec<Notice> {
        let mut notices = Vec::new();
        for side in self.tls_sides() {
            let of_peers = side.prefix == "peer-";
            let (scheme, field) = if of_peers { ("HTTP", "peer-url") } else { ("http or unix", "client-url") };
            let mut warn = |message: String, url: &Url| {
                let fields = vec![(field, LogValue::Text(url.to_string()))];
                notices.push(Notice::new(Level::Warn, &message, fields));
            };
            for url in side.urls.iter().filter(|url| !is_secure(url)) {
                if !side.options.is_empty() {
                    warn(
                        format!("scheme is {scheme} while key and cert files are present; ignoring key and cert files"),
                        url,
                    );
                }
                if side.options.client_cert_auth {
                    let flag = format!("--{}client-cert-auth", side.prefix);
                    warn(
                        format!("scheme is {scheme} while {flag} is enabled; ignoring client cert auth for this URL"),
                        url,
                    );
                }
            }
            if side.auto && !side.options.is_empty() {
                let whose = if of_peers { "peer" } else { "client" };
                let message = format!("ignoring {whose} auto TLS since certs given");
                notices.push(Notice::new(Level::Warn, &message, Vec::new()));
            }
        }
        // The suites are those of both sides; `validate` has found that they can be used.
        let left = self.client_tls.versions.check().unwrap_or_default();
        if !left.is_empty() {
            let message = "cipher suites without forward secrecy, or with CBC or RC4, are not served";
            notices.push(Notice::new(Level::Warn, message, vec![("cipher-suites", LogValue::List(left))]));
        }
        notices
    }
}

impl Side<'_> {
    /// The first flag that only means something for certificates of others, with its name.
    fn rule_for_others(&self) -> Option<String> {
        let Side { options, prefix, crl_flag, .. } = self;
        if options.crl_file.is_some() {
            return Some(format!("--{crl_flag}"));
        }
        let who = if prefix.is_empty() { "client-" } else { prefix };
        if !options.allowed_cns.is_empty() {
            return Some(format!("--{who}cert-allowed-cn"));
        }
        (!options.allowed_hostnames.is_empty()).then(|| format!("--{who}cert-allowed-hostname"))
    }

    /// What etcd takes and does not enforce.
    fn check_enforced(&self) -> Result<(), ConfigError> {
        let Side { options, prefix, .. } = self;
        if !options.allowed_cns.is_empty() && !options.allowed_hostnames.is_empty() {
            return error(format!(
                "AllowedCNs and AllowedHostnames are mutually exclusive (cns={:?}, hostnames={:?})",
                options.allowed_cns, options.allowed_hostnames
            ));
        }
        if let Some(flag) = self.rule_for_others()
            && !options.demands_certificates()
        {
            return error(format!(
                "{flag} needs --{prefix}trusted-ca-file or --{prefix}client-cert-auth: \
                 without them nobody is asked for a certificate"
            ));
        }
        if self.auto && options.is_empty() && options.demands_certificates() {
            return error(format!(
                "--{prefix}auto-tls asks nobody for a certificate: it cannot be used with --{prefix}trusted-ca-file or \
                 --{prefix}client-cert-auth"
            ));
        }
        if options.is_empty() && (options.client_cert_file.is_some() || options.client_key_file.is_some()) {
            return error(format!(
                "--{prefix}client-cert-file and --{prefix}client-key-file need --{prefix}cert-file and --{prefix}key-file"
            ));
        }
        Ok(())
    }

    /// Pairs that must be complete where they are used: for members always, since they also connect.
    fn check_files(&self) -> Result<(), ConfigError> {
        let is_used = self.prefix == "peer-" || self.urls.iter().any(|url| is_secure(url));
        if self.options.is_empty() || !is_used {
            return Ok(());
        }
        self.options.check_pairs().map_err(ConfigError)
    }
}

pub(super) fn is_secure(url: &Url) -> bool {
    matches!(url.scheme(), Scheme::Https | Scheme::Unixs)
}
