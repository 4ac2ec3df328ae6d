//! What the operating system knows about this process, under the names of Prometheus' own collectors. Read when the
//! page is asked for. What cannot be read is left out.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::instruments::Page;

pub(super) fn render(page: &mut Page) {
    let mut gauge = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            page.family(name, "gauge", help);
            page.sample(name, "", value);
        }
    };
    let used = open_files();
    let limit = getrlimit(Resource::Nofile).current.map(|limit| limit as f64);
    gauge("os_fd_limit", "Most files the process may have open.", limit);
    gauge("os_fd_used", "Files the process has open.", used);
    gauge("process_max_fds", "Most files the process may have open.", limit);
    gauge("process_open_fds", "Files the process has open.", used);
    let Some(status) = Status::read() else { return };
    gauge("process_resident_memory_bytes", "Memory in use, in bytes.", Some(status.resident_bytes));
    gauge("process_start_time_seconds", "Start of the process, as Unix time.", status.start_seconds);
    gauge("process_virtual_memory_bytes", "Address space in use, in bytes.", Some(status.virtual_bytes));
    page.family("process_cpu_seconds_total", "counter", "Processor time used, in seconds.");
    page.sample("process_cpu_seconds_total", "", status.cpu_seconds);
}

struct Status {
    cpu_seconds: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
    start_seconds: Option<f64>,
}

impl Status {
    /// From `/proc/self/stat`, whose fields are counted after the name in parentheses, which may hold blanks.
    fn read() -> Option<Status> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        let (_, after_name) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // proc(5) counts from 1 and has two fields up to the name.
        let number = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        Some(Status {
            cpu_seconds: (number(14)? + number(15)?) / ticks_per_second,
            virtual_bytes: number(23)?,
            resident_bytes: number(24)? * rustix::param::page_size() as f64,
            start_seconds: boot_seconds().zip(number(22)).map(|(boot, ticks)| boot + ticks / ticks_per_second),
        })
    }
}

fn boot_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn open_files() -> Option<f64> {
    // One of them is the folder being read.
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(count.saturating_sub(1) as f64)
}
