//! Who a caller is: tokens, passwords, and the names in certificates. What a caller may do is decided by the store
//! ([`kvorum_store::auth`]) and by [`matrix`].
//!
//! Nothing here keeps or shows a password, and no log line has a token.

pub mod keys;
pub mod matrix;
pub mod passwords;
pub mod tokens;

pub(crate) mod jwt;
mod refusals;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, rand};
use http::{HeaderMap, HeaderValue};
use kvorum_api::EtcdError;
use kvorum_store::{Caller, TokenChange};

use crate::core::Core;
use jwt::{Claims, Jwt};
use passwords::{Errand, Pool};
use refusals::Refusals;
use tokens::{Session, SimpleTokens};

pub use jwt::SignError;

/// Costs that bcrypt knows; another one is replaced by the default, as in etcd.
const BCRYPT_COSTS: std::ops::RangeInclusive<u64> = 4..=31;
const BCRYPT_COST_DEFAULT: u32 = 10;

/// Letters of a simple token.
const TOKEN_LETTERS: usize = 16;

/// How long a token is waited for that should be known by now: what was applied is noted a moment later.
const TOKEN_GRACE: Duration = Duration::from_millis(100);

/// How often a wait for a token looks by itself.
const TOKEN_CHECK: Duration = Duration::from_millis(20);

/// Somebody who was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: Arc<str>,
    /// By the users, roles and permissions of which auth revision.
    pub revision: u64,
}

impl Identity {
    pub fn caller(&self) -> Caller<'_> {
        Caller { user: &self.user, revision: self.revision }
    }
}

/// What a call shows of its caller.
#[derive(Clone, Default)]
pub struct Credentials {
    token: Option<HeaderValue>,
    /// From the client certificate of the connection, which was verified, if such names are users
    /// (`--client-cert-auth`).
    common_name: Option<Arc<str>>,
}

impl Credentials {
    /// From the metadata of a call, on a connection with this certificate. A call that came through the JSON gateway shows
    /// the gateway's certificate, which says nothing of its caller (CVE-2018-16886).
    pub fn of_call(headers: &HeaderMap, certificate_user: Option<&Arc<str>>) -> Self {
        let token = headers.get("token").or_else(|| headers.get(http::header::AUTHORIZATION)).cloned();
        let by_gateway = || headers.contains_key("grpcgateway-accept");
        let common_name = certificate_user.filter(|_| !by_gateway()).cloned();
        Self { token, common_name }
    }

    /// Of what another member passed on.
    pub fn of_token(token: Option<&str>) -> Self {
        Self { token: token.and_then(|token| HeaderValue::from_str(token).ok()), common_name: None }
    }

    pub fn token_header(&self) -> Option<&HeaderValue> {
        self.token.as_ref()
    }

    /// The token itself. A header that is no text cannot be one; it is shown as an empty one, which is not good either.
    pub fn token(&self) -> Option<&str> {
        let token = self.token.as_ref()?.to_str().unwrap_or_default();
        Some(token.strip_prefix("Bearer ").unwrap_or(token))
    }
}

/// What a token proved to be. The name is the asker's own: it is cloned for every call, and a count of references that all
/// threads share would go from core to core.
#[derive(Clone)]
pub enum Proven {
    Simple(Arc<str>, Arc<Session>),
    Jwt(Arc<str>, Arc<Claims>),
}

enum Tokens {
    /// `--auth-token ''`: nobody can log in by password.
    None,
    Simple(SimpleTokens),
    Jwt(Arc<Jwt>),
}

/// What a member knows for telling callers apart.
pub struct Authenticator {
    tokens: Tokens,
    pub passwords: Pool,
    /// Makes and checks those of JSON Web Tokens.
    pub signatures: Pool,
    pub refusals: Refusals,
    pub bcrypt_cost: u32,
}

