//! Whether a certificate has an allowed name, and whether it is for the address that its owner connects from: etcd's
//! `AllowedCN`, `AllowedHostname` and `checkCertSAN`.

use std::ffi::CStr;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use kvorum_net::certificate::CertificateFields;
use kvorum_net::trust::is_for_host;
use tokio::sync::{Semaphore, oneshot};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::urls::quote;

/// Names of which a certificate must have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedNames {
    Any,
    CommonNames(Vec<String>),
    Hostnames(Vec<String>),
}

impl AllowedNames {
    pub fn admit(&self, certificate: &CertificateDer<'_>) -> bool {
        match self {
            AllowedNames::Any => true,
            AllowedNames::CommonNames(names) => {
                CertificateFields::parse(certificate).is_ok_and(|fields| names.contains(&fields.common_name))
            }
            AllowedNames::Hostnames(names) => names.iter().any(|name| is_for_host(certificate, name)),
        }
    }
}

/// Lookups of names under way at once; further ones wait, within the time of their handshakes.
static LOOKUPS: Semaphore = Semaphore::const_new(8);

/// Whether a certificate is for the address that it comes from. One that names neither addresses nor hosts is for all of
/// them. Hosts are looked up, first backwards, then forwards. The text of the error is etcd's.
pub async fn check_address(fields: &CertificateFields, address: IpAddr) -> Result<(), String> {
    let address = address.to_canonical();
    if fields.ip_addresses.contains(&address) || (fields.ip_addresses.is_empty() && fields.dns_names.is_empty()) {
        return Ok(());
    }
    if fields.dns_names.is_empty() {
        let valid = fields.ip_addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
        return Err(format!("x509: certificate is valid for {valid}, not {address}"));
    }
    let names = fields.dns_names.clone();
    let found = match LOOKUPS.acquire().await {
        Ok(permit) => {
            let (sender, receiver) = oneshot::channel();
            // A thread of its own: a slow name server must hold up nobody who waits for the threads of the runtime.
            let looking = std::thread::Builder::new().name("name-lookup".to_owned()).spawn(move || {
                // If that fails, nobody waits for it any more.
                sender.send(is_host_of(address, &names)).ok();
                drop(permit);
            });
            match looking {
                Ok(_) => receiver.await.unwrap_or(false),
                Err(_) => false,
            }
        }
        Err(_) => false,
    };
    if found {
        return Ok(());
    }
    let names = fields.dns_names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(" ");
    Err(format!("tls: {} does not match any of DNSNames [{names}]", quote(&address.to_string())))
}

fn is_host_of(address: IpAddr, names: &[String]) -> bool {
    let (wildcards, names): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| name.starts_with("*."));
    if let Some(host) = name_of(address) {
        let host = host.strip_suffix('.').unwrap_or(&host);
        if wildcards.iter().any(|wildcard| host.ends_with(&wildcard[1..])) || names.iter().any(|name| *name == host) {
            return true;
        }
    }
    names.iter().any(|name| {
        let found = (name.as_str(), 0).to_socket_addrs();
        found.is_ok_and(|mut addresses| addresses.any(|found| found.ip().to_canonical() == address))
    })
}

/// The name that the system has for an address.
#[allow(unsafe_code)]
fn name_of(address: IpAddr) -> Option<String> {
    let mut host = [0; libc::NI_MAXHOST as usize];
    let host_length = host.len() as libc::socklen_t;
    let look = |address: *const libc::sockaddr, length: usize, host: *mut libc::c_char| {
        // SAFETY: the caller's address is of that length, the name fits into `host_length` bytes or is refused, and no
        // service is asked for.
        unsafe {
            let length = length as libc::socklen_t;
            libc::getnameinfo(address, length, host, host_length, std::ptr::null_mut(), 0, libc::NI_NAMEREQD) == 0
        }
    };
    let found = match SocketAddr::new(address, 0) {
        SocketAddr::V4(address) => {
            // SAFETY: a structure of integers, for which zeros are valid.
            let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            raw.sin_family = libc::AF_INET as libc::sa_family_t;
            raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            look((&raw const raw).cast(), size_of_val(&raw), host.as_mut_ptr())
        }
        SocketAddr::V6(address) => {
            // SAFETY: as above.
            let mut raw: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_addr.s6_addr = address.ip().octets();
            look((&raw const raw).cast(), size_of_val(&raw), host.as_mut_ptr())
        }
    };
    let bytes = host.map(|byte| byte.cast_unsigned());
    let name = CStr::from_bytes_until_nul(&bytes).ok()?.to_str().ok()?.to_owned();
    found.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_compared_as_etcd_does() {
        let here = IpAddr::from([127, 0, 0, 1]);
        let fields = |names: &[&str], addresses: &[[u8; 4]]| CertificateFields {
            dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ip_addresses: addresses.iter().map(|address| IpAddr::from(*address)).collect(),
            ..CertificateFields::default()
        };
        for (names, addresses, error) in [
            (&[][..], &[][..], None),
            (&[], &[[127, 0, 0, 1]], None),
            (&["elsewhere.invalid"], &[[127, 0, 0, 1]], None),
            (&["localhost"], &[], None),
            (&["localhost"], &[[10, 0, 0, 1]], None),
            (
                &[],
                &[[10, 0, 0, 1], [10, 0, 0, 2]],
                Some("x509: certificate is valid for 10.0.0.1, 10.0.0.2, not 127.0.0.1"),
            ),
            (
                &["elsewhere.invalid", "*.invalid"],
                &[],
                Some(r#"tls: "127.0.0.1" does not match any of DNSNames ["elsewhere.invalid" "*.invalid"]"#),
            ),
        ] {
            let checked = check_address(&fields(names, addresses), here).await;
            assert_eq!(checked.err().as_deref(), error, "{names:?} {addresses:?}");
        }
        let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1]);
        assert_eq!(check_address(&fields(&[], &[[127, 0, 0, 1]]), mapped).await, Ok(()));
    }
}
