//! The membership in the form of etcd's former v2 store. A member of release 3.6 reads it from the data of `.snap` files
//! and of received snapshots before it looks at its own buckets, and does not start without it; 3.7 writes it for that
//! reason alone and reads it nowhere.
//!
//! The bytes are what etcd gets when it writes the members into an empty v2 store and saves that: a tree of nodes, the
//! history of those writes in a ring of 1000, and counters. etcd takes members in no order; here they come sorted by id.

use serde::Serialize;

use crate::member::{Member, Membership};

/// Room in the history of a v2 store.
const HISTORY_EVENTS_MAX: usize = 1000;

/// The version of the v2 store's own format.
const FORMAT_VERSION: u32 = 2;

/// The membership for the `data` of a snapshot, as JSON.
pub fn membership_v2_json(membership: &Membership) -> Vec<u8> {
    let members: Vec<&Member> = membership.members.values().collect();
    let removed: Vec<u64> = membership.removed.iter().copied().collect();
    write(&members, &removed, membership.cluster_version.as_deref())
}

fn write(members: &[&Member], removed: &[u64], cluster_version: Option<&str>) -> Vec<u8> {
    let mut store = Store::default();
    let mut member_nodes = Node::directory("/0/members", 1);
    for member in members {
        let path = format!("/0/members/{:x}", member.id);
        let raft = RaftAttributes {
            peer_urls: (!member.peer_urls.is_empty()).then_some(&member.peer_urls),
            is_learner: member.is_learner,
        };
        let mut node = Node::directory(&path, store.index + 1);
        node.add(store.write("create", format!("{path}/raftAttributes"), go_json(&raft)));
        if !member.client_urls.is_empty() {
            let attributes = Attributes { name: &member.name, client_urls: &member.client_urls };
            node.add(store.write("set", format!("{path}/attributes"), go_json(&attributes)));
        }
        member_nodes.add(node);
    }
    let mut cluster = Node::directory("/0", 0);
    if !members.is_empty() {
        cluster.add(member_nodes);
    }
    if !removed.is_empty() {
        let mut nodes = Node::directory("/0/removed_members", store.index + 1);
        for id in removed {
            nodes.add(store.write("create", format!("/0/removed_members/{id:x}"), String::new()));
        }
        cluster.add(nodes);
    }
    if let Some(version) = cluster_version {
        cluster.add(store.write("set", "/0/version".to_owned(), version.to_owned()));
    }
    let mut root = Node::directory("/", 0);
    root.add(cluster);
    root.add(Node::directory("/1", 0));
    store.save(root)
}

/// The store while it is written to.
#[derive(Default)]
struct Store {
    index: u64,
    events: Vec<Event>,
    created: u64,
    set: u64,
}

impl Store {
    fn write(&mut self, action: &'static str, path: String, value: String) -> Node {
        self.index += 1;
        *(if action == "set" { &mut self.set } else { &mut self.created }) += 1;
        let node = EventNode {
            key: path.clone(),
            value: value.clone(),
            modified_index: self.index,
            created_index: self.index,
        };
        self.events.push(Event { action, node });
        Node { children: None, value, ..Node::directory(&path, self.index) }
    }

    fn save(self, root: Node) -> Vec<u8> {
        let written = self.events.len();
        let size = written.min(HISTORY_EVENTS_MAX);
        let front = if written > HISTORY_EVENTS_MAX { written % HISTORY_EVENTS_MAX } else { 0 };
        let start_index = if written == 0 { 0 } else { self.index + 1 - size as u64 };
        let mut slots: Vec<Option<Event>> = (0..HISTORY_EVENTS_MAX).map(|_| None).collect();
        for (number, event) in self.events.into_iter().enumerate() {
            slots[number % HISTORY_EVENTS_MAX] = Some(event);
        }
        let queue =
            Queue { events: slots, size, front, back: written % HISTORY_EVENTS_MAX, capacity: HISTORY_EVENTS_MAX };
        let event_history = EventHistory { queue, start_index, last_index: self.index };
        let saved = Saved {
            root,
            watcher_hub: WatcherHub { event_history },
            current_index: self.index,
            // etcd looks once whether there are members already.
            stats: Stats { gets_fail: 1, sets_success: self.set, create_success: self.created, ..Stats::default() },
            current_version: FORMAT_VERSION,
        };
        go_json(&saved).into_bytes()
    }
}

/// JSON as Go's encoder writes it.
fn go_json(value: &impl Serialize) -> String {
    super::go_json_escapes(serde_json::to_string(value).expect("plain fields always serialize"))
}

#[derive(Serialize)]
struct RaftAttributes<'a> {
    #[serde(rename = "peerURLs")]
    peer_urls: Option<&'a Vec<String>>,
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
}

#[derive(Serialize)]
struct Attributes<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs")]
    client_urls: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    root: Node,
    watcher_hub: WatcherHub,
    current_index: u64,
    stats: Stats,
    current_version: u32,
}

/// A directory has children, a value has none.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    path: String,
    created_index: u64,
    modified_index: u64,
    /// Go's zero time: it never expires.
    expire_time: &'static str,
    value: String,
    children: Option<std::collections::BTreeMap<String, Node>>,
}

impl Node {
    fn directory(path: &str, index: u64) -> Self {
        Self {
            path: path.to_owned(),
            created_index: index,
            modified_index: index,
            expire_time: "0001-01-01T00:00:00Z",
            value: String::new(),
            children: Some(std::collections::BTreeMap::new()),
        }
    }

    fn add(&mut self, node: Node) {
        let name = node.path.rsplit('/').next().unwrap_or_default().to_owned();
        self.children.get_or_insert_default().insert(name, node);
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WatcherHub {
    event_history: EventHistory,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EventHistory {
    queue: Queue,
    start_index: u64,
    last_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Queue {
    events: Vec<Option<Event>>,
    size: usize,
    front: usize,
    back: usize,
    capacity: usize,
}

#[derive(Serialize)]
struct Event {
    action: &'static str,
    node: EventNode,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventNode {
    key: String,
    value: String,
    modified_index: u64,
    created_index: u64,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    gets_success: u64,
    gets_fail: u64,
    sets_success: u64,
    sets_fail: u64,
    delete_success: u64,
    delete_fail: u64,
    update_success: u64,
    update_fail: u64,
    create_success: u64,
    create_fail: u64,
    compare_and_swap_success: u64,
    compare_and_swap_fail: u64,
    compare_and_delete_success: u64,
    compare_and_delete_fail: u64,
    expire_count: u64,
    watchers: u64,
}

#[cfg(test)]
mod tests;
