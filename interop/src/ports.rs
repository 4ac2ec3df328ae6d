//! Ports for members that others must know before they listen. Nothing else may take one meanwhile, nor while its member is
//! down: so they lie below those that the system gives to outgoing connections, and rounds that run at the same time, here
//! or in another process, do not meet.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};

const PORT_MIN: usize = 10_000;

/// How far apart the first ports of processes with neighbouring ids are.
const PORTS_PER_PROCESS: usize = 311;

/// A port of 127.0.0.1 that nobody listens on, and that this process gives out once.
pub fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ephemeral = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768);
    let begin = std::process::id() as usize * PORTS_PER_PROCESS;
    loop {
        let number = begin + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (PORT_MIN + number % (ephemeral - PORT_MIN)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
