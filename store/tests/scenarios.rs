//! Golden scenarios: each file of `tests/scenarios` is run with every value budget and every lag of the backend, and must
//! give the text it contains. `KVORUM_REWRITE=1 cargo test -p kvorum-store --test scenarios` writes what came out instead:
//! read it before you keep it.
//!
//! A step is some lines of request, `----`, and the lines of its answer; steps are separated by an empty line.

mod support;
#[path = "support/text.rs"]
mod text;

use std::fmt::Write as _;
use std::path::PathBuf;

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::*;
use kvorum_store::{
    Access, Applied, Bucket, Caller, CompactionStep, EventKind, HistoryError, MemberChange, Previous, ReadError,
    TokenChange, check_delete_range, check_put, check_range, check_txn, is_read_only,
};
use support::{Commits, Harness, config};

const TXN_OPS_MAX: usize = 128;

struct Scenario {
    store: Harness,
    /// In lagging runs `commit` does nothing, so the outputs must not depend on it.
    commits: Commits,
    /// Who asks: a name, and the auth revision it was let in at, which is the present one if none is given.
    caller: Option<(String, Option<u64>)>,
}

fn etcd(error: EtcdError) -> String {
    format!("{:?} {}", error.code(), error.text())
}

fn read_error(error: ReadError) -> String {
    error.etcd().map_or_else(|| error.to_string(), etcd)
}

impl Scenario {
    fn run_step(&mut self, lines: &[&str]) -> String {
        let words: Vec<&str> = lines[0].split_whitespace().collect();
        let rest = &words[1..];
        match words[0] {
            "put" => {
                let put = text::put(rest);
                self.write(check_put(&put), InternalRaftRequest { put: Some(put), ..Default::default() })
            }
            "del" => {
                let delete = text::delete(rest);
                let request = InternalRaftRequest { delete_range: Some(delete.clone()), ..Default::default() };
                self.write(check_delete_range(&delete), request)
            }
            "range" => self.range(&text::range(rest)),
            "txn" => self.txn(text::txn(&lines[1..])),
            "compact" => {
                let compaction = CompactionRequest { revision: rest[0].parse().expect("a revision"), physical: false };
                let request = InternalRaftRequest { compaction: Some(compaction), ..Default::default() };
                let answer = self.write(Ok(()), request);
                if rest.get(1) != Some(&"pending") {
                    self.store.compact_fully(2);
                }
                answer
            }
            "steps" => {
                let count: usize = rest[0].parse().expect("a number of steps");
                let more = (0..count).map(|_| self.store.writer.compaction_step(1).expect("memory")).last();
                format!("more={}", more.is_some_and(|step| step != CompactionStep::Finished))
            }
            "finish" => {
                self.store.compact_fully(1);
                "ok".to_owned()
            }
            "commit" => {
                if self.commits != Commits::Lagging {
                    self.store.commit();
                }
                "ok".to_owned()
            }
            "restart" => {
                // How much was durable differs from run to run; all of it must be, to be comparable.
                if rest == ["durable"] {
                    self.store.commit();
                }
                let pending = self.store.restart();
                match rest == ["durable"] {
                    true => format!("rev={} compaction_pending={pending}", self.store.reader.revision()),
                    false => {
                        self.store.compact_fully(1);
                        format!("rev={}", self.store.reader.revision())
                    }
                }
            }
            "history" => self.history(rest),
            "before" => {
                let revision = rest[1].parse().expect("a revision");
                let value = self.store.reader.value_before(rest[0].as_bytes(), revision).expect("memory");
                value.map_or("nothing".to_owned(), |kv| text::show_kv(&kv))
            }
            "hashkv" => {
                let revision = rest.first().map_or(0, |word| word.parse().expect("a revision"));
                match self.store.reader.hash_kv(revision) {
                    Ok(hash) => {
                        format!("hash={} compact={} at={}", hash.hash, hash.compact_revision, hash.hash_revision)
                    }
                    Err(error) => read_error(error),
                }
            }
            "as" => {
                let revision = rest.get(1).map(|revision| revision.parse().expect("a revision"));
                self.caller = (rest[0] != "nobody").then(|| (rest[0].to_owned(), revision));
                "ok".to_owned()
            }
            "auth" | "user" | "role" => self.write(Ok(()), text::auth(&words)),
            "may" => self.may(rest),
            "dump" => self.dump(rest[0]),
            "size" => {
                self.store.writer.set_backend_size(rest[0].parse().expect("bytes"));
                "ok".to_owned()
            }
            _ => self.other(&words),
        }
    }

