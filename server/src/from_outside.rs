//! Doors for the fuzz targets to what reads bytes from outside, and for nothing else: it is no part of the library, and what
//! stands here may change with any version. No logic.

/// The streams between members.
pub mod peers {
    pub use crate::peer::framing::{Decoder, Encoder, EnvelopeDecoder, FramingError, StreamKind, encode_message};
}

/// What clients send over gRPC.
pub mod requests {
    pub use crate::grpc::{MessageFrames, Status, parse_timeout};
    pub use crate::services::kv::{is_nested_deeply, wrap};
}

/// Tokens, and the keys of those that are signed.
pub mod tokens {
    pub use crate::auth::jwt::Jwt;
    pub use crate::auth::keys::{first_block, private_key, public_key};
    pub use crate::auth::tokens::SimpleTokens;
}

/// Files of configuration.
pub mod configuration {
    pub use crate::config::parse_text;
}

/// What a client's connection begins with.
pub mod headers {
    pub use crate::authority::RepairedReader;
}
