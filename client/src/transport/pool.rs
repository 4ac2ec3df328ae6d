//! Connections to every endpoint, kept by one task for each, and the choice of one for a call: in turn over those that
//! are healthy. A member that is dead, silent or without a leader is left, and tried again. It never repeats a call.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::endpoint::Endpoint;
use super::http2::Link;
use super::{BoxFuture, CallHead, Failure, ReceiveHalf, SendHalf, Sent, Transport};
use crate::backoff::{Backoff, random};
use crate::config::Config;
use crate::error::{Code, Error, EtcdError};

/// How long a member that said it has no leader, or is a learner, comes last.
const AVOID_DURATION: Duration = Duration::from_secs(1);

/// After so long without a byte from its member, a call has the member asked for a sign of life...
const PROBE_AFTER: Duration = Duration::from_millis(400);

/// ... and after so long without one, other members are asked instead.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);

/// The transport over HTTP/2.
#[derive(Clone)]
pub struct Http2(Arc<Pool>);

struct Pool {
    config: Config,
    slots: RwLock<Vec<Arc<Slot>>>,
    next: AtomicUsize,
    /// Counts connections that came, so that waiters look again.
    arrivals: Arc<watch::Sender<u64>>,
}

/// One endpoint and what became of it.
struct Slot {
    endpoint: Arc<Endpoint>,
    state: Mutex<SlotState>,
    /// The task that keeps it connected.
    keeper: Mutex<Option<AbortHandle>>,
}

#[derive(Default)]
struct SlotState {
    link: Option<Arc<Link>>,
    avoid_until: Option<Instant>,
    trouble: Option<String>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get_mut() {
            keeper.abort();
        }
    }
}

impl Http2 {
    /// Begins to connect to every endpoint of the configuration. It must be called within a tokio runtime.
    ///
    /// # Errors
    /// When there is no endpoint, or one that is none.
    pub fn start(config: &Config) -> Result<Self, Error> {
        let pool = Pool {
            config: config.clone(),
            slots: RwLock::default(),
            next: AtomicUsize::new(usize::try_from(random() >> 40).unwrap_or(0)),
            arrivals: Arc::new(watch::Sender::new(0)),
        };
        let transport = Self(Arc::new(pool));
        transport.set_endpoints(&config.endpoints)?;
        Ok(transport)
    }
}

impl Pool {
    /// A healthy endpoint in turn; one to be avoided, or that is silent, only when there is no other. None when nothing is connected.
    fn pick(&self) -> Option<(Arc<Slot>, Arc<Link>)> {
        let slots = self.slots.read();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut avoided = None;
        for offset in 0..slots.len() {
            let slot = &slots[first.wrapping_add(offset) % slots.len()];
            let state = slot.state.lock();
            let Some(link) = state.link.as_ref().filter(|link| link.is_usable()) else { continue };
            if state.avoid_until.is_none_or(|until| until <= now) && !link.is_silent() {
                return Some((Arc::clone(slot), Arc::clone(link)));
            }
            avoided.get_or_insert_with(|| (Arc::clone(slot), Arc::clone(link)));
        }
        avoided
    }

    async fn wait_for_pick(&self) -> (Arc<Slot>, Arc<Link>) {
        let mut arrivals = self.arrivals.subscribe();
        loop {
            arrivals.mark_unchanged();
            if let Some(picked) = self.pick() {
                return picked;
            }
            // The sender lives as long as the pool.
            drop(arrivals.changed().await);
        }
    }

    /// The connection for a call: one of the pool's, or a new one to an endpoint that only this call is for.
    async fn link_for(&self, head: &CallHead) -> Result<(Option<Arc<Slot>>, Arc<Link>), Failure> {
        let Some(name) = &head.endpoint else {
            let (slot, link) = self.wait_for_pick().await;
            return Ok((Some(slot), link));
        };
        let known = self.slots.read().iter().find(|slot| slot.endpoint.name() == name).cloned();
        if let Some(slot) = &known
            && let Some(link) = slot.state.lock().link.clone().filter(|link| link.is_usable())
        {
            return Ok((known.clone(), link));
        }
        let failed =
            |code: Code, text: String| Failure { code, text, sent: Sent::Never, endpoint: Some(Arc::clone(name)) };
        let endpoint = Endpoint::parse(name, self.config.has_tls())
            .map_err(|error| failed(Code::InvalidArgument, error.text().to_owned()))?;
        match timeout(self.config.dial_timeout, Link::open(&Arc::new(endpoint), &self.config)).await {
            Ok(Ok(link)) => Ok((None, Arc::new(link))),
            Ok(Err(error)) => Err(failed(Code::Unavailable, format!("{name}: {error}"))),
            Err(_) => Err(failed(Code::Unavailable, format!("{name}: it did not answer"))),
        }
    }

