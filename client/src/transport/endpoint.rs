//! What an endpoint is: `host:port`, `http://host:port`, `https://host:port` or `unix:path`, as clientv3 takes them.
//! Nothing here connects.

use std::sync::Arc;

use http::uri::{Authority, Parts, PathAndQuery, Scheme};

use crate::error::Error;

/// The port of an endpoint that names none.
const DEFAULT_PORT: u16 = 2379;

/// A parsed endpoint.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    name: Arc<str>,
    address: Address,
    /// What goes into `:authority`.
    authority: Authority,
    secure: bool,
}

/// Where to connect to.
#[derive(Debug, PartialEq, Eq)]
pub enum Address {
    /// Host without brackets, and port.
    Tcp(String, u16),
    /// Path of a socket.
    Unix(String),
}

impl Endpoint {
    /// Parses an endpoint; one without a scheme is secure when TLS is configured (clientv3's `endpoint.go`).
    pub fn parse(text: &str, has_tls: bool) -> Result<Self, Error> {
        let refuse = |why: &str| Error::configuration(format!("endpoint {text:?}: {why}"));
        let name: Arc<str> = text.into();
        for (scheme, secure) in [("unix", false), ("unixs", true)] {
            if let Some(path) = text.strip_prefix(scheme).and_then(|rest| rest.strip_prefix(':')) {
                let path = path.strip_prefix("//").unwrap_or(path).to_owned();
                if secure && !has_tls {
                    return Err(refuse("needs TLS, which is not configured"));
                }
                let authority = Authority::from_static("localhost");
                return Ok(Self { name, address: Address::Unix(path), authority, secure });
            }
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let secure = match scheme {
            "" => has_tls,
            "http" => false,
            "https" if has_tls => true,
            "https" => return Err(refuse("needs TLS, which is not configured")),
            _ => return Err(refuse("its scheme is none of http, https, unix, unixs")),
        };
        let authority: Authority = rest.trim_end_matches('/').parse().map_err(|_| refuse("it is no host and port"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(refuse("it is no host and port"));
        }
        let has_port = authority.as_str().len() > authority.host().len();
        if has_port && authority.port_u16().is_none() {
            return Err(refuse("its port is no port"));
        }
        let port = authority.port_u16().unwrap_or(DEFAULT_PORT);
        Ok(Self { name, address: Address::Tcp(host, port), authority, secure })
    }

    /// The text it was given as.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The URI of a call. Nothing of it is parsed or copied for a call.
    pub fn uri(&self, path: &'static str) -> Result<http::Uri, http::Error> {
        let mut parts = Parts::default();
        parts.scheme = Some(if self.secure { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(bytes::Bytes::from_static(path.as_bytes()))?);
        Ok(http::Uri::from_parts(parts)?)
    }

    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The name a certificate must be for.
    #[cfg(feature = "tls")]
    pub fn host(&self) -> &str {
        match &self.address {
            Address::Tcp(host, _) => host,
            Address::Unix(_) => "localhost",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_clientv3_takes_is_taken() {
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        for (text, address, secure) in [
            ("localhost:2379", tcp("localhost", 2379), true),
            ("http://10.0.0.1:1", tcp("10.0.0.1", 1), false),
            ("https://[::1]:23790/", tcp("::1", 23790), true),
            ("etcd.example", tcp("etcd.example", 2379), true),
            ("unix:///run/etcd.sock", Address::Unix("/run/etcd.sock".to_owned()), false),
            ("unix:relative", Address::Unix("relative".to_owned()), false),
        ] {
            let endpoint = Endpoint::parse(text, true).unwrap();
            assert_eq!((endpoint.address(), endpoint.is_secure()), (&address, secure), "{text}");
        }
        assert!(!Endpoint::parse("localhost:2379", false).unwrap().is_secure());
        for text in ["", "https://localhost:1", "ftp://localhost:1", "localhost:x", "a b", "http://user@host:1"] {
            assert!(Endpoint::parse(text, false).is_err(), "{text}");
        }
    }
}