impl Authenticator {
    /// From `--auth-token`, `--auth-token-ttl` and `--bcrypt-cost`.
    ///
    /// # Errors
    /// A text for the operator, which shows no key.
    pub fn new(token: &str, ttl_seconds: u64, bcrypt_cost: u64) -> Result<Self, String> {
        let tokens = Tokens::from_option(token, ttl_seconds).map_err(|error| format!("--auth-token: {error}"))?;
        let usable = u32::try_from(bcrypt_cost).ok().filter(|_| BCRYPT_COSTS.contains(&bcrypt_cost));
        if usable.is_none() {
            tracing::warn!(
                given = bcrypt_cost,
                used = BCRYPT_COST_DEFAULT,
                "use default bcrypt cost instead of the invalid given cost"
            );
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (passwords, signatures) = (Pool::new(Errand::Passwords, cores), Pool::new(Errand::Signatures, cores));
        Ok(Self {
            tokens,
            passwords,
            signatures,
            refusals: Refusals::default(),
            bcrypt_cost: usable.unwrap_or(BCRYPT_COST_DEFAULT),
        })
    }

    /// Takes over what applied entries did to tokens. To be called before anybody is answered because of them.
    pub fn note(&self, now: u64, changes: Vec<TokenChange>) {
        if let Tokens::Simple(tokens) = &self.tokens {
            tokens.note(now, changes);
        }
    }

    /// Whether one more may log in.
    pub fn has_room(&self, now: u64) -> bool {
        match &self.tokens {
            Tokens::Simple(tokens) => !tokens.is_full(now),
            _ => true,
        }
    }

    /// The part of a simple token that nobody can guess; other kinds have none.
    pub fn token_prefix(&self) -> String {
        if matches!(self.tokens, Tokens::Simple(_)) { random_letters() } else { String::new() }
    }

    /// The token that a login is answered with, if it is not the one that the entry brought.
    pub fn signer(&self) -> Signer {
        match &self.tokens {
            Tokens::None => Signer::Nobody,
            Tokens::Simple(_) => Signer::Log,
            Tokens::Jwt(jwt) => Signer::Jwt(Arc::clone(jwt)),
        }
    }

    /// Whether what was proven before still holds, and whose it is.
    pub fn confirm(&self, core: &Core, proven: &Proven, auth_revision: u64) -> Option<Identity> {
        match (proven, &self.tokens) {
            (Proven::Simple(user, session), Tokens::Simple(tokens)) => session
                .touch(core.now(), tokens.ttl_milliseconds)
                .then(|| Identity { user: user.clone(), revision: auth_revision }),
            (Proven::Jwt(user, claims), Tokens::Jwt(_)) => {
                claims.is_current().then(|| Identity { user: user.clone(), revision: claims.revision })
            }
            _ => None,
        }
    }

    /// Finds out about a token that was not seen before: `Err` if it is not good. May wait: for the entry that handed it
    /// out, for a thread that checks signatures.
    pub async fn prove(&self, core: &Core, token: &str) -> Result<Proven, EtcdError> {
        match &self.tokens {
            Tokens::None => Err(EtcdError::InvalidAuthToken),
            Tokens::Simple(tokens) => {
                let session = tokens.wait_for(core, token).await?;
                Ok(Proven::Simple(Arc::from(&*session.user), session))
            }
            Tokens::Jwt(jwt) => {
                let (jwt, token) = (Arc::clone(jwt), token.to_owned());
                let claims = self.signatures.run(move || jwt.verify(&token)).await?;
                let claims = claims.ok_or(EtcdError::InvalidAuthToken)?;
                Ok(Proven::Jwt(claims.user.as_str().into(), Arc::new(claims)))
            }
        }
    }

    /// Who shows these credentials, asked without a memory of what was proven before; `None`: nobody.
    pub async fn identify(&self, core: &Core, credentials: &Credentials) -> Result<Option<Identity>, EtcdError> {
        let revision = core.reader.auth().revision();
        let Some(token) = credentials.token() else { return Ok(certified(credentials, revision)) };
        let proven = self.prove(core, token).await?;
        let revision = core.reader.auth().revision();
        self.confirm(core, &proven, revision).map(Some).ok_or(EtcdError::InvalidAuthToken)
    }
}

/// A user by certificate, if the call shows no token.
pub fn certified(credentials: &Credentials, auth_revision: u64) -> Option<Identity> {
    let user = credentials.common_name.as_ref()?;
    Some(Identity { user: Arc::clone(user), revision: auth_revision })
}

/// Who makes the token of a login.
pub enum Signer {
    Nobody,
    /// The entry brings it.
    Log,
    Jwt(Arc<Jwt>),
}

impl Tokens {
    fn from_option(option: &str, ttl_seconds: u64) -> Result<Self, String> {
        let mut parts = option.split(',');
        let kind = parts.next().unwrap_or_default();
        let mut options: Vec<(&str, &str)> = Vec::new();
        for part in parts {
            let (name, value) = part
                .split_once('=')
                .filter(|(_, value)| !value.contains('='))
                .ok_or_else(|| format!("invalid auth options: {part:?} is not name=value"))?;
            if options.iter().any(|(other, _)| *other == name) {
                return Err(format!("invalid auth options: {name:?} is given twice"));
            }
            options.push((name, value));
        }
        match kind {
            "" => Ok(Self::None),
            "simple" => {
                // 0 stands for the default, as in etcd.
                let seconds = if ttl_seconds == 0 { 300 } else { ttl_seconds };
                Ok(Self::Simple(SimpleTokens::new(seconds.saturating_mul(1000).min(u64::MAX / 4))))
            }
            "jwt" => {
                let read = |path: &str| std::fs::read(path).map_err(|error| error.to_string());
                Ok(Self::Jwt(Arc::new(Jwt::from_options(&options, read)?)))
            }
            other => Err(format!("invalid auth options: unknown kind {other:?}")),
        }
    }
}

impl SimpleTokens {
    /// A token may be shown here before the entry was applied that handed it out through another member.
    async fn wait_for(&self, core: &Core, token: &str) -> Result<Arc<Session>, EtcdError> {
        let index = Self::index_of(token).ok_or(EtcdError::InvalidAuthToken)?;
        let deadline = Instant::now() + core.config.request_timeout;
        let mut grace = None;
        loop {
            let mut assigned = std::pin::pin!(self.assigned.notified());
            assigned.as_mut().enable();
            let applied = core.reader.applied_index();
            if let Some(session) = self.find(core.now(), token) {
                return Ok(session);
            }
            let now = Instant::now();
            if applied >= index && now >= *grace.get_or_insert(now + TOKEN_GRACE) || now >= deadline {
                return Err(EtcdError::InvalidAuthToken);
            }
            if applied > index {
                // Whoever applied it notes it before letting go of the state.
                drop(core.state());
                return self.find(core.now(), token).ok_or(EtcdError::InvalidAuthToken);
            }
            drop(tokio::time::timeout(TOKEN_CHECK, assigned).await);
        }
    }
}

/// What a log line may say of a token, as in etcd: enough to find its other lines.
pub fn fingerprint(token: &str) -> String {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    digest.as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Random bytes for salts.
pub fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// Letters of both cases, each as likely as any other.
fn random_letters() -> String {
    const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    // The largest multiple of the letters that a byte holds.
    const BOUND: u8 = 208;
    let mut text = String::with_capacity(TOKEN_LETTERS);
    while text.len() < TOKEN_LETTERS {
        let usable = random::<32>().into_iter().filter(|byte| *byte < BOUND);
        let letters = usable.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
        text.extend(letters.take(TOKEN_LETTERS - text.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_refused_by_name() {
        let refusal = |option: &str| Authenticator::new(option, 300, 10).err().unwrap_or_default();
        assert_eq!(refusal("simple"), "");
        assert_eq!(refusal(""), "");
        for (option, text) in [
            ("token", "unknown kind"),
            ("simple,a", "name=value"),
            ("simple,a=b=c", "name=value"),
            ("jwt,ttl=1m,ttl=2m", "twice"),
            ("jwt", "sign-method"),
            ("jwt,sign-method=none", "\"none\""),
            ("jwt,sign-method=RS256", "missing key data"),
            ("jwt,sign-method=HS256,pub-key=/nonexistent", "/nonexistent"),
            ("jwt,sign-method=HS256,ttl=soon", "ttl"),
        ] {
            assert!(refusal(option).contains(text), "{option}: {}", refusal(option));
        }
    }

    #[test]
    fn cve_2018_16886_a_gateways_certificate_is_nobodys() {
        let name: Arc<str> = "proxy".into();
        let mut headers = HeaderMap::new();
        let shown = |headers: &HeaderMap| certified(&Credentials::of_call(headers, Some(&name)), 7);
        assert_eq!(shown(&headers), Some(Identity { user: "proxy".into(), revision: 7 }));
        headers.insert("grpcgateway-accept", HeaderValue::from_static("*/*"));
        assert_eq!(shown(&headers), None);
    }

    #[test]
    fn tokens_come_under_both_names() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer a.1"));
        assert_eq!(Credentials::of_call(&headers, None).token(), Some("a.1"));
        headers.insert("token", HeaderValue::from_static("b.2"));
        assert_eq!(Credentials::of_call(&headers, None).token(), Some("b.2"));
        headers.insert("token", HeaderValue::from_bytes(b"\xff").expect("opaque bytes"));
        assert_eq!(Credentials::of_call(&headers, None).token(), Some(""));
    }

    #[test]
    fn letters_differ() {
        let (one, other) = (random_letters(), random_letters());
        assert!(one.len() == TOKEN_LETTERS && one.bytes().all(|byte| byte.is_ascii_alphabetic()));
        assert_ne!(one, other);
    }
}
