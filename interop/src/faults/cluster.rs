//! A cluster of processes behind its network, and what an operator asks of it. Everything here is done once, or tried
//! until it is done or [`RECOVERY`] is over; nothing is judged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kvorum_api::etcdserverpb as pb;
use rustix::process::Signal;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use super::clients::channel;
use super::network::{Network, source_address};
use super::process::{Condition, MemberProcess, Ports, free_ports};

/// How long a cluster whose faults are gone may take for anything. Verdicts must not depend on the machine's speed.
pub const RECOVERY: Duration = Duration::from_secs(180);

/// How long a question to one member may take before another is asked.
const QUESTION: Duration = Duration::from_secs(10);

/// How long a member may take to say who leads.
const STATUS: Duration = Duration::from_millis(500);

const PAUSE: Duration = Duration::from_millis(100);

/// How often a death is waited for.
const EXIT_CHECK: Duration = Duration::from_millis(20);

/// What every member is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    pub binary: PathBuf,
    /// The forgetful disk.
    pub library: PathBuf,
    pub flags: Vec<String>,
    /// Syncs of paths that contain this do nothing.
    pub deaf: Option<&'static str>,
}

pub struct Cluster {
    pub members: Vec<MemberProcess>,
    pub network: Network,
    setup: Setup,
    channels: Vec<Channel>,
}

impl Cluster {
    /// Founds a cluster; nobody waits for it yet.
    pub fn found(size: usize, setup: Setup, folder: &Path) -> Result<Cluster, String> {
        let ports: Vec<Ports> = (0..size).map(|_| free_ports()).collect();
        let pairs: Vec<(u16, u16)> = ports.iter().map(|ports| (ports.proxy, ports.peer)).collect();
        let network = Network::start(&pairs).map_err(|error| error.to_string())?;
        let everybody: Vec<String> =
            ports.iter().enumerate().map(|(index, ports)| format!("m{index}={}", ports.advertised_url())).collect();
        let mut members = Vec::new();
        for (index, ports) in ports.iter().enumerate() {
            let mut member = MemberProcess::new(format!("m{index}"), *ports, folder, &setup.library)?;
            member.cluster = (everybody.join(","), "new");
            members.push(member);
        }
        let channels = ports.iter().map(|ports| channel(&ports.client_url())).collect();
        let mut cluster = Cluster { members, network, setup, channels };
        for member in 0..size {
            cluster.start(member)?;
        }
        Ok(cluster)
    }

