//! What both ends of a connection share below HTTP/2, so that client, server and load generator judge and read alike.
//!
//! In reading order: what stands in a certificate ([`certificate`]), whose certificate is believed ([`trust`]), the bytes
//! of a connection with TLS or without ([`stream`]), header compression ([`hpack`]).
//!
//! It opens no connection and no file, keeps nothing between connections, and knows no call. All its input comes from the
//! network: it must never panic on any.

pub mod certificate;
pub mod hpack;
pub mod stream;
pub mod trust;
