//! Simple tokens: whoever shows one is the user it was handed out to, until it was not shown for a while. Every member hears
//! of them through the log and remembers them in memory, as in etcd; none survives a restart.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kvorum_store::{Token, TokenChange};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limits::SIMPLE_TOKENS_MAX;

/// How often tokens whose time is over are looked for, and how exact a deadline is.
const RESOLUTION_MILLISECONDS: u64 = 1000;

/// A token that was handed out.
#[derive(Debug)]
pub struct Session {
    pub user: Arc<str>,
    deadline_milliseconds: AtomicU64,
    ended: AtomicBool,
}

impl Session {
    /// Whether the token is still good; if so it is for its whole time again.
    pub fn touch(&self, now: u64, ttl_milliseconds: u64) -> bool {
        let deadline = self.deadline_milliseconds.load(Ordering::Relaxed);
        if self.ended.load(Ordering::Relaxed) || deadline <= now {
            return false;
        }
        // Many threads look at it: it is written about once a second.
        if now + ttl_milliseconds >= deadline + RESOLUTION_MILLISECONDS.min(ttl_milliseconds / 4) {
            self.deadline_milliseconds.store(now + ttl_milliseconds, Ordering::Relaxed);
        }
        true
    }
}

#[derive(Default)]
struct Table {
    sessions: HashMap<Token, Arc<Session>>,
    swept_at: u64,
}

pub struct SimpleTokens {
    pub ttl_milliseconds: u64,
    table: Mutex<Table>,
    /// Tells those who wait for one that another member handed out.
    pub assigned: Notify,
}

impl SimpleTokens {
    pub fn new(ttl_milliseconds: u64) -> Self {
        Self { ttl_milliseconds, table: Mutex::default(), assigned: Notify::new() }
    }

    /// Whether more can be remembered. If not, nobody may log in.
    pub fn is_full(&self, now: u64) -> bool {
        let mut table = self.table.lock();
        if table.sessions.len() >= SIMPLE_TOKENS_MAX {
            table.sweep(now);
        }
        table.sessions.len() >= SIMPLE_TOKENS_MAX
    }

    /// Takes over what applied entries did.
    pub fn note(&self, now: u64, changes: Vec<TokenChange>) {
        let mut table = self.table.lock();
        for change in changes {
            match change {
                TokenChange::Assigned { user, token } => {
                    // What other members handed out beyond the bound is not known here.
                    if table.sessions.len() < SIMPLE_TOKENS_MAX {
                        let deadline = AtomicU64::new(now + self.ttl_milliseconds);
                        let session = Session { user, deadline_milliseconds: deadline, ended: AtomicBool::new(false) };
                        table.sessions.insert(token, Arc::new(session));
                    }
                }
                TokenChange::Forgotten { user } => table.end(|session| session.user == user),
                TokenChange::AllForgotten => table.end(|_| true),
            }
        }
        if now >= table.swept_at + RESOLUTION_MILLISECONDS {
            table.sweep(now);
        }
        drop(table);
        self.assigned.notify_waiters();
    }

    pub fn find(&self, now: u64, token: &str) -> Option<Arc<Session>> {
        let session = self.table.lock().sessions.get(&Token(token.into())).cloned()?;
        session.touch(now, self.ttl_milliseconds).then_some(session)
    }

    /// Up to which entry a member must have come to know a token; `None` if it is none.
    pub fn index_of(token: &str) -> Option<u64> {
        let (prefix, index) = token.split_once('.')?;
        (!prefix.is_empty() && !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| index.parse().ok())
            .flatten()
    }
}

impl Table {
    fn end(&mut self, ends: impl Fn(&Session) -> bool) {
        self.sessions.retain(|_, session| {
            let ended = ends(session);
            session.ended.fetch_or(ended, Ordering::Relaxed);
            !ended
        });
    }

    fn sweep(&mut self, now: u64) {
        self.swept_at = now;
        self.sessions.retain(|_, session| session.deadline_milliseconds.load(Ordering::Relaxed) > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(user: &str, token: &str) -> TokenChange {
        TokenChange::Assigned { user: user.into(), token: Token(token.into()) }
    }

    fn user(tokens: &SimpleTokens, now: u64, token: &str) -> Option<String> {
        tokens.find(now, token).map(|session| session.user.to_string())
    }

    #[test]
    fn a_token_lives_on_while_it_is_shown() {
        let tokens = SimpleTokens::new(10_000);
        tokens.note(0, vec![assigned("alice", "a.1"), assigned("bob", "b.2")]);
        assert_eq!(user(&tokens, 9_999, "a.1").as_deref(), Some("alice"));
        assert_eq!(user(&tokens, 10_000, "b.2"), None);
        assert_eq!(user(&tokens, 19_000, "a.1").as_deref(), Some("alice"));
        tokens.note(28_000, vec![assigned("carol", "c.3")]);
        assert_eq!(tokens.table.lock().sessions.len(), 2, "what is over is forgotten");
        assert_eq!(user(&tokens, 29_001, "a.1"), None);
        assert_eq!(user(&tokens, 29_001, "d.4"), None);
    }

    #[test]
    fn who_holds_a_session_hears_of_its_end() {
        let tokens = SimpleTokens::new(10_000);
        tokens.note(0, vec![assigned("alice", "a.1"), assigned("alice", "a.2"), assigned("bob", "b.3")]);
        let (alice, bob) = (tokens.find(1, "a.2").expect("alice's"), tokens.find(1, "b.3").expect("bob's"));
        tokens.note(2, vec![TokenChange::Forgotten { user: "alice".into() }]);
        assert!(!alice.touch(3, 10_000) && bob.touch(3, 10_000));
        assert_eq!(user(&tokens, 3, "a.1"), None);
        tokens.note(4, vec![TokenChange::AllForgotten]);
        assert!(!bob.touch(5, 10_000));
    }

    #[test]
    fn only_what_looks_like_a_token_is_waited_for() {
        for (token, index) in [
            ("abc.17", Some(17)),
            ("abc", None),
            ("abc.x", None),
            (".1", None),
            ("a.", None),
            ("a.1.2", None),
            ("a.+1", None),
        ] {
            assert_eq!(SimpleTokens::index_of(token), index, "{token}");
        }
    }
}
