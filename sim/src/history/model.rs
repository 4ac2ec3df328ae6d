//! What a correct store answers: keys with their revisions, transactions over several keys, leases. It is written apart
//! from the store it judges, keeps every key in one ordered map, and has no notion of time: a lease ends when somebody
//! says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;

use super::Refusal;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
}

/// Keys as etcd's requests name them: an empty `range_end` is the key alone, a zero byte means all keys from `key` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    pub key: Bytes,
    pub range_end: Bytes,
}

impl Interval {
    pub fn one(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), range_end: Bytes::new() }
    }

    pub fn all() -> Self {
        Self { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0") }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.range_end[..] {
            [] => key == self.key,
            [0] => key >= &self.key[..],
            end => key >= &self.key[..] && key < end,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Equal,
    NotEqual,
    Greater,
    Less,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Value(Bytes),
    Version(i64),
    CreateRevision(i64),
    ModRevision(i64),
}

/// A condition of a transaction on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub key: Bytes,
    pub relation: Relation,
    pub target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Put {
        key: Bytes,
        value: Bytes,
        lease: i64,
    },
    Delete(Interval),
    /// Linearizable unless `serializable`; `revision` 0 is the current one.
    Range {
        interval: Interval,
        revision: i64,
        serializable: bool,
    },
    Txn {
        compares: Vec<Compare>,
        success: Vec<Request>,
        failure: Vec<Request>,
    },
    LeaseGrant {
        id: i64,
        ttl_seconds: i64,
    },
    LeaseRevoke {
        id: i64,
    },
    LeaseKeepAlive {
        id: i64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Put,
    Delete { deleted: i64 },
    Range { kvs: Vec<KeyValue> },
    Txn { succeeded: bool, replies: Vec<Reply> },
    LeaseGrant { ttl_seconds: i64 },
    LeaseRevoke,
    LeaseKeepAlive { ttl_seconds: i64 },
}

impl Reply {
    /// Whether the reply says that something was written, so that a revision was taken. `None`: it does not tell.
    pub fn took_revision(&self) -> Option<bool> {
        match self {
            Self::Put => Some(true),
            Self::Delete { deleted } => Some(*deleted > 0),
            Self::Range { .. } | Self::LeaseGrant { .. } | Self::LeaseKeepAlive { .. } => Some(false),
            Self::Txn { replies, .. } => Some(replies.iter().any(|reply| reply.took_revision() == Some(true))),
            Self::LeaseRevoke => None,
        }
    }
}

/// One change of one key, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Put(KeyValue),
    Delete { key: Bytes, mod_revision: i64 },
}

impl Event {
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    pub fn mod_revision(&self) -> i64 {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(kv) => write!(formatter, "put {:?}={:?}@{}", kv.key, kv.value, kv.mod_revision),
            Self::Delete { key, mod_revision } => write!(formatter, "delete {key:?}@{mod_revision}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStep {
    Granted(i64),
    Ended(i64),
}

/// What a request would do to the model, and answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub answer: Result<Reply, Refusal>,
    pub events: Vec<Event>,
    pub lease: Option<LeaseStep>,
}

impl Plan {
    fn reading(reply: Reply) -> Self {
        Self { answer: Ok(reply), events: Vec::new(), lease: None }
    }

    fn refused(refusal: Refusal) -> Self {
        Self { answer: Err(refusal), events: Vec::new(), lease: None }
    }
}

/// The store as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Model {
    pub revision: i64,
    keys: BTreeMap<Bytes, KeyValue>,
    leases: BTreeMap<i64, BTreeSet<Bytes>>,
}

impl Default for Model {
    /// etcd's first revision is 1.
    fn default() -> Self {
        Self { revision: 1, keys: BTreeMap::new(), leases: BTreeMap::new() }
    }
}

impl Model {
    /// What the request would do now. Keep-alives are no part of the model: they are answered from the leader's timers.
    pub fn plan(&self, request: &Request) -> Plan {
        match request {
            Request::LeaseGrant { id, ttl_seconds } => match self.leases.contains_key(id) {
                true => Plan::refused(Refusal::LeaseExists),
                false => Plan {
                    answer: Ok(Reply::LeaseGrant { ttl_seconds: *ttl_seconds }),
                    events: Vec::new(),
                    lease: Some(LeaseStep::Granted(*id)),
                },
            },
            Request::LeaseRevoke { id } => match self.end_lease(*id) {
                Some(plan) => plan,
                None => Plan::refused(Refusal::LeaseNotFound),
            },
            Request::LeaseKeepAlive { .. } => Plan::reading(Reply::LeaseKeepAlive { ttl_seconds: 0 }),
            _ => {
                let mut session = Session { model: self, changes: Vec::new(), refusal: None };
                let reply = session.run(request);
                match session.refusal {
                    Some(refusal) => Plan::refused(refusal),
                    None => Plan { answer: Ok(reply), events: session.changes, lease: None },
                }
            }
        }
    }

    /// What the end of a lease would do; `None` if there is no such lease.
    pub fn end_lease(&self, id: i64) -> Option<Plan> {
        let keys = self.leases.get(&id)?;
        let mod_revision = self.revision + 1;
        let events = keys.iter().map(|key| Event::Delete { key: key.clone(), mod_revision }).collect();
        Some(Plan { answer: Ok(Reply::LeaseRevoke), events, lease: Some(LeaseStep::Ended(id)) })
    }

