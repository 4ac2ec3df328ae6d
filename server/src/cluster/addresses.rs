//! Whether two lists of URLs name the same places: by text, else by the addresses behind their names.
//!
//! Names are looked up through [`Resolve`] only.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::urls::{Scheme, Url, quote};

/// How long etcd goes on asking for the addresses of one comparison's names.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(30);

/// Pause before a name is asked for again.
const RESOLVE_PAUSE: Duration = Duration::from_secs(1);

/// Looks names up.
pub trait Resolve {
    /// The first address of `host:port`. Blocks, and may go on trying; `deadline` is when the comparison gives up.
    fn resolve(&self, host_port: &str, deadline: Instant) -> Result<SocketAddr, String>;
}

/// Asks the system, once a second until the deadline: at the start of a whole cluster, names of members may appear late.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host_port: &str, deadline: Instant) -> Result<SocketAddr, String> {
        loop {
            let reason = match host_port.to_socket_addrs().map(|mut addresses| addresses.next()) {
                Ok(Some(address)) => return Ok(address),
                Ok(None) => "no such host".to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(host = host_port, error = %reason, "failed to resolve URL Host");
            if Instant::now() + RESOLVE_PAUSE > deadline {
                return Err(format!("lookup {host_port}: {reason}"));
            }
            std::thread::sleep(RESOLVE_PAUSE);
        }
    }
}

/// Whether both lists name the same places, in any order; else why not, in etcd's words.
pub fn same_places(left: &[String], right: &[String], resolver: &impl Resolve) -> Result<(), String> {
    if left.len() != right.len() {
        return Err(format!("len({}) != len({})", quoted_list(left), quoted_list(right)));
    }
    let (left, right) = (parsed(left)?, parsed(right)?);
    if left.iter().zip(&right).all(|(left, right)| place(left) == place(right)) {
        return Ok(());
    }
    let deadline = Instant::now() + RESOLVE_TIME_MAX;
    let (left, right) = (resolved(left, resolver, deadline)?, resolved(right, resolver, deadline)?);
    match left.iter().zip(&right).find(|(left, right)| place(left) != place(right)) {
        None => Ok(()),
        Some((left, right)) => Err(format!("resolved urls: {} != {}", quote(left.as_str()), quote(right.as_str()))),
    }
}

fn quoted_list(urls: &[String]) -> String {
    let quoted: Vec<String> = urls.iter().map(|url| quote(url)).collect();
    format!("[{}]", quoted.join(" "))
}

fn parsed(texts: &[String]) -> Result<Vec<Url>, String> {
    let mut urls = texts
        .iter()
        .map(|text| Url::parse(text).map_err(|_| format!("failed to parse string to URL: {}", quote(text))))
        .collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    Ok(urls)
}

/// What counts of a URL: its scheme, its host with addresses in their shortest form, and the rest of a socket's path.
fn place(url: &Url) -> (Scheme, String, &str) {
    let host = match url.host().parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        Ok(IpAddr::V4(address)) => address.to_string(),
        Err(_) => url.host().to_owned(),
    };
    let path = match url.scheme() {
        Scheme::Unix | Scheme::Unixs => url.as_str(),
        Scheme::Http | Scheme::Https => "",
    };
    (url.scheme(), format!("{host}:{}", url.port_text()), path)
}

/// With host names replaced by their addresses, sorted again. `localhost` and sockets stay, as in etcd.
fn resolved(urls: Vec<Url>, resolver: &impl Resolve, deadline: Instant) -> Result<Vec<Url>, String> {
    let mut resolved = Vec::with_capacity(urls.len());
    for url in urls {
        if url.host() == "localhost" || matches!(url.scheme(), Scheme::Unix | Scheme::Unixs) {
            resolved.push(url);
            continue;
        }
        let failed = |error: String| format!("failed to resolve {} ({error})", quote(url.as_str()));
        let address = resolver.resolve(&url.host_port(), deadline).map_err(failed)?;
        let text = format!("{}://{address}", url.scheme().as_str());
        resolved.push(Url::parse(&text).map_err(|error| failed(error.to_string()))?);
    }
    resolved.sort();
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::scripted::Names;

    #[test]
    fn places() {
        let names = Names(&[("a:1", "10.0.0.1:1"), ("b:1", "10.0.0.2:1"), ("c:1", "10.0.0.1:1")]);
        let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        for (left, right, expected) in [
            ("http://x:1", "http://x:1", Ok(())),
            ("http://x:1,http://y:1", "http://y:1,http://x:1", Ok(())),
            ("http://a:1", "http://c:1", Ok(())),
            ("http://a:1,http://b:1", "http://10.0.0.2:1,http://c:1", Ok(())),
            ("http://[::1]:1", "http://[0:0:0:0:0:0:0:1]:1", Ok(())),
            ("http://a:1", "http://b:1", Err(r#"resolved urls: "http://10.0.0.1:1" != "http://10.0.0.2:1""#)),
            ("http://a:1", "https://a:1", Err(r#"resolved urls: "http://10.0.0.1:1" != "https://10.0.0.1:1""#)),
            ("http://localhost:1", "http://a:1", Err(r#"resolved urls: "http://localhost:1" != "http://10.0.0.1:1""#)),
            ("http://a:1", "http://a:1,http://b:1", Err(r#"len(["http://a:1"]) != len(["http://a:1" "http://b:1"])"#)),
            ("http://a:1", "nothing", Err(r#"failed to parse string to URL: "nothing""#)),
            ("http://a:1", "http://zz:1", Err(r#"failed to resolve "http://zz:1" (lookup zz:1: no such host)"#)),
        ] {
            assert_eq!(
                same_places(&list(left), &list(right), &names),
                expected.map_err(str::to_owned),
                "{left} {right}"
            );
        }
    }
}