    fn other(&mut self, words: &[&str]) -> String {
        let number = |position: usize| -> i64 { words[position].parse().expect("a number") };
        let request = match words[0] {
            "grant" => InternalRaftRequest {
                lease_grant: Some(LeaseGrantRequest { id: number(1), ttl: number(2) }),
                ..Default::default()
            },
            "revoke" => {
                InternalRaftRequest { lease_revoke: Some(LeaseRevokeRequest { id: number(1) }), ..Default::default() }
            }
            "checkpoint" => InternalRaftRequest {
                lease_checkpoint: Some(LeaseCheckpointRequest {
                    checkpoints: vec![LeaseCheckpoint { id: number(1), remaining_ttl: number(2) }],
                }),
                ..Default::default()
            },
            "alarm" => {
                let action = match words[1] {
                    "get" => alarm_request::AlarmAction::Get,
                    "raise" => alarm_request::AlarmAction::Activate,
                    _ => alarm_request::AlarmAction::Deactivate,
                };
                let kind = AlarmType::from_str_name(words[2]).expect("an alarm");
                let member_id = words.get(3).map_or(0, |id| id.parse().expect("an id"));
                let alarm = AlarmRequest { action: action as i32, member_id, alarm: kind as i32 };
                InternalRaftRequest { alarm: Some(alarm), ..Default::default() }
            }
            "version" => {
                let ver = words[1].to_owned();
                let cluster_version_set = Some(kvorum_api::membershippb::ClusterVersionSetRequest { ver });
                InternalRaftRequest { cluster_version_set, ..Default::default() }
            }
            "attributes" => {
                let attributes = kvorum_api::membershippb::Attributes {
                    name: words[2].to_owned(),
                    client_urls: vec![words[3].to_owned()],
                };
                let cluster_member_attr_set = Some(kvorum_api::membershippb::ClusterMemberAttrSetRequest {
                    member_id: number(1) as u64,
                    member_attributes: Some(attributes),
                });
                InternalRaftRequest { cluster_member_attr_set, ..Default::default() }
            }
            "downgrade" => {
                let (enabled, ver) = (words[1] == "on", words.get(2).copied().unwrap_or_default().to_owned());
                let downgrade_info_set = Some(kvorum_api::membershippb::DowngradeInfoSetRequest { enabled, ver });
                InternalRaftRequest { downgrade_info_set, ..Default::default() }
            }
            "member" => return self.member(words),
            "leases" => {
                let reader = &self.store.reader;
                let mut text = String::new();
                for id in reader.lease_ids() {
                    let lease = reader.lease(id).expect("it was listed");
                    let keys: Vec<String> = reader.lease_keys(id).iter().map(|key| text::show(key)).collect();
                    let (ttl, left) = (lease.ttl_seconds, lease.remaining_ttl_seconds);
                    writeln!(text, "{id} ttl={ttl} remaining={left} keys={}", keys.join(",")).expect("a string");
                }
                return text.trim_end().to_owned();
            }
            other => panic!("unknown step {other}"),
        };
        self.write(Ok(()), request)
    }

