//! URLs as etcd's flags and member records hold them: a scheme of four, `host:port`, no path. The parser gives the
//! error texts that operators of etcd know (they come from Go's URL parser and from etcd's own checks).
//!
//! This module never resolves names and never opens a socket.

use std::fmt;
use std::net::IpAddr;

/// The four schemes etcd knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        }
    }
}

/// One URL. Two URLs are equal, and sort, by their text; that order decides member identifiers (see `ids`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    scheme: Scheme,
    host: String,
    port: String,
}

/// Why a text is no URL for etcd. `Display` is etcd's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlError(String);

impl fmt::Display for UrlError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for UrlError {}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Url {
    /// Parses one URL; blanks around it are dropped.
    pub fn parse(input: &str) -> Result<Url, UrlError> {
        let input = input.trim();
        let fail = |reason: &str| Err(UrlError(format!("parse {}: {reason}", quote(input))));
        if input.chars().any(|c| c.is_ascii_control()) {
            return fail("net/url: invalid control character in URL");
        }
        let (scheme, rest) = match split_scheme(input) {
            Ok(parts) => parts,
            Err(reason) => return fail(reason),
        };
        // Order matters: Go's parser judges the authority before etcd judges the scheme.
        let authority = match rest.strip_prefix("//") {
            Some(after) if scheme.is_some() => {
                let end = after.find(['/', '?', '#']).unwrap_or(after.len());
                Some((&after[..end], &after[end..]))
            }
            _ => None,
        };
        let (host_and_port, tail) = authority.map_or(("", rest), |(authority, tail)| {
            (authority.rsplit_once('@').map_or(authority, |(_, host)| host), tail)
        });
        if scheme.is_none() && !rest.starts_with('/') {
            let segment = rest.split(['/', '?', '#']).next().unwrap_or_default();
            if segment.contains(':') {
                return fail("first path segment in URL cannot contain colon");
            }
        }
        if let Some(port) = invalid_port(host_and_port) {
            return fail(&format!("invalid port {} after host", quote(port)));
        }
        let lowered = scheme.map(str::to_ascii_lowercase);
        let scheme = match lowered.as_deref() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some("unix") => Scheme::Unix,
            Some("unixs") => Scheme::Unixs,
            _ => return Err(UrlError(format!("URL scheme must be http, https, unix, or unixs: {input}"))),
        };
        let (host, port) = match split_host_port(host_and_port) {
            Some(parts) => parts,
            None if matches!(scheme, Scheme::Unix | Scheme::Unixs) => (host_and_port, ""),
            None => return Err(UrlError(format!(r#"URL address does not have the form "host:port": {input}"#))),
        };
        if matches!(scheme, Scheme::Http | Scheme::Https) && tail.starts_with('/') {
            return Err(UrlError(format!("URL must not contain a path: {input}")));
        }
        Ok(Url { text: format!("{}:{rest}", scheme.as_str()), scheme, host: host.to_owned(), port: port.to_owned() })
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host name or address, without the brackets of IPv6. May be empty (`http://:2379`).
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port as a number; `None` when it is empty or beyond 65535, which only listening finds out.
    pub fn port(&self) -> Option<u16> {
        self.port.parse().ok()
    }

    /// The port as written.
    pub fn port_text(&self) -> &str {
        &self.port
    }

    /// `host:port` as a listener wants it, with brackets around IPv6.
    pub fn host_port(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// This URL with another port: what a listener on port 0 advertises once the system chose one.
    pub fn with_port(&self, port: u16) -> Url {
        let host = self.host.clone();
        let mut url = Url { text: String::new(), scheme: self.scheme, host, port: port.to_string() };
        url.text = format!("{}://{}", url.scheme.as_str(), url.host_port());
        url
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a listener may be bound to it: etcd takes addresses and `localhost`, never another name.
    pub fn is_bindable(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok()
    }
}

/// Parses a comma list as etcd's URL flags do: sorted, each URL once.
pub fn parse_list(list: &str) -> Result<Vec<Url>, UrlError> {
    parse_many(list.split(','))
}

/// Like [`parse_list`] for URLs that are already apart.
pub fn parse_many<'a>(parts: impl IntoIterator<Item = &'a str>) -> Result<Vec<Url>, UrlError> {
    let mut urls = parts.into_iter().map(Url::parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// Joins URLs with commas.
pub fn join(urls: &[Url]) -> String {
    urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",")
}

/// Go's `%q` for the texts that appear in messages.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Splits `scheme:` off. `Ok(None, all)` when the text has no scheme.
fn split_scheme(text: &str) -> Result<(Option<&str>, &str), &'static str> {
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if index > 0 => {}
            b':' if index == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((Some(&text[..index]), &text[index + 1..])),
            _ => break,
        }
    }
    Ok((None, text))
}

/// The part that should be a port and is not, with its colon.
fn invalid_port(host_and_port: &str) -> Option<&str> {
    let from = match host_and_port.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host_and_port.rfind(':')?,
    };
    let port = &host_and_port[from..];
    if port.is_empty() {
        return None;
    }
    match port.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => None,
        _ => Some(port),
    }
}

