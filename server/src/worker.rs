//! A connection thread: one single-threaded runtime, the connections dealt to it, and the calls of theirs that wait for
//! the log. Everything here stays on its thread; other threads reach it through its mailbox and the watch publisher.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use kvorum_api::EtcdError;
use kvorum_node::member::{Outcome, Proposal};
use kvorum_store::{Access, AuthState, Reader};
use slab::Slab;
use tokio::sync::Semaphore;

use crate::auth::{self, Credentials, Identity, Proven, matrix};
use crate::core::{Core, Waiter};
use crate::grpc::{Responder, Status, begin_frame, finish_frame};
use crate::limits::{LONG_RANGES_PER_THREAD, PROVEN_TOKENS_MAX};
use crate::mailbox::SlotKey;
use crate::metrics::{GrpcCode, GrpcMethod};
use crate::services::Call;
use crate::watch::WatchHub;

/// A unary call whose answer comes with its log entry.
struct PendingCall {
    request_id: u64,
    respond: Responder,
    deadline: Instant,
    /// When the call began, if the deadline is the server's; else it is the caller's own.
    began: Option<u64>,
    method: GrpcMethod,
    /// A physical compaction is answered only when its revisions are gone.
    physical_compaction: bool,
}

/// What a linearizable read does once it may be served, or is not.
type ReadAction = Box<dyn FnOnce(&Rc<Worker>, Result<(), EtcdError>)>;

/// Users, roles and permissions with a count of references that is the thread's own: one that all threads share would go from
/// core to core with every call.
pub type OwnAuth = Rc<Arc<AuthState>>;

pub struct Worker {
    pub core: Arc<Core>,
    pub reader: Reader,
    pub hub: Rc<WatchHub>,
    index: usize,
    gathered: RefCell<Vec<Proposal<Waiter>>>,
    gathered_reads: RefCell<Vec<ReadAction>>,
    flusher: Cell<Option<Waker>>,
    pending: RefCell<Slab<PendingCall>>,
    /// Reads of one turn each, which wait together.
    pending_reads: RefCell<Slab<Vec<ReadAction>>>,
    /// Tokens that were good when they were last shown here.
    proven: RefCell<HashMap<HeaderValue, Proven>>,
    /// The users, roles and permissions last looked at, with their generation.
    auth: RefCell<(u64, OwnAuth)>,
    /// What all connections of the thread hold, see [`crate::held`].
    pub held_bytes: Rc<Cell<usize>>,
    /// A turn for each reply of several slices.
    pub long_ranges: Arc<Semaphore>,
}

/// How often calls that wait too long are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// What a proposal needs to know of its call.
pub struct CallMeta {
    pub method: GrpcMethod,
    pub deadline: Option<Instant>,
}

impl Worker {
    pub fn new(core: Arc<Core>, index: usize, hub: Rc<WatchHub>) -> Rc<Self> {
        let reader = core.reader.clone();
        Rc::new(Self {
            core,
            reader,
            hub,
            index,
            gathered: RefCell::default(),
            gathered_reads: RefCell::default(),
            flusher: Cell::default(),
            pending: RefCell::default(),
            pending_reads: RefCell::default(),
            proven: RefCell::default(),
            auth: RefCell::default(),
            held_bytes: Rc::default(),
            long_ranges: Arc::new(Semaphore::new(LONG_RANGES_PER_THREAD)),
        })
    }

