//! JSON Web Tokens: `--auth-token jwt,sign-method=...,priv-key=...,pub-key=...,ttl=...`. A token says by itself who it is
//! and at which auth revision it was handed out; members only need the key. All methods of etcd are here.
//!
//! The method is the configured one. What a token says of it must be the same, and decides nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair, ParsedPublicKey};
use aws_lc_rs::{hmac, signature};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::keys::{self, Curve, KeyKind, PrivateKey, PublicKey};
use crate::config::go::parse_duration;

/// etcd's, if `ttl` is not given.
const DEFAULT_TTL: Duration = Duration::from_secs(300);

/// A longer text is no token; every request may carry one.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

const RSA_BITS_MIN: usize = 2048;
const RSA_TOO_SHORT: &str = "an RSA key must have 2048 bits or more";

/// What a good token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    pub user: String,
    pub revision: u64,
    /// Seconds since 1970 from which on it is good no longer; without, it always is.
    pub expires: Option<f64>,
}

/// Why no token can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignError {
    /// Only a public key is configured.
    VerifyOnly,
    Failed,
}

impl SignError {
    /// etcd's text.
    pub fn text(self) -> &'static str {
        match self {
            Self::VerifyOnly => "auth: token signing attempted with verify-only key",
            Self::Failed => "auth: signing a token failed",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Hmac,
    RsaPkcs1,
    RsaPss,
    Elliptic(Curve),
    Ed25519,
}

struct Method {
    name: &'static str,
    family: Family,
    /// Of the hash.
    bits: u16,
}

const METHODS: [Method; 13] = [
    Method { name: "HS256", family: Family::Hmac, bits: 256 },
    Method { name: "HS384", family: Family::Hmac, bits: 384 },
    Method { name: "HS512", family: Family::Hmac, bits: 512 },
    Method { name: "RS256", family: Family::RsaPkcs1, bits: 256 },
    Method { name: "RS384", family: Family::RsaPkcs1, bits: 384 },
    Method { name: "RS512", family: Family::RsaPkcs1, bits: 512 },
    Method { name: "PS256", family: Family::RsaPss, bits: 256 },
    Method { name: "PS384", family: Family::RsaPss, bits: 384 },
    Method { name: "PS512", family: Family::RsaPss, bits: 512 },
    Method { name: "ES256", family: Family::Elliptic(Curve::P256), bits: 256 },
    Method { name: "ES384", family: Family::Elliptic(Curve::P384), bits: 384 },
    Method { name: "ES512", family: Family::Elliptic(Curve::P521), bits: 512 },
    Method { name: "EdDSA", family: Family::Ed25519, bits: 512 },
];

enum SigningKey {
    Hmac(hmac::Key),
    Rsa(Box<signature::RsaKeyPair>, &'static dyn signature::RsaEncoding),
    Elliptic(signature::EcdsaKeyPair),
    Ed25519(signature::Ed25519KeyPair),
}

enum VerifyingKey {
    Hmac(hmac::Key),
    Public(Box<ParsedPublicKey>),
}

pub struct Jwt {
    method: &'static Method,
    ttl: Duration,
    signing: Option<SigningKey>,
    verifying: VerifyingKey,
}

impl Jwt {
    /// From the options after `jwt,`. `read` reads a file.
    ///
    /// # Errors
    /// A text for the operator, which shows no key.
    pub fn from_options(
        options: &[(&str, &str)],
        read: impl Fn(&str) -> Result<Vec<u8>, String>,
    ) -> Result<Self, String> {
        let option = |name: &str| options.iter().find(|(key, value)| *key == name && !value.is_empty());
        for (name, _) in options {
            if !["sign-method", "pub-key", "priv-key", "ttl"].contains(name) {
                tracing::warn!(option = *name, "unknown JWT option");
            }
        }
        let ttl = match option("ttl") {
            Some((_, text)) => {
                let nanoseconds = parse_duration(text).map_err(|error| format!("ttl: {error}"))?;
                // A token of no time is over at once.
                Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
            }
            None => DEFAULT_TTL,
        };
        let (_, name) = option("sign-method").ok_or("no sign-method is given")?;
        let method = METHODS
            .iter()
            .find(|method| method.name == *name)
            .ok_or_else(|| format!("invalid auth signature method {name:?}"))?;
        let file = |name: &str| {
            let load = |path: &str| read(path).map_err(|error| format!("{name}: {path}: {error}"));
            option(name).map(|(_, path)| load(path)).transpose()
        };
        let (public, private) = (file("pub-key")?, file("priv-key")?);
        let (signing, verifying) = read_keys(method, public.as_deref(), private.as_deref())?;
        Ok(Self { method, ttl, signing, verifying })
    }

