//! The token that calls carry: asked for when first needed, once for all that wait, and again after the server refused
//! it as stale. Passwords and tokens are never logged and never part of an error.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::Credentials;
use crate::error::Result;

/// A token and which login it came from.
#[derive(Clone, Default)]
pub struct Token {
    pub text: Option<Arc<str>>,
    generation: u64,
}

/// The state of a login.
pub struct Login {
    credentials: Credentials,
    current: Mutex<Current>,
    /// One login at a time; the others wait for its token.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Current {
    token: Token,
    is_fresh: bool,
}

impl Login {
    pub fn new(credentials: Credentials) -> Self {
        let mut current = Current::default();
        match &credentials {
            Credentials::None => current.is_fresh = true,
            Credentials::Token(token) => {
                current.token.text = Some(token.as_str().into());
                current.is_fresh = true;
            }
            Credentials::Password { .. } | Credentials::Source(_) => {}
        }
        Self { credentials, current: Mutex::new(current), turn: tokio::sync::Mutex::default() }
    }

    /// Whether a stale token can be replaced.
    pub fn can_refresh(&self) -> bool {
        matches!(self.credentials, Credentials::Password { .. } | Credentials::Source(_))
    }

    /// Whether there is a password, so that "user name is empty" means that authentication was just enabled.
    pub fn has_password(&self) -> bool {
        matches!(self.credentials, Credentials::Password { .. })
    }

    /// The server refused `token` as stale. What a later login brought stays.
    pub fn invalidate(&self, token: &Token) {
        let mut current = self.current.lock();
        if self.can_refresh() && current.token.generation == token.generation {
            current.is_fresh = false;
        }
    }

    /// The token to use. `authenticate` turns a user and a password into a token, or None when the server has no
    /// authentication.
    pub async fn token<F>(&self, authenticate: impl FnOnce(String, String) -> F) -> Result<Token>
    where
        F: Future<Output = Result<Option<String>>>,
    {
        if let Some(token) = self.fresh() {
            return Ok(token);
        }
        let _turn = self.turn.lock().await;
        if let Some(token) = self.fresh() {
            return Ok(token);
        }
        let text = match &self.credentials {
            Credentials::Password { user, password } => authenticate(user.clone(), password.clone()).await?,
            Credentials::Source(source) => Some(source.token().await?),
            Credentials::None | Credentials::Token(_) => None,
        };
        let mut current = self.current.lock();
        current.token = Token { text: text.map(Into::into), generation: current.token.generation + 1 };
        current.is_fresh = true;
        Ok(current.token.clone())
    }

    fn fresh(&self) -> Option<Token> {
        let current = self.current.lock();
        current.is_fresh.then(|| current.token.clone())
    }
}
