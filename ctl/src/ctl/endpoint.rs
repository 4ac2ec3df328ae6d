//! `endpoint`: health, status and hash of members, each asked by itself. And what other commands need that go from member
//! to member: which endpoints are meant, and a client for one of them.

use std::time::Instant;

use futures_util::future::join_all;
use kvorum_client::response::{AlarmType, HashKvResponse, StatusResponse};
use kvorum_client::{Client, Error, EtcdError};

use super::global::Settings;
use super::messages::{header_json, with_header};
use super::output::{Answer, Style, Text};
use super::session::{self, error_text};
use super::{CLUSTER, output};
use crate::command::{Action, Command, EXIT_BAD_ARGUMENTS, EXIT_ERROR, Failure, Flag, Parsed};
use crate::golang::{self, json};
use crate::print;

pub const ALL_OF_CLUSTER: Flag = Flag::switch("cluster", "ask every member that the cluster's list of members names");
const REV: Flag = Flag::number("rev", "the last revision that is hashed (default: the latest)");

pub const COMMAND: Command = Command {
    name: "endpoint",
    operands: "<subcommand>",
    about: "Health, status and hash of members",
    heading: CLUSTER,
    flags: &[ALL_OF_CLUSTER],
    action: Action::Group(&[
        Command {
            name: "health",
            about: "Tells whether the members of --endpoints answer and have no alarm",
            action: Action::Perform(health),
            ..Command::EMPTY
        },
        Command {
            name: "status",
            about: "Prints the status of the members of --endpoints",
            long: "Prints the status of the members of --endpoints. In the simple format these are, with commas between\n\
                   them: endpoint, ID, version, storage version, db size, in use, percentage not in use, quota, is leader,\n\
                   is learner, raft term, raft index, raft applied index, errors, downgrade target version, downgrade\n\
                   enabled.",
            action: Action::Perform(status),
            ..Command::EMPTY
        },
        Command {
            name: "hashkv",
            about: "Prints the hash of the keys' history of the members of --endpoints",
            flags: &[REV],
            action: Action::Perform(hash_kv),
            ..Command::EMPTY
        },
    ]),
    ..Command::EMPTY
};

/// The endpoints that are meant: those of `--endpoints`, or with `--cluster` those that the members tell clients.
pub async fn endpoints(settings: &Settings, parsed: &Parsed) -> Result<Vec<String>, Failure> {
    if !parsed.is_set(&ALL_OF_CLUSTER) {
        return Ok(settings.endpoints.clone());
    }
    let client = client_of(settings, &settings.endpoints).await?;
    let members = client.cluster().members().await.map_err(|error| {
        let text = error_text(&error);
        Failure::new(EXIT_ERROR, format!("failed to fetch endpoints from etcd cluster member list: {text}"))
    })?;
    Ok(members.members.into_iter().flat_map(|member| member.client_urls).collect())
}

/// A client of nobody but the member at an endpoint, logged in.
pub async fn client_at(settings: &Settings, endpoint: &str) -> Result<Client, Failure> {
    client_of(settings, &[endpoint.to_owned()]).await
}

async fn client_of(settings: &Settings, endpoints: &[String]) -> Result<Client, Failure> {
    let client = Client::lazy(settings.config_at(endpoints)?);
    let client = client.map_err(|error| session::failure(EXIT_BAD_ARGUMENTS, &error))?;
    if settings.logs_in() {
        session::log_in(&client, settings.dial_timeout).await?;
    }
    Ok(client)
}

fn health(parsed: &Parsed) -> Result<(), Failure> {
    let settings = Settings::read(parsed)?;
    session::block_on(async {
        let endpoints = endpoints(&settings, parsed).await?;
        let found = join_all(endpoints.into_iter().map(|endpoint| health_of(&settings, endpoint))).await;
        let is_unhealthy = found.iter().any(|health| !health.error.is_empty());
        settings.printer.print(&Healths(found))?;
        if is_unhealthy {
            return Err(Failure::new(EXIT_ERROR, "unhealthy cluster"));
        }
        Ok(())
    })
}

async fn health_of(settings: &Settings, endpoint: String) -> Health {
    let client = match client_at(settings, &endpoint).await {
        Ok(client) => client,
        Err(failure) => {
            let error = failure.message.lines().next().unwrap_or_default().to_owned();
            return Health { endpoint, is_healthy: false, took: String::new(), error };
        }
    };
    let began = Instant::now();
    // Any key: what counts is that a quorum stood behind the answer. Who may not read it was told so by one.
    let answer = client.get("health").await;
    let took = golang::duration_text(began.elapsed());
    let error = match answer {
        Err(error) if !error.is(EtcdError::PermissionDenied) => error_text(&error),
        _ => match client.maintenance().alarms().await {
            Err(_) => "Unable to fetch the alarm list".to_owned(),
            Ok(alarms) if alarms.alarms.is_empty() => String::new(),
            Ok(alarms) => {
                let names = alarms.alarms.iter().map(|alarm| match alarm.alarm() {
                    AlarmType::Nospace => "NOSPACE ",
                    AlarmType::Corrupt => "CORRUPT ",
                    AlarmType::None => "UNKNOWN ",
                });
                format!("Active Alarm(s): {}", names.collect::<String>())
            }
        },
    };
    Health { endpoint, is_healthy: error.is_empty(), took, error }
}