    /// Runs a call on some connection until its deadline, and learns from how it failed.
    async fn run<T, F>(&self, head: CallHead, call: impl FnOnce(Arc<Link>, CallHead) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let deadline = head.deadline;
        let (slot, link) = match bounded(deadline, self.link_for(&head)).await {
            Some(found) => found?,
            None => {
                let text = format!("no endpoint is connected ({})", self.trouble());
                return Err(Failure::new(Code::DeadlineExceeded, text, Sent::Never));
            }
        };
        let began = Instant::now();
        let may_move = head.may_move;
        let mut call = std::pin::pin!(call(Arc::clone(&link), head));
        let ended = tokio::select! {
            biased;
            outcome = &mut call => Ok(outcome),
            end = self.patience(&link, began, deadline, may_move) => Err(end),
        };
        let outcome = ended.unwrap_or_else(|end| {
            let endpoint = slot.as_ref().map(|slot| Arc::clone(slot.endpoint.name()));
            let (code, text) = match end {
                Patience::Late => {
                    // Whoever said nothing for a whole call is taken for gone.
                    link.abandon_if_silent_since(began);
                    (Code::DeadlineExceeded, "context deadline exceeded")
                }
                Patience::Silent => (Code::Unavailable, "the member is silent"),
            };
            Err(Failure { code, text: text.to_owned(), sent: Sent::Maybe, endpoint })
        });
        if let (Err(failure), Some(slot)) = (&outcome, &slot)
            && is_about_the_member(failure)
        {
            slot.state.lock().avoid_until = Some(Instant::now() + AVOID_DURATION);
        }
        outcome
    }

    /// Ends when a call that began then has waited long enough: until its deadline, or, if it may move to another member,
    /// until its own has given no sign of life when asked for one. A member that is merely slow answers pings.
    async fn patience(&self, link: &Link, began: Instant, deadline: Option<Instant>, may_move: bool) -> Patience {
        let by = |time: Instant| deadline.map_or(time, |deadline| deadline.min(time));
        let mut timer = std::pin::pin!(tokio::time::sleep_until(by(began + PROBE_AFTER)));
        loop {
            timer.as_mut().await;
            let (now, heard) = (Instant::now(), link.heard());
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Patience::Late;
            }
            let next = match link.pinged() {
                Some(pinged) if pinged + PROBE_TIMEOUT <= now => {
                    link.note_silence();
                    if may_move && self.pick().is_some_and(|(_, other)| !other.is_silent()) {
                        return Patience::Silent;
                    }
                    now + PROBE_AFTER
                }
                Some(pinged) => pinged + PROBE_TIMEOUT,
                None if heard + PROBE_AFTER <= now => {
                    link.probe();
                    now + PROBE_TIMEOUT
                }
                None => heard + PROBE_AFTER,
            };
            timer.as_mut().reset(by(next));
        }
    }

    fn trouble(&self) -> String {
        let slots = self.slots.read();
        let lines = slots.iter().map(|slot| {
            let trouble = slot.state.lock().trouble.clone();
            format!("{}: {}", slot.endpoint.name(), trouble.as_deref().unwrap_or("connecting"))
        });
        lines.collect::<Vec<_>>().join("; ")
    }
}

/// Why a call waits no longer.
enum Patience {
    /// Its deadline is over.
    Late,
    /// Its member gives no sign of life, and another may.
    Silent,
}

async fn bounded<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