    /// Carries a plan out that was made just before.
    pub fn carry_out(&mut self, plan: &Plan) {
        for event in &plan.events {
            let previous = match event {
                Event::Put(kv) => self.keys.insert(kv.key.clone(), kv.clone()),
                Event::Delete { key, .. } => self.keys.remove(key),
            };
            if let Some(attached) = previous.and_then(|kv| self.leases.get_mut(&kv.lease)) {
                attached.remove(event.key());
            }
            if let Event::Put(kv) = event
                && let Some(attached) = self.leases.get_mut(&kv.lease)
            {
                attached.insert(kv.key.clone());
            }
        }
        match plan.lease {
            Some(LeaseStep::Granted(id)) => drop(self.leases.insert(id, BTreeSet::new())),
            Some(LeaseStep::Ended(id)) => drop(self.leases.remove(&id)),
            None => {}
        }
        if !plan.events.is_empty() {
            self.revision += 1;
        }
    }

    /// The keys of an interval, in order.
    pub fn range(&self, interval: &Interval) -> impl Iterator<Item = &KeyValue> {
        let bounds = (Bound::Included(interval.key.clone()), Bound::Unbounded);
        let interval = interval.clone();
        self.keys.range(bounds).map(|(_, kv)| kv).take_while(move |kv| interval.contains(&kv.key))
    }

    pub fn leases(&self) -> impl Iterator<Item = i64> {
        self.leases.keys().copied()
    }

    pub fn has_lease(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }
}

/// A request under way: what it changed so far is seen by its later parts.
struct Session<'m> {
    model: &'m Model,
    changes: Vec<Event>,
    refusal: Option<Refusal>,
}

impl Session<'_> {
    fn run(&mut self, request: &Request) -> Reply {
        match request {
            Request::Put { key, value, lease } => self.put(key, value, *lease),
            Request::Delete(interval) => self.delete(interval),
            Request::Range { interval, .. } => Reply::Range { kvs: self.range(interval) },
            Request::Txn { compares, success, failure } => {
                let succeeded = compares.iter().all(|compare| self.holds(compare));
                let branch = if succeeded { success } else { failure };
                Reply::Txn { succeeded, replies: branch.iter().map(|request| self.run(request)).collect() }
            }
            Request::LeaseGrant { .. } | Request::LeaseRevoke { .. } | Request::LeaseKeepAlive { .. } => {
                unreachable!("lease requests are no part of transactions")
            }
        }
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, lease: i64) -> Reply {
        if lease != 0 && !self.model.has_lease(lease) {
            self.refusal = Some(Refusal::LeaseNotFound);
        }
        let mod_revision = self.model.revision + 1;
        let (create_revision, version) = match self.find(key) {
            Some(kv) => (kv.create_revision, kv.version + 1),
            None => (mod_revision, 1),
        };
        self.changes.push(Event::Put(KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision,
            mod_revision,
            version,
            lease,
        }));
        Reply::Put
    }

    fn delete(&mut self, interval: &Interval) -> Reply {
        let keys: Vec<Bytes> = self.range(interval).into_iter().map(|kv| kv.key).collect();
        let mod_revision = self.model.revision + 1;
        let deleted = keys.len() as i64;
        self.changes.extend(keys.into_iter().map(|key| Event::Delete { key, mod_revision }));
        Reply::Delete { deleted }
    }

    fn find(&self, key: &Bytes) -> Option<KeyValue> {
        match self.changes.iter().rev().find(|event| event.key() == key) {
            Some(Event::Put(kv)) => Some(kv.clone()),
            Some(Event::Delete { .. }) => None,
            None => self.model.keys.get(key).cloned(),
        }
    }

    fn range(&self, interval: &Interval) -> Vec<KeyValue> {
        let stored = self.model.range(interval);
        if self.changes.is_empty() {
            return stored.cloned().collect();
        }
        let mut found: BTreeMap<Bytes, KeyValue> = stored.map(|kv| (kv.key.clone(), kv.clone())).collect();
        for event in self.changes.iter().filter(|event| interval.contains(event.key())) {
            match event {
                Event::Put(kv) => drop(found.insert(kv.key.clone(), kv.clone())),
                Event::Delete { key, .. } => drop(found.remove(key)),
            }
        }
        found.into_values().collect()
    }

    /// As in etcd: an absent key has revisions and version 0, and no comparison with its value holds.
    fn holds(&self, compare: &Compare) -> bool {
        let found = self.find(&compare.key);
        let number = |read: fn(&KeyValue) -> i64| found.as_ref().map_or(0, read);
        let order = match &compare.target {
            Target::Value(value) => match &found {
                Some(kv) => kv.value.cmp(value),
                None => return false,
            },
            Target::Version(version) => number(|kv| kv.version).cmp(version),
            Target::CreateRevision(revision) => number(|kv| kv.create_revision).cmp(revision),
            Target::ModRevision(revision) => number(|kv| kv.mod_revision).cmp(revision),
        };
        match compare.relation {
            Relation::Equal => order.is_eq(),
            Relation::NotEqual => order.is_ne(),
            Relation::Greater => order.is_gt(),
            Relation::Less => order.is_lt(),
        }
    }
}
