//! Which web pages in somebody's browser may ask for the plain pages: `--cors` and `--host-whitelist`. A browser sends what any
//! page on the web tells it to, also to a member on the same host; the name that the page was loaded from is in the request
//! (CVE-2018-5702, "DNS rebinding"). Over TLS the name is not asked: no certificate would be for it.
//!
//! gRPC is not looked at: browsers do not speak HTTP/2 without TLS.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};

use crate::http1::failure;
use crate::urls::quote;

/// What an operator allows. An empty list allows everything, and so does a `*` in it.
#[derive(Clone, Debug, Default)]
pub struct Access {
    origins: Vec<String>,
    hosts: Vec<String>,
}

impl Access {
    pub fn new(cors: &[String], host_whitelist: &[String]) -> Self {
        Self { origins: cors.to_vec(), hosts: host_whitelist.to_vec() }
    }

    /// The answer to a request that names a host which it may not, as etcd's.
    pub fn refuse(&self, uri: &Uri, headers: &HeaderMap) -> Option<Response<Bytes>> {
        let named = headers.get(http::header::HOST).map_or("".into(), |host| String::from_utf8_lossy(host.as_bytes()));
        // As in Go, a whole URL in the request line counts more than the header.
        let host = hostname(uri.authority().map_or(&named, |authority| authority.as_str()));
        if allows(&self.hosts, host) {
            return None;
        }
        tracing::warn!(host, "rejecting HTTP request to prevent DNS rebinding attacks");
        let text = format!(
            "\netcd received your request, but does not know the host that it names.\n\n\
             Either use TLS, where every host is allowed, or allow the host:\n\
             \x20 --host-whitelist {}\n\n\
             This prevents \"DNS Rebinding\" attacks (CVE-2018-5702).\n",
            quote(host)
        );
        Some(failure(StatusCode::MISDIRECTED_REQUEST, &text))
    }

    /// What an answer says of the origin that asks: nothing if it is not allowed.
    pub fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if allows(&self.origins, "*") {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = headers.get(http::header::ORIGIN)?;
        origin.to_str().is_ok_and(|text| allows(&self.origins, text)).then(|| origin.clone())
    }
}

fn allows(listed: &[String], name: &str) -> bool {
    listed.is_empty() || listed.iter().any(|allowed| allowed == "*" || allowed == name)
}

/// Without the port, and without the brackets of an address of IPv6 that has one.
fn hostname(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, _)) if name.starts_with('[') && name.ends_with(']') => &name[1..name.len() - 1],
        Some((name, _)) if !name.contains([':', '[', ']']) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn cve_2018_5702_hosts() {
        let access = Access::new(&[], &["localhost".to_owned(), "::1".to_owned(), "[::2]".to_owned()]);
        for (host, allowed) in [
            ("localhost", true),
            ("localhost:2379", true),
            ("[::1]:2379", true),
            ("[::2]", true),
            ("evil.example:2379", false),
            ("localhost.evil.example", false),
            ("", false),
        ] {
            let refused = access.refuse(&Uri::from_static("/health"), &headers(&[(http::header::HOST, host)]));
            assert_eq!(refused.is_none(), allowed, "{host}");
        }
        // The request line counts more.
        let asked = headers(&[(http::header::HOST, "localhost")]);
        assert!(access.refuse(&Uri::from_static("http://evil.example/health"), &asked).is_some());
        let refused = access.refuse(&Uri::from_static("/health"), &HeaderMap::new()).expect("no host is none of them");
        assert_eq!(refused.status(), StatusCode::MISDIRECTED_REQUEST);
        for everything in [&[][..], &["*".to_owned()], &["a".to_owned(), "*".to_owned()]] {
            assert!(Access::new(&[], everything).refuse(&Uri::from_static("/"), &HeaderMap::new()).is_none());
        }
    }

    #[test]
    fn cve_2018_5702_origins() {
        let access = Access::new(&["https://good.example:8443".to_owned()], &[]);
        let of = |origin| access.allowed_origin(&headers(&[(http::header::ORIGIN, origin)]));
        assert_eq!(of("https://good.example:8443"), Some(HeaderValue::from_static("https://good.example:8443")));
        assert_eq!(of("https://evil.example"), None);
        assert_eq!(access.allowed_origin(&HeaderMap::new()), None);
        assert_eq!(Access::default().allowed_origin(&HeaderMap::new()), Some(HeaderValue::from_static("*")));
    }
}
