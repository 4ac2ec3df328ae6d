//! A transport of one's own: a client without any network.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use kvorum_client::transport::{BoxFuture, CallHead, Failure, ReceiveHalf, SendHalf, Sent};
use kvorum_client::{Client, Code, Config, Connection, Error, EtcdError, Transport};

/// Answers every call by a script.
#[derive(Clone)]
struct Scripted {
    calls: Arc<AtomicUsize>,
    script: fn(usize, &CallHead) -> Result<Bytes, Failure>,
}

impl Transport for Scripted {
    fn unary(&self, head: CallHead, _message: Bytes) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let outcome = (self.script)(self.calls.fetch_add(1, Ordering::SeqCst), &head);
        Box::pin(async move { outcome })
    }

    fn stream(
        &self,
        _head: CallHead,
    ) -> BoxFuture<'static, Result<(Box<dyn SendHalf>, Box<dyn ReceiveHalf>), Failure>> {
        Box::pin(async { Err(Failure::new(Code::Unimplemented, "no streams here", Sent::Never)) })
    }

    fn ready(&self) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }

    fn endpoints(&self) -> Vec<String> {
        vec!["here".to_owned()]
    }

    fn set_endpoints(&self, _endpoints: &[String]) -> Result<(), Error> {
        Ok(())
    }
}

fn scripted(script: fn(usize, &CallHead) -> Result<Bytes, Failure>) -> (Client, Arc<AtomicUsize>) {
    let transport = Scripted { calls: Arc::default(), script };
    let calls = Arc::clone(&transport.calls);
    let config = Config::new(["here"])
        .request_timeout(Duration::from_secs(30))
        .backoff(Duration::from_millis(1), Duration::from_millis(1));
    (Client::over(&Connection::over(transport, config)), calls)
}

fn fail(code: Code, error: EtcdError, sent: Sent) -> Result<Bytes, Failure> {
    Err(Failure::new(code, error.text(), sent))
}

/// The rules for repeating, one by one: how many attempts a failure that comes three times costs.
#[tokio::test]
async fn rules_of_repeating() {
    // Unavailable, possibly executed: reads go on, writes do not.
    fn unavailable(call: usize, _head: &CallHead) -> Result<Bytes, Failure> {
        if call < 3 { fail(Code::Unavailable, EtcdError::Timeout, Sent::Maybe) } else { Ok(Bytes::new()) }
    }
    let (client, calls) = scripted(unavailable);
    client.get("a").await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    let (client, calls) = scripted(unavailable);
    assert!(client.put("a", "1").await.unwrap_err().maybe_applied());
    assert!(client.delete("a").await.unwrap_err().maybe_applied());
    assert!(client.txn().then(kvorum_client::Put::new("a", "1")).await.unwrap_err().maybe_applied());
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    let (client, calls) = scripted(unavailable);
    client.txn().then(kvorum_client::Get::new("a")).await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 4, "a transaction that only reads is a read");

    // Surely not executed: writes go on too.
    fn refused(call: usize, _head: &CallHead) -> Result<Bytes, Failure> {
        match call {
            0 => fail(Code::Unavailable, EtcdError::NoLeader, Sent::Maybe),
            1 => Err(Failure::new(Code::Unavailable, "going away", Sent::Never)),
            2 => fail(Code::Unknown, EtcdError::RequestTooManyRequests, Sent::Maybe),
            _ => Ok(Bytes::new()),
        }
    }
    let (client, calls) = scripted(refused);
    client.put("a", "1").await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 4);

    // What does not pass is not repeated by anybody.
    let (client, calls) = scripted(|_, _| fail(Code::OutOfRange, EtcdError::Compacted, Sent::Maybe));
    assert!(client.get("a").await.unwrap_err().is(EtcdError::Compacted));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// A member without a leader is asked to say so, but not where none is needed.
#[tokio::test]
async fn the_leader_is_required_where_it_is_needed() {
    let (client, _) = scripted(|_, head| {
        let needs = !head.path.ends_with("Status");
        assert_eq!(head.require_leader, needs && head.token.is_none(), "{}", head.path);
        Ok(Bytes::new())
    });
    client.put("a", "1").await.unwrap();
    client.get("a").await.unwrap();
    client.maintenance().status().await.unwrap();
    let (client, _) = scripted(|_, head| {
        assert!(!head.require_leader);
        Ok(Bytes::new())
    });
    client.get("a").serializable().await.unwrap();
}

/// A member that lags behind learns of a token later; then it takes it.
#[tokio::test]
async fn a_member_hears_of_a_login_late() {
    static LOGINS: AtomicUsize = AtomicUsize::new(0);
    let transport = Scripted {
        calls: Arc::default(),
        script: |call, head| match head.path {
            "/etcdserverpb.Auth/Authenticate" => {
                LOGINS.fetch_add(1, Ordering::SeqCst);
                Ok(Bytes::from_static(&[0x12, 1, b't']))
            }
            _ if call < 8 => fail(Code::Unauthenticated, EtcdError::InvalidAuthToken, Sent::Maybe),
            _ => Ok(Bytes::new()),
        },
    };
    let config = Config::default().user("a", "b").backoff(Duration::from_millis(1), Duration::from_millis(1));
    Client::over(&Connection::over(transport, config)).put("a", "1").await.unwrap();
    assert_eq!(LOGINS.load(Ordering::SeqCst), 3);
}

