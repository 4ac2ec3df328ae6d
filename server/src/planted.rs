//! Panics that tests plant, at places where only a bug of ours could bring one about, and what they do to a member. Nothing
//! here exists outside of tests.

use parking_lot::Mutex;

/// Where a member panics, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    RaftThread,
    LogThread,
    CompactionThread,
    /// The task of a connection thread that commits what its connections gathered.
    Flusher,
    /// The task of one connection.
    Connection,
}

/// The panic that a core was told to make.
#[derive(Default)]
pub struct Planted(Mutex<Option<Place>>);

impl Planted {
    pub fn plant(&self, place: Place) {
        *self.0.lock() = Some(place);
    }

    pub fn strike(&self, place: Place) {
        let is_here = self.0.lock().take_if(|planted| *planted == place).is_some();
        assert!(!is_here, "planted: {place:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Arc;
    use std::time::Duration;

    use kvorum_api::etcdserverpb::kv_client::KvClient;
    use kvorum_api::etcdserverpb::{InternalRaftRequest, PutRequest};
    use kvorum_node::member::Proposal;

    use super::Place;
    use crate::config::Config;
    use crate::core::{Core, Waiter};
    use crate::embed;
    use crate::start::{Running, start};

    /// With one connection thread. The data go with the folder.
    fn member() -> (tempfile::TempDir, Running) {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Config { connection_threads: 1, ..embed::config(&folder.path().join("data")) };
        let member = start(&config).expect("a member starts");
        (folder, member)
    }

    fn connect(member: &Running) -> TcpStream {
        let socket = TcpStream::connect(member.client_url().trim_start_matches("http://")).expect("it listens");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        socket
    }

    /// Puts by a client of its own; whether it was answered well. It does not wait for ever.
    fn put(member: &Running) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let putting = async {
            let mut client = KvClient::connect(member.client_url()).await.expect("it listens");
            client.put(PutRequest { key: "k".into(), ..PutRequest::default() }).await.is_ok()
        };
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), putting).await.expect("an answer") })
    }

    fn propose_nothing(core: &Core) {
        let (id, data) = core.state().number(InternalRaftRequest::default());
        core.enqueue(std::iter::once(Proposal { id, data, waiter: Waiter::Nobody }));
    }

    /// The member stops by itself, names the thread, lets its clients go, and leaves a folder that can be started from.
    #[test]
    fn a_panic_that_others_wait_for_stops_the_member() {
        let provoked: [(Place, &str, &dyn Fn(&Running)); 4] = [
            (Place::RaftThread, "raft", &|_| {}),
            (Place::LogThread, "log", &|member| propose_nothing(member.core())),
            (Place::CompactionThread, "compaction", &|member| member.core().schedule_compaction()),
            (Place::Flusher, "connections-0", &|member| assert!(!put(member), "who committed it?")),
        ];
        for (place, thread, provoke) in provoked {
            let (folder, mut member) = member();
            assert!(put(&member), "{place:?}");
            let mut idle = connect(&member);
            member.core().planted.plant(place);
            provoke(&member);
            assert_eq!(member.wait(), Err(format!("thread \"{thread}\" panicked")), "{place:?}");
            assert!(!matches!(idle.read(&mut [0]), Ok(1..)), "{place:?}: its clients are let go");
            drop(member);
            let again = embed::start(&folder.path().join("data")).expect("it starts");
            assert!(put(&again), "{place:?}");
        }
    }

    /// Whoever was in the middle of raft or store leaves them half done, be it a task of a connection or of a peer that
    /// nobody waits for.
    #[test]
    fn a_panic_within_raft_or_store_stops_the_member() {
        let (_folder, mut member) = member();
        let core = Arc::clone(member.core());
        let anybody = std::thread::Builder::new().name("anybody".to_owned());
        let panicked = anybody.spawn(move || core.turn(|_, _, _| panic!("planted"))).expect("a thread").join();
        assert!(panicked.is_err());
        assert_eq!(member.wait(), Err("thread \"anybody\" panicked".to_owned()));
    }

    #[test]
    fn a_panic_of_a_connection_ends_that_connection() {
        let (_folder, mut member) = member();
        let mut before = connect(&member);
        member.core().planted.plant(Place::Connection);
        // The older one has not said anything yet, so it is this one's or that one's; the other lives.
        let mut after = connect(&member);
        let ask = |socket: &mut TcpStream| {
            let mut answer = String::new();
            // A connection that is gone may refuse what is written.
            drop(socket.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
            drop(socket.read_to_string(&mut answer));
            answer.starts_with("HTTP/1.1 200")
        };
        assert_eq!([ask(&mut before), ask(&mut after)], [false, true]);
        assert!(put(&member));
        assert_eq!(member.core().failure(), None);
        member.stop();
        assert_eq!(member.wait(), Ok(()));
    }
}