    /// A token for a user that was let in at an auth revision.
    pub fn sign(&self, user: &str, revision: u64) -> Result<String, SignError> {
        let key = self.signing.as_ref().ok_or(SignError::VerifyOnly)?;
        let expires = now().saturating_add(self.ttl).as_secs();
        let header = format!(r#"{{"alg":"{}","typ":"JWT"}}"#, self.method.name);
        let user = Value::from(user);
        let claims = format!(r#"{{"exp":{expires},"revision":{revision},"username":{user}}}"#);
        let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = key.sign(token.as_bytes()).ok_or(SignError::Failed)?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// What a token says, if it is signed with our key and its time is now.
    pub fn verify(&self, token: &str) -> Option<Claims> {
        self.verify_at(token, now())
    }

    fn verify_at(&self, token: &str, now: Duration) -> Option<Claims> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        if header.get("alg")?.as_str()? != self.method.name {
            return None;
        }
        if !self.verifying.verify(signed.as_bytes(), &decode(signature)?) {
            return None;
        }
        let claims: Value = serde_json::from_slice(&decode(claims)?).ok()?;
        let time = |name: &str| match claims.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(value) => value.as_f64().map(Some),
        };
        let (expires, not_before) = (time("exp")?, time("nbf")?);
        if expires.is_some_and(|expires| is_over(expires, now)) {
            return None;
        }
        if not_before.is_some_and(|begins| now.as_secs_f64() < begins) {
            return None;
        }
        let revision = claims.get("revision")?.as_f64()?;
        // As Go turns the number into an integer, but for what no integer is.
        let revision = (0.0..9_007_199_254_740_992.0).contains(&revision).then_some(revision as u64)?;
        Some(Claims { user: claims.get("username")?.as_str()?.to_owned(), revision, expires })
    }
}

fn is_over(expires: f64, now: Duration) -> bool {
    now.as_secs_f64() >= expires
}

impl Claims {
    /// Whether a token that was good before still is.
    pub fn is_current(&self) -> bool {
        self.expires.is_none_or(|expires| !is_over(expires, now()))
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn read_keys(
    method: &Method,
    public: Option<&[u8]>,
    private: Option<&[u8]>,
) -> Result<(Option<SigningKey>, VerifyingKey), String> {
    let name = method.name;
    if method.family == Family::Hmac {
        let secret = private.filter(|secret| !secret.is_empty()).ok_or("auth: missing key data (priv-key)")?;
        let key = hmac::Key::new(hmac_algorithm(method.bits), secret);
        return Ok((Some(SigningKey::Hmac(key.clone())), VerifyingKey::Hmac(key)));
    }
    let kind = match method.family {
        Family::Elliptic(curve) => KeyKind::Elliptic(curve),
        Family::Ed25519 => KeyKind::Ed25519,
        _ => KeyKind::Rsa,
    };
    let wrong = |found: KeyKind| format!("{name} needs another kind of key than {found:?}");
    let public = public.map(|text| keys::public_key(&keys::first_block(text)?)).transpose();
    let public = public.map_err(|error| format!("pub-key: {error}"))?;
    if let Some(public) = public.as_ref().filter(|public| public.kind != kind) {
        return Err(format!("pub-key: {}", wrong(public.kind)));
    }
    let Some(private) = private else {
        let public = public.ok_or("auth: missing key data (priv-key or pub-key)")?;
        let verifying = verifying_key(method, &public).map_err(|error| format!("pub-key: {error}"))?;
        return Ok((None, verifying));
    };
    let private = keys::private_key(&keys::first_block(private).map_err(|error| format!("priv-key: {error}"))?)
        .map_err(|error| format!("priv-key: {error}"))?;
    if private.kind != kind {
        return Err(format!("priv-key: {}", wrong(private.kind)));
    }
    let (signing, own_public) = signing_key(method, &private).map_err(|error| format!("priv-key: {error}"))?;
    let own_public = PublicKey { kind, bytes: own_public };
    if public.is_some_and(|public| public != own_public) {
        return Err("auth: public and private keys don't match".to_owned());
    }
    Ok((Some(signing), verifying_key(method, &own_public)?))
}

/// The key that signs, and the public one that belongs to it.
fn signing_key(method: &Method, private: &PrivateKey) -> Result<(SigningKey, Vec<u8>), String> {
    match method.family {
        Family::Hmac => unreachable!("its key is no pair"),
        Family::RsaPkcs1 | Family::RsaPss => {
            let key = signature::RsaKeyPair::from_der(&private.bytes).map_err(refusal)?;
            let public = key.public_key().as_ref().to_vec();
            Ok((SigningKey::Rsa(Box::new(key), rsa_encoding(method)), public))
        }
        Family::Elliptic(curve) => {
            let algorithm = match curve {
                Curve::P256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                Curve::P384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
                Curve::P521 => &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
            };
            let number = keys::sec1_of(&private.bytes).ok_or("not a number of the curve")?;
            let key = signature::EcdsaKeyPair::from_private_key_der(algorithm, &number).map_err(refusal)?;
            let public = key.public_key().as_ref().to_vec();
            Ok((SigningKey::Elliptic(key), public))
        }
        Family::Ed25519 => {
            let key = signature::Ed25519KeyPair::from_seed_unchecked(&private.bytes).map_err(refusal)?;
            let public = key.public_key().as_ref().to_vec();
            Ok((SigningKey::Ed25519(key), public))
        }
    }
}

fn verifying_key(method: &Method, public: &PublicKey) -> Result<VerifyingKey, String> {
    let algorithm: &'static dyn signature::VerificationAlgorithm = match (method.family, method.bits) {
        (Family::RsaPkcs1, 256) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (Family::RsaPkcs1, 384) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (Family::RsaPkcs1, _) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (Family::RsaPss, 256) => &signature::RSA_PSS_2048_8192_SHA256,
        (Family::RsaPss, 384) => &signature::RSA_PSS_2048_8192_SHA384,
        (Family::RsaPss, _) => &signature::RSA_PSS_2048_8192_SHA512,
        (Family::Elliptic(Curve::P256), _) => &signature::ECDSA_P256_SHA256_FIXED,
        (Family::Elliptic(Curve::P384), _) => &signature::ECDSA_P384_SHA384_FIXED,
        (Family::Elliptic(Curve::P521), _) => &signature::ECDSA_P521_SHA512_FIXED,
        (Family::Ed25519, _) => &signature::ED25519,
        (Family::Hmac, _) => unreachable!("its key is no pair"),
    };
    // The library looks at the length at each signature only.
    if public.kind == KeyKind::Rsa && keys::rsa_bits(&public.bytes).is_none_or(|bits| bits < RSA_BITS_MIN) {
        return Err(RSA_TOO_SHORT.to_owned());
    }
    let key = ParsedPublicKey::new(algorithm, &public.bytes).map_err(refusal)?;
    Ok(VerifyingKey::Public(Box::new(key)))
}

fn refusal(error: KeyRejected) -> String {
    match error.to_string().as_str() {
        "TooSmall" => RSA_TOO_SHORT.to_owned(),
        reason => format!("the key is refused: {reason}"),
    }
}

fn hmac_algorithm(bits: u16) -> hmac::Algorithm {
    match bits {
        256 => hmac::HMAC_SHA256,
        384 => hmac::HMAC_SHA384,
        _ => hmac::HMAC_SHA512,
    }
}

fn rsa_encoding(method: &Method) -> &'static dyn signature::RsaEncoding {
    match (method.family, method.bits) {
        (Family::RsaPkcs1, 256) => &signature::RSA_PKCS1_SHA256,
        (Family::RsaPkcs1, 384) => &signature::RSA_PKCS1_SHA384,
        (Family::RsaPkcs1, _) => &signature::RSA_PKCS1_SHA512,
        (_, 256) => &signature::RSA_PSS_SHA256,
        (_, 384) => &signature::RSA_PSS_SHA384,
        _ => &signature::RSA_PSS_SHA512,
    }
}

impl SigningKey {
    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Hmac(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Self::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Self::Elliptic(key) => Some(key.sign(&random, message).ok()?.as_ref().to_vec()),
            Self::Ed25519(key) => Some(key.try_sign(message).ok()?.as_ref().to_vec()),
        }
    }
}

impl VerifyingKey {
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
