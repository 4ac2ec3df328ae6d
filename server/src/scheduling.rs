//! How the system's scheduler treats our threads. It changes nothing but the calling thread, and nothing depends on it.

/// The shortest that the scheduler takes.
#[cfg(target_os = "linux")]
const SLICE_NANOSECONDS: u64 = 100_000;

/// Asks to run soon after a wake-up, for threads that answer somebody: on Linux (from 6.12) one that asks for short slices
/// comes before those in the middle of a long one, such as a commit of the backend or a step of a compaction, and gets no
/// larger share by it. Older systems ignore it.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn prefer_short_slices() {
    let Ok(nice) = rustix::process::getpriority_process(None) else { return };
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: 0,
        sched_flags: libc::SCHED_FLAG_KEEP_POLICY as u64,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE_NANOSECONDS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the structure is as long as it says and the system only reads it. A refusal leaves things as they were.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

#[cfg(not(target_os = "linux"))]
pub fn prefer_short_slices() {}

/// How far below the others. At the lowest (19) it would get a sixtieth of what another program's thread gets, and stand
/// still for seconds where they fill the machine; at this it gets a tenth.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Lets other threads come first, for work that may wait: the calling thread gets a low priority.
#[cfg(target_os = "linux")]
pub fn prefer_others() {
    // On Linux this is of the calling thread alone.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(error = %error, "a thread keeps its priority");
    }
}

#[cfg(not(target_os = "linux"))]
pub fn prefer_others() {}
