//! Peers and names of tests: what they answer is a table.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Peers;
use super::addresses::Resolve;
use crate::peer::Versions;
use crate::peer::questions::RemoteMembers;

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
    pub members: BTreeMap<String, RemoteMembers>,
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
    async fn members_of(&self, url: &str, _timeout: Duration) -> Result<RemoteMembers, String> {
        self.look_up(&self.members, url, "/members")
    }

    async fn versions_of(&self, url: &str, _timeout: Duration) -> Result<Versions, String> {
        self.look_up(&self.versions, url, "/version")
    }

    async fn downgrade_enabled_of(&self, url: &str, _timeout: Duration) -> Result<bool, String> {
        self.look_up(&self.downgrade_enabled, url, "/downgrade/enabled")
    }
}

/// Runs what never waits.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// Versions of a member of which only some matter.
pub fn versions(server: &str, cluster: &str) -> Versions {
    Versions { server: server.to_owned(), cluster: cluster.to_owned(), storage: String::new() }
}

/// A helper for URLs with addresses.
pub fn local(port: u16) -> String {
    format!("http://{}:{port}", IpAddr::from([127, 0, 0, 1]))
}
