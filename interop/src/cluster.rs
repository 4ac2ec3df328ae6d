//! Several members as processes: founded together, joined, promoted, removed, and compared with each other. They may be of
//! different programs. It must not know what is in the store.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kvorum_api::etcdserverpb as pb;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use tonic::Status;
use tonic::transport::Channel;

use crate::process::{Kind, Member, Place};
use crate::raw;

/// How long the cluster may take to agree, to elect or to accept a change.
const AGREEMENT: Duration = Duration::from_secs(60);

/// How often it is looked whether it did.
const CHECK: Duration = Duration::from_millis(50);

/// A program that can be a member.
#[derive(Clone, Debug)]
pub struct Program {
    /// Begins the names of its members.
    pub label: &'static str,
    pub binary: PathBuf,
}

impl Program {
    pub fn new(label: &'static str, binary: &Path) -> Program {
        Program { label, binary: binary.to_path_buf() }
    }
}

/// One member.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub id: u64,
    pub process: Member,
    pub channel: Channel,
}

/// The members there are; one that was removed is gone from here.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    flags: Vec<String>,
    named: usize,
}

impl Node {
    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    pub fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    pub fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    pub async fn status(&self) -> Result<pb::StatusResponse, Status> {
        Ok(self.maintenance().status(pb::StatusRequest {}).await?.into_inner())
    }

    pub async fn put(&self, key: &str, value: &[u8]) -> Result<pb::PutResponse, Status> {
        let request = pb::PutRequest { key: key.to_owned().into(), value: value.to_vec().into(), ..Default::default() };
        Ok(self.kv().put(request).await?.into_inner())
    }

    /// A linearizable read of one key.
    pub async fn value(&self, key: &str) -> Result<Option<Vec<u8>>, Status> {
        let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let response = self.kv().range(request).await?.into_inner();
        Ok(response.kvs.first().map(|kv| kv.value.to_vec()))
    }

    async fn identify(&mut self) -> Result<(), Status> {
        self.id = self.status().await?.header.unwrap_or_default().member_id;
        Ok(())
    }
}

impl Cluster {
    /// Founds a cluster with one member of each program; all get `flags`.
    ///
    /// # Panics
    /// When a member does not start.
    pub async fn found(programs: &[&Program], flags: &[&str]) -> Cluster {
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let mut cluster = Cluster { nodes: Vec::new(), flags, named: 0 };
        for program in programs {
            let node = cluster.prepare(program);
            cluster.nodes.push(node);
        }
        let all: Vec<String> =
            cluster.nodes.iter().map(|node| format!("{}={}", node.name, node.process.peer_url())).collect();
        for node in &mut cluster.nodes {
            let name = node.name.clone();
            node.process.set_place(Place { name, initial_cluster: all.join(","), existing: false });
        }
        // None is ready before a majority is.
        std::thread::scope(|scope| {
            for node in &mut cluster.nodes {
                scope.spawn(|| node.process.restart().expect("a founding member starts"));
            }
        });
        for node in &mut cluster.nodes {
            node.identify().await.expect("a ready member has a status");
        }
        cluster
    }

    fn prepare(&mut self, program: &Program) -> Node {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let process = Member::prepare(Kind::Server, &program.binary, &flags).expect("a temporary folder");
        self.named += 1;
        let channel = raw::channel(process.url());
        Node { name: format!("{}-{}", program.label, self.named), id: 0, process, channel }
    }

