//! A cluster of several members: how a member founds or joins it ([`forming`]), which version it agrees on
//! ([`versions`], [`monitor`]), when its members may be changed ([`reconfiguration`]), and how one goes on without the
//! others ([`forced`]). All rules and texts are etcd's.
//!
//! Nothing here opens a connection or reads a clock by itself: other members are asked through [`Peers`], names through
//! [`addresses::Resolve`].

pub mod addresses;
pub mod forced;
pub mod forming;
pub mod monitor;
pub mod reconfiguration;
pub mod versions;

use std::future::Future;
use std::time::Duration;

use crate::peer::Versions;
use crate::peer::questions::{self, RemoteMembers};
use crate::urls::Url;

/// How other members are asked. `url` is one of their peer URLs. An error says for the log why there was no answer.
pub trait Peers {
    /// `/members`.
    fn members_of(&self, url: &str, timeout: Duration) -> impl Future<Output = Result<RemoteMembers, String>>;

    /// `/version`.
    fn versions_of(&self, url: &str, timeout: Duration) -> impl Future<Output = Result<Versions, String>>;

    /// `/downgrade/enabled`.
    fn downgrade_enabled_of(&self, url: &str, timeout: Duration) -> impl Future<Output = Result<bool, String>>;
}

/// Over their peer ports; wants a tokio runtime with its network and timer.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerPorts;

fn parse(url: &str) -> Result<Url, String> {
    Url::parse(url).map_err(|error| error.to_string())
}

impl Peers for PeerPorts {
    async fn members_of(&self, url: &str, timeout: Duration) -> Result<RemoteMembers, String> {
        questions::members_of(&parse(url)?, timeout).await.map_err(|error| error.to_string())
    }

    async fn versions_of(&self, url: &str, timeout: Duration) -> Result<Versions, String> {
        questions::version_of(&parse(url)?, timeout).await.map_err(|error| error.to_string())
    }

    async fn downgrade_enabled_of(&self, url: &str, timeout: Duration) -> Result<bool, String> {
        questions::downgrade_enabled(&parse(url)?, timeout).await.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
pub(crate) mod scripted;
