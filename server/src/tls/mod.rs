//! TLS for every port and for calls to other members, on rustls with AWS-LC (which knows P-521: etcd's automatic
//! certificates are of that curve).
//!
//! In reading order: what an operator asks for ([`TlsOptions`], `versions`), files that may change while a member runs
//! (`files`), who is believed (`verify`, `names`, on top of [`kvorum_net::trust`]), both sides of a handshake
//! ([`IncomingTls`], [`OutgoingTls`]), and certificates that a member makes for itself (`self_signed`).
//!
//! Every handshake goes by what the files hold at that moment: certificate, key, authorities and revoked certificates; no
//! session is resumed, so every connection proves its certificate anew. What cannot be read or does not fit together
//! refuses connections; it never lets one through. Nothing here logs a key or any content of its file.

mod files;
mod incoming;
mod names;
mod options;
mod outgoing;
mod self_signed;
#[cfg(test)]
mod tests;
mod verify;
mod versions;

use std::time::Duration;

pub use incoming::{Accepted, Checks, IncomingTls};
pub use options::TlsOptions;
pub use outgoing::OutgoingTls;
pub use self_signed::self_signed;
pub use versions::{TlsVersion, Versions};

/// How long either side may take for a handshake, as in etcd 3.7.1.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