/// Whether another member may do better.
fn is_about_the_member(failure: &Failure) -> bool {
    [EtcdError::NoLeader, EtcdError::NotSupportedForLearner, EtcdError::Stopped, EtcdError::TimeoutDueToConnectionLost]
        .iter()
        .any(|error| error.text() == failure.text)
}

/// Keeps one endpoint connected, for ever. It holds no strong reference to the pool, so that dropping that ends it.
async fn keep(slot: std::sync::Weak<Slot>, endpoint: Arc<Endpoint>, config: Config, arrivals: Arc<watch::Sender<u64>>) {
    let mut backoff = Backoff::new(config.backoff_base, config.backoff_max);
    loop {
        let opened = timeout(config.dial_timeout, Link::open(&endpoint, &config)).await;
        let opened = opened.unwrap_or_else(|_| Err("it accepts, or is not there, and never answers".to_owned()));
        match opened {
            Ok(link) => {
                let link = Arc::new(link);
                let began = Instant::now();
                {
                    let Some(slot) = slot.upgrade() else { return };
                    let mut state = slot.state.lock();
                    state.link = Some(Arc::clone(&link));
                    state.trouble = None;
                }
                tracing::debug!(endpoint = %endpoint.name(), "connected");
                arrivals.send_modify(|count| *count += 1);
                link.retired().await;
                tracing::debug!(endpoint = %endpoint.name(), "connection lost");
                let Some(slot) = slot.upgrade() else { return };
                let mut state = slot.state.lock();
                state.link = None;
                state.trouble = Some("the connection was lost".to_owned());
                // A peer that accepts and hangs up at once must not be hammered.
                if began.elapsed() > config.backoff_max {
                    backoff.reset();
                }
            }
            Err(error) => {
                let Some(slot) = slot.upgrade() else { return };
                tracing::debug!(endpoint = %endpoint.name(), %error, "cannot connect");
                slot.state.lock().trouble = Some(error);
            }
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

impl Transport for Http2 {
    fn unary(&self, head: CallHead, message: Bytes) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let pool = Arc::clone(&self.0);
        Box::pin(async move { pool.run(head, async |link, head| link.unary(&head, message).await).await })
    }

    fn stream(&self, head: CallHead) -> BoxFuture<'static, Result<(Box<dyn SendHalf>, Box<dyn ReceiveHalf>), Failure>> {
        let pool = Arc::clone(&self.0);
        Box::pin(async move { pool.run(head, async |link, head| link.stream(&head).await).await })
    }

    fn ready(&self) -> BoxFuture<'static, ()> {
        let pool = Arc::clone(&self.0);
        Box::pin(async move { drop(pool.wait_for_pick().await) })
    }

    fn trouble(&self) -> String {
        self.0.trouble()
    }

    fn endpoints(&self) -> Vec<String> {
        self.0.slots.read().iter().map(|slot| slot.endpoint.name().to_string()).collect()
    }

    fn endpoint_count(&self) -> usize {
        self.0.slots.read().len()
    }

    fn set_endpoints(&self, endpoints: &[String]) -> Result<(), Error> {
        let pool = &self.0;
        if endpoints.is_empty() {
            return Err(Error::configuration("there is no endpoint"));
        }
        let mut parsed: Vec<Endpoint> = Vec::new();
        for text in endpoints {
            let endpoint = Endpoint::parse(text, pool.config.has_tls())?;
            if !parsed.iter().any(|other| other.name() == endpoint.name()) {
                parsed.push(endpoint);
            }
        }
        let mut slots = pool.slots.write();
        let old = std::mem::take(&mut *slots);
        for endpoint in parsed {
            if let Some(kept) = old.iter().find(|slot| slot.endpoint.name() == endpoint.name()) {
                slots.push(Arc::clone(kept));
                continue;
            }
            let endpoint = Arc::new(endpoint);
            let slot = Slot { endpoint: Arc::clone(&endpoint), state: Mutex::default(), keeper: Mutex::default() };
            let slot = Arc::new(slot);
            let work = keep(Arc::downgrade(&slot), endpoint, pool.config.clone(), Arc::clone(&pool.arrivals));
            *slot.keeper.lock() = Some(tokio::spawn(work).abort_handle());
            slots.push(slot);
        }
        Ok(())
    }
}