/// `host:port`, brackets removed; `None` when there is no port part or too many colons.
fn split_host_port(text: &str) -> Option<(&str, &str)> {
    if let Some(after) = text.strip_prefix('[') {
        let (host, rest) = after.split_once(']')?;
        return rest.strip_prefix(':').map(|port| (host, port));
    }
    let (host, port) = text.rsplit_once(':')?;
    (!host.contains([':', '[', ']'])).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_urls() {
        for (input, text, host, port) in [
            ("http://localhost:2379", "http://localhost:2379", "localhost", Some(2379)),
            ("  http://127.0.0.1:0 ", "http://127.0.0.1:0", "127.0.0.1", Some(0)),
            ("HTTP://127.0.0.1:1", "http://127.0.0.1:1", "127.0.0.1", Some(1)),
            ("http://[::1]:2379", "http://[::1]:2379", "::1", Some(2379)),
            ("http://:2379", "http://:2379", "", Some(2379)),
            ("http://a:", "http://a:", "a", None),
            ("http://1.2.3.4:99999", "http://1.2.3.4:99999", "1.2.3.4", None),
            ("http://user@a:1?q=1", "http://user@a:1?q=1", "a", Some(1)),
            ("unix:///tmp/x", "unix:///tmp/x", "", None),
        ] {
            let url = Url::parse(input).expect(input);
            assert_eq!((url.as_str(), url.host(), url.port()), (text, host, port), "{input}");
        }
    }

    /// Each text was printed by etcd 3.7.1 for `--listen-client-urls`.
    #[test]
    fn refused_urls_have_the_texts_of_etcd() {
        for (input, text) in [
            ("2379", "URL scheme must be http, https, unix, or unixs: 2379"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("foo://127.0.0.1:2379", "URL scheme must be http, https, unix, or unixs: foo://127.0.0.1:2379"),
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            ("127.0.0.1:2379", r#"parse "127.0.0.1:2379": first path segment in URL cannot contain colon"#),
            ("http://a:b", r#"parse "http://a:b": invalid port ":b" after host"#),
            ("://x", r#"parse "://x": missing protocol scheme"#),
            ("http://127.0.0.1", r#"URL address does not have the form "host:port": http://127.0.0.1"#),
            ("http://127.0.0.1:2379/x", "URL must not contain a path: http://127.0.0.1:2379/x"),
            ("http://127.0.0.1:2379/", "URL must not contain a path: http://127.0.0.1:2379/"),
        ] {
            assert_eq!(Url::parse(input).expect_err(input).to_string(), text, "{input}");
        }
    }

    #[test]
    fn lists_are_sorted_and_unique() {
        let urls = parse_list("http://b:1, http://a:2,http://b:1").expect("good list");
        assert_eq!(join(&urls), "http://a:2,http://b:1");
        assert!(parse_list("http://b:1,").is_err());
    }

    #[test]
    fn bindable_hosts_and_chosen_ports() {
        for (input, bindable) in [
            ("http://localhost:1", true),
            ("http://0.0.0.0:1", true),
            ("http://[::]:1", true),
            ("http://foo:1", false),
            ("http://:1", false),
        ] {
            assert_eq!(Url::parse(input).expect(input).is_bindable(), bindable, "{input}");
        }
        let url = Url::parse("http://[::1]:0").expect("good");
        assert_eq!(url.with_port(4567).as_str(), "http://[::1]:4567");
        assert_eq!(url.with_port(4567).host_port(), "[::1]:4567");
    }
}
