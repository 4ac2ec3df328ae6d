//! Hashing of passwords, away from the threads that serve connections: a few threads of low priority and a short queue. What
//! does not fit into the queue is refused, so that a flood of logins harms nothing but logins. Signatures of tokens have such a
//! pool of their own: who shows a token must not wait behind those who have yet to get one.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use kvorum_api::EtcdError;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::limits::{PASSWORD_QUEUE_MAX, PASSWORD_THREADS_PER_CORE_DIVISOR, SIGNATURE_QUEUE_MAX};
use crate::scheduling;

/// bcrypt looks at no more bytes of a password; Go's refuses to hash longer ones.
pub const PASSWORD_BYTES_MAX: usize = 72;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

/// What a pool is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Some 50 ms each at etcd's default cost, at the lowest priority.
    Passwords,
    /// A fraction of a millisecond each, and callers wait for them.
    Signatures,
}

/// The threads begin with the first work and end with the pool.
pub struct Pool {
    errand: Errand,
    shared: Arc<Shared>,
    started: OnceLock<()>,
    threads: usize,
}

impl Pool {
    pub fn new(errand: Errand, cores: usize) -> Self {
        let threads = match errand {
            Errand::Passwords => (cores / PASSWORD_THREADS_PER_CORE_DIVISOR).max(1),
            Errand::Signatures => 1,
        };
        Self { errand, shared: Arc::default(), started: OnceLock::new(), threads }
    }

    fn queue_max(&self) -> usize {
        match self.errand {
            Errand::Passwords => PASSWORD_QUEUE_MAX,
            Errand::Signatures => SIGNATURE_QUEUE_MAX,
        }
    }

    /// Does the work on a thread of the pool.
    ///
    /// # Errors
    /// `RequestTooManyRequests` if too much waits already, `Stopped` at a stop.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, EtcdError> {
        self.started.get_or_init(|| self.start());
        let (sender, receiver) = oneshot::channel();
        {
            let mut queue = self.shared.queue.lock();
            if queue.jobs.len() >= self.queue_max() {
                return Err(EtcdError::RequestTooManyRequests);
            }
            queue.jobs.push_back(Box::new(move || {
                // Who gave up meanwhile saves us the work.
                if !sender.is_closed() {
                    drop(sender.send(work()));
                }
            }));
        }
        self.shared.filled.notify_one();
        receiver.await.map_err(|_| EtcdError::Stopped)
    }

    fn start(&self) {
        let errand = self.errand;
        let name = match errand {
            Errand::Passwords => "passwords",
            Errand::Signatures => "signatures",
        };
        for _ in 0..self.threads {
            let shared = Arc::clone(&self.shared);
            let begun = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                if errand == Errand::Passwords {
                    scheduling::prefer_others();
                }
                work(&shared);
            });
            if let Err(error) = begun {
                tracing::error!(error = %error, "cannot start a thread for {name}");
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        queue.jobs.clear();
        drop(queue);
        self.shared.filled.notify_all();
    }
}

fn work(shared: &Shared) {
    loop {
        let mut queue = shared.queue.lock();
        let job = loop {
            if queue.closed {
                return;
            }
            match queue.jobs.pop_front() {
                Some(job) => break job,
                None => shared.filled.wait(&mut queue),
            }
        };
        drop(queue);
        job();
    }
}

/// The hash of a password as it is stored, in Go's notation.
///
/// # Errors
/// The text that etcd answers with.
pub fn hash(password: &str, cost: u32) -> Result<String, String> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(format!("bcrypt: password length exceeds {PASSWORD_BYTES_MAX} bytes"));
    }
    let salt: [u8; 16] = super::random();
    let parts = bcrypt::hash_with_salt(password, cost, salt).map_err(|error| format!("bcrypt: {error}"))?;
    Ok(parts.format_for_version(bcrypt::Version::TwoA))
}

/// Whether this is the password; a hash that is none is nobody's.
pub fn is_password(password: &str, hash: &[u8]) -> bool {
    str::from_utf8(hash).is_ok_and(|hash| bcrypt::verify(password, hash).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    const QUICK: u32 = 4;

    #[test]
    fn hashes_are_gos() {
        let hashed = hash("secret", QUICK).expect("a hash");
        assert!(hashed.starts_with("$2a$04$") && hashed.len() == 60, "{hashed}");
        assert!(is_password("secret", hashed.as_bytes()) && !is_password("Secret", hashed.as_bytes()));
        assert_ne!(hashed, hash("secret", QUICK).expect("another"));
        // As Go's golang.org/x/crypto/bcrypt checks the vector of its own tests.
        let known = b"$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga";
        assert!(is_password("allmine", known));
        assert!(!is_password("secret", b"") && !is_password("secret", b"$2a$04$short") && !is_password("s", b"\xff"));
        for odd in ["", "a\0b", "\u{e9}"] {
            let hashed = hash(odd, QUICK).expect("a hash");
            assert!(is_password(odd, hashed.as_bytes()) && !is_password("other", hashed.as_bytes()), "{odd:?}");
        }
        let longest = "x".repeat(PASSWORD_BYTES_MAX);
        assert!(hash(&longest, QUICK).is_ok());
        assert_eq!(hash(&(longest + "x"), QUICK), Err("bcrypt: password length exceeds 72 bytes".to_owned()));
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_the_rest_is_done() {
        let pool = Pool::new(Errand::Passwords, 1);
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let held = pool.run(move || gate.recv().is_ok());
        let mut held = std::pin::pin!(held);
        let mut context = Context::from_waker(Waker::noop());
        assert!(held.as_mut().poll(&mut context).is_pending());
        while !pool.shared.queue.lock().jobs.is_empty() {
            tokio::task::yield_now().await;
        }
        let mut waiting: Vec<_> = (0..PASSWORD_QUEUE_MAX).map(|number| Box::pin(pool.run(move || number))).collect();
        for one in &mut waiting {
            assert!(one.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(pool.run(|| 0).await, Err(EtcdError::RequestTooManyRequests));
        open.send(()).expect("somebody waits");
        assert_eq!(held.await, Ok(true));
        for (number, one) in waiting.into_iter().enumerate() {
            assert_eq!(one.await, Ok(number));
        }
    }
}