/// One member's health.
struct Health {
    endpoint: String,
    is_healthy: bool,
    /// Go's text of a duration; empty if there was no asking.
    took: String,
    /// Empty if it is healthy.
    error: String,
}

struct Healths(Vec<Health>);

impl Answer for Healths {
    fn simple(&self, _: Style, text: &mut Text) {
        for Health { endpoint, took, error, .. } in &self.0 {
            if error.is_empty() {
                text.line(format!("{endpoint} is healthy: successfully committed proposal: took = {took}"));
            } else {
                eprintln!("{endpoint} is unhealthy: failed to commit proposal: {error}");
            }
        }
    }

    fn fields(&self, _: Style) -> Option<Text> {
        let mut text = Text::default();
        for health in &self.0 {
            text.quoted_field("Endpoint", health.endpoint.as_bytes());
            text.field("Health", health.is_healthy);
            text.field("Took", &health.took);
            text.field("Error", &health.error);
            text.line("");
        }
        Some(text)
    }

    fn json(&self, _: Style) -> Option<String> {
        let one = |health: &Health| {
            let object = json::Object::new()
                .always_text("endpoint", &health.endpoint)
                .always_truth("health", health.is_healthy)
                .always_text("took", &health.took)
                .text("error", &health.error);
            object.finish()
        };
        Some(list_or_null(self.0.iter().map(one)))
    }

    fn table(&self, _: Style) -> Option<String> {
        let row = |health: &Health| {
            vec![health.endpoint.clone(), health.is_healthy.to_string(), health.took.clone(), health.error.clone()]
        };
        let rows: Vec<_> = self.0.iter().map(row).collect();
        Some(print::table(&["endpoint", "health", "took", "error"], &rows))
    }
}

/// Go shows a list that nothing was added to as `null`.
fn list_or_null(items: impl Iterator<Item = String>) -> String {
    let list = json::list(items);
    if list == "[]" { "null".to_owned() } else { list }
}

/// Asks each member in turn; those that fail are named on standard error. The last error, if any, comes with the answers.
async fn ask_each<T>(
    settings: &Settings,
    parsed: &Parsed,
    what: &str,
    ask: impl AsyncFn(Client) -> Result<T, Error>,
) -> Result<(Vec<(String, T)>, Option<Error>), Failure> {
    let (mut answers, mut failed) = (Vec::new(), None);
    for endpoint in endpoints(settings, parsed).await? {
        let client = client_at(settings, &endpoint).await?;
        match ask(client).await {
            Ok(answer) => answers.push((endpoint, answer)),
            Err(error) => {
                eprintln!("Failed to get the {what} of endpoint {endpoint} ({})", error_text(&error));
                failed = Some(error);
            }
        }
    }
    Ok((answers, failed))
}

fn status(parsed: &Parsed) -> Result<(), Failure> {
    let settings = Settings::read(parsed)?;
    session::block_on(async {
        let ask = async |client: Client| client.maintenance().status().await;
        let (answers, failed) = ask_each(&settings, parsed, "status", ask).await?;
        settings.printer.print(&Statuses(answers))?;
        failed.map_or(Ok(()), |_| Err(Failure::silent(EXIT_ERROR)))
    })
}

struct Statuses(Vec<(String, StatusResponse)>);

const STATUS_HEAD: [&str; 16] = [
    "endpoint",
    "ID",
    "version",
    "storage version",
    "db size",
    "in use",
    "percentage not in use",
    "quota",
    "is leader",
    "is learner",
    "raft term",
    "raft index",
    "raft applied index",
    "errors",
    "downgrade target version",
    "downgrade enabled",
];

fn status_row((endpoint, status): &(String, StatusResponse)) -> Vec<String> {
    let member = status.header.unwrap_or_default().member_id;
    let downgrade = status.downgrade_info.clone().unwrap_or_default();
    let size = |bytes: i64| print::size(u64::try_from(bytes).unwrap_or(0));
    // A member that tells no size has no part that is not in use; etcdctl divides by zero.
    let used_percent = (status.db_size_in_use * 100).checked_div(status.db_size).unwrap_or(100);
    vec![
        endpoint.clone(),
        format!("{member:x}"),
        status.version.clone(),
        status.storage_version.clone(),
        size(status.db_size),
        size(status.db_size_in_use),
        format!("{}%", 100 - used_percent),
        size(status.db_size_quota),
        (status.leader == member).to_string(),
        status.is_learner.to_string(),
        status.raft_term.to_string(),
        status.raft_index.to_string(),
        status.raft_applied_index.to_string(),
        status.errors.join(", "),
        downgrade.target_version,
        downgrade.enabled.to_string(),
    ]
}