    /// Adds a member by asking the node at `through`, starts it, and gives its place among the nodes.
    ///
    /// # Panics
    /// When it is not taken in or does not start.
    pub async fn join(&mut self, program: &Program, is_learner: bool, through: usize) -> usize {
        // A change that is lost with a leader keeps etcd waiting for as long as the client does.
        self.leader().await;
        let mut node = self.prepare(program);
        let request = pb::MemberAddRequest { peer_urls: vec![node.process.peer_url().to_owned()], is_learner };
        let added = until(async || {
            self.nodes[through].cluster().member_add(request.clone()).await.map(tonic::Response::into_inner)
        });
        let added = added.await.expect("the cluster takes a member in");
        node.id = added.member.expect("the answer has the member").id;
        let named = |member: &pb::Member| {
            let name = if member.id == node.id { &node.name } else { &member.name };
            member.peer_urls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(",")
        };
        let initial_cluster: Vec<String> = added.members.iter().map(named).collect();
        let place = Place { name: node.name.clone(), initial_cluster: initial_cluster.join(","), existing: true };
        node.process.set_place(place);
        // The starting blocks; others must go on meanwhile.
        let started = tokio::task::spawn_blocking(move || node.process.restart().map(|()| node));
        self.nodes.push(started.await.expect("no panic").expect("a joining member starts"));
        self.nodes.len() - 1
    }

    /// Makes the learner at `index` a voter, once it has caught up.
    ///
    /// # Panics
    /// When it does not become one.
    pub async fn promote(&self, index: usize, through: usize) {
        self.leader().await;
        let id = self.nodes[index].id;
        let promoted =
            until(async || self.nodes[through].cluster().member_promote(pb::MemberPromoteRequest { id }).await);
        let members = promoted.await.expect("a learner that caught up is promoted").into_inner().members;
        assert!(members.iter().any(|member| member.id == id && !member.is_learner));
    }

    /// Removes the member at `index`, which must then end by itself, and gives what is left of it.
    ///
    /// # Panics
    /// When it is not removed, or goes on.
    pub async fn remove(&mut self, index: usize, through: usize) -> Node {
        self.leader().await;
        let id = self.nodes[index].id;
        let removed = until(async || self.nodes[through].cluster().member_remove(pb::MemberRemoveRequest { id }).await);
        removed.await.expect("a member can be removed");
        let mut node = self.nodes.remove(index);
        let ended = tokio::task::spawn_blocking(move || {
            node.process.wait().expect("a removed member stops by itself");
            node
        });
        ended.await.expect("no panic")
    }

    /// The place of the node that leads, once all agree on it.
    ///
    /// # Panics
    /// When they do not.
    pub async fn leader(&self) -> usize {
        let agreed = until(async || {
            let statuses = join_all(self.nodes.iter().map(Node::status)).await;
            let leaders: Result<Vec<u64>, Status> = statuses.into_iter().map(|status| Ok(status?.leader)).collect();
            let leaders = leaders?;
            let index = self.nodes.iter().position(|node| node.id == leaders[0]);
            let agree = leaders.iter().all(|leader| *leader == leaders[0]);
            index.filter(|_| agree).ok_or_else(|| Status::unavailable(format!("leaders are {leaders:x?}")))
        });
        agreed.await.expect("all agree on a leader")
    }

    /// Hands leadership to the node at `index`.
    ///
    /// # Panics
    /// When it does not get it.
    pub async fn move_leader(&self, index: usize) {
        let target_id = self.nodes[index].id;
        let moved = until(async || {
            let leader = self.leader().await;
            if leader == index {
                return Ok(());
            }
            self.nodes[leader].maintenance().move_leader(pb::MoveLeaderRequest { target_id }).await.map(drop)
        });
        moved.await.expect("leadership moves");
        assert_eq!(self.leader().await, index, "{} leads", self.nodes[index].name);
    }

    /// The nodes that answer more than questions about themselves.
    ///
    /// # Panics
    /// When one has no status.
    pub async fn voters(&self) -> Vec<&Node> {
        let statuses = join_all(self.nodes.iter().map(Node::status)).await;
        let statuses = statuses.into_iter().map(|status| status.expect("a member has a status"));
        self.nodes.iter().zip(statuses).filter(|(_, status)| !status.is_learner).map(|(node, _)| node).collect()
    }