    fn member(&mut self, words: &[&str]) -> String {
        let id = words[2].parse().expect("an id");
        let urls = || vec![words[3].to_owned()];
        let change = match words[1] {
            "add" => MemberChange::Add { id, name: "m".to_owned(), peer_urls: urls(), learner: false },
            "learner" => MemberChange::Add { id, name: String::new(), peer_urls: urls(), learner: true },
            "promote" => MemberChange::Promote { id },
            "remove" => MemberChange::Remove { id },
            _ => MemberChange::Update { id, peer_urls: urls() },
        };
        self.store.change_member(change).map_or_else(etcd, |()| "ok".to_owned())
    }

    /// Applies a request that passed its check, and tells what else should happen.
    fn write(&mut self, checked: Result<(), EtcdError>, mut request: InternalRaftRequest) -> String {
        if let Err(error) = checked {
            return etcd(error);
        }
        if let Some((user, revision)) = &self.caller {
            let auth_revision = revision.unwrap_or_else(|| self.store.reader.auth().revision());
            request.header = Some(RequestHeader { id: 0, username: user.clone(), auth_revision });
        }
        let mut text = match self.store.apply(request) {
            Ok(Applied { reply, revision }) => format!("{}\nrev={revision}", text::show_reply(&reply)),
            Err(error) => etcd(error),
        };
        let effects = std::mem::take(&mut self.store.effects);
        for batch in &effects.events {
            assert_eq!(batch.revision, self.store.reader.revision());
        }
        for change in &effects.leases {
            write!(text, "\n{change:?}").expect("a string");
        }
        for change in &effects.tokens {
            match change {
                TokenChange::Assigned { user, token } => write!(text, "\n{user} has {}", token.0),
                TokenChange::Forgotten { user } => write!(text, "\n{user} has no tokens"),
                TokenChange::AllForgotten => write!(text, "\nnobody has tokens"),
            }
            .expect("a string");
        }
        if effects.space_exceeded {
            text += "\nspace exceeded";
        }
        text.trim_start().to_owned()
    }

    /// What a read would be told: `may read KEY [END]`.
    fn may(&self, words: &[&str]) -> String {
        let access = if words[0] == "read" { Access::Read } else { Access::Write };
        let auth = self.store.reader.auth();
        let (user, revision) = self.caller.clone().unwrap_or_default();
        let revision = revision.unwrap_or(if user.is_empty() { 0 } else { auth.revision() });
        let (key, end) = (text::bytes(words[1]), words.get(2).map(|end| text::bytes(end)).unwrap_or_default());
        auth.check_keys(Caller { user: &user, revision }, access, &key, &end).map_or_else(etcd, |()| "yes".to_owned())
    }

    fn range(&mut self, request: &RangeRequest) -> String {
        if let Err(error) = check_range(request) {
            return etcd(error);
        }
        match self.store.range(request) {
            Ok(range) => format!("{}\nrev={}", text::show_range(&range), range.revision),
            Err(error) => read_error(error),
        }
    }

    fn txn(&mut self, txn: TxnRequest) -> String {
        if let Err(error) = check_txn(&txn, TXN_OPS_MAX) {
            return etcd(error);
        }
        if !is_read_only(&txn) {
            return self.write(Ok(()), InternalRaftRequest { txn: Some(txn), ..Default::default() });
        }
        match self.store.read_txn(&txn) {
            Ok(reply) => {
                let revision = reply.revision;
                format!("{}\nrev={revision}", text::show_reply(&kvorum_store::Reply::Txn(reply)))
            }
            Err(error) => read_error(error),
        }
    }

