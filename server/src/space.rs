//! The NOSPACE alarm of this member: when it is taken back, and which keys use the space.
//!
//! Only this member's own alarm is ever taken back here, never another's and never CORRUPT. What raised it is not this
//! module: a request over quota does, where it comes in or is applied.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kvorum_api::etcdserverpb::alarm_request::AlarmAction;
use kvorum_api::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, InternalRaftRequest};
use kvorum_store::SpaceUse;
use parking_lot::Mutex;

use crate::core::Core;

/// How often it is looked whether there is space again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The alarm is taken back below this part of the quota; what lies between keeps it from coming and going.
const LIFT_BELOW_PERCENT: u64 = 90;

/// An alarm that was asked for is raised within this time, or not at all.
const RAISING_MILLISECONDS_MAX: u64 = 30_000;

/// While the alarm is raised, the largest prefixes are looked for once in so many looks.
const LOOKS_PER_SAMPLE: u32 = 60;

/// Characters of a prefix that are shown.
const PREFIX_CHARACTERS_MAX: usize = 80;

/// What this member knows of its own alarm.
#[derive(Default)]
pub struct Space {
    /// Whether this member asked for it, in this life or an earlier one. One that an operator activated by hand stays.
    is_asked: AtomicBool,
    /// Whether clients are served; alarms that come out of the log before are from an earlier life.
    is_begun: AtomicBool,
    asked_milliseconds: AtomicU64,
    /// The largest request that was refused: there must be room for it.
    refused_bytes: AtomicU64,
    largest: Mutex<Option<String>>,
}

impl Space {
    /// For a member that opened these alarms.
    pub fn of(opened: &[AlarmMember], member_id: u64) -> Self {
        let space = Self::default();
        if opened.contains(&own_alarm(member_id)) {
            space.note_asked(0);
        }
        space
    }

    /// From now on clients can activate alarms by hand.
    pub fn begin(&self) {
        self.is_begun.store(true, Ordering::Release);
    }

    /// An alarm of this member's was raised.
    pub fn note_raised(&self, alarm: &AlarmMember, member_id: u64, now: u64) {
        if !self.is_begun.load(Ordering::Acquire) && *alarm == own_alarm(member_id) {
            self.note_asked(now);
        }
    }

    pub fn note_asked(&self, now: u64) {
        self.asked_milliseconds.store(now, Ordering::Relaxed);
        self.is_asked.store(true, Ordering::Release);
    }

    pub fn note_refused(&self, cost: u64) {
        self.refused_bytes.fetch_max(cost, Ordering::Relaxed);
    }

    /// The prefixes of keys that use most, while this member is short of space.
    pub fn largest_prefixes(&self) -> Option<String> {
        self.largest.lock().clone()
    }

    fn forget(&self) {
        self.is_asked.store(false, Ordering::Release);
        self.refused_bytes.store(0, Ordering::Relaxed);
    }
}

/// A change of this member's NOSPACE alarm.
pub fn alarm_request(core: &Core, action: AlarmAction) -> InternalRaftRequest {
    let AlarmMember { member_id, alarm } = own_alarm(core.config.member_id);
    let alarm = AlarmRequest { action: action as i32, member_id, alarm };
    InternalRaftRequest { alarm: Some(alarm), ..InternalRaftRequest::default() }
}

fn own_alarm(member_id: u64) -> AlarmMember {
    AlarmMember { member_id, alarm: AlarmType::Nospace as i32 }
}