    pub fn size(&self) -> usize {
        self.members.len()
    }

    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.ports.client_url()).collect()
    }

    pub fn start(&mut self, member: usize) -> Result<(), String> {
        let Setup { binary, flags, deaf, .. } = &self.setup;
        self.members[member].start(binary, flags, source_address(member), *deaf)
    }

    /// Err when a member has ended that had no reason to. One that could not join yet is started again.
    pub fn check_alive(&mut self) -> Result<(), String> {
        for index in 0..self.size() {
            let member = &mut self.members[index];
            let Some(status) = member.ended() else { continue };
            if member.is_joining {
                self.start(index)?;
            } else if !member.may_have_ended {
                return Err(format!("{} ended by itself: {status}", member.name));
            }
        }
        Ok(())
    }

    /// Takes all faults away from a member: it runs, on a disk that works.
    pub fn mend(&mut self, member: usize) -> Result<(), String> {
        self.check_alive()?;
        let process = &mut self.members[member];
        process.slow_disk(None)?;
        process.full_disk(false)?;
        match process.condition {
            Condition::Running if process.may_have_ended => {
                // It may be about to stop, or have met the full disk nowhere.
                process.kill();
            }
            Condition::Stopped => process.signal(Signal::CONT),
            Condition::Running | Condition::Down => {}
        }
        process.may_have_ended = false;
        if process.condition == Condition::Down { self.start(member) } else { Ok(()) }
    }

    /// SIGTERM, and the end of the process.
    pub async fn terminate(&mut self, member: usize) -> Result<(), String> {
        self.members[member].signal(Signal::TERM);
        self.wait_for_exit(member).await
    }

    pub async fn wait_for_exit(&mut self, member: usize) -> Result<(), String> {
        let until = Instant::now() + RECOVERY;
        while Instant::now() < until {
            if self.members[member].condition == Condition::Down || self.members[member].ended().is_some() {
                return Ok(());
            }
            tokio::time::sleep(EXIT_CHECK).await;
        }
        Err(format!("{} does not stop", self.members[member].name))
    }

    pub async fn status(&self, member: usize) -> Option<pb::StatusResponse> {
        if self.members[member].condition != Condition::Running {
            return None;
        }
        let mut client = pb::maintenance_client::MaintenanceClient::new(self.channels[member].clone());
        let answered = tokio::time::timeout(STATUS, client.status(pb::StatusRequest {})).await;
        Some(answered.ok()?.ok()?.into_inner())
    }

    /// The position of the leader, as the member with the highest term knows it.
    pub async fn leader(&self) -> Option<usize> {
        let mut answers = Vec::new();
        for member in 0..self.size() {
            answers.extend(self.status(member).await.map(|status| (member, status)));
        }
        let newest = answers.iter().max_by_key(|(_, status)| status.raft_term)?;
        let id = newest.1.leader;
        let is_it =
            |(_, status): &&(usize, pb::StatusResponse)| status.header.is_some_and(|header| header.member_id == id);
        answers.iter().find(is_it).map(|(member, _)| *member)
    }

    /// Waits until one of the others knows a leader that is none of `before`, and says how long that took.
    pub async fn wait_for_other_leader(&self, before: usize, before_id: u64) -> Option<Duration> {
        let began = Instant::now();
        while began.elapsed() < RECOVERY {
            for member in (0..self.size()).filter(|member| *member != before) {
                let leader = self.status(member).await.map_or(0, |status| status.leader);
                if leader != 0 && leader != before_id {
                    return Some(began.elapsed());
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        None
    }

    pub async fn member_id(&self, member: usize) -> Option<u64> {
        Some(self.status(member).await?.header?.member_id)
    }

    /// A linearizable read at each member.
    pub async fn wait_until_all_serve(&mut self) -> Result<(), String> {
        let until = Instant::now() + RECOVERY;
        for member in 0..self.size() {
            self.wait_until_serves(member, until).await?;
        }
        Ok(())
    }

    pub async fn wait_until_serves(&mut self, member: usize, until: Instant) -> Result<(), String> {
        let mut last = String::new();
        while Instant::now() < until {
            self.check_alive()?;
            let mut client = pb::kv_client::KvClient::new(self.channels[member].clone());
            let range = pb::RangeRequest { key: "k".into(), ..pb::RangeRequest::default() };
            match tokio::time::timeout(QUESTION, client.range(range)).await {
                Ok(Ok(_)) => {
                    self.members[member].is_joining = false;
                    return Ok(());
                }
                Ok(Err(status)) => last = status.to_string(),
                Err(_) => last = "no answer".to_owned(),
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!("{} does not serve after all faults are gone: {last}", self.members[member].name))
    }

    pub async fn hash_kv(&self, member: usize, revision: i64) -> Result<pb::HashKvResponse, String> {
        let mut client = pb::maintenance_client::MaintenanceClient::new(self.channels[member].clone());
        let answered = tokio::time::timeout(RECOVERY, client.hash_kv(pb::HashKvRequest { revision })).await;
        let answered = answered.map_err(|_| "no answer".to_owned())?.map_err(|status| status.to_string());
        Ok(answered.map_err(|error| format!("HashKV of {}: {error}", self.members[member].name))?.into_inner())
    }

    /// One try of a put. Gives its revision, or why nobody knows what came of it.
    pub async fn put(&self, key: &'static str, value: &'static str) -> Result<i64, String> {
        let put = pb::PutRequest { key: key.into(), value: value.into(), ..pb::PutRequest::default() };
        let mut client = pb::kv_client::KvClient::new(self.channels[0].clone());
        let answered = tokio::time::timeout(QUESTION, client.put(put)).await.map_err(|_| "no answer".to_owned())?;
        let answered = answered.map_err(|status| format!("the last put: {status}"))?;
        Ok(answered.into_inner().header.map_or(0, |header| header.revision))
    }

    /// Errors are not judged: what is compacted is read no more.
    pub async fn compact(&self, member: usize, revision: i64) {
        let mut client = pb::kv_client::KvClient::new(self.channels[member].clone());
        let compaction = pb::CompactionRequest { revision, physical: false };
        drop(tokio::time::timeout(QUESTION, client.compact(compaction)).await);
    }

    /// Asks the leader to hand over; it may refuse.
    pub async fn move_leader(&self, leader: usize, target: usize) -> bool {
        let Some(target_id) = self.member_id(target).await else { return false };
        let mut client = pb::maintenance_client::MaintenanceClient::new(self.channels[leader].clone());
        let moved = client.move_leader(pb::MoveLeaderRequest { target_id });
        tokio::time::timeout(QUESTION, moved).await.is_ok_and(|moved| moved.is_ok())
    }

    /// The members as the cluster has agreed on them. `except` is not asked.
    pub async fn list(&mut self, except: usize) -> Result<Vec<pb::Member>, String> {
        self.insist(except, |mut client| async move {
            Ok(client.member_list(pb::MemberListRequest { linearizable: true }).await?.into_inner().members)
        })
        .await
    }

    /// Asks one member after the other until one answers.
    async fn insist<T, F: Future<Output = Result<T, Status>>>(
        &mut self,
        except: usize,
        ask: impl Fn(pb::cluster_client::ClusterClient<Channel>) -> F,
    ) -> Result<T, String> {
        let until = Instant::now() + RECOVERY;
        let mut last = String::new();
        while Instant::now() < until {
            self.check_alive()?;
            for member in (0..self.size()).filter(|member| *member != except) {
                if self.members[member].condition != Condition::Running {
                    continue;
                }
                let client = pb::cluster_client::ClusterClient::new(self.channels[member].clone());
                match tokio::time::timeout(QUESTION, ask(client)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(status)) => last = status.to_string(),
                    Err(_) => last = "no answer".to_owned(),
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!("a change of members is not done after all faults are gone: {last}"))
    }

    /// Removes a member for good; it must stop by itself.
    pub async fn remove(&mut self, member: usize) -> Result<(), String> {
        let url = self.members[member].ports.advertised_url();
        let find = |members: &[pb::Member]| members.iter().find(|found| found.peer_urls.contains(&url)).map(|m| m.id);
        self.members[member].may_have_ended = true;
        while let Some(id) = find(&self.list(member).await?) {
            let removal = self.insist(member, |mut client| async move {
                match client.member_remove(pb::MemberRemoveRequest { id }).await {
                    Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
                    other => other.map(drop),
                }
            });
            removal.await?;
        }
        self.wait_for_exit(member).await
    }

    /// Adds a member with an empty folder in the place of one that was removed, as a learner first if asked for.
    pub async fn add(&mut self, member: usize, learner: bool) -> Result<(), String> {
        let url = self.members[member].ports.advertised_url();
        let members = loop {
            let members = self.list(member).await?;
            if members.iter().any(|found| found.peer_urls.contains(&url)) {
                break members;
            }
            let addition = self.insist(member, |mut client| {
                let request = pb::MemberAddRequest { peer_urls: vec![url.clone()], is_learner: learner };
                async move {
                    match client.member_add(request).await {
                        // An earlier try was carried out after all.
                        Err(status) if status.message().contains("exist") => Ok(()),
                        other => other.map(drop),
                    }
                }
            });
            addition.await?;
        };
        let names = members.iter().map(|found| {
            let is_new = found.peer_urls.contains(&url);
            let name = if is_new { &self.members[member].name } else { &found.name };
            format!("{name}={}", found.peer_urls.first().map_or("", String::as_str))
        });
        let names = names.collect::<Vec<_>>().join(",");
        self.members[member].begin_anew(&self.setup.library)?;
        self.members[member].cluster = (names, "existing");
        self.members[member].may_have_ended = false;
        self.members[member].is_joining = true;
        self.start(member)
    }

    /// Makes a learner a voter, as soon as it is ready.
    pub async fn promote(&mut self, member: usize) -> Result<(), String> {
        let url = self.members[member].ports.advertised_url();
        let is_learner = |found: &&pb::Member| found.peer_urls.contains(&url) && found.is_learner;
        while let Some(id) = self.list(member).await?.iter().find(is_learner).map(|found| found.id) {
            let promotion = self.insist(member, |mut client| async move {
                match client.member_promote(pb::MemberPromoteRequest { id }).await {
                    // An earlier try was carried out after all.
                    Err(status) if status.message().contains("can only promote a learner") => Ok(()),
                    other => other.map(drop),
                }
            });
            promotion.await?;
        }
        Ok(())
    }
}