fn status_json(status: &StatusResponse) -> json::Object {
    let downgrade = status
        .downgrade_info
        .as_ref()
        .map(|info| json::Object::new().truth("enabled", info.enabled).text("targetVersion", &info.target_version));
    with_header(status.header.as_ref())
        .text("version", &status.version)
        .number("dbSize", status.db_size)
        .number("leader", status.leader)
        .number("raftIndex", status.raft_index)
        .number("raftTerm", status.raft_term)
        .number("raftAppliedIndex", status.raft_applied_index)
        .list("errors", status.errors.iter().map(|error| json::text(error)))
        .number("dbSizeInUse", status.db_size_in_use)
        .truth("isLearner", status.is_learner)
        .text("storageVersion", &status.storage_version)
        .number("dbSizeQuota", status.db_size_quota)
        .object("downgradeInfo", downgrade)
}

impl Answer for Statuses {
    fn simple(&self, _: Style, text: &mut Text) {
        self.0.iter().for_each(|status| text.line(status_row(status).join(", ")));
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        for (endpoint, status) in &self.0 {
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            text.header_fields(status.header.as_ref(), style);
            text.quoted_field("Version", status.version.as_bytes());
            text.quoted_field("StorageVersion", status.storage_version.as_bytes());
            text.field("DBSize", status.db_size);
            text.field("DBSizeInUse", status.db_size_in_use);
            text.field("DBSizeQuota", status.db_size_quota);
            text.field("Leader", status.leader);
            text.field("IsLearner", status.is_learner);
            text.field("RaftIndex", status.raft_index);
            text.field("RaftTerm", status.raft_term);
            text.field("RaftAppliedIndex", status.raft_applied_index);
            text.field("Errors", format_args!("[{}]", status.errors.join(" ")));
            text.quoted_field("Endpoint", endpoint.as_bytes());
            text.quoted_field("DowngradeTargetVersion", downgrade.target_version.as_bytes());
            text.field("DowngradeEnabled", downgrade.enabled);
            text.line("");
        }
        Some(text)
    }

    fn json(&self, _: Style) -> Option<String> {
        Some(list_or_null(self.0.iter().map(|(endpoint, status)| {
            json::Object::new().always_text("Endpoint", endpoint).object("Status", Some(status_json(status))).finish()
        })))
    }

    fn table(&self, _: Style) -> Option<String> {
        Some(print::table(&STATUS_HEAD, &self.0.iter().map(status_row).collect::<Vec<_>>()))
    }
}

fn hash_kv(parsed: &Parsed) -> Result<(), Failure> {
    let settings = Settings::read(parsed)?;
    let revision = parsed.number(&REV);
    session::block_on(async {
        let ask = async |client: Client| client.maintenance().hash_kv(revision).await;
        let (answers, failed) = ask_each(&settings, parsed, "hash", ask).await?;
        settings.printer.print(&Hashes(answers))?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    })
}

struct Hashes(Vec<(String, HashKvResponse)>);

fn hash_row((endpoint, hash): &(String, HashKvResponse)) -> Vec<String> {
    vec![endpoint.clone(), hash.hash.to_string(), hash.hash_revision.to_string()]
}

impl Answer for Hashes {
    fn simple(&self, _: Style, text: &mut Text) {
        self.0.iter().for_each(|hash| text.line(hash_row(hash).join(", ")));
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = output::Text::default();
        for (endpoint, hash) in &self.0 {
            text.header_fields(hash.header.as_ref(), style);
            text.quoted_field("Endpoint", endpoint.as_bytes());
            text.field("Hash", hash.hash);
            text.field("HashRevision", hash.hash_revision);
            text.line("");
        }
        Some(text)
    }

    fn json(&self, _: Style) -> Option<String> {
        Some(list_or_null(self.0.iter().map(|(endpoint, hash)| {
            let object = json::Object::new()
                .object("header", hash.header.as_ref().map(header_json))
                .number("hash", hash.hash)
                .number("compact_revision", hash.compact_revision)
                .number("hash_revision", hash.hash_revision);
            json::Object::new().always_text("Endpoint", endpoint).object("HashKV", Some(object)).finish()
        })))
    }

    fn table(&self, _: Style) -> Option<String> {
        let rows: Vec<_> = self.0.iter().map(hash_row).collect();
        Some(print::table(&["endpoint", "hash", "hash_revision"], &rows))
    }
}