/// Looks from time to time, for ever.
pub async fn keep(core: &Arc<Core>) {
    let mut looks = 0;
    loop {
        look(core, looks).await;
        looks = looks.wrapping_add(1);
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

async fn look(core: &Arc<Core>, looks: u32) {
    let space = &core.space;
    if !core.reader.alarms().contains(&own_alarm(core.config.member_id)) {
        let asked = space.asked_milliseconds.load(Ordering::Relaxed);
        if space.is_asked.load(Ordering::Acquire) && core.now() > asked + RAISING_MILLISECONDS_MAX {
            space.forget();
        }
        *space.largest.lock() = None;
        return;
    }
    if !space.is_asked.load(Ordering::Acquire) {
        return;
    }
    let refused = space.refused_bytes.load(Ordering::Relaxed);
    if is_roomy(core.backend_in_use_bytes(), refused, core.config.quota_bytes) {
        tracing::info!(
            current_db_size_in_use_bytes = core.backend_in_use_bytes(),
            quota_size_bytes = core.config.quota_bytes.unwrap_or(0),
            "there is space again; taking back this member's NOSPACE alarm"
        );
        match core.propose(alarm_request(core, AlarmAction::Deactivate)).await {
            Ok(_) => {
                space.forget();
                *space.largest.lock() = None;
            }
            Err(error) => tracing::warn!(error = %error, "failed to take back the NOSPACE alarm"),
        }
        return;
    }
    let is_first = space.largest.lock().is_none();
    if is_first || looks.is_multiple_of(LOOKS_PER_SAMPLE) {
        find_largest(core, is_first).await;
    }
}

/// Whether use has fallen far enough that the request which was refused would not raise the alarm again at once.
fn is_roomy(in_use_bytes: u64, refused_bytes: u64, quota_bytes: Option<u64>) -> bool {
    quota_bytes.is_none_or(|quota| {
        let limit = u128::from(quota) * u128::from(LIFT_BELOW_PERCENT) / 100;
        u128::from(in_use_bytes) + u128::from(refused_bytes) < limit
    })
}

/// Samples the history on a thread that may wait for the disk.
async fn find_largest(core: &Arc<Core>, is_told: bool) {
    let reader = core.reader.clone();
    let text = match tokio::task::spawn_blocking(move || reader.space_use()).await {
        Ok(Ok(used)) => describe(&used),
        Ok(Err(error)) => return tracing::warn!(error = %error, "failed to look for what uses the space"),
        // Only at a stop.
        Err(_) => return,
    };
    if is_told {
        tracing::warn!(
            current_db_size_in_use_bytes = core.backend_in_use_bytes(),
            quota_size_bytes = core.config.quota_bytes.unwrap_or(0),
            largest_prefixes = text,
            "database space exceeded: these prefixes of keys use most, history included"
        );
    }
    *core.space.largest.lock() = Some(text);
}

/// `"/registry/events/" 61%, ...`
fn describe(used: &SpaceUse) -> String {
    let mut text = String::new();
    for part in &used.largest {
        let percent = part.bytes.saturating_mul(100) / used.total_bytes.max(1);
        let prefix: String = String::from_utf8_lossy(&part.prefix).chars().take(PREFIX_CHARACTERS_MAX).collect();
        let separator = if text.is_empty() { "" } else { ", " };
        write!(text, "{separator}{prefix:?} {percent}%").expect("text takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_store::PrefixUse;

    #[test]
    fn the_alarm_goes_below_nine_tenths_and_with_room_for_what_was_refused() {
        for (in_use, refused, quota, expected) in [
            (89, 0, Some(100), true),
            (90, 0, Some(100), false),
            (60, 40, Some(100), false),
            (49, 40, Some(100), true),
            (u64::MAX, u64::MAX, Some(u64::MAX), false),
            (u64::MAX, 1, None, true),
        ] {
            assert_eq!(is_roomy(in_use, refused, quota), expected, "{in_use} {refused} {quota:?}");
        }
    }

    #[test]
    fn an_alarm_from_before_clients_are_served_is_the_members_own() {
        let is_asked = |space: &Space| space.is_asked.load(Ordering::Acquire);
        let (own, foreign) = (own_alarm(1), own_alarm(2));
        let corrupt = AlarmMember { alarm: AlarmType::Corrupt as i32, ..own };
        assert!(is_asked(&Space::of(&[foreign, own], 1)), "it was in the database");
        let space = Space::of(&[foreign, corrupt], 1);
        for alarm in [foreign, corrupt] {
            space.note_raised(&alarm, 1, 5);
        }
        assert!(!is_asked(&space));
        space.note_raised(&own, 1, 5);
        assert!(is_asked(&space), "it came out of the log");
        let space = Space::of(&[], 1);
        space.begin();
        space.note_raised(&own, 1, 5);
        assert!(!is_asked(&space), "an operator activated it");
    }

    #[test]
    fn prefixes_are_shown_as_text_of_bounded_length() {
        let part = |prefix: &[u8], bytes| PrefixUse { prefix: prefix.into(), bytes };
        let largest = vec![part(b"/a/\n", 60), part(&[b'x'; 300], 30)];
        let expected = format!("\"/a/\\n\" 60%, \"{}\" 30%", "x".repeat(80));
        assert_eq!(describe(&SpaceUse { total_bytes: 100, largest }), expected);
    }
}
