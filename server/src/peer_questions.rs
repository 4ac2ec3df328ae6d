//! How the rules in [`crate::cluster`] ask other members: over the peer port.

use std::time::Duration;

use crate::cluster::versions::Versions;
use crate::cluster::{PeerMembers, Peers};
use crate::peer::questions;
use crate::urls::Url;

pub struct PeerQuestions;

impl Peers for PeerQuestions {
    async fn members_of(&self, url: &str, timeout: Duration) -> Result<PeerMembers, String> {
        let answer = questions::members_of(&parse(url)?, timeout).await.map_err(|error| error.to_string())?;
        Ok(PeerMembers { cluster_id: answer.cluster_id, members: answer.members })
    }

    async fn versions_of(&self, url: &str, timeout: Duration) -> Result<Versions, String> {
        let answer = questions::version_of(&parse(url)?, timeout).await.map_err(|error| error.to_string())?;
        Ok(Versions { server: answer.server, cluster: answer.cluster, storage: answer.storage })
    }

    async fn downgrade_enabled_of(&self, url: &str, timeout: Duration) -> Result<bool, String> {
        questions::downgrade_enabled(&parse(url)?, timeout).await.map_err(|error| error.to_string())
    }
}

fn parse(url: &str) -> Result<Url, String> {
    Url::parse(url).map_err(|error| error.to_string())
}