    fn history(&self, words: &[&str]) -> String {
        let limit = words.get(1).map_or(usize::MAX, |word| word.parse().expect("a limit"));
        let history = match self.store.reader.history(words[0].parse().expect("a revision"), limit) {
            Ok(history) => history,
            Err(HistoryError::Compacted(revision)) => return format!("compacted at {revision}"),
            Err(error) => return error.to_string(),
        };
        let mut text = String::new();
        for event in history.batches.iter().flat_map(|batch| &batch.events) {
            let kind = match (event.kind, event.created) {
                (EventKind::Put, true) => "create",
                (EventKind::Put, false) => "modify",
                (EventKind::Delete, _) => "delete",
            };
            let previous = match &event.previous {
                Previous::None => String::new(),
                Previous::Known(kv) => format!(" was {}", text::show_kv(kv)),
                Previous::Stored(revision) => {
                    let kv = self.store.reader.fetch(*revision).expect("memory").expect("the index names it");
                    format!(" was {}", text::show_kv(&kv))
                }
            };
            let (main, sub) = (event.revision.main, event.revision.sub);
            writeln!(text, "{main}_{sub} {kind} {}{previous}", text::show_kv(&event.kv)).expect("a string");
        }
        text + &format!("next={}", history.next)
    }

    fn dump(&mut self, bucket: &str) -> String {
        // What a backend holds depends on when it was committed to; dumps show it with everything committed.
        self.store.commit();
        let bucket = Bucket::ALL.into_iter().find(|of| of.name() == bucket).expect("a bucket");
        let printable = |bytes: &[u8]| -> String {
            let plain = !bytes.is_empty() && bytes.iter().all(|byte| (32..127).contains(byte));
            if plain {
                return String::from_utf8_lossy(bytes).into_owned();
            }
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let mut text = String::new();
        for (key, value) in self.store.backend.records(bucket) {
            if key == b"consistent_index" {
                continue;
            }
            writeln!(text, "{} {}", printable(&key), printable(&value)).expect("a string");
        }
        text.replace(" \n", "\n").trim_end().to_owned()
    }
}

fn run(content: &str, value_budget_bytes: u64, commits: Commits) -> String {
    let mut config = config(value_budget_bytes);
    if content.starts_with("# quota") {
        config.quota_bytes = Some(1000);
    }
    let mut scenario = Scenario { store: Harness::new(config, commits), commits, caller: None };
    let mut out = String::new();
    for step in content.split("\n\n") {
        let step = step.trim_matches('\n');
        let request = step.split("\n----").next().unwrap_or_default();
        let lines: Vec<&str> = request.lines().filter(|line| !line.starts_with('#')).collect();
        let sep = if out.is_empty() { "" } else { "\n" };
        if lines.is_empty() {
            writeln!(out, "{sep}{step}").expect("a string");
            continue;
        }
        let answer = scenario.run_step(&lines);
        writeln!(out, "{sep}{request}\n----\n{answer}").expect("a string");
    }
    out
}

#[test]
fn scenarios() {
    let own = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let folder = std::env::var_os("KVORUM_SCENARIOS").map_or_else(own, PathBuf::from);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).expect("the folder exists").map(|file| file.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let rewrite = std::env::var_os("KVORUM_REWRITE").is_some();
    for file in files {
        let mut content = std::fs::read_to_string(&file).expect("a text file");
        if rewrite {
            content = run(&content, u64::MAX, Commits::Eager);
            std::fs::write(&file, &content).expect("the folder can be written");
        }
        for budget in [0, 40, u64::MAX] {
            for commits in [Commits::Eager, Commits::Lagging, Commits::Manual] {
                let answer = run(&content, budget, commits);
                if answer != content {
                    let differs = answer.lines().zip(content.lines()).position(|(got, want)| got != want);
                    let line = differs.unwrap_or_else(|| answer.lines().count().min(content.lines().count()));
                    let show =
                        |text: &str| text.lines().skip(line.saturating_sub(6)).take(14).collect::<Vec<_>>().join("\n");
                    panic!(
                        "{} line {}, budget {budget}, {commits:?}\n--- expected\n{}\n--- got\n{}",
                        file.display(),
                        line + 1,
                        show(&content),
                        show(&answer)
                    );
                }
            }
        }
    }
}