/// A login that is refused again and again ends; a failure of it is one of the call, which was not sent.
#[tokio::test]
async fn logging_in_again_has_an_end() {
    let transport = Scripted {
        calls: Arc::default(),
        script: |_, head| match head.path {
            "/etcdserverpb.Auth/Authenticate" => Ok(Bytes::from_static(&[0x12, 1, b't'])),
            _ => {
                assert_eq!(head.token.as_deref(), Some("t"));
                fail(Code::Unauthenticated, EtcdError::InvalidAuthToken, Sent::Maybe)
            }
        },
    };
    let calls = Arc::clone(&transport.calls);
    let config = Config::default().user("a", "b").backoff(Duration::from_millis(1), Duration::from_millis(1));
    let client = Client::over(&Connection::over(transport, config));
    let error = client.put("a", "1").await.unwrap_err();
    assert!(error.is(EtcdError::InvalidAuthToken) && !error.maybe_applied());
    assert_eq!(calls.load(Ordering::SeqCst), 11, "three logins, each with an attempt, and five more with the last");
}

/// Streams that say one thing and then nothing more.
struct FallsSilent(Bytes);

impl Transport for FallsSilent {
    fn unary(&self, _head: CallHead, _message: Bytes) -> BoxFuture<'static, Result<Bytes, Failure>> {
        Box::pin(std::future::pending())
    }

    fn stream(
        &self,
        _head: CallHead,
    ) -> BoxFuture<'static, Result<(Box<dyn SendHalf>, Box<dyn ReceiveHalf>), Failure>> {
        let first = Some(self.0.clone());
        Box::pin(
            async move { Ok((Box::new(Unheard) as Box<dyn SendHalf>, Box::new(Said(first)) as Box<dyn ReceiveHalf>)) },
        )
    }

    fn ready(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn endpoints(&self) -> Vec<String> {
        vec!["here".to_owned()]
    }

    fn set_endpoints(&self, _endpoints: &[String]) -> Result<(), Error> {
        Ok(())
    }
}

struct Unheard;

impl SendHalf for Unheard {
    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, _message: Bytes) -> Result<(), Failure> {
        Ok(())
    }

    fn close(&mut self) {}
}

struct Said(Option<Bytes>);

impl ReceiveHalf for Said {
    fn poll_receive(&mut self, _context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Failure>> {
        self.0.take().map_or(Poll::Pending, |message| Poll::Ready(Ok(Some(message))))
    }
}

/// A download that stops in the middle ends in time, once, and so does waiting for a connection that never comes.
#[tokio::test]
async fn silence_in_the_middle_of_a_download_is_an_error() {
    let config =
        || Config::new(["here"]).request_timeout(Duration::from_millis(50)).dial_timeout(Duration::from_millis(50));
    let client =
        |first: &'static [u8]| Client::over(&Connection::over(FallsSilent(Bytes::from_static(first)), config()));
    // A piece of a snapshot, "x" in its field 3.
    let mut snapshot = client(&[0x1a, 1, b'x']).maintenance().snapshot().await.unwrap();
    assert_eq!(snapshot.next().await.unwrap().unwrap(), "x");
    assert_eq!(snapshot.next().await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(snapshot.next().await.unwrap().is_none());
    // A piece of a range without keys.
    let mut chunks = client(&[0x0a, 0]).get("a").prefix().stream();
    assert!(chunks.next().await.unwrap().unwrap().kvs.is_empty());
    assert_eq!(chunks.next().await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    assert!(chunks.next().await.is_none());
    let error = client(&[]).connection().ready().await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
}

#[test]
fn everything_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<Client>();
    shared::<Error>();
    sent::<kvorum_client::Watch>();
    sent::<kvorum_client::KeepAlive>();
    sent::<kvorum_client::LeaseGuard>();
    sent::<kvorum_client::Snapshot>();
}

/// Every call has a span that names it and holds nothing of the user's.
#[test]
fn calls_have_spans() {
    use tracing::span;

    #[derive(Clone, Default)]
    struct Seen(Arc<parking_lot::Mutex<String>>);

    impl tracing::field::Visit for Seen {
        fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
            self.0.lock().push_str(&format!(" {}={value:?}", field.name()));
        }
    }

    impl tracing::Subscriber for Seen {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.target().starts_with("kvorum_client")
        }
        fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
            self.0.lock().push_str(attributes.metadata().name());
            attributes.record(&mut self.clone());
            span::Id::from_u64(1)
        }
        fn record(&self, _span: &span::Id, values: &span::Record<'_>) {
            values.record(&mut self.clone());
        }
        fn event(&self, event: &tracing::Event<'_>) {
            event.record(&mut self.clone());
        }
        fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}
        fn enter(&self, _span: &span::Id) {}
        fn exit(&self, _span: &span::Id) {}
    }

    let put = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, _) = scripted(|call, _| match call {
                0 => Err(Failure::new(Code::Unavailable, "going away", Sent::Never)),
                _ => Ok(Bytes::new()),
            });
            client.put("the key", "the value").await.unwrap();
        });
    };
    // Other tests meet the same places in the code for the first time just now, and nobody listens there: where that has
    // been noted, it is asked for again once somebody does.
    put();
    let seen = Seen::default();
    tracing::subscriber::with_default(seen.clone(), || {
        tracing::callsite::rebuild_interest_cache();
        put();
    });
    let text = seen.0.lock().clone();
    assert!(text.contains("call path=\"/etcdserverpb.KV/Put\"") && text.contains("trying again"), "{text}");
    assert!(!text.contains("the key") && !text.contains("the value"), "{text}");
}