    /// Waits until every member has applied the same entries, and demands that voters then hold the same: revision,
    /// `HashKV`, leases with their keys, members, alarms, cluster version. Gives revision and hash.
    ///
    /// # Panics
    /// When they do not.
    pub async fn settle(&self) -> (i64, u32) {
        let agreed = until(async || {
            let statuses = join_all(self.nodes.iter().map(Node::status)).await;
            let applied: Result<Vec<u64>, Status> =
                statuses.into_iter().map(|status| Ok(status?.raft_applied_index)).collect();
            let applied = applied?;
            let agree = applied.iter().all(|index| *index == applied[0]);
            if agree { Ok(()) } else { Err(Status::unavailable(format!("applied {applied:?}"))) }
        });
        agreed.await.expect("all members apply all entries");
        let voters = self.voters().await;
        let holdings = join_all(voters.iter().map(|node| Holdings::of(node))).await;
        for (node, holding) in voters.iter().zip(&holdings) {
            assert_eq!(*holding, holdings[0], "{} holds what {} holds", node.name, voters[0].name);
        }
        (holdings[0].revision, holdings[0].hash)
    }
}

/// What all members must hold alike.
#[derive(Debug, PartialEq)]
struct Holdings {
    revision: i64,
    hash: u32,
    compact_revision: i64,
    /// Granted time and keys of each lease, by id.
    leases: Vec<(i64, i64, Vec<bytes::Bytes>)>,
    members: Vec<pb::Member>,
    alarms: Vec<pb::AlarmMember>,
    version: String,
}

impl Holdings {
    async fn of(node: &Node) -> Holdings {
        let hashed = node.maintenance().hash_kv(pb::HashKvRequest { revision: 0 }).await;
        let hashed = hashed.unwrap_or_else(|status| panic!("{} has no hash: {status}", node.name)).into_inner();
        let leases = node.lease().lease_leases(pb::LeaseLeasesRequest {}).await.expect("leases").into_inner().leases;
        let mut held = Vec::new();
        for lease in leases {
            let request = pb::LeaseTimeToLiveRequest { id: lease.id, keys: true };
            let times = node.lease().lease_time_to_live(request).await.expect("a lease's times").into_inner();
            let mut keys = times.keys;
            keys.sort();
            held.push((lease.id, times.granted_ttl, keys));
        }
        held.sort();
        let request = pb::MemberListRequest { linearizable: false };
        let mut members = node.cluster().member_list(request).await.expect("members").into_inner().members;
        members.sort_by_key(|member| member.id);
        let request = pb::AlarmRequest::default();
        let alarms = node.maintenance().alarm(request).await;
        let alarms = alarms.unwrap_or_else(|status| panic!("{} has no alarms: {status}", node.name));
        let mut alarms = alarms.into_inner().alarms;
        // etcd keeps them in a map without order.
        alarms.sort_by_key(|alarm| (alarm.alarm, alarm.member_id));
        Holdings {
            revision: hashed.header.unwrap_or_default().revision,
            hash: hashed.hash,
            compact_revision: hashed.compact_revision,
            leases: held,
            members,
            alarms,
            version: cluster_version(node).await,
        }
    }
}

/// The version the cluster agreed on, as the member's page tells it.
pub async fn cluster_version(node: &Node) -> String {
    let page = page(node, "/version").await;
    let parsed: serde_json::Value = serde_json::from_str(&page).unwrap_or_default();
    parsed["etcdcluster"].as_str().unwrap_or_default().to_owned()
}

/// A page of the client port, over a connection of its own. What cannot be had is empty.
async fn page(node: &Node, path: &'static str) -> String {
    let address = node.process.url().trim_start_matches("http://").to_owned();
    let fetched = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut connection = std::net::TcpStream::connect(&address)?;
        write!(connection, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
    });
    fetched.await.expect("no panic").unwrap_or_default()
}

/// Asks until it succeeds or [`AGREEMENT`] is over; Err is the last one.
pub async fn until<T>(mut ask: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if began.elapsed() > AGREEMENT => return Err(error),
            Err(_) => tokio::time::sleep(CHECK).await,
        }
    }
}