    /// Starts the thread's own tasks.
    pub fn spawn_tasks(self: &Rc<Self>) {
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let _guard = worker.core.guard();
            loop {
                worker.wait_for_gathered().await;
                #[cfg(test)]
                worker.core.planted.strike(crate::planted::Place::Flusher);
                worker.flush();
            }
        });
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let _guard = worker.core.guard();
            loop {
                let mailbox = worker.core.mailbox(worker.index);
                let mail = std::future::poll_fn(|context| mailbox.poll_take(context)).await;
                worker.complete(mail.replies);
                worker.serve_reads(mail.reads);
            }
        });
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let _guard = worker.core.guard();
            let mut interval = tokio::time::interval(SWEEP_INTERVAL);
            loop {
                interval.tick().await;
                worker.sweep();
            }
        });
    }

    /// Users, roles and permissions; `None` while authentication is disabled.
    pub fn auth(&self) -> Option<OwnAuth> {
        let generation = self.reader.auth_generation();
        if generation == 0 {
            return None;
        }
        let mut seen = self.auth.borrow_mut();
        if seen.0 != generation {
            // It may be newer than the number, which is then looked at once more.
            *seen = (generation, Rc::new(self.reader.auth()));
        }
        Some(Rc::clone(&seen.1))
    }

    /// Who shows these credentials, if that needs no wait.
    pub fn identify_known(&self, credentials: &Credentials) -> Option<Result<Option<Identity>, EtcdError>> {
        let revision = self.auth().map_or(0, |auth| auth.revision());
        let Some(token) = credentials.token_header() else { return Some(Ok(auth::certified(credentials, revision))) };
        let mut proven = self.proven.borrow_mut();
        let identity = self.core.authenticator.confirm(&self.core, proven.get(token)?, revision);
        if identity.is_none() {
            proven.remove(token);
        }
        identity.map(|identity| Ok(Some(identity)))
    }

    /// Who shows these credentials: `None` is nobody, a token that is not good is an error.
    pub async fn identify(&self, credentials: &Credentials) -> Result<Option<Identity>, EtcdError> {
        if let Some(known) = self.identify_known(credentials) {
            return known;
        }
        let (Some(header), Some(token)) = (credentials.token_header(), credentials.token()) else { return Ok(None) };
        let proven = self.core.authenticator.prove(&self.core, token).await.inspect_err(|error| {
            if let Some(unsaid) = self.core.authenticator.refusals.admit(self.core.now()) {
                let token_fingerprint = auth::fingerprint(token);
                tracing::warn!(token_fingerprint, error = error.text(), unsaid, "invalid auth token");
            }
        })?;
        let revision = self.auth().map_or(0, |auth| auth.revision());
        let identity = self.core.authenticator.confirm(&self.core, &proven, revision);
        let mut known = self.proven.borrow_mut();
        if known.len() >= PROVEN_TOKENS_MAX {
            known.clear();
        }
        known.insert(header.clone(), proven);
        identity.map(Some).ok_or(EtcdError::InvalidAuthToken)
    }

    /// Notes who calls, and refuses whom the matrix refuses at the door.
    pub fn admit(&self, call: &mut Call, identity: Option<Identity>, message: &[u8]) -> Result<(), EtcdError> {
        call.identity = identity;
        let Some(auth) = self.auth() else { return Ok(()) };
        matrix::check_door(&auth, call.method, call.identity.as_ref().map(Identity::caller), message)
    }

    /// Whether the caller may read or write these keys now.
    pub fn check_keys(&self, call: &Call, access: Access, key: &[u8], range_end: &[u8]) -> Result<(), EtcdError> {
        self.auth().map_or(Ok(()), |auth| auth.check_keys(call.caller(), access, key, range_end))
    }

    /// After a read: what its caller may do must still be what it was asked about.
    pub fn check_unmoved(&self, call: &Call) -> Result<(), EtcdError> {
        let Some(identity) = &call.identity else { return Ok(()) };
        let revision = self.auth().map_or_else(|| self.reader.auth().revision(), |auth| auth.revision());
        if identity.revision == 0 || identity.revision == revision { Ok(()) } else { Err(EtcdError::AuthOldRevision) }
    }

    /// Takes an encoded request towards the log; the call is answered when it is applied. Proposals of one turn of the
    /// event loop go together.
    pub fn propose(&self, request_id: u64, data: Bytes, respond: Responder, meta: &CallMeta, physical: bool) {
        if let Some(error) = self.core.refusal() {
            return self.finish(meta.method, respond, Err(error.into()));
        }
        if data.len() > self.core.config.max_request_bytes {
            return self.finish(meta.method, respond, Err(EtcdError::RequestTooLarge.into()));
        }
        let server_deadline = Instant::now() + self.core.config.request_timeout;
        let (deadline, began) = match meta.deadline {
            Some(deadline) if deadline < server_deadline => (deadline, None),
            _ => (server_deadline, Some(self.core.now())),
        };
        let slot = self.pending.borrow_mut().insert(PendingCall {
            request_id,
            respond,
            deadline,
            began,
            method: meta.method,
            physical_compaction: physical,
        });
        let waiter = Waiter::Slot { worker: self.index, key: SlotKey { slot, request_id } };
        self.gathered.borrow_mut().push(Proposal { id: request_id, data, waiter });
        self.wake_flusher();
    }

    fn wake_flusher(&self) {
        if let Some(waker) = self.flusher.take() {
            waker.wake();
        }
    }

    /// Does `read` once a linearizable read may be served, or is not; at once if that is known. Reads of one turn of the
    /// event loop ask together.
    pub fn linearize(self: &Rc<Self>, read: impl FnOnce(&Rc<Self>, Result<(), EtcdError>) + 'static) {
        if self.core.is_linearized() {
            return read(self, Ok(()));
        }
        self.gathered_reads.borrow_mut().push(Box::new(read));
        self.wake_flusher();
    }

    /// Ready at the end of the turn in which the first proposal was gathered: tasks that were already woken run first.
    async fn wait_for_gathered(&self) {
        std::future::poll_fn(|context| {
            if self.gathered.borrow().is_empty() && self.gathered_reads.borrow().is_empty() {
                self.flusher.set(Some(context.waker().clone()));
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    fn flush(self: &Rc<Self>) {
        if !self.gathered.borrow().is_empty() {
            self.flush_proposals();
        }
        let reads = std::mem::take(&mut *self.gathered_reads.borrow_mut());
        if !reads.is_empty() {
            let batch = self.pending_reads.borrow_mut().insert(reads);
            self.core.read(Waiter::Reads { worker: self.index, batch });
        }
    }

    fn serve_reads(self: &Rc<Self>, batches: Vec<(usize, Result<(), EtcdError>)>) {
        for (batch, confirmed) in batches {
            let reads = self.pending_reads.borrow_mut().remove(batch);
            for read in reads {
                read(self, confirmed);
            }
        }
    }

    fn flush_proposals(self: &Rc<Self>) {
        let mut batch = std::mem::take(&mut *self.gathered.borrow_mut());
        let mut own = Vec::new();
        if self.core.drive_inline(&mut batch, self.index, &mut own) {
            // The emptied vector goes back, to be filled without allocating.
            *self.gathered.borrow_mut() = batch;
            self.complete(own);
        } else {
            self.core.enqueue(batch.into_iter());
        }
    }

    fn complete(self: &Rc<Self>, replies: Vec<(SlotKey, Outcome)>) {
        for (key, outcome) in replies {
            let call = {
                let mut pending = self.pending.borrow_mut();
                match pending.get(key.slot) {
                    Some(call) if call.request_id == key.request_id => pending.remove(key.slot),
                    // It was given up meanwhile.
                    _ => continue,
                }
            };
            self.answer(call, outcome);
        }
    }

    fn answer(self: &Rc<Self>, call: PendingCall, outcome: Outcome) {
        let applied = match outcome {
            Ok(applied) => applied,
            Err(error) => return self.finish(call.method, call.respond, Err(error.into())),
        };
        let header = self.core.header(applied.revision);
        let mut frame = begin_frame(applied.reply.encoded_len(&header));
        applied.reply.encode(&header, &mut frame);
        let frame = finish_frame(frame);
        if !call.physical_compaction {
            return self.finish(call.method, call.respond, Ok(frame));
        }
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            worker.core.wait_for_compaction().await;
            worker.finish(call.method, call.respond, Ok(frame));
        });
    }

    /// Answers a unary call and counts it.
    pub fn finish(&self, method: GrpcMethod, respond: Responder, result: Result<Bytes, Status>) {
        match result {
            Ok(frame) => {
                self.note_sent(method, frame.len());
                respond.reply(frame);
            }
            Err(status) => {
                self.core.metrics.grpc.unary(method, GrpcCode::from_number(status.code as i32));
                respond.fail(&status);
            }
        }
    }

    /// Counts a call that was answered well by other means.
    pub fn note_sent(&self, method: GrpcMethod, bytes: usize) {
        self.core.metrics.grpc.unary(method, GrpcCode::OK);
        self.core.metrics.client_sent_bytes_total.add(bytes as u64);
    }

    /// Answers a read with a message in several pieces, and counts it; unless its client leaves too much unread already.
    pub fn finish_pieces(&self, method: GrpcMethod, respond: Responder, pieces: Vec<Bytes>) {
        if respond.is_full() {
            return self.finish(method, respond, Err(EtcdError::RequestTooManyRequests.into()));
        }
        self.note_sent(method, pieces.iter().map(Bytes::len).sum());
        respond.reply_pieces(pieces);
    }

    /// Fails calls whose time is over. Their entries may still be applied: the caller does not know, as with etcd.
    fn sweep(&self) {
        let now = Instant::now();
        let overdue: Vec<usize> =
            self.pending.borrow().iter().filter(|(_, call)| call.deadline <= now).map(|(slot, _)| slot).collect();
        for slot in overdue {
            let call = self.pending.borrow_mut().remove(slot);
            let told = call.began.map(|began| self.core.timeout_error(began).into());
            self.finish(call.method, call.respond, Err(told.unwrap_or_else(Status::deadline_exceeded)));
        }
    }
}
