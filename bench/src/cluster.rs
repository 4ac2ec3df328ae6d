//! Three members of one cluster on this machine, each with a folder below the same parent, so on the same disk. It decides
//! nothing about them: whoever they elect leads.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvorum_api::etcdserverpb::{StatusRequest, StatusResponse};
use prost::Message;

use crate::requests::{self, PUT, STATUS, VALUE_BYTES};
use crate::server::{Placement, Processes, Server, Starting};
use crate::trial::{self, Trial};
use crate::wire;

const MEMBERS: usize = 3;

/// How long a cluster may take to elect a leader whom all members follow.
const ELECTION_TIME_MAX: Duration = Duration::from_secs(30);

/// Between two questions who leads.
const ELECTION_CHECK: Duration = Duration::from_millis(20);

/// A running cluster.
pub struct Cluster {
    pub members: Vec<Server>,
}

impl Processes for Cluster {
    fn pids(&self) -> Vec<u32> {
        self.members.iter().flat_map(Processes::pids).collect()
    }
}

impl Cluster {
    /// Starts three members on empty folders and waits until they serve and follow one leader.
    pub fn start(trial: &Trial) -> Result<Cluster, String> {
        let mut members = Vec::new();
        let mut starting = Vec::new();
        for placement in Placement::of_cluster(MEMBERS)? {
            let mut server = Server::place(&trial.program, &trial.folder, placement)?;
            starting.push(server.launch()?);
            members.push(server);
        }
        starting.into_iter().try_for_each(|starting| Starting::wait(starting).map(drop))?;
        let cluster = Cluster { members };
        cluster.settle()?;
        Ok(cluster)
    }

    /// Waits until all members follow one leader and have taken a put; returns the leader's place in `members`.
    pub fn settle(&self) -> Result<usize, String> {
        let leader = self.leader()?;
        for member in &self.members {
            let put = requests::put_body(requests::key("settle/", 0), requests::value(VALUE_BYTES, 0));
            trial::call(member.address(), PUT, put, None)?;
        }
        Ok(leader)
    }

    /// The place in `members` of the one whom all members follow.
    pub fn leader(&self) -> Result<usize, String> {
        let deadline = Instant::now() + ELECTION_TIME_MAX;
        loop {
            let statuses = self.members.iter().map(|member| status(member.address()));
            let statuses = statuses.collect::<Result<Vec<StatusResponse>, String>>()?;
            let leader = statuses[0].leader;
            if leader != 0 && statuses.iter().all(|status| status.leader == leader) {
                let id_of = |status: &StatusResponse| status.header.as_ref().map_or(0, |header| header.member_id);
                return statuses
                    .iter()
                    .position(|status| id_of(status) == leader)
                    .ok_or("an unknown leader".to_owned());
            }
            if Instant::now() > deadline {
                return Err(format!("no leader after {} s", ELECTION_TIME_MAX.as_secs()));
            }
            std::thread::sleep(ELECTION_CHECK);
        }
    }

    /// The addresses of the members that do not lead.
    pub fn followers(&self, leader: usize) -> Vec<SocketAddr> {
        let others = self.members.iter().enumerate().filter(|(place, _)| *place != leader);
        others.map(|(_, member)| member.address()).collect()
    }
}

fn status(address: SocketAddr) -> Result<StatusResponse, String> {
    let reply = trial::call(address, STATUS, wire::frame(&StatusRequest::default()), None)?;
    StatusResponse::decode(reply).map_err(|error| format!("StatusResponse: {error}"))
}
