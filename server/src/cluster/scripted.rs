//! Peers and names of tests: what they answer is a table.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::addresses::Resolve;
use super::versions::Versions;
use super::{PeerMembers, Peers};

/// `host:port` and its address; addresses stand for themselves.
pub struct Names(pub &'static [(&'static str, &'static str)]);

impl Resolve for Names {
    fn resolve(&self, host_port: &str, _deadline: Instant) -> Result<SocketAddr, String> {
        let known = self.0.iter().find(|(name, _)| *name == host_port).map_or(host_port, |(_, address)| address);
        known.parse().map_err(|_| format!("lookup {host_port}: no such host"))
    }
}

/// Answers by URL; who is not in a table does not answer. Notes who was asked.
#[derive(Default)]
pub struct Answers {
    pub members: BTreeMap<String, PeerMembers>,
    pub versions: BTreeMap<String, Versions>,
    pub downgrade_enabled: BTreeMap<String, bool>,
    pub asked: RefCell<Vec<String>>,
}

impl Answers {
    fn look_up<T: Clone>(&self, table: &BTreeMap<String, T>, url: &str, path: &str) -> Result<T, String> {
        self.asked.borrow_mut().push(format!("{url}{path}"));
        table.get(url).cloned().ok_or_else(|| "connection refused".to_owned())
    }
}

impl Peers for Answers {
    async fn members_of(&self, url: &str, _timeout: Duration) -> Result<PeerMembers, String> {
        self.look_up(&self.members, url, super::MEMBERS_PATH)
    }

    async fn versions_of(&self, url: &str, _timeout: Duration) -> Result<Versions, String> {
        self.look_up(&self.versions, url, super::VERSION_PATH)
    }

    async fn downgrade_enabled_of(&self, url: &str, _timeout: Duration) -> Result<bool, String> {
        self.look_up(&self.downgrade_enabled, url, super::DOWNGRADE_ENABLED_PATH)
    }
}

/// Runs what never waits.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// A helper for URLs with addresses.
pub fn local(port: u16) -> String {
    format!("http://{}:{port}", IpAddr::from([127, 0, 0, 1]))
}
