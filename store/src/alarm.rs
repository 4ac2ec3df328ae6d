//! Which alarms are raised, and what they forbid at apply (etcd's capped and corrupt appliers).

use std::collections::BTreeSet;

use kvorum_api::EtcdError;
use kvorum_api::etcdserverpb::{AlarmMember, AlarmType};

/// All raised alarms, ordered by kind and member. (etcd lists them in no particular order.)
#[derive(Clone, Debug, Default)]
pub(crate) struct Alarms {
    raised: BTreeSet<(i32, u64)>,
}

impl Alarms {
    /// False if it was raised before.
    pub(crate) fn raise(&mut self, alarm: AlarmMember) -> bool {
        self.raised.insert((alarm.alarm, alarm.member_id))
    }

    /// False if it was not raised.
    pub(crate) fn lift(&mut self, alarm: AlarmMember) -> bool {
        self.raised.remove(&(alarm.alarm, alarm.member_id))
    }

    /// The alarms of one kind; [`AlarmType::None`] stands for all.
    pub(crate) fn list(&self, kind: i32) -> Vec<AlarmMember> {
        let wanted = |alarm: &&(i32, u64)| kind == AlarmType::None as i32 || alarm.0 == kind;
        self.raised.iter().filter(wanted).map(|&(alarm, member_id)| AlarmMember { member_id, alarm }).collect()
    }

    pub(crate) fn is_raised(&self, kind: AlarmType) -> bool {
        self.raised.range((kind as i32, 0)..=(kind as i32, u64::MAX)).next().is_some()
    }

    /// The error of every request that changes keys or leases, or compacts, while the cluster is corrupt.
    pub(crate) fn check_corrupt(&self) -> Result<(), EtcdError> {
        if self.is_raised(AlarmType::Corrupt) { Err(EtcdError::Corrupt) } else { Ok(()) }
    }

    /// The error of a request that would store `cost` further bytes while space is short.
    pub(crate) fn check_space(&self, cost: u64) -> Result<(), EtcdError> {
        if cost > 0 && self.is_raised(AlarmType::Nospace) { Err(EtcdError::NoSpace) } else { Ok(()) }
    }
}
