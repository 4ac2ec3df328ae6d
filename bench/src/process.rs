//! What the kernel says about a process, read from `/proc`. It never changes the process, except for resetting its peak
//! memory mark.

use std::fs;
use std::time::Duration;

/// CPU time, user and system, of the process and all its threads.
pub fn cpu_time(pid: u32) -> Result<Duration, String> {
    let ticks = parse_cpu_ticks(&read(pid, "stat")?)?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// CPU time of this process.
pub fn own_cpu_time() -> Result<Duration, String> {
    cpu_time(std::process::id())
}

/// CPU time that the whole machine has spent, idle time and waiting for disks aside.
pub fn machine_cpu_time() -> Result<Duration, String> {
    let ticks =
        parse_machine_ticks(&fs::read_to_string("/proc/stat").map_err(|error| format!("/proc/stat: {error}"))?)?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Processes that ran or waited for a processor, on the average of the last minute.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// Resident memory now and at its peak, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub resident_bytes: u64,
    pub peak_bytes: u64,
    /// The part of `resident_bytes` that is not backed by files: a memory-mapped database counts outside of it, since
    /// the kernel may drop its pages at any time.
    pub anonymous_bytes: u64,
}

pub fn memory(pid: u32) -> Result<Memory, String> {
    parse_memory(&read(pid, "status")?)
}

/// Makes the present resident memory the new peak.
pub fn reset_peak_memory(pid: u32) -> Result<(), String> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").map_err(|error| format!("{path}: {error}"))
}

/// Bytes that the process caused to be written to block devices, counted when a page is dirtied.
pub fn written_bytes(pid: u32) -> Result<u64, String> {
    parse_field(&read(pid, "io")?, "write_bytes")
}

/// Descriptors that the process has open.
pub fn descriptors(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/fd");
    fs::read_dir(&path).map(|entries| entries.count() as u64).map_err(|error| format!("{path}: {error}"))
}

fn read(pid: u32, file: &str) -> Result<String, String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
}

/// `utime` and `stime` are the 14th and 15th fields; the 2nd is the command in brackets and may hold blanks and
/// brackets itself, so counting starts after the last closing bracket.
fn parse_cpu_ticks(stat: &str) -> Result<u64, String> {
    let malformed = || format!("unexpected /proc stat line: {stat}");
    let (_, after_command) = stat.rsplit_once(')').ok_or_else(malformed)?;
    let mut fields = after_command.split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|field| field.parse::<u64>().ok()).ok_or_else(malformed);
    Ok(next()? + next()?)
}

/// The first line is `cpu user nice system idle iowait irq softirq steal ...`.
fn parse_machine_ticks(stat: &str) -> Result<u64, String> {
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).ok_or("unexpected /proc/stat")?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let &[user, nice, system, _idle, _waiting, ref rest @ ..] = fields.as_slice() else {
        return Err("unexpected /proc/stat".to_owned());
    };
    Ok(user + nice + system + rest.iter().take(3).sum::<u64>())
}

fn parse_memory(status: &str) -> Result<Memory, String> {
    let bytes = |name| parse_field(status, name).map(|kibibytes| kibibytes * 1024);
    Ok(Memory { resident_bytes: bytes("VmRSS")?, peak_bytes: bytes("VmHWM")?, anonymous_bytes: bytes("RssAnon")? })
}

/// The number after `name:`, without its unit.
fn parse_field(text: &str, name: &str) -> Result<u64, String> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| format!("no field {name} in /proc text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_of_a_command_with_brackets_and_blanks() {
        let stat =
            "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 700 77 0 0 20 0 9 0 1234 1000 200 18446744073709551615";
        assert_eq!(parse_cpu_ticks(stat), Ok(777));
        assert!(parse_cpu_ticks("42 (etcd) S 1").is_err());
        assert!(parse_cpu_ticks("").is_err());
    }

    #[test]
    fn memory_and_io_fields() {
        let status = "Name:\tetcd\nVmPeak:\t  999 kB\nVmHWM:\t  512 kB\nVmRSS:\t  256 kB\nRssAnon:\t  128 kB\n";
        let expected = Memory { resident_bytes: 256 << 10, peak_bytes: 512 << 10, anonymous_bytes: 128 << 10 };
        assert_eq!(parse_memory(status), Ok(expected));
        let io = "rchar: 1\nwchar: 2\nwrite_bytes: 4096\ncancelled_write_bytes: 8\n";
        assert_eq!(parse_field(io, "write_bytes"), Ok(4096));
        assert!(parse_field(io, "read_bytes").is_err());
    }

    #[test]
    fn machine_ticks_leave_idle_and_guest_time_out() {
        assert_eq!(parse_machine_ticks("cpu  1 2 4 1000 2000 8 16 32 5000 6000\ncpu0 1 2 3 4\n"), Ok(63));
        assert!(parse_machine_ticks("cpu  1 2\n").is_err());
    }

    #[test]
    fn this_process_can_be_read() {
        assert!(memory(std::process::id()).is_ok_and(|memory| memory.peak_bytes >= memory.anonymous_bytes));
        assert!(own_cpu_time().is_ok());
    }
}
